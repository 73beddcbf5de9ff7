//! Xen's own account of who shares what with whom: active grants and event
//! channels from its debug keys, and XenStore; in a form that can be compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;

/// How long Xen may take to print a dump.
const DUMP: Duration = Duration::from_secs(30);

/// What there is, each with its number of times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, usize>);

impl Snapshot {
    /// Takes one now.
    pub fn take(lab: &Lab) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let dump = debug_keys(lab)?;
        snapshot.add_grants(&dump);
        snapshot.add_events(&dump);
        snapshot.add_xenstore(&lab.dom0().run("xenstore-ls -f", 30)?);
        Ok(snapshot)
    }

    /// Takes snapshots until one equals this one: Xen and the toolstack finish
    /// what they do after a command has returned.
    pub fn wait_equal(&self, lab: &Lab, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let difference = self.difference(&Snapshot::take(lab)?);
            if difference.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("Xen's counts differ from before:\n{}", difference.join("\n"));
            }
        }
    }

    /// How many of `granter`'s grants `grantee` uses.
    pub fn grants(&self, granter: u16, grantee: u16) -> usize {
        let prefix = format!("grant of d{granter} to d{grantee},");
        let grants = self.0.iter().filter(|(thing, _)| thing.starts_with(&prefix));
        grants.map(|(_, count)| count).sum()
    }

    /// One line for each thing that `later` has more or fewer of.
    fn difference(&self, later: &Snapshot) -> Vec<String> {
        let keys = self.0.keys().chain(later.0.keys().filter(|key| !self.0.contains_key(*key)));
        keys.filter_map(|key| {
            let count = |snapshot: &Snapshot| snapshot.0.get(key).copied().unwrap_or(0);
            let (before, after) = (count(self), count(later));
            (before != after).then(|| format!("{key}: {before} before, {after} after"))
        })
        .collect()
    }

    fn add(&mut self, thing: String) {
        *self.0.entry(thing).or_default() += 1;
    }

    /// Active grants: who granted to whom, and how it is used. Frames and
    /// references are the domains' own choice.
    fn add_grants(&mut self, dump: &str) {
        let mut granter = "";
        for line in dump.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["(XEN)", "grant-table", "for", "remote", domain, ..] => granter = domain,
                ["(XEN)", reference, grantee, _frame, pin, ..] if reference.starts_with("[0x") => {
                    self.add(format!("grant of {granter} to d{grantee}, pin {pin}"));
                }
                _ => {}
            }
        }
    }

    /// Event channels that are not free: whose, and bound to what. Port numbers
    /// are the domains' own choice.
    fn add_events(&mut self, dump: &str) {
        let mut owner = "";
        for line in dump.lines() {
            if let Some((_, domain)) = line.split_once("Event channel information for domain ") {
                owner = domain.trim_end_matches(':');
            } else if let Some((_, channel)) = line.split_once("]: s=") {
                let fields = channel.split_whitespace();
                let state = fields.clone().next().unwrap_or("?");
                let interdomain = fields.clone().any(|field| field.starts_with("d="));
                let bound: Vec<&str> = fields
                    .filter(|f| ["d=", "v=", "i="].iter().any(|key| f.starts_with(key)))
                    .filter(|f| !interdomain || f.starts_with("d="))
                    .collect();
                self.add(format!("event channel of d{owner}, state {state} {}", bound.join(" ")));
            }
        }
    }

    /// Every node with its value, but for references and ports.
    fn add_xenstore(&mut self, list: &str) {
        for line in list.lines() {
            let (path, value) = line.split_once(" = ").unwrap_or((line, ""));
            let name = path.rsplit('/').next().unwrap_or_default();
            let chosen = name.ends_with("ring-ref") || name.starts_with("event-channel");
            self.add(format!("{path} = {}", if chosen { "*" } else { value }));
        }
    }
}

/// Has Xen print its dumps of grants and events. They have no last line, so the
/// list of keys is asked for behind them.
fn debug_keys(lab: &Lab) -> Result<String> {
    let mark = lab.serial().len();
    lab.dom0().run("xl debug-keys geh", 20)?;
    lab.serial()
        .wait_from(mark, DUMP, |line| line.contains("'h' pressed"))
        .context("Xen's dumps of grants and events")?;
    Ok(lab.serial().since(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTS: &str = "\
(XEN) gnttab_usage_print_all [ key 'g' pressed
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d0 (v1)
(XEN)   1 frames (64 max), 1 maptrack frames (1024 max)
(XEN) no active grant table entries
(XEN) grant-table for remote d2 (v1)
(XEN)   2 frames (64 max), 0 maptrack frames (1024 max)
(XEN) [0x008]      0 0x17ec23 0x00000002          0 0x17ec23 0x19
(XEN) [0x209]      1 0x17df39 0x00000001          1 0x17df39 0x19
(XEN) [0x20a]      1 0x17df38 0x00000001          1 0x17df38 0x19
(XEN) gnttab_usage_print_all ] done
";

    const EVENTS: &str = "\
(XEN) Event channel information for domain 1:
(XEN) Polling vCPUs: {}
(XEN)     port [p/m/s]
(XEN)        3 [0/0/  -   ]: s=5 n=0 x=0 v=0
(XEN)        4 [0/0/  -   ]: s=6 n=0 x=0
(XEN)        8 [0/0/  -   ]: s=4 n=0 x=0 p=9 i=9
(XEN)        9 [0/0/  -   ]: s=3 n=0 x=0 d=2 p=9
(XEN)       10 [1/0/  -   ]: s=3 n=0 x=0 d=2 p=10
";

    fn snapshot(grants: &str, events: &str, xenstore: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add_grants(grants);
        snapshot.add_events(events);
        snapshot.add_xenstore(xenstore);
        snapshot
    }

    #[test]
    fn things_are_counted_by_who_and_whom() {
        let found = snapshot(GRANTS, EVENTS, "");
        let count = |key: &str| found.0.get(key).copied();
        assert_eq!(count("grant of d2 to d1, pin 0x00000001"), Some(2));
        assert_eq!(count("grant of d2 to d0, pin 0x00000002"), Some(1));
        assert_eq!([found.grants(2, 1), found.grants(2, 0), found.grants(1, 2)], [2, 1, 0]);
        assert_eq!(count("event channel of d1, state 3 d=2"), Some(2));
        assert_eq!(count("event channel of d1, state 4 i=9"), Some(1));
        assert_eq!(found.0.len(), 6);
    }

    #[test]
    fn numbers_that_domains_choose_do_not_count() {
        let before = snapshot(GRANTS, EVENTS, "/a/tx-ring-ref = \"5\"\n/a/state = \"4\"");
        let grants = GRANTS.replace("[0x209]      1 0x17df39", "[0x333]      1 0x111111");
        let events = EVENTS.replace("       9 [0/0/", "      33 [1/1/").replace("p=10", "p=44");
        let after = snapshot(&grants, &events, "/a/tx-ring-ref = \"6\"\n/a/state = \"4\"");
        assert_eq!(before, after);
    }

    #[test]
    fn what_is_left_over_is_named() {
        let before = snapshot(GRANTS, EVENTS, "/a/state = \"4\"");
        let leak = "(XEN) [0x20b]      1 0x17df37 0x00000001          1 0x17df37 0x19\n";
        let after = snapshot(&format!("{GRANTS}{leak}"), EVENTS, "/a/state = \"6\"\n/a/b = \"\"");
        let difference = before.difference(&after).join("\n");
        assert!(difference.contains("d2 to d1, pin 0x00000001: 2 before, 3"), "{difference}");
        assert!(difference.contains("/a/state = \"4\": 1 before, 0 after"), "{difference}");
        assert!(difference.contains("/a/b"), "{difference}");
    }
}
