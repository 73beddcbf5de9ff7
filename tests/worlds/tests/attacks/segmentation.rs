//! F-4: packets that are still to be cut, and cannot be, or into too many.

use kernel::packet::Gso;
use kernel::switch::DropReason;
use worlds::streams::{check_stream, finished, headers, outgoing, segment};
use worlds::{Id, Manners, OUTSIDE, Outgoing, Received, World, frames};
use xen::netif::{ExtraInfo, Status, TxFlags};

use crate::harness::{
    Counted, Disabled, EVIL, Harmless, JUMBO, MILLISECOND, Place, Setup, attack, counters, page,
    request, show,
};

/// The longest segments that fit an Ethernet, beside TCP's timestamps.
const MSS: u16 = 1428;
/// The longest packet (P-8).
const LONGEST: usize = 65_535;

/// A guest that takes no segments uncut.
fn cutting() -> Manners {
    Manners { gso: [false; 2], ..Manners::default() }
}

/// The attacker's driver sends by itself from now on.
fn drive(world: &mut World) {
    world[EVIL].hands_off = false;
    world.settle();
    world[EVIL].answers.clear();
}

/// What a guest got from the attacker, or cannot tell from whom since a page failed.
fn from_evil(world: &mut World, id: Id) -> Vec<Received> {
    let mac = world[EVIL].mac();
    let received = std::mem::take(&mut world[id].received).into_iter();
    received.filter(|packet| packet.failed > 0 || packet.bytes[6..12] == mac).collect()
}

/// F-4, P-12: a kind that there is not, or segments without a byte.
#[test]
fn f_04_segmentation_without_a_kind_or_a_size() {
    for (kind, size) in [(0, 0), (0, MSS), (3, MSS), (255, u16::MAX), (1, 0), (2, 0)] {
        let name = format!("kind {kind} of {size}");
        attack(&name, Disabled("segmentation of unknown type"), |world, evil| {
            let gref = page(world, evil);
            let first = request(gref, 0, TxFlags::EXTRA_INFO, 1000);
            show(world, evil, &[first, ExtraInfo::gso(kind, size).into()]);
        });
    }
}

/// Packets that are no TCP segment, or not all of one.
fn unfit(to: [u8; 6], from: [u8; 6], v6: bool) -> Vec<Vec<u8>> {
    let whole = segment(to, from, v6, 5000, MSS).0;
    let tcp = headers(v6) - 20;
    let with = |changes: &[(usize, u8)]| {
        let mut frame = whole.clone();
        changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
        frame
    };
    let mut frames = vec![
        frames::transport(to, from, v6, false, &[3; 1200]),
        whole[..14].to_vec(),
        whole[..headers(v6) - 1].to_vec(),
        whole[..60].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], &[0]].concat(),
        // Another EtherType, IP version and protocol.
        with(&[(12, 0x88), (13, 0xb5)]),
        with(&[(14, 0x55)]),
        with(&[(if v6 { 20 } else { 23 }, 1)]),
        // A TCP header too short, and one too long for the packet's headers to hold.
        with(&[(tcp + 12, 0x00)]),
        with(&[(tcp + 12, 0x40)]),
        // SYN, RST, URG: no part of a stream.
        with(&[(tcp + 13, 2)]),
        with(&[(tcp + 13, 4)]),
        with(&[(tcp + 13, 0x20)]),
    ];
    if !v6 {
        // An IPv4 header too short, and too long; the first fragment of some, and the last.
        frames.extend([(14, 0x40), (14, 0x44), (20, 0x20), (21, 1)].map(|change| with(&[change])));
    }
    frames
}

/// F-4: what cannot be cut, in every form, is refused: its slots are answered with errors and
/// nothing of it goes anywhere.
#[test]
fn f_04_what_cannot_be_cut_is_refused() {
    attack("unfit", Counted, |world, a| {
        drive(world);
        let b = world.attach_with(1, cutting(), &[]);
        let [from, to] = [a, b].map(|id| world[id].mac());
        let mut refused = 0;
        for v6 in [false, true] {
            let good = 1 + u8::from(v6);
            let whole = segment(to, from, v6, 5000, MSS).0;
            let longest = segment(to, from, v6, LONGEST, MSS).0;
            let unfit = unfit(to, from, v6);
            let asks = unfit.iter().flat_map(|frame| [MSS, u16::MAX].map(|mss| (frame, good, mss)));
            // Another version than the packet's, segments too short, and too many.
            let bad = [
                (&whole, 3 - good, MSS),
                (&whole, good, 1),
                (&whole, good, Gso::MIN_MSS - 1),
                (&whole, good, Gso::MIN_MSS),
                (&longest, good, 1),
                (&longest, good, 500),
            ];
            for (frame, kind, mss) in asks.chain(bad) {
                for flags in [TxFlags::empty(), TxFlags::CSUM_BLANK] {
                    let packet = Outgoing::whole(frame).with_flags(flags);
                    let ids = world[a].send(&packet.with_extras(&[ExtraInfo::gso(kind, mss)]));
                    world.settle();
                    world.check_answers(a, &ids, Status::Error);
                    refused += 1;
                }
            }
        }
        assert_eq!((world[b].received.len(), world.wire.take_frames().len()), (0, 0));
        assert_eq!((counters(world).tx.unsegmentable, counters(world).tx.packets), (refused, 0));
    });
}

/// F-4: no payload, and segments longer than all of it: it is a packet as any other, whose
/// checksum is made whether or not that was asked for.
#[test]
fn f_04_what_needs_no_cutting_arrives_as_it_is() {
    attack("uncut", Harmless, |world, a| {
        drive(world);
        let picky = Manners { ipv4_checksum: false, ipv6_checksum: false, ..cutting() };
        let b = world.attach_with(1, picky, &[]);
        for v6 in [false, true] {
            for (payload, mss) in
                [(0, 28), (0, MSS), (0, u16::MAX), (1, 28), (28, 28), (1000, u16::MAX)]
            {
                let len = headers(v6) + payload;
                let (frame, extra) = segment(world[b].mac(), world[a].mac(), v6, len, mss);
                let seeded = frames::seeded(frame.clone(), v6);
                for (bytes, flags) in [(&frame, TxFlags::empty()), (&seeded, TxFlags::CSUM_BLANK)] {
                    let packet = Outgoing::whole(bytes).with_flags(flags).with_extras(&[extra]);
                    let ids = world[a].send(&packet);
                    world.settle();
                    world.check_answers(a, &ids, Status::Okay);
                    let [got] = &from_evil(world, b)[..] else { panic!("one packet") };
                    assert!(got.bytes == frame && got.gso.is_none(), "{payload} by {mss}");
                }
            }
        }
    });
}

/// F-4: as many segments as there may be, as small as that allows, ring after ring, to a guest
/// that takes none uncut and to the wire. What its queue holds arrives right, and what does
/// not fit is nobody else's loss.
#[test]
fn f_04_a_flood_of_tiny_segments() {
    attack("tiny segments", Harmless, |world, a| {
        drive(world);
        let b = world.attach_with(1, cutting(), &[]);
        for (payload, mss) in [(LONGEST - headers(false), 512), (28 * Gso::MAX_SEGMENTS, 28)] {
            let packet = |to, world: &World| {
                segment(to, world[a].mac(), false, headers(false) + payload, mss)
            };
            let [inside, outside] = [world[b].mac(), OUTSIDE].map(|to| packet(to, world));
            for sent in [&inside, &outside] {
                world[a].send(&outgoing(sent, false));
            }
            world.settle();
            let cut = finished(from_evil(world, b));
            check_stream(&cut, &inside.0, mss, "whole");
            assert_eq!(cut.len(), Gso::MAX_SEGMENTS);
            check_stream(&world.wire.take_frames(), &outside.0, mss, "the wire");
            for _ in 0..20 {
                for sent in [&inside, &outside].into_iter().cycle() {
                    let out = outgoing(sent, false);
                    if (world[a].rings.tx.free() as usize) <= out.pieces.len() {
                        break;
                    }
                    world[a].queue(&out);
                }
                world[a].kick();
                world.settle();
                let got = finished(from_evil(world, b));
                assert!(!got.is_empty() && got.iter().all(|frame| cut.contains(frame)));
                assert!(world.wire.take_frames().iter().all(|frame| frame.len() <= 1514));
                world.pass(100 * MILLISECOND);
                assert_eq!(world[a].unanswered(), 0);
            }
        }
        assert!(world.drops(DropReason::QueueFull) > 0, "it was too much");
    });
}

/// F-4: a flood to guests of all kinds and to the wire. Each gets it as it takes it, and one
/// that gets nothing keeps the pages for 100 ms.
#[test]
fn f_04_segments_to_everybody() {
    attack("everybody", Harmless, |world, a| {
        drive(world);
        let manners = Manners::default;
        let uncut = [
            world.attach_with(1, manners(), &[]),
            world.attach_with(2, Manners { queues: 2, ..manners() }, &[]),
            world.attach_with(1, Manners { rx_notify: false, ..manners() }, &[]),
        ];
        let cut = [
            cutting(),
            Manners { scatter_gather: false, ..manners() },
            Manners { ipv4_checksum: false, ipv6_checksum: false, ..manners() },
            Manners { xdp_headroom: 256, ..manners() },
        ];
        let cut = cut.map(|manners| world.attach_with(2, manners, &[]));
        let deaf = world.attach_with(1, Manners { offers: 0, ..manners() }, &[]);
        for v6 in [false, true] {
            let sent = segment(frames::BROADCAST, world[a].mac(), v6, 20_000, MSS);
            let out = outgoing(&sent, v6);
            let ids = world[a].send(&out);
            world.settle();
            assert_ne!(world[a].unanswered(), 0, "one of them waits");
            world.pass(100 * MILLISECOND);
            world.check_answers(a, &ids, Status::Okay);
            for id in uncut {
                let [got] = &from_evil(world, id)[..] else { panic!("one packet") };
                assert_eq!((&got.bytes, got.gso), (&out.bytes, Some(sent.1.segmentation())));
            }
            for id in cut {
                check_stream(&finished(from_evil(world, id)), &sent.0, MSS, "cut");
            }
            check_stream(&world.wire.take_frames(), &sent.0, MSS, "the wire");
            assert_eq!(world[deaf].received, []);
        }
    });
}

/// F-4, F-6: each of its pages in turn cannot be read, from the start or from when it waits
/// to be copied. What does not need the page arrives, and nothing else does.
#[test]
fn f_04_f_06_segments_of_pages_that_are_not_there() {
    for place in [Place::Usual, Place::Mapping] {
        for late in [false, true] {
            let setup = Setup { place, ..Setup::default() };
            setup.attack(&format!("pages, late: {late}"), Harmless, |world, a| {
                drive(world);
                let b = world.attach(1);
                let c = world.attach_with(2, cutting(), &[]);
                let deaf = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
                let sent = segment(frames::BROADCAST, world[a].mac(), false, 20_000, MSS);
                let mut pieces = vec![(0, 1000)];
                pieces.resize(5, (0, 4096));
                pieces.push((0, 20_000 - 1000 - 4 * 4096));
                let whole = outgoing(&sent, false);
                let out = Outgoing::cut(&whole.bytes, pieces);
                let out = out.with_flags(whole.flags).with_extras(&whole.extras);
                world[a].send(&out);
                world.pass(100 * MILLISECOND);
                assert_eq!(from_evil(world, b).len(), 1);
                let whole = finished(from_evil(world, c));
                check_stream(&world.wire.take_frames(), &sent.0, MSS, "the wire");
                for broken in 0..out.pieces.len() {
                    let ids = world[a].queue(&out);
                    let gref = world[a].reference(ids[broken]);
                    if !late {
                        world[a].guest.revoke(gref);
                    }
                    world[a].kick();
                    world.settle();
                    if late {
                        world[a].guest.revoke(gref);
                    }
                    world.pass(100 * MILLISECOND);
                    assert_eq!(world[a].unanswered(), 0, "page {broken}");
                    let [uncut, cut] = [b, c].map(|id| from_evil(world, id));
                    let sound = cut.into_iter().filter(|packet| packet.failed == 0).collect();
                    let (sound, wire) = (finished(sound), world.wire.take_frames());
                    assert!(sound.iter().chain(&wire).all(|frame| whole.contains(frame)));
                    let lost = !late && broken == 0;
                    assert_eq!(uncut.len(), usize::from(!lost), "page {broken}");
                    assert!(uncut.iter().all(|packet| (packet.failed > 0) != late));
                    // A page holds less than three segments.
                    let most = whole.len() - usize::from(!late);
                    let least = if lost { 0 } else { whole.len() - 5 };
                    for count in [sound.len(), wire.len()] {
                        assert!((least..=most).contains(&count), "page {broken}: {count}");
                    }
                }
                assert_eq!(world[deaf].received, []);
            });
        }
    }
}

/// F-4, S-12: packets run out while those of another guest's are cut, which takes one for
/// each segment. What arrives of them is right, their sender has its answers, and all of them
/// arrive when there are packets again.
#[test]
fn f_04_s_12_segments_are_cut_while_packets_run_out() {
    let mut world = World::of_many();
    let evil = world.attach_with(0, Manners::default(), &[JUMBO]);
    let a = world.attach(1);
    let b = world.attach_with(2, cutting(), &[]);
    let sent = segment(world[b].mac(), world[a].mac(), false, LONGEST, 512);
    let pass = |world: &mut World| {
        world[a].send(&outgoing(&sent, false));
        world.settle();
        let mac = world[a].mac();
        let received = std::mem::take(&mut world[b].received).into_iter();
        finished(received.filter(|packet| packet.bytes[6..12] == mac).collect())
    };
    let whole = pass(&mut world);
    check_stream(&whole, &sent.0, 512, "before");
    for n in 0..58 {
        world.attach_with(n % 5, Manners { offers: 0, ..Manners::default() }, &[]);
    }
    for _ in 0..10 {
        for len in 60..124 {
            let frame = frames::plain(frames::BROADCAST, world[evil].mac(), len, 1);
            world[evil].queue(&Outgoing::whole(&frame));
        }
        world[evil].kick();
        world.settle();
    }
    // A queue takes no more than a share of what is left.
    let drops =
        |world: &World| world.drops(DropReason::Exhausted) + world.drops(DropReason::QueueFull);
    let before = drops(&world);
    let part = pass(&mut world);
    assert!(part.len() < whole.len() && part.iter().all(|frame| whole.contains(frame)));
    let lost = drops(&world) - before;
    assert_eq!(lost as usize + part.len(), whole.len(), "each is counted");
    world.pass(100 * MILLISECOND);
    assert_eq!(world[a].unanswered(), 0);
    // Those who do not receive lose what waits for them, and their carrier.
    world.pass(drivers::netback::data::STALL_TIMEOUT);
    assert_eq!(pass(&mut world), whole);
    world.end();
}
