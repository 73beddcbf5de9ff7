//! S-9, S-17: a hypervisor that fails, operation by operation, with statuses that are none
//! of its own.

use std::time::Duration;

use drivers::netback::data::{AttachError, Vif};
use drivers::netback::{Frontend, Options, QueueKeys, QueueRings, RemotePorts};
use kernel::packet::flow;
use kernel::pages::choice::Mode;
use worlds::{GUESTS, Id, Outgoing, STATUSES, US, World, frames, pools};
use xen::event::RemotePort;
use xen::fake::{FakeXen, Grant, Kind, Operation, When};
use xen::netif::Status;

use crate::harness::{Counted, Harmless, MILLISECOND, Setup, Told, attack, counters};

/// S-9, S-17: each of the operations of a connection fails in turn; nothing is left, and
/// the next attempt succeeds.
#[test]
fn s_09_s_17_each_step_of_connecting_fails_in_turn() {
    let cases = [
        (Kind::Map, 1, "mapping tx-ring-ref"),
        (Kind::Map, 2, "mapping rx-ring-ref"),
        (Kind::Bind, 1, "binding event-channel"),
    ];
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("connecting", Told(cases.len() * STATUSES.len()), |world, a| {
        world[a].hands_off = false;
        world.settle();
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
                let frame = world.send(a, c, 100);
                assert_eq!(world[c].received.pop().expect("it arrives").bytes, frame);
                assert_eq!(world.detach(c), Ok(()));
            }
        }
    });
}

/// S-9: there is no handle and no port left.
#[test]
fn s_09_nothing_is_left_to_connect_with() {
    type Limit = fn(&World);
    let limits: [(Limit, &str); 3] = [
        (|world| world.xen.set_mapping_limit(6), "mapping tx-ring-ref: out of mapping handles"),
        (|world| world.xen.set_mapping_limit(7), "mapping rx-ring-ref: out of mapping handles"),
        (|world| world.xen.set_port_limit(3), "binding event-channel"),
    ];
    attack("limits", Told(limits.len()), |world, _| {
        for (limit, words) in limits {
            limit(world);
            let c = world.attach(2);
            let error = world.error(c).expect("an error");
            assert!(error.contains(words), "{error}");
            world.check_at_rest();
            assert_eq!(world.detach(c), Ok(()));
            world.xen.set_mapping_limit(1000);
            world.xen.set_port_limit(1000);
        }
    });
}

/// An attempt that failed leaves no record of pages that were never lent: the next
/// one gets its place.
#[test]
fn s_09_failed_attempts_leave_no_shard() {
    let xen = FakeXen::new(US);
    let guest = xen.create_domain(GUESTS[0]);
    let mut pools = pools(&xen, Mode::Auto);
    let first = pools.tracker.open(GUESTS[0], 1).expect("a first");
    let second = pools.tracker.open(GUESTS[0], 1).expect("a second");
    pools.tracker.close(first);
    let ring = || guest.grant(guest.add_page(), Grant::Writable);
    let keys = &QueueKeys::of(1)[0];
    let ports = RemotePorts::Shared(RemotePort(99));
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
        options: Options::default(),
    };
    let seed = flow::Seed::new([1, 2]);
    let result = Vif::attach(xen.clone(), GUESTS[0], &frontend, seed, &mut pools);
    assert!(matches!(result, Err(AttachError::Bind("event-channel", _))));
    assert!(pools.tracker.open(GUESTS[0], 1).expect("one") < second, "the first's place");
    assert!(xen.audit().is_clean());
}

/// S-9, S-17: every copy of a packet's way fails in turn: its headers, or its delivery. The
/// next one arrives.
#[test]
fn s_09_s_17_each_copy_fails_in_turn() {
    attack("copies", Counted, |world, a| {
        world[a].hands_off = false;
        let b = world.attach(1);
        world.settle();
        world[a].answers.clear();
        for status in STATUSES {
            for nth in 1..=3 {
                world.xen.fail(Kind::Copy, When::Nth(nth), status);
                world.send(a, b, 1000);
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
                let frame = world.send(a, b, 1000);
                assert_eq!(world[b].received.pop().expect("it arrives").bytes, frame);
            }
        }
    });
}

/// S-17 (XSA-380, XSA-394): a guest's grants answer now this and now that, amid the copies of
/// others in the same batch. What cannot be read is an error of its slot, whatever the
/// number says; no status is taken for success but success.
#[test]
fn s_17_a_grant_flips_while_it_is_copied() {
    for status in STATUSES {
        // What is tried again is good in the end.
        let lasts = status != -12;
        let outcome = if lasts { Counted } else { Harmless };
        attack(&format!("status {status}"), outcome, |world, evil| {
            world[evil].hands_off = false;
            let to = world.attach(1);
            world.settle();
            let domain = world[evil].vif().frontend;
            let mut seen = 0;
            let flips = When::Chosen(Box::new(move |operation| {
                let Operation::Copy { from: Some((from, _)), .. } = operation else { return false };
                seen += usize::from(*from == domain);
                *from == domain && seen % 3 != 0
            }));
            world.xen.fail(Kind::Copy, flips, status);
            let before = counters(world).tx;
            let frame = frames::plain(world[to].mac(), world[evil].mac(), 150, 1);
            let ids: Vec<_> =
                (0..64).flat_map(|_| world[evil].queue(&Outgoing::whole(&frame))).collect();
            world[evil].kick();
            world.settle();
            world.xen.clear_faults();
            let now = counters(world).tx;
            let lost = now.unreadable - before.unreadable;
            let okay = world[evil].answers.iter().filter(|answer| answer.status == 0).count();
            assert_eq!(world[to].received.len() as u64 + lost, ids.len() as u64);
            assert_eq!(okay as u64 + lost, ids.len() as u64, "each has its own answer");
            assert_eq!(lost > 0, lasts);
            assert!(world[to].received.iter().all(|packet| packet.bytes == frame));
        });
    }
}

/// S-9: events are lost on their way to a guest. It alone can notice, and it has all with
/// the next event, whichever of its rings that is for.
#[test]
fn s_09_a_lost_event_is_missed_by_its_guest_alone() {
    attack("lost events", Harmless, |world, b| {
        world[b].hands_off = false;
        world.settle();
        world[b].received.clear();
        let a = world.attach(1);
        let audit = world.xen.audit();
        let lost = Operation::Notify { port: audit.of(world[b].vif().frontend).1[0].port };
        let chosen = When::Chosen(Box::new(move |operation| *operation == lost));
        world.xen.fail(Kind::Notify, chosen, 1);
        let mut frames = Vec::new();
        for n in 0..20 {
            frames.push(world.send(a, b, 100 + n));
            assert_eq!(world[a].unanswered(), 0);
            world.pass(10 * MILLISECOND);
        }
        assert_eq!((world[b].received.len(), world.xen.counts().faults), (0, 1), "told once (P-4)");
        world.xen.clear_faults();
        world.send(b, a, 200);
        assert_eq!(world[b].unanswered(), 0);
        let mac = world[a].mac();
        let received = world[b].received.iter().map(|packet| &packet.bytes);
        let received: Vec<_> = received.filter(|bytes| bytes[6..12] == mac).collect();
        assert_eq!(received, frames.iter().collect::<Vec<_>>());
    });
}

/// S-9: every second event is lost, to whomever it is. Guests that look at their rings now
/// and then miss nothing, and the domain does not wait for any of them.
#[test]
fn s_09_every_second_event_is_lost() {
    let mut world = World::new();
    let ids: [Id; 3] = world.connected();
    world.xen.fail(Kind::Notify, When::Every(2), 1);
    let rounds = 200;
    for _ in 0..rounds {
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0)] {
            world.send(ids[from], ids[to], 1000);
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
