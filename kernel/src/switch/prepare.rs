//! Making packets ready for the port they wait for.
//!
//! A port may refuse to look at lent pages, or packets whose checksum is not made;
//! and no source may have too many pages in one queue (NETBACK-SPEC O-8). Such
//! packets are replaced by private copies, those of all ports by one batch of
//! copies. For a device that reads lent pages they are mapped, where that is cheaper
//! and possible, by one batch as well. So a driver finds in its queue only what it
//! can send.

use alloc::vec::Vec;

use xen::netif::Status;
use xen::{Hypervisor, Instant};

use super::counters::DropReason;
use super::port::{Holding, Port, Ports, Versions};
use super::{PortState, Switch};
use crate::defect::{self, Defect};
use crate::memory::{Buffers, Size};
use crate::packet::{Checksum, Ethernet, HeaderError, MAX_LENT_FRAGMENTS, Packet, checksum};
use crate::pages::choice::{Reason, Way};
use crate::{MAX_PRIVATE_COPIES, Pools, Private};

/// The most packets copied or mapped at once. Where there are more, it is done in
/// several batches.
const PACKETS: usize = 128;

/// What is under way to make packets ready.
#[derive(Debug)]
pub(super) struct Underway {
    /// Private copies, each to take its original's place.
    copies: Vec<Copying>,
    /// Packets whose pages are being mapped: the port, and where in its queue.
    maps: Vec<(u16, usize)>,
}

#[derive(Debug)]
struct Copying {
    /// The index of the port.
    port: u16,
    /// Where in the port's queue the original is.
    place: usize,
    private: Private,
    /// Whether the copy's checksum is to be made.
    finish: bool,
}

impl Underway {
    pub(super) fn new() -> Self {
        Self { copies: Vec::with_capacity(PACKETS), maps: Vec::with_capacity(PACKETS) }
    }

    /// Whether one more packet can be copied, of as many pages as there may be.
    fn may_copy(&self, pools: &Pools) -> bool {
        self.copies.len() < PACKETS && pools.copies.room() >= MAX_PRIVATE_COPIES
    }

    /// Whether one more can be mapped.
    fn may_map(&self, pools: &Pools) -> bool {
        self.maps.len() < PACKETS && pools.tracker.map_room() >= MAX_LENT_FRAGMENTS
    }
}

/// What a packet needs before it is ready.
pub(super) enum Step {
    Nothing,
    /// To be replaced by this copy, whose checksum is to be made or not.
    Copy(Private, bool),
    /// Its pages to be mapped.
    Map,
}

/// What a port needs of a packet that it takes only changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Its checksum to be made.
    Checksum,
    /// Headers that nobody else looks at.
    Headers,
}

/// What a port takes.
struct Terms {
    holding: Holding,
    partial: Versions,
    /// How many regions the device still takes, where there is one.
    room: usize,
}

impl Terms {
    fn of(port: &dyn Port) -> Self {
        let (holding, partial) = (port.holding(), port.partial_checksums());
        Self { holding, partial, room: port.room() }
    }

    /// What the port wants changed in a packet. For a device, sees that its checksum is
    /// what the device can work with, where that changes nothing for others.
    fn change(&self, packet: &mut Packet, buffers: &mut Buffers) -> Option<Change> {
        if packet.meta.checksum != Checksum::Partial {
            return None;
        }
        let ip = || Ethernet::parse(packet.headers(buffers)).ok()?.ip();
        let taken =
            self.partial == Versions::ALL || ip().is_some_and(|version| self.partial.over(version));
        let device = !matches!(self.holding, Holding::Granted(_));
        if device && packet.meta.gso.is_some() {
            return (!packet.owns_headers(buffers)).then_some(Change::Headers);
        }
        let right = taken && (!device || packet.seed_checksum(buffers));
        (!right).then_some(Change::Checksum)
    }

    /// Takes note of what the device gets beside what is mapped for it.
    fn spend(&mut self, regions: usize) {
        self.room = self.room.saturating_sub(regions);
    }

    /// Which way a packet that borrows pages reaches the device; where they are to be
    /// mapped, that has begun.
    fn way(&mut self, packet: &Packet, pools: &mut Pools, now: Instant) -> Way {
        let pages = packet.fragments.len();
        let Some(room) = self.room.checked_sub(1 + pages) else { return Way::Copy(Reason::Room) };
        let refused = packet.holds().next().and_then(|hold| pools.tracker.refused(hold));
        match pools.choice.way(packet.lent(), pages, refused, now) {
            Way::Map if pools.map(packet) => {
                self.room = room;
                Way::Map
            }
            Way::Map => Way::Copy(Reason::Frames),
            copy => copy,
        }
    }
}

impl Switch {
    /// Makes ready what the dirty ports' queues got.
    pub(super) fn prepare<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        now: Instant,
        ports: &mut impl Ports,
    ) {
        for dirty in 0..self.dirty.len() {
            let index = self.dirty[dirty];
            let Some(port) = ports.port(self.id(index)) else { continue };
            let mut terms = Terms::of(port);
            if port.steers()
                && let Some(state) = self.state_mut(index)
            {
                state.steer(port, pools);
            }
            let fresh = self.state_mut(index).map_or(0..0, |state| state.queue.fresh());
            if fresh.start > 0 {
                // What waits already had no room.
                terms.room = 0;
            }
            for place in fresh {
                self.start(hypervisor, index, place, pools, |state, pools| {
                    state.make_ready(place, &mut terms, pools, now)
                });
            }
        }
        self.finish(hypervisor, pools);
    }

    /// Sees that what the ports did not send at once borrows few pages of each
    /// source (NETBACK-SPEC O-8); what is beyond is copied.
    pub(super) fn settle<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        ports: &mut impl Ports,
    ) {
        for dirty in 0..self.dirty.len() {
            let index = self.dirty[dirty];
            if ports.port(self.id(index)).is_none() {
                continue;
            }
            for place in self.state_mut(index).map_or(0..0, |state| state.queue.settle()) {
                self.start(hypervisor, index, place, pools, |state, pools| {
                    let borrows = state.queue.get(place).is_some_and(|packet| !packet.is_private());
                    if borrows && !state.queue.lend(place) {
                        state.copy(place, false, pools)
                    } else {
                        Ok(Step::Nothing)
                    }
                });
            }
        }
        self.finish(hypervisor, pools);
    }

    /// Does a step with the packet at `place` of a port's queue, which may start a
    /// copy of it or have it dropped.
    pub(super) fn start<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        port: u16,
        place: usize,
        pools: &mut Pools,
        step: impl FnOnce(&mut PortState, &mut Pools) -> Result<Step, DropReason>,
    ) {
        if !self.underway.may_copy(pools) || !self.underway.may_map(pools) {
            self.complete(hypervisor, pools);
        }
        self.step(port, place, pools, step);
    }

    /// The same, where there is room for what the step starts.
    fn step(
        &mut self,
        port: u16,
        place: usize,
        pools: &mut Pools,
        step: impl FnOnce(&mut PortState, &mut Pools) -> Result<Step, DropReason>,
    ) {
        let Some(state) = self.slots[usize::from(port)].state.as_mut() else { return };
        match step(state, pools) {
            Ok(Step::Nothing) => {}
            Ok(Step::Copy(private, finish)) => {
                self.underway.copies.push(Copying { port, place, private, finish });
            }
            Ok(Step::Map) => self.underway.maps.push((port, place)),
            Err(reason) => state.drop_queued(place, reason, pools),
        }
    }

    /// Completes all copies, and closes the gaps that dropped packets left.
    pub(super) fn finish<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        self.complete(hypervisor, pools);
        for dirty in 0..self.dirty.len() {
            if let Some(state) = self.state_mut(self.dirty[dirty]) {
                state.queue.close_holes();
            }
        }
    }

    /// Maps and copies what was collected so far, and what cannot be mapped.
    fn complete<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        pools.run_maps(hypervisor);
        while let Some((port, place)) = self.underway.maps.pop() {
            let Some(state) = self.slots[usize::from(port)].state.as_mut() else { continue };
            let Some(packet) = state.queue.get(place) else { continue };
            if pools.dma_regions(packet).is_some() {
                pools.choice.count(Way::Map);
                continue;
            }
            pools.choice.count(Way::Copy(Reason::Failed));
            if !self.underway.may_copy(pools) {
                self.run_copies(hypervisor, pools);
            }
            self.step(port, place, pools, |state, pools| state.copy(place, false, pools));
        }
        self.run_copies(hypervisor, pools);
    }

    /// Runs the copies collected so far and puts them in their originals' places.
    fn run_copies<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        if self.underway.copies.is_empty() {
            return;
        }
        let start = hypervisor.now();
        pools.run_copies(hypervisor);
        let now = hypervisor.now();
        if self.underway.copies.iter().all(|copying| copying.private.succeeded(&pools.copies)) {
            let lens = self.underway.copies.iter().map(|copying| copying.private.copied);
            // Some have nothing lent, only a header that others look at as well.
            let lens = lens.filter(|copied| *copied > 0);
            pools.choice.copies_took(lens, now.since(start), now);
        }
        for Copying { port, place, private, finish } in self.underway.copies.drain(..) {
            match &mut self.slots[usize::from(port)].state {
                Some(state) => state.put_copy(place, private, finish, pools),
                None => pools.give(private.packet),
            }
        }
        pools.copies.clear();
    }
}

impl PortState {
    /// Puts what is new in the queue into the port's lanes.
    fn steer(&mut self, port: &dyn Port, pools: &mut Pools) {
        let lanes = port.lanes();
        for place in self.queue.fresh() {
            let Some(packet) = self.queue.get_mut(place) else { continue };
            match port.steer(packet, &pools.buffers) {
                None => self.drop_queued(place, DropReason::NoCarrier, pools),
                Some(lane) if lanes > 1 && !self.queue.assign(place, lane, lanes) => {
                    self.drop_queued(place, DropReason::QueueFull, pools);
                }
                Some(_) => {}
            }
        }
    }

    /// Sees that the packet at `place` is what the port takes, or says what it needs
    /// to become that.
    fn make_ready(
        &mut self,
        place: usize,
        terms: &mut Terms,
        pools: &mut Pools,
        now: Instant,
    ) -> Result<Step, DropReason> {
        let Some(packet) = self.queue.get_mut(place) else { return Ok(Step::Nothing) };
        let change = terms.change(packet, &mut pools.buffers);
        let finish = change == Some(Change::Checksum);
        if packet.is_private() {
            terms.spend(1 + packet.fragments.len());
            if change.is_none() {
                return Ok(Step::Nothing);
            }
            if finish && let Some(finished) = finish_checksum(packet, &mut pools.buffers) {
                return finished.map(|()| Step::Nothing).map_err(|_| DropReason::NoChecksum);
            }
            return self.copy(place, finish, pools);
        }
        match terms.holding {
            Holding::Granted(_) if change.is_none() => Ok(Step::Nothing),
            Holding::Private if defect::is(Defect::LendsToTheUnbounded) => Ok(Step::Nothing),
            Holding::Mapped(_) => {
                let way = match change {
                    Some(_) => Way::Copy(Reason::Checksum),
                    None => terms.way(packet, pools, now),
                };
                if way == Way::Map {
                    return Ok(Step::Map);
                }
                pools.choice.count(way);
                terms.spend(Pools::private_buffers(packet.len()));
                self.copy(place, finish, pools)
            }
            _ => self.copy(place, finish, pools),
        }
    }

    /// Starts a private copy of the packet at `place`.
    pub(super) fn copy(
        &self,
        place: usize,
        finish: bool,
        pools: &mut Pools,
    ) -> Result<Step, DropReason> {
        let Some(packet) = self.queue.get(place) else { return Ok(Step::Nothing) };
        let count = Pools::private_buffers(packet.len());
        let left = pools.buffers.free(Size::Large).checked_sub(count);
        if !self.may_hold(Size::Large, count, left.ok_or(DropReason::Exhausted)?) {
            return Err(DropReason::QueueFull);
        }
        let private = pools.privatise(packet).ok_or(DropReason::Exhausted)?;
        Ok(Step::Copy(private, finish))
    }

    /// Puts a copy that was run in its original's place, or drops both where it
    /// failed.
    fn put_copy(&mut self, place: usize, private: Private, finish: bool, pools: &mut Pools) {
        let mut failure = None;
        if let Some(original) = self.queue.get(place) {
            for hold in private.failures(original, &pools.copies) {
                failure = Some(DropReason::CopyFailed);
                // What is dropped for any other reason was accepted: its requests
                // are answered as if it had been sent (NETBACK-SPEC P-15).
                pools.tracker.set_status(hold, Status::Error as i16);
            }
        }
        let mut copy = private.packet;
        if failure.is_none()
            && finish
            && !matches!(finish_checksum(&mut copy, &mut pools.buffers), Some(Ok(())))
        {
            failure = Some(DropReason::NoChecksum);
        }
        match failure {
            Some(reason) => {
                pools.give(copy);
                self.drop_queued(place, reason, pools);
            }
            None => pools.give(self.queue.replace(place, copy)),
        }
    }

    fn drop_queued(&mut self, place: usize, reason: DropReason, pools: &mut Pools) {
        if let Some(packet) = self.queue.take(place) {
            self.counters.discard(reason, packet, pools);
        }
    }
}

/// Makes a private packet's checksum where it lies; `None` if somebody else looks
/// at the same bytes.
fn finish_checksum(packet: &mut Packet, buffers: &mut Buffers) -> Option<Result<(), HeaderError>> {
    let rest = packet.fragments.iter().map(|fragment| fragment.bytes(buffers));
    let made = checksum::make(packet.headers(buffers), rest, packet.len());
    let (field, checksum) = match made {
        Ok(made) => made,
        Err(error) => return Some(Err(error)),
    };
    let linear = packet.linear.as_mut()?;
    let field = usize::from(linear.offset) + field;
    let cell = buffers.bytes_mut(&mut linear.buffer)?;
    cell.get_mut(field..field + 2)?.copy_from_slice(&checksum);
    packet.meta.checksum = Checksum::Validated;
    Some(Ok(()))
}
