//! The control plane: finds the vifs that the toolstack gives us, and follows each
//! one's states until it is gone. There is no `xl devd` beside us; all of L-7 is
//! done here.
//!
//! One watch, on `backend/vif`, tells of directories that come and go and of the
//! toolstack's writes in them; one watch per vif tells of its frontend's state. What
//! an event says is never believed: it marks a vif, and a marked vif is looked at.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

use xen::store::{Busy, Error, Event, Reply, RequestId, Store};
use xen::{DomainId, Instant};

use super::vif::{self, Context, REFUSAL_DELAY, Vif};
use super::{VifHost, VifId, keys};

/// How many vifs are served. More wait until there is room.
pub const MAX_VIFS: usize = 64;

const ROOT: &str = "backend/vif";
const ROOT_TOKEN: &str = "vif";
const ERRORS: &str = "error/backend";

/// How many of the store's operations are left to others.
const RESERVED_ROOM: usize = 4;

/// The backends of all vifs. See the module's documentation.
pub struct Backend {
    vifs: Vec<Vif>,
    /// Where the round over the vifs begins, so that none is always last.
    first: usize,
    watch: RootWatch,
    scan: Scan,
    rescan: bool,
    /// There were more vifs than [`MAX_VIFS`].
    overflow: bool,
    stopping: bool,
    /// Something happened since the vifs were last gone over.
    awake: bool,
    deadline: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum RootWatch {
    /// There is no connection to set it up on.
    None,
    /// To be asked for, not before this.
    Wanted(Instant),
    Asked(RequestId),
    Set,
}

/// The search for vifs that no event told us of.
enum Scan {
    Done,
    /// For guests.
    Guests(Option<RequestId>),
    /// For the last guest's vifs.
    Vifs(Vec<DomainId>, Option<RequestId>),
}

impl Default for Backend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend {
    /// No vifs. It begins with the store's [`Event::Ready`].
    pub fn new() -> Self {
        Self {
            vifs: Vec::new(),
            first: 0,
            watch: RootWatch::None,
            scan: Scan::Done,
            rescan: false,
            overflow: false,
            stopping: false,
            awake: false,
            deadline: None,
        }
    }

    /// How many vifs there are, in whatever state.
    pub fn vifs(&self) -> usize {
        self.vifs.len()
    }

    /// Closes all vifs for good, those that are still to come as well.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.mark_all();
    }

    /// After [`stop`](Self::stop): whether all are closed.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.vifs.iter().all(Vif::is_closed)
    }

    /// Takes an event of the store's; those that are not for it are ignored.
    pub fn event(&mut self, event: &Event, host: &mut impl VifHost, now: Instant) {
        match event {
            Event::Ready => {
                self.watch = RootWatch::Wanted(now);
                self.vifs.iter_mut().for_each(Vif::connection_reset);
            }
            Event::Lost(_) => self.watch = RootWatch::None,
            Event::Watch { path, token } if token == ROOT_TOKEN => self.changed(path),
            Event::Watch { token, .. } => {
                let components = token.strip_prefix("vif/").and_then(|rest| rest.split_once('/'));
                let id = components.and_then(|(guest, handle)| keys::vif_id(guest, handle));
                let vif = id.and_then(|id| self.vifs.iter_mut().find(|vif| vif.id() == id));
                let Some(vif) = vif else { return };
                vif.mark();
            }
            Event::Reply { id, result } => self.answer(*id, result, host, now),
        }
        self.awake = true;
    }

    /// Does what is to be done now. To be called after events, when the returned
    /// moment has come, and whenever the host may have gone on with a disconnection
    /// or seen a carrier change; when there is nothing to do, it costs next to nothing.
    pub fn poll(
        &mut self,
        store: &mut Store,
        host: &mut impl VifHost,
        now: Instant,
    ) -> Option<Instant> {
        while let Some((id, carrier)) = host.next_carrier() {
            if let Some(vif) = self.vifs.iter_mut().find(|vif| vif.id() == id) {
                vif.set_carrier(&carrier, now);
                self.awake = true;
            }
        }
        let due = self.deadline.is_some_and(|deadline| now >= deadline);
        if !mem::take(&mut self.awake) && !due {
            return self.deadline;
        }
        self.advance(store, host, now);
        // Busy: an event follows, and with it the next try.
        let _ = self.watch_and_scan(store, now);
        self.awake = self.vifs.iter().any(Vif::is_disconnecting);
        let retry = match self.watch {
            RootWatch::Wanted(not_before) => Some(not_before),
            _ => None,
        };
        let deadlines = self.vifs.iter().filter_map(Vif::deadline).chain(retry);
        self.deadline = deadlines.filter(|deadline| *deadline > now).min();
        self.deadline
    }

    /// Sets up the watch, then searches for vifs where that is due.
    fn watch_and_scan(&mut self, store: &mut Store, now: Instant) -> Result<(), Busy> {
        if matches!(self.watch, RootWatch::Wanted(not_before) if now >= not_before) {
            self.watch = RootWatch::Asked(store.watch(ROOT, ROOT_TOKEN)?);
        }
        if matches!(&self.scan, Scan::Vifs(left, None) if left.is_empty()) {
            self.scan = Scan::Done;
        }
        if matches!(self.scan, Scan::Done) && mem::take(&mut self.rescan) {
            self.scan = Scan::Guests(None);
        }
        match &mut self.scan {
            Scan::Guests(asked @ None) => *asked = Some(store.directory(ROOT)?),
            Scan::Vifs(left, asked @ None) => {
                if let Some(guest) = left.last() {
                    *asked = Some(store.directory(&format!("{ROOT}/{}", guest.0))?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets each vif go on, as far as the store has room.
    fn advance(&mut self, store: &mut Store, host: &mut impl VifHost, now: Instant) {
        let count = self.vifs.len();
        let mut gone = Vec::new();
        for turn in 0..count {
            let place = (self.first + turn) % count;
            if store.room() <= RESERVED_ROOM {
                self.first = place;
                break;
            }
            let error_root = self.error_root(place);
            let error_root = error_root.as_deref();
            let context = Context { now, stopping: self.stopping, error_root };
            let vif = &mut self.vifs[place];
            if !vif.advance(store, host, &context) {
                gone.push(vif.id());
            }
        }
        if gone.is_empty() {
            return;
        }
        self.vifs.retain(|vif| !gone.contains(&vif.id()));
        if mem::take(&mut self.overflow) {
            self.rescan = true;
        }
    }

    /// The highest node that holds errors of the vif at `place` and of no other: none
    /// of those above it would ever go otherwise. They go one after the other, or two
    /// could each leave what is above them to the other.
    fn error_root(&self, place: usize) -> Option<String> {
        let vif = &self.vifs[place];
        let guest = vif.id().frontend;
        if !vif.has_error_node() || self.vifs.iter().any(Vif::is_cleaning) {
            return None;
        }
        let others = self.vifs.iter().filter(|other| other.has_error_node());
        let mut others = others.map(Vif::id).filter(|id| *id != vif.id()).peekable();
        Some(if others.peek().is_none() {
            ERRORS.to_owned()
        } else if others.all(|id| id.frontend != guest) {
            format!("{ERRORS}/vif/{}", guest.0)
        } else {
            format!("error/{}", vif::dir(vif.id()))
        })
    }

    /// Something changed at or below `backend/vif`.
    fn changed(&mut self, path: &str) {
        let Some(rest) = path.strip_prefix(ROOT) else { return };
        let mut components = rest.split('/').skip(1);
        match (components.next(), components.next()) {
            (None, _) => {
                self.rescan = true;
                self.mark_all();
            }
            (Some(guest), None) => {
                let guest = keys::guest(guest);
                let of_guest = |vif: &&mut Vif| Some(vif.id().frontend) == guest;
                self.vifs.iter_mut().filter(of_guest).for_each(Vif::mark);
            }
            (Some(guest), Some(handle)) => {
                let Some(id) = keys::vif_id(guest, handle) else { return };
                match self.vifs.iter_mut().find(|vif| vif.id() == id) {
                    Some(vif) => vif.mark(),
                    None => self.meet(id),
                }
            }
        }
    }

    fn meet(&mut self, id: VifId) {
        if self.vifs.iter().any(|vif| vif.id() == id) {
            return;
        }
        if self.vifs.len() == MAX_VIFS {
            if !mem::replace(&mut self.overflow, true) {
                log::warn!("{id} and maybe others wait: there are {MAX_VIFS} vifs");
            }
            return;
        }
        self.vifs.push(Vif::new(id));
    }

    fn answer(
        &mut self,
        id: RequestId,
        result: &Result<Reply, Error>,
        host: &mut impl VifHost,
        now: Instant,
    ) {
        if self.watch == RootWatch::Asked(id) {
            self.watched(result, now);
            return;
        }
        match &mut self.scan {
            Scan::Guests(asked) if *asked == Some(id) => {
                let guests = names(result).filter_map(keys::guest);
                self.scan = Scan::Vifs(guests.collect(), None);
                return;
            }
            Scan::Vifs(left, asked) if *asked == Some(id) => {
                *asked = None;
                let Some(guest) = left.pop() else { return };
                let guest = format!("{}", guest.0);
                names(result).filter_map(|name| keys::vif_id(&guest, name)).for_each(|id| {
                    self.meet(id);
                });
                return;
            }
            _ => {}
        }
        let Some(place) = self.vifs.iter().position(|vif| vif.pending() == Some(id)) else {
            return;
        };
        let context = Context { now, stopping: self.stopping, error_root: None };
        self.vifs[place].answer(result.clone(), host, &context);
    }

    fn watched(&mut self, result: &Result<Reply, Error>, now: Instant) {
        self.watch = match result {
            Ok(_) | Err(Error::Exists) => RootWatch::Set,
            Err(error) => {
                log::error!("cannot watch for vifs: {error}");
                RootWatch::Wanted(now + REFUSAL_DELAY)
            }
        };
    }

    fn mark_all(&mut self) {
        self.vifs.iter_mut().for_each(Vif::mark);
        self.awake = true;
    }
}

/// The names in an answer; none where the directory is not there.
fn names(result: &Result<Reply, Error>) -> impl Iterator<Item = &str> {
    let names: &[String] = match result {
        Ok(Reply::Names(names)) => names,
        Err(error) if !error.is_absence() => {
            log::error!("cannot search for vifs: {error}");
            &[]
        }
        _ => &[],
    };
    names.iter().map(String::as_str)
}

#[cfg(test)]
mod tests;
