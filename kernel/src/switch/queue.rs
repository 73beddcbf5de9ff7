//! Packets waiting for a port.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::Range;
use core::time::Duration;

use xen::Instant;

use super::MAX_WAIT;
use super::port::PortId;
use crate::defect::{self, Defect};
use crate::memory::Size;
use crate::packet::Packet;

/// The most lent pages of one source in a destination's queue (NETBACK-SPEC O-8).
/// Packets beyond it are copied.
pub(super) const MAX_LENT: u16 = 32;

/// No source: the packet is our own.
const NO_SOURCE: PortId = PortId { switch: u16::MAX, index: u16::MAX, generation: 0 };

/// The most lanes of a queue.
pub const MAX_LANES: usize = 8;

/// Not in a lane.
const NO_LANE: u8 = u8::MAX;

/// How much may wait for a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Packets.
    pub packets: usize,
    /// Bytes. Below the longest packet, that one never passes.
    pub bytes: usize,
    /// Time, for packets that lie in our memory whole; what borrows pages waits no
    /// longer than [`MAX_WAIT`] as it is.
    pub wait: Duration,
}

/// A port's bounded queue, first in first out.
#[derive(Debug)]
pub struct PortQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    limits: QueueLimits,
    /// How many at the back the switch has not made ready yet.
    fresh: usize,
    /// How many places are empty, while packets are replaced by copies.
    holes: usize,
    /// How many at the front are known to borrow nothing, or are about to be copied.
    private: usize,
    /// By source, how many lent pages are in the queue.
    lent: Box<[u16]>,
    /// By size, in how many buffers its packets lie, each counted by every packet.
    buffers: [usize; 2],
    /// By lane, what waits in it.
    lanes: [Load; MAX_LANES],
}

/// What waits in a lane.
#[derive(Clone, Copy, Default, Debug)]
struct Load {
    packets: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    /// `None` between a failed copy and the end of its batch.
    packet: Option<Box<Packet>>,
    since: Instant,
    source: PortId,
    /// How many pages of it are counted against its source.
    lent: u16,
    /// The lane it is in, or [`NO_LANE`].
    lane: u8,
}

impl PortQueue {
    /// A queue; allocates for all the packets it may hold.
    pub fn new(limits: QueueLimits) -> Self {
        Self::with_sources(limits, 0)
    }

    /// A queue which counts the pages lent by each of `sources` ports.
    pub(super) fn with_sources(limits: QueueLimits, sources: u16) -> Self {
        Self {
            waiting: VecDeque::with_capacity(limits.packets),
            bytes: 0,
            limits,
            fresh: 0,
            holes: 0,
            private: 0,
            buffers: [0; 2],
            lanes: [Load::default(); MAX_LANES],
            lent: alloc::vec![0; usize::from(sources)].into(),
        }
    }

    /// Adds a packet that is ready to be sent, or hands it back when the queue is
    /// full.
    pub fn push(&mut self, packet: Box<Packet>, now: Instant) -> Result<(), Box<Packet>> {
        self.enqueue(packet, NO_SOURCE, now)
    }

    /// The packet at the front.
    pub fn front(&self) -> Option<&Packet> {
        self.get(0)
    }

    /// The packet at `index` from the front.
    pub fn get(&self, index: usize) -> Option<&Packet> {
        self.waiting.get(index)?.packet.as_deref()
    }

    /// Takes the packet at the front.
    pub fn pop(&mut self) -> Option<Box<Packet>> {
        let packet = self.take(0)?;
        self.waiting.pop_front();
        self.holes -= 1;
        self.fresh = self.fresh.min(self.waiting.len());
        self.private = self.private.saturating_sub(1);
        Some(packet)
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// In how many buffers of a size its packets lie.
    pub(super) fn buffers(&self, size: Size) -> usize {
        self.buffers[size as usize]
    }

    /// Takes the packet at the front, if it has waited for as long as any may.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Box<Packet>> {
        let since = self.waiting.front()?.since;
        if now < since + self.limits.wait { None } else { self.pop() }
    }

    /// Where the next packet is that has borrowed pages for [`MAX_WAIT`], and where it
    /// came from; each is told once.
    pub(super) fn next_overdue(&mut self, now: Instant) -> Option<(usize, PortId)> {
        let (place, waiting) = self.first_borrower()?;
        let (since, source) = (waiting.since, waiting.source);
        if now < since + MAX_WAIT {
            return None;
        }
        self.private = place + 1;
        Some((place, source))
    }

    /// When a packet expires next, or has to be copied.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let borrowed = self.first_borrower().map(|(_, waiting)| waiting.since + MAX_WAIT);
        let front = self.waiting.front().map(|waiting| waiting.since + self.limits.wait);
        borrowed.into_iter().chain(front).min()
    }

    /// The first packet that borrows pages. Looks at no packet twice.
    fn first_borrower(&mut self) -> Option<(usize, &Waiting)> {
        let borrows = |packet: &Packet| !packet.is_private();
        let rest = self.waiting.range(self.private.min(self.waiting.len())..);
        let skipped =
            rest.take_while(|waiting| !waiting.packet.as_deref().is_some_and(borrows)).count();
        self.private += skipped;
        self.waiting.get(self.private).map(|waiting| (self.private, waiting))
    }

    /// Whether a packet of `len` bytes finds room.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.waiting.len() < self.limits.packets && self.bytes + len <= self.limits.bytes
    }

    /// Adds a packet from `source` which is not ready yet, or hands it back when
    /// the queue is full.
    pub(super) fn push_fresh(
        &mut self,
        packet: Box<Packet>,
        source: PortId,
        now: Instant,
    ) -> Result<(), Box<Packet>> {
        self.enqueue(packet, source, now)?;
        self.fresh += 1;
        Ok(())
    }

    /// Where the packets are that came since the last [`settle`](Self::settle).
    pub(super) fn fresh(&self) -> Range<usize> {
        self.waiting.len() - self.fresh..self.waiting.len()
    }

    /// Takes note that what is left of the fresh packets stays, and returns where
    /// they are.
    pub(super) fn settle(&mut self) -> Range<usize> {
        let fresh = self.fresh();
        self.fresh = 0;
        fresh
    }

    /// The packet at `index`, to be changed without changing its length.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Packet> {
        self.waiting.get_mut(index)?.packet.as_deref_mut()
    }

    /// Counts the pages of the packet at `index` against its source; whether they
    /// are few enough to stay.
    pub(super) fn lend(&mut self, index: usize) -> bool {
        let Some(waiting) = self.waiting.get_mut(index) else { return false };
        let Some(lent) = self.lent.get_mut(usize::from(waiting.source.index)) else { return true };
        let pages = waiting.packet.as_ref().map_or(0, |packet| packet.holds().count() as u16);
        if *lent + pages > MAX_LENT && !defect::is(Defect::LendsWithoutLimit) {
            return false;
        }
        *lent += pages;
        waiting.lent = pages;
        true
    }

    /// Puts the packet at `index` into a lane, one of `lanes`; whether that has room for
    /// it. Each has an equal share of the queue's bounds, and one share is left for what
    /// is in no lane yet, so that a lane which does not get on never keeps packets from
    /// another. A lane that is empty has room for any.
    pub(super) fn assign(&mut self, index: usize, lane: u8, lanes: u8) -> bool {
        let shares = usize::from(lanes) + 1;
        let Some(waiting) = self.waiting.get_mut(index) else { return false };
        let len = waiting.packet.as_ref().map_or(0, |packet| packet.len());
        let Some(load) = self.lanes.get_mut(usize::from(lane)) else { return false };
        let fits = load.packets < self.limits.packets / shares
            && load.bytes + len <= self.limits.bytes / shares;
        if load.packets > 0 && !fits {
            return false;
        }
        load.add(len);
        waiting.lane = lane;
        true
    }

    /// What waits in one of `lanes` lanes; in the only one, all.
    pub fn lane(&mut self, lane: u8, lanes: u8) -> Lane<'_> {
        let mut lane = Lane { queue: self, lane: (lanes > 1).then_some(lane), at: 0 };
        lane.seek(0);
        lane
    }

    /// Takes the packet at `index` and leaves a hole for
    /// [`close_holes`](Self::close_holes).
    pub(super) fn take(&mut self, index: usize) -> Option<Box<Packet>> {
        let waiting = self.waiting.get_mut(index)?;
        let packet = waiting.packet.take()?;
        self.bytes -= packet.len();
        for buffer in packet.buffers() {
            self.buffers[buffer.size() as usize] -= 1;
        }
        if let Some(load) = self.lanes.get_mut(usize::from(waiting.lane)) {
            load.packets -= 1;
            load.bytes -= packet.len();
        }
        self.holes += 1;
        if let Some(lent) = self.lent.get_mut(usize::from(waiting.source.index)) {
            *lent -= waiting.lent;
            waiting.lent = 0;
        }
        Some(packet)
    }

    /// Puts a packet that borrows nothing in the place of the one at `index`;
    /// returns that one, or the given one where there is none.
    pub(super) fn replace(&mut self, index: usize, packet: Box<Packet>) -> Box<Packet> {
        let Some(previous) = self.take(index) else { return packet };
        self.count(&packet);
        let waiting = &mut self.waiting[index];
        if let Some(load) = self.lanes.get_mut(usize::from(waiting.lane)) {
            load.add(packet.len());
        }
        waiting.packet = Some(packet);
        self.holes -= 1;
        previous
    }

    /// Closes the holes.
    pub(super) fn close_holes(&mut self) {
        if core::mem::take(&mut self.holes) == 0 {
            return;
        }
        let holes = |range| {
            let places = self.waiting.range::<Range<usize>>(range);
            places.filter(|waiting| waiting.packet.is_none()).count()
        };
        let (fresh, private) = (holes(self.fresh()), holes(0..self.private));
        self.fresh -= fresh;
        self.private -= private;
        self.waiting.retain(|waiting| waiting.packet.is_some());
    }

    /// Checks that each lane is counted as it is; by lane, how many packets wait.
    #[cfg(test)]
    pub(super) fn check_lanes(&self) -> [usize; MAX_LANES] {
        core::array::from_fn(|lane| {
            let ours = self.waiting.iter().filter(|waiting| usize::from(waiting.lane) == lane);
            let lens = ours.filter_map(|waiting| Some(waiting.packet.as_ref()?.len()));
            let Load { packets, bytes } = self.lanes[lane];
            assert_eq!((packets, bytes), (lens.clone().count(), lens.sum()), "lane {lane}");
            packets
        })
    }

    fn enqueue(
        &mut self,
        packet: Box<Packet>,
        source: PortId,
        since: Instant,
    ) -> Result<(), Box<Packet>> {
        if !self.has_room(packet.len()) {
            return Err(packet);
        }
        self.count(&packet);
        self.waiting.push_back(Waiting {
            packet: Some(packet),
            since,
            source,
            lent: 0,
            lane: NO_LANE,
        });
        Ok(())
    }

    fn count(&mut self, packet: &Packet) {
        self.bytes += packet.len();
        for buffer in packet.buffers() {
            self.buffers[buffer.size() as usize] += 1;
        }
    }
}

impl Load {
    fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len;
    }
}

/// What waits for a port in one lane, first in first out: a queue of its own, as far as
/// whoever sends from it can see.
#[derive(Debug)]
pub struct Lane<'a> {
    queue: &'a mut PortQueue,
    /// `None` where the queue has one lane: then it is the queue.
    lane: Option<u8>,
    /// Where the lane's first packet is.
    at: usize,
}

impl Lane<'_> {
    /// The packet at the front.
    pub fn front(&self) -> Option<&Packet> {
        self.queue.get(self.at)
    }

    /// Takes the packet at the front.
    pub fn pop(&mut self) -> Option<Box<Packet>> {
        if self.lane.is_none() {
            return self.queue.pop();
        }
        let packet = self.queue.take(self.at)?;
        self.seek(self.at + 1);
        Some(packet)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.front().is_none()
    }

    /// Finds the lane's first packet from `start` on.
    fn seek(&mut self, start: usize) {
        let Some(lane) = self.lane else { return };
        let PortQueue { waiting, lanes, .. } = &*self.queue;
        let empty = lanes.get(usize::from(lane)).is_none_or(|load| load.packets == 0);
        let mut rest = waiting.range(start.min(waiting.len())..);
        let ours = |waiting: &Waiting| waiting.lane == lane && waiting.packet.is_some();
        let place = if empty { None } else { rest.position(ours) };
        self.at = place.map_or(waiting.len(), |place| start + place);
    }
}

impl Drop for Lane<'_> {
    /// Closes the gaps that packets left which were taken from between others.
    fn drop(&mut self) {
        self.queue.close_holes();
    }
}
