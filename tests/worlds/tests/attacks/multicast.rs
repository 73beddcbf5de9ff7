//! F-3: extra info of every kind in every place, and groups without number.

use kernel::switch::Groups;
use worlds::{Id, Outgoing, World, frames};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxSlot};

use crate::harness::{
    Counted, EVIL, Harmless, JUMBO, MORE, NONE, Setup, attack, counters, page, request, show,
};

const ADD: u8 = 2;
const REMOVE: u8 = 3;
const LAST: ExtraFlags = ExtraFlags::empty();
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

/// Extra info of each kind that there is.
fn info(kind: u8) -> ExtraInfo {
    match kind {
        1 => ExtraInfo::gso(1, 1448),
        _ => ExtraInfo::new(kind, LAST, GROUP),
    }
}

/// Slots: a first one with these kinds of extra info behind it.
fn with_extras(gref: u32, flags: TxFlags, kinds: &[u8]) -> Vec<TxSlot> {
    let mut slots = vec![request(gref, 0, flags | TxFlags::EXTRA_INFO, 1000)];
    let last = kinds.len() - 1;
    slots.extend(kinds.iter().enumerate().map(|(place, kind)| {
        let mut info = info(*kind);
        if place < last {
            info.set_more();
        }
        TxSlot::from(info)
    }));
    slots
}

/// Shows slots, and takes the responses: those of extra info are NULL (P-15).
fn answers(world: &mut World, evil: Id, slots: &[TxSlot], extras: usize) -> Vec<i16> {
    show(world, evil, slots);
    world.settle();
    let answers = std::iter::from_fn(|| world[evil].rings.tx.take()).map(|answer| answer.status);
    let (null, others): (Vec<_>, Vec<_>) =
        answers.partition(|status| *status == Status::Null as i16);
    assert_eq!((null.len(), others.len()), (extras, slots.len() - extras), "one a slot");
    others
}

/// F-3, P-11: two of a kind, the headroom of what is sent, and all that there is, to the
/// ring's end: the request is refused with all of its slots.
#[test]
fn f_03_extras_that_make_no_sense() {
    let to_the_end = [4; 255];
    let cases: [(&str, &[u8]); 9] = [
        ("headroom", &[5]),
        ("headroom behind others", &[1, 4, 5]),
        ("headroom before others", &[5, 4, 1]),
        ("a hash twice", &[4, 4]),
        ("segmentation twice", &[1, 1]),
        ("a group added twice", &[ADD, ADD]),
        ("a group removed twice", &[REMOVE, 4, REMOVE]),
        ("all of them", &[1, 2, 3, 4, 5]),
        ("hashes to the ring's end", &to_the_end),
    ];
    for (name, kinds) in cases {
        attack(name, Counted, |world, evil| {
            world.settle();
            let gref = page(world, evil);
            let before = counters(world).tx;
            let slots = with_extras(gref, NONE, kinds);
            assert_eq!(answers(world, evil, &slots, kinds.len()), [Status::Error as i16]);
            let now = counters(world).tx;
            assert_eq!((now.packets, now.refused), (before.packets, before.refused + 1));
        });
    }
    for kinds in [&[5][..], &[4, 4], &[1, 1, 4]] {
        attack("with data behind", Counted, |world, evil| {
            world.settle();
            let gref = page(world, evil);
            let mut slots = with_extras(gref, MORE, kinds);
            slots.push(request(gref, 0, NONE, 100));
            assert_eq!(answers(world, evil, &slots, kinds.len()), [Status::Error as i16; 2]);
        });
    }
}

/// F-3, P-13: a change of groups that says of itself that it is cut into segments, of a hash,
/// and goes on in the next slot. It is a change and no packet, the next slot is the next
/// request, and of two changes in one the addition counts.
#[test]
fn f_03_a_change_of_groups_is_no_packet() {
    attack("changes", Harmless, |world, evil| {
        world.set_front_key(evil, "request-multicast-control", "1");
        world.settle();
        let sender = world.attach(1);
        let sent = counters(world).tx.packets;
        for (n, kinds) in [&[ADD][..], &[REMOVE, ADD], &[1, 4, ADD, REMOVE]].iter().enumerate() {
            let gref = page(world, evil);
            let mut slots = with_extras(gref, MORE, kinds);
            slots.push(request(gref, 0, NONE, 100));
            assert_eq!(answers(world, evil, &slots, kinds.len()), [Status::Okay as i16; 2]);
            assert_eq!(counters(world).tx.packets, sent + n as u64 + 1, "the second slot's");
            let before = counters(world).rx.packets;
            let frame = frames::plain(GROUP, world[sender].mac(), 60, 1);
            world[sender].send(&Outgoing::whole(&frame));
            world.settle();
            assert_eq!(counters(world).rx.packets, before + 1, "{kinds:?}");
            let slots = with_extras(0, NONE, &[REMOVE]);
            assert_eq!(answers(world, evil, &slots, 1), [Status::Okay as i16]);
        }
    });
}

/// F-3, P-13: ten thousand additions, of more groups than there may be, and as many removals,
/// of groups that are there and that are not. Those beyond 64 are an error, and there is room
/// again afterwards; none of it takes memory.
#[test]
fn f_03_groups_without_number() {
    let setup = Setup { keys: &[JUMBO], ..Setup::default() };
    setup.attack("groups", Harmless, |world, evil| {
        world[evil].hands_off = false;
        world.set_front_key(evil, "request-multicast-control", "1");
        world.settle();
        let kept = world.most_kept;
        for kind in [ADD, REMOVE] {
            world[evil].answers.clear();
            for n in 0..10_000u32 {
                let [_, high, middle, low] = n.to_be_bytes();
                let group = [0x33, 0x33, 0, high, middle, low];
                let extra = ExtraInfo::new(kind, LAST, group);
                world[evil].queue(&Outgoing::cut(&[], vec![(0, 0)]).with_extras(&[extra]));
                if n % 100 == 99 {
                    world[evil].kick();
                    world.settle();
                }
            }
            let answers = std::mem::take(&mut world[evil].answers);
            let okay = answers.iter().filter(|answer| answer.status == Status::Okay as i16);
            let expected = if kind == ADD { Groups::MAX } else { 10_000 };
            assert_eq!((okay.count(), answers.len()), (expected, 10_000));
        }
        assert!(world.most_kept <= kept.max(8 << 10), "{} bytes", world.most_kept);
        assert_eq!((counters(world).tx.packets, world[EVIL].unanswered()), (0, 0));
        let extra = ExtraInfo::new(ADD, LAST, GROUP);
        let again = Outgoing::cut(&[], vec![(0, 0)]).with_extras(&[extra]);
        let ids = world[evil].send(&again);
        world.settle();
        world.check_answers(evil, &ids, Status::Okay);
    });
}
