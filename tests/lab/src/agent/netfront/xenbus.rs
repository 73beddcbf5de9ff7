//! XenStore, as Linux offers it to programs: messages of four words and a payload.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen::bindings::*;

/// How often a transaction is tried.
const ATTEMPTS: u32 = 20;

/// After this a value is looked at again, event or no event.
const LOOK: Duration = Duration::from_secs(1);

/// What xenstored says: a payload, or the name of an error.
pub(in crate::agent) type Answer = Result<Vec<u8>, String>;

/// A connection.
pub(in crate::agent) struct Xenbus {
    file: File,
    watched: BTreeSet<String>,
}

impl Xenbus {
    pub(in crate::agent) fn open() -> Result<Xenbus> {
        let path = "/dev/xen/xenbus";
        Ok(Xenbus::over(OpenOptions::new().read(true).write(true).open(path).context(path)?))
    }

    fn over(file: File) -> Xenbus {
        Xenbus { file, watched: BTreeSet::new() }
    }

    /// Reads a node.
    pub(in crate::agent) fn read(&mut self, path: &str) -> Result<String> {
        self.value(path)?.with_context(|| format!("{path} is not there"))
    }

    /// Writes a node.
    pub(in crate::agent) fn write(&mut self, path: &str, value: &[u8]) -> Result<()> {
        done(self.ask(XS_WRITE, 0, &with_value(path, value))?, path).map(drop)
    }

    /// Writes a node if xenstored lets it be written; whether it did.
    pub(in crate::agent) fn try_write(&mut self, path: &str, value: &[u8]) -> Result<bool> {
        Ok(self.ask(XS_WRITE, 0, &with_value(path, value))?.is_ok())
    }

    /// Removes a node with all below it.
    pub(in crate::agent) fn remove(&mut self, path: &str) -> Result<()> {
        done(self.ask(XS_RM, 0, &strings(&[path]))?, path).map(drop)
    }

    /// The names of what is in a node.
    pub(in crate::agent) fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let names = done(self.ask(XS_DIRECTORY, 0, &strings(&[path]))?, path)?;
        let names = String::from_utf8_lossy(&names);
        Ok(names.split_terminator('\0').map(Into::into).collect())
    }

    /// Says who may do what with a node.
    pub(in crate::agent) fn set_permissions(
        &mut self,
        path: &str,
        permissions: &[&str],
    ) -> Result<()> {
        let parts = [&[path], permissions].concat();
        done(self.ask(XS_SET_PERMS, 0, &strings(&parts))?, path).map(drop)
    }

    /// Writes nodes, all or none.
    pub(in crate::agent) fn write_all<'a>(
        &mut self,
        nodes: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let id = done(self.ask(XS_TRANSACTION_START, 0, b"\0")?, "a transaction")?;
            let id = String::from_utf8_lossy(&id).trim_end_matches('\0').parse()?;
            for (path, value) in nodes.clone() {
                done(self.ask(XS_WRITE, id, &with_value(path, value))?, path)?;
            }
            match self.ask(XS_TRANSACTION_END, id, b"T\0")? {
                Err(error) if error == "EAGAIN" => {}
                answer => return done(answer, "a transaction").map(drop),
            }
        }
        bail!("others were faster {ATTEMPTS} times")
    }

    /// Waits until a node has a value that is wanted; returns it.
    pub(in crate::agent) fn wait(
        &mut self,
        path: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let until = Instant::now() + limit;
        if self.watched.insert(path.into()) {
            done(self.ask(XS_WATCH, 0, &strings(&[path, path]))?, path)?;
        }
        loop {
            let value = self.value(path)?;
            match value {
                Some(value) if wanted(&value) => return Ok(value),
                _ if Instant::now() > until => {
                    bail!("{path} is {value:?}, not what is waited for")
                }
                _ => self.wait_event()?,
            }
        }
    }

    /// Waits for an event, but not for long.
    fn wait_event(&mut self) -> Result<()> {
        let limit = Timespec::try_from(LOOK)?;
        if poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&limit))? > 0 {
            // Nothing is asked, so that an event is all that can come.
            self.message()?;
        }
        Ok(())
    }

    fn value(&mut self, path: &str) -> Result<Option<String>> {
        match self.ask(XS_READ, 0, &strings(&[path]))? {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(error) if error == "ENOENT" => Ok(None),
            Err(error) => bail!("{path}: {error}"),
        }
    }

    fn ask(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Result<Answer> {
        let header = [kind, 1, transaction, payload.len() as u32].map(u32::to_ne_bytes);
        self.file.write_all(&[header.as_flattened(), payload].concat())?;
        loop {
            let (answered, payload) = self.message()?;
            match answered {
                // A value is looked at for other reasons too.
                XS_WATCH_EVENT => {}
                XS_ERROR => {
                    let error = String::from_utf8_lossy(&payload);
                    return Ok(Err(error.trim_end_matches('\0').into()));
                }
                _ => return Ok(Ok(payload)),
            }
        }
    }

    fn message(&mut self) -> Result<(u32, Vec<u8>)> {
        let mut header = [[0; 4]; 4];
        self.file.read_exact(header.as_flattened_mut())?;
        let [kind, _, _, length] = header.map(u32::from_ne_bytes);
        if length > XENSTORE_PAYLOAD_MAX {
            bail!("a message of {length} bytes");
        }
        let mut payload = vec![0; length as usize];
        self.file.read_exact(&mut payload)?;
        Ok((kind, payload))
    }
}

fn done(answer: Answer, what: &str) -> Result<Vec<u8>> {
    answer.map_err(|error| anyhow!("{what}: {error}"))
}

/// Each ended by a NUL.
fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().chain([0])).collect()
}

fn with_value(path: &str, value: &[u8]) -> Vec<u8> {
    [&strings(&[path]), value].concat()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread::{self, JoinHandle};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A message of xenstored's.
    type Said = (u32, &'static [u8]);

    /// What xenstored is asked: what, in which transaction, with which payload; and what
    /// it says to it.
    type Line = (u32, u32, &'static [u8], &'static [Said]);

    /// A connection to a xenstored that is asked just this.
    fn xenstored(script: &'static [Line]) -> (Xenbus, JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            for (kind, transaction, payload, answers) in script {
                let mut header = [[0; 4]; 4];
                theirs.read_exact(header.as_flattened_mut()).unwrap();
                let header = header.map(u32::from_ne_bytes);
                assert_eq!(header, [*kind, 1, *transaction, payload.len() as u32]);
                let mut asked = vec![0; payload.len()];
                theirs.read_exact(&mut asked).unwrap();
                assert_eq!(&asked, payload);
                for (kind, payload) in *answers {
                    let header = [*kind, 0, 0, payload.len() as u32].map(u32::to_ne_bytes);
                    theirs.write_all(&[header.as_flattened(), payload].concat()).unwrap();
                }
            }
        });
        (Xenbus::over(OwnedFd::from(ours).into()), thread)
    }

    #[test]
    fn answers_are_told_from_errors_and_events() {
        let (mut store, thread) = xenstored(&[
            (XS_READ, 0, b"a\0", &[(XS_WATCH_EVENT, b"x\0y\0"), (XS_READ, b"1")]),
            (XS_READ, 0, b"b\0", &[(XS_ERROR, b"ENOENT\0")]),
            (XS_WRITE, 0, b"a\0\xff\0", &[(XS_WRITE, b"OK\0")]),
            (XS_WRITE, 0, b"a\0long", &[(XS_ERROR, b"ENOSPC\0")]),
            (XS_SET_PERMS, 0, b"a\0n3\0r1\0", &[(XS_ERROR, b"EACCES\0")]),
            (XS_DIRECTORY, 0, b"a\0", &[(XS_DIRECTORY, b"b\0cd\0")]),
            (XS_DIRECTORY, 0, b"b\0", &[(XS_DIRECTORY, b"")]),
        ]);
        assert_eq!(store.read("a").unwrap(), "1");
        assert!(store.read("b").unwrap_err().to_string().contains("not there"));
        store.write("a", b"\xff\0").unwrap();
        assert!(!store.try_write("a", b"long").unwrap());
        let error = store.set_permissions("a", &["n3", "r1"]).unwrap_err();
        assert!(error.to_string().contains("EACCES"), "{error}");
        assert_eq!(store.list("a").unwrap(), ["b", "cd"]);
        assert!(store.list("b").unwrap().is_empty());
        thread.join().unwrap();
    }

    #[test]
    fn a_transaction_that_met_another_is_made_again() {
        let (mut store, thread) = xenstored(&[
            (XS_TRANSACTION_START, 0, b"\0", &[(XS_TRANSACTION_START, b"7\0")]),
            (XS_WRITE, 7, b"a\x001", &[(XS_WRITE, b"OK\0")]),
            (XS_TRANSACTION_END, 7, b"T\0", &[(XS_ERROR, b"EAGAIN\0")]),
            (XS_TRANSACTION_START, 0, b"\0", &[(XS_TRANSACTION_START, b"8\0")]),
            (XS_WRITE, 8, b"a\x001", &[(XS_WRITE, b"OK\0")]),
            (XS_TRANSACTION_END, 8, b"T\0", &[(XS_TRANSACTION_END, b"OK\0")]),
        ]);
        store.write_all([("a", b"1".as_slice())].into_iter()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_value_is_waited_for() {
        let (mut store, thread) = xenstored(&[
            (XS_WATCH, 0, b"a\0a\0", &[(XS_WATCH, b"OK\0")]),
            (XS_READ, 0, b"a\0", &[(XS_READ, b"2"), (XS_WATCH_EVENT, b"a\0a\0")]),
            (XS_READ, 0, b"a\0", &[(XS_READ, b"4")]),
            (XS_READ, 0, b"a\0", &[(XS_ERROR, b"ENOENT\0")]),
        ]);
        assert_eq!(store.wait("a", SOON, |value| ["3", "4"].contains(&value)).unwrap(), "4");
        let error = store.wait("a", Duration::ZERO, |value| value == "3").unwrap_err().to_string();
        assert!(error.contains("None"), "{error}");
        thread.join().unwrap();
    }
}
