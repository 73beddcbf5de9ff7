//! What packets are made of, sized once at start.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;
use core::ops::Range;

use xen::{Hypervisor, PAGE_SIZE};

use crate::defect::{self, Defect};
use crate::memory::{Buffer, Buffers, CopyBatch, Size, Window};
use crate::packet::{Bytes, Fragment, Linear, MAX_FRAGMENTS, Meta, Packet, Segments};
use crate::pages::choice::{Choice, Mode};
use crate::pages::{Hold, Tracker};

/// How much the pools hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Packets on their way at once.
    pub packets: usize,
    /// Copies in one hypercall.
    pub copies: usize,
    /// Which lent pages are mapped for a device.
    pub map: Mode,
}

/// Bytes left free before a packet's first byte, where a tag or an outer header
/// can be put without moving anything. What a NIC received has none: it fills whole buffers.
pub const HEADROOM: u16 = 64;

/// How many bytes get a small buffer of their own where headers must lie apart: more than the
/// longest headers that anything looks at.
pub(crate) const OWN_HEADERS: usize = Size::Small.bytes() - HEADROOM as usize;

/// The most copies that a private copy takes: one for each fragment, and one more where one
/// goes on in the next buffer.
pub const MAX_PRIVATE_COPIES: usize = 2 * MAX_FRAGMENTS;

/// How much of a private copy is in its first buffer.
const FIRST: usize = Size::Large.bytes() - HEADROOM as usize;

/// Packets, buffers, lent pages and places for them, and the batch of copies between
/// them. One per vCPU; handed down by reference wherever packets go.
#[derive(Debug)]
pub struct Pools {
    /// Packet buffers.
    pub buffers: Buffers,
    /// Lent pages.
    pub tracker: Tracker,
    /// Places for guests' pages.
    pub window: Window,
    /// The copies of the step under way; empty between steps.
    pub copies: CopyBatch,
    /// Which way lent pages reach a device.
    pub choice: Choice,
    #[expect(clippy::vec_box, reason = "packets move by pointer and never touch the heap again")]
    idle: Vec<Box<Packet>>,
}

impl Pools {
    /// Sets up pools over `buffers` and `window`.
    pub fn new(buffers: Buffers, window: Window, limits: Limits) -> Self {
        Self {
            buffers,
            tracker: Tracker::new(window.free()),
            window,
            copies: CopyBatch::with_capacity(limits.copies),
            choice: Choice::new(limits.map),
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
            self.end(fragment);
        }
        packet.meta = Default::default();
        self.idle.push(packet);
    }

    /// Ends a fragment: its page, or its buffer, goes back.
    pub fn end(&mut self, fragment: Fragment) {
        match fragment.bytes {
            Bytes::Lent(hold) => self.tracker.release(hold),
            Bytes::Own(buffer) => self.buffers.give(buffer),
        }
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
            self.share_fragment(fragment, 0..fragment.len, copy)?;
        }
        copy.meta = packet.meta;
        Some(())
    }

    /// Adds `range` of a fragment to another packet.
    fn share_fragment(
        &mut self,
        fragment: &Fragment,
        range: Range<u16>,
        packet: &mut Packet,
    ) -> Option<()> {
        let bytes = match &fragment.bytes {
            Bytes::Lent(hold) => Bytes::Lent(self.tracker.share(hold)?),
            Bytes::Own(buffer) => Bytes::Own(self.buffers.share(buffer)?),
        };
        let offset = fragment.offset + range.start;
        self.push(Fragment { bytes, offset, len: range.end - range.start }, packet)
    }

    /// Adds a fragment to a packet, or ends it where that has no room.
    fn push(&mut self, fragment: Fragment, packet: &mut Packet) -> Option<()> {
        packet.fragments.push(fragment).map_err(|fragment| self.end(fragment)).ok()
    }

    /// The segment `number` of a packet: headers of its own, and its part of the same
    /// payload, nothing of which is copied. `None` when a pool is used up.
    pub fn segment(
        &mut self,
        packet: &Packet,
        segments: &Segments,
        number: usize,
    ) -> Option<Box<Packet>> {
        let mut segment = self.take()?;
        match self.segment_into(packet, segments, number, &mut segment) {
            Some(()) => Some(segment),
            None => {
                self.give(segment);
                None
            }
        }
    }

    /// A copy of the first `len` of a packet's bytes in our memory, with [`HEADROOM`] before
    /// them. `None` when there is no buffer.
    pub(crate) fn copy_headers(&mut self, from: &Linear, len: usize) -> Option<Linear> {
        let mut buffer = self.buffers.take(Size::of(usize::from(HEADROOM) + len))?;
        let start = usize::from(from.offset);
        self.buffers.copy(&from.buffer, start..start + len, &mut buffer, HEADROOM.into());
        Some(Linear { buffer, offset: HEADROOM, len: len as u16 })
    }

    fn segment_into(
        &mut self,
        packet: &Packet,
        segments: &Segments,
        number: usize,
        segment: &mut Packet,
    ) -> Option<()> {
        let linear = packet.linear.as_ref()?;
        let len = segments.headers();
        let own = segment.linear.insert(self.copy_headers(linear, len)?);
        let cell = self.buffers.bytes_mut(&mut own.buffer)?;
        segments.edit(cell.get_mut(usize::from(HEADROOM)..usize::from(HEADROOM) + len)?, number);
        let payload = segments.payload(number);
        let inside = |start: usize, len: u16| {
            let end = (start + usize::from(len)).min(payload.end);
            let begin = start.max(payload.start);
            (begin < end).then(|| (begin - start) as u16..(end - start) as u16)
        };
        if let Some(range) = inside(0, linear.len) {
            let buffer = self.buffers.share(&linear.buffer)?;
            let len = range.end - range.start;
            self.push(Fragment::own(buffer, linear.offset + range.start, len), segment)?;
        }
        let mut at = usize::from(linear.len);
        for fragment in &packet.fragments {
            if let Some(range) = inside(at, fragment.len) {
                self.share_fragment(fragment, range, segment)?;
            }
            at += usize::from(fragment.len);
        }
        segment.meta = Meta { gso: None, ..packet.meta };
        Some(())
    }

    /// Starts a private copy of `packet`: as few buffers of ours as hold all of it, what
    /// is ours now, lent payload by copies added to [`copies`](Self::copies). The
    /// copy is good once they have run and [`Private::succeeded`]. `None` when a
    /// pool is used up, or the batch has no room for [`MAX_PRIVATE_COPIES`].
    pub fn privatise(&mut self, packet: &Packet) -> Option<Private> {
        if self.copies.room() < MAX_PRIVATE_COPIES {
            return None;
        }
        let mut copy = self.take()?;
        if self.make_room(packet.len(), &mut copy).is_none() {
            self.give(copy);
            return None;
        }
        let first = self.copies.len();
        let mut at = 0;
        if let Some(Linear { buffer, offset, len }) = &packet.linear {
            self.copy_own(buffer, *offset, *len, &mut copy, &mut at);
        }
        for Fragment { bytes, offset, len } in &packet.fragments {
            match bytes {
                Bytes::Own(buffer) => self.copy_own(buffer, *offset, *len, &mut copy, &mut at),
                Bytes::Lent(hold) => self.copy_lent(hold, *offset, *len, &copy, &mut at),
            }
        }
        copy.meta = packet.meta;
        Some(Private { packet: copy, copied: packet.lent(), copies: first..self.copies.len() })
    }

    /// How many large buffers a private copy of `len` bytes lies in.
    pub const fn private_buffers(len: usize) -> usize {
        1 + len.saturating_sub(FIRST).div_ceil(Size::Large.bytes())
    }

    /// Gives an empty packet buffers for `len` bytes.
    fn make_room(&mut self, len: usize, packet: &mut Packet) -> Option<()> {
        let buffer = self.buffers.take(Size::Large)?;
        packet.linear = Some(Linear { buffer, offset: HEADROOM, len: len.min(FIRST) as u16 });
        let mut rest = len.saturating_sub(FIRST);
        while rest > 0 {
            let buffer = self.buffers.take(Size::Large)?;
            let len = rest.min(Size::Large.bytes());
            self.push(Fragment::own(buffer, 0, len as u16), packet)?;
            rest -= len;
        }
        Some(())
    }

    /// Copies bytes of ours to `at` of a private copy.
    fn copy_own(
        &mut self,
        from: &Buffer,
        offset: u16,
        len: u16,
        copy: &mut Packet,
        at: &mut usize,
    ) {
        let mut start = usize::from(offset);
        for (cell, to) in cells(*at..*at + usize::from(len)) {
            let range = start..start + to.len();
            start = range.end;
            let buffer = match (cell.checked_sub(1), &mut copy.linear) {
                (None, Some(linear)) => Some(&mut linear.buffer),
                (None, None) => None,
                (Some(place), _) => match copy.fragments.get_mut(place) {
                    Some(Fragment { bytes: Bytes::Own(buffer), .. }) => Some(buffer),
                    _ => None,
                },
            };
            if let Some(buffer) = buffer {
                self.buffers.copy(from, range, buffer, to.start);
            }
        }
        *at += usize::from(len);
    }

    /// Adds the copies of lent bytes to `at` of a private copy.
    fn copy_lent(&mut self, hold: &Hold, offset: u16, len: u16, copy: &Packet, at: &mut usize) {
        let mut offset = offset;
        for (cell, to) in cells(*at..*at + usize::from(len)) {
            let count = to.len() as u16;
            let buffer = match cell.checked_sub(1) {
                None => copy.linear.as_ref().map(|linear| &linear.buffer),
                Some(place) => copy.fragments.get(place).and_then(Fragment::buffer),
            };
            if let Some(to) = buffer.and_then(|buffer| self.buffers.region(buffer, to))
                && let Some(copy) = self.tracker.page(hold).copy_out(offset, to)
            {
                self.copies.push(copy);
            }
            offset += count;
        }
        *at += usize::from(len);
    }

    /// Has the packet's pages mapped by the next [`run_maps`](Self::run_maps). `false`,
    /// with nothing begun, where there are not enough frames for them, or their lender
    /// has its share of those.
    pub fn map(&mut self, packet: &Packet) -> bool {
        if !self.tracker.can_map(packet.holds(), &self.window) {
            return false;
        }
        // What fills its page and goes on in the next is one region to a device, if
        // their frames are adjacent.
        let goes_on = |one: &Fragment, next: &Fragment| {
            usize::from(one.offset) + usize::from(one.len) == PAGE_SIZE && next.offset == 0
        };
        for run in packet.fragments.chunk_by(goes_on) {
            self.tracker.map(run.iter().filter_map(Fragment::hold), &mut self.window);
        }
        true
    }

    /// Maps the pages collected so far, and times it where all could be.
    pub fn run_maps<H: Hypervisor>(&mut self, hypervisor: &H) {
        let pages = self.tracker.mapping();
        if pages > 0 {
            let start = hypervisor.now();
            if self.tracker.run_maps(hypervisor, &mut self.window) {
                let now = hypervisor.now();
                self.choice.maps_took(pages, now.since(start), now);
            }
        }
    }

    /// Unmaps the pages that nobody holds any more, and times it where all could be.
    pub fn run_unmaps<H: Hypervisor>(&mut self, hypervisor: &H) {
        let pages = self.tracker.unmapping();
        if pages > 0 {
            let start = hypervisor.now();
            if self.tracker.run_unmaps(hypervisor, &mut self.window) {
                let now = hypervisor.now();
                self.choice.unmaps_took(pages, now.since(start), now);
            }
        }
    }

    /// Where a device finds the packet's bytes, in order; what follows without a gap
    /// is one region. `None` where some of them cannot be reached by a device.
    pub fn dma_regions(&self, packet: &Packet) -> Option<DmaRegions> {
        let mut regions = DmaRegions::new();
        if let Some(linear) = &packet.linear {
            let region = linear.region(&self.buffers)?;
            let region = DmaRegion { address: region.dma_address(), len: region.len().into() };
            regions.push(region).ok()?;
        }
        for fragment in &packet.fragments {
            let len = fragment.len;
            let address = match &fragment.bytes {
                Bytes::Lent(hold) => self.tracker.dma_address(hold, fragment.offset)?,
                Bytes::Own(_) => fragment.region(&self.buffers)?.dma_address(),
            };
            match regions.last_mut() {
                Some(last)
                    if last.address + u64::from(last.len) == address
                        || defect::is(Defect::JoinsRegionsAcrossGaps) =>
                {
                    last.len += u32::from(len);
                }
                _ => regions.push(DmaRegion { address, len: len.into() }).ok()?,
            }
        }
        Some(regions)
    }

    /// Runs the copies collected so far.
    pub fn run_copies<H: Hypervisor>(&mut self, hypervisor: &H) {
        self.copies.run(hypervisor, &mut self.buffers);
    }
}

/// Bytes that a device reads: at most those of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaRegion {
    /// The address that the device uses.
    pub address: u64,
    /// How many bytes.
    pub len: u32,
}

/// The regions of one packet: at most its headers and each of its fragments.
pub type DmaRegions = heapless::Vec<DmaRegion, { 1 + MAX_FRAGMENTS }>;

/// A private copy on its way: a packet whose bytes are there once its copies have
/// run.
#[derive(Debug)]
pub struct Private {
    /// The packet, all of it in buffers of ours.
    pub packet: Box<Packet>,
    /// How many bytes are copied from lent pages.
    pub copied: usize,
    copies: Range<usize>,
}

impl Private {
    /// Whether every copy succeeded.
    pub fn succeeded(&self, copies: &CopyBatch) -> bool {
        self.copies.clone().all(|place| copies.status(place).is_ok())
    }

    /// The pages of the original that could not be copied, some maybe told twice.
    pub fn failures<'a>(
        &self,
        original: &'a Packet,
        copies: &'a CopyBatch,
    ) -> impl Iterator<Item = &'a Hold> + use<'a> {
        let mut at = original.linear.as_ref().map_or(0, |linear| usize::from(linear.len));
        // As the copies were made.
        let held = original.fragments.iter().flat_map(move |fragment| {
            let range = at..at + usize::from(fragment.len);
            at = range.end;
            cells(range).filter_map(|_| fragment.hold())
        });
        held.zip(self.copies.clone())
            .filter(|(_, place)| copies.status(*place).is_err())
            .map(|(hold, _)| hold)
    }
}

/// In which buffers of a private copy a range of its bytes is, and where in them.
fn cells(bytes: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let Range { mut start, end } = bytes;
    iter::from_fn(move || {
        let (cell, offset, room) = match start.checked_sub(FIRST) {
            None => (0, start + usize::from(HEADROOM), FIRST - start),
            Some(behind) => {
                let offset = behind % Size::Large.bytes();
                (1 + behind / Size::Large.bytes(), offset, Size::Large.bytes() - offset)
            }
        };
        let len = room.min(end - start);
        start += len;
        (len > 0).then_some((cell, offset..offset + len))
    })
}

#[cfg(test)]
mod tests {
    use core::ptr;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use xen::grant::GrantRef;
    use xen::{DomainId, Instant};

    use super::*;
    use crate::memory::testing::{self, Guests};
    use crate::packet::{Checksum, Gso, Version};
    use crate::pages::{Claim, Page, ShardId};

    const GUEST: DomainId = DomainId(2);

    struct World {
        guests: Guests,
        pools: Pools,
        shard: ShardId,
    }

    impl World {
        /// Pools of 4 packets, 16 small and 4 large buffers, and 2 copies more than a
        /// packet can need.
        fn new() -> Self {
            Self::with(4, 2)
        }

        /// The same with so many packets, and pages of large buffers.
        fn with(packets: usize, large: usize) -> Self {
            let mut pools = testing::pools(packets, 1, large, MAX_PRIVATE_COPIES + 2);
            let shard = pools.tracker.open(GUEST, 64).unwrap();
            Self { guests: Guests::default(), pools, shard }
        }

        /// A packet with `headers` in our memory and a page for each of `payload`.
        fn packet(&mut self, headers: &[u8], payload: &[&[u8]]) -> Box<Packet> {
            let mut packet = self.pools.take().unwrap();
            let mut buffer = self.pools.buffers.take(Size::Small).unwrap();
            let cell = self.pools.buffers.bytes_mut(&mut buffer).unwrap();
            cell[9..9 + headers.len()].copy_from_slice(headers);
            packet.linear = Some(Linear { buffer, offset: 9, len: headers.len() as u16 });
            for (number, bytes) in payload.iter().enumerate() {
                let reference = GrantRef(number as u32);
                self.guests.grant(GUEST, reference, bytes);
                let claim = Claim {
                    page: Page::Granted(GUEST, reference),
                    id: number as u16,
                    extras: 0,
                    since: Instant(0),
                };
                let hold = self.pools.tracker.claim(self.shard, claim).unwrap();
                let fragment = Fragment::lent(hold, 1, bytes.len() as u16 - 1);
                packet.fragments.push(fragment).unwrap();
            }
            packet.meta = Meta { checksum: Checksum::Partial, ..Meta::default() };
            packet
        }

        /// All bytes of a packet, lent ones as they are granted.
        fn bytes(&self, packet: &Packet) -> Vec<u8> {
            let rest = packet.fragments.iter().flat_map(|fragment| match fragment.hold() {
                None => fragment.bytes(&self.pools.buffers).to_vec(),
                Some(hold) => {
                    let region = self.pools.tracker.page(hold).region(fragment.offset);
                    self.guests.read(region, fragment.len.into()).unwrap()
                }
            });
            packet.headers(&self.pools.buffers).iter().copied().chain(rest).collect()
        }

        fn end(mut self) {
            while self.pools.tracker.next_response(self.shard).is_some() {}
            assert_eq!(self.pools.tracker.counters().outstanding(), 0);
            assert_eq!(self.pools.tracker.counters().holds, 0);
            assert_eq!(self.pools.idle(), 4);
            assert_eq!(self.pools.buffers.free(Size::Small), 16);
            assert_eq!(self.pools.buffers.free(Size::Large), 4);
        }
    }

    #[test]
    fn a_packet_given_back_is_empty_when_it_is_taken_again() {
        let mut world = World::new();
        let packets: Vec<_> = (0..4).map(|_| world.packet(b"ab", &[b"-cd"])).collect();
        assert!(world.pools.take().is_none());
        packets.into_iter().for_each(|packet| world.pools.give(packet));
        let packet = world.pools.take().unwrap();
        assert!(packet.is_empty() && packet.linear.is_none() && packet.is_private());
        assert_eq!(packet.meta, Meta::default());
        world.pools.give(packet);
        world.end();
    }

    #[test]
    fn a_clone_is_the_same_bytes_counted_once_more() {
        let mut world = World::new();
        let packet = world.packet(b"ab", &[b"-cd", b"-ef"]);
        let clone = world.pools.share(&packet).unwrap();
        assert_eq!(clone.len(), 6);
        assert_eq!(clone.meta, packet.meta);
        assert_eq!(clone.headers(&world.pools.buffers), b"ab");
        assert_eq!(world.pools.tracker.counters().holds, 4);
        assert_eq!(world.pools.buffers.free(Size::Small), 15);
        world.pools.give(packet);
        assert_eq!(world.pools.tracker.next_news(), None, "the clone still looks");
        assert_eq!(clone.headers(&world.pools.buffers), b"ab");
        world.pools.give(clone);
        assert_eq!(world.pools.tracker.next_news(), Some(world.shard));
        world.end();
    }

    #[test]
    fn a_clone_that_cannot_be_whole_is_not_made() {
        let mut world = World::new();
        let packet = world.packet(b"ab", &[b"-cd", b"-ef"]);
        let held = packet.fragments[1].hold().unwrap();
        let holds: Vec<_> = core::iter::from_fn(|| world.pools.tracker.share(held)).collect();
        assert!(world.pools.share(&packet).is_none(), "too many holders");
        assert_eq!(world.pools.idle(), 3);
        holds.into_iter().for_each(|hold| world.pools.tracker.release(hold));
        let others: Vec<_> = core::iter::from_fn(|| world.pools.take()).collect();
        assert!(world.pools.share(&packet).is_none(), "no packet left");
        others.into_iter().for_each(|other| world.pools.give(other));
        world.pools.give(packet);
        world.end();
    }

    #[test]
    fn a_private_copy_has_all_bytes_in_one_buffer_of_its_own() {
        let mut world = World::new();
        let packet = world.packet(b"ab", &[b"-cde", b"-f", b"-gh"]);
        let private = world.pools.privatise(&packet).unwrap();
        assert!(!private.succeeded(&world.pools.copies), "not run");
        world.pools.run_copies(&world.guests);
        assert!(private.succeeded(&world.pools.copies));
        world.pools.give(packet);
        assert!(private.packet.is_private());
        assert_eq!(private.packet.headers(&world.pools.buffers), b"abcdefgh");
        assert_eq!(private.packet.linear.as_ref().unwrap().offset, HEADROOM);
        assert_eq!(private.packet.meta.checksum, Checksum::Partial);
        world.pools.give(private.packet);
        world.end();
    }

    #[test]
    fn a_failed_copy_is_told_by_its_fragment() {
        let mut world = World::new();
        let first = world.packet(b"ab", &[b"-cd", b"-ef"]);
        let second = world.packet(b"gh", &[b"-ij", b"-kl", b"-mn"]);
        world.guests.revoke(GUEST, GrantRef(2));
        let copies = [&first, &second].map(|packet| world.pools.privatise(packet).unwrap());
        world.pools.run_copies(&world.guests);
        let failures = |copy: usize, original: &Packet| {
            let failed: Vec<_> = copies[copy].failures(original, &world.pools.copies).collect();
            let holds = original.holds().enumerate();
            let failed = holds.filter(|(_, hold)| failed.iter().any(|one| ptr::eq(*one, *hold)));
            failed.map(|(place, _)| place).collect::<Vec<_>>()
        };
        assert_eq!(failures(0, &first), []);
        assert_eq!(failures(1, &second), [2]);
        let succeeded = copies.each_ref().map(|copy| copy.succeeded(&world.pools.copies));
        assert_eq!(succeeded, [true, false]);
        let packets = copies.map(|copy| copy.packet).into_iter().chain([first, second]);
        packets.for_each(|packet| world.pools.give(packet));
        world.end();
    }

    #[test]
    fn a_private_copy_that_cannot_be_whole_is_not_started() {
        let mut world = World::new();
        let payload = vec![7; 4000];
        let longest = world.packet(b"ab", &[&payload, &payload[..FIRST - 2]]);
        let private = world.pools.privatise(&longest).unwrap();
        assert_eq!(world.pools.buffers.free(Size::Large), 1, "as few buffers as hold it");
        assert!(world.pools.privatise(&longest).is_none(), "not enough buffers");
        assert_eq!(world.pools.buffers.free(Size::Large), 1, "what there was is back");
        world.pools.copies.clear();
        world.pools.give(private.packet);
        world.pools.give(longest);

        let packet = world.packet(b"ab", &[&b"-c"[..]; 3]);
        let private = world.pools.privatise(&packet).unwrap();
        assert_eq!(world.pools.copies.room(), MAX_PRIVATE_COPIES - 1);
        assert!(world.pools.privatise(&packet).is_none(), "no room in the batch");
        assert_eq!(world.pools.copies.room(), MAX_PRIVATE_COPIES - 1);
        world.pools.copies.clear();
        world.pools.give(private.packet);

        let buffers: Vec<_> =
            core::iter::from_fn(|| world.pools.buffers.take(Size::Large)).collect();
        assert!(world.pools.privatise(&packet).is_none(), "no buffer left");
        buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
        world.pools.give(packet);
        world.end();
    }

    #[test]
    fn a_copy_of_several_buffers_tells_whose_page_failed() {
        let mut world = World::new();
        let pages = [vec![1; 1001], vec![2; 4001], vec![3; 100]];
        let packet = world.packet(b"ab", &pages.each_ref().map(Vec::as_slice));
        world.guests.revoke(GUEST, GrantRef(2));
        let private = world.pools.privatise(&packet).unwrap();
        // The second page lies in three buffers.
        assert_eq!(world.pools.copies.len(), 5);
        world.pools.run_copies(&world.guests);
        let last = packet.holds().last().unwrap();
        let failures: Vec<_> = private.failures(&packet, &world.pools.copies).collect();
        assert!(matches!(&failures[..], [one] if ptr::eq(*one, last)));
        [private.packet, packet].into_iter().for_each(|packet| world.pools.give(packet));
        world.end();
    }

    proptest! {
        /// Whatever a packet is made of: its private copy is the same bytes, in buffers
        /// that nobody else has, and so is a copy of that.
        #[test]
        fn private_copies_are_the_same_bytes(
            headers in 1..192usize,
            lens in prop::collection::vec(1..4095usize, 0..crate::packet::MAX_LENT_FRAGMENTS),
        ) {
            let mut world = World::with(4, 40);
            let headers: Vec<_> = (0..headers).map(|at| at as u8).collect();
            let pages: Vec<Vec<u8>> = lens
                .iter()
                .enumerate()
                .map(|(page, len)| (0..=*len).map(|at| (at * 7 + page * 31) as u8).collect())
                .collect();
            let pages: Vec<_> = pages.iter().map(Vec::as_slice).collect();
            let packet = world.packet(&headers, &pages);
            let expected = world.bytes(&packet);
            prop_assert_eq!(expected.len(), packet.len());
            if let Some(first) = world.pools.privatise(&packet) {
                world.pools.run_copies(&world.guests);
                prop_assert!(first.succeeded(&world.pools.copies));
                world.pools.copies.clear();
                world.pools.give(packet);
                prop_assert!(first.packet.is_private());
                prop_assert_eq!(world.bytes(&first.packet), &expected[..]);
                if let Some(second) = world.pools.privatise(&first.packet) {
                    prop_assert!(world.pools.copies.is_empty(), "nothing is lent");
                    world.pools.give(first.packet);
                    prop_assert_eq!(world.bytes(&second.packet), expected);
                    world.pools.give(second.packet);
                } else {
                    world.pools.give(first.packet);
                }
            } else {
                prop_assert!(expected.len() > 80 * Size::Large.bytes());
                world.pools.give(packet);
            }
        }
    }

    #[test]
    fn segments_share_the_payload() {
        let mut world = World::with(8, 2);
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        let builder = builder.tcp(1, 2, 1000, 100).psh();
        let payload: Vec<u8> = (0..2500).map(|at| (at * 7) as u8).collect();
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        // Some of the payload lies behind the headers, the rest in two pages.
        let page = |range: Range<usize>| [&[0], &frame[range]].concat();
        let pages = [page(100..1500), page(1500..frame.len())];
        let mut packet = world.packet(&frame[..100], &pages.each_ref().map(Vec::as_slice));
        let gso = Gso::check(&frame[..100], frame.len(), Version::V4, 1000).unwrap().unwrap();
        packet.meta.gso = Some(gso);
        let segments = Segments::new(gso, frame.len());
        let cut: Vec<_> = (0..segments.count())
            .map(|number| world.pools.segment(&packet, &segments, number).unwrap())
            .collect();
        world.pools.give(packet);
        assert_eq!(cut.iter().map(|one| one.len()).collect::<Vec<_>>(), [1054, 1054, 554]);
        assert_eq!(cut.iter().map(|one| one.holds().count()).collect::<Vec<_>>(), [1, 2, 1]);
        let together: Vec<_> = cut.iter().flat_map(|one| world.bytes(one)[54..].to_vec()).collect();
        assert_eq!(together, payload);
        assert!(cut.iter().all(|one| one.meta.gso.is_none()));
        assert!(cut.iter().all(|one| one.meta.checksum == Checksum::Partial));
        cut.into_iter().for_each(|one| world.pools.give(one));
        while world.pools.tracker.next_response(world.shard).is_some() {}
        assert_eq!(world.pools.tracker.counters().outstanding(), 0);
        assert_eq!((world.pools.idle(), world.pools.buffers.free(Size::Small)), (8, 16));
    }

    #[test]
    fn a_segment_that_cannot_be_whole_is_not_made() {
        let mut world = World::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        let mut frame = Vec::new();
        builder.tcp(1, 2, 1000, 100).write(&mut frame, &[1; 100]).unwrap();
        let packet = world.packet(&frame[..60], &[&frame[59..]]);
        let gso = Gso::check(&frame[..60], frame.len(), Version::V4, 60).unwrap().unwrap();
        let segments = Segments::new(gso, frame.len());
        let held = packet.fragments[0].hold().unwrap();
        let holds: Vec<_> = core::iter::from_fn(|| world.pools.tracker.share(held)).collect();
        assert!(world.pools.segment(&packet, &segments, 1).is_none(), "too many holders");
        holds.into_iter().for_each(|hold| world.pools.tracker.release(hold));
        let buffers: Vec<_> =
            core::iter::from_fn(|| world.pools.buffers.take(Size::Small)).collect();
        assert!(world.pools.segment(&packet, &segments, 0).is_none(), "no buffer left");
        buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
        let packets: Vec<_> = core::iter::from_fn(|| world.pools.take()).collect();
        assert!(world.pools.segment(&packet, &segments, 0).is_none(), "no packet left");
        packets.into_iter().for_each(|packet| world.pools.give(packet));
        world.pools.give(packet);
        world.end();
    }
}
