//! F-12, F-13, S-8: guests that go at any moment, and come back.

use std::time::Duration;

use worlds::trials::soaks;
use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};
use xen::ring::TX_RING_SIZE;

use crate::harness::{EVIL, MILLISECOND, Place, SECOND, Setup, Told};

fn send(world: &mut World, from: Id, to: Id, len: usize) {
    let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame));
}

/// F-13: as often as one likes, with packets on their way each time. With `SOAK=1` ten
/// times as often.
#[test]
fn f_13_a_thousand_lives() {
    let setup = Setup { interval: 20 * SECOND, ..Setup::default() };
    setup.attack("lives", Told(0), |world, a| {
        world[a].hands_off = false;
        for n in 0..if soaks() { 10_000 } else { 1000 } {
            let b = world.attach(1);
            assert!(world.is_connected(b), "{n}: {:?}", world.error(b));
            world[a].received.clear();
            send(world, a, b, 1000);
            send(world, b, a, 1000);
            if n % 2 == 0 {
                world.settle();
                assert_eq!((world[a].received.len(), world[b].received.len()), (1, 1));
            }
            match n % 4 {
                0 | 1 => assert_eq!(world.detach(b), Ok(()), "{n}"),
                2 => assert_eq!(world.destroy(b), Ok(()), "{n}"),
                _ => assert_eq!(world.kill(b), Ok(()), "{n}"),
            }
            assert_eq!(world[a].unanswered(), 0, "{n}");
            world.check_at_rest();
        }
    });
}

/// X-8, S-8 (XSA-350): the same vif over and over, without the toolstack, with packets on
/// their way.
#[test]
fn s_08_a_hundred_restarts() {
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("restarts", Told(0), |world, b| {
        world[b].hands_off = false;
        world.settle();
        let a = world.attach(1);
        for n in 0..100 {
            send(world, a, b, 1000);
            if n % 3 != 0 {
                world.settle();
            }
            world.restart(b);
            assert!(world.is_connected(b), "{n}: {:?}", world.error(b));
            world[b].received.clear();
            send(world, a, b, 500);
            world.settle();
            assert_eq!(world[b].received.len(), 1, "{n}");
            world.check_at_rest();
        }
    });
}

/// F-12: a guest dies in every state its vif can be in.
#[test]
fn f_12_guests_die_at_any_time() {
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    // Of those who die while they are being connected.
    setup.attack("deaths", Told(4), |world, a| {
        world[a].hands_off = false;
        for rounds in 0..60 {
            let b = world.add(1, Manners::default(), &[]);
            world.rounds(rounds);
            if world.is_connected(b) {
                send(world, a, b, 1000);
                send(world, b, a, 1000);
                world.step();
            }
            assert_eq!(world.kill(b), Ok(()), "{rounds}");
            world.check_at_rest();
            let b = world.attach(1);
            assert!(world.is_connected(b), "{rounds}");
            assert_eq!(world.detach(b), Ok(()));
        }
    });
}

/// F-12: a guest goes with none, one, or all of the slots of its ring in flight, since
/// those it sends to do not receive: it dies, is destroyed, or is taken its vif.
#[test]
fn f_12_a_guest_goes_with_its_ring_in_flight() {
    for pages in [0, 1, TX_RING_SIZE as usize] {
        let ways: [fn(&mut World, Id) -> _; 3] = [World::kill, World::destroy, World::detach];
        for way in ways {
            let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
            setup.attack(&format!("{pages} in flight"), Told(0), |world, a| {
                world[a].hands_off = false;
                world.settle();
                let short = Manners { offers: 0, ..Manners::default() };
                let others =
                    [1, 2, 1, 2, 1, 2, 1, 2].map(|n| world.attach_with(n, short.clone(), &[]));
                let claimed = world.network.pools().tracker.counters().claimed;
                for n in 0..pages {
                    send(world, a, others[n % others.len()], 1000);
                    world.settle();
                }
                let counters = world.network.pools().tracker.counters();
                assert_eq!(counters.outstanding(), pages as u64);
                assert_eq!(counters.claimed - claimed, pages as u64);
                let before = world.now();
                assert_eq!(way(world, a), Ok(()));
                assert!(world.now().since(before) < Duration::from_secs(2), "{pages} pages");
                assert_eq!(world.network.pools().tracker.counters().outstanding(), 0);
            });
        }
    }
}

/// F-12, T-6: the same with as many pages at the NIC as it may have. They pin the guest,
/// which goes for good when the device is done with them.
#[test]
fn f_12_a_guest_dies_with_its_pages_at_the_nic() {
    let setup = Setup { place: Place::Mapping, ..Setup::default() };
    setup.attack("pages at the NIC", Told(0), |world, a| {
        world[a].hands_off = false;
        world.wire.hold(256);
        for _ in 0..60 {
            let frame = frames::plain(OUTSIDE, world[a].mac(), 1000, 1);
            world[a].send(&Outgoing::whole(&frame));
            world.settle();
        }
        let mapped = world.network.pools().tracker.counters().mapped;
        assert!(mapped >= 25, "{mapped}");
        world.die(a);
        world.settle();
        assert_eq!(world.xen.audit().zombies, [world[EVIL].vif().frontend]);
        while world.wire.complete() {}
        world.wire.set_room(usize::MAX);
        assert_eq!(world.bury(a), Ok(()));
        assert_eq!(world.network.pools().tracker.counters().mapped, 0);
    });
}
