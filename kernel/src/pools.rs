//! What packets are made of, sized once at start.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen::grant::GrantCopy;
use xen::{Hypervisor, PAGE_SIZE};

use crate::defect::{self, Defect};
use crate::memory::{Buffers, CopyBatch, Size, Window};
use crate::packet::{Fragment, Linear, MAX_FRAGMENTS, Packet};
use crate::pages::Tracker;
use crate::pages::choice::{Choice, Mode};

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
/// can be put without moving anything.
pub const HEADROOM: u16 = 64;

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
            let fragment = Fragment { hold, ..*fragment };
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
        Some(Private { packet: copy, copied: packet.lent(), copies: first..self.copies.len() })
    }

    /// Has the packet's pages mapped by the next [`run_maps`](Self::run_maps). `false`,
    /// with nothing begun, where there are not enough frames for them, or their lender
    /// has its share of those.
    pub fn map(&mut self, packet: &Packet) -> bool {
        if !self.tracker.can_map(packet.fragments.iter().map(Fragment::hold), &self.window) {
            return false;
        }
        // What fills its page and goes on in the next is one region to a device, if
        // their frames are adjacent.
        let goes_on = |one: &Fragment, next: &Fragment| {
            usize::from(one.offset) + usize::from(one.len) == PAGE_SIZE && next.offset == 0
        };
        for run in packet.fragments.chunk_by(goes_on) {
            self.tracker.map(run.iter().map(Fragment::hold), &mut self.window);
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
        for Fragment { hold, offset, len } in &packet.fragments {
            let address = self.tracker.dma_address(hold, *offset)?;
            match regions.last_mut() {
                Some(last)
                    if last.address + u64::from(last.len) == address
                        || defect::is(Defect::JoinsRegionsAcrossGaps) =>
                {
                    last.len += u32::from(*len);
                }
                _ => regions.push(DmaRegion { address, len: (*len).into() }).ok()?,
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
    /// The packet, all of it in one buffer of ours.
    pub packet: Box<Packet>,
    /// How many bytes are copied from lent pages.
    pub copied: usize,
    copies: core::ops::Range<usize>,
}

impl Private {
    /// Whether every copy succeeded.
    pub fn succeeded(&self, copies: &CopyBatch) -> bool {
        self.failures(copies).next().is_none()
    }

    /// Which of the original's fragments could not be copied, by their place.
    pub fn failures<'a>(&self, copies: &'a CopyBatch) -> impl Iterator<Item = usize> + use<'a> {
        let places = self.copies.clone().enumerate();
        places.filter(|(_, place)| copies.status(*place).is_err()).map(|(fragment, _)| fragment)
    }
}

#[cfg(test)]
mod tests {
    use xen::grant::GrantRef;
    use xen::{DomainId, Instant};

    use super::*;
    use crate::memory::testing::{self, Guests};
    use crate::packet::{Checksum, Meta};
    use crate::pages::{Claim, ShardId};

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
            let mut pools = testing::pools(4, 1, 2, MAX_FRAGMENTS + 2);
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
                let claim = Claim { reference, id: number as u16, extras: 0, since: Instant(0) };
                let hold = self.pools.tracker.claim(self.shard, claim).unwrap();
                let fragment = Fragment { hold, offset: 1, len: bytes.len() as u16 - 1 };
                packet.fragments.push(fragment).unwrap();
            }
            packet.meta = Meta { checksum: Checksum::Partial, ..Meta::default() };
            packet
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
        let held = &packet.fragments[1].hold;
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
        let failures = |at: usize| copies[at].failures(&world.pools.copies).collect::<Vec<_>>();
        assert_eq!(failures(0), []);
        assert_eq!(failures(1), [2]);
        let succeeded = copies.each_ref().map(|copy| copy.succeeded(&world.pools.copies));
        assert_eq!(succeeded, [true, false]);
        let packets = copies.map(|copy| copy.packet).into_iter().chain([first, second]);
        packets.for_each(|packet| world.pools.give(packet));
        world.end();
    }

    #[test]
    fn a_private_copy_that_cannot_be_whole_is_not_started() {
        let mut world = World::new();
        let room = Size::Large.bytes() - usize::from(HEADROOM);
        let payload = vec![0; room - 1];
        let longest = world.packet(b"ab", &[&payload]);
        assert_eq!(longest.len(), room);
        let private = world.pools.privatise(&longest).unwrap();
        world.pools.copies.clear();
        world.pools.give(private.packet);
        world.pools.give(longest);
        let payload = vec![0; room];
        let packet = world.packet(b"ab", &[&payload]);
        assert!(world.pools.privatise(&packet).is_none(), "a byte too long");
        world.pools.give(packet);

        let packet = world.packet(b"ab", &[&b"-c"[..]; MAX_FRAGMENTS]);
        let private = world.pools.privatise(&packet).unwrap();
        assert_eq!(world.pools.copies.room(), 2);
        assert!(world.pools.privatise(&packet).is_none(), "no room in the batch");
        assert_eq!(world.pools.copies.room(), 2);
        world.pools.copies.clear();
        world.pools.give(private.packet);

        let buffers: Vec<_> =
            core::iter::from_fn(|| world.pools.buffers.take(Size::Large)).collect();
        assert!(world.pools.privatise(&packet).is_none(), "no buffer left");
        buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
        world.pools.give(packet);
        world.end();
    }
}
