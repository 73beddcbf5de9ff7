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
use kernel::packet::{BATCH, Bytes, Checksum, Gso, MAX_FRAGMENTS, Packet, Version};
use kernel::switch::Lane;
use xen::grant::{GrantCopy, GrantRef, GrantRegion};
use xen::netif::{ExtraInfo, GsoType, HashAlgorithm, RxFlags, RxRequest, RxResponse, Status};
use xen::ring::{BackRing, RX_RING_SIZE};
use xen::{DomainId, Hypervisor, Instant, LocalRegion, PAGE_SIZE, SharedPage};

use super::chain::Violation;

/// How long the ring may be short of slots for the packet that is next, until the
/// guest is taken to have stopped receiving: as long as with Linux.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The most headroom (P-23). What is left of a page holds the longest frame of a network
/// without jumbo frames, so that such packets stay in one slot.
pub const MAX_HEADROOM: u16 = 2048;

/// The most pages of a packet: what Linux' frontend takes (P-18), and one more than 64 KiB
/// need without headroom.
const MAX_PAGES: usize = 18;
/// The most copies a packet takes: each piece of it, and each page's end.
const MAX_COPIES: usize = 1 + MAX_FRAGMENTS + MAX_PAGES;

/// Extra info of a packet: one of each type that is sent.
type Extras = Vec<ExtraInfo, 3>;

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
    /// How many bytes of each page stay free before a packet's.
    headroom: u16,
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

/// A slot that is being filled.
#[derive(Debug)]
enum Slot {
    /// With bytes.
    Data {
        id: u16,
        flags: RxFlags,
        len: u16,
        headroom: u16,
        /// Where in the batch of copies the next slot's begin.
        copies_end: u16,
    },
    /// With what else there is to say of the packet.
    Extra(ExtraInfo),
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
        let counters = RxCounters::default();
        Ok(Self { ring, domain, scatter_gather, headroom: 0, short: None, counters })
    }

    /// Leaves so many bytes free before a packet's in each page from now on, as far as
    /// [`MAX_HEADROOM`] goes. The frontend is told with each packet how many there are.
    pub(super) fn set_headroom(&mut self, headroom: u32) {
        self.headroom = u16::try_from(headroom).unwrap_or(u16::MAX).min(MAX_HEADROOM);
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
            let headroom = self.headroom_before(next.len());
            let pages = next.len().div_ceil(PAGE_SIZE - usize::from(headroom));
            if pages > MAX_PAGES || pages > 1 && !self.scatter_gather {
                self.counters.too_long += 1;
                if let Some(packet) = queue.pop() {
                    pools.give(packet);
                }
                continue;
            }
            let extras = extras(next, headroom);
            let needed = (pages + extras.len()) as u32;
            if free < needed {
                return Ok(Some(needed));
            }
            if pass.packets.is_full() || pools.copies.room() < MAX_COPIES {
                return Ok(None);
            }
            let Some(packet) = queue.pop() else { break };
            free -= needed;
            self.copy(&packet, headroom, pages, extras, pools, pass);
            if let Err((packet, _)) = pass.packets.push((packet, needed as u8)) {
                pools.give(packet);
            }
        }
        Ok(None)
    }

    /// Adds the copies of a packet into the ring's next slots, which were counted before:
    /// one for each of its pages, and behind the first one for each extra (P-17).
    fn copy(
        &mut self,
        packet: &Packet,
        headroom: u16,
        pages: usize,
        mut extras: Extras,
        pools: &mut Pools,
        pass: &mut Pass,
    ) {
        let mut flags = match packet.meta.checksum {
            Checksum::Partial => RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED,
            Checksum::Validated => RxFlags::DATA_VALIDATED,
            Checksum::Unknown => RxFlags::empty(),
        };
        flags.set(RxFlags::EXTRA_INFO, !extras.is_empty());
        let mut pieces = Pieces::new(packet);
        for page in 0..pages {
            let Some(request) = self.ring.take() else { break };
            let reference = GrantRef(request.gref);
            let to = GrantRegion { domain: self.domain, reference, offset: headroom };
            let len = pieces.fill_page(to, pools);
            flags.set(RxFlags::MORE_DATA, page + 1 < pages);
            let copies_end = pools.copies.len() as u16;
            let slot = Slot::Data { id: request.id, flags, len, headroom, copies_end };
            let _ = pass.slots.push(slot);
            flags = RxFlags::empty();
            for extra in core::mem::take(&mut extras) {
                if self.ring.take().is_some() {
                    let _ = pass.slots.push(Slot::Extra(extra));
                }
            }
        }
    }

    /// How many bytes of each page stay free before those of a packet of `len`: what the
    /// frontend asks for, or as many as leave room for the packet in [`MAX_PAGES`]. So what
    /// was still to be cut when headroom was asked for is not lost.
    fn headroom_before(&self, len: usize) -> u16 {
        let most = PAGE_SIZE.saturating_sub(len.div_ceil(MAX_PAGES));
        self.headroom.min(most as u16)
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
                let (mut response, end) = match *slot {
                    Slot::Data { id, flags, len, headroom, copies_end } => {
                        (RxResponse::new(id, headroom, flags, len as i16), copies_end)
                    }
                    Slot::Extra(extra) => {
                        self.ring.respond(extra.into());
                        continue;
                    }
                };
                let end = usize::from(end);
                let mut outcomes = (copy..end).map(|place| pools.copies.status(place).is_ok());
                let filled = outcomes.clone().all(|copied| copied);
                delivered &= filled;
                unreadable |= !filled && outcomes.any(|copied| copied);
                copy = end;
                if !filled {
                    response.status = Status::Error as i16;
                }
                self.ring.respond(response);
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

/// What there is to say of a packet beside its bytes: how it is still to be cut (P-21),
/// its flow's hash (P-25), and what is free before it (P-23).
fn extras(packet: &Packet, headroom: u16) -> Extras {
    let gso = packet.meta.gso.map(segmentation);
    let hash = packet
        .meta
        .hash
        .map(|Hash { kind, value }| ExtraInfo::hash(kind as u8, HashAlgorithm::Toeplitz, value));
    let xdp = (headroom > 0).then(|| ExtraInfo::xdp(headroom));
    let mut extras: Extras = gso.into_iter().chain(hash).chain(xdp).collect();
    if let Some((_, followed)) = extras.split_last_mut() {
        followed.iter_mut().for_each(ExtraInfo::set_more);
    }
    extras
}

/// How a frontend is told of a packet's segmentation.
fn segmentation(gso: Gso) -> ExtraInfo {
    let kind = match gso.version {
        Version::V4 => GsoType::TcpV4,
        Version::V6 => GsoType::TcpV6,
    };
    ExtraInfo::gso(kind.number(), gso.mss)
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

    /// Adds the copies that fill the rest of a page from `to` on and returns how many bytes
    /// they are.
    fn fill_page(&mut self, to: GrantRegion, pools: &mut Pools) -> u16 {
        let room = PAGE_SIZE as u16 - to.offset;
        let mut filled = 0;
        while filled < room
            && let Some(len) = self.piece_len()
        {
            let count = (len - self.done).min(room - filled);
            if count > 0 {
                let to = GrantRegion { offset: to.offset + filled, ..to };
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
            return self.copy_own(whole, to, count);
        }
        let fragment = self.packet.fragments.get(self.piece - 1)?;
        match &fragment.bytes {
            Bytes::Lent(hold) => {
                pools.tracker.page(hold).copy_to_grant(fragment.offset + self.done, to, count)
            }
            Bytes::Own(_) => self.copy_own(fragment.region(&pools.buffers)?, to, count),
        }
    }

    fn copy_own(&self, whole: LocalRegion, to: GrantRegion, count: u16) -> Option<GrantCopy> {
        let offset = usize::from(whole.offset() + self.done);
        let from = LocalRegion::new(whole.frame(), offset, usize::from(count))?;
        Some(GrantCopy::to_grant(from, to))
    }
}
