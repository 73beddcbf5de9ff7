//! The cable is pulled and plugged in.

use drivers::nic::Link;
use kernel::switch::DropReason;
use worlds::{Level, Outgoing, Uplink, journal};

use crate::{
    Dice, MILLISECOND, OUTSIDE, SECOND, check_between, check_wire, frame, mapped, mapping, send,
    statistics,
};

/// The link goes with pages in the ring: they are home with the next survey, none of
/// their packets is sent when the link is back, and everything that comes then is.
#[test]
fn o10_a_link_that_goes_with_pages_in_the_ring() {
    let mut world = mapping();
    let [a, b] = world.connected();
    for round in 1..=5 {
        world.wire.pause();
        for len in 900..905 {
            send(&mut world, a, OUTSIDE, len);
        }
        assert_eq!(mapped(&world), 5);
        world.wire.device.set_link(false);
        world.wire.device.faults.stalled.set(false);
        world.wire.device.kick();
        world.settle();
        assert_eq!(world.network.uplink().expect("a card").1, Link::Down, "told at once");
        send(&mut world, b, OUTSIDE, 1000);
        assert_eq!(world[b].unanswered(), 0, "for nobody");
        world.pass(1100 * MILLISECOND);
        assert_eq!((mapped(&world), world[a].unanswered()), (0, 0));
        check_between(&mut world, a, b, 1000);
        // Once: there is nothing more to flush.
        world.pass(5 * SECOND);
        assert_eq!((statistics(&world).flushes, statistics(&world).stalls), (round, 0));
        world.wire.device.set_link(true);
        world.settle();
        assert!(world.wire.take_frames().is_empty(), "what was given back is not sent");
        check_wire(&mut world, a);
        check_wire(&mut world, b);
    }
    assert_eq!(world.drops(DropReason::NoCarrier), 5);
    assert_eq!(journal(Level::Info, "link down").len(), 5);
    world.end();
}

/// The link comes and goes in the middle of traffic, noticed or not; whatever was lost,
/// all pages are home and the path is there afterwards.
#[test]
fn a_link_that_flaps_amid_traffic() {
    for seed in 1..=4 {
        let mut dice = Dice::new(seed);
        let mut world = mapping();
        let [a, b] = world.connected();
        for _ in 0..150 {
            for id in [a, b] {
                for _ in 0..dice.roll(4) {
                    let frame = frame(&world, id, OUTSIDE, 60 + dice.roll(1400));
                    if world[id].rings.tx.free() > 0 {
                        world[id].queue(&Outgoing::whole(&frame));
                    }
                }
                world[id].kick();
            }
            let device = &world.wire.device;
            match dice.roll(6) {
                0 => device.set_link(false),
                1 | 2 => device.set_link(true),
                3 => device.faults.stalled.set(true),
                4 => {
                    device.faults.stalled.set(false);
                    device.kick();
                }
                _ => {}
            }
            check_between(&mut world, a, b, 1000);
            world.pass(dice.roll(600) as u32 * MILLISECOND);
        }
        world.wire.device.faults.stalled.set(false);
        world.wire.device.set_link(true);
        world.pass(4 * SECOND);
        assert!(statistics(&world).flushes > 0);
        assert_eq!(world[a].unanswered() + world[b].unanswered(), 0);
        world.check_at_rest();
        check_wire(&mut world, a);
        check_wire(&mut world, b);
        world.end();
    }
}
