//! The guest's receive queue: what it gets goes out here.
//!
//! Packets fill the guest's pages from the start, one after another (P-19); all copies of
//! a pass go in one hypercall, each from where the bytes are: our memory, or the page of
//! the guest that sent them. What a packet of several pages costs is mostly its copies, not
//! its bytes, so a piece that one page more takes in one copy is not cut in two.

use alloc::boxed::Box;
use core::iter;
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
    /// Packets lost because nothing got into one of the guest's pages: it is not there, or
    /// the page of their sender's that was to fill it alone is not.
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
            let room = PAGE_SIZE - usize::from(headroom);
            let fewest = next.len().div_ceil(room);
            if fewest > MAX_PAGES || fewest > 1 && !self.scatter_gather {
                self.counters.too_long += 1;
                if let Some(packet) = queue.pop() {
                    pools.give(packet);
                }
                continue;
            }
            let extras = extras(next, headroom);
            let needed = (fewest + extras.len()) as u32;
            if free < needed {
                return Ok(Some(needed));
            }
            if pass.packets.is_full() || pools.copies.room() < MAX_COPIES {
                return Ok(None);
            }
            let Some(packet) = queue.pop() else { break };
            let most = MAX_PAGES.min(free as usize - extras.len());
            let pages = match fewest {
                1 => iter::once(packet.len() as u16).collect(),
                _ => layout(pieces(&packet), room, most),
            };
            let needed = (pages.len() + extras.len()) as u32;
            free -= needed;
            self.copy(&packet, headroom, &pages, extras, pools, pass);
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
        pages: &[u16],
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
        for (page, len) in (1..).zip(pages.iter().copied()) {
            let Some(request) = self.ring.take() else { break };
            let reference = GrantRef(request.gref);
            let to = GrantRegion { domain: self.domain, reference, offset: headroom };
            pieces.copy_into(to, len, pools);
            flags.set(RxFlags::MORE_DATA, page < pages.len());
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

/// How many bytes of a packet, which comes in `pieces`, go to each of the guest's pages, of
/// which each has `room` and there are `most`, no fewer than the packet takes. A piece
/// begins a page where the one before it has room for a part of it only, as long as the
/// pages last.
fn layout(
    pieces: impl Iterator<Item = usize> + Clone,
    room: usize,
    most: usize,
) -> Vec<u16, MAX_PAGES> {
    let (mut pages, mut filled) = (Vec::new(), 0);
    let mut rest: usize = pieces.clone().sum();
    for mut len in pieces {
        let cut = filled + len > room && len <= room;
        if cut && pages.len() + 1 + rest.div_ceil(room) <= most {
            let _ = pages.push(filled as u16);
            filled = 0;
        }
        rest -= len;
        while filled + len > room {
            let _ = pages.push(room as u16);
            len -= room - filled;
            filled = 0;
        }
        filled += len;
    }
    let _ = pages.push(filled as u16);
    pages
}

/// The bytes of each piece of a packet: what is in our memory, then the fragments.
fn pieces(packet: &Packet) -> impl Iterator<Item = usize> + Clone {
    (0..).map_while(|piece| piece_len(packet, piece)).map(usize::from)
}

/// The bytes of a piece of a packet: 0 is what is in our memory, then the fragments.
fn piece_len(packet: &Packet, piece: usize) -> Option<u16> {
    match piece {
        0 => Some(packet.linear.as_ref().map_or(0, |linear| linear.len)),
        piece => packet.fragments.get(piece - 1).map(|fragment| fragment.len),
    }
}

/// A packet's bytes in order, cut where the guest's pages end.
struct Pieces<'a> {
    packet: &'a Packet,
    /// The number of the piece at hand.
    piece: usize,
    /// How many of its bytes are copied already.
    done: u16,
}

impl<'a> Pieces<'a> {
    fn new(packet: &'a Packet) -> Self {
        Self { packet, piece: 0, done: 0 }
    }

    /// Adds the copies of the next `room` bytes to where `to` begins, all in one page.
    fn copy_into(&mut self, to: GrantRegion, room: u16, pools: &mut Pools) {
        let mut filled = 0;
        while filled < room
            && let Some(len) = piece_len(self.packet, self.piece)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many copies that takes: one for each piece, and one more for each page's end
    /// within one.
    fn copies(sizes: &[usize], pages: &[u16]) -> usize {
        let bounds = ends(sizes.iter().copied());
        let pages = ends(pages.iter().map(|len| usize::from(*len)));
        sizes.len() + pages.iter().filter(|end| !bounds.contains(end)).count()
    }

    fn ends(lens: impl Iterator<Item = usize>) -> std::vec::Vec<usize> {
        let mut end = 0;
        let sum = |len| {
            end += len;
            end
        };
        lens.map(sum).collect()
    }

    #[test]
    fn a_stream_is_copied_page_by_page() {
        // As a stack sends 64 KiB: headers, then what begins somewhere in a page.
        let mut sizes = vec![66, 1000];
        sizes.resize(17, PAGE_SIZE);
        sizes.push(3000);
        let pages = layout(sizes.iter().copied(), PAGE_SIZE, MAX_PAGES);
        assert_eq!(pages[..3], [1066, 4096, 4096]);
        assert_eq!((pages.len(), copies(&sizes, &pages)), (17, 18));
        // Where there are no more pages than it takes, they are filled.
        let pages = layout(sizes.iter().copied(), PAGE_SIZE, 16);
        assert_eq!((pages.len(), copies(&sizes, &pages)), (16, 18 + 15));
        assert!(pages[..15].iter().all(|len| usize::from(*len) == PAGE_SIZE));
    }

    proptest! {
        #[test]
        fn no_piece_is_cut_without_need(
            sizes in prop::collection::vec(1..=PAGE_SIZE, 1..=19),
            room in prop_oneof![2048..PAGE_SIZE, Just(PAGE_SIZE)],
            spare in 0..=MAX_PAGES,
        ) {
            let len: usize = sizes.iter().sum();
            let fewest = len.div_ceil(room);
            prop_assume!(fewest <= MAX_PAGES);
            let most = MAX_PAGES.min(fewest + spare);
            let pages = layout(sizes.iter().copied(), room, most);
            prop_assert_eq!(pages.iter().map(|len| usize::from(*len)).sum::<usize>(), len);
            prop_assert!((fewest..=most).contains(&pages.len()));
            prop_assert!(pages.iter().all(|len| (1..=room).contains(&usize::from(*len))));
            let fit = sizes.iter().all(|size| *size <= room);
            if fit && most >= sizes.len() {
                prop_assert_eq!(copies(&sizes, &pages), sizes.len());
            }
            // Only where a piece begins is a page left before it is full.
            let bounds = ends(sizes.iter().copied());
            let each = ends(pages.iter().map(|len| usize::from(*len))).into_iter().zip(&pages);
            for (end, len) in each.take(pages.len() - 1) {
                prop_assert!(usize::from(*len) == room || bounds.contains(&end));
            }
        }
    }
}
