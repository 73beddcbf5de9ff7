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
}

#[derive(Debug)]
struct Waiting {
    /// `None` between a failed copy and the end of its batch.
    packet: Option<Box<Packet>>,
    since: Instant,
    source: PortId,
    /// How many pages of it are counted against its source.
    lent: u16,
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

    /// Takes the packet at `index` and leaves a hole for
    /// [`close_holes`](Self::close_holes).
    pub(super) fn take(&mut self, index: usize) -> Option<Box<Packet>> {
        let waiting = self.waiting.get_mut(index)?;
        let packet = waiting.packet.take()?;
        self.bytes -= packet.len();
        for buffer in packet.buffers() {
            self.buffers[buffer.size() as usize] -= 1;
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
        self.waiting[index].packet = Some(packet);
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
        self.waiting.push_back(Waiting { packet: Some(packet), since, source, lent: 0 });
        Ok(())
    }

    fn count(&mut self, packet: &Packet) {
        self.bytes += packet.len();
        for buffer in packet.buffers() {
            self.buffers[buffer.size() as usize] += 1;
        }
    }
}
