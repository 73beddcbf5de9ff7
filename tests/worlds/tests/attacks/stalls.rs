//! S-8, S-11: guests that do not receive.

use drivers::netback::data::STALL_TIMEOUT;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::PAGE_SIZE;
use xen::bindings::XS_WRITE;

use crate::harness::{JUMBO, MILLISECOND, Setup, Told};

fn send(world: &mut World, from: Id, to: Id, len: usize) {
    let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
}

fn has_carrier(world: &mut World, id: Id) -> bool {
    world.own(id, "carrier").expect("it says so") == "1"
}

/// A guest that offers so many pages and never another.
fn short(offers: u32) -> Manners {
    Manners { offers, refills: false, ..Manners::default() }
}

/// S-11 (XSA-392): one slot is left and packets of three come without end. What waits is
/// bounded, in pages and in bytes; the stall is one although there is a slot, and ends
/// with the third.
#[test]
fn s_11_one_slot_left_and_a_flood_of_large_packets() {
    let setup = Setup { keys: &[JUMBO], interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("one slot", Told(1), |world, a| {
        world[a].hands_off = false;
        let c = world.attach_with(2, Manners::default(), &[JUMBO]);
        let b = world.attach_with(1, short(1), &[JUMBO]);
        let flood = |world: &mut World| {
            for from in [a, c] {
                let bytes =
                    frames::plain(world[b].mac(), world[from].mac(), 3 * PAGE_SIZE, from as u64);
                let packet = Outgoing::whole(&bytes);
                while world[from].rings.tx.free() >= 3 {
                    world[from].queue(&packet);
                }
                world[from].kick();
            }
            world.settle();
            let lent = world.network.pools().tracker.counters().outstanding();
            assert!(lent <= 2 * 32, "{lent} pages");
        };
        let start = world.now();
        while world.now().since(start) < STALL_TIMEOUT {
            flood(world);
            world.pass(500 * MILLISECOND);
            let since = world.now().since(start);
            assert_eq!(has_carrier(world, b), since < STALL_TIMEOUT, "after {since:?}");
        }
        flood(world);
        assert_eq!(world[a].unanswered() + world[c].unanswered(), 0, "dropped at the door");
        for up in [false, true] {
            world[b].offer(1);
            world.settle();
            assert_eq!(has_carrier(world, b), up);
        }
        send(world, a, b, 3 * PAGE_SIZE);
        assert_eq!(world[b].received.len(), 1);
    });
}

/// S-8: a guest that stalls and recovers as often as it can: each change is written
/// once, and told in the log once.
#[test]
fn s_08_a_carrier_that_flaps_is_written_once_a_change() {
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("flapping", Told(21), |world, a| {
        world[a].hands_off = false;
        let b = world.attach_with(1, short(0), &[]);
        send(world, a, b, 1000);
        world.pass(STALL_TIMEOUT);
        assert!(!has_carrier(world, b));
        let writes = |world: &World| world.store.served[&XS_WRITE];
        let lines = || journal(Level::Info, "carrier").len();
        let (before, told) = (writes(world), lines());
        for _ in 0..20 {
            for _ in 0..10 {
                world[b].offer(1);
                world.settle();
                send(world, a, b, 100);
            }
            assert!(has_carrier(world, b));
            send(world, a, b, 100);
            world.pass(STALL_TIMEOUT);
            assert!(!has_carrier(world, b));
        }
        assert_eq!(writes(world) - before, 40);
        assert_eq!(lines() - told, 40);
    });
}
