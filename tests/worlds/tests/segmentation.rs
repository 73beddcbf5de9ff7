//! TCP segments of up to 64 KiB that are still to be cut (P-12, P-21): between guests as
//! they are, and cut for whoever does not take them so.

use std::time::Duration;

use kernel::packet::Gso;
use kernel::pages::choice::Mode;
use kernel::switch::{DropReason, Holding, MAX_WAIT};
use proptest::prelude::*;
use worlds::streams::{check_stream, finished, headers, outgoing, segment};
use worlds::trials::trials;
use worlds::{Id, Manners, Outgoing, Received, World, frames};
use xen::PAGE_SIZE;
use xen::netif::{RxFlags, Status};

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// The longest segments that fit an Ethernet over either IP, beside TCP's timestamps.
const MSS: u16 = 1428;
/// The longest packet (P-8).
const LONGEST: usize = 65_535;

fn drain(world: &mut World, id: Id) -> Vec<Received> {
    world[id].received.drain(..).collect()
}

/// P-21: to a frontend that takes them they go as they are, in one packet, whatever length.
#[test]
fn p21_guests_get_segments_uncut() {
    let mut world = World::new();
    let [a, b] = world.connected();
    for v6 in [false, true] {
        for len in [headers(v6) + 1429, 4096, 4097, 30_000, LONGEST] {
            let sent = segment(world[b].mac(), world[a].mac(), v6, len, MSS);
            let out = outgoing(&sent, v6);
            let ids = world[a].send(&out);
            world.settle();
            world.check_answers(a, &ids, Status::Okay);
            let [got] = &drain(&mut world, b)[..] else { panic!("one packet") };
            assert_eq!(got.bytes, out.bytes, "{len}");
            assert_eq!(got.gso, Some(sent.1.segmentation()));
            assert_eq!(got.flags, RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED);
            assert_eq!(got.slots, len.div_ceil(PAGE_SIZE), "as few as it takes (P-19)");
        }
        // What one segment holds needs no cutting.
        let short = segment(world[b].mac(), world[a].mac(), v6, headers(v6) + 1428, MSS);
        let ids = world[a].send(&outgoing(&short, v6));
        world.settle();
        world.check_answers(a, &ids, Status::Okay);
        assert_eq!(drain(&mut world, b)[0].gso, None);
    }
    world.end();
}

/// P-19: what a stack sends, whose pages it filled in its own way, takes one copy for each
/// of them, and one for its headers.
#[test]
fn p19_a_page_of_the_senders_is_copied_at_once() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let sent = segment(world[b].mac(), world[a].mac(), false, 60_000, MSS);
    let whole = outgoing(&sent, false);
    let mut pieces = vec![(1000, headers(false) as u16 + 700)];
    pieces.resize(15, (0, 4096));
    pieces.push((0, 60_000 - pieces.iter().map(|(_, len)| len).sum::<u16>()));
    let out = Outgoing::cut(&whole.bytes, pieces);
    let out = out.with_flags(whole.flags).with_extras(&whole.extras);
    let before = world.xen.counts();
    world[a].send(&out);
    world.settle();
    let [got] = &drain(&mut world, b)[..] else { panic!("one packet") };
    assert_eq!(got.bytes, out.bytes);
    assert_eq!(got.slots, out.pieces.len());
    // The first piece is in our memory in part.
    let counts = world.xen.counts() - before;
    assert_eq!(counts.copies, 1 + out.pieces.len() as u64 + 1);
    world.end();
}

/// Who lacks one of the things that segments need gets them cut, with right checksums or
/// none, as it takes.
#[test]
fn p21_others_get_them_cut() {
    let manners = Manners::default;
    for v6 in [false, true] {
        for (what, manners) in [
            ("no gso", Manners { gso: [false; 2], ..manners() }),
            ("the other gso", Manners { gso: [v6, !v6], ..manners() }),
            ("no sg", Manners { scatter_gather: false, ..manners() }),
            ("no checksums", Manners { ipv4_checksum: false, ipv6_checksum: false, ..manners() }),
        ] {
            let mut world = World::new();
            let a = world.attach(0);
            let b = world.attach_with(1, manners.clone(), &[]);
            for (len, mss) in [(1600, MSS), (30_000, 1000), (LONGEST, MSS), (3000, 28)] {
                let sent = segment(world[b].mac(), world[a].mac(), v6, len, mss);
                let ids = world[a].send(&outgoing(&sent, v6));
                world.settle();
                world.check_answers(a, &ids, Status::Okay);
                let got = drain(&mut world, b);
                let partial = RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED;
                let flags = match manners.ipv4_checksum {
                    true => partial,
                    false => RxFlags::DATA_VALIDATED,
                };
                assert!(got.iter().all(|packet| packet.flags == flags), "{what}");
                check_stream(&finished(got), &sent.0, mss, what);
            }
            world.end();
        }
    }
}

/// On the wire there are packets as long as a wire takes, however they get there.
#[test]
fn the_wire_gets_them_cut() {
    let holding = Holding::Mapped(MAX_WAIT);
    for mode in [Mode::Never, Mode::Always] {
        let mut world = World::with(holding, mode);
        let a = world.attach(0);
        for v6 in [false, true] {
            for (len, mss) in [(1600, MSS), (LONGEST, MSS), (20_000, 536)] {
                let sent = segment(OUTSIDE, world[a].mac(), v6, len, mss);
                let ids = world[a].send(&outgoing(&sent, v6));
                world.settle();
                world.check_answers(a, &ids, Status::Okay);
                let frames = world.wire.take_frames();
                assert!(frames.iter().all(|frame| frame.len() <= 1514), "{mode:?}");
                check_stream(&frames, &sent.0, mss, &format!("{mode:?}"));
            }
        }
        world.end();
    }
}

/// A flood reaches each in its own way, and each part of the payload is one page of one
/// guest's until the last is done with it (O-3).
#[test]
fn o3_a_flood_is_cut_for_those_who_need_it() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach(1);
    let c = world.attach_with(2, Manners { gso: [false; 2], ..Manners::default() }, &[]);
    let sent = segment(frames::BROADCAST, world[a].mac(), false, 20_000, MSS);
    let out = outgoing(&sent, false);
    let ids = world[a].send(&out);
    world.settle();
    world.check_answers(a, &ids, Status::Okay);
    let [whole] = &drain(&mut world, b)[..] else { panic!("one packet") };
    assert_eq!(whole.bytes, out.bytes, "nobody changed headers that others look at (O-5)");
    let got = drain(&mut world, c);
    check_stream(&finished(got), &sent.0, MSS, "cut");
    check_stream(&world.wire.take_frames(), &sent.0, MSS, "the wire");
    world.end();
}

/// T-8: tags come and go before segments are cut, which all have them.
#[test]
fn t8_tagged_segments_are_cut_as_well() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[("vlan", "7")]);
    let uncut = world.attach_with(1, Manners::default(), &[("vlan", "7")]);
    let none = Manners { gso: [false; 2], ..Manners::default() };
    let cut = world.attach_with(2, none, &[("vlan", "1p/7")]);
    let sent = segment(frames::BROADCAST, world[a].mac(), false, 20_000, MSS);
    let out = outgoing(&sent, false);
    world[a].send(&out);
    world.settle();
    assert_eq!(drain(&mut world, uncut)[0].bytes, out.bytes);
    let untagged = |frame: Vec<u8>| {
        assert_eq!(frame[12..16], [0x81, 0, 0, 7]);
        [&frame[..12], &frame[16..]].concat()
    };
    let got = drain(&mut world, cut).into_iter();
    let got = got.map(|packet| Received { bytes: untagged(packet.bytes.clone()), ..packet });
    check_stream(&finished(got.collect()), &sent.0, MSS, "cut");
    let frames: Vec<_> = world.wire.take_frames().into_iter().map(untagged).collect();
    check_stream(&frames, &sent.0, MSS, "the wire");
    world.end();
}

/// What would not pass in pieces does not pass in one.
#[test]
fn segments_beyond_the_mtu_are_dropped() {
    let mut world = World::new();
    let a = world.attach(0);
    let to = [
        world.attach(1),
        world.attach_with(2, Manners { gso: [false; 2], ..Manners::default() }, &[]),
    ];
    for (id, drops) in to.into_iter().zip([1, 10]) {
        let before = world.drops(DropReason::TooLong);
        // As long as passes, and a byte longer.
        for (mss, passes) in [(1460, true), (1461, false)] {
            let len = headers(false) + 10 * usize::from(mss);
            let sent = segment(world[id].mac(), world[a].mac(), false, len, mss);
            world[a].send(&outgoing(&sent, false));
            world.settle();
            assert_eq!(drain(&mut world, id).is_empty(), !passes);
        }
        assert_eq!(world.drops(DropReason::TooLong) - before, drops);
    }
    world.end();
}

/// O-8: one that waits is copied like any other, and still cut by who gets it.
#[test]
fn o8_segments_that_wait_are_copied() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 3, ..Manners::default() }, &[]);
    let sent = segment(world[b].mac(), world[a].mac(), false, LONGEST, MSS);
    let out = outgoing(&sent, false);
    world[a].send(&out);
    world.settle();
    assert!(world[a].unanswered() > 0);
    world.pass(Duration::from_millis(100));
    assert_eq!(world[a].unanswered(), 0);
    world[b].offer(13);
    world.settle();
    assert_eq!(drain(&mut world, b), [], "the extra's slot is missing");
    world[b].offer(1);
    world.settle();
    let [got] = &drain(&mut world, b)[..] else { panic!("one packet") };
    assert_eq!((&got.bytes, got.gso), (&out.bytes, Some(sent.1.segmentation())));
    world.end();
}

/// P-12: without csum_blank the checksum is made all the same.
#[test]
fn p12_the_checksum_is_made_whatever_the_request_says() {
    let mut world = World::new();
    let [a, b] = world.connected();
    for v6 in [false, true] {
        let (frame, extra) = segment(world[b].mac(), world[a].mac(), v6, 20_000, MSS);
        world[a].send(&Outgoing::whole(&frame).with_extras(&[extra]));
        world.settle();
        let [got] = &drain(&mut world, b)[..] else { panic!("one packet") };
        assert!(got.flags.contains(RxFlags::CSUM_BLANK));
        assert_eq!(got.bytes, frames::seeded(frame, v6));
    }
    world.end();
}

proptest! {
    #![proptest_config(trials(24))]

    /// Segments of every length, in pieces of every kind, to guests of every kind: one
    /// stream.
    #[test]
    fn any_stream_arrives(
        v6: bool,
        takes: bool,
        len in prop_oneof![1500..6000usize, 6000..LONGEST],
        mss in Gso::MIN_MSS..1461,
        piece in 1..4000usize,
        offset in 0..90u16,
    ) {
        let fits = 1514 - headers(v6) as u16;
        let mss = mss.min(fits).max((len / Gso::MAX_SEGMENTS + 1) as u16);
        let mut world = World::new();
        let a = world.attach(0);
        let b = world.attach_with(1, Manners { gso: [takes; 2], ..Manners::default() }, &[]);
        let sent = segment(world[b].mac(), world[a].mac(), v6, len, mss);
        let out = outgoing(&sent, v6);
        let pieces = out.bytes.chunks(piece.max(len / 18 + 1)).map(|bytes| {
            let len = bytes.len() as u16;
            (offset.min(PAGE_SIZE as u16 - len), len)
        });
        let cut = Outgoing::cut(&out.bytes, pieces.collect());
        let ids = world[a].send(&cut.with_flags(out.flags).with_extras(&out.extras));
        world.settle();
        world.check_answers(a, &ids, Status::Okay);
        let got = drain(&mut world, b);
        if takes {
            prop_assert_eq!(got.len(), 1);
            prop_assert_eq!(&got[0].bytes, &out.bytes);
        } else {
            check_stream(&finished(got), &sent.0, mss, "cut");
        }
        world.end();
    }
}
