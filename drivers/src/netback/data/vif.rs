//! A connected vif: its rings, its event channel, its place on the switch.

use core::time::Duration;

use kernel::Pools;
use kernel::memory::{MapError, MappedPage, Window};
use kernel::packet::Batch;
use kernel::pages::ShardId;
use kernel::switch::{Groups, Holding, MAX_WAIT, PartialChecksums, Port, PortQueue, Traffic};
use xen::event::EventPort;
use xen::{DomainId, Errno, Hypervisor, Instant};

use super::chain::Violation;
use super::common::Common;
use super::credit::Credit;
use super::rx::{RxCounters, RxQueue, STALL_TIMEOUT};
use super::tx::{TxCounters, TxQueue};
use crate::netback::{Carrier, Frontend, Options};

/// How often a frontend that does not say when it has receive slots is looked at
/// (P-22).
const POLL: Duration = Duration::from_millis(5);
/// How long packets wait for such a frontend (P-22).
const POLLED_WAIT: Duration = Duration::from_millis(30);

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

/// How long packets that lie in our memory may wait for a frontend.
pub fn patience(frontend: &Frontend) -> Duration {
    if frontend.rx_notify { STALL_TIMEOUT } else { POLLED_WAIT }
}

/// A connected vif.
#[derive(Debug)]
pub struct Vif<H: Hypervisor> {
    hypervisor: H,
    tx: TxQueue,
    rx: RxQueue,
    pages: [MappedPage; 2],
    event: EventPort,
    rx_notify: bool,
    partial_checksums: PartialChecksums,
    common: Common,
    carrier: Carrier<Violation>,
    /// When to look at the receive ring again, without an event.
    look_at: Option<Instant>,
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
                common: Common::default(),
                carrier: Carrier::Up,
                look_at: None,
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

    /// Limits what the guest may send from now on.
    pub fn limit(&mut self, credit: Option<Credit>) {
        self.common.credit = credit;
    }

    /// What the guest may still send, where that is limited.
    pub fn credit(&self) -> Option<Credit> {
        self.common.credit
    }

    /// Takes note of what the frontend may change while it is connected.
    pub fn set_options(&mut self, options: Options) {
        self.common.set_filters(options.multicast_control);
        self.rx.set_headroom(options.xdp_headroom);
    }

    /// The groups that the guest wants multicast of, `None` for all, where that changed
    /// since this was asked last.
    pub fn changed_filter(&mut self) -> Option<Option<&Groups>> {
        self.common.changed_filter()
    }

    /// Undoes [`attach`](Self::attach), in the order of O-12. Pages of the guest's that
    /// somebody still holds come back to the tracker later, and are not answered (O-13).
    pub fn detach(self, pools: &mut Pools) {
        pools.tracker.close(self.tx.shard());
        unmap(&self.hypervisor, &mut pools.window, self.pages);
        if let Err(error) = self.hypervisor.close(self.event) {
            log::error!("closing event channel {}: {error}", self.event.0);
        }
    }

    /// The event channel's port.
    pub fn event(&self) -> EventPort {
        self.event
    }

    /// The guest's lent pages.
    pub fn shard(&self) -> ShardId {
        self.tx.shard()
    }

    /// Whether packets reach the guest.
    pub fn carrier(&self) -> Carrier<Violation> {
        self.carrier
    }

    /// The counters.
    pub fn counters(&self) -> VifCounters {
        VifCounters { tx: self.tx.counters(), rx: self.rx.counters() }
    }

    /// When a ring wants to be looked at, although no event says so.
    pub fn look_at(&mut self) -> Option<Instant> {
        self.look_at.into_iter().chain(*self.tx.resumes_at()).min()
    }

    /// Whether what the guest sent waited for credit that is there now; told once.
    pub fn resumes(&mut self, now: Instant) -> bool {
        self.tx.resumes_at().take_if(|at| *at <= now).is_some()
    }

    /// Looks at the receive ring, if that moment has come or the guest has stalled:
    /// after an event it may have refilled the ring. Says whether packets that wait
    /// are to be tried again. A guest that does not say when it has receive slots
    /// never stalls (P-22).
    pub fn look(&mut self, now: Instant) -> bool {
        let due = self.look_at.take_if(|at| *at <= now).is_some();
        let in_question = match self.carrier {
            Carrier::Up => due && self.rx_notify,
            Carrier::Stalled => true,
            Carrier::Broken(_) => false,
        };
        if in_question {
            match self.rx.is_refilled() {
                Ok(true) => self.carrier = Carrier::Up,
                Ok(false) => self.carrier = Carrier::Stalled,
                Err(violation) => self.break_off(violation),
            }
        }
        due
    }

    /// Takes what the guest sent, up to a full batch. Says whether there may be
    /// more; where there is not, the guest's next request raises an event.
    pub fn receive(&mut self, pools: &mut Pools, batch: &mut Batch, now: Instant) -> bool {
        if self.is_broken() {
            return false;
        }
        let more = match self.tx.receive(&self.hypervisor, pools, &mut self.common, batch, now) {
            Ok(true) => Ok(true),
            // The guest need not say that there is more, since that is not taken either.
            Ok(false) if self.tx.resumes_at().is_some() => Ok(false),
            Ok(false) => self.tx.rearm(),
            Err(violation) => Err(violation),
        };
        more.unwrap_or_else(|violation| {
            self.break_off(violation);
            false
        })
    }

    /// Answers the requests whose pages nobody holds any more.
    pub fn complete(&mut self, pools: &mut Pools) {
        if pools.tracker.quarantined(self.shard()) > 0 {
            self.break_off(Violation::Quarantined);
        }
        // After a violation responses are still written, but nobody is told.
        let notify = self.tx.complete(pools);
        if notify && !self.is_broken() {
            self.hypervisor.notify(self.event);
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self.carrier, Carrier::Broken(_))
    }

    fn break_off(&mut self, violation: Violation) {
        if !self.is_broken() {
            self.carrier = Carrier::Broken(violation);
        }
    }
}

impl<H: Hypervisor> Port for Vif<H> {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant) -> Traffic {
        if self.carrier != Carrier::Up {
            return Traffic::default();
        }
        let before = self.rx.counters();
        match self.rx.transmit(&self.hypervisor, queue, pools, now) {
            Ok(true) => self.hypervisor.notify(self.event),
            Ok(false) => {}
            Err(violation) => self.break_off(violation),
        }
        self.look_at = if self.rx_notify {
            self.rx.stalls_at()
        } else {
            (!queue.is_empty()).then(|| now + POLL)
        };
        let RxCounters { packets, bytes, .. } = self.rx.counters();
        Traffic { packets: packets - before.packets, bytes: bytes - before.bytes }
    }

    /// Copies into the guest's pages are made before `transmit` returns; what waits in
    /// the queue for longer is copied or dropped by the switch.
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
