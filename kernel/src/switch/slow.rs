//! Packets that the tables leave to somebody else.
//!
//! Some of what no bridge forwards is worth a look: a frame that somebody sent from
//! another's address, a frame of the protocols that bridges speak among themselves.
//! It goes into a bounded queue, the slow path, and whoever looks does so when the
//! packets that pass have passed. Nobody promises when that is, so nothing here
//! borrows a page (NETBACK-SPEC O-4, O-8): lent pages go home in the pass in which
//! their packet came, after a private copy where more than the headers is wanted.
//!
//! What does not get in is dropped, and counted as at a port. A source may have as
//! many places of the queue as it leaves free, so that its flood leaves room for
//! others.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use xen::Hypervisor;
use xen::netif::Status;

use super::counters::{Counters, DropReason};
use super::port::PortId;
use crate::defect::{self, Defect};
use crate::memory::Size;
use crate::packet::Packet;
use crate::{HEADROOM, MAX_PRIVATE_COPIES, Pools, Private};

/// Why a packet is on the slow path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PuntReason {
    /// Its source address belongs to another port. Of its bytes there are those that
    /// lay in our memory: at least the Ethernet header.
    Forged,
    /// It is for bridges themselves, by its destination. All of it is there.
    Reserved,
}

impl PuntReason {
    /// Whether a packet that is not forwarded is worth a look.
    pub(super) const fn of(reason: DropReason) -> Option<Self> {
        match reason {
            DropReason::Forged => Some(Self::Forged),
            DropReason::Reserved => Some(Self::Reserved),
            _ => None,
        }
    }

    const fn wants_payload(self) -> bool {
        match self {
            Self::Forged => false,
            Self::Reserved => true,
        }
    }
}

/// A packet on the slow path.
#[must_use = "its packet ends by Pools::give"]
#[derive(Debug)]
pub struct Punted {
    /// Why it is here.
    pub reason: PuntReason,
    /// The port it came from, which may be gone by now.
    pub from: PortId,
    /// How long it was when it came.
    pub len: usize,
    /// What there is of it, all in one buffer of ours.
    pub packet: Box<Packet>,
}

/// A bounded queue of packets for whoever has time for them.
#[derive(Debug)]
pub struct SlowPath {
    /// Each in a buffer.
    queue: VecDeque<Punted>,
    /// What came since the last [`settle`](Self::settle), some of it lent or scattered.
    fresh: VecDeque<Punted>,
    /// What a batch of copies is made for; no copy for what is in a buffer already.
    copying: Vec<(Punted, Option<Private>)>,
    counters: Counters,
}

impl SlowPath {
    /// The most packets in it.
    pub const PLACES: usize = 64;

    /// An empty queue; allocates for all the packets it may hold.
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(Self::PLACES),
            fresh: VecDeque::with_capacity(Self::PLACES),
            copying: Vec::with_capacity(Self::PLACES),
            counters: Counters::default(),
        }
    }

    /// What was taken from it, as sent, and what did not get in.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.queue.len() + self.fresh.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in a packet that came from a port, or drops it.
    pub(super) fn punt(
        &mut self,
        reason: PuntReason,
        from: PortId,
        mut packet: Box<Packet>,
        pools: &mut Pools,
    ) {
        if !self.has_room(from, pools) {
            return self.counters.discard(DropReason::QueueFull, packet, pools);
        }
        let len = packet.len();
        if !reason.wants_payload() {
            while let Some(fragment) = packet.fragments.pop() {
                pools.end(fragment);
            }
        }
        if is_scattered(&packet) && usize::from(HEADROOM) + len > Size::Large.bytes() {
            return self.counters.discard(DropReason::TooLongToCopy, packet, pools);
        }
        self.fresh.push_back(Punted { reason, from, len, packet });
    }

    /// Sees that nothing borrows a page any more, and all lies in one buffer: what does not is
    /// copied.
    pub(super) fn settle<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        while let Some(punted) = self.fresh.pop_front() {
            if pools.copies.room() < MAX_PRIVATE_COPIES {
                self.complete(hypervisor, pools);
            }
            let keeps = defect::is(Defect::LendsToTheSlowPath);
            let copies = is_scattered(&punted.packet) && !keeps;
            match copies.then(|| pools.privatise(&punted.packet)) {
                Some(None) => self.counters.discard(DropReason::Exhausted, punted.packet, pools),
                copy => self.copying.push((punted, copy.flatten())),
            }
        }
        self.complete(hypervisor, pools);
    }

    /// The next packet, once its bytes are ours.
    pub(super) fn next(&mut self) -> Option<Punted> {
        let punted = self.queue.pop_front()?;
        self.counters.sent.add(1, punted.len);
        Some(punted)
    }

    /// Whether another packet from a port finds room. As of any queue, no more of the
    /// pool is in here than is left for all others.
    fn has_room(&self, from: PortId, pools: &Pools) -> bool {
        let free = Self::PLACES - self.len();
        let waiting = self.queue.iter().chain(&self.fresh);
        let own = waiting.filter(|punted| punted.from == from).count();
        own < free && self.len() <= pools.idle()
    }

    /// Runs the copies collected so far; what they were made for can be taken.
    fn complete<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        pools.run_copies(hypervisor);
        for (mut punted, copy) in self.copying.drain(..) {
            match copy.map(|copy| put_copy(&mut punted, copy, pools)) {
                None | Some(Ok(())) => self.queue.push_back(punted),
                Some(Err(reason)) => self.counters.discard(reason, punted.packet, pools),
            }
        }
        pools.copies.clear();
    }
}

/// Whether some of a packet is elsewhere than its first bytes.
fn is_scattered(packet: &Packet) -> bool {
    !packet.fragments.is_empty()
}

/// Puts a copy that was run in its original's place.
fn put_copy(punted: &mut Punted, copy: Private, pools: &mut Pools) -> Result<(), DropReason> {
    let mut outcome = Ok(());
    for hold in copy.failures(&punted.packet, &pools.copies) {
        outcome = Err(DropReason::CopyFailed);
        // As for any copy: the request is answered for (NETBACK-SPEC P-15).
        pools.tracker.set_status(hold, Status::Error as i16);
    }
    let unused = match outcome {
        Ok(()) => mem::replace(&mut punted.packet, copy.packet),
        Err(_) => copy.packet,
    };
    pools.give(unused);
    outcome
}
