//! Guests that stop receiving, and what that costs the others.

use std::collections::BTreeMap;
use std::time::Duration;

use drivers::netback::data::STALL_TIMEOUT;
use drivers::report::Report;
use kernel::memory::Size;
use kernel::switch::DropReason;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::fake::{Kind, Operation, When};
use xen::ring::Word;
use xen::{Instant, PAGE_SIZE};

const NANOSECOND: Duration = Duration::from_nanos(1);
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

fn carrier(world: &mut World, id: Id) -> bool {
    match world.own(id, "carrier").as_deref() {
        Some("0") => false,
        Some("1") => true,
        other => panic!("carrier {other:?}"),
    }
}

/// What the log says of carriers.
fn lines(level: Level) -> usize {
    journal(level, "carrier").len()
}

/// A guest that offers so many pages and never another.
fn short(offers: u32) -> Manners {
    Manners { offers, refills: false, ..Manners::default() }
}

/// A sender, and a receiver that has not received since long ago.
fn stalled() -> (World, Id, Id) {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, short(0), &[]);
    send(&mut world, a, b, 1000);
    world.pass(STALL_TIMEOUT);
    assert!(!carrier(&mut world, b));
    (world, a, b)
}

/// T-5: a guest stops receiving for a minute. Those who send to it have each page back
/// within 100 ms (O-8), those who send to others notice nothing; it loses its carrier
/// after ten seconds, and has it back with the first refill.
#[test]
fn t5_a_destination_that_stops_reading_costs_its_sources_100_ms() {
    let mut world = World::new();
    let [a, c] = world.connected();
    let b = world.attach_with(2, short(64), &[]);
    let [to_b, to_c] = [b, c].map(|to| Outgoing::whole(&frame(&world, a, to, 1000)));
    let start = world.now();
    let mut sent = BTreeMap::<u16, Instant>::new();
    let (mut rounds, mut waited) = (0, Duration::ZERO);
    while world.now().since(start) < 60 * SECOND {
        let before = world.now();
        for packet in [&to_b, &to_b, &to_b, &to_b, &to_c] {
            sent.extend(world[a].queue(packet).into_iter().map(|id| (id, before)));
        }
        world[a].kick();
        rounds += 1;
        world.settle();
        assert_eq!(world[c].received.pop().expect("the other one's").at, before, "never late");
        world.pass(20 * MILLISECOND);
        let now = world.now();
        for answer in std::mem::take(&mut world[a].answers) {
            let at = sent.remove(&answer.id).expect("sent");
            waited = waited.max(now.since(at));
        }
        let late = sent.values().find(|at| now.since(**at) > 100 * MILLISECOND);
        assert_eq!(late, None, "a page is out for too long");
        // The 64 slots last for 16 rounds.
        let since = now.since(start).saturating_sub(16 * 20 * MILLISECOND);
        assert_eq!(carrier(&mut world, b), since < STALL_TIMEOUT, "after {since:?}");
        if since >= STALL_TIMEOUT {
            assert_eq!(sent.len(), 0, "nothing waits for it any more");
            world.check_at_rest();
        }
    }
    assert!(waited >= 100 * MILLISECOND, "{waited:?}");
    assert_eq!(world[b].received.len(), 64);
    let lost = [DropReason::NoCarrier, DropReason::QueueFull].map(|reason| world.drops(reason));
    assert_eq!(lost[0] + lost[1], 4 * rounds - 64);
    assert!(lost[1] > 0, "what waits is bounded");
    assert_eq!((lines(Level::Warn), lines(Level::Info)), (1, 1));

    world[b].offer(1);
    world.settle();
    assert!(carrier(&mut world, b));
    assert_eq!((lines(Level::Warn), lines(Level::Info)), (1, 2));
    send(&mut world, a, b, 700);
    assert_eq!(world[b].received[64].bytes.len(), 700);
    world.end();
}

/// The stall begins when a packet finds too few slots and nothing has gone out, to the
/// nanosecond; what was in the queue by then is dropped for want of a carrier and not
/// because it waited.
#[test]
fn t5_the_carrier_goes_ten_seconds_after_the_last_packet() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, short(1), &[]);
    // Without traffic there is nothing to be short of.
    world.pass(60 * SECOND);
    send(&mut world, a, b, 100);
    world.pass(60 * SECOND);
    assert!(carrier(&mut world, b));
    for _ in 0..3 {
        send(&mut world, a, b, 100);
        world.pass(SECOND);
    }
    world.pass(STALL_TIMEOUT - 4 * SECOND);
    world[b].offer(1);
    world.settle();
    assert_eq!(world[b].received.len(), 2);
    // Two of them are older than that, and expire in their turn.
    world.pass(STALL_TIMEOUT - NANOSECOND);
    assert!(carrier(&mut world, b));
    assert_eq!(world.drops(DropReason::Expired), 2);
    send(&mut world, a, b, 100);
    world.pass(NANOSECOND);
    assert!(!carrier(&mut world, b));
    assert_eq!(world.drops(DropReason::NoCarrier), 1);
    world.end();
}

/// However slow a guest is, as long as it goes on receiving it keeps its carrier.
#[test]
fn t5_a_slow_guest_does_not_stall() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, short(0), &[]);
    for round in 1..=20 {
        send(&mut world, a, b, 1000);
        send(&mut world, a, b, 1000);
        world.pass(STALL_TIMEOUT - NANOSECOND);
        world[b].offer(1);
        world.settle();
        assert_eq!(world[b].received.len(), round);
        assert!(carrier(&mut world, b));
    }
    assert_eq!(journal(Level::Warn, ""), Vec::<String>::new());
    world.end();
}

/// Nothing is done for a guest that has stalled until it does something, and nothing it
/// does but refilling brings its carrier back.
#[test]
fn p5_a_refill_raises_the_event_that_ends_a_stall() {
    let (mut world, a, b) = stalled();
    let (counts, turns) = (world.xen.counts(), world.turns);
    world.pass(3600 * SECOND);
    assert_eq!((world.xen.counts(), world.turns), (counts, turns), "nobody looks");
    let port = world[b].rings.port;
    for _ in 0..100 {
        world[b].guest.notify(port);
        world.settle();
    }
    assert!(!carrier(&mut world, b));
    // It still sends.
    send(&mut world, b, a, 1000);
    assert_eq!(world[a].received.len(), 1);
    assert!(!carrier(&mut world, b));
    world[b].offer(1);
    world.settle();
    assert!(carrier(&mut world, b));
    // A refill that was told of in no event is found with the next one.
    for _ in 0..2 {
        send(&mut world, a, b, 1000);
    }
    world.pass(STALL_TIMEOUT);
    assert!(!carrier(&mut world, b));
    world[b].manners.rx_notify = false;
    world[b].offer(1);
    world.settle();
    assert!(!carrier(&mut world, b));
    send(&mut world, b, a, 1000);
    assert!(carrier(&mut world, b));
    world.end();
}

/// A refill that nobody was told of is seen before the guest is taken to have stalled.
#[test]
fn p5_a_refill_without_an_event_is_no_stall() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, short(0), &[]);
    world[b].manners.rx_notify = false;
    send(&mut world, a, b, 1000);
    world.pass(SECOND);
    world[b].offer(2);
    world.pass(STALL_TIMEOUT - SECOND);
    assert!(carrier(&mut world, b));
    send(&mut world, a, b, 1000);
    assert_eq!(world[b].received.len(), 1);
    world.end();
}

/// T-14: two guests that exchange packets at full rate stall both. Each goes on
/// sending, into the void, and when they receive again they have each other back.
#[test]
fn t14_two_stalled_guests_do_not_block_each_other() {
    let mut world = World::new();
    let [a, b] = [0, 1].map(|guest| world.attach_with(guest, short(0), &[]));
    let exchange = |world: &mut World, count: usize| {
        for (from, to) in [(a, b), (b, a)] {
            let packet = Outgoing::whole(&frame(world, from, to, 1000));
            for _ in 0..count {
                world[from].queue(&packet);
            }
            world[from].kick();
        }
        world.settle();
    };
    exchange(&mut world, 250);
    for id in [a, b] {
        assert!(world[id].unanswered() <= 32);
    }
    world.pass(100 * MILLISECOND);
    for id in [a, b] {
        assert_eq!(world[id].unanswered(), 0, "of what waits we have copies");
        world[id].offer(50);
    }
    world.settle();
    for id in [a, b] {
        assert_eq!(world[id].received.len(), 50);
    }
    for _ in 0..200 {
        exchange(&mut world, 100);
        world.pass(100 * MILLISECOND);
        assert_eq!(world[a].unanswered() + world[b].unanswered(), 0);
    }
    assert!(!carrier(&mut world, a) && !carrier(&mut world, b));
    world.check_at_rest();
    for id in [a, b] {
        world[id].offer(200);
    }
    world.settle();
    exchange(&mut world, 100);
    for id in [a, b] {
        assert_eq!((world[id].received.len(), world[id].unanswered()), (150, 0));
    }
    world.end();
}

/// O-9: what comes from the wire lies in buffers that the NIC has to have others of. A
/// flood for guests that do not receive leaves it enough, and the third guest all of
/// its packets.
#[test]
fn o9_a_flood_from_the_wire_leaves_the_receive_ring_its_buffers() {
    const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let mut world = World::new();
    let silent = [0, 1].map(|guest| world.attach_with(guest, short(0), &[]));
    let c = world.attach(2);
    let all = world.network.pools().buffers.free(Size::Large);
    for round in 0..150 {
        for to in [silent[0], silent[1], c] {
            for n in 0..20 {
                let mac = world[to].mac();
                world.wire.inject(frames::plain(mac, OUTSIDE, 60 + 9 * round, n));
            }
        }
        world.settle();
        assert_eq!(world[c].received.drain(..).count(), 20, "round {round}");
        let free = world.network.pools().buffers.free(Size::Large);
        assert!(free >= all / 3 - 1, "{free} of {all} buffers left");
        world.pass(10 * MILLISECOND);
    }
    assert!(world.drops(DropReason::QueueFull) > 2000);
    world.end();
}

/// A guest that has stalled breaks the protocol, closes, or starts again: the carrier is
/// the old connection's affair.
#[test]
fn a_stall_ends_with_its_connection() {
    let (mut world, a, b) = stalled();
    world.restart(b);
    assert!(world.is_connected(b) && carrier(&mut world, b));
    world[b].offer(1);
    send(&mut world, a, b, 1000);
    assert_eq!(world[b].received.len(), 1);
    world.end();

    let (mut world, a, b) = stalled();
    world[b].hands_off = true;
    let rx = &world[b].rings.rx;
    rx.set_word(Word::RequestProducer, rx.word(Word::RequestProducer).wrapping_add(1000));
    world[b].guest.notify(world[b].rings.port);
    world.settle();
    assert!(!carrier(&mut world, b));
    assert!(world.error(b).is_some_and(|error| error.contains("producer index")));
    send(&mut world, a, b, 1000);
    assert_eq!(world[a].unanswered(), 0);
    assert_eq!(world.drops(DropReason::NoCarrier), 2);
    world.end();

    let (mut world, _, b) = stalled();
    assert_eq!(world.destroy(b), Ok(()));
    world.end();
}

/// P-16: what waits for a frontend that breaks its ring is counted like what comes for it
/// afterwards.
#[test]
fn p16_what_waits_for_a_broken_frontend_is_dropped() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, short(0), &[]);
    for _ in 0..3 {
        send(&mut world, a, b, 1000);
    }
    world[b].hands_off = true;
    let rx = &world[b].rings.rx;
    rx.set_word(Word::RequestProducer, rx.word(Word::RequestProducer).wrapping_add(1000));
    send(&mut world, a, b, 1000);
    assert_eq!(world.drops(DropReason::NoCarrier), 4);
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// The operator sees which guests do not receive.
#[test]
fn the_report_shows_who_has_stalled() {
    let (mut world, a, b) = stalled();
    let line = |world: &World, id: Id| {
        let report = Report(&world.network).to_string();
        let name = format!("vif{}.0: tx", world[id].vif().frontend.0);
        report.lines().find(|line| line.starts_with(&name)).expect("a line").to_string()
    };
    assert!(line(&world, b).ends_with("; carrier off, the guest takes no packets"));
    assert!(!line(&world, a).contains("carrier"));
    world[b].offer(1);
    world.settle();
    assert!(!line(&world, b).contains("carrier"));
    world.end();
}

/// T-7: from the middle of a batch on, a page of the destination's is not granted any
/// more, or the destination is no more: an error for that slot, or the end of what was
/// for that guest, and nothing else.
#[test]
fn t7_a_page_is_revoked_in_the_middle_of_the_copies() {
    const BAD_DOMAIN: i16 = -2;
    const BAD_REFERENCE: i16 = -3;
    for dies in [false, true] {
        let mut world = World::new();
        let [a, b] = [0, 1].map(|guest| world.attach_with(guest, Manners::default(), &[JUMBO]));
        let c = world.attach(2);
        let (domain, second) = (world[b].vif().frontend, world[b].offered(1));
        let mut begun = false;
        let spoiled = When::Chosen(Box::new(move |operation| {
            let Operation::Copy { to: Some((to, reference)), .. } = operation else { return false };
            let spoiled = begun && *to == domain && (dies || *reference == second);
            begun |= *to == domain;
            spoiled
        }));
        world.xen.fail(Kind::Copy, spoiled, if dies { BAD_DOMAIN } else { BAD_REFERENCE });
        let packets = [(b, 3 * PAGE_SIZE), (b, 1000), (c, 1000)];
        for (to, len) in packets {
            let packet = Outgoing::whole(&frame(&world, a, to, len));
            world[a].queue(&packet);
        }
        world[b].hands_off = dies;
        world[a].kick();
        world.settle();
        world.xen.clear_faults();
        assert_eq!(world[a].unanswered(), 0);
        assert!(world[a].answers.iter().all(|answer| answer.status == 0), "they were good pages");
        assert_eq!(world[c].received.len(), 1);
        if dies {
            assert_eq!(world.kill(b), Ok(()));
        } else {
            let received: Vec<_> = world[b].received.iter().map(|p| (p.slots, p.failed)).collect();
            assert_eq!(received, [(3, 1), (1, 0)]);
        }
        world.check_at_rest();
        world.end();
    }
}
