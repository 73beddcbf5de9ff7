//! Checksums that the device makes.

use drivers::nic::{Cause, Nic};
use etherparse::PacketBuilder;
use kernel::packet::Checksum;
use kernel::switch::{Port, Versions};

use crate::send::{PAGES, cut};
use crate::world::{RING, World};

/// What a frame carries, and how.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    v6: bool,
    tcp: bool,
    tagged: bool,
}

const UDP4: Kind = Kind { v6: false, tcp: false, tagged: false };
const TCP4: Kind = Kind { tcp: true, ..UDP4 };
const UDP6: Kind = Kind { v6: true, ..UDP4 };
const TCP6: Kind = Kind { v6: true, ..TCP4 };

const fn tagged(kind: Kind) -> Kind {
    Kind { tagged: true, ..kind }
}

pub const KINDS: [Kind; 8] =
    [UDP4, TCP4, UDP6, TCP6, tagged(UDP4), tagged(TCP4), tagged(UDP6), tagged(TCP6)];

impl Kind {
    /// Where its transport header begins, and where the checksum is.
    fn places(self) -> (usize, usize) {
        let start = 14 + if self.tagged { 4 } else { 0 } + if self.v6 { 40 } else { 20 };
        (start, start + if self.tcp { 16 } else { 6 })
    }

    /// A frame with so many bytes of payload, its checksum right.
    pub fn finished(self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        macro_rules! rest {
            ($builder:expr) => {{
                let ip = match self.v6 {
                    true => $builder.ipv6([0xfd; 16], [0xfe; 16], 64),
                    false => $builder.ipv4([10, 0, 0, 1], [10, 9, 8, 7], 64),
                };
                match self.tcp {
                    true => ip.tcp(80, 1000, 7, 9).ack(3).write(&mut frame, payload).unwrap(),
                    false => ip.udp(53, 5353).write(&mut frame, payload).unwrap(),
                }
            }};
        }
        match self.tagged {
            true => rest!(builder.single_vlan(7.try_into().unwrap())),
            false => rest!(builder),
        }
        frame
    }

    /// The same with the pseudo-header's sum in the field: what is missing from the
    /// sum of the rest to the finished one.
    pub fn partial(self, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.finished(payload);
        let (start, field) = self.places();
        let checksum = [!frame[field], !frame[field + 1]];
        frame[field..field + 2].fill(0);
        let rest = !sum(&frame[start..]);
        let seed = sum(&[checksum, rest.to_be_bytes()].concat());
        frame[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        frame
    }
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place * 7 + len) as u8).collect()
}

#[test]
fn all_kinds_of_checksums_are_made_wherever_the_payload_lies() {
    let mut world = World::running();
    assert_eq!(world.nic.partial_checksums(), Versions::ALL);
    let mut made = 0;
    for kind in KINDS {
        for len in [0, 1, 2, 500, 501, 1400] {
            for pages in [0, 1, 2, 7, PAGES] {
                let partial = kind.partial(&payload(len));
                world.offer_pieces(&cut(&partial, 78, pages), Checksum::Partial);
                world.transmit();
                let mut expected = kind.finished(&payload(len));
                expected.resize(expected.len().max(60), 0);
                assert_eq!(world.device.wire.take(), [expected], "{kind:?} {len} {pages}");
                // A short frame of ours is finished on the way.
                made += u64::from(partial.len() >= 60);
            }
        }
    }
    world.reap();
    let statistics = world.nic.statistics();
    assert_eq!((statistics.sent_checksums, statistics.send_refused), (made, 0));
    world.finish();
}

/// RFC 768: a datagram whose checksum comes out as zero says so with ones.
#[test]
fn a_zero_is_one_thing_in_tcp_and_another_in_udp() {
    let mut world = World::running();
    for tcp in [false, true] {
        let kind = Kind { tcp, ..UDP4 };
        let (_, field) = kind.places();
        // A checksum added to what it was made of.
        let frame = kind.finished(&[0; 40]);
        let payload = [&frame[field..field + 2], &[0; 38]].concat();
        world.offer_as(&kind.partial(&payload), Checksum::Partial);
        world.transmit();
        let [sent] = &world.device.wire.take()[..] else { panic!("a frame") };
        assert_eq!(sent[field..field + 2], if tcp { [0, 0] } else { [0xff, 0xff] });
    }
    world.finish();
}

#[test]
fn a_context_is_loaded_where_it_changes_and_after_a_reset() {
    let mut world = World::running();
    let send = |world: &mut World, kind: Kind, checksum| {
        world.offer_as(&kind.partial(&payload(100)), checksum);
        let loads = world.device.sender.borrow().loads;
        world.transmit();
        world.device.sender.borrow().loads - loads
    };
    let partial = Checksum::Partial;
    assert_eq!(send(&mut world, UDP4, partial), 1);
    assert_eq!(send(&mut world, UDP4, partial), 0);
    assert_eq!(send(&mut world, UDP6, Checksum::Validated), 0, "it needs none");
    assert_eq!(send(&mut world, UDP4, partial), 0, "and leaves the last one");
    for kind in [TCP4, UDP6, UDP4, TCP4] {
        assert_eq!(send(&mut world, kind, partial), 1);
        assert_eq!(send(&mut world, kind, partial), 0);
    }
    world.device.wire.take();
    world.device.lose_mastering();
    world.survey();
    world.settle();
    assert_eq!(send(&mut world, TCP4, partial), 1, "the device has forgotten it");
    assert_eq!(world.device.wire.take(), [TCP4.finished(&payload(100))]);
    world.finish();
}

/// Short frames whose bytes somebody else looks at too: what is made is right, and
/// nobody sees it made.
#[test]
fn checksums_of_short_frames_are_right() {
    let mut world = World::running();
    for kind in KINDS {
        for len in 0..10 {
            let partial = kind.partial(&payload(len));
            let mut expected = kind.finished(&payload(len));
            expected.resize(expected.len().max(60), 0);
            let packet = world.packet(&[&partial], Checksum::Partial);
            let clone = world.pools.share(&packet).unwrap();
            world.queue.push(packet, world.now).unwrap();
            world.transmit();
            assert_eq!(clone.headers(&world.pools.buffers), partial);
            world.pools.give(clone);
            world.offer_as(&partial, Checksum::Partial);
            world.transmit();
            assert_eq!(world.device.wire.take(), [expected.clone(), expected], "{kind:?} {len}");
        }
    }
    world.finish();
}

/// A frame that arrives, and what is known of it then.
fn arrives(world: &mut World, frame: &[u8]) -> Checksum {
    assert!(world.device.arrive(frame));
    let received = world.receive_with_checksums();
    let [(bytes, checksum)] = &received[..] else { panic!("a frame") };
    assert_eq!(bytes, frame);
    *checksum
}

#[test]
fn received_checksums_are_verified_by_the_device() {
    let mut world = World::running();
    let mut bad = 0;
    for kind in KINDS {
        for len in [0, 1, 2, 500, 501, 1400] {
            let frame = kind.finished(&payload(len));
            // What a short frame is filled up with is no part of it.
            let padded = [&frame[..], &[7; 20]].concat();
            for good in [&frame, &padded] {
                assert_eq!(arrives(&mut world, good), Checksum::Validated, "{kind:?} {len}");
            }
            let (start, field) = kind.places();
            // Of TCP or UDP, in the header or behind it, and of IPv4.
            let mut places = vec![start, field, frame.len() - 1];
            places.extend((!kind.v6).then_some(start - 12));
            for place in places {
                let mut wrong = frame.clone();
                wrong[place] ^= 0x40;
                assert_eq!(arrives(&mut world, &wrong), Checksum::Unknown, "{kind:?} {place}");
                bad += 1;
            }
        }
    }
    let statistics = world.nic.statistics();
    assert_eq!(statistics.receive_bad_checksums, bad);
    assert_eq!(statistics.received_checksums, 8 * 6 * 2);
    assert_eq!(statistics.receive_errors, 0, "the frames themselves are good");
    world.finish();
}

/// Of what has no such checksum nothing is known.
#[test]
fn what_the_device_does_not_look_at_is_not_verified() {
    let mut world = World::running();
    for kind in [UDP4, TCP4, tagged(UDP4), tagged(TCP4)] {
        let frame = kind.finished(&payload(100));
        let (ip, field) = (kind.places().0 - 20, kind.places().1);
        let mut fragment = frame.clone();
        fragment[ip + 6] = 0x20;
        let mut other = frame.clone();
        other[ip + 9] = 47;
        let mut shapes = vec![fragment, other];
        if !kind.tcp {
            let mut none = frame.clone();
            none[field..field + 2].fill(0);
            shapes.push(none);
        }
        for shape in shapes {
            assert_eq!(arrives(&mut world, &shape), Checksum::Unknown, "{kind:?}");
        }
    }
    // Said of checksums that do not count (IXSM).
    world.device.lie(0b11 | 1 << 5 | 1 << 2, 60);
    let received = world.receive_with_checksums();
    assert!(matches!(received[..], [(_, Checksum::Unknown)]));
    let statistics = world.nic.statistics();
    assert_eq!((statistics.received_checksums, statistics.receive_bad_checksums), (0, 0));
    world.finish();
}

/// What the switch does not give it: no transport header in our memory, padding, and
/// what has no such checksum.
#[test]
fn checksums_that_cannot_be_made_are_refused() {
    let mut world = World::running();
    let frame = UDP4.partial(&payload(200));
    world.offer_pieces(&cut(&frame, 40, 2), Checksum::Partial);
    world.offer_as(&[&frame[..], &[0; 3]].concat(), Checksum::Partial);
    let mut icmp = frame.clone();
    icmp[23] = 1;
    world.offer_as(&icmp, Checksum::Partial);
    world.transmit();
    assert_eq!(world.nic.statistics().send_refused, 3);
    assert_eq!((world.lent(), world.device.wire.borrow().len()), (0, 0));
    // And no context is left half told.
    world.offer_as(&frame, Checksum::Partial);
    world.transmit();
    assert_eq!(world.device.wire.take(), [UDP4.finished(&payload(200))]);
    world.finish();
}

/// Packets with and without checksums to be made, in one piece and in many, round the
/// ring while it is full.
#[test]
fn contexts_and_packets_of_all_kinds_share_the_ring() {
    let mut world = World::running();
    let mut expected = Vec::new();
    world.device.faults.stalled.set(true);
    for number in 0..1000 {
        let kind = KINDS[number / 3 % 8];
        let payload = payload(60 + number % 1300);
        let (frame, checksum) = match number % 5 {
            0 => (kind.finished(&payload), Checksum::Unknown),
            _ => (kind.partial(&payload), Checksum::Partial),
        };
        world.offer_pieces(&cut(&frame, 78, number * 7 % (PAGES + 1)), checksum);
        expected.push(kind.finished(&payload));
        world.transmit();
        for _ in 0..RING {
            if world.queue.is_empty() {
                break;
            }
            world.device.send_one();
            world.transmit();
        }
        assert!(world.queue.is_empty());
    }
    world.device.faults.stalled.set(false);
    world.device.kick();
    world.reap();
    assert_eq!(world.lent(), 0);
    assert!(world.device.wire.take() == expected);
    world.finish();
}

/// As many regions as it says, even if every packet changes the context.
#[test]
fn the_ring_takes_what_it_says() {
    let mut world = World::new();
    assert_eq!(world.nic.room(), 0, "nothing, while it does not run");
    world.start();
    let empty = world.nic.room();
    assert_eq!(empty, RING / 2);
    world.device.faults.stalled.set(true);
    for _ in 0..3 {
        let room = world.nic.room();
        assert!(room > 0);
        for number in 0..room {
            world.offer_as(&[UDP4, TCP4][number % 2].partial(&payload(40)), Checksum::Partial);
        }
        world.transmit();
        assert!(world.queue.is_empty());
        (0..20).for_each(|_| world.device.send_one());
        world.reap();
    }
    world.device.faults.stalled.set(false);
    world.device.kick();
    world.reap();
    assert_eq!(world.nic.room(), empty);
    world.device.set_link(false);
    world.nic.acknowledge(Cause::Other);
    assert_eq!(world.nic.room(), 0, "nor without a link");
    world.finish();
}
