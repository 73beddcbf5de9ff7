//! The guest's transmit queue: what it sends comes in here.
//!
//! A pass takes all requests there are, copies the headers of all packets by one
//! hypercall, and hands on packets whose payload is still in the guest's pages.

use alloc::boxed::Box;
use core::mem;
use core::ops::{AddAssign, Range};

use heapless::Vec;
use kernel::defect::{self, Defect};
use kernel::memory::Size;
use kernel::packet::{BATCH, Batch, Checksum, ETHERNET_HEADER, Fragment, Linear, Packet};
use kernel::pages::{Claim, ShardId};
use kernel::{HEADROOM, Pools};
use xen::grant::{GrantCopy, GrantRef};
use xen::netif::{Status, TxFlags, TxResponse, TxSlot};
use xen::ring::{BackRing, TX_RING_SIZE};
use xen::{DomainId, Hypervisor, Instant, SharedPage};

use super::chain::{Chain, MAX_SLOTS, Violation};

/// Bytes of a packet copied into our memory: all headers that are looked at.
const HEADERS: u16 = 128;
/// Packets up to this length are copied whole, since the rest of a header buffer
/// is there anyway and the guest has its page back at once.
const WHOLE: u16 = Size::Small.bytes() as u16 - HEADROOM;

type Ring = BackRing<TxSlot, TxResponse, TX_RING_SIZE>;

/// What a transmit queue counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TxCounters {
    /// Packets taken.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests answered with an error because of what they said.
    pub refused: u64,
    /// Packets lost because a granted page could not be read.
    pub unreadable: u64,
}

impl AddAssign for TxCounters {
    fn add_assign(&mut self, Self { packets, bytes, refused, unreadable }: Self) {
        self.packets += packets;
        self.bytes += bytes;
        self.refused += refused;
        self.unreadable += unreadable;
    }
}

/// A transmit queue.
#[derive(Debug)]
pub(super) struct TxQueue {
    ring: Ring,
    shard: ShardId,
    counters: TxCounters,
}

/// A packet whose headers are on their way.
struct Pending {
    packet: Box<Packet>,
    /// Its copies, the n-th from its n-th fragment's page.
    copies: Range<usize>,
}

/// Whether there is nothing to make a packet of, so that requests have to wait until
/// something comes back.
pub fn is_short(pools: &Pools) -> bool {
    pools.idle() == 0 || pools.buffers.free(Size::Small) == 0
}

impl TxQueue {
    /// Takes over the ring in `page`, as it stands.
    pub(super) fn attach(
        page: SharedPage,
        domain: DomainId,
        pools: &mut Pools,
    ) -> Result<Self, Violation> {
        let ring = Ring::attach(page).map_err(Violation::Ring)?;
        let slots = TX_RING_SIZE as u16;
        let shard = pools.tracker.open(domain, slots).ok_or(Violation::TooManyRequests)?;
        Ok(Self { ring, shard, counters: TxCounters::default() })
    }

    /// The queue's lent pages.
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn counters(&self) -> TxCounters {
        self.counters
    }

    /// Takes packets from the ring until `batch` is full, the ring is empty or a
    /// pool is used up. Says whether requests may be left.
    pub(super) fn receive<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        batch: &mut Batch,
        now: Instant,
    ) -> Result<bool, Violation> {
        let mut pending = Vec::<Pending, BATCH>::new();
        let result = self.collect(pools, BATCH - batch.len(), &mut pending, now);
        pools.run_copies(hypervisor);
        for Pending { packet, copies } in pending {
            if let Some(packet) = self.finish(packet, copies, pools) {
                self.counters.packets += 1;
                self.counters.bytes += packet.len() as u64;
                if let Err(packet) = batch.push_back(packet) {
                    pools.give(packet);
                }
            }
        }
        pools.copies.clear();
        result
    }

    fn collect(
        &mut self,
        pools: &mut Pools,
        room: usize,
        pending: &mut Vec<Pending, BATCH>,
        now: Instant,
    ) -> Result<bool, Violation> {
        // Counted by requests, good ones or not: a guest that goes on producing while
        // we look must not keep us here.
        for _ in 0..room {
            if is_short(pools) || pools.copies.room() < MAX_SLOTS || self.requests()? == 0 {
                break;
            }
            let chain = Chain::parse(|| self.ring.take())?;
            if chain.refusal.is_some() {
                self.refuse(&chain);
            } else if let Some(next) = self.build(&chain, pools, now)? {
                // Bounded by `room`, which is at most its capacity.
                if let Err(next) = pending.push(next) {
                    pools.give(next.packet);
                }
            }
        }
        Ok(self.requests()? > 0)
    }

    fn requests(&mut self) -> Result<u32, Violation> {
        self.ring.requests().map_err(Violation::Ring)
    }

    /// Answers all slots of a request with an error.
    fn refuse(&mut self, chain: &Chain) {
        self.counters.refused += 1;
        for (index, slot) in chain.slots.iter().enumerate() {
            let extras = if index == 0 { chain.extras } else { 0 };
            self.respond(slot.id, Status::Error, extras);
        }
    }

    /// Starts a packet: claims its pages, and adds the copies of its headers.
    fn build(
        &mut self,
        chain: &Chain,
        pools: &mut Pools,
        now: Instant,
    ) -> Result<Option<Pending>, Violation> {
        let Some(mut packet) = pools.take() else { return Ok(None) };
        let Some(buffer) = pools.buffers.take(Size::Small) else {
            pools.give(packet);
            return Ok(None);
        };
        let headers = if chain.len <= WHOLE { chain.len } else { HEADERS };
        let first = pools.copies.len();
        let mut at = 0;
        for (index, slot) in chain.slots.iter().enumerate() {
            if slot.size == 0 && index > 0 {
                // Its page must not be looked at (XSA-448, P-10).
                self.respond(slot.id, Status::Okay, 0);
                continue;
            }
            let extras = if index == 0 { chain.extras } else { 0 };
            let reference = GrantRef(slot.gref);
            let claim = Claim { reference, id: slot.id, extras, since: now };
            let Some(hold) = pools.tracker.claim(self.shard, claim) else {
                packet.linear = Some(Linear { buffer, offset: HEADROOM, len: 0 });
                pools.give(packet);
                return Err(Violation::TooManyRequests);
            };
            let pulled = slot.size.min(headers - at);
            let start = usize::from(HEADROOM + at);
            if pulled > 0
                && let Some(to) = pools.buffers.region(&buffer, start..start + usize::from(pulled))
            {
                let from = pools.tracker.region(&hold, slot.offset);
                pools.copies.push(GrantCopy::from_grant(from, to));
            }
            at += pulled;
            let kept = match defect::is(Defect::SendsHeadersFromThePage) {
                true => pulled.min((ETHERNET_HEADER as u16).saturating_sub(at - pulled)),
                false => pulled,
            };
            let fragment = Fragment { hold, offset: slot.offset + kept, len: slot.size - kept };
            // A packet has room for as many fragments as a request has slots.
            if let Err(fragment) = packet.fragments.push(fragment) {
                pools.tracker.release(fragment.hold);
            }
        }
        let len = match defect::is(Defect::SendsHeadersFromThePage) {
            true => ETHERNET_HEADER as u16,
            false => headers,
        };
        packet.linear = Some(Linear { buffer, offset: HEADROOM, len });
        let flags = chain.slots[0].flags();
        packet.meta.checksum = if flags.contains(TxFlags::CSUM_BLANK) {
            Checksum::Partial
        } else if flags.contains(TxFlags::DATA_VALIDATED) {
            Checksum::Validated
        } else {
            Checksum::Unknown
        };
        Ok(Some(Pending { packet, copies: first..pools.copies.len() }))
    }

    /// Looks at what became of a packet's copies. A page that could not be read
    /// fails its own slot, and the packet (P-15).
    fn finish(
        &mut self,
        mut packet: Box<Packet>,
        copies: Range<usize>,
        pools: &mut Pools,
    ) -> Option<Box<Packet>> {
        let mut readable = true;
        for (place, fragment) in copies.zip(&packet.fragments) {
            if pools.copies.status(place).is_err() {
                pools.tracker.set_status(&fragment.hold, Status::Error as i16);
                readable = false;
            }
        }
        if !readable {
            self.counters.unreadable += 1;
            pools.give(packet);
            return None;
        }
        // Pages of which nothing is left to look at go home.
        if packet.fragments.iter().any(|fragment| fragment.len == 0) {
            for fragment in mem::take(&mut packet.fragments) {
                let eaten = defect::is(Defect::PullEatsTheFirstPage) && packet.is_private();
                if fragment.len == 0 || eaten {
                    pools.tracker.release(fragment.hold);
                } else if let Err(fragment) = packet.fragments.push(fragment) {
                    pools.tracker.release(fragment.hold);
                }
            }
        }
        Some(packet)
    }

    /// Answers what is due, and says whether the frontend wants to be told.
    pub(super) fn complete(&mut self, pools: &mut Pools) -> bool {
        while let Some(due) = pools.tracker.next_response(self.shard) {
            self.ring.respond(TxResponse { id: due.id, status: due.status });
            if defect::is(Defect::AnswersTwice) {
                self.ring.respond(TxResponse { id: due.id, status: due.status });
            }
            self.respond_extras(due.id, due.extras);
        }
        self.ring.publish()
    }

    /// Asks for an event with the next request. Says whether one came meanwhile.
    pub(super) fn rearm(&mut self) -> Result<bool, Violation> {
        self.ring.rearm(1).map_err(Violation::Ring)
    }

    fn respond(&mut self, id: u16, status: Status, extras: u8) {
        self.ring.respond(TxResponse { id, status: status as i16 });
        self.respond_extras(id, extras);
    }

    fn respond_extras(&mut self, id: u16, extras: u8) {
        for _ in 0..if defect::is(Defect::ForgetsExtras) { 0 } else { extras } {
            self.ring.respond(TxResponse { id, status: Status::Null as i16 });
        }
    }
}
