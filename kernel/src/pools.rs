//! What packets are made of, sized once at start.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen::Hypervisor;
use xen::grant::GrantCopy;

use crate::memory::{Buffers, CopyBatch, Size};
use crate::packet::{Linear, Packet};
use crate::pages::Tracker;

/// How much the pools hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Packets on their way at once.
    pub packets: usize,
    /// Copies in one hypercall.
    pub copies: usize,
}

/// Bytes left free before a packet's first byte, where a tag or an outer header
/// can be put without moving anything.
pub const HEADROOM: u16 = 64;

/// Packets, buffers, lent pages, and the batch of copies between them. One per
/// vCPU; handed down by reference wherever packets go.
pub struct Pools {
    /// Packet buffers.
    pub buffers: Buffers,
    /// Lent pages.
    pub tracker: Tracker,
    /// The copies of the step under way; empty between steps.
    pub copies: CopyBatch,
    #[expect(clippy::vec_box, reason = "packets move by pointer and never touch the heap again")]
    idle: Vec<Box<Packet>>,
}

impl Pools {
    /// Sets up pools over `buffers`.
    pub fn new(buffers: Buffers, limits: Limits) -> Self {
        Self {
            buffers,
            tracker: Tracker::default(),
            copies: CopyBatch::with_capacity(limits.copies),
            idle: (0..limits.packets).map(|_| Box::default()).collect(),
        }
    }

    /// An empty packet; `None` when all are on their way.
    pub fn take(&mut self) -> Option<Box<Packet>> {
        self.idle.pop()
    }

    /// How many packets are left to take.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Ends a packet: its buffer and its holds go back.
    pub fn give(&mut self, mut packet: Box<Packet>) {
        if let Some(linear) = packet.linear.take() {
            self.buffers.give(linear.buffer);
        }
        while let Some(fragment) = packet.fragments.pop() {
            self.tracker.release(fragment.hold);
        }
        packet.meta = Default::default();
        self.idle.push(packet);
    }

    /// A second packet of the same bytes: every page counted once more, nothing
    /// copied. `None` when a pool is used up.
    pub fn share(&mut self, packet: &Packet) -> Option<Box<Packet>> {
        let mut copy = self.take()?;
        match self.share_into(packet, &mut copy) {
            Some(()) => Some(copy),
            None => {
                self.give(copy);
                None
            }
        }
    }

    fn share_into(&mut self, packet: &Packet, copy: &mut Packet) -> Option<()> {
        if let Some(Linear { buffer, offset, len }) = &packet.linear {
            let buffer = self.buffers.share(buffer)?;
            copy.linear = Some(Linear { buffer, offset: *offset, len: *len });
        }
        for fragment in &packet.fragments {
            let hold = self.tracker.share(&fragment.hold)?;
            let fragment = crate::packet::Fragment { hold, ..*fragment };
            // Both lists have the same capacity.
            if let Err(fragment) = copy.fragments.push(fragment) {
                self.tracker.release(fragment.hold);
                return None;
            }
        }
        copy.meta = packet.meta;
        Some(())
    }

    /// Starts a private copy of `packet`: one buffer of ours holding all of it,
    /// headers now, lent payload by copies added to [`copies`](Self::copies). The
    /// copy is good once they have run and [`Private::succeeded`]. `None` when a
    /// pool is used up, the packet does not fit a buffer, or the batch is full.
    pub fn privatise(&mut self, packet: &Packet) -> Option<Private> {
        let len = packet.len();
        let start = usize::from(HEADROOM);
        if start + len > Size::Large.bytes() || self.copies.room() < packet.fragments.len() {
            return None;
        }
        let mut copy = self.take()?;
        let Some(mut buffer) = self.buffers.take(Size::Large) else {
            self.give(copy);
            return None;
        };
        let mut at = start;
        if let Some(linear) = &packet.linear {
            let from = usize::from(linear.offset);
            let headers = from..from + usize::from(linear.len);
            at += self.buffers.copy(&linear.buffer, headers, &mut buffer, start);
        }
        let first = self.copies.len();
        for fragment in &packet.fragments {
            let end = at + usize::from(fragment.len);
            if let Some(to) = self.buffers.region(&buffer, at..end) {
                let from = self.tracker.region(&fragment.hold, fragment.offset);
                self.copies.push(GrantCopy::from_grant(from, to));
            }
            at = end;
        }
        copy.linear = Some(Linear { buffer, offset: HEADROOM, len: len as u16 });
        copy.meta = packet.meta;
        Some(Private { packet: copy, copies: first..self.copies.len() })
    }

    /// Runs the copies collected so far.
    pub fn run_copies<H: Hypervisor>(&mut self, hypervisor: &H) {
        self.copies.run(hypervisor, &mut self.buffers);
    }
}

/// A private copy on its way: a packet whose bytes are there once its copies have
/// run.
pub struct Private {
    /// The packet, all of it in one buffer of ours.
    pub packet: Box<Packet>,
    copies: core::ops::Range<usize>,
}

impl Private {
    /// Whether every copy succeeded.
    pub fn succeeded(&self, copies: &CopyBatch) -> bool {
        self.copies.clone().all(|place| copies.status(place).is_ok())
    }
}
