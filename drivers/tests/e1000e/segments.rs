//! TCP segments that the device cuts.

use drivers::nic::Nic;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use kernel::memory::Size;
use kernel::packet::{Checksum, Fragment, Gso, Packet, Version};
use kernel::switch::Versions;

use crate::send::{PAGES, cut};
use crate::world::{RING, World};

/// The longest packet that a guest sends (P-8).
const LONGEST: usize = 65_535;
/// The sequence number wraps in every packet.
const SEQUENCE: u32 = u32::MAX - 900;

/// A TCP segment that is to be cut.
#[derive(Clone, Copy)]
pub struct Whole {
    v6: bool,
    tagged: bool,
    /// Words of TCP options.
    options: usize,
    /// Whether it says that the congestion window was reduced.
    reduced: bool,
    payload: usize,
}

impl Whole {
    pub fn new(payload: usize) -> Self {
        Self::over(false, payload)
    }

    pub fn over(v6: bool, payload: usize) -> Self {
        Self { v6, tagged: false, options: 0, reduced: false, payload }
    }

    fn headers(self) -> usize {
        let tag = if self.tagged { 4 } else { 0 };
        14 + tag + if self.v6 { 40 } else { 20 } + 20 + self.options * 4
    }

    fn frame(self) -> Vec<u8> {
        let payload: Vec<_> = (0..self.payload).map(|at| (at * 7 + at / 251) as u8).collect();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        macro_rules! rest {
            ($builder:expr) => {{
                let ip = match self.v6 {
                    true => $builder.ipv6([0xfd; 16], [0xfe; 16], 64),
                    false => $builder.ipv4([10, 0, 0, 1], [10, 9, 8, 7], 64),
                };
                let tcp = ip.tcp(80, 1000, SEQUENCE, 9).ack(3).psh().fin();
                let tcp = if self.reduced { tcp.cwr() } else { tcp };
                let tcp = tcp.options_raw(&vec![1; self.options * 4]).unwrap();
                tcp.write(&mut frame, &payload).unwrap();
            }};
        }
        match self.tagged {
            true => rest!(builder.single_vlan(7.try_into().unwrap())),
            false => rest!(builder),
        }
        frame
    }

    /// The packet, its first piece in our memory and the rest in so many pages.
    fn packet(self, world: &mut World, mss: u16, pages: usize) -> Box<Packet> {
        let frame = self.frame();
        let pieces = cut(&frame, self.headers() + 10, pages);
        let mut packet = world.packet(&pieces, Checksum::Partial);
        let version = if self.v6 { Version::V6 } else { Version::V4 };
        packet.meta.gso = Gso::check(pieces[0], frame.len(), version, mss).expect("to be cut");
        packet
    }

    pub fn offer(self, world: &mut World, mss: u16, pages: usize) {
        let packet = self.packet(world, mss, pages);
        world.offer_packet(packet);
    }

    /// Whether frames are its segments, as another implementation sees them.
    fn check(self, frames: &[Vec<u8>], mss: u16, what: &str) {
        let whole = self.frame();
        let count = self.payload.div_ceil(mss.into());
        assert_eq!(frames.len(), count, "{what}");
        let mut together = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            let parsed = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else {
                panic!("{what}: no TCP")
            };
            let sum = match &parsed.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let header = ip.header();
                    assert_eq!(header.identification(), number as u16, "{what}");
                    let sum = header.to_header().calc_header_checksum();
                    assert_eq!(header.header_checksum(), sum, "{what}");
                    tcp.calc_checksum_ipv4(header.source(), header.destination())
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let header = ip.header();
                    tcp.calc_checksum_ipv6(header.source(), header.destination())
                }
                other => panic!("{what}: {other:?}"),
            };
            assert_eq!(Ok(tcp.checksum()), sum, "{what} {number}");
            let last = number + 1 == count;
            assert!(last || tcp.payload().len() == usize::from(mss), "{what} {number}");
            let behind = (number * usize::from(mss)) as u32;
            assert_eq!(tcp.sequence_number(), SEQUENCE.wrapping_add(behind), "{what}");
            assert_eq!((tcp.psh(), tcp.fin(), tcp.ack()), (last, last, true), "{what}");
            assert_eq!(tcp.options().len(), self.options * 4);
            assert_eq!(frame[..12], whole[..12]);
            together.extend_from_slice(tcp.payload());
        }
        assert!(together == whole[self.headers()..], "{what}");
    }
}

fn shapes(payload: usize) -> impl Iterator<Item = Whole> {
    (0..8).map(move |number| {
        let [v6, tagged, long] = [1, 2, 4].map(|bit| number & bit != 0);
        Whole { v6, tagged, options: if long { 10 } else { 0 }, ..Whole::new(payload) }
    })
}

fn cuts(mut world: World) {
    assert_eq!(world.nic.segmentation(), Versions::ALL);
    let mut sent = 0;
    for adjacent in [false, true] {
        world.set_adjacent(adjacent);
        for (payload, mss, pages) in
            [(1500, 1000, 1), (3000, 28, 2), (20_000, 536, PAGES), (65_000, 1400, PAGES)]
        {
            for whole in shapes(payload) {
                whole.offer(&mut world, mss, pages);
                world.transmit();
                let frames = world.device.wire.take();
                whole.check(&frames, mss, &format!("{payload} {mss} {pages}"));
                sent += 1;
            }
        }
        world.reap();
        assert_eq!(world.lent(), 0);
    }
    let statistics = world.nic.statistics();
    assert_eq!((statistics.sent_to_be_cut, statistics.sent_checksums), (sent, sent));
    assert_eq!((statistics.sent, statistics.send_refused), (sent, 0));
    world.finish();
}

#[test]
fn the_device_cuts_segments() {
    cuts(World::running());
}

/// QEMU's device needs each page told of.
#[test]
fn an_emulated_device_cuts_segments() {
    cuts(World::emulated());
}

/// The longest packet in buffers of ours: as many descriptors as a packet takes.
#[test]
fn a_packet_in_the_most_pieces_is_cut() {
    for mut world in [World::running(), World::emulated()] {
        let whole = Whole::new(LONGEST - 54);
        let frame = whole.frame();
        let first = Size::Large.bytes() - 64;
        let mut packet = world.packet(&[&frame[..first]], Checksum::Partial);
        for piece in frame[first..].chunks(Size::Large.bytes()) {
            let mut buffer = world.pools.buffers.take(Size::Large).unwrap();
            let cell = world.pools.buffers.bytes_mut(&mut buffer).unwrap();
            cell[..piece.len()].copy_from_slice(piece);
            packet.fragments.push(Fragment::own(buffer, 0, piece.len() as u16)).unwrap();
        }
        packet.meta.gso = Gso::check(&frame, frame.len(), Version::V4, 1460).unwrap();
        world.offer_packet(packet);
        world.transmit();
        whole.check(&world.device.wire.take(), 1460, "buffers");
        world.reap();
        world.finish();
    }
}

/// What it says of segments holds for one packet, and nothing of it for a checksum alone.
#[test]
fn each_packet_has_a_context_of_its_own() {
    let mut world = World::running();
    let whole = Whole::new(5000);
    let loads = |world: &World| world.device.sender.borrow().loads;
    for expected in 1..4 {
        whole.offer(&mut world, 1000, 3);
        world.transmit();
        assert_eq!(loads(&world), expected);
    }
    let checksum = crate::checksums::KINDS[1];
    for expected in [4, 4] {
        world.offer_as(&checksum.partial(&[1; 100]), Checksum::Partial);
        world.transmit();
        assert_eq!(loads(&world), expected, "the same as before segments, and after");
    }
    whole.offer(&mut world, 1000, 3);
    world.offer_as(&checksum.partial(&[1; 100]), Checksum::Partial);
    world.transmit();
    assert_eq!(loads(&world), 6);
    let frames = world.device.wire.take();
    whole.check(&frames[17..22], 1000, "between checksums");
    assert_eq!(frames.iter().filter(|frame| **frame == checksum.finished(&[1; 100])).count(), 3);
    world.finish();
}

/// Longer headers than it has memory for, flags of the first segment alone, longer frames
/// than there are, and headers that somebody else looks at: nobody gives it such.
#[test]
fn what_the_device_cannot_cut_is_refused() {
    let mut world = World::running();
    let whole = Whole::new(30_000);
    Whole { reduced: true, ..whole }.offer(&mut world, 1000, 10);
    let mut long = whole.packet(&mut world, 1000, 10);
    long.meta.gso.as_mut().unwrap().headers = Gso::MAX_DEVICE_HEADERS + 1;
    world.offer_packet(long);
    let mut giant = whole.packet(&mut world, 1000, 10);
    giant.meta.gso.as_mut().unwrap().mss = drivers::nic::LONGEST;
    world.offer_packet(giant);
    let shared = whole.packet(&mut world, 1000, 10);
    let clone = world.pools.share(&shared).unwrap();
    world.offer_packet(shared);
    world.transmit();
    assert_eq!(world.nic.statistics().send_refused, 4);
    assert_eq!(clone.headers(&world.pools.buffers), &whole.frame()[..64]);
    world.pools.give(clone);
    world.reap();
    assert_eq!((world.lent(), world.device.wire.borrow().len()), (0, 0));
    whole.offer(&mut world, 1000, 10);
    world.transmit();
    whole.check(&world.device.wire.take(), 1000, "the next");
    world.finish();
}

/// Packets of many pieces, round the ring while it is full.
#[test]
fn segments_share_the_ring_with_all_others() {
    for mut world in [World::running(), World::emulated()] {
        world.device.faults.stalled.set(true);
        let (mut expected, mut full) = (Vec::new(), 0);
        for number in 0..120 {
            let whole = Whole { v6: number % 2 == 0, ..Whole::new(1500 + number * 400) };
            whole.offer(&mut world, 1400, whole.payload.div_ceil(3000) + number % 3);
            expected.push(whole);
            world.transmit();
            for _ in 0..RING {
                if world.queue.is_empty() {
                    break;
                }
                full += 1;
                world.device.send_one();
                world.transmit();
            }
            assert!(world.queue.is_empty());
        }
        assert!(full > 20, "{full}");
        world.device.faults.stalled.set(false);
        world.device.kick();
        world.reap();
        assert_eq!(world.lent(), 0);
        let frames = world.device.wire.take();
        let mut rest = &frames[..];
        for whole in expected {
            let (own, others) = rest.split_at(whole.payload.div_ceil(1400));
            whole.check(own, 1400, "in turn");
            rest = others;
        }
        assert!(rest.is_empty());
        world.finish();
    }
}
