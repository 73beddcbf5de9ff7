//! TCP segments that guests leave to the device to cut.

use kernel::pages::choice::Mode;
use worlds::streams::{check_stream, headers, outgoing, segment};
use worlds::{Card, Manners, Outgoing, Uplink, World, frames};
use xen::PAGE_SIZE;
use xen::fake::FakeXen;
use xen::netif::Status;

use crate::{CardWorld, Dice, MILLISECOND, OUTSIDE, check_wire, statistics};

/// The longest segments that fit an Ethernet over either IP, beside TCP's timestamps.
const MSS: u16 = 1428;
/// The longest packet (P-8).
const LONGEST: usize = 65_535;

/// P-12: whatever is to be cut, from pages or from copies, is cut by the device.
fn run(card: fn(&FakeXen) -> Card, mode: Mode) {
    let mut world: CardWorld = World::around(card, mode);
    let a = world.attach(0);
    // What comes back is looked at: nobody else uses the pages.
    world[a].keeps = true;
    let mut cut = 0;
    for v6 in [false, true] {
        for (len, mss) in [(1600, MSS), (LONGEST, MSS), (20_000, 536), (3000, 28)] {
            let sent = segment(OUTSIDE, world[a].mac(), v6, len, mss);
            let out = outgoing(&sent, v6);
            let ids = world[a].queue(&out);
            let pages: Vec<_> = out
                .pieces
                .iter()
                .zip(&ids)
                .map(|(piece, id)| (*piece, world[a].lent_page(*id)))
                .collect();
            world[a].kick();
            world.settle();
            world.check_answers(a, &ids, Status::Okay);
            let frames = world.wire.take_frames();
            check_stream(&frames, &sent.0, mss, &format!("{mode:?} {v6} {len}"));
            cut += 1;
            let mut there = Vec::new();
            for ((offset, len), page) in pages {
                let start = there.len();
                there.resize(start + usize::from(len), 0);
                world[a].guest.page(page).read_bytes(offset.into(), &mut there[start..]);
            }
            assert!(there == out.bytes, "the pages are as they were (O-5)");
        }
    }
    assert_eq!(statistics(&world).sent_to_be_cut, cut);
    assert_eq!(world.network.pools().choice.mapped() > 0, mode != Mode::Never);
    world[a].keeps = false;
    check_wire(&mut world, a);
    world.end();
}

#[test]
fn p12_the_card_cuts_segments() {
    for mode in [Mode::Always, Mode::Never, Mode::Auto] {
        run(Uplink::new, mode);
    }
}

#[test]
fn p12_an_emulated_card_cuts_segments() {
    for mode in [Mode::Always, Mode::Never] {
        run(Card::emulated, mode);
    }
}

/// O-5: a flood goes to the device with headers of its own, which are changed for it, and
/// to guests as it is.
#[test]
fn o5_a_flood_has_headers_for_the_card_alone() {
    for mode in [Mode::Always, Mode::Never] {
        let mut world: CardWorld = World::of(mode);
        let a = world.attach(0);
        let b = world.attach(1);
        let c = world.attach_with(2, Manners { gso: [false; 2], ..Manners::default() }, &[]);
        for v6 in [false, true] {
            let sent = segment(frames::BROADCAST, world[a].mac(), v6, 20_000, MSS);
            let out = outgoing(&sent, v6);
            let ids = world[a].send(&out);
            world.settle();
            world.check_answers(a, &ids, Status::Okay);
            let got = world[b].received.pop().expect("one packet");
            assert_eq!((&got.bytes, got.gso), (&out.bytes, Some(sent.1.segmentation())));
            let count = (20_000 - headers(v6)).div_ceil(MSS.into());
            assert_eq!(world[c].received.drain(..).count(), count);
            check_stream(&world.wire.take_frames(), &sent.0, MSS, "the wire");
        }
        assert_eq!(statistics(&world).sent_to_be_cut, 2);
        world.end();
    }
}

/// RFC 3168, section 6.1.2: the device would have every segment say that the window was
/// reduced. So the switch cuts such a packet.
#[test]
fn what_the_card_would_cut_wrong_is_cut_for_it() {
    let mut world = crate::mapping();
    let a = world.attach(0);
    for v6 in [false, true] {
        let (mut frame, extra) = segment(OUTSIDE, world[a].mac(), v6, 10_000, MSS);
        let flags = headers(v6) - 7;
        frame[flags] |= 0x80;
        let sent = (frame, extra);
        let ids = world[a].send(&outgoing(&sent, v6));
        world.settle();
        world.check_answers(a, &ids, Status::Okay);
        let frames = world.wire.take_frames();
        check_stream(&frames, &sent.0, MSS, "cut");
        let reduced = frames.iter().map(|frame| frame[flags] & 0x80 != 0);
        assert!(reduced.eq((0..frames.len()).map(|number| number == 0)));
    }
    let counted = statistics(&world);
    assert_eq!((counted.sent_to_be_cut, counted.send_refused), (0, 0));
    world.end();
}

/// A stream of packets of all lengths, in pieces of all kinds, while the device takes its
/// time: all of it arrives, in order, and no page stays out.
fn stream(card: fn(&FakeXen) -> Card, mode: Mode, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut world: CardWorld = World::around(card, mode);
    let a = world.attach(0);
    let from = world[a].mac();
    let mut sent = Vec::new();
    for round in 0..150 {
        for _ in 0..dice.roll(4) {
            let v6 = dice.roll(2) == 0;
            let len = [1500 + dice.roll(3000), 1500 + dice.roll(LONGEST - 1500)][dice.roll(2)];
            let whole = segment(OUTSIDE, from, v6, len, MSS);
            let out = outgoing(&whole, v6);
            let mut pieces = Vec::new();
            let mut rest = len;
            while rest > 0 {
                let most = PAGE_SIZE.min(rest);
                let least = rest.div_ceil(18usize.saturating_sub(pieces.len()).max(1)).min(most);
                let piece = least + dice.roll(most - least + 1);
                pieces.push((dice.roll(PAGE_SIZE - piece + 1) as u16, piece as u16));
                rest -= piece;
            }
            if world[a].rings.tx.free() as usize > pieces.len() {
                let cut = Outgoing::cut(&out.bytes, pieces);
                world[a].queue(&cut.with_flags(out.flags).with_extras(&out.extras));
                sent.push(whole.0);
            }
        }
        world[a].kick();
        let device = &world.wire.device;
        match dice.roll(3) {
            0 => device.faults.stalled.set(true),
            1 => (0..dice.roll(6)).for_each(|_| device.send_one()),
            _ => {}
        }
        if round % 3 == 2 {
            device.faults.stalled.set(false);
            device.kick();
        }
        world.settle();
        world.pass(dice.roll(10) as u32 * MILLISECOND);
    }
    world.wire.device.faults.stalled.set(false);
    world.wire.device.kick();
    world.settle();
    let frames = world.wire.take_frames();
    let mut rest = &frames[..];
    for whole in &sent {
        let payload = whole.len() - headers(whole[12] == 0x86);
        let (own, others) = rest.split_at(payload.div_ceil(MSS.into()));
        check_stream(own, whole, MSS, "in turn");
        rest = others;
    }
    assert!(rest.is_empty());
    assert_eq!(world[a].unanswered(), 0);
    let counted = statistics(&world);
    assert!(sent.len() > 100 && counted.sent_to_be_cut > 100);
    assert_eq!((counted.send_refused, counted.resets), (0, 1));
    world.check_at_rest();
    world.end();
}

#[test]
fn streams_cross_a_card() {
    stream(Uplink::new, Mode::Always, 1);
    stream(Uplink::new, Mode::Never, 2);
    stream(Uplink::new, Mode::Auto, 3);
    stream(Card::emulated, Mode::Always, 4);
}
