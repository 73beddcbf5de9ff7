//! A console's text as it arrives: kept in a file, and waited on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A growing text with one writer and any number of readers.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    created: Instant,
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    file: File,
    text: String,
    ended: bool,
}

impl Log {
    /// An empty log, kept at `path` as well.
    pub fn create(path: &Path) -> Result<Log> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let state = Mutex::new(State { file, text: String::new(), ended: false });
        let (path, created) = (path.into(), Instant::now());
        Ok(Log { inner: Arc::new(Inner { path, created, state, grown: Condvar::new() }) })
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How long ago it was created.
    pub fn age(&self) -> Duration {
        self.inner.created.elapsed()
    }

    /// Adds what arrived. The file is a copy for people: failing to write it
    /// fails nothing.
    pub fn append(&self, bytes: &[u8]) {
        let mut state = self.inner.state.lock().unwrap();
        let _ = state.file.write_all(bytes);
        state.text.push_str(&String::from_utf8_lossy(bytes));
        self.inner.grown.notify_all();
    }

    /// Nothing more will come.
    pub fn end(&self) {
        self.inner.state.lock().unwrap().ended = true;
        self.inner.grown.notify_all();
    }

    /// Waits at most `limit` for the end; whether it came.
    pub fn wait_end(&self, limit: Duration) -> bool {
        let state = self.inner.state.lock().unwrap();
        self.inner.grown.wait_timeout_while(state, limit, |state| !state.ended).unwrap().0.ended
    }

    /// How much there is; a mark for [`Log::since`] and [`Log::wait_from`].
    pub fn len(&self) -> usize {
        self.inner.state.lock().unwrap().text.len()
    }

    /// Whether nothing has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What arrived after `mark`.
    pub fn since(&self, mark: usize) -> String {
        self.inner.state.lock().unwrap().text[mark..].to_owned()
    }

    /// Waits for a line after `mark` that satisfies `wanted`, and returns it.
    pub fn wait_from(
        &self,
        mark: usize,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let until = Instant::now() + limit;
        let mut state = self.inner.state.lock().unwrap();
        let mut from = mark;
        loop {
            for line in state.text[from..].split_inclusive('\n') {
                if !line.ends_with('\n') {
                    break;
                }
                if wanted(line.trim_end()) {
                    return Ok(line.trim_end().to_owned());
                }
                from += line.len();
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "it ended" } else { "time is up" };
                bail!("not seen on {} in {limit:?}: {why}", self.inner.path.display());
            }
            state = self.inner.grown.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for a line with all of `words`, from the beginning.
    pub fn wait(&self, words: &[&str], limit: Duration) -> Result<String> {
        self.wait_from(0, limit, |line| words.iter().all(|word| line.contains(word)))
            .with_context(|| format!("waiting for {words:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn log(name: &str) -> Log {
        Log::create(&std::env::temp_dir().join(format!("lab-log-{}-{name}", std::process::id())))
            .unwrap()
    }

    #[test]
    fn a_line_is_seen_when_it_is_complete() {
        let log = log("line");
        log.append(b"xen\ncause");
        assert!(log.wait(&["cause"], Duration::ZERO).is_err());
        let writer = log.clone();
        let thread = thread::spawn(move || writer.append(b"way ready\r\n"));
        assert_eq!(
            log.wait(&["ready", "cause"], Duration::from_secs(5)).unwrap(),
            "causeway ready"
        );
        thread.join().unwrap();
        let mark = log.len();
        log.append(b"again\n");
        assert_eq!(log.since(mark), "again\n");
        assert_eq!(std::fs::read(log.path()).unwrap(), b"xen\ncauseway ready\r\nagain\n");
    }

    #[test]
    fn the_end_wakes_who_waits() {
        let log = log("end");
        let writer = log.clone();
        let thread = thread::spawn(move || writer.end());
        assert!(log.wait(&["never"], Duration::from_secs(60)).is_err());
        thread.join().unwrap();
    }
}
