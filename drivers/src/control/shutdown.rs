//! The toolstack's wishes for the domain itself: `control/shutdown` (H-15).

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen::Instant;
use xen::hypercall::Shutdown;
use xen::store::{Busy, Error, Event, Reply, RequestId, Store, Transaction};

const NODE: &str = "control/shutdown";
const TOKEN: &str = "shutdown";
/// What tells the toolstack that it may ask; it made the nodes for us.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];

/// How long to wait after xenstored could not do what it was asked.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Announces what can be asked, and reads and acknowledges what is asked.
pub(super) struct ShutdownWatch {
    task: Task,
    /// The node may hold something new.
    marked: bool,
    /// The task is to be tried again then.
    retry: Option<Instant>,
    asked: Option<Shutdown>,
}

enum Task {
    /// There is no connection, or nothing to do.
    Rest,
    Announce(usize, Option<RequestId>),
    Watch(Option<RequestId>),
    Read(Option<RequestId>),
    /// Tell the toolstack that it was heard: empty the node, if it still holds this.
    Acknowledge(Vec<u8>, Option<RequestId>),
}

impl ShutdownWatch {
    pub(super) fn new() -> Self {
        Self { task: Task::Rest, marked: false, retry: None, asked: None }
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
            Event::Watch { token, .. } if token == TOKEN => self.marked = true,
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
        if self.marked && matches!(self.task, Task::Rest) {
            self.marked = false;
            self.task = Task::Read(None);
        }
        // Busy: an event follows, and with it the next try.
        let _ = self.ask(store);
    }

    fn ask(&mut self, store: &mut Store) -> Result<(), Busy> {
        match &mut self.task {
            Task::Announce(place, id @ None) => *id = Some(store.write(FEATURES[*place], b"1")?),
            Task::Watch(id @ None) => *id = Some(store.watch(NODE, TOKEN)?),
            Task::Read(id @ None) => *id = Some(store.read(NODE)?),
            Task::Acknowledge(value, id @ None) => {
                let empty = Transaction::new().expect(NODE, value).write(NODE, b"");
                *id = Some(store.transaction(empty)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self) -> Option<RequestId> {
        match &self.task {
            Task::Rest => None,
            Task::Announce(_, id) | Task::Watch(id) | Task::Read(id) | Task::Acknowledge(_, id) => {
                *id
            }
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
                    Task::Watch(None)
                }
            }
            (Task::Watch(_), Err(error)) if *error != Error::Exists => {
                log::error!("{NODE} cannot be watched: {error}");
                self.retry = Some(now + RETRY_DELAY);
                Task::Watch(None)
            }
            (Task::Read(_), Ok(Reply::Value(value))) if !value.is_empty() => {
                Task::Acknowledge(value.clone(), None)
            }
            (Task::Read(_), Err(error)) if !error.is_absence() => {
                self.retry = Some(now + RETRY_DELAY);
                Task::Read(None)
            }
            // It holds something else by now, of which the watch tells.
            (Task::Acknowledge(..), Err(Error::Guard)) => Task::Rest,
            (Task::Acknowledge(value, _), result) => {
                if let Err(error) = result {
                    log::warn!("{NODE} cannot be acknowledged: {error}");
                }
                self.obey(&value);
                Task::Rest
            }
            _ => Task::Rest,
        };
    }

    fn obey(&mut self, value: &[u8]) {
        match value {
            b"poweroff" | b"halt" => self.asked = Some(Shutdown::PowerOff),
            b"reboot" => self.asked = Some(Shutdown::Reboot),
            other => {
                let other: String = other.escape_ascii().take(32).map(char::from).collect();
                log::warn!("{NODE}: {other} is not done here");
            }
        }
    }
}
