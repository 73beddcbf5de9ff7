//! The guest's receive queue: what it gets goes out here.
//!
//! Packets fill the guest's pages from the start, one after another, with nothing
//! left out (P-19); all copies of a pass go in one hypercall, each from where the
//! bytes are: our memory, or the page of the guest that sent them.

use alloc::boxed::Box;
use core::ops::AddAssign;
use core::time::Duration;

use heapless::Vec;
use kernel::Pools;
use kernel::packet::flow::Hash;
use kernel::packet::{BATCH, Checksum, MAX_FRAGMENTS, Packet};
use kernel::switch::Lane;
use xen::grant::{GrantCopy, GrantRef, GrantRegion};
use xen::netif::{ExtraFlags, ExtraInfo, HashAlgorithm};
use xen::netif::{RxFlags, RxRequest, RxResponse, Status};
use xen::ring::{BackRing, RX_RING_SIZE};
use xen::{DomainId, Hypervisor, Instant, LocalRegion, PAGE_SIZE, SharedPage};

use super::chain::Violation;

/// How long the ring may be short of slots for the packet that is next, until the
/// guest is taken to have stopped receiving: as long as with Linux.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The most slots a packet of 64 KiB takes.
const MAX_SLOTS: usize = 17;
/// The most copies a packet takes: each piece of it, and each page's end.
const MAX_COPIES: usize = 1 + MAX_FRAGMENTS + MAX_SLOTS;

type Ring = BackRing<RxRequest, RxResponse, RX_RING_SIZE>;

/// What a receive queue counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RxCounters {
    /// Packets delivered.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of more slots than the frontend takes.
    pub too_long: u64,
    /// Packets lost because nothing got into one of the guest's pages.
    pub failed: u64,
    /// Packets lost because a page, which some of the packet got into, was filled only in
    /// part: a page of their sender's could not be read.
    pub unreadable: u64,
}

impl AddAssign for RxCounters {
    fn add_assign(&mut self, Self { packets, bytes, too_long, failed, unreadable }: Self) {
        self.packets += packets;
        self.bytes += bytes;
        self.too_long += too_long;
        self.failed += failed;
        self.unreadable += unreadable;
    }
}

/// A receive queue.
#[derive(Debug)]
pub(super) struct RxQueue {
    ring: Ring,
    domain: DomainId,
    /// Whether the frontend takes packets of more than one slot (feature-sg).
    scatter_gather: bool,
    short: Option<Short>,
    counters: RxCounters,
}

/// What the ring was short of when a packet waited last.
#[derive(Clone, Copy, Debug)]
struct Short {
    /// Since when no packet has gone out.
    since: Instant,
    /// How many slots the packet takes.
    slots: u32,
}

/// What a slot is answered with.
#[derive(Debug)]
enum Answer {
    /// So many bytes in the page of the request `id`.
    Data { id: u16, flags: RxFlags, len: u16 },
    /// What else there is to say of the packet.
    Extra(ExtraInfo),
}

/// A slot that is being filled.
#[derive(Debug)]
struct Slot {
    answer: Answer,
    /// Where in the batch of copies the next slot's begin.
    copies_end: u16,
}

/// Packets whose copies are on their way, and the slots they go to.
#[derive(Default)]
struct Pass {
    packets: Vec<(Box<Packet>, u8), BATCH>,
    slots: Vec<Slot, { RX_RING_SIZE as usize }>,
}

impl RxQueue {
    /// Takes over the ring in `page`, as it stands.
    pub(super) fn attach(
        page: SharedPage,
        domain: DomainId,
        scatter_gather: bool,
    ) -> Result<Self, Violation> {
        let ring = Ring::attach(page).map_err(Violation::Ring)?;
        Ok(Self { ring, domain, scatter_gather, short: None, counters: RxCounters::default() })
    }

    pub(super) fn counters(&self) -> RxCounters {
        self.counters
    }

    /// Sends from `queue` what the ring has slots for. Says whether the frontend
    /// wants to be told.
    pub(super) fn transmit<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        queue: &mut Lane<'_>,
        pools: &mut Pools,
        now: Instant,
    ) -> Result<bool, Violation> {
        while !queue.is_empty() {
            let mut pass = Pass::default();
            let result = self.fill(queue, pools, &mut pass);
            let sent = !pass.packets.is_empty();
            self.drain(hypervisor, pools, pass);
            if sent {
                self.short = None;
            }
            if let Some(slots) = result? {
                let since = self.short.map_or(now, |short| short.since);
                self.short = Some(Short { since, slots });
                if !self.is_refilled()? {
                    return Ok(self.ring.publish());
                }
            } else if !sent {
                break;
            }
        }
        Ok(self.ring.publish())
    }

    /// When the ring has been short of slots for [`STALL_TIMEOUT`], if it stays so.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        self.short.map(|short| short.since + STALL_TIMEOUT)
    }

    /// Whether the ring has what it was short of. Where it has not, the guest's
    /// refilling it raises an event (P-5): once as many slots as the packet takes are
    /// said to be there, and not before.
    pub(super) fn is_refilled(&mut self) -> Result<bool, Violation> {
        let Some(Short { slots, .. }) = self.short else { return Ok(true) };
        let refilled = self.ring.rearm(slots).map_err(Violation::Ring)?;
        self.short = self.short.filter(|_| !refilled);
        Ok(refilled)
    }

    /// Takes packets and slots for one hypercall. Where the next packet finds too
    /// few slots, says how many it needs.
    fn fill(
        &mut self,
        queue: &mut Lane<'_>,
        pools: &mut Pools,
        pass: &mut Pass,
    ) -> Result<Option<u32>, Violation> {
        let mut free = self.ring.requests().map_err(Violation::Ring)?;
        while let Some(next) = queue.front() {
            let needed = next.len().div_ceil(PAGE_SIZE);
            if needed > MAX_SLOTS || needed > 1 && !self.scatter_gather {
                self.counters.too_long += 1;
                if let Some(packet) = queue.pop() {
                    pools.give(packet);
                }
                continue;
            }
            // Extra info takes a slot as well (P-19).
            let needed = needed as u32 + u32::from(next.meta.hash.is_some());
            if free < needed {
                return Ok(Some(needed));
            }
            if pass.packets.is_full() || pools.copies.room() < MAX_COPIES {
                return Ok(None);
            }
            let Some(packet) = queue.pop() else { break };
            free -= needed;
            self.copy(&packet, needed, pools, pass);
            if let Err((packet, _)) = pass.packets.push((packet, needed as u8)) {
                pools.give(packet);
            }
        }
        Ok(None)
    }

    /// Adds the copies of a packet into the next `slots` slots of the ring, one of which
    /// is for the hash where the guest is to be told of one (P-17).
    fn copy(&mut self, packet: &Packet, slots: u32, pools: &mut Pools, pass: &mut Pass) {
        let mut flags = match packet.meta.checksum {
            Checksum::Partial => RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED,
            Checksum::Validated => RxFlags::DATA_VALIDATED,
            Checksum::Unknown => RxFlags::empty(),
        };
        let mut pieces = Pieces::new(packet);
        let mut hash = packet.meta.hash;
        flags.set(RxFlags::EXTRA_INFO, hash.is_some());
        let slots = slots - u32::from(hash.is_some());
        for index in 0..slots {
            // The slots were counted before.
            let Some(request) = self.ring.take() else { break };
            let to =
                GrantRegion { domain: self.domain, reference: GrantRef(request.gref), offset: 0 };
            let len = pieces.fill_page(to, pools);
            if index + 1 < slots {
                flags |= RxFlags::MORE_DATA;
            }
            let copies_end = pools.copies.len() as u16;
            let answer = Answer::Data { id: request.id, flags, len };
            let _ = pass.slots.push(Slot { answer, copies_end });
            flags = RxFlags::empty();
            if let Some(Hash { kind, value }) = hash.take()
                && self.ring.take().is_some()
            {
                let (toeplitz, last) = (HashAlgorithm::Toeplitz, ExtraFlags::empty());
                let answer = Answer::Extra(ExtraInfo::hash(kind as u8, toeplitz, value, last));
                let _ = pass.slots.push(Slot { answer, copies_end });
            }
        }
    }

    /// Runs the copies and answers the slots. A slot whose page could not be
    /// filled is an error of its own (P-20), whosever page it was: the slot is taken,
    /// and those after it are filled. Where some of the packet got into the page, the
    /// page is good, and what is missing could not be read.
    fn drain<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools, pass: Pass) {
        pools.run_copies(hypervisor);
        let mut slots = pass.slots.iter();
        let mut copy = 0;
        for (packet, count) in pass.packets {
            let (mut delivered, mut unreadable) = (true, false);
            for slot in slots.by_ref().take(usize::from(count)) {
                let end = usize::from(slot.copies_end);
                let mut outcomes = (copy..end).map(|place| pools.copies.status(place).is_ok());
                let filled = outcomes.clone().all(|copied| copied);
                delivered &= filled;
                unreadable |= !filled && outcomes.any(|copied| copied);
                copy = end;
                self.ring.respond(match slot.answer {
                    Answer::Data { id, flags, len } => {
                        let status = if filled { len as i16 } else { Status::Error as i16 };
                        RxResponse::new(id, 0, flags, status)
                    }
                    Answer::Extra(extra) => extra.into(),
                });
            }
            if delivered {
                self.counters.packets += 1;
                self.counters.bytes += packet.len() as u64;
            } else if unreadable {
                self.counters.unreadable += 1;
            } else {
                self.counters.failed += 1;
            }
            pools.give(packet);
        }
        pools.copies.clear();
    }
}

/// A packet's bytes in order, cut where the guest's pages end.
struct Pieces<'a> {
    packet: &'a Packet,
    /// The piece at hand: 0 is the bytes in our memory, then the fragments.
    piece: usize,
    /// How many of its bytes are copied already.
    done: u16,
}

impl<'a> Pieces<'a> {
    fn new(packet: &'a Packet) -> Self {
        Self { packet, piece: 0, done: 0 }
    }

    /// Adds the copies that fill the page `to` and returns how many bytes they are.
    fn fill_page(&mut self, to: GrantRegion, pools: &mut Pools) -> u16 {
        let mut filled = 0;
        while filled < PAGE_SIZE as u16
            && let Some(len) = self.piece_len()
        {
            let count = (len - self.done).min(PAGE_SIZE as u16 - filled);
            if count > 0 {
                let to = GrantRegion { offset: filled, ..to };
                if let Some(copy) = self.copy(to, count, pools) {
                    pools.copies.push(copy);
                }
            }
            filled += count;
            self.done += count;
            if self.done == len {
                self.piece += 1;
                self.done = 0;
            }
        }
        filled
    }

    fn piece_len(&self) -> Option<u16> {
        match self.piece {
            0 => Some(self.packet.linear.as_ref().map_or(0, |linear| linear.len)),
            piece => self.packet.fragments.get(piece - 1).map(|fragment| fragment.len),
        }
    }

    fn copy(&self, to: GrantRegion, count: u16, pools: &Pools) -> Option<GrantCopy> {
        if self.piece == 0 {
            let whole = self.packet.linear.as_ref()?.region(&pools.buffers)?;
            let offset = usize::from(whole.offset() + self.done);
            let from = LocalRegion::new(whole.frame(), offset, usize::from(count))?;
            return Some(GrantCopy::to_grant(from, to));
        }
        let fragment = self.packet.fragments.get(self.piece - 1)?;
        let from = pools.tracker.region(&fragment.hold, fragment.offset + self.done);
        Some(GrantCopy::between_grants(from, to, count))
    }
}
