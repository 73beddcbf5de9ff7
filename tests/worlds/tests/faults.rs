//! A hypervisor that fails where that is nobody's attack; `attacks/hypervisor.rs` has the
//! rest.

use std::time::Duration;

use kernel::pages::choice::Mode;
use kernel::switch::Holding;
use worlds::{Level, Manners, Outgoing, STATUSES, World, allocations, frames, journal};
use xen::fake::{Kind, Operation, When};
use xen::netif::Status;

/// The domain's memory is used up: another vif is refused, and nobody else notices.
#[test]
fn no_memory_is_left_for_another_vif() {
    let mut world = World::new();
    let [a, b] = world.connected();
    allocations::set_largest(200 << 10);
    let c = world.attach(2);
    let error = world.error(c).expect("the operator is told");
    assert!(error.contains("memory"), "{error}");
    let frame = world.send(a, b, 1000);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    assert_eq!(world.detach(c), Ok(()));
    allocations::set_largest(usize::MAX);
    let c = world.attach(2);
    assert!(world.is_connected(c), "there is memory again");
    world.end();
}

/// A ring that cannot be unmapped: the vif goes all the same; its frames are out of
/// use for good, and the log says so (O-14, T-12).
#[test]
fn t12_rings_that_cannot_be_unmapped() {
    for status in STATUSES {
        for nth in [1, 2] {
            let mut world = World::new();
            let [a, b, c] = world.connected();
            world.xen.fail(Kind::Unmap, When::Nth(nth), status);
            // The frontend's grants cannot end then: it waits for ever, or forgets.
            world[c].hands_off = true;
            let vif = world[c].vif();
            world.set_front(c, "6");
            world.settle();
            assert_eq!(world.own(c, "state").as_deref(), Some("6"), "{vif:?}");
            world.quarantined = 1;
            world.check_at_rest();
            assert_eq!(journal(Level::Error, "cannot be unmapped").len(), 1);
            assert_eq!(journal(Level::Error, "unmapping a ring").len(), 1);
            let frame = world.send(a, b, 100);
            assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
            world.forget(c);
            world.end();
        }
    }
}

/// A port that cannot be closed.
#[test]
fn ports_that_cannot_be_closed() {
    let mut world = World::new();
    let [a, b, c] = world.connected();
    world.xen.fail(Kind::Close, When::Nth(1), 22);
    assert_eq!(world.detach(c), Ok(()));
    world.lost_ports = 1;
    world.check_at_rest();
    assert_eq!(journal(Level::Error, "closing event channel").len(), 1);
    let frame = world.send(a, b, 100);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    world.end();
}

/// A page that stays away: tried again a few times, and then it is an error.
#[test]
fn pages_that_stay_away_are_given_up() {
    let mut world = World::new();
    let [a, b] = world.connected();
    world.xen.fail(Kind::Copy, When::Every(1), -12);
    let before = world.xen.counts();
    world.send(a, b, 1000);
    assert!((world.xen.counts() - before).copy_calls < 20);
    assert_eq!(world[a].answers[0].status, Status::Error as i16);
    world.xen.clear_faults();
    world.end();
}

/// Copies towards the wire: the packet is lost, its page is answered with an error.
#[test]
fn copies_for_the_wire_fail() {
    let mut world = World::with(Holding::Private, Mode::Auto);
    let a = world.attach(0);
    let outside = [2, 0, 0, 0, 0, 9];
    let payload = |operation: &Operation| matches!(operation, Operation::Copy { len: 872, .. });
    world.xen.fail(Kind::Copy, When::Chosen(Box::new(payload)), -1);
    let frame = frames::plain(outside, world[a].mac(), 1000, 1);
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    assert_eq!(world[a].answers[0].status, Status::Error as i16);
    assert_eq!(world.wire.take_frames().len(), 0);
    world.xen.clear_faults();
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    assert_eq!(world.wire.take_frames(), [frame]);
    world.end();
}

/// Every n-th operation of all kinds fails, while guests come, send and go.
#[test]
fn everything_fails_now_and_then() {
    for every in [2, 3, 5, 7, 11] {
        let mut world = World::new();
        world.xen.fail(Kind::Map, When::Every(every), 7);
        world.xen.fail(Kind::Bind, When::Every(every), 28);
        world.xen.fail(Kind::Copy, When::Every(every), -1);
        for _ in 0..6 {
            let ids = [0, 1, 2].map(|guest| world.attach_with(guest, Manners::default(), &[]));
            let live: Vec<_> = ids.into_iter().filter(|id| world.is_connected(*id)).collect();
            for from in &live {
                for to in &live {
                    world.send(*from, *to, 800);
                }
                assert_eq!(world[*from].unanswered(), 0);
            }
            world.pass(Duration::from_millis(150));
            world.check_at_rest();
            for id in ids {
                assert_eq!(world.detach(id), Ok(()));
            }
            world.check_at_rest();
        }
        world.end();
    }
}
