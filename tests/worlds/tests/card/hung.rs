//! A device that does not get on, with guests' pages.

use std::time::Duration;

use drivers::nic::{Fault, Nic, Status};
use kernel::pages::choice::Reason;
use kernel::switch::DropReason;
use worlds::{Card, Id, Level, Manners, Outgoing, Uplink, frames, journal};

use crate::{
    CardWorld, MILLISECOND, OUTSIDE, SECOND, bound, check_between, check_wire, frame, mapped,
    mapping, send, statistics, status,
};

/// How a device hangs beside not sending.
#[derive(Clone, Copy, Debug)]
struct Hang {
    /// Its resets do not finish.
    stuck: bool,
    /// Its DMA does not end, and its transactions are not answered.
    busy: bool,
}

const HANGS: [Hang; 4] = [
    Hang { stuck: false, busy: false },
    Hang { stuck: false, busy: true },
    Hang { stuck: true, busy: false },
    Hang { stuck: true, busy: true },
];

/// Device Status, Transactions Pending (PCI Express).
const PENDING: (u8, u32) = (0xe8, 1 << 21);

impl Hang {
    fn begin(self, world: &CardWorld) {
        let device = &world.wire.device;
        device.faults.stalled.set(true);
        device.faults.stuck_reset.set(self.stuck);
        device.faults.busy.set(self.busy);
        device.config.set(PENDING.0, if self.busy { PENDING.1 } else { 0 });
    }
}

fn heal(world: &CardWorld) {
    Hang { stuck: false, busy: false }.begin(world);
    world.wire.device.faults.stalled.set(false);
}

/// Goes to the moment after the driver has looked at its device.
fn pass_survey(world: &mut CardWorld) {
    let deadline = world.network.nic().and_then(Nic::deadline).expect("a survey");
    world.pass(deadline.since(world.now()) + Duration::from_nanos(1));
}

/// Sends to the wire, from pages that the device is to read.
fn lend(world: &mut CardWorld, from: Id) {
    let before = mapped(world);
    for len in [1000, 1200, 1514] {
        send(world, from, OUTSIDE, len);
    }
    assert_eq!(mapped(world), before + 3);
}

/// How long it takes until the device has no page of anybody's.
fn until_home(world: &mut CardWorld, mut meanwhile: impl FnMut(&mut CardWorld)) -> Duration {
    let start = world.now();
    while mapped(world) > 0 {
        meanwhile(world);
        world.pass(MILLISECOND);
        let limit = bound(world) + 2 * MILLISECOND;
        assert!(world.now().since(start) <= limit, "longer than the port says (O-8)");
    }
    world.now().since(start)
}

/// T-4: the device sends no more, at the worst moment. Each page is home within the bound
/// that its port tells, and not before it is sure; guests go on among each other, and
/// when the device is itself again it is found so.
#[test]
fn t4_a_card_that_hangs_gives_back_in_time_and_goes_on() {
    for hang in HANGS {
        let mut world = mapping();
        let [a, b] = world.connected();
        check_wire(&mut world, b);
        pass_survey(&mut world);
        hang.begin(&world);
        lend(&mut world, a);
        // A packet in our memory, too.
        send(&mut world, b, OUTSIDE, 60);
        let took = until_home(&mut world, |world| check_between(world, a, b, 1000));
        assert!(took >= 2 * SECOND, "{hang:?}: it was only slow, {took:?}");
        if hang.stuck && hang.busy {
            assert!(bound(&world) - took < 5 * MILLISECOND, "every rung of the ladder: {took:?}");
        }
        assert_eq!(world[a].unanswered(), 0, "{hang:?}");
        assert_eq!((statistics(&world).stalls, statistics(&world).send_aborted), (1, 4));
        assert_eq!(journal(Level::Warn, "sending has stopped").len(), 1);
        world.check_at_rest();
        if hang.stuck {
            assert_eq!(status(&world), Status::Failed(Fault::Reset));
            assert_eq!(journal(Level::Error, "reset").len(), 1);
            send(&mut world, a, OUTSIDE, 1000);
            assert_eq!((world.drops(DropReason::NoCarrier), world[a].unanswered()), (1, 0));
        }
        heal(&world);
        if hang.stuck {
            world.pass(10 * SECOND);
        }
        assert_eq!(status(&world), Status::Running);
        assert!(world.wire.take_frames().is_empty(), "what was given back is not sent");
        for id in [a, b] {
            check_wire(&mut world, id);
        }
        world.end();
    }
}

/// T-4: it hangs again and again, and always comes back.
#[test]
fn t4_a_card_that_hangs_often_is_reset_as_often() {
    let mut world = mapping();
    let [a, b] = world.connected();
    for (round, hang) in [HANGS, HANGS].concat().into_iter().enumerate() {
        hang.begin(&world);
        lend(&mut world, a);
        lend(&mut world, b);
        until_home(&mut world, |_| {});
        assert_eq!(statistics(&world).stalls, round as u64 + 1);
        heal(&world);
        world.pass(if hang.stuck { 10 * SECOND } else { MILLISECOND });
        check_wire(&mut world, a);
    }
    world.end();
}

/// H-13: Xen has taken bus mastering away, with pages at the device and without any. It is
/// noticed within a second, counted, told once, and given back.
#[test]
fn h13_a_card_that_lost_bus_mastering_gets_it_back() {
    for pages in [false, true] {
        let mut world = mapping();
        let [a, b] = world.connected();
        pass_survey(&mut world);
        if pages {
            world.wire.pause();
            lend(&mut world, a);
        }
        world.wire.device.lose_mastering();
        heal(&world);
        let lost = frames::plain(world[a].mac(), OUTSIDE, 100, 1);
        assert!(!world.wire.device.arrive(&lost), "it cannot write");
        let start = world.now();
        while statistics(&world).resets == 1 || status(&world) == Status::Changing {
            check_between(&mut world, a, b, 1000);
            world.pass(MILLISECOND);
            assert!(world.now().since(start) < 1300 * MILLISECOND, "nobody looks");
        }
        assert_eq!((mapped(&world), world[a].unanswered()), (0, 0));
        let counted = statistics(&world);
        assert_eq!((counted.mastering_lost, counted.resets, counted.stalls), (1, 2, 0));
        assert_eq!(journal(Level::Warn, "bus mastering was taken away").len(), 1);
        assert_eq!(status(&world), Status::Running);
        check_wire(&mut world, a);
        world.pass(10 * SECOND);
        assert_eq!(statistics(&world).resets, 2, "once");
        world.end();
    }
}

/// O-8: what finds no room in the ring is not mapped to wait for it. It waits as a copy,
/// its pages are home at once, and it is sent in its turn; with room there is mapping again.
#[test]
fn o8_what_a_full_ring_does_not_take_is_copied() {
    let mut world = mapping();
    let [a, b] = world.connected();
    world.wire.pause();
    let mut expected = Vec::new();
    for _ in 0..250 {
        expected.push(frame(&world, b, OUTSIDE, 100));
        send(&mut world, b, OUTSIDE, 100);
    }
    let room = |world: &CardWorld| {
        let mut copied = world.network.pools().choice.copied();
        copied.find(|(why, _)| *why == Reason::Room).map_or(0, |(_, count)| count)
    };
    let waiting = Card::KEEPS - 250 + 5;
    for number in 0..waiting {
        expected.push(frame(&world, a, OUTSIDE, 1000 + number));
        send(&mut world, a, OUTSIDE, 1000 + number);
        world[b].received.clear();
    }
    assert_eq!((mapped(&world), world[a].unanswered()), (1, 1), "of which there was one");
    assert_eq!(room(&world), waiting as u64 - 1);
    while world.wire.complete() {
        world.settle();
    }
    assert!(world.wire.take_frames() == expected, "in order");
    lend(&mut world, a);
    heal(&world);
    world.wire.device.kick();
    world.settle();
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// A device that is gone, pulled out or not decoded, and back after a while.
#[test]
fn o10_a_card_that_is_gone_gives_back() {
    let mut world = mapping();
    let [a, b] = world.connected();
    world.wire.pause();
    lend(&mut world, a);
    world.wire.device.faults.gone.set(true);
    let took = until_home(&mut world, |world| check_between(world, b, a, 500));
    assert!(took <= 1300 * MILLISECOND, "{took:?}");
    assert_eq!(status(&world), Status::Failed(Fault::Gone));
    world.check_at_rest();
    world.wire.device.faults.gone.set(false);
    heal(&world);
    world.pass(11 * SECOND);
    check_wire(&mut world, a);
    world.end();
}

/// T-6: a guest dies with pages at the device and in another's queue. Xen keeps it for as
/// long as the device may read them, and not longer: nobody is a zombie, and nothing is
/// unmapped that is gone (H-6).
#[test]
fn t6_a_source_that_dies_is_kept_until_the_card_is_done() {
    for reset in [false, true] {
        let mut world = mapping();
        let [a, c] = world.connected();
        let b = world.attach_with(2, Manners { offers: 0, ..Manners::default() }, &[]);
        world.wire.pause();
        lend(&mut world, a);
        send(&mut world, a, frames::BROADCAST, 1300);
        assert_eq!(
            world.network.pools().tracker.counters().holds,
            4 + 4,
            "nobody knows the station"
        );
        let domain = world[a].vif().frontend;
        let start = world.now();
        world.die(a);
        assert_eq!(world.xen.audit().zombies, [domain], "its pages are being read");
        if !reset {
            while world.wire.complete() {}
            assert_eq!(world.wire.take_frames().len(), 4, "read to the end");
            world.settle();
            assert_eq!(world.network.pools().tracker.counters().holds, 4, "in the queue alone");
        }
        // Finds a zombie, if there is one.
        assert_eq!(world.bury(a), Ok(()));
        let took = world.now().since(start);
        // The directory stays for as long as the toolstack may want to read it (L-5).
        let limit = 2 * SECOND + if reset { bound(&world) } else { 100 * MILLISECOND };
        assert!(took < limit, "{took:?}");
        assert_eq!((mapped(&world), statistics(&world).stalls), (0, u64::from(reset)));
        heal(&world);
        check_between(&mut world, b, c, 1000);
        check_wire(&mut world, c);
        world.end();
    }
}

/// T-15: a vif is taken away amid traffic, while the device hangs with its pages and with
/// another's. libxl has its answers in its time (L-3), and before that the pages are
/// home, by the ladder: no grant is in use when the guest takes its pages back.
#[test]
fn t15_a_detach_amid_traffic_while_the_card_hangs() {
    for hang in HANGS {
        let mut world = mapping();
        let [a, b] = world.connected();
        let to_b = world[b].mac();
        hang.begin(&world);
        lend(&mut world, a);
        lend(&mut world, b);
        let start = world.now();
        let traffic = |world: &mut CardWorld| {
            for (from, to) in [(a, OUTSIDE), (a, to_b), (b, OUTSIDE)] {
                let frame = frame(world, from, to, 1000);
                if world[from].rings.tx.free() > 0 && world.is_connected(from) {
                    world[from].send(&Outgoing::whole(&frame));
                }
            }
        };
        assert_eq!(world.detach_amid(a, traffic), Ok(()), "{hang:?}");
        assert!(world.now().since(start) < 10 * SECOND, "{hang:?}");
        assert_eq!(world.network.vifs().count(), 1);
        assert!(statistics(&world).stalls > 0);
        assert_eq!(world.network.pools().tracker.counters().abandoned, 0, "home before the end");
        heal(&world);
        world.pass(15 * SECOND);
        world.check_at_rest();
        check_wire(&mut world, b);
        world.end();
    }
}
