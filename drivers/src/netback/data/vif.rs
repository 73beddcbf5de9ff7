//! A connected vif: its rings, its event channel, its place on the switch.

use core::time::Duration;

use kernel::Pools;
use kernel::memory::{MapError, MappedPage, Window};
use kernel::packet::Batch;
use kernel::pages::ShardId;
use kernel::switch::{Holding, MAX_WAIT, PartialChecksums, Port, PortQueue};
use xen::event::EventPort;
use xen::{DomainId, Errno, Hypervisor, Instant};

use super::chain::Violation;
use super::rx::{RxCounters, RxQueue};
use super::tx::{TxCounters, TxQueue};
use crate::netback::Frontend;

/// How often a frontend that does not ask for receive events is looked at (P-22).
const POLL: Duration = Duration::from_millis(5);

/// Why a vif cannot be connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// A ring's page cannot be mapped.
    Map(&'static str, MapError),
    /// The event channel cannot be bound.
    Bind(Errno),
    /// A ring makes no sense.
    Ring(&'static str, Violation),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Map(key, MapError::NoFrame) => write!(f, "no frame left to map {key} at"),
            Self::Map(key, MapError::Refused(error)) => write!(f, "mapping {key}: {error}"),
            Self::Bind(error) => write!(f, "binding event-channel: {error}"),
            Self::Ring(key, violation) => write!(f, "{key}: {violation}"),
        }
    }
}

/// What a vif counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VifCounters {
    /// What the guest sends.
    pub tx: TxCounters,
    /// What the guest gets.
    pub rx: RxCounters,
}

/// A connected vif.
pub struct Vif<H: Hypervisor> {
    hypervisor: H,
    tx: TxQueue,
    rx: RxQueue,
    pages: [MappedPage; 2],
    event: EventPort,
    rx_notify: bool,
    partial_checksums: PartialChecksums,
    violation: Option<Violation>,
    /// When to look at the receive ring again, without an event.
    poll_at: Option<Instant>,
}

impl<H: Hypervisor> Vif<H> {
    /// Maps the rings and binds the event channel. On failure nothing is left.
    pub fn attach(
        hypervisor: H,
        domain: DomainId,
        frontend: &Frontend,
        pools: &mut Pools,
    ) -> Result<Self, AttachError> {
        let map = |window: &mut Window, key, reference| {
            MappedPage::map(&hypervisor, window, domain, reference)
                .map_err(|error| AttachError::Map(key, error))
        };
        let tx_page = map(&mut pools.window, "tx-ring-ref", frontend.tx_ring)?;
        let rx_page = match map(&mut pools.window, "rx-ring-ref", frontend.rx_ring) {
            Ok(page) => page,
            Err(error) => {
                unmap(&hypervisor, &mut pools.window, [tx_page]);
                return Err(error);
            }
        };
        match Self::attach_queues(&hypervisor, domain, frontend, [&tx_page, &rx_page], pools) {
            Ok((tx, rx, event)) => Ok(Self {
                hypervisor,
                tx,
                rx,
                pages: [tx_page, rx_page],
                event,
                rx_notify: frontend.rx_notify,
                partial_checksums: PartialChecksums {
                    v4: frontend.ipv4_checksum,
                    v6: frontend.ipv6_checksum,
                },
                violation: None,
                poll_at: None,
            }),
            Err(error) => {
                unmap(&hypervisor, &mut pools.window, [tx_page, rx_page]);
                Err(error)
            }
        }
    }

    fn attach_queues(
        hypervisor: &H,
        domain: DomainId,
        frontend: &Frontend,
        [tx, rx]: [&MappedPage; 2],
        pools: &mut Pools,
    ) -> Result<(TxQueue, RxQueue, EventPort), AttachError> {
        let rx = RxQueue::attach(rx.page(hypervisor), domain, frontend.scatter_gather)
            .map_err(|violation| AttachError::Ring("rx-ring-ref", violation))?;
        let tx = TxQueue::attach(tx.page(hypervisor), domain, pools)
            .map_err(|violation| AttachError::Ring("tx-ring-ref", violation))?;
        match hypervisor.bind_interdomain(domain, frontend.port) {
            Ok(event) => Ok((tx, rx, event)),
            Err(error) => {
                pools.tracker.close(tx.shard());
                Err(AttachError::Bind(error))
            }
        }
    }

    /// Undoes [`attach`](Self::attach). Pages of the guest's that somebody still
    /// holds come back to the tracker later, and are not answered (O-13).
    pub fn detach(self, pools: &mut Pools) {
        pools.tracker.close(self.tx.shard());
        if let Err(error) = self.hypervisor.close(self.event) {
            log::error!("closing event channel {}: {error}", self.event.0);
        }
        unmap(&self.hypervisor, &mut pools.window, self.pages);
    }

    /// The event channel's port.
    pub fn event(&self) -> EventPort {
        self.event
    }

    /// The guest's lent pages.
    pub fn shard(&self) -> ShardId {
        self.tx.shard()
    }

    /// How the frontend broke the protocol, where it did: it is not served any
    /// more (P-16).
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// The counters.
    pub fn counters(&self) -> VifCounters {
        VifCounters { tx: self.tx.counters(), rx: self.rx.counters() }
    }

    /// When the vif wants to be looked at, although no event says so.
    pub fn poll_at(&self) -> Option<Instant> {
        self.poll_at
    }

    /// Whether that moment has come, told once.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.poll_at.take_if(|at| *at <= now).is_some()
    }

    /// Takes what the guest sent, up to a full batch. Says whether there may be
    /// more; where there is not, the guest's next request raises an event.
    pub fn receive(&mut self, pools: &mut Pools, batch: &mut Batch, now: Instant) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let more = match self.tx.receive(&self.hypervisor, pools, batch, now) {
            Ok(true) => Ok(true),
            Ok(false) => self.tx.rearm(),
            Err(violation) => Err(violation),
        };
        more.unwrap_or_else(|violation| self.break_off(violation))
    }

    /// Answers the requests whose pages nobody holds any more.
    pub fn complete(&mut self, pools: &mut Pools) {
        if pools.tracker.quarantined(self.shard()) > 0 {
            self.break_off(Violation::Quarantined);
        }
        // After a violation responses are still written, but nobody is told.
        let notify = self.tx.complete(pools);
        if notify && self.violation.is_none() {
            self.hypervisor.notify(self.event);
        }
    }

    fn break_off(&mut self, violation: Violation) -> bool {
        self.violation.get_or_insert(violation);
        false
    }
}

impl<H: Hypervisor> Port for Vif<H> {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant) {
        if self.violation.is_none() {
            match self.rx.transmit(&self.hypervisor, queue, pools) {
                Ok(true) => self.hypervisor.notify(self.event),
                Ok(false) => {}
                Err(violation) => {
                    self.break_off(violation);
                }
            }
        }
        if self.violation.is_some() {
            while let Some(packet) = queue.pop() {
                pools.give(packet);
            }
        }
        let poll = !self.rx_notify && !queue.is_empty();
        self.poll_at = poll.then(|| now + POLL);
    }

    /// Copies are made before `transmit` returns; a packet waits in the queue no
    /// longer than the queue's own deadline.
    fn holding(&self) -> Holding {
        Holding::Granted(MAX_WAIT)
    }

    fn partial_checksums(&self) -> PartialChecksums {
        self.partial_checksums
    }
}

fn unmap<H: Hypervisor>(
    hypervisor: &H,
    window: &mut Window,
    pages: impl IntoIterator<Item = MappedPage>,
) {
    for page in pages {
        if let Err(error) = page.unmap(hypervisor, window) {
            log::error!("unmapping a ring: {error}");
        }
    }
}
