//! Event channels, as event_channel.c does them (H-14).

use std::collections::BTreeMap;

use super::domains::Domains;
use crate::event::{EventPort, RemotePort};
use crate::{DomainId, Errno};

/// `XEN_ESRCH`: no such domain.
const NO_DOMAIN: Errno = Errno(3);
/// `XEN_EINVAL`: no such port, or not for us.
const INVALID: Errno = Errno(22);
/// `XEN_ENOSPC`: we have no port left.
const NO_SPACE: Errno = Errno(28);

/// A guest's port.
#[derive(Clone, Copy, Hash, Debug)]
struct Channel {
    state: State,
    /// Events that arrived and were not taken.
    events: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    Unbound {
        remote: DomainId,
    },
    /// Bound to this port of ours.
    Bound(EventPort),
}

/// A guest's ports.
#[derive(Default, Hash, Debug)]
pub(super) struct Channels(BTreeMap<u32, Channel>);

impl Channels {
    /// Opens a port that `remote` may bind to.
    pub(super) fn alloc_unbound(&mut self, remote: DomainId) -> RemotePort {
        let port = lowest_free(&self.0);
        self.0.insert(port, Channel { state: State::Unbound { remote }, events: 0 });
        RemotePort(port)
    }

    /// Takes the events that arrived at a port, and says how many.
    pub(super) fn take_events(&mut self, port: RemotePort) -> usize {
        self.0.get_mut(&port.0).map_or(0, |channel| std::mem::take(&mut channel.events))
    }

    /// Where an event raised at `port` goes.
    pub(super) fn other_end(&self, port: RemotePort) -> Option<EventPort> {
        match self.0.get(&port.0)?.state {
            State::Bound(ours) => Some(ours),
            State::Unbound { .. } => None,
        }
    }

    /// Closes a port; our end of it stays, with nobody there.
    pub(super) fn close(&mut self, port: RemotePort) -> Option<EventPort> {
        let ours = self.other_end(port);
        self.0.remove(&port.0);
        ours
    }
}

/// A port of ours that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenPort {
    /// The port.
    pub port: EventPort,
    /// Whom it was bound to.
    pub domain: DomainId,
}

#[derive(Hash, Debug)]
struct Ours {
    domain: DomainId,
    /// The other end, until the guest closes it.
    remote: Option<RemotePort>,
    /// Whether it is the other end itself: our vCPUs' among each other.
    ipi: bool,
    pending: bool,
}

/// Our ports.
#[derive(Hash, Debug)]
pub(super) struct Ports {
    ports: BTreeMap<u32, Ours>,
    pub(super) limit: usize,
    /// Events raised at ports that are not open.
    pub(super) stray: usize,
}

impl Ports {
    pub(super) fn new() -> Self {
        // What a domain has by default (L-10).
        Self { ports: BTreeMap::new(), limit: 1023, stray: 0 }
    }

    pub(super) fn open(&self) -> impl Iterator<Item = OpenPort> {
        self.ports
            .iter()
            .map(|(port, ours)| OpenPort { port: EventPort(*port), domain: ours.domain })
    }

    pub(super) fn bind(
        &mut self,
        us: DomainId,
        domains: &mut Domains,
        id: DomainId,
        remote: RemotePort,
    ) -> Result<EventPort, Errno> {
        let domain = domains.alive(id).ok_or(NO_DOMAIN)?;
        if self.ports.len() >= self.limit {
            return Err(NO_SPACE);
        }
        let channel = domain.channels.0.get_mut(&remote.0).ok_or(INVALID)?;
        if channel.state != (State::Unbound { remote: us }) {
            return Err(INVALID);
        }
        let port = EventPort(lowest_free(&self.ports));
        channel.state = State::Bound(port);
        // What the guest raised before is lost, so Xen raises one to be safe.
        self.ports
            .insert(port.0, Ours { domain: id, remote: Some(remote), ipi: false, pending: true });
        Ok(port)
    }

    /// Opens a port at which we raise events for ourselves.
    pub(super) fn bind_ipi(&mut self, us: DomainId) -> EventPort {
        let port = EventPort(lowest_free(&self.ports));
        self.ports.insert(port.0, Ours { domain: us, remote: None, ipi: true, pending: false });
        port
    }

    pub(super) fn close(
        &mut self,
        us: DomainId,
        domains: &mut Domains,
        port: EventPort,
    ) -> Result<(), Errno> {
        let ours = self.ports.remove(&port.0).ok_or(INVALID)?;
        if let Some(remote) = ours.remote
            && let Some(domain) = domains.alive(ours.domain)
            && let Some(channel) = domain.channels.0.get_mut(&remote.0)
        {
            channel.state = State::Unbound { remote: us };
        }
        Ok(())
    }

    /// Raises the event at the other end of `port`, if anybody is there.
    pub(super) fn notify(&mut self, domains: &mut Domains, port: EventPort) {
        let Some(ours) = self.ports.get_mut(&port.0) else {
            self.stray += 1;
            return;
        };
        ours.pending |= ours.ipi;
        if let Some(remote) = ours.remote
            && let Some(domain) = domains.alive(ours.domain)
            && let Some(channel) = domain.channels.0.get_mut(&remote.0)
        {
            channel.events += 1;
        }
    }

    /// Raises the event at a port of ours.
    pub(super) fn raise(&mut self, port: EventPort) {
        if let Some(ours) = self.ports.get_mut(&port.0) {
            ours.pending = true;
        }
    }

    /// The other end of `port` is no more.
    pub(super) fn abandon(&mut self, port: EventPort) {
        if let Some(ours) = self.ports.get_mut(&port.0) {
            ours.remote = None;
        }
    }

    /// The other ends of a domain's ports are no more.
    pub(super) fn abandon_all(&mut self, domain: DomainId) {
        let theirs = self.ports.values_mut().filter(|ours| ours.domain == domain);
        theirs.for_each(|ours| ours.remote = None);
    }

    /// Whether an event is pending.
    pub(super) fn has_pending(&self) -> bool {
        self.ports.values().any(|ours| ours.pending)
    }

    /// Takes the event that is pending at a port; whether there was one.
    pub(super) fn take_pending_at(&mut self, port: EventPort) -> bool {
        self.ports.get_mut(&port.0).is_some_and(|ours| std::mem::take(&mut ours.pending))
    }

    /// Takes the pending events, lowest port first.
    pub(super) fn take_pending(&mut self) -> Vec<EventPort> {
        let pending = self.ports.iter_mut().filter_map(|(port, ours)| {
            std::mem::take(&mut ours.pending).then_some(EventPort(*port))
        });
        pending.collect()
    }
}

/// Ports are reused as early as can be, and port 0 is nobody's.
fn lowest_free<T>(ports: &BTreeMap<u32, T>) -> u32 {
    (1..).find(|port| !ports.contains_key(port)).expect("fewer ports than numbers")
}
