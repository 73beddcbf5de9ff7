//! What is made of answers that say how things are.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use xen::Instant;
use xen::store::Error;

use super::{After, Context, LINGER, REFUSAL_DELAY, Task, Vif, shortened};
use crate::netback::data::MAX_HEADROOM;
use crate::netback::keys::Keys;
use crate::netback::state::{self, Action, Ours, Theirs};
use crate::netback::{
    Carrier, ConnectRequest, Frontend, KeyError, Options, Problem, Rate, VifConfig, VifHost, VifId,
};

impl Vif {
    /// Reads what the toolstack configured.
    pub(super) fn configure(
        &mut self,
        values: &[Result<Vec<u8>, Error>],
        host: &mut impl VifHost,
        now: Instant,
    ) {
        let keys = Keys::config(values);
        match keys.raw("state") {
            Ok(state) => self.ours = Ours::adopt(state),
            Err(error) if error.is_absence() => {
                self.task = Task::Gone;
                return;
            }
            // A value that is no state.
            Err(_) => {}
        }
        keys.remarks().for_each(|remark| log::warn!("{}: {remark}", self.id));
        let config = keys
            .frontend_dir(self.id)
            .map(|dir| self.frontend_dir = Some(dir))
            .and_then(|()| VifConfig::parse(&keys, self.id));
        match config {
            Ok(config) => match host.admit(self.id, &config) {
                Ok(()) => self.config = Some(config),
                Err(refusal) => self.refuse(&refusal, now),
            },
            Err(error) => self.refuse(&error, now),
        }
        self.marked = true;
        self.task = Task::Rest;
    }

    /// The vif is not to come up as it is configured.
    pub(super) fn refuse(&mut self, reason: &impl Display, now: Instant) {
        self.complain(now, format_args!("refused: {reason}"));
        self.error = Some(shortened(reason.to_string()));
        self.refused = true;
    }

    /// What the states that were read make necessary.
    pub(super) fn decide(
        &mut self,
        ours: &Keys<'_>,
        theirs: &Result<Vec<u8>, Error>,
        context: &Context<'_>,
    ) {
        let seen = match ours.raw("state") {
            Ok(seen) => seen,
            Err(error) if error.is_absence() => return self.forget(context.now),
            Err(_) => {
                self.not_before = context.now + REFUSAL_DELAY;
                return;
            }
        };
        self.seen.clone_from(seen);
        // 1 is the toolstack's word alone: the directory is a new one.
        if seen == b"1" && self.ours != Ours::Initialising {
            self.marked = true;
            return self.forget(context.now);
        }
        // Someone took our 6 back; so it is to be published again.
        if self.ours == Ours::Closed && seen != b"6" {
            self.ours = Ours::Closing;
            self.not_before = context.now + self.contradicted(context.now);
        }
        let asked = seen == b"5" && self.ours != Ours::Closing;
        let online = ours.raw("online").as_deref() != Ok(b"0".as_slice());
        let theirs = Theirs::read(theirs);
        if theirs == Theirs::Garbage && !self.met_garbage {
            self.met_garbage = true;
            log::warn!("{}: the frontend's state is no state", self.id);
        }
        let stop = asked || self.refused || context.stopping;
        let (to, action) = state::next(self.ours, theirs, online, stop);
        if action != Action::Remove {
            self.removable_since = None;
        }
        self.task = match action {
            Action::Wait => Task::Rest,
            Action::Advertise => Task::SetMtu,
            Action::Connect => Task::ReadRings,
            Action::Close if self.connected => {
                Task::Disconnect { since: context.now, then: After::Close }
            }
            Action::Reconfigure | Action::Close | Action::Finish => Task::Publish(to),
            Action::Remove => {
                let since = *self.removable_since.get_or_insert(context.now);
                if context.now.since(since) >= LINGER {
                    Task::Remove
                } else {
                    self.marked = true;
                    self.not_before = since + LINGER;
                    Task::Rest
                }
            }
        };
    }

    /// Follows the toolstack's limit. What makes no sense changes nothing.
    pub(super) fn limit(&mut self, keys: &Keys<'_>, host: &mut impl VifHost, now: Instant) {
        let Some(config) = &mut self.config else { return };
        // Without a state there is no directory, and no key is missing.
        if keys.raw("state").is_err() {
            return;
        }
        match keys.rate() {
            Ok(rate) if rate == config.rate => {}
            Ok(rate) => {
                config.rate = rate;
                if self.connected {
                    host.limit(self.id, rate, now);
                }
                match rate {
                    Some(Rate { bytes, interval }) => {
                        self.tell(now, format_args!("rate is {bytes} bytes in {interval} us now"));
                    }
                    None => self.tell(now, format_args!("rate is without a limit now")),
                }
            }
            Err(error) => stays(self.id, error, &mut self.met_bad_rate),
        }
    }

    /// Passes on what a connected frontend changed. What makes no sense changes nothing.
    pub(super) fn reconfigure(
        &mut self,
        values: &[Result<Vec<u8>, Error>],
        host: &mut impl VifHost,
        now: Instant,
    ) {
        if !self.connected {
            return;
        }
        match Options::parse(&Keys::options(values)) {
            Ok(options) if options == self.options => {}
            Ok(options) => {
                self.set_options(options, now);
                host.reconfigure(self.id, options);
            }
            Err(error) => stays(self.id, error, &mut self.met_bad_option),
        }
    }

    /// Reads what the frontend shares and has the host take it.
    pub(super) fn connect(
        &mut self,
        values: &[Result<Vec<u8>, Error>],
        queues: &[Result<Vec<u8>, Error>],
        host: &mut impl VifHost,
        now: Instant,
    ) {
        match self.try_connect(values, queues, host, now) {
            Ok(()) => self.task = Task::Publish(Ours::Connected),
            Err(reason) => {
                self.complain(now, format_args!("cannot connect: {reason}"));
                self.error = Some(shortened(reason));
                self.task = Task::Publish(Ours::Closing);
            }
        }
    }

    fn try_connect(
        &mut self,
        values: &[Result<Vec<u8>, Error>],
        queues: &[Result<Vec<u8>, Error>],
        host: &mut impl VifHost,
        now: Instant,
    ) -> Result<(), String> {
        let frontend = Frontend::parse(&Keys::frontend(values), &Keys::queues(queues))
            .map_err(|error| error.to_string())?;
        let config = self.config.clone().ok_or("it is not configured")?;
        let options = frontend.options;
        let request = ConnectRequest { vif: self.id, config, frontend };
        host.connect(&request, now).map_err(|refusal| refusal.to_string())?;
        self.connected = true;
        self.set_options(options, now);
        Ok(())
    }

    /// Takes note of a frontend's options, and tells of one that is not quite honoured.
    fn set_options(&mut self, options: Options, now: Instant) {
        self.options = options;
        let asked = options.xdp_headroom;
        if asked > MAX_HEADROOM.into() {
            self.complain(now, format_args!("xdp-headroom {asked} is cut to {MAX_HEADROOM}"));
        }
    }

    pub(super) fn published(&mut self, to: Ours, now: Instant) {
        self.cannot_write = false;
        match to {
            Ours::Connected => self.tell(now, format_args!("connected")),
            Ours::Closed => self.tell(now, format_args!("closed")),
            _ => {}
        }
        if to == Ours::Closing {
            self.error = None;
        }
        self.ours = to;
        self.marked = true;
        self.task = if to == Ours::Connected { Task::Clean { keep: true } } else { Task::Rest };
    }

    pub(super) fn disconnected(&mut self, then: After, now: Instant) {
        self.connected = false;
        (self.carrier, self.carrier_changed) = (Carrier::Up, false);
        match then {
            After::Close => self.task = Task::Publish(Ours::Closing),
            After::Retry(delay) => {
                self.not_before = now + delay;
                self.task = Task::Look;
            }
            After::Forget => self.task = Task::Clean { keep: false },
        }
    }

    /// Our directory is gone, or a new one is in its place: nothing of what we have
    /// is worth keeping, and nothing is to be written.
    pub(super) fn forget(&mut self, now: Instant) {
        self.task = if self.connected {
            Task::Disconnect { since: now, then: After::Forget }
        } else {
            Task::Clean { keep: false }
        };
    }
}

/// Tells once of a changed key that makes no sense. One that cannot be read is about to go,
/// which the states tell.
fn stays(vif: VifId, error: KeyError, met: &mut bool) {
    if error.problem != Problem::Unreadable && !mem::replace(met, true) {
        log::warn!("{vif}: {error}; what it was before stays");
    }
}
