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
mod groups;
mod port;
mod prepare;
mod queue;
mod slow;
mod switches;
#[cfg(test)]
mod tests;
mod vlan;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use xen::{Hypervisor, Instant};

use crate::Pools;
use crate::defect::{self, Defect};
use crate::memory::Size;
use crate::packet::{
    Addresses, Batch, ETHERNET_HEADER, Ethernet, Gso, MacAddress, Packet, Segments, VLAN_TAG,
};
use bridge::{Bridge, Forged, Station};
use prepare::Underway;
use vlan::InVlan;

pub use bridge::{BridgeCounters, PinError, Seed};
pub use counters::{Counters, DropReason, Traffic};
pub use groups::{Groups, TooManyGroups};
pub use port::{
    Holding, JoinError, Port, PortConfig, PortId, PortKind, Ports, Vcpu, Vcpus, Versions,
};
pub use queue::{Lane, MAX_LANES, PortQueue, QueueLimits};
pub use slow::{PuntReason, Punted, SlowPath};
pub use switches::{BadName, BridgeName, Limits, Switches};
pub use vlan::{Form, VlanError, Vlans};

/// How long a packet that waits for a port borrows pages (NETBACK-SPEC O-8). Then it
/// is copied and waits on, or dropped where there is nothing to copy it to.
pub const MAX_WAIT: Duration = Duration::from_millis(100);

/// A learning bridge and its ports.
#[derive(Debug)]
pub struct Switch {
    number: u16,
    slots: Box<[Slot]>,
    bridge: Bridge,
    /// Whether some port has VLANs configured, so that all have VLANs.
    has_vlans: bool,
    /// Ports with something to send, each at most once.
    dirty: Vec<u16>,
    underway: Underway,
    /// No packet has waited for too long before this; `None` while none waits.
    deadline: Option<Instant>,
}

/// A place for a port.
#[derive(Debug)]
struct Slot {
    generation: u32,
    state: Option<PortState>,
}

/// A port, as the switch sees it.
#[derive(Debug)]
struct PortState {
    config: PortConfig,
    queue: PortQueue,
    counters: Counters,
    /// Whether it stands in the list of dirty ports.
    dirty: bool,
    /// Whether what is behind it takes packets at all.
    carrier: bool,
    /// Whether there are VLANs where it leads.
    has_vlans: bool,
    /// The groups it wants multicast of, where it does not want all.
    filter: Option<Box<Groups>>,
}

/// Where a packet goes.
enum Way {
    To(u16),
    /// To all ports, or to those that want a group's frames.
    Flood(Option<MacAddress>),
}

impl Switch {
    /// A switch without ports. Allocates its tables.
    fn new(number: u16, limits: &Limits, seed: Seed) -> Self {
        Self {
            number,
            slots: (0..limits.ports).map(|_| Slot { generation: 0, state: None }).collect(),
            bridge: Bridge::new(limits.addresses, limits.ports, seed),
            has_vlans: false,
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

    /// Has an address belong to a port that is a link: it is another vCPU's port's own.
    fn pin(&mut self, id: PortId, address: MacAddress) -> Result<(), PinError> {
        match self.index(id) {
            Some(index) => self.bridge.pin(address, index),
            None => Ok(()),
        }
    }

    fn unpin(&mut self, id: PortId, address: MacAddress) {
        if let Some(index) = self.index(id) {
            self.bridge.unpin(address, index);
        }
    }

    /// Adds a port. Allocates its queue.
    fn add(&mut self, config: PortConfig) -> Result<PortId, JoinError> {
        let free = self.slots.iter().position(|slot| slot.state.is_none());
        let index = free.ok_or(JoinError::Ports)? as u16;
        self.bridge.open(index, config.addresses);
        if let Some(address) = config.address {
            self.bridge.pin(address, index).map_err(JoinError::Address)?;
        }
        self.slots[usize::from(index)].state = Some(PortState {
            queue: PortQueue::with_sources(config.queue, self.slots.len() as u16),
            config,
            counters: Counters::default(),
            dirty: false,
            carrier: true,
            has_vlans: false,
            filter: None,
        });
        self.look_for_vlans();
        Ok(self.id(index))
    }

    /// Removes a port with all that waits for it; what it counted.
    fn remove(&mut self, id: PortId, pools: &mut Pools) -> Option<Counters> {
        let index = self.index(id)?;
        let slot = &mut self.slots[usize::from(index)];
        let mut state = slot.state.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        state.clear(DropReason::Removed, pools);
        self.dirty.retain(|dirty| *dirty != index);
        self.bridge.close(index);
        self.look_for_vlans();
        Some(state.counters)
    }

    /// Takes note whether there are VLANs. What was learnt while that was otherwise is not
    /// known of any VLAN.
    fn look_for_vlans(&mut self) {
        let mut states = self.slots.iter().filter_map(|slot| slot.state.as_ref());
        let has_vlans = states.any(|state| state.config.vlans.is_some() || state.has_vlans);
        if core::mem::replace(&mut self.has_vlans, has_vlans) != has_vlans {
            self.bridge.forget();
        }
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
        let mut received = Traffic::default();
        let Some(kind) = self.state_mut(from).map(|state| state.config.kind) else { return };
        while let Some(mut packet) = batch.pop_front() {
            received.add(1, packet.len());
            packet.meta.outside = match kind {
                PortKind::Guest => false,
                PortKind::Uplink => true,
                PortKind::Link(_) => packet.meta.outside,
            };
            match self.way(from, kind, &packet, pools, seconds) {
                Ok((Way::To(port), frame)) => self.direct(port, from, frame, packet, pools, now),
                Ok((Way::Flood(group), frame)) => {
                    self.flood((from, kind), group, frame, packet, pools, now);
                }
                Err(reason) => self.refuse(from, reason, packet, pools, slow),
            }
        }
        if let Some(state) = self.state_mut(from) {
            state.counters.received += received;
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
            let waiting = state.queue.len();
            let sent = port.transmit(&mut state.queue, pools, now);
            let taken = waiting.saturating_sub(state.queue.len()) as u64;
            state.counters.took(taken, sent);
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

    /// Takes note whether what is behind a port takes packets at all.
    fn set_carrier(&mut self, id: PortId, carrier: bool, pools: &mut Pools) {
        if let Some(state) = self.index(id).and_then(|index| self.state_mut(index)) {
            state.carrier = carrier;
            if !carrier {
                state.clear(DropReason::NoCarrier, pools);
            }
        }
    }

    /// Takes note whether there are VLANs where a link leads, so that there are here.
    fn set_vlans(&mut self, id: PortId, has_vlans: bool) {
        if let Some(state) = self.index(id).and_then(|index| self.state_mut(index)) {
            state.has_vlans = has_vlans;
            self.look_for_vlans();
        }
    }

    /// Has a port get multicast of these groups alone, or all. Allocates where it got all.
    fn set_filter(&mut self, id: PortId, groups: Option<&Groups>) {
        let Some(state) = self.index(id).and_then(|index| self.state_mut(index)) else { return };
        match groups {
            Some(groups) => state.filter.get_or_insert_default().as_mut().clone_from(groups),
            None => state.filter = None,
        }
    }

    /// Takes note of which segments a port takes uncut.
    fn set_segmentation(&mut self, id: PortId, segmentation: Versions) {
        if let Some(state) = self.index(id).and_then(|index| self.state_mut(index)) {
            state.config.segmentation = segmentation;
        }
    }

    /// Ends the waiting that lasted for too long, and forgets addresses that aged.
    /// The copies that this needs are made by one batch.
    fn expire<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools, now: Instant) {
        self.bridge.sweep(seconds(now));
        let early = self.deadline.is_none_or(|deadline| now < deadline);
        if early || defect::is(Defect::NothingExpires) {
            return;
        }
        for port in 0..self.slots.len() as u16 {
            // What waited behind it may need fewer slots than it did.
            if self.state_mut(port).is_some_and(|state| state.drop_expired(pools, now)) {
                self.set_dirty(port);
            }
            let overdue = |state: &mut PortState| state.queue.next_overdue(now);
            while let Some((place, source)) = self.state_mut(port).and_then(overdue) {
                self.set_dirty(port);
                // A guest that left may have granted other pages by the same names.
                let there = self.index(source).is_some();
                self.start(hypervisor, port, place, pools, |state, pools| match there {
                    true => state.copy(place, false, pools),
                    false => Err(DropReason::Expired),
                });
            }
        }
        self.finish(hypervisor, pools);
        let states = self.slots.iter_mut().filter_map(|slot| slot.state.as_mut());
        self.deadline = states.filter_map(|state| state.queue.deadline()).min();
    }

    /// Learns where a frame came from and finds where it goes; on a bridge with VLANs, in
    /// which one.
    fn way(
        &mut self,
        from: u16,
        kind: PortKind,
        packet: &Packet,
        pools: &Pools,
        now: u32,
    ) -> Result<(Way, Option<InVlan>), DropReason> {
        let headers = packet.headers(&pools.buffers);
        let Addresses { destination, source } =
            Addresses::parse(headers).ok_or(DropReason::Runt)?;
        if !source.is_unicast() {
            return Err(DropReason::BadSource);
        }
        let state = self.slots[usize::from(from)].state.as_ref().filter(|_| self.has_vlans);
        let frame = state.map(|state| state.config.classify(headers)).transpose()?;
        let vlan = frame.map_or(0, |frame| frame.vlan);
        let station = |address| Station { address, vlan };
        let heard = self.bridge.learn(station(source), from, packet.meta.outside, now);
        // What comes by a link was looked at where it came from. There a guest's address may
        // be that of its port there.
        let link = kind.link().is_some();
        if !link {
            heard.map_err(|Forged| DropReason::Forged)?;
        }
        if destination.is_multicast() {
            let group = Some(destination).filter(|group| *group != MacAddress::BROADCAST);
            let reserved = destination.is_reserved();
            let way = if reserved { Err(DropReason::Reserved) } else { Ok(Way::Flood(group)) };
            return way.map(|way| (way, frame));
        }
        match self.bridge.lookup(station(destination), now) {
            Some(port) if port == from => Err(DropReason::SamePort),
            Some(port) if link && self.is_link(port) => Err(DropReason::SamePort),
            Some(port) => Ok((Way::To(port), frame)),
            None => Ok((Way::Flood(None), frame)),
        }
    }

    /// Sends a packet to one port, if that is in its VLAN.
    fn direct(
        &mut self,
        to: u16,
        from: u16,
        mut frame: Option<InVlan>,
        mut packet: Box<Packet>,
        pools: &mut Pools,
        now: Instant,
    ) {
        let config = self.state_mut(to).map(|state| &state.config);
        let form = frame.and_then(|frame| config?.form(frame.vlan));
        match InVlan::reshape(&mut frame, form, &mut packet, pools) {
            Ok(()) => self.enqueue(to, from, packet, pools, now),
            Err(reason) => self.discard(to, reason, packet, pools),
        }
    }

    /// Sends a packet to all ports but the one it came from, those that filter its group
    /// out, and those that are not in its VLAN: clones to all but the last, which gets the
    /// packet itself. Ports that want another form of it come after those that want it as
    /// it is, so that its header is changed once.
    fn flood(
        &mut self,
        (from, kind): (u16, PortKind),
        group: Option<MacAddress>,
        mut frame: Option<InVlan>,
        mut packet: Box<Packet>,
        pools: &mut Pools,
        now: Instant,
    ) {
        let (mut last, mut lonely) = (None, true);
        let link = kind.link();
        let forms = frame.map_or([None; 2], |frame| frame.forms().map(Some));
        let rounds = if frame.is_some() { 2 } else { 1 };
        for form in forms.into_iter().take(rounds) {
            for index in 0..self.slots.len() as u16 {
                if index == from {
                    continue;
                }
                let Some(state) = self.state_mut(index) else { continue };
                if link.is_some_and(|vcpu| !state.config.is_reached(vcpu)) {
                    continue;
                }
                if frame.is_some_and(|frame| state.config.form(frame.vlan) != form) {
                    continue;
                }
                lonely = false;
                if state.filters(group) {
                    continue;
                }
                if let Some(previous) = last.take() {
                    self.enqueue_clone(previous, from, &packet, pools, now);
                }
                match InVlan::reshape(&mut frame, form, &mut packet, pools) {
                    Ok(()) => last = Some(index),
                    Err(reason) => self.count(index, reason),
                }
            }
        }
        match last {
            Some(last) => self.enqueue(last, from, packet, pools, now),
            None if lonely => self.discard(from, DropReason::Nowhere, packet, pools),
            None => pools.give(packet),
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
        if let Some(gso) = packet.meta.gso
            && self.state_mut(to).is_some_and(|state| !state.config.takes(&gso))
        {
            return self.enqueue_segments(to, from, gso, packet, pools, now);
        }
        if let Err((reason, packet)) = self.push(to, from, packet, pools, now) {
            self.discard(to, reason, packet, pools);
        }
    }

    /// Puts a packet's segments into the queue of a port that does not make them itself.
    /// Those behind one that is refused are lost with it, before they are made.
    fn enqueue_segments(
        &mut self,
        to: u16,
        from: u16,
        gso: Gso,
        packet: Box<Packet>,
        pools: &mut Pools,
        now: Instant,
    ) {
        let segments = Segments::new(gso, packet.len());
        let mut refused = None;
        for number in 0..segments.count() {
            if refused.is_none() {
                refused = match pools.segment(&packet, &segments, number) {
                    None => Some(DropReason::Exhausted),
                    Some(segment) => match self.push(to, from, segment, pools, now) {
                        Ok(()) => None,
                        Err((reason, segment)) => {
                            pools.give(segment);
                            Some(reason)
                        }
                    },
                };
            }
            if let Some(reason) = refused {
                self.count(to, reason);
            }
        }
        pools.give(packet);
    }

    /// Puts a packet that a port takes into its queue, or hands it back with the reason.
    fn push(
        &mut self,
        to: u16,
        from: u16,
        packet: Box<Packet>,
        pools: &Pools,
        now: Instant,
    ) -> Result<(), (DropReason, Box<Packet>)> {
        let source = self.id(from);
        let Some(state) = self.state_mut(to) else { return Err((DropReason::Removed, packet)) };
        if let Err(reason) = state.admit(&packet, pools) {
            return Err((reason, packet));
        }
        let wait = state.config.queue.wait;
        let wait = if packet.is_private() { wait } else { wait.min(MAX_WAIT) };
        if let Err(packet) = state.queue.push_fresh(packet, source, now) {
            return Err((DropReason::QueueFull, packet));
        }
        let deadline = now + wait;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self.set_dirty(to);
        Ok(())
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
        self.count(from, reason);
        slow.punt(why, self.id(from), packet, pools);
    }

    fn count(&mut self, port: u16, reason: DropReason) {
        if let Some(state) = self.state_mut(port) {
            state.counters.count(reason);
        }
    }

    fn discard(&mut self, port: u16, reason: DropReason, packet: Box<Packet>, pools: &mut Pools) {
        match self.state_mut(port) {
            Some(state) => state.counters.discard(reason, packet, pools),
            None => pools.give(packet),
        }
    }

    fn is_link(&self, index: u16) -> bool {
        let state = self.slots[usize::from(index)].state.as_ref();
        state.is_some_and(|state| state.config.kind.link().is_some())
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
    /// Whether a group's frames are not wanted here; counts one that is not.
    fn filters(&mut self, group: Option<MacAddress>) -> bool {
        let (Some(group), Some(filter)) = (group, &self.filter) else { return false };
        let unwanted = !filter.contains(group);
        if unwanted {
            self.counters.count(DropReason::Filtered);
        }
        unwanted
    }

    /// Whether a packet can go to the port, before any clone of it is made.
    fn admit(&self, packet: &Packet, pools: &Pools) -> Result<(), DropReason> {
        if !self.carrier {
            return Err(DropReason::NoCarrier);
        }
        let len = packet.len();
        let frame = packet.meta.gso.map_or(len, |gso| gso.longest());
        let longest = ETHERNET_HEADER + usize::from(self.config.mtu);
        // Tags are looked for only where they make a difference.
        if frame > longest {
            let ethernet = Ethernet::parse(packet.headers(&pools.buffers));
            let tags = ethernet.map_or(0, |ethernet| ethernet.payload - ETHERNET_HEADER);
            if frame > longest + tags.min(self.config.tags * VLAN_TAG) {
                return Err(DropReason::TooLong);
            }
        }
        let buffers = |size| packet.buffers().filter(|buffer| buffer.size() == size).count();
        let fair = self.queue.len() <= pools.idle()
            && [Size::Small, Size::Large].into_iter().all(|size| {
                let count = buffers(size);
                count == 0 || self.may_hold(size, count, pools.buffers.free(size))
            });
        if fair && self.queue.has_room(len) { Ok(()) } else { Err(DropReason::QueueFull) }
    }

    /// Whether the queue may hold so many buffers more, with which so many are left. No
    /// queue holds more of a pool than that, but for one: ports that do not get on settle
    /// at a share each, and as much stays free for all others.
    fn may_hold(&self, size: Size, count: usize, left: usize) -> bool {
        self.queue.buffers(size) + count <= left + 1
    }

    /// Drops what has waited for as long as any packet may; whether there was such.
    fn drop_expired(&mut self, pools: &mut Pools, now: Instant) -> bool {
        let mut expired = false;
        while let Some(packet) = self.queue.pop_expired(now) {
            self.counters.discard(DropReason::Expired, packet, pools);
            expired = true;
        }
        expired
    }

    /// Drops all that waits.
    fn clear(&mut self, reason: DropReason, pools: &mut Pools) {
        while let Some(packet) = self.queue.pop() {
            self.counters.discard(reason, packet, pools);
        }
    }
}

const fn seconds(now: Instant) -> u32 {
    (now.0 / 1_000_000_000) as u32
}
