//! A connected vif: its queues, its control ring, its place on the switch.

use alloc::vec::Vec;
use core::ops::AddAssign;
use core::time::Duration;

use kernel::Pools;
use kernel::memory::{Buffers, MapError};
use kernel::packet::{Batch, Packet, flow};
use kernel::pages::ShardId;
use kernel::switch::{Groups, Holding, MAX_WAIT, Port, PortQueue, Traffic, Versions};
use xen::event::EventPort;
use xen::{DomainId, Errno, Hypervisor, Instant};

use super::chain::Violation;
use super::common::Common;
use super::control::Control;
use super::credit::Credit;
use super::queue::{Channels, Queue, close, unmap};
use super::rx::{RxCounters, STALL_TIMEOUT};
use super::steering::Steering;
use super::tx::TxCounters;
use crate::netback::{Carrier, Frontend, MAX_QUEUES, Options};

/// The most event channels of a vif: two for each queue, and one for the control ring.
const MAX_PORTS: usize = 2 * MAX_QUEUES + 1;
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
    /// An event channel cannot be bound.
    Bind(&'static str, Errno),
    /// A ring makes no sense.
    Ring(&'static str, Violation),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Map(key, MapError::NoFrame) => write!(f, "no frame left to map {key} at"),
            Self::Map(key, MapError::Refused(error)) => write!(f, "mapping {key}: {error}"),
            Self::Bind(key, error) => write!(f, "binding {key}: {error}"),
            Self::Ring(key, violation) => write!(f, "{key}: {violation}"),
        }
    }
}

/// What a vif counts, or one of its queues.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VifCounters {
    /// What the guest sends.
    pub tx: TxCounters,
    /// What the guest gets.
    pub rx: RxCounters,
}

impl AddAssign for VifCounters {
    fn add_assign(&mut self, Self { tx, rx }: Self) {
        self.tx += tx;
        self.rx += rx;
    }
}

/// How a queue is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueStatus {
    /// Its number, where the vif has several.
    pub number: Option<u8>,
    /// What it counts.
    pub counters: VifCounters,
    /// Whether the guest has left it short of receive slots for too long, so that what
    /// comes for it is dropped.
    pub stalled: bool,
}

/// What an event of a vif's is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Either ring of a queue.
    Queue(usize),
    /// A queue's tx ring.
    Tx(usize),
    /// A queue's rx ring.
    Rx(usize),
    /// The control ring.
    Control,
}

/// How long packets that lie in our memory may wait for a frontend.
pub fn patience(frontend: &Frontend) -> Duration {
    if frontend.rx_notify { STALL_TIMEOUT } else { POLLED_WAIT }
}

/// A connected vif.
#[derive(Debug)]
pub struct Vif<H: Hypervisor> {
    hypervisor: H,
    queues: Vec<Queue>,
    control: Option<Control>,
    steering: Steering,
    /// The queue whose turn it is to be taken from.
    turn: usize,
    rx_notify: bool,
    partial_checksums: Versions,
    /// What the frontend takes uncut, headroom aside.
    segmentation: Versions,
    /// Whether it wants any headroom.
    has_headroom: bool,
    common: Common,
    carrier: Carrier<Violation>,
    /// When to look at the receive rings again, without an event.
    look_at: Option<Instant>,
}

impl<H: Hypervisor> Vif<H> {
    /// Maps the rings and binds the event channels. On failure nothing is left.
    pub fn attach(
        hypervisor: H,
        domain: DomainId,
        frontend: &Frontend,
        seed: flow::Seed,
        pools: &mut Pools,
    ) -> Result<Self, AttachError> {
        let count = frontend.queues.len();
        let mut vif = Self {
            hypervisor,
            queues: Vec::with_capacity(count),
            control: None,
            steering: Steering::new(count, seed),
            turn: 0,
            rx_notify: frontend.rx_notify,
            partial_checksums: Versions { v4: frontend.ipv4_checksum, v6: frontend.ipv6_checksum },
            segmentation: frontend.segmentation(),
            has_headroom: false,
            common: Common::default(),
            carrier: Carrier::Up,
            look_at: None,
        };
        match vif.attach_rings(domain, frontend, pools) {
            Ok(()) => Ok(vif),
            Err(error) => {
                vif.detach(pools);
                Err(error)
            }
        }
    }

    /// Attaches one ring after the other, until one cannot be.
    fn attach_rings(
        &mut self,
        domain: DomainId,
        frontend: &Frontend,
        pools: &mut Pools,
    ) -> Result<(), AttachError> {
        let hypervisor = &self.hypervisor;
        for rings in &frontend.queues {
            self.queues.push(Queue::attach(hypervisor, domain, frontend, rings, pools)?);
        }
        if let Some(control) = &frontend.control {
            let window = &mut pools.window;
            self.control = Some(Control::attach(hypervisor, domain, control, window)?);
        }
        Ok(())
    }

    /// Limits what the guest may send from now on. The queues are to be looked at anew.
    pub fn limit(&mut self, credit: Option<Credit>) {
        self.common.credit = credit;
        for queue in &mut self.queues {
            queue.ready |= queue.tx.resume();
        }
    }

    /// What the guest may still send, where that is limited.
    pub fn credit(&self) -> Option<Credit> {
        self.common.credit
    }

    /// Takes note of what the frontend may change while it is connected.
    pub fn set_options(&mut self, options: Options) {
        self.common.set_filters(options.multicast_control);
        self.has_headroom = options.xdp_headroom > 0;
        for queue in &mut self.queues {
            queue.rx.set_headroom(options.xdp_headroom);
        }
    }

    /// Over which versions of IP the guest takes TCP segments that are still to be cut, now.
    /// None where it wants headroom: who looks at packets there sees into one page (P-23).
    pub const fn segmentation(&self) -> Versions {
        if self.has_headroom { Versions::NONE } else { self.segmentation }
    }

    /// The groups that the guest wants multicast of, `None` for all, where that changed
    /// since this was asked last.
    pub fn changed_filter(&mut self) -> Option<Option<&Groups>> {
        self.common.changed_filter()
    }

    /// Undoes [`attach`](Self::attach), in the order of O-12. Pages of the guest's that
    /// somebody still holds come back to the tracker later, and are not answered (O-13).
    pub fn detach(self, pools: &mut Pools) {
        self.shards().for_each(|shard| pools.tracker.close(shard));
        let ports: heapless::Vec<_, MAX_PORTS> = self.events().map(|(port, _)| port).collect();
        let control = self.control.map(Control::into_page);
        let pages = self.queues.into_iter().flat_map(Queue::into_pages).chain(control);
        unmap(&self.hypervisor, &mut pools.window, pages);
        ports.iter().for_each(|port| close(&self.hypervisor, *port));
    }

    /// The ports of its event channels, and what each is about.
    pub fn events(&self) -> impl Iterator<Item = (EventPort, Signal)> {
        let queues = self.queues.iter().enumerate().flat_map(|(place, queue)| {
            let (first, second) = match queue.channels {
                Channels::Shared(port) => ((port, Signal::Queue(place)), None),
                Channels::Split { tx, rx } => {
                    ((tx, Signal::Tx(place)), Some((rx, Signal::Rx(place))))
                }
            };
            [Some(first), second].into_iter().flatten()
        });
        let control = self.control.iter().map(|control| (control.event(), Signal::Control));
        queues.chain(control)
    }

    /// By queue, the guest's lent pages.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.queues.iter().map(|queue| queue.tx.shard())
    }

    /// How many pages of the guest's are mapped for good.
    pub fn rings(&self) -> usize {
        2 * self.queues.len() + usize::from(self.control.is_some())
    }

    /// How many of the guest's pages are still lent to us.
    pub fn lent(&self, pools: &Pools) -> usize {
        self.shards().map(|shard| usize::from(pools.tracker.outstanding(shard))).sum()
    }

    /// Whether packets reach the guest.
    pub fn carrier(&self) -> Carrier<Violation> {
        self.carrier
    }

    /// The counters, of all queues together.
    pub fn counters(&self) -> VifCounters {
        let mut sum = VifCounters::default();
        self.queues().for_each(|queue| sum += queue.counters);
        sum
    }

    /// The queues.
    pub fn queues(&self) -> impl Iterator<Item = QueueStatus> {
        self.queues.iter().map(|Queue { number, tx, rx, stalled, .. }| {
            let counters = VifCounters { tx: tx.counters(), rx: rx.counters() };
            QueueStatus { number: *number, counters, stalled: *stalled }
        })
    }

    /// When a ring wants to be looked at, although no event says so.
    pub fn look_at(&self) -> Option<Instant> {
        let resumed = self.queues.iter().filter_map(|queue| queue.tx.resumes_at());
        self.look_at.into_iter().chain(resumed).min()
    }

    /// Whether what the guest sent waited for credit that is there now; told once.
    pub fn resumes(&mut self, now: Instant) -> bool {
        let mut resumes = false;
        for queue in &mut self.queues {
            if queue.tx.resumes(now) {
                queue.ready = true;
                resumes = true;
            }
        }
        resumes
    }

    /// Whether a queue has stalled, so that an event may be about its being refilled.
    pub fn has_stalled(&self) -> bool {
        self.queues.iter().any(|queue| queue.stalled)
    }

    /// Takes note of an event.
    pub fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Queue(place) | Signal::Tx(place) => {
                if let Some(queue) = self.queues.get_mut(place) {
                    queue.ready = true;
                }
            }
            Signal::Rx(_) => {}
            Signal::Control => {
                if let Some(control) = &mut self.control {
                    control.ready = true;
                }
            }
        }
    }

    /// Looks at the receive rings whose moment has come, or which have stalled: after an
    /// event the guest may have refilled them. Says whether packets that wait are to be
    /// tried again. A guest that does not say when it has receive slots never stalls
    /// (P-22). One that leaves some of its rings short loses what comes for those, and
    /// has no carrier once they are all of them.
    pub fn look(&mut self, now: Instant) -> bool {
        let due = self.look_at.take_if(|at| *at <= now).is_some();
        if self.is_broken() {
            return due;
        }
        for queue in &mut self.queues {
            let overdue = queue.rx.stalls_at().is_some_and(|at| at <= now);
            if queue.stalled || due && self.rx_notify && overdue {
                match queue.rx.is_refilled() {
                    Ok(refilled) => queue.stalled = !refilled,
                    Err(violation) => {
                        self.carrier = Carrier::Broken(violation);
                        return due;
                    }
                }
            }
        }
        let stalled = self.queues.iter().all(|queue| queue.stalled);
        self.carrier = if stalled { Carrier::Stalled } else { Carrier::Up };
        if self.rx_notify {
            self.look_at = self.stalls_at();
        }
        due
    }

    /// When the next queue has stalled, if it stays as it is.
    fn stalls_at(&self) -> Option<Instant> {
        let moving = self.queues.iter().filter(|queue| !queue.stalled);
        moving.filter_map(|queue| queue.rx.stalls_at()).min()
    }

    /// Does what the guest asks for by its control ring and takes what it sent, up to a
    /// full batch, from its queues in turn. Says whether there may be more; where there
    /// is not, the guest's next request raises an event.
    pub fn receive(&mut self, pools: &mut Pools, batch: &mut Batch, now: Instant) -> bool {
        if self.is_broken() {
            return false;
        }
        self.serve(pools, batch, now).unwrap_or_else(|violation| {
            self.break_off(violation);
            false
        })
    }

    fn serve(
        &mut self,
        pools: &mut Pools,
        batch: &mut Batch,
        now: Instant,
    ) -> Result<bool, Violation> {
        if let Some(control) = &mut self.control {
            control.serve(&self.hypervisor, &mut self.steering, pools)?;
        }
        let count = self.queues.len();
        for place in (self.turn..self.turn + count).map(|place| place % count) {
            if batch.is_full() {
                break;
            }
            let queue = &mut self.queues[place];
            if !queue.ready {
                continue;
            }
            self.turn = place + 1;
            let more = queue.tx.receive(&self.hypervisor, pools, &mut self.common, batch, now)?;
            // One that waits for credit need not say that there is more, since that is not
            // taken either.
            let waits = queue.tx.resumes_at().is_some();
            queue.ready = more || !waits && queue.tx.rearm()?;
            // It has more than a batch: those behind it wait as well, so that no guest
            // keeps us by having many queues.
            if queue.ready {
                break;
            }
        }
        let asked = self.control.as_ref().is_some_and(|control| control.ready);
        Ok(asked || self.queues.iter().any(|queue| queue.ready))
    }

    /// Answers a queue's requests whose pages nobody holds any more.
    pub fn complete(&mut self, queue: usize, pools: &mut Pools) {
        let Some(Queue { tx, channels, .. }) = self.queues.get_mut(queue) else { return };
        let quarantined = pools.tracker.quarantined(tx.shard()) > 0;
        // After a violation responses are still written, but nobody is told.
        let notify = tx.complete(pools);
        let port = channels.tx();
        if quarantined {
            self.break_off(Violation::Quarantined);
        }
        if notify && !self.is_broken() {
            self.hypervisor.notify(port);
        }
    }

    /// The same, of all queues.
    pub fn complete_all(&mut self, pools: &mut Pools) {
        (0..self.queues.len()).for_each(|queue| self.complete(queue, pools));
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
        let mut traffic = Traffic::default();
        let lanes = self.lanes();
        for (number, ring) in (0..lanes).zip(&mut self.queues) {
            let mut lane = queue.lane(number, lanes);
            if ring.stalled {
                // As without a carrier, nothing waits for it.
                while let Some(packet) = lane.pop() {
                    pools.give(packet);
                }
                continue;
            }
            let before = ring.rx.counters();
            let result = ring.rx.transmit(&self.hypervisor, &mut lane, pools, now);
            let RxCounters { packets, bytes, .. } = ring.rx.counters();
            traffic.packets += packets - before.packets;
            traffic.bytes += bytes - before.bytes;
            match result {
                Ok(true) => self.hypervisor.notify(ring.channels.rx()),
                Ok(false) => {}
                Err(violation) => {
                    self.carrier = Carrier::Broken(violation);
                    break;
                }
            }
        }
        self.look_at = match self.rx_notify {
            true => self.stalls_at(),
            false => (!queue.is_empty()).then(|| now + POLL),
        };
        traffic
    }

    /// Copies into the guest's pages are made before `transmit` returns; what waits in
    /// the queue for longer is copied or dropped by the switch.
    fn holding(&self) -> Holding {
        Holding::Granted(MAX_WAIT)
    }

    fn lanes(&self) -> u8 {
        self.queues.len() as u8
    }

    fn steers(&self) -> bool {
        self.lanes() > 1 || self.steering.hashes()
    }

    fn steer(&self, packet: &mut Packet, buffers: &Buffers) -> Option<u8> {
        let (queue, hash) = self.steering.steer(packet.headers(buffers), packet.len());
        packet.meta.hash = hash;
        let open = self.queues.get(usize::from(queue)).is_some_and(|queue| !queue.stalled);
        open.then_some(queue)
    }

    fn partial_checksums(&self) -> Versions {
        self.partial_checksums
    }
}
