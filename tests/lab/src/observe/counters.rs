//! Causeway's own counters, as it prints them for an operator.

/// The last line that it prints.
pub const LAST: &str = "heap:";

/// One report.
#[derive(Clone, Debug)]
pub struct Counters(String);

impl Counters {
    /// The counters in a console's text.
    pub fn new(console: &str) -> Counters {
        Counters(console.replace('\r', ""))
    }

    /// What the first line that begins with `subject` says behind it.
    pub fn line(&self, subject: &str) -> Option<&str> {
        self.lines(subject).next()
    }

    /// What all of them say: one for each vCPU, where each has its own.
    pub fn lines(&self, subject: &str) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(subject)?.strip_prefix(": "))
    }

    /// The number behind the words `name` in the line that begins with `subject`.
    /// Counters that are left out while they are zero are `None`.
    pub fn get(&self, subject: &str, name: &str) -> Option<u64> {
        let line = self.line(subject)?;
        let behind = line.match_indices(name).find_map(|(at, _)| {
            let begins = at == 0 || line[..at].ends_with(' ');
            line[at + name.len()..].strip_prefix(' ').filter(|_| begins)
        })?;
        let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        behind[..digits].parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let counters = Counters::new(
            "vif3.0: tx 17 packets, refused 0, unreadable 0; rx 5 packets, too long 1, failed 2\r\n\
             lent pages: claimed 40, responded 38, out 2, holds 2, mapped 2, maps 31\r\n\
             to the wire: mapped 21 packets, copied cheaper 6; a page's map 61 ns\r\n",
        );
        assert_eq!(counters.get("vif3.0", "tx"), Some(17));
        assert_eq!(counters.get("vif3.0", "failed"), Some(2));
        assert_eq!(counters.get("lent pages", "mapped"), Some(2));
        assert_eq!(counters.get("lent pages", "maps"), Some(31));
        assert_eq!(counters.get("to the wire", "cheaper"), Some(6));
        assert_eq!(counters.get("to the wire", "a page's map"), Some(61));
        assert_eq!(counters.get("lent pages", "ma"), None);
        assert_eq!(counters.get("vif3.0", "led"), None);
        assert_eq!(counters.get("vif4.0", "tx"), None);
    }
}
