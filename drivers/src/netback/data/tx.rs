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
use kernel::packet::{
    BATCH, Batch, Checksum, ETHERNET_HEADER, Fragment, Gso, Linear, Packet, Version,
};
use kernel::pages::{Claim, Page, ShardId};
use kernel::switch::TooManyGroups;
use kernel::{HEADROOM, Pools};
use xen::grant::GrantRef;
use xen::netif::{Status, TxFlags, TxResponse, TxSlot};
use xen::ring::{BackRing, TX_RING_SIZE};
use xen::{DomainId, Hypervisor, Instant, SharedPage};

use super::chain::{Chain, GroupChange, MAX_SLOTS, Violation};
use super::common::Common;
use super::credit::Credit;

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
    /// Packets refused because they cannot be segmented as their requests ask.
    pub unsegmentable: u64,
}

impl AddAssign for TxCounters {
    fn add_assign(&mut self, Self { packets, bytes, refused, unreadable, unsegmentable }: Self) {
        self.packets += packets;
        self.bytes += bytes;
        self.refused += refused;
        self.unreadable += unreadable;
        self.unsegmentable += unsegmentable;
    }
}

/// A transmit queue.
#[derive(Debug)]
pub(super) struct TxQueue {
    domain: DomainId,
    ring: Ring,
    shard: ShardId,
    /// A request's first slot that was taken when there was no credit for it: what was read
    /// once is not read again (P-3).
    held: Option<TxSlot>,
    /// When there is credit for it.
    resumes_at: Option<Instant>,
    counters: TxCounters,
}

/// A packet whose headers are on their way.
struct Pending {
    packet: Box<Packet>,
    /// Its copies, the n-th from its n-th fragment's page.
    copies: Range<usize>,
    /// How it is to be segmented, by its request.
    gso: Option<(Version, u16)>,
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
        Ok(Self {
            domain,
            ring,
            shard,
            held: None,
            resumes_at: None,
            counters: TxCounters::default(),
        })
    }

    /// The queue's lent pages.
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn counters(&self) -> TxCounters {
        self.counters
    }

    /// When requests are to be taken again that wait for credit.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Whether there is credit now for requests that waited for it; told once.
    pub(super) fn resumes(&mut self, now: Instant) -> bool {
        self.resumes_at.take_if(|at| *at <= now).is_some()
    }

    /// Ends the wait of requests for credit, as there may be more now. Whether any waited.
    pub(super) fn resume(&mut self) -> bool {
        self.resumes_at.take().is_some()
    }

    /// Takes packets from the ring until `batch` is full, the ring is empty, a pool is
    /// used up or the vif's credit. Says whether requests may be left, other than for
    /// want of credit.
    pub(super) fn receive<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        common: &mut Common,
        batch: &mut Batch,
        now: Instant,
    ) -> Result<bool, Violation> {
        let mut pending = Vec::<Pending, BATCH>::new();
        let result = self.collect(pools, common, BATCH - batch.len(), &mut pending, now);
        pools.run_copies(hypervisor);
        for pending in pending {
            if let Some(packet) = self.finish(pending, pools) {
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
        common: &mut Common,
        room: usize,
        pending: &mut Vec<Pending, BATCH>,
        now: Instant,
    ) -> Result<bool, Violation> {
        // Counted by requests, good ones or not: a guest that goes on producing while
        // we look must not keep us here.
        for _ in 0..room {
            if is_short(pools) || pools.copies.room() < MAX_SLOTS {
                break;
            }
            let Some(first) = self.first(&mut common.credit, now)? else { break };
            let mut first = Some(first);
            let chain = Chain::parse(|| first.take().or_else(|| self.ring.take()))?;
            if chain.refusal.is_some() {
                self.refuse(&chain);
            } else if let Some(change) = chain.change {
                self.change(&chain, change, common);
            } else if let Some(next) = self.build(&chain, pools, now)? {
                // Bounded by `room`, which is at most its capacity.
                if let Err(next) = pending.push(next) {
                    pools.give(next.packet);
                }
            }
        }
        Ok(self.resumes_at.is_none() && (self.held.is_some() || self.requests()? > 0))
    }

    /// The first slot of the next request, if there is one and credit for it.
    fn first(
        &mut self,
        credit: &mut Option<Credit>,
        now: Instant,
    ) -> Result<Option<TxSlot>, Violation> {
        let first = match self.held.take() {
            None if self.requests()? == 0 => None,
            None => self.ring.take(),
            held => held,
        };
        let (Some(slot), Some(credit)) = (first, credit) else { return Ok(first) };
        self.resumes_at = credit.spend(slot.request().size, now).err();
        if self.resumes_at.is_some() {
            self.held = Some(slot);
            return Ok(None);
        }
        Ok(Some(slot))
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

    /// Changes the vif's groups, as far as there is room, and answers the request.
    fn change(&mut self, chain: &Chain, change: GroupChange, common: &mut Common) {
        let status = match common.change(change) {
            Ok(()) => Status::Okay,
            Err(TooManyGroups) => Status::Error,
        };
        self.respond(chain.slots[0].id, status, chain.extras);
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
        let headers = match chain.gso {
            _ if chain.len <= WHOLE => chain.len,
            // Whoever cuts it needs all its headers, options included.
            Some(_) => WHOLE,
            None => HEADERS,
        };
        let first = pools.copies.len();
        let mut at = 0;
        for (index, slot) in chain.slots.iter().enumerate() {
            if slot.size == 0 && index > 0 {
                // Its page must not be looked at (XSA-448, P-10).
                self.respond(slot.id, Status::Okay, 0);
                continue;
            }
            let extras = if index == 0 { chain.extras } else { 0 };
            let page = Page::Granted(self.domain, GrantRef(slot.gref));
            let claim = Claim { page, id: slot.id, extras, since: now };
            let Some(hold) = pools.tracker.claim(self.shard, claim) else {
                packet.linear = Some(Linear { buffer, offset: HEADROOM, len: 0 });
                pools.give(packet);
                return Err(Violation::TooManyRequests);
            };
            let pulled = slot.size.min(headers - at);
            let start = usize::from(HEADROOM + at);
            if pulled > 0
                && let Some(to) = pools.buffers.region(&buffer, start..start + usize::from(pulled))
                && let Some(copy) = pools.tracker.page(&hold).copy_out(slot.offset, to)
            {
                pools.copies.push(copy);
            }
            at += pulled;
            let kept = match defect::is(Defect::SendsHeadersFromThePage) {
                true => pulled.min((ETHERNET_HEADER as u16).saturating_sub(at - pulled)),
                false => pulled,
            };
            let fragment = Fragment::lent(hold, slot.offset + kept, slot.size - kept);
            // A packet has room for as many fragments as a request has slots.
            if let Err(fragment) = packet.fragments.push(fragment) {
                pools.end(fragment);
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
        Ok(Some(Pending { packet, copies: first..pools.copies.len(), gso: chain.gso }))
    }

    /// Looks at what became of a packet's copies. A page that could not be read
    /// fails its own slot, and the packet (P-15).
    fn finish(&mut self, pending: Pending, pools: &mut Pools) -> Option<Box<Packet>> {
        let Pending { mut packet, copies, gso } = pending;
        let mut readable = true;
        for (place, hold) in copies.zip(packet.holds()) {
            if pools.copies.status(place).is_err() {
                pools.tracker.set_status(hold, Status::Error as i16);
                readable = false;
            }
        }
        if !readable {
            self.counters.unreadable += 1;
            pools.give(packet);
            return None;
        }
        if let Some((version, mss)) = gso
            && !set_segmentation(&mut packet, version, mss, pools)
        {
            self.counters.unsegmentable += 1;
            for hold in packet.holds() {
                pools.tracker.set_status(hold, Status::Error as i16);
            }
            pools.give(packet);
            return None;
        }
        // Pages of which nothing is left to look at go home.
        if packet.fragments.iter().any(|fragment| fragment.len == 0) {
            for fragment in mem::take(&mut packet.fragments) {
                let eaten = defect::is(Defect::PullEatsTheFirstPage) && packet.is_private();
                if fragment.len == 0 || eaten {
                    pools.end(fragment);
                } else if let Err(fragment) = packet.fragments.push(fragment) {
                    pools.end(fragment);
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

/// Takes note of the segmentation that a packet asks for, once its headers are ours;
/// `false` where there is no such in a packet like it (P-12). Its checksum is to be made,
/// whether or not the request says so.
fn set_segmentation(packet: &mut Packet, version: Version, mss: u16, pools: &mut Pools) -> bool {
    let headers = packet.headers(&pools.buffers);
    let Ok(gso) = Gso::check(headers, packet.len(), version, mss) else { return false };
    packet.meta.gso = gso;
    if packet.meta.checksum != Checksum::Partial {
        packet.meta.checksum = Checksum::Partial;
        packet.seed_checksum(&mut pools.buffers);
    }
    true
}
