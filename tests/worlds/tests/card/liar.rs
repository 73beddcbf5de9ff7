//! A device that writes back what is not true.

use drivers::fake::{OTHER, QUEUES};
use worlds::{Level, Outgoing, Uplink, frames, journal};

use crate::{
    CardWorld, Dice, MILLISECOND, OUTSIDE, SECOND, check_between, check_wire, frame, mapping, send,
    statistics,
};

/// How many seeds are tried.
const SEEDS: u64 = 30;

fn lie(world: &CardWorld, dice: &mut Dice) {
    let device = &world.wire.device;
    match dice.roll(13) {
        // A frame that nobody sent: of any length, with any status, or in pieces.
        0 => device.lie(0b11, dice.roll(2048) as u16),
        1 => device.lie(dice.roll(1 << 31) as u32, dice.roll(1 << 16) as u16),
        2 => (0..dice.roll(300)).for_each(|_| device.lie(0b11, 60)),
        // A packet sent that was not: one, out of order, with garbage, or all.
        3 => device.scribble(dice.roll(256) as u64, 1),
        4 => device.scribble(dice.roll(256) as u64, dice.roll(256) as u8),
        5 => device.claim_sent(),
        6 => device.faults.stalled.set(true),
        7 => {
            device.faults.stalled.set(false);
            device.kick();
        }
        8 => (0..dice.roll(20)).for_each(|_| device.send_one()),
        9 => device.messages.borrow_mut().extend([QUEUES, OTHER, QUEUES]),
        10 => {
            device.set_link(false);
            device.set_link(dice.roll(4) > 0);
        }
        11 => drop(device.arrive(&frames::plain(frames::BROADCAST, OUTSIDE, 60, 1))),
        _ if dice.roll(8) == 0 => device.faults.gone.set(!device.faults.gone.get()),
        _ => {}
    }
}

/// Whatever the device claims, nothing panics; guests among each other notice nothing;
/// everything they lend comes back; the log is not flooded; and when the device is reset
/// and does its work again, so does everybody.
#[test]
fn a_device_that_lies_harms_nobody_but_the_wire() {
    let mut seen = [0; 6];
    for seed in 1..=SEEDS {
        let mut dice = Dice::new(seed);
        let mut world = mapping();
        let [a, b] = world.connected();
        for round in 0..200 {
            lie(&world, &mut dice);
            for id in [a, b] {
                for _ in 0..dice.roll(8) {
                    let frame = frame(&world, id, OUTSIDE, 60 + dice.roll(1400));
                    if world[id].rings.tx.free() > 0 {
                        world[id].queue(&Outgoing::whole(&frame));
                    }
                }
                world[id].kick();
            }
            if dice.roll(2) == 0 {
                lie(&world, &mut dice);
            }
            check_between(&mut world, a, b, 500 + round);
            check_between(&mut world, b, a, 500 + round);
            if dice.roll(4) == 0 {
                world.pass(dice.roll(3000) as u32 * MILLISECOND);
            }
        }
        let counted = statistics(&world);
        let kinds = [
            counted.received,
            counted.receive_malformed,
            counted.send_aborted,
            counted.stalls,
            counted.flushes,
            counted.mastering_lost,
        ];
        seen.iter_mut().zip(kinds).for_each(|(seen, count)| *seen += count);
        let faults = &world.wire.device.faults;
        faults.gone.set(false);
        faults.stalled.set(false);
        world.wire.device.set_link(true);
        // One more reset, after which it tells the truth.
        world.wire.device.lose_mastering();
        world.pass(15 * SECOND);
        assert!(!world.wire.device.has_lied(), "it was reset");
        assert_eq!(world[a].unanswered() + world[b].unanswered(), 0);
        let resets = statistics(&world).resets;
        assert!(journal(Level::Warn, "").len() as u64 <= 2 * resets + 10, "{resets} resets");
        world.check_at_rest();
        check_wire(&mut world, a);
        check_wire(&mut world, b);
        world.end();
    }
    assert!(!seen.contains(&0), "something was never tried: {seen:?}");
}

/// Frames that cannot be reach neither the switch nor a guest, and are counted; those that
/// come between them do.
#[test]
fn frames_that_cannot_be_reach_nobody() {
    let mut world = mapping();
    let [a, b] = world.connected();
    check_wire(&mut world, a);
    let before = statistics(&world);
    let good = frames::plain(world[a].mac(), OUTSIDE, 100, 1);
    let device = world.wire.device.clone();
    for (status, len) in [(3, 0), (3, 13), (3, 2049), (3, 9019), (3, u16::MAX)] {
        device.lie(status, len);
        device.lie(3 | 1 << 31, 100);
        device.arrive(&good);
        // In pieces that are none: both are of no use.
        device.lie(1, 2047);
        device.lie(3, 100);
    }
    world.settle();
    let received: Vec<_> = world[a].received.drain(..).map(|packet| packet.bytes).collect();
    assert_eq!(received, vec![good; 5]);
    assert_eq!(world[b].received, []);
    let after = statistics(&world);
    assert_eq!(after.received - before.received, 5);
    assert_eq!((after.receive_malformed, after.receive_errors), (10, 5));
    world.end();
}

/// The device says of a packet that it is sent, and reads it afterwards: its pages are home
/// by then, and Xen sees it look where nothing is. After ten times that costs it bus
/// mastering (H-13), and with its reset it begins anew.
#[test]
fn h13_a_device_that_reads_what_it_gave_back_is_contained() {
    let mut world = mapping();
    let [a, b] = world.connected();
    world.wire.pause();
    for len in 1000..1012 {
        send(&mut world, a, OUTSIDE, len);
    }
    world.wire.device.claim_sent();
    world.settle();
    world.pass(SECOND);
    assert_eq!(world[a].unanswered(), 0, "as far as we know");
    world.check_at_rest();
    while world.wire.complete() {}
    world.pass(2 * SECOND);
    assert_eq!(statistics(&world).mastering_lost, 1);
    world.wire.device.faults.stalled.set(false);
    check_between(&mut world, a, b, 1000);
    check_wire(&mut world, a);
    world.end();
}
