//! F-2, F-3, S-13 to S-15: what slots say, and how they are strung together.

use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};
use xen::fake::{Kind, Operation};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest, TxSlot};

use crate::harness::{
    Counted, Disabled, Harmless, MORE, NONE, attack, page, refused, request, show,
};

/// Slots by their flags and sizes.
type Slots = &'static [(TxFlags, u16)];

/// More than 64 KiB, however it is counted.
const FAR_TOO_MUCH: [(TxFlags, u16); 18] = {
    let mut slots = [(MORE, 4096); 18];
    slots[0] = (MORE, 65_535);
    slots[17] = (NONE, 4096);
    slots
};

fn extra(kind: u8, flags: ExtraFlags) -> TxSlot {
    ExtraInfo::new(kind, flags, [0xff; 6]).into()
}

/// F-2: bytes that are not in the page.
#[test]
fn f_02_slots_cross_their_pages() {
    for (offset, size) in [(4095, 2), (65_535, 1), (1, 4096), (0, 65_535), (4083, 14)] {
        attack(&format!("{size} at {offset}"), Disabled("crosses its page"), |world, evil| {
            let gref = page(world, evil);
            show(world, evil, &[request(gref, offset, NONE, size)]);
        });
    }
    for (offset, size) in [(4095, 2), (65_535, 0), (65_535, 65_535), (4097, 0)] {
        attack(
            &format!("later {size} at {offset}"),
            Disabled("crosses its page"),
            |world, evil| {
                let gref = page(world, evil);
                let first = request(gref, 0, MORE, 1000);
                show(world, evil, &[first, request(gref, offset, NONE, size)]);
            },
        );
    }
    attack("derived first piece", Disabled("crosses its page"), |world, evil| {
        let gref = page(world, evil);
        let first = request(gref, 4000, MORE, 300);
        show(world, evil, &[first, request(gref, 0, NONE, 200)]);
    });
}

/// F-2: sizes that make no packet are refused, and no more.
#[test]
fn f_02_sizes_that_do_not_add_up() {
    let cases: [(&str, Slots); 8] = [
        ("nothing", &[(NONE, 0)]),
        ("a byte short of a header", &[(NONE, 13)]),
        ("all in the second slot", &[(MORE, 100), (NONE, 100)]),
        ("too little in the first slot", &[(MORE, 100), (NONE, 87)]),
        ("more than there is", &[(MORE, 100), (NONE, 101)]),
        ("much more than there is", &[(MORE, 100), (MORE, 4096), (NONE, 4096)]),
        ("a total of nothing", &[(MORE, 0), (NONE, 1)]),
        ("more than 64 KiB", &FAR_TOO_MUCH),
    ];
    for (name, slots) in cases {
        attack(name, Counted, |world, evil| {
            let gref = page(world, evil);
            let slots: Vec<_> = slots.iter().map(|s| request(gref, 0, s.0, s.1)).collect();
            refused(world, evil, &slots);
        });
    }
}

/// F-3, P-9: a few slots too many are refused; more are no mistake.
#[test]
fn f_03_too_many_slots() {
    let slots = |gref, further: usize| -> Vec<_> {
        let mut slots = vec![request(gref, 0, MORE, 1000)];
        slots.extend((1..further).map(|_| request(gref, 0, MORE, 1)));
        slots.push(request(gref, 0, NONE, 1));
        slots
    };
    for further in [19, 20] {
        attack(&format!("{further} further slots"), Counted, |world, evil| {
            let gref = page(world, evil);
            refused(world, evil, &slots(gref, further));
        });
    }
    for further in [21, 22, 200, 254] {
        attack(&format!("{further} further slots"), Disabled("20 slots"), |world, evil| {
            let gref = page(world, evil);
            show(world, evil, &slots(gref, further));
        });
    }
}

/// F-3: a request that has no end.
#[test]
fn f_03_chains_end_early() {
    let more = ExtraFlags::MORE;
    let cases: [(&str, Slots, Option<ExtraFlags>); 4] = [
        ("no second slot", &[(MORE, 1000)], None),
        ("no third slot", &[(MORE, 1000), (MORE, 100)], None),
        ("no extra info", &[(TxFlags::EXTRA_INFO, 1000)], None),
        ("no second extra info", &[(TxFlags::EXTRA_INFO, 1000)], Some(more)),
    ];
    for (name, slots, info) in cases {
        attack(name, Disabled("goes on beyond"), |world, evil| {
            let gref = page(world, evil);
            let mut slots: Vec<_> = slots.iter().map(|s| request(gref, 0, s.0, s.1)).collect();
            slots.extend(info.map(|flags| extra(4, flags)));
            show(world, evil, &slots);
        });
    }
    attack("extra info to the ring's end", Disabled("goes on beyond"), |world, evil| {
        let gref = page(world, evil);
        let mut slots = vec![request(gref, 0, TxFlags::EXTRA_INFO, 1000)];
        slots.resize(256 - 15, extra(4, more));
        show(world, evil, &slots);
    });
}

/// F-3, P-11: extra info that nobody defined.
#[test]
fn f_03_unknown_extras() {
    for kind in [0, 6, 7, 128, 255] {
        attack(&format!("type {kind}"), Disabled("unknown type"), |world, evil| {
            let gref = page(world, evil);
            let first = request(gref, 0, TxFlags::EXTRA_INFO, 1000);
            show(world, evil, &[first, extra(kind, ExtraFlags::empty())]);
        });
    }
}

/// S-15, P-15: a slot that cannot be read is told apart from an empty one before it.
#[test]
fn s_15_empty_slots_do_not_hide_which_one_failed() {
    attack("empty and unreadable", Counted, |world, evil| {
        let b = world.attach(1);
        let gref = page(world, evil);
        let slot = |id, gref, flags, size| TxRequest::new(gref, 0, flags, id, size).into();
        let slots = [
            slot(1, gref, MORE, 120),
            slot(2, 0, MORE, 0),
            slot(3, 0, MORE, 30),
            slot(4, 0, NONE, 0),
        ];
        show(world, evil, &slots);
        world.settle();
        let mut answers: Vec<_> = std::iter::from_fn(|| world[evil].rings.tx.take()).collect();
        answers.sort_by_key(|answer| answer.id);
        let answers: Vec<_> = answers.iter().map(|answer| (answer.id, answer.status)).collect();
        assert_eq!(answers, [(1, 0), (2, 0), (3, Status::Error as i16), (4, 0)]);
        assert_eq!(world[b].received, []);
    });
}

/// S-15 (XSA-448): slots without a byte, at every place behind the first and at all of
/// them, which name no page of anybody's.
#[test]
fn s_15_slots_without_a_byte_at_every_place() {
    attack("empty slots", Harmless, |world, evil| {
        let to = world.attach(1);
        let copies = world.record(Kind::Copy);
        for len in [14, 60, 192, 200, 1000] {
            let bases = [vec![(0, len)], vec![(0, 14), (7, len - 14)], vec![(4082, 14); 1]];
            for base in bases.into_iter().filter(|base| base.iter().all(|(_, len)| *len > 0)) {
                let len = base.iter().map(|(_, len)| usize::from(*len)).sum();
                for place in 1..=base.len() {
                    for count in [1, 2, 19 - base.len()] {
                        let empty = std::iter::repeat_n((4095, 0), count);
                        let mut pieces = base.clone();
                        pieces.splice(place..place, empty);
                        let frame = frames::plain(world[to].mac(), world[evil].mac(), len, 1);
                        arrives(world, evil, to, &Outgoing::cut(&frame, pieces), &frame);
                    }
                }
            }
        }
        let empty = |copy: &Operation| matches!(copy, Operation::Copy { len: 0, .. });
        assert!(!copies.borrow().iter().any(empty), "the page of an empty slot (P-10)");
        world.xen.clear_faults();
    });
}

/// S-13 (XSA-423): an Ethernet header in the first slot, and all that follows of the headers
/// in slots of one byte, with a checksum to be made of what they say. Both a guest that
/// takes no such thing and the wire get one whole packet, right in every byte.
#[test]
fn s_13_headers_in_slots_of_one_byte() {
    attack("crumbs of headers", Harmless, |world, evil| {
        let picky = Manners { ipv4_checksum: false, ipv6_checksum: false, ..Manners::default() };
        let to = world.attach_with(1, picky, &[]);
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            for crumbs in 0..=17 {
                for payload in [0, 100, 1000] {
                    let whole =
                        |to: [u8; 6], from| frames::transport(to, from, v6, tcp, &vec![9; payload]);
                    let from = world[evil].mac();
                    let [inside, outside] = [world[to].mac(), OUTSIDE].map(|to| whole(to, from));
                    let sent = |frame: &[u8]| {
                        let blank = frames::blank(frame.to_vec(), v6, tcp);
                        Outgoing::cut(&blank, crumbled(blank.len() as u16, 14, crumbs))
                            .with_flags(TxFlags::CSUM_BLANK)
                    };
                    arrives(world, evil, to, &sent(&inside), &inside);
                    world[evil].send(&sent(&outside));
                    world.settle();
                    assert_eq!(world.wire.take_frames(), [outside]);
                }
            }
        }
    });
}

/// S-14 (XSA-432): as many slots as there may be, and fewer bytes than are copied of
/// headers.
#[test]
fn s_14_the_most_slots_and_hardly_a_byte() {
    attack("many slots of little", Harmless, |world, evil| {
        let to = world.attach(1);
        for head in 14..=110 {
            let frame = frames::plain(world[to].mac(), world[evil].mac(), head + 18, head as u64);
            let pieces = crumbled(frame.len() as u16, head as u16, 18);
            arrives(world, evil, to, &Outgoing::cut(&frame, pieces), &frame);
        }
    });
}

/// A first piece of so many bytes, so many of one byte, and what is left.
fn crumbled(len: u16, head: u16, crumbs: u16) -> Vec<(u16, u16)> {
    let crumbs = crumbs.min(len - head);
    let rest = len - head - crumbs;
    let mut pieces = vec![(4096 - head, head)];
    pieces.extend((0..crumbs).map(|n| (n % 2 * 4095, 1)));
    pieces.extend((rest > 0).then_some((3, rest)));
    pieces
}

/// Sends a packet, of which a guest gets `expected`, and each slot its answer.
fn arrives(world: &mut World, evil: Id, to: Id, packet: &Outgoing, expected: &[u8]) {
    world[evil].hands_off = false;
    world.settle();
    world[to].received.clear();
    world[evil].answers.clear();
    let ids = world[evil].send(packet);
    world.settle();
    let received: Vec<_> = world[to].received.iter().map(|packet| &packet.bytes[..]).collect();
    assert_eq!(received, [expected], "{:?}", packet.pieces);
    world.check_answers(evil, &ids, Status::Okay);
}
