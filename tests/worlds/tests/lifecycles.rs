//! Vifs that come and go.

use std::time::Duration;

use drivers::netback::{Progress, Urgency, VifHost, VifId};
use worlds::{Id, Manners, Outgoing, World, frames};
use xen::fake::{Grant, Kind, Operation, When};
use xen::hypercall::Shutdown;
use xen::netif::{TxFlags, TxRequest};

const MILLISECOND: Duration = Duration::from_millis(1);

fn send(world: &mut World, from: Id, to: Id, len: usize) {
    let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame));
}

/// Packets of a guest wait in another's queue; where it stands with them when it goes.
fn with_packets_in_the_queue(way: impl Fn(&mut World, Id)) {
    let mut world = World::new();
    let [a, c] = world.connected();
    let b = world.attach_with(2, Manners { offers: 0, ..Manners::default() }, &[]);
    for n in 0..20 {
        send(&mut world, a, b, 1000 + n);
    }
    // And the other way round: others' packets wait for the one that goes.
    let mine = world[a].rings.rx.free();
    assert_eq!(mine, 0);
    world.settle();
    assert_eq!(world[a].unanswered(), 20);
    way(&mut world, a);
    assert_eq!(world[a].received, []);
    world[b].offer(64);
    world.settle();
    world.check_at_rest();
    send(&mut world, c, b, 300);
    world.settle();
    assert_eq!(world[b].received.pop().expect("others go on").bytes.len(), 300);
    world.end();
}

/// T-6, O-12: it waits no longer than its pages are out, which is 100 ms, and not
/// until the toolstack loses its patience.
#[test]
fn t6_a_sender_is_detached_while_its_packets_wait() {
    with_packets_in_the_queue(|world, a| {
        let before = world.now();
        assert_eq!(world.detach(a), Ok(()));
        let after = world.now().since(before);
        assert!(after < Duration::from_secs(2), "{after:?}, most of it to be seen closed");
    });
}

#[test]
fn t6_a_sender_closes_while_its_packets_wait() {
    with_packets_in_the_queue(|world, a| {
        let before = world.now();
        world.set_front(a, "5");
        world.pass(MILLISECOND);
        assert_eq!(world.own(a, "state").as_deref(), Some("4"), "its pages are looked at");
        world.pass(100 * MILLISECOND);
        assert_eq!(world.own(a, "state").as_deref(), Some("6"));
        assert!(world.now().since(before) < Duration::from_secs(1));
    });
}

#[test]
fn t6_a_sender_is_destroyed_while_its_packets_wait() {
    with_packets_in_the_queue(|world, a| assert_eq!(world.destroy(a), Ok(())));
    with_packets_in_the_queue(|world, a| assert_eq!(world.kill(a), Ok(())));
}

/// O-12: nothing is taken in any more once a vif is taken apart.
#[test]
fn o12_intake_stops_first() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
    send(&mut world, a, b, 1000);
    world.settle();
    world.set_front(a, "5");
    world.settle();
    let taken = world.network.pools().tracker.counters().claimed;
    for _ in 0..200 {
        send(&mut world, a, b, 1000);
    }
    world.pass(MILLISECOND);
    assert_eq!(world.network.pools().tracker.counters().claimed, taken);
    world.pass(200 * MILLISECOND);
    assert_eq!(world.own(a, "state").as_deref(), Some("6"));
    assert_eq!(world.detach(a), Ok(()));
    world.end();
}

/// T-7: what waits for a guest that goes is dropped, and its pages go home at once.
#[test]
fn t7_a_receiver_goes_while_packets_wait_for_it() {
    for way in 0..3 {
        let mut world = World::new();
        let a = world.attach(0);
        let b = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
        for _ in 0..20 {
            send(&mut world, a, b, 1000);
        }
        world.settle();
        assert_eq!(world[a].unanswered(), 20);
        match way {
            0 => {
                world.set_front(b, "6");
                world.settle();
            }
            1 => assert_eq!(world.destroy(b), Ok(())),
            _ => assert_eq!(world.kill(b), Ok(())),
        }
        assert_eq!(world[a].unanswered(), 0);
        world.check_at_rest();
        world.end();
    }
}

/// T-11, O-13: the guest starts again while its old pages are out. Nothing of the
/// old rings is answered in the new ones, and no grant of the old life is looked at
/// in the new one.
#[test]
fn t11_a_sender_restarts_while_its_packets_wait() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
    for n in 0..20 {
        send(&mut world, a, b, 1000 + n);
    }
    world.settle();
    let copies = world.record(Kind::Copy);
    world.restart(a);
    assert!(world.is_connected(a));
    assert_eq!(world[a].answers, []);
    world[b].offer(64);
    world.pass(200 * MILLISECOND);
    let of_a = |operation: &&Operation| {
        let guest = world[a].vif().frontend;
        matches!(operation, Operation::Copy { from: Some((from, _)), .. } if *from == guest)
    };
    assert_eq!(copies.borrow().iter().find(of_a), None);
    assert_eq!(world[a].answers, []);
    send(&mut world, a, b, 700);
    world.settle();
    assert_eq!(world[b].received.len(), 1);
    assert_eq!((world[a].answers.len(), world[a].unanswered()), (1, 0));
    world.xen.clear_faults();
    world.end();
}

/// Several vifs of one guest are as if of several.
#[test]
fn a_guest_with_several_vifs() {
    let mut world = World::new();
    let [a, b, c] = [0, 0, 0].map(|guest| world.attach(guest));
    for (from, to) in [(a, b), (b, c), (c, a)] {
        send(&mut world, from, to, 900);
        world.settle();
        assert_eq!(world[to].received.pop().expect("it arrives").bytes.len(), 900);
    }
    assert_eq!(world.detach(b), Ok(()));
    send(&mut world, a, c, 900);
    world.settle();
    assert_eq!(world[c].received.len(), 1);
    world.end();
}

/// What a frontend sent before we listened is not lost.
#[test]
fn requests_from_before_the_connection() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.add(1, Manners::default(), &[]);
    send(&mut world, b, a, 600);
    world.settle();
    assert_eq!(world[a].received.len(), 1);
    assert_eq!(world[b].unanswered(), 0);
    world.end();
}

/// A vif that is taken apart while its guest goes on sending and nobody takes what it
/// sent: the end is forced before the toolstack gives up (L-3).
#[test]
fn t15_a_detach_under_traffic() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let guest = world[a].guest.clone();
    let gref = guest.grant(guest.add_page(), Grant::ReadOnly);
    // Whatever is copied, the guest sends more.
    let (port, page) = (world[a].rings.port, guest.page(world[a].rings.tx_page.0));
    let mut slots = 0;
    while world[a].rings.tx.free() > 0 {
        slots += 1;
        world[a].push(TxRequest::new(gref.0, 0, TxFlags::empty(), slots, 100).into());
    }
    world[a].hands_off = true;
    let start = page.load(0);
    world.xen.fail(
        Kind::Copy,
        When::Chosen(Box::new(move |_| {
            // Behind the responses, as they come.
            page.store(0, page.load(8).wrapping_add(256));
            false
        })),
        1,
    );
    world[a].kick();
    guest.notify(port);
    world.rounds(50);
    let sent = world.network.vifs().next().expect("the first").1.tx.packets;
    assert!(sent > 256, "{sent} from {start:#x}");
    assert_eq!(world.detach(a), Ok(()));
    world.xen.clear_faults();
    world[b].received.clear();
    world.end();
}

/// O-13: an end by force does not wait for pages that are out. They come back later
/// and are counted, and no more.
#[test]
fn o13_pages_that_come_back_late() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
    for _ in 0..5 {
        send(&mut world, a, b, 1000);
    }
    world.settle();
    let id = VifId { frontend: world[a].vif().frontend, handle: world[a].vif().devid };
    let now = world.now();
    assert_eq!(world.network.disconnect(id, Urgency::Patient, now), Progress::Pending);
    assert_eq!(world.network.disconnect(id, Urgency::Forced, now), Progress::Finished);
    assert_eq!(world.network.disconnect(id, Urgency::Patient, now), Progress::Finished);
    assert_eq!(world.xen.audit().of(id.frontend), (vec![], vec![]));
    let counters = world.network.pools().tracker.counters();
    assert_eq!((counters.outstanding(), counters.abandoned), (5, 0));
    // What comes into its place is not it.
    let c = world.attach(2);
    assert_eq!(world.network.disconnect(id, Urgency::Forced, now), Progress::Finished);
    send(&mut world, c, c, 100);
    world.settle();
    assert_eq!(world[c].unanswered(), 0, "still served");
    world.pass(100 * MILLISECOND);
    let counters = world.network.pools().tracker.counters();
    assert_eq!((counters.outstanding(), counters.abandoned), (0, 5));
    assert_eq!((world[a].answers.len(), world[a].unanswered()), (0, 5));
    assert_eq!(world.detach(a), Ok(()));
    world.end();
}

/// A fault that nobody was told of yet goes with the vif: the next one under its name
/// did nothing.
#[test]
fn faults_go_with_their_vif() {
    let mut world = World::new();
    let a = world.attach(0);
    world[a].hands_off = true;
    world[a].push(TxRequest::new(1, 4095, TxFlags::empty(), 1, 100).into());
    world[a].kick();
    assert!(world.step());
    let id = VifId { frontend: world[a].vif().frontend, handle: world[a].vif().devid };
    let now = world.now();
    assert_eq!(world.network.disconnect(id, Urgency::Forced, now), Progress::Finished);
    assert_eq!(world.network.next_carrier(), None);
    world.settle();
    assert_eq!(world.error(a), None);
    world.end();
}

/// H-15: the domain ends with nothing of its guests' in its hands.
#[test]
fn h15_a_shutdown_under_traffic() {
    for (wish, reason) in [("poweroff", Shutdown::PowerOff), ("reboot", Shutdown::Reboot)] {
        let mut world = World::new();
        let [a, b] = world.connected();
        let c = world.attach_with(2, Manners { offers: 0, ..Manners::default() }, &[]);
        for to in [b, c] {
            for _ in 0..20 {
                send(&mut world, a, to, 1000);
            }
        }
        assert_eq!(world.shut_down(wish), reason);
    }
}

/// O-12: what the guest lent is unmapped before its rings, and those before its event
/// channel is closed.
#[test]
fn o12_the_event_channel_is_closed_last() {
    let mut world = World::mapping();
    let a = world.attach(0);
    world.wire.hold(64);
    let frame = frames::plain([2, 0, 0, 0, 0, 0x77], world[a].mac(), 1400, 1);
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    let order = world.record_order(&[Kind::Unmap, Kind::Close]);
    world.set_front(a, "6");
    world.settle();
    assert!(order.borrow().is_empty(), "the device has a page");
    world.wire.complete();
    world.settle();
    assert_eq!(*order.borrow(), [Kind::Unmap, Kind::Unmap, Kind::Unmap, Kind::Close]);
    world.end();
}
