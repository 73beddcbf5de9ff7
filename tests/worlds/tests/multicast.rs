//! Guests that want multicast of some groups alone (P-13).

use kernel::switch::{DropReason, Groups};
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest};

const REQUEST: &str = "request-multicast-control";
const ADD: u8 = 2;
const REMOVE: u8 = 3;

fn group(last: u8) -> [u8; 6] {
    [0x33, 0x33, 0, 0, 0, last]
}

fn extra(kind: u8, last: u8) -> ExtraInfo {
    ExtraInfo::new(kind, ExtraFlags::empty(), group(last))
}

/// Has a guest change its groups, by a request as Windows' drivers write it: of no bytes,
/// and without a page. How it was answered.
fn change(world: &mut World, id: Id, kind: u8, last: u8) -> i16 {
    let dummy = Outgoing::cut(&[], vec![(0, 0)]).with_extras(&[extra(kind, last)]);
    let [own] = world[id].send(&dummy)[..] else { panic!("one slot") };
    world.settle();
    assert_eq!(world[id].unanswered(), 0, "the extra has its NULL (P-15)");
    let answer = world[id].answers.pop().expect("an answer");
    assert_eq!(answer.id, own);
    answer.status
}

/// Whether a group's frame from one guest reaches another.
fn reaches(world: &mut World, from: Id, to: Id, destination: [u8; 6]) -> bool {
    let frame = frames::plain(destination, world[from].mac(), 1000, 7);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
    let received = std::mem::take(&mut world[to].received);
    assert!(received.iter().all(|packet| packet.bytes == frame));
    received.len() == 1
}

/// A guest that asks for its groups alone, and two that get everything.
fn world() -> (World, Id, Id, Id) {
    let mut world = World::new();
    let [a, c] = world.connected();
    let b = world.add(2, Manners::default(), &[]);
    world[b].set_key(REQUEST, "1");
    world.settle();
    assert!(world.is_connected(b));
    for feature in ["feature-multicast-control", "feature-dynamic-multicast-control"] {
        assert_eq!(world.own(b, feature).as_deref(), Some("1"));
    }
    (world, a, b, c)
}

#[test]
fn p13_a_guest_gets_its_groups_and_all_broadcast() {
    let (mut world, a, b, c) = world();
    let okay = Status::Okay as i16;
    assert!(!reaches(&mut world, a, b, group(1)));
    assert_eq!(world[c].received.len(), 1, "not for the others");
    assert!(reaches(&mut world, a, b, frames::BROADCAST));
    assert_eq!(change(&mut world, b, ADD, 1), okay);
    assert!(reaches(&mut world, a, b, group(1)));
    assert!(!reaches(&mut world, a, b, group(2)));
    assert_eq!(change(&mut world, b, REMOVE, 2), okay, "there or not");
    assert_eq!(change(&mut world, b, REMOVE, 1), okay);
    assert!(!reaches(&mut world, a, b, group(1)));
    assert_eq!(world.drops(DropReason::Filtered), 3);
    let others = DropReason::ALL.into_iter().filter(|reason| *reason != DropReason::Filtered);
    assert_eq!(others.map(|reason| world.drops(reason)).sum::<u64>(), 0, "nothing was lost");
    // Its dummies were no packets.
    let (_, counters) = world.network.vifs().last().expect("b");
    assert_eq!((counters.tx.packets, counters.tx.refused, counters.rx.packets), (0, 0, 2));
    world.end();
}

/// The 65th group is an error, and the 64 stay.
#[test]
fn p13_groups_have_a_bound() {
    let (mut world, a, b, _) = world();
    for last in 0..Groups::MAX as u8 {
        assert_eq!(change(&mut world, b, ADD, last), Status::Okay as i16);
    }
    assert_eq!(change(&mut world, b, ADD, 64), Status::Error as i16);
    assert!(reaches(&mut world, a, b, group(0)) && reaches(&mut world, a, b, group(63)));
    assert!(!reaches(&mut world, a, b, group(64)));
    assert_eq!(change(&mut world, b, REMOVE, 0), Status::Okay as i16);
    assert_eq!(change(&mut world, b, ADD, 64), Status::Okay as i16);
    assert!(reaches(&mut world, a, b, group(64)) && !reaches(&mut world, a, b, group(0)));
    world.end();
}

/// The request can come and go while the vif is connected; groups named before it came are
/// as good as others. What is no number changes nothing, and is told once.
#[test]
fn p13_the_request_is_watched() {
    let mut world = World::new();
    let [a, b] = world.connected();
    assert_eq!(change(&mut world, b, ADD, 1), Status::Okay as i16);
    for _ in 0..3 {
        assert!(reaches(&mut world, a, b, group(2)));
        world.set_front_key(b, REQUEST, "1");
        world.settle();
        assert!(reaches(&mut world, a, b, group(1)));
        assert!(!reaches(&mut world, a, b, group(2)));
        for garbage in ["", "x", "-1"] {
            world.set_front_key(b, REQUEST, garbage);
            world.settle();
            assert!(!reaches(&mut world, a, b, group(2)), "{garbage}");
        }
        world.set_front_key(b, REQUEST, "0");
        world.settle();
    }
    assert_eq!(journal(Level::Warn, REQUEST).len(), 1);
    assert!(world.is_connected(b));
    world.end();
}

/// A frontend that connects anew has no groups, as with Linux.
#[test]
fn p13_groups_go_with_the_connection() {
    let (mut world, a, b, _) = world();
    assert_eq!(change(&mut world, b, ADD, 1), Status::Okay as i16);
    assert!(reaches(&mut world, a, b, group(1)));
    world.restart(b);
    assert!(!reaches(&mut world, a, b, group(1)), "still asked for");
    world.end();
}

/// F-3: a change that claims to be a packet of more slots, of a page, or too short. It is a
/// change all the same, and the slot that follows is the next request.
#[test]
fn f3_a_change_is_no_packet_whatever_it_says() {
    let (mut world, a, b, c) = world();
    let next = frames::plain(world[c].mac(), world[b].mac(), 60, 1);
    for (last, (offset, size)) in [(1, (0, 0)), (2, (4000, 60_000)), (3, (0, 13))] {
        let flags = TxFlags::EXTRA_INFO | TxFlags::MORE_DATA;
        let id = world[b].lend(&[1; 4], 0);
        let page = world[b].reference(id);
        let whole = world[b].lend(&next, 0);
        let reference = world[b].reference(whole);
        world[b].push(TxRequest::new(page.0, offset, flags, id, size).into());
        world[b].push(extra(ADD, last).into());
        world[b].expect_nulls(1);
        world[b].push(TxRequest::new(reference.0, 0, TxFlags::empty(), whole, 60).into());
        world[b].kick();
        world.settle();
        let answers = world[b].answers.drain(..).map(|answer| (answer.id, answer.status));
        assert_eq!(answers.collect::<Vec<_>>(), [(id, 0), (whole, 0)]);
        assert_eq!(world[b].unanswered(), 0);
        assert_eq!(world[c].received.pop().expect("the next request").bytes, next);
        assert!(reaches(&mut world, a, b, group(last)));
        world[c].received.clear();
    }
    assert!(world.is_connected(b));
    world.end();
}
