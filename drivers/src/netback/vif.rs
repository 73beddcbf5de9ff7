//! One vif's control record: its directory is met, watched, looked at, and answered
//! as [`state::next`] says, one request at a time.
//!
//! ```text
//!   Meet ─▶ Configure    Watch ◀─▶ Look ─────────────────────────────┐
//!              ▼       (if wanted)  ▲                                │ what next() says
//!            Rest ── marked ────────┘       ┌────────────────────────┤
//!             ▲                             ▼                        ▼
//!             ├─ Publish(2,4,5,6,8) ◀─ SetMtu, ReadRings, Disconnect │ directory gone,
//!             │                        (then ReadQueues)             ▼ or Remove done
//!             └── Report                                  Clean ─▶ Unwatch ─▶ Gone
//! ```
//!
//! What a transaction may replace is what was last looked at, so that a word of the
//! toolstack's in between is never overwritten: the transaction gives up, and the
//! vif is looked at again (X-13).

mod ask;
mod decide;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;
use core::time::Duration;

use log::Level;
use xen::Instant;
use xen::store::{Busy, Error, Reply, RequestId, Store};

use super::keys::{self, Keys, LOOK_KEYS};
use super::state::Ours;
use super::{Carrier, Options, Progress, Urgency, VifConfig, VifHost, VifId};
use crate::log_budget::LogBudget;

/// How long our directory stays after 6 and `online=0`, so that the toolstack reads
/// the 6: it takes a directory that is gone for a failure (L-5).
pub(super) const LINGER: Duration = Duration::from_millis(1500);
/// How long holders of a vif's pages have before they are cut off. The toolstack
/// waits ten seconds (L-3, O-12).
pub(super) const DISCONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait after a transaction met other writers again and again.
const CONFLICT_DELAY: Duration = Duration::from_millis(100);
/// How long to wait after xenstored refused something, such as for a quota (L-9).
pub(super) const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// The longest error message that is written, in bytes.
const ERROR_MAX: usize = 256;

/// What the backend as a whole has to say to each of its vifs.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    /// The domain is about to go: close everything.
    pub(super) stopping: bool,
    /// The highest node of the error tree that holds no other vif's errors; none
    /// while another vif is removing its own.
    pub(super) error_root: Option<&'a str>,
}

/// Whether changes in the frontend's directory are told: of its state, and of what it may
/// change while it is connected. One watch for both leaves a vif another (L-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watch {
    /// To be asked for before the frontend is looked at again.
    Wanted,
    Set,
    /// xenstored does not.
    Refused,
}

/// What a vif is about; with a request pending, what it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Rest,
    Meet,
    Configure,
    Watch,
    Look,
    SetMtu,
    ReadRings,
    /// Read the keys of several queues, so many.
    ReadQueues(usize),
    Publish(Ours),
    Disconnect {
        since: Instant,
        then: After,
    },
    Report,
    Remove,
    /// Remove the error node; a vif that is not kept is unwatched next.
    Clean {
        keep: bool,
    },
    Unwatch,
    Gone,
}

/// What follows a disconnection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Close,
    Retry(Duration),
    Forget,
}

/// A vif's control record.
pub(super) struct Vif {
    id: VifId,
    ours: Ours,
    task: Task,
    pending: Option<RequestId>,
    /// Something changed since the vif was looked at.
    marked: bool,
    /// Nothing is done before this.
    not_before: Instant,
    /// When last something was not as it had been a moment before.
    contradicted_at: Instant,
    config: Option<VifConfig>,
    frontend_dir: Option<String>,
    watch: Watch,
    /// The host serves it.
    connected: bool,
    /// What it serves the frontend with, while it does.
    options: Options,
    /// The toolstack's keys cannot be honoured; so until it writes new ones.
    refused: bool,
    /// Our state node as last read.
    seen: Vec<u8>,
    /// The keys of the frontend's directory, while those of its queues are read.
    rings: Vec<Result<Vec<u8>, Error>>,
    /// An error to be written with the next state.
    error: Option<String>,
    /// The carrier, as the host last said; to be written where that was not yet.
    carrier: Carrier<String>,
    carrier_changed: bool,
    has_error_node: bool,
    removable_since: Option<Instant>,
    log: LogBudget,
    met_garbage: bool,
    /// The same of an option.
    met_bad_option: bool,
    /// The same of a limit.
    met_bad_rate: bool,
    /// The operator has been told that xenstored does not take what is to be published.
    cannot_write: bool,
}

impl Vif {
    pub(super) fn new(id: VifId) -> Self {
        Self {
            id,
            ours: Ours::Initialising,
            task: Task::Meet,
            pending: None,
            marked: false,
            not_before: Instant::default(),
            contradicted_at: Instant::default(),
            config: None,
            frontend_dir: None,
            watch: Watch::Wanted,
            connected: false,
            options: Options::default(),
            refused: false,
            seen: Vec::new(),
            rings: Vec::new(),
            error: None,
            carrier: Carrier::Up,
            carrier_changed: false,
            has_error_node: false,
            removable_since: None,
            log: LogBudget::default(),
            met_garbage: false,
            met_bad_option: false,
            met_bad_rate: false,
            cannot_write: false,
        }
    }

    pub(super) fn id(&self) -> VifId {
        self.id
    }

    pub(super) fn pending(&self) -> Option<RequestId> {
        self.pending
    }

    pub(super) fn has_error_node(&self) -> bool {
        self.has_error_node
    }

    /// It is removing its error node.
    pub(super) fn is_cleaning(&self) -> bool {
        self.pending.is_some() && matches!(self.task, Task::Clean { .. })
    }

    /// Something about it changed: look at it when there is time. However often this
    /// is called meanwhile, it is looked at once (S-8).
    pub(super) fn mark(&mut self) {
        self.marked = true;
    }

    /// The store's connection is a new one, without watches.
    pub(super) fn connection_reset(&mut self) {
        self.watch = Watch::Wanted;
        self.marked = true;
    }

    /// Its carrier changed. However often it does meanwhile, the last of it is written
    /// once (S-8).
    pub(super) fn set_carrier(&mut self, carrier: &Carrier<impl Display>, now: Instant) {
        self.carrier = match carrier {
            Carrier::Up => Carrier::Up,
            Carrier::Stalled => Carrier::Stalled,
            Carrier::Broken(fault) => Carrier::Broken(shortened(fault.to_string())),
        };
        self.carrier_changed = true;
        if self.log.take(now) {
            let level = if self.carrier == Carrier::Up { Level::Info } else { Level::Warn };
            log::log!(level, "{}: carrier {}", self.id, self.carrier);
        }
    }

    /// It is closed, and nothing about it is under way.
    pub(super) fn is_closed(&self) -> bool {
        self.ours == Ours::Closed && self.task == Task::Rest && !self.marked
    }

    /// Whether it has to be called again without anything having happened.
    pub(super) fn is_disconnecting(&self) -> bool {
        matches!(self.task, Task::Disconnect { .. })
    }

    /// When it has something to do by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.task {
            _ if self.pending.is_some() => None,
            Task::Disconnect { since, .. } => Some(since + DISCONNECT_PATIENCE),
            Task::Rest if !self.marked && !self.carrier_changed => None,
            _ => Some(self.not_before),
        }
    }

    /// Goes on until it has to wait. Returns whether it still exists.
    pub(super) fn advance(
        &mut self,
        store: &mut Store,
        host: &mut impl VifHost,
        context: &Context<'_>,
    ) -> bool {
        while self.pending.is_none() && context.now >= self.not_before {
            match self.task {
                Task::Rest if self.carrier_changed => self.task = Task::Report,
                Task::Rest if !self.marked => break,
                Task::Rest => self.task = Task::Look,
                Task::Look if self.frontend_dir.is_some() && self.watch == Watch::Wanted => {
                    self.task = Task::Watch;
                }
                Task::Disconnect { since, then } => {
                    let late = context.now.since(since) >= DISCONNECT_PATIENCE;
                    let urgency = if late { Urgency::Forced } else { Urgency::Patient };
                    if host.disconnect(self.id, urgency, context.now) == Progress::Pending && !late
                    {
                        break;
                    }
                    self.disconnected(then, context.now);
                }
                Task::Gone if self.marked => *self = Self::new(self.id),
                Task::Gone => return false,
                _ => match self.ask(store, context) {
                    Ok(id) => self.pending = id,
                    Err(Busy) => break,
                },
            }
        }
        true
    }

    /// Takes the answer to its pending request.
    pub(super) fn answer(
        &mut self,
        result: Result<Reply, Error>,
        host: &mut impl VifHost,
        context: &Context<'_>,
    ) {
        self.pending = None;
        let now = context.now;
        match (self.task, result) {
            (Task::Meet, Ok(Reply::Names(names))) => {
                self.report_ignored(&names);
                self.task = Task::Configure;
            }
            // xenstored could not tell just now: ask again.
            (_, Ok(Reply::Values(values))) if values.iter().any(is_unanswered) => {
                self.not_before = now + REFUSAL_DELAY;
            }
            (Task::Configure, Ok(Reply::Values(values))) => self.configure(&values, host, now),
            (Task::Look, Ok(Reply::Values(values))) => {
                let ours = Keys::look(&values);
                let theirs = values.get(LOOK_KEYS.len()).unwrap_or(&Err(Error::NotFound));
                self.limit(&ours, host, now);
                self.reconfigure(values.get(LOOK_KEYS.len() + 1..).unwrap_or(&[]), host, now);
                self.decide(&ours, theirs, context);
            }
            (Task::ReadRings, Ok(Reply::Values(values))) => {
                match keys::num_queues(&Keys::frontend(&values)) {
                    Ok(queues @ 2..) => {
                        self.rings = values;
                        self.task = Task::ReadQueues(queues);
                    }
                    _ => self.connect(&values, &[], host, now),
                }
            }
            (Task::ReadQueues(_), Ok(Reply::Values(queues))) => {
                let rings = mem::take(&mut self.rings);
                self.connect(&rings, &queues, host, now);
            }

            (Task::Meet, Err(error)) if error.is_absence() => self.task = Task::Gone,
            (Task::Meet | Task::Configure | Task::Look | Task::ReadRings, _)
            | (Task::ReadQueues(_), _) => self.not_before = now + REFUSAL_DELAY,

            (Task::Watch, Ok(_) | Err(Error::Exists)) => {
                self.watch = Watch::Set;
                self.task = Task::Look;
            }
            (Task::Watch, Err(error @ (Error::TooBig | Error::Quota))) => {
                self.refuse(&format_args!("the frontend cannot be watched: {error}"), now);
                self.watch = Watch::Refused;
                self.task = Task::Look;
            }
            (Task::Watch, Err(_)) => self.not_before = now + REFUSAL_DELAY,

            (Task::SetMtu, result) => {
                if let Err(error) = result {
                    self.complain(now, format_args!("the frontend's mtu cannot be set: {error}"));
                }
                self.task = Task::Publish(Ours::InitWait);
            }

            (Task::Publish(to), Ok(_)) => self.published(to, now),
            (Task::Publish(Ours::Connected), Err(error)) => {
                let delay = self.delay(&error, now);
                self.task = Task::Disconnect { since: now, then: After::Retry(delay) };
            }
            (Task::Publish(_) | Task::Remove, Err(error)) => self.retry(error, now),

            (Task::Report, Ok(_)) => self.task = Task::Rest,
            // It is closing already, or closed.
            (Task::Report, Err(Error::Guard)) => self.task = Task::Look,
            (Task::Report, Err(error)) => self.not_before = now + self.delay(&error, now),

            (Task::Remove, Ok(_)) => {
                self.tell(now, format_args!("removed"));
                self.task = Task::Clean { keep: false };
            }
            (Task::Clean { .. } | Task::Unwatch, Err(error)) if !error.is_absence() => {
                self.not_before = now + self.delay(&error, now);
            }
            // Goes on by itself, now that there is no error node.
            (Task::Clean { .. }, _) => self.has_error_node = false,
            (Task::Unwatch, _) => self.task = Task::Gone,
            // Without a request, no answer.
            (Task::Rest | Task::Disconnect { .. } | Task::Gone, _) => {}
        }
    }

    /// Looks again, when what `error` tells of may have passed.
    fn retry(&mut self, error: Error, now: Instant) {
        self.not_before = now + self.delay(&error, now);
        self.task = Task::Look;
    }

    fn delay(&mut self, error: &Error, now: Instant) -> Duration {
        match error {
            Error::Guard => self.contradicted(now),
            Error::Again => CONFLICT_DELAY,
            error => {
                // Told once, however often it is tried again.
                if !mem::replace(&mut self.cannot_write, true) {
                    self.complain(now, format_args!("cannot write to XenStore: {error}"));
                }
                REFUSAL_DELAY
            }
        }
    }

    /// How long to wait after somebody else wrote what is ours, since we looked: not at
    /// all, but for who does it again at once, which may be a xenstored that says now this
    /// and now that.
    fn contradicted(&mut self, now: Instant) -> Duration {
        let before = mem::replace(&mut self.contradicted_at, now);
        if now.since(before) < CONFLICT_DELAY { CONFLICT_DELAY } else { Duration::ZERO }
    }

    /// Tells the operator of keys without effect.
    fn report_ignored(&self, names: &[String]) {
        let told = names.iter().filter_map(|name| Some((name, keys::without_effect(name)?)));
        for (name, why) in told.take(8) {
            log::warn!("{}: {name} has no effect: {why}", self.id);
        }
    }

    /// Tells the operator, but not without end.
    fn complain(&mut self, now: Instant, what: core::fmt::Arguments<'_>) {
        if self.log.take(now) {
            log::warn!("{}: {what}", self.id);
        }
    }

    /// The same of what is as it should be.
    fn tell(&mut self, now: Instant, what: core::fmt::Arguments<'_>) {
        if self.log.take(now) {
            log::info!("{}: {what}", self.id);
        }
    }
}

/// A vif's directory in our part of the store.
pub(super) fn dir(id: VifId) -> String {
    format!("backend/vif/{}/{}", id.frontend.0, id.handle)
}

/// The token of the watch on a vif's frontend.
pub(super) fn token(id: VifId) -> String {
    format!("vif/{}/{}", id.frontend.0, id.handle)
}

/// Whether xenstored failed, other than to say what is there.
fn is_unanswered(value: &Result<Vec<u8>, Error>) -> bool {
    value.as_ref().is_err_and(|error| !error.is_absence() && *error != Error::TooLong)
}

fn shortened(mut text: String) -> String {
    if text.len() > ERROR_MAX {
        let end = (0..=ERROR_MAX).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
    }
    text
}
