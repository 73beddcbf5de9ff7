//! Guests that are slow to receive, or cannot.

use std::time::Duration;

use drivers::netback::data::{VifCounters, is_short};
use kernel::switch::DropReason;
use worlds::{Id, Manners, Outgoing, World, frames};
use xen::PAGE_SIZE;
use xen::fake::Grant;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const JUMBO: (&str, &str) = ("mtu", "65517");

fn frame(world: &World, from: Id, to: Id, len: usize) -> Vec<u8> {
    frames::plain(world[to].mac(), world[from].mac(), len, len as u64)
}

fn send(world: &mut World, from: Id, to: Id, len: usize) {
    let frame = frame(world, from, to, len);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
}

fn lengths(world: &mut World, id: Id) -> Vec<usize> {
    world[id].received.drain(..).map(|packet| packet.bytes.len()).collect()
}

/// A world of a sender and a receiver with so many pages offered and none to come.
fn short_of(offers: u32) -> (World, Id, Id) {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let short = Manners { offers, refills: false, ..Manners::default() };
    let b = world.attach_with(1, short, &[JUMBO]);
    (world, a, b)
}

/// P-19: as many slots as it takes, and not one more; P-5: with one too few it
/// waits, and goes on when there are enough.
#[test]
fn p19_a_packet_waits_for_its_last_slot() {
    for slots in 1..=16 {
        let (mut world, a, b) = short_of(slots - 1);
        let len = slots as usize * PAGE_SIZE - 5;
        let len = len.min(65_531);
        send(&mut world, a, b, len);
        assert_eq!(world[b].received, []);
        assert_eq!(world[a].answers, [], "its pages are still looked at");
        let (counts, turns) = (world.xen.counts(), world.turns);
        world.pass(50 * MILLISECOND);
        assert_eq!(world.xen.counts(), counts, "no hypercall while nothing changes");
        assert!(world.turns - turns <= 2, "{} turns", world.turns - turns);
        world[b].offer(1);
        world.settle();
        assert_eq!(lengths(&mut world, b), [len]);
        assert_eq!(world[a].unanswered(), 0);
        world.end();
    }
}

/// O-8, T-5: pages wait for 100 ms; then the packet is copied. What it waited for does not
/// matter.
#[test]
fn o8_pages_wait_for_a_tenth_of_a_second() {
    let (mut world, a, b) = short_of(0);
    for len in [1000, 1500] {
        send(&mut world, a, b, len);
    }
    world.pass(100 * MILLISECOND - Duration::from_nanos(1));
    assert_eq!(world[a].unanswered(), 2);
    world.pass(Duration::from_nanos(1));
    assert_eq!(world[a].unanswered(), 0);
    world.pass(9 * SECOND);
    world[b].offer(2);
    world.settle();
    assert_eq!(lengths(&mut world, b), [1000, 1500]);
    world.check_at_rest();
    world.end();

    // The longest packet is copied as well, into as many buffers as it takes.
    let (mut world, a, b) = short_of(1);
    send(&mut world, a, b, 65_000);
    world.pass(100 * MILLISECOND - Duration::from_nanos(1));
    assert_eq!(world[a].unanswered(), 16);
    world.pass(Duration::from_nanos(1));
    assert_eq!(world[a].unanswered(), 0);
    world.pass(9 * SECOND);
    world[b].offer(15);
    world.settle();
    assert_eq!(lengths(&mut world, b), [65_000]);
    world.check_at_rest();
    world.end();
}

/// What waited behind a packet that was dropped goes out at once, if it can.
#[test]
fn o8_a_packet_that_is_dropped_makes_way() {
    let (mut world, a, b) = short_of(1);
    send(&mut world, a, b, 5000);
    let second = world[a].lent().nth(1).expect("two pages");
    let reference = world[a].reference(second);
    world.pass(50 * MILLISECOND);
    send(&mut world, a, b, 1000);
    assert_eq!(world[b].received, [], "in order");
    world[a].guest.revoke(reference);
    world.pass(50 * MILLISECOND);
    assert_eq!(lengths(&mut world, b), [1000]);
    assert_eq!(world[a].unanswered(), 0);
    world.check_at_rest();
    world.end();
}

/// T-2, P-5: slots come one by one; every packet goes out with its last one.
#[test]
fn t2_slots_come_one_by_one() {
    let (mut world, a, b) = short_of(0);
    for n in 0..12 {
        send(&mut world, a, b, 1000 + 4096 * (n % 3));
    }
    for slots in 1..=24 {
        world[b].offer(1);
        world.settle();
        let whole = [1, 3, 6].map(|first| (slots + 6 - first) / 6).iter().sum::<usize>();
        assert_eq!(world[b].received.len(), whole, "{slots} slots");
        let pages: usize = (whole..12).map(|n| 1 + n % 3).sum();
        assert_eq!(world[a].unanswered(), pages, "those of what is not delivered");
    }
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// P-20, T-7: a page that cannot be filled is that slot's error and no other's.
#[test]
fn t7_a_page_that_cannot_be_filled_is_an_error_of_its_slot() {
    for bad in 0..3 {
        let mut world = World::new();
        let a = world.attach_with(0, Manners::default(), &[JUMBO]);
        let b = world.attach_with(1, Manners::default(), &[JUMBO]);
        let reference = world[b].offered(1 + bad);
        let guest = world[b].guest.clone();
        if bad == 1 {
            guest.regrant(reference, guest.add_page(), Grant::ReadOnly);
        } else {
            guest.revoke(reference);
        }
        for len in [100, 10_000, 100] {
            let frame = frame(&world, a, b, len);
            world[a].queue(&Outgoing::whole(&frame));
        }
        world[a].kick();
        world.settle();
        let received: Vec<_> = world[b].received.iter().map(|p| (p.slots, p.failed)).collect();
        assert_eq!(received, [(1, 0), (3, 1), (1, 0)]);
        let whole = frame(&world, a, b, 10_000);
        let mut pages: Vec<_> = whole.chunks(PAGE_SIZE).collect();
        pages.remove(bad);
        assert!(world[b].received[1].bytes == pages.concat(), "the other slots are as they are");
        assert_eq!(world[a].unanswered(), 0);
        let (_, counters) = world.network.vifs().nth(1).expect("a second");
        assert_eq!((counters.rx.packets, counters.rx.failed, counters.rx.unreadable), (2, 1, 0));
        let ports = world.network.switches().iter().flat_map(|(_, switch)| switch.ports());
        let sent: u64 = ports.map(|(_, counters)| counters.sent.packets).sum();
        assert_eq!((sent, world.drops(DropReason::Undelivered)), (2, 1));
        world.end();
    }
}

/// P-20: a page of the sender's that cannot be read is told from one of the guest's own.
#[test]
fn a_senders_page_that_cannot_be_read_is_told_from_the_guests_own() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let [bad, _] = [300, 200].map(|len| {
        let frame = frame(&world, a, b, len);
        world[a].queue(&Outgoing::cut(&frame, vec![(0, 150), (0, len as u16 - 150)]))[1]
    });
    world[a].guest.revoke(world[a].reference(bad));
    world[a].kick();
    world.settle();
    let received: Vec<_> = world[b].received.iter().map(|p| (p.slots, p.failed)).collect();
    assert_eq!(received, [(1, 1), (1, 0)]);
    let (_, VifCounters { rx, .. }) = world.network.vifs().nth(1).expect("a second");
    assert_eq!((rx.packets, rx.unreadable, rx.failed), (1, 1, 0));
    assert_eq!(world.drops(DropReason::Undelivered), 1);
    world.end();
}

/// K-4: without feature-sg no packet of more than one slot.
#[test]
fn a_guest_without_scatter_gather_gets_single_slots() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let plain = Manners { scatter_gather: false, ..Manners::default() };
    let b = world.attach_with(1, plain, &[JUMBO]);
    for len in [4096, 4097, 1514, 9000, 14] {
        send(&mut world, a, b, len);
    }
    assert_eq!(lengths(&mut world, b), [4096, 1514, 14]);
    assert_eq!(world[a].unanswered(), 0);
    world.check_at_rest();
    world.end();
}

/// A packet longer than the receiver's MTU is not for it.
#[test]
fn the_mtu_is_kept() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let b = world.attach_with(1, Manners::default(), &[("mtu", "9000")]);
    let c = world.attach(2);
    for (to, longest) in [(b, 9014), (c, 1514)] {
        for len in [longest, longest + 1] {
            send(&mut world, a, to, len);
        }
        assert_eq!(lengths(&mut world, to), [longest]);
    }
    assert_eq!(world.drops(DropReason::TooLong), 2);
    world.end();
}

/// Bursts of packets longer than our buffers, which cannot be copied to them.
#[test]
fn jumbo_frames_come_in_bursts() {
    let mut world = World::new();
    let mtu = [("mtu", "9000")];
    let [a, b] = [0, 1].map(|guest| world.attach_with(guest, Manners::default(), &mtu));
    for n in 0..40 {
        let frame = frame(&world, a, b, 9000 - n);
        world[a].queue(&Outgoing::whole(&frame));
    }
    world[a].kick();
    world.settle();
    assert_eq!(lengths(&mut world, b), (0..40).map(|n| 9000 - n).collect::<Vec<_>>());
    world.end();
}

/// P-22: a guest that does not say when it has slots is looked at again and again,
/// while something waits for it and no longer.
#[test]
fn p22_a_guest_that_does_not_notify_is_polled() {
    let mut world = World::new();
    let a = world.attach(0);
    let silent = Manners { rx_notify: false, offers: 0, refills: false, ..Manners::default() };
    let b = world.attach_with(1, silent, &[]);
    send(&mut world, a, b, 1000);
    world.pass(20 * MILLISECOND);
    assert_eq!(world[b].received, []);
    world[b].offer(1);
    world.pass(30 * MILLISECOND);
    assert_eq!(lengths(&mut world, b), [1000], "within 30 ms");
    assert_eq!(world[a].unanswered(), 0);
    // Not for ever: it is dropped, and with nothing waiting nobody looks.
    for (len, pages) in [(1000, 1), (100, 0)] {
        let expired = world.drops(DropReason::Expired);
        send(&mut world, a, b, len);
        world.pass(30 * MILLISECOND - Duration::from_nanos(1));
        assert_eq!(world[a].unanswered(), pages);
        assert_eq!(world.drops(DropReason::Expired), expired);
        world.pass(Duration::from_nanos(1));
        assert_eq!(world.drops(DropReason::Expired), expired + 1);
        world.check_at_rest();
    }
    world.pass(10 * MILLISECOND);
    let turns = world.turns;
    world.pass(60 * SECOND);
    assert_eq!(world.turns, turns);
    assert_eq!(world.own(b, "carrier").as_deref(), Some("1"), "it is not taken to stall");
    world.end();
}

/// The same guest, while another's packet waits: looking must not become spinning.
#[test]
fn p22_polling_ends_with_what_it_was_for() {
    let mut world = World::new();
    let a = world.attach(0);
    let silent = Manners { rx_notify: false, offers: 0, refills: false, ..Manners::default() };
    let b = world.attach_with(1, silent, &[]);
    let c = world.attach_with(2, Manners { offers: 0, ..Manners::default() }, &[]);
    send(&mut world, a, b, 1000);
    // Late, so that what is left of the wait is no multiple of the interval.
    world.xen.advance(7 * MILLISECOND);
    world.pass(92 * MILLISECOND);
    send(&mut world, a, c, 1000);
    // What waited for the silent one expires; the other's packet waits on.
    let turns = world.turns;
    world.pass(90 * MILLISECOND);
    assert!(world.turns - turns < 10, "{} turns", world.turns - turns);
    world.end();
}

/// Guests that never receive cannot hold all packets there are, however much is sent
/// to them: the others go on as if nothing were.
#[test]
fn guests_that_never_receive_leave_packets_for_the_others() {
    let mut world = World::new();
    let stalled = Manners { offers: 0, ..Manners::default() };
    let silent = [0, 1, 2].map(|guest| world.attach_with(guest, stalled.clone(), &[]));
    let [a, b] = [3, 4].map(|guest| world.attach(guest));
    for to in silent.into_iter().cycle().take(6) {
        let frame = frame(&world, a, to, 100);
        for _ in 0..world[a].rings.tx.free() {
            world[a].queue(&Outgoing::whole(&frame));
        }
        world[a].kick();
        world.settle();
    }
    assert_ne!(world.drops(DropReason::QueueFull), 0);
    send(&mut world, b, a, 100);
    assert!(!is_short(world.network.pools()));
    assert_eq!((world[a].unanswered(), world[b].unanswered()), (0, 0));
    assert_eq!(world[a].received.len(), 1);
    let turns = world.turns;
    world.pass(90 * MILLISECOND);
    assert!(world.turns - turns < 5, "{} turns", world.turns - turns);
    world.pass(20 * MILLISECOND);
    world.end();
}
