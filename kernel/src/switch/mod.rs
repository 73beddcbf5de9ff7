//! Which port a packet goes to.
//!
//! A switch is a learning bridge of a fixed number of ports. A pass is:
//! [`forward`](Switches::forward) what came from each port into the queues of
//! those it goes to, then [`flush`](Switches::flush) the queues. Nothing in a pass
//! allocates, and whatever becomes of a packet is counted, at the port it came
//! from or at the one it was to go to. Some of what is dropped can be looked at once
//! more, on the slow path.

mod bridge;
mod counters;
mod port;
mod prepare;
mod queue;
mod slow;
mod switches;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use xen::{Hypervisor, Instant};

use crate::Pools;
use crate::defect::{self, Defect};
use crate::packet::{Addresses, Batch, ETHERNET_HEADER, Ethernet, Packet};
use bridge::{Bridge, Forged, Learning};
use prepare::Underway;

pub use bridge::{BridgeCounters, PinError, Seed};
pub use counters::{Counters, DropReason, Traffic};
pub use port::{Holding, JoinError, PartialChecksums, Port, PortConfig, PortId, Ports};
pub use queue::{PortQueue, QueueLimits};
pub use slow::{PuntReason, Punted, SlowPath};
pub use switches::{BadName, BridgeName, Limits, Switches};

/// How long a packet waits for a port (NETBACK-SPEC O-8).
pub const MAX_WAIT: Duration = Duration::from_millis(100);

/// A learning bridge and its ports.
pub struct Switch {
    number: u16,
    slots: Box<[Slot]>,
    bridge: Bridge,
    /// Ports with something to send, each at most once.
    dirty: Vec<u16>,
    underway: Underway,
    /// No packet expires before this; `None` while none waits.
    deadline: Option<Instant>,
}

/// A place for a port.
struct Slot {
    generation: u32,
    state: Option<PortState>,
}

/// A port, as the switch sees it.
struct PortState {
    config: PortConfig,
    queue: PortQueue,
    counters: Counters,
    /// Whether it stands in the list of dirty ports.
    dirty: bool,
}

/// Where a packet goes.
enum Way {
    To(u16),
    Flood,
}

impl Switch {
    /// A switch without ports. Allocates its tables.
    fn new(number: u16, limits: &Limits, seed: Seed) -> Self {
        Self {
            number,
            slots: (0..limits.ports).map(|_| Slot { generation: 0, state: None }).collect(),
            bridge: Bridge::new(limits.addresses, limits.ports, seed),
            dirty: Vec::with_capacity(usize::from(limits.ports)),
            underway: Underway::new(),
            deadline: None,
        }
    }

    /// The ports and what they count.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Counters)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            slot.state.as_ref().map(|state| (self.id(index), &state.counters))
        })
    }

    /// What the table of addresses counts.
    pub const fn bridge(&self) -> BridgeCounters {
        self.bridge.counters()
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.state.is_none())
    }

    /// Adds a port. Allocates its queue.
    fn add(&mut self, config: PortConfig) -> Result<PortId, JoinError> {
        let free = self.slots.iter().position(|slot| slot.state.is_none());
        let index = free.ok_or(JoinError::Ports)? as u16;
        self.bridge.open(index, Learning { limit: config.addresses, uplink: config.uplink });
        if let Some(address) = config.address {
            self.bridge.pin(address, index).map_err(JoinError::Address)?;
        }
        self.slots[usize::from(index)].state = Some(PortState {
            config,
            queue: PortQueue::with_sources(config.queue, self.slots.len() as u16),
            counters: Counters::default(),
            dirty: false,
        });
        Ok(self.id(index))
    }

    /// Removes a port with all that waits for it; what it counted.
    fn remove(&mut self, id: PortId, pools: &mut Pools) -> Option<Counters> {
        let index = self.index(id)?;
        let slot = &mut self.slots[usize::from(index)];
        let mut state = slot.state.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        while let Some(packet) = state.queue.pop() {
            state.counters.discard(DropReason::Removed, packet, pools);
        }
        self.dirty.retain(|dirty| *dirty != index);
        self.bridge.close(index);
        Some(state.counters)
    }

    /// Puts what came from a port into the queues of those it goes to.
    fn forward(
        &mut self,
        from: u16,
        batch: &mut Batch,
        pools: &mut Pools,
        slow: &mut SlowPath,
        now: Instant,
    ) {
        let seconds = seconds(now);
        while let Some(packet) = batch.pop_front() {
            if let Some(state) = self.state_mut(from) {
                state.counters.received.add(1, packet.len());
            }
            match self.way(from, packet.headers(&pools.buffers), seconds) {
                Ok(Way::To(port)) => self.enqueue(port, from, packet, pools, now),
                Ok(Way::Flood) => self.flood(from, packet, pools, now),
                Err(reason) => self.refuse(from, reason, packet, pools, slow),
            }
        }
    }

    /// Sends what waits for the dirty ports, after making it ready.
    fn flush<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        now: Instant,
        ports: &mut impl Ports,
    ) {
        self.prepare(hypervisor, pools, now, ports);
        for dirty in 0..self.dirty.len() {
            let index = self.dirty[dirty];
            let id = self.id(index);
            let Some(state) = self.state_mut(index) else { continue };
            state.dirty = false;
            let Some(port) = ports.port(id) else { continue };
            let (packets, bytes) = (state.queue.len(), state.queue.bytes());
            port.transmit(&mut state.queue, pools, now);
            let (packets, bytes) = (packets - state.queue.len(), bytes - state.queue.bytes());
            state.counters.sent.add(packets, bytes);
        }
        self.settle(hypervisor, pools, ports);
        self.dirty.clear();
    }

    /// Takes note that a port may be able to send again.
    fn wake(&mut self, id: PortId) {
        if let Some(index) = self.index(id)
            && let Some(state) = &self.slots[usize::from(index)].state
            && !state.queue.is_empty()
        {
            self.set_dirty(index);
        }
    }

    /// Drops what waited for too long, and forgets addresses that aged.
    fn expire(&mut self, pools: &mut Pools, now: Instant) {
        self.bridge.sweep(seconds(now));
        let early = self.deadline.is_none_or(|deadline| now < deadline);
        if early || defect::is(Defect::NothingExpires) {
            return;
        }
        self.deadline = None;
        for state in self.slots.iter_mut().filter_map(|slot| slot.state.as_mut()) {
            while let Some(since) = state.queue.oldest() {
                let deadline = since + MAX_WAIT;
                if now < deadline {
                    self.deadline = Some(self.deadline.map_or(deadline, |at| at.min(deadline)));
                    break;
                }
                let Some(packet) = state.queue.pop() else { break };
                state.counters.discard(DropReason::Expired, packet, pools);
            }
        }
    }

    /// Learns where a frame came from and finds where it goes.
    fn way(&mut self, from: u16, headers: &[u8], now: u32) -> Result<Way, DropReason> {
        let Addresses { destination, source } =
            Addresses::parse(headers).ok_or(DropReason::Runt)?;
        if !source.is_unicast() {
            return Err(DropReason::BadSource);
        }
        self.bridge.learn(source, from, now).map_err(|Forged| DropReason::Forged)?;
        if destination.is_multicast() {
            let reserved = destination.is_reserved();
            return if reserved { Err(DropReason::Reserved) } else { Ok(Way::Flood) };
        }
        match self.bridge.lookup(destination, now) {
            Some(port) if port == from => Err(DropReason::SamePort),
            Some(port) => Ok(Way::To(port)),
            None => Ok(Way::Flood),
        }
    }

    /// Sends a packet to all ports but the one it came from: clones to all but the
    /// last, which gets the packet itself.
    fn flood(&mut self, from: u16, packet: Box<Packet>, pools: &mut Pools, now: Instant) {
        let mut last = None;
        for index in 0..self.slots.len() as u16 {
            if index == from || self.slots[usize::from(index)].state.is_none() {
                continue;
            }
            if let Some(previous) = last.replace(index) {
                self.enqueue_clone(previous, from, &packet, pools, now);
            }
        }
        match last {
            Some(last) => self.enqueue(last, from, packet, pools, now),
            None => self.discard(from, DropReason::Nowhere, packet, pools),
        }
    }

    fn enqueue_clone(
        &mut self,
        to: u16,
        from: u16,
        packet: &Packet,
        pools: &mut Pools,
        now: Instant,
    ) {
        let Some(state) = self.state_mut(to) else { return };
        match state.admit(packet, pools) {
            Ok(()) => match pools.share(packet) {
                Some(clone) => self.enqueue(to, from, clone, pools, now),
                None => state.counters.count(DropReason::Exhausted),
            },
            Err(reason) => state.counters.count(reason),
        }
    }

    fn enqueue(
        &mut self,
        to: u16,
        from: u16,
        packet: Box<Packet>,
        pools: &mut Pools,
        now: Instant,
    ) {
        let Some(state) = self.state_mut(to) else { return pools.give(packet) };
        if let Err(reason) = state.admit(&packet, pools) {
            return state.counters.discard(reason, packet, pools);
        }
        if let Err(packet) = state.queue.push_fresh(packet, from, now) {
            return state.counters.discard(DropReason::QueueFull, packet, pools);
        }
        // Whatever waits already expires earlier.
        self.deadline.get_or_insert(now + MAX_WAIT);
        self.set_dirty(to);
    }

    /// Does not forward a packet, which may still be worth a look.
    fn refuse(
        &mut self,
        from: u16,
        reason: DropReason,
        packet: Box<Packet>,
        pools: &mut Pools,
        slow: &mut SlowPath,
    ) {
        let Some(why) = PuntReason::of(reason) else {
            return self.discard(from, reason, packet, pools);
        };
        if let Some(state) = self.state_mut(from) {
            state.counters.count(reason);
        }
        slow.punt(why, self.id(from), packet, pools);
    }

    fn discard(&mut self, port: u16, reason: DropReason, packet: Box<Packet>, pools: &mut Pools) {
        match self.state_mut(port) {
            Some(state) => state.counters.discard(reason, packet, pools),
            None => pools.give(packet),
        }
    }

    fn set_dirty(&mut self, index: u16) {
        if let Some(state) = self.state_mut(index)
            && !core::mem::replace(&mut state.dirty, true)
        {
            self.dirty.push(index);
        }
    }

    fn id(&self, index: u16) -> PortId {
        let generation = self.slots[usize::from(index)].generation;
        PortId { switch: self.number, index, generation }
    }

    /// Where a port of this switch is, while it is there.
    fn index(&self, id: PortId) -> Option<u16> {
        let slot = self.slots.get(usize::from(id.index))?;
        let known = slot.generation == id.generation && slot.state.is_some();
        known.then_some(id.index)
    }

    fn state_mut(&mut self, index: u16) -> Option<&mut PortState> {
        self.slots[usize::from(index)].state.as_mut()
    }
}

impl PortState {
    /// Whether a packet can go to the port, before any clone of it is made. No queue
    /// is longer than what is left of the pool: ports that do not get on settle at
    /// a share each, and as much stays free for all others.
    fn admit(&self, packet: &Packet, pools: &Pools) -> Result<(), DropReason> {
        let (len, mtu) = (packet.len(), usize::from(self.config.mtu));
        // Tags are looked for only where they make a difference.
        if len > ETHERNET_HEADER + mtu {
            let ethernet = Ethernet::parse(packet.headers(&pools.buffers));
            if ethernet.map_or(true, |ethernet| len > ethernet.payload + mtu) {
                return Err(DropReason::TooLong);
            }
        }
        let fair = self.queue.len() <= pools.idle();
        if fair && self.queue.has_room(len) { Ok(()) } else { Err(DropReason::QueueFull) }
    }
}

const fn seconds(now: Instant) -> u32 {
    (now.0 / 1_000_000_000) as u32
}
