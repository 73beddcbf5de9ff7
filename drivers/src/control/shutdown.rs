//! The toolstack's wishes for the domain itself: `control/shutdown` (H-15), and of
//! `control/sysrq` the one that asks for a crash.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen::Instant;
use xen::hypercall::Shutdown;
use xen::store::{Busy, Error, Event, Reply, RequestId, Store, Transaction};

/// Where the toolstack asks. A node's watch has its path as the token.
const NODES: [&str; 2] = ["control/shutdown", "control/sysrq"];
/// What tells the toolstack that it may ask; it made the nodes for us.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];

/// How long to wait after xenstored could not do what it was asked.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Announces what can be asked, and reads and acknowledges what is asked.
pub(super) struct ShutdownWatch {
    task: Task,
    /// A node may hold something new.
    marked: [bool; NODES.len()],
    /// The task is to be tried again then.
    retry: Option<Instant>,
    asked: Option<Shutdown>,
}

enum Task {
    /// There is no connection, or nothing to do.
    Rest,
    Announce(usize, Option<RequestId>),
    Watch(usize, Option<RequestId>),
    Read(usize, Option<RequestId>),
    /// Tell the toolstack that it was heard: empty the node, if it still holds this.
    Acknowledge(usize, Vec<u8>, Option<RequestId>),
}

impl ShutdownWatch {
    pub(super) fn new() -> Self {
        Self { task: Task::Rest, marked: [false; NODES.len()], retry: None, asked: None }
    }

    /// What was asked for, once it is acknowledged.
    pub(super) fn asked(&self) -> Option<Shutdown> {
        self.asked
    }

    /// When there is something to try again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Ready => self.task = Task::Announce(0, None),
            Event::Lost(_) => self.task = Task::Rest,
            Event::Watch { token, .. } => {
                if let Some(place) = NODES.iter().position(|node| node == token) {
                    self.marked[place] = true;
                }
            }
            Event::Reply { id, result } if self.pending() == Some(*id) => self.answer(result, now),
            _ => {}
        }
    }

    /// Makes the next request, if there is one to make.
    pub(super) fn poll(&mut self, store: &mut Store, now: Instant) {
        if self.retry.is_some_and(|retry| now < retry) {
            return;
        }
        self.retry = None;
        if matches!(self.task, Task::Rest)
            && let Some(place) = self.marked.iter().position(|marked| *marked)
        {
            self.marked[place] = false;
            self.task = Task::Read(place, None);
        }
        // Busy: an event follows, and with it the next try.
        let _ = self.ask(store);
    }

    fn ask(&mut self, store: &mut Store) -> Result<(), Busy> {
        match &mut self.task {
            Task::Announce(place, id @ None) => *id = Some(store.write(FEATURES[*place], b"1")?),
            Task::Watch(place, id @ None) => {
                *id = Some(store.watch(NODES[*place], NODES[*place])?);
            }
            Task::Read(place, id @ None) => *id = Some(store.read(NODES[*place])?),
            Task::Acknowledge(place, value, id @ None) => {
                let node = NODES[*place];
                let empty = Transaction::new().expect(node, value).write(node, b"");
                *id = Some(store.transaction(empty)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self) -> Option<RequestId> {
        match &self.task {
            Task::Rest => None,
            Task::Announce(_, id)
            | Task::Watch(_, id)
            | Task::Read(_, id)
            | Task::Acknowledge(_, _, id) => *id,
        }
    }

    fn answer(&mut self, result: &Result<Reply, Error>, now: Instant) {
        self.task = match (core::mem::replace(&mut self.task, Task::Rest), result) {
            (Task::Announce(place, _), result) => {
                if let Err(error) = result {
                    log::info!("{} cannot be written: {error}", FEATURES[place]);
                }
                if place + 1 < FEATURES.len() {
                    Task::Announce(place + 1, None)
                } else {
                    Task::Watch(0, None)
                }
            }
            (Task::Watch(place, _), Err(error)) if *error != Error::Exists => {
                log::error!("{} cannot be watched: {error}", NODES[place]);
                self.retry = Some(now + RETRY_DELAY);
                Task::Watch(place, None)
            }
            (Task::Watch(place, _), _) if place + 1 < NODES.len() => Task::Watch(place + 1, None),
            (Task::Read(place, _), Ok(Reply::Value(value))) if !value.is_empty() => {
                Task::Acknowledge(place, value.clone(), None)
            }
            (Task::Read(place, _), Err(error)) if !error.is_absence() => {
                self.retry = Some(now + RETRY_DELAY);
                Task::Read(place, None)
            }
            // It holds something else by now, of which the watch tells.
            (Task::Acknowledge(..), Err(Error::Guard)) => Task::Rest,
            (Task::Acknowledge(place, value, _), result) => {
                let node = NODES[place];
                if let Err(error) = result {
                    log::warn!("{node} cannot be acknowledged: {error}");
                }
                self.obey(node, &value);
                Task::Rest
            }
            _ => Task::Rest,
        };
    }

    fn obey(&mut self, node: &str, value: &[u8]) {
        match (node, value) {
            ("control/shutdown", b"poweroff" | b"halt") => self.asked = Some(Shutdown::PowerOff),
            ("control/shutdown", b"reboot") => self.asked = Some(Shutdown::Reboot),
            ("control/sysrq", b"c") => self.asked = Some(Shutdown::Crash),
            (node, other) => {
                let other: String = other.escape_ascii().take(32).map(char::from).collect();
                log::warn!("{node}: {other} is not done here");
            }
        }
    }
}
