//! A hypervisor that fails, operation by operation (S-9), with statuses that are
//! none of its own (S-17).

use std::time::Duration;

use drivers::netback::data::{AttachError, Vif};
use drivers::netback::{Frontend, QueueKeys, QueueRings, RemotePorts};
use kernel::packet::flow;
use kernel::pages::choice::Mode;
use kernel::switch::Holding;
use worlds::{
    GUESTS, Id, Level, Manners, Outgoing, US, World, allocations, frames, journal, pools,
};
use xen::event::RemotePort;
use xen::fake::{FakeXen, Grant, Kind, Operation, When};
use xen::netif::Status;

/// Grant statuses: refusals, one that is worth another try, and positive ones that
/// mean nothing (XSA-316).
const STATUSES: [i16; 6] = [-1, -3, -12, 1, 2, i16::MAX];

fn send(world: &mut World, from: Id, to: Id, len: usize) -> Vec<u8> {
    let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
    frame
}

/// The n-th operation, and the same again for as often as it is tried (H-5).
fn nth_and_its_retries(nth: usize) -> When {
    let mut seen = Vec::new();
    When::Chosen(Box::new(move |operation| {
        if seen.last() != Some(operation) {
            seen.push(*operation);
        }
        seen.len() == nth
    }))
}

/// S-9: each of the operations of a connection fails in turn; nothing is left, and
/// the next attempt succeeds.
#[test]
fn s9_each_step_of_connecting_fails_in_turn() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let cases = [
        (Kind::Map, 1, "mapping tx-ring-ref"),
        (Kind::Map, 2, "mapping rx-ring-ref"),
        (Kind::Bind, 1, "binding event-channel"),
    ];
    for (kind, nth, words) in cases {
        for status in STATUSES {
            world.xen.fail(kind, nth_and_its_retries(nth), status);
            let c = world.attach(2);
            let error = world.error(c).unwrap_or_else(|| panic!("{words}, {status}: no error"));
            assert!(error.contains(words), "{error}");
            assert_eq!(world.own(c, "state").as_deref(), Some("6"), "{words}, {status}");
            world.check_at_rest();
            world.xen.clear_faults();
            assert_eq!(world.detach(c), Ok(()));
            let c = world.attach(2);
            assert!(world.is_connected(c), "{words}, {status}: the next one");
            let frame = send(&mut world, a, c, 100);
            assert_eq!(world[c].received.pop().expect("it arrives").bytes, frame);
            assert_eq!(world.detach(c), Ok(()));
        }
    }
    let frame = send(&mut world, a, b, 100);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    world.end();
}

/// The domain's memory is used up: another vif is refused, and nobody else notices.
#[test]
fn no_memory_is_left_for_another_vif() {
    let mut world = World::new();
    let [a, b] = world.connected();
    allocations::set_largest(200 << 10);
    let c = world.attach(2);
    let error = world.error(c).expect("the operator is told");
    assert!(error.contains("memory"), "{error}");
    let frame = send(&mut world, a, b, 1000);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    assert_eq!(world.detach(c), Ok(()));
    allocations::set_largest(usize::MAX);
    let c = world.attach(2);
    assert!(world.is_connected(c), "there is memory again");
    world.end();
}

/// There is no frame, no handle, no port left.
#[test]
fn s9_nothing_is_left_to_connect_with() {
    let mut world = World::new();
    let [_, _] = world.connected();
    type Limit = fn(&World);
    let limits: [(Limit, &str); 3] = [
        (|world| world.xen.set_mapping_limit(4), "mapping tx-ring-ref: out of mapping handles"),
        (|world| world.xen.set_mapping_limit(5), "mapping rx-ring-ref: out of mapping handles"),
        (|world| world.xen.set_port_limit(2), "binding event-channel"),
    ];
    for (limit, words) in limits {
        limit(&world);
        let c = world.attach(2);
        let error = world.error(c).expect("an error");
        assert!(error.contains(words), "{error}");
        world.check_at_rest();
        assert_eq!(world.detach(c), Ok(()));
        world.xen.set_mapping_limit(1000);
        world.xen.set_port_limit(1000);
    }
    world.end();
}

/// An attempt that failed leaves no record of pages that were never lent: the next
/// one gets its place.
#[test]
fn s9_failed_attempts_leave_no_shard() {
    let xen = FakeXen::new(US);
    let guest = xen.create_domain(GUESTS[0]);
    let mut pools = pools(&xen, Mode::Auto);
    let first = pools.tracker.open(GUESTS[0], 1).expect("a first");
    let second = pools.tracker.open(GUESTS[0], 1).expect("a second");
    pools.tracker.close(first);
    let ring = || guest.grant(guest.add_page(), Grant::Writable);
    let ports = RemotePorts::Shared(RemotePort(99));
    let keys = &QueueKeys::of(1)[0];
    let queue = QueueRings { keys, tx_ring: ring(), rx_ring: ring(), ports };
    let frontend = Frontend {
        queues: [queue].into_iter().collect(),
        control: None,
        rx_notify: true,
        scatter_gather: true,
        ipv4_checksum: true,
        ipv6_checksum: true,
        gso_v4: false,
        gso_v6: false,
        options: drivers::netback::Options::default(),
    };
    let seed = flow::Seed::new([1, 2]);
    let result = Vif::attach(xen.clone(), GUESTS[0], &frontend, seed, &mut pools);
    assert!(matches!(result, Err(AttachError::Bind("event-channel", _))));
    assert!(pools.tracker.open(GUESTS[0], 1).expect("one") < second, "the first's place");
    assert!(xen.audit().is_clean());
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
            let frame = send(&mut world, a, b, 100);
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
    let frame = send(&mut world, a, b, 100);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    world.end();
}

/// Every copy of a packet's way fails in turn: its headers, or its delivery. The
/// next one arrives.
#[test]
fn s9_each_copy_fails_in_turn() {
    let mut world = World::new();
    let [a, b] = world.connected();
    for status in STATUSES {
        for nth in 1..=3 {
            world.xen.fail(Kind::Copy, When::Nth(nth), status);
            send(&mut world, a, b, 1000);
            let answer = world[a].answers.pop().expect("an answer");
            let received = world[b].received.pop();
            match (nth, status) {
                // Tried again, and good.
                (_, -12) => assert_eq!(received.expect("it arrives").failed, 0),
                (1, _) => assert_eq!((answer.status, received), (Status::Error as i16, None)),
                _ => assert_eq!(received.expect("an error").failed, 1),
            }
            world.check_at_rest();
            world.xen.clear_faults();
            let frame = send(&mut world, a, b, 1000);
            assert_eq!(world[b].received.pop().expect("it arrives").bytes, frame);
        }
    }
    world.end();
}

/// A page that stays away: tried again a few times, and then it is an error.
#[test]
fn pages_that_stay_away_are_given_up() {
    let mut world = World::new();
    let [a, b] = world.connected();
    world.xen.fail(Kind::Copy, When::Every(1), -12);
    let before = world.xen.counts();
    send(&mut world, a, b, 1000);
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

/// S-9: events are lost on their way to a guest. It alone can notice, and it has all with
/// the next event, whichever of its rings that is for.
#[test]
fn s9_a_lost_event_is_missed_by_its_guest_alone() {
    let mut world = World::new();
    let [a, b, c] = world.connected();
    let audit = world.xen.audit();
    let lost = Operation::Notify { port: audit.of(world[b].vif().frontend).1[0].port };
    let chosen = When::Chosen(Box::new(move |operation| *operation == lost));
    world.xen.fail(Kind::Notify, chosen, 1);
    let mut frames = Vec::new();
    for n in 0..20 {
        frames.push(send(&mut world, a, b, 100 + n));
        for (from, to) in [(a, c), (c, a)] {
            send(&mut world, from, to, 1000);
            assert_eq!(world[to].received.pop().expect("the others go on").at, world.now());
        }
        assert_eq!(world[a].unanswered() + world[c].unanswered(), 0);
        world.pass(Duration::from_millis(10));
    }
    assert_eq!((world[b].received.len(), world.xen.counts().faults), (0, 1), "told once (P-4)");
    world.xen.clear_faults();
    send(&mut world, b, a, 200);
    assert_eq!(world[b].unanswered(), 0);
    let received: Vec<_> = world[b].received.iter().map(|packet| &packet.bytes).collect();
    assert_eq!(received, frames.iter().collect::<Vec<_>>());
    world.end();
}

/// S-9: every second event is lost, to whomever it is. Guests that look at their rings now
/// and then miss nothing, and the domain does not wait for any of them.
#[test]
fn s9_every_second_event_is_lost() {
    let mut world = World::new();
    let ids: [Id; 3] = world.connected();
    world.xen.fail(Kind::Notify, When::Every(2), 1);
    let rounds = 200;
    for _ in 0..rounds {
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0)] {
            send(&mut world, ids[from], ids[to], 1000);
        }
        world.pass(Duration::from_millis(10));
        let now = world.now();
        ids.iter().for_each(|id| world[*id].service(now));
        world.check_at_rest();
    }
    assert!(world.xen.counts().faults > rounds);
    let received = ids.map(|id| (world[id].received.len() as u64, world[id].unanswered()));
    assert_eq!(received, [(2 * rounds, 0), (rounds, 0), (rounds, 0)]);
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
                    send(&mut world, *from, *to, 800);
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
