//! The words of the domain's `extra=`.

use core::str;

/// The longest command line that is looked at, in bytes.
pub const LONGEST: usize = 1024;

/// A command line. Words that mean something have the form `key=value`.
#[derive(Clone, Debug)]
pub struct CommandLine {
    bytes: [u8; LONGEST],
}

impl CommandLine {
    /// No words.
    pub const EMPTY: Self = Self { bytes: [0; LONGEST] };

    /// A string that ends with a zero byte; what does not end is empty.
    pub const fn new(bytes: [u8; LONGEST]) -> Self {
        Self { bytes }
    }

    /// The value of `key`, of the last where it is there twice.
    pub fn value(&self, key: &str) -> Option<&str> {
        let end = self.bytes.iter().position(|byte| *byte == 0)?;
        let text = str::from_utf8(&self.bytes[..end]).ok()?;
        let mut words = text.split_ascii_whitespace().rev();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> CommandLine {
        let mut bytes = [0; LONGEST];
        bytes[..text.len()].copy_from_slice(text);
        CommandLine::new(bytes)
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let line = line(b"/path/image uplink=one  other=x uplink=two uplinks=3 uplink\0uplink=4");
        assert_eq!(line.value("uplink"), Some("two"));
        assert_eq!(line.value("other"), Some("x"));
        assert_eq!(line.value("uplin"), None);
    }

    #[test]
    fn what_is_no_string_has_no_values() {
        assert_eq!(CommandLine::EMPTY.value("a"), None);
        assert_eq!(line(b"a=\xff b=1").value("b"), None);
        assert_eq!(CommandLine::new([b'a'; LONGEST]).value("a"), None);
    }
}
