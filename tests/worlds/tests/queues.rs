//! Vifs of several queues: what holds for one of them holds for each, and none is in
//! another's way (P-24).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use drivers::netback::data::{AttachError, STALL_TIMEOUT, Vif};
use drivers::netback::{Frontend, MAX_QUEUES, MAX_VIFS, QueueKeys, QueueRings, RemotePorts};
use drivers::network::{HEAP_FOR_A_QUEUE, HEAP_FOR_A_VIF};
use drivers::report::Report;
use kernel::packet::flow;
use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{GUESTS, Id, Manners, Outgoing, Spread, US, Uplink, World, frames, pools};
use xen::event::RemotePort;
use xen::fake::{FakeXen, Grant, Kind, Operation, When};
use xen::netif::Status;
use xen::ring::Word;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MILLISECOND: Duration = Duration::from_millis(1);
/// Flows enough that each of eight queues has some.
const FLOWS: u16 = 64;
/// Grant statuses, as in the tests of one queue.
const STATUSES: [i16; 3] = [-1, 1, i16::MAX];

fn manners(queues: usize) -> Manners {
    Manners { queues, offers: 64, ..Manners::default() }
}

/// Sends the `number`-th datagram of each of the flows.
fn send_flows(world: &mut World, from: Id, to: [u8; 6], number: u32, len: usize) {
    for port in 0..FLOWS {
        let frame = frames::numbered(to, world[from].mac(), port, number, len);
        world[from].queue(&Outgoing::whole(&frame));
    }
    world[from].kick();
    world.settle();
}

/// By flow, the numbers of what a guest got and its queues.
fn flows(world: &mut World, id: Id) -> BTreeMap<u16, (Vec<u32>, BTreeSet<usize>)> {
    let mut flows = BTreeMap::<_, (Vec<_>, BTreeSet<_>)>::new();
    for packet in std::mem::take(&mut world[id].received) {
        assert_eq!(packet.failed, 0);
        let (flow, number) = frames::number(&packet.bytes);
        let (numbers, queues) = flows.entry(flow).or_default();
        numbers.push(number);
        queues.insert(packet.queue);
    }
    flows
}

/// P-24: guests of one to eight queues, with a channel for each queue or for each ring. All
/// queues are used both ways, a flow has one of them and keeps its order, and Xen's things
/// are as many as there should be.
#[test]
fn p24_every_queue_is_used_and_flows_keep_their_order() {
    for queues in [1, 2, 4, 8] {
        for (split, control) in [(false, false), (true, false), (true, true)] {
            let mut world = World::of_many();
            let manners = Manners { split, control, ..manners(queues) };
            let [a, b] = [0, 1].map(|guest| world.attach_with(guest, manners.clone(), &[]));
            let c = world.attach(2);
            assert!(world.is_connected(a), "{:?}", world.error(a));
            let audit = world.xen.audit();
            let (mappings, ports) = audit.of(world[a].vif().frontend);
            let more = usize::from(control);
            assert_eq!(mappings.len(), 2 * queues + more);
            assert_eq!(ports.len(), queues * (1 + usize::from(split)) + more);
            let to = world[b].mac();
            for number in 0..20 {
                send_flows(&mut world, a, to, number, 200 + 300 * (number as usize % 4));
            }
            let found = flows(&mut world, b);
            assert_eq!(found.len(), usize::from(FLOWS));
            for (numbers, queues) in found.values() {
                assert_eq!(*numbers, (0..20).collect::<Vec<_>>());
                assert_eq!(queues.len(), 1, "a flow has one queue");
            }
            let used: BTreeSet<_> = found.values().flat_map(|(_, queues)| queues).collect();
            assert_eq!(used.len(), queues);
            let vifs: Vec<_> = world.network.vifs().collect();
            let sum = |id, direction: fn(&drivers::netback::data::VifCounters) -> u64| {
                let queues = world.network.queues(id).map(|queue| direction(&queue.counters));
                let queues: Vec<_> = queues.collect();
                assert!(queues.iter().all(|count| *count > 0), "{queues:?}");
                queues.iter().sum::<u64>()
            };
            let all = u64::from(FLOWS) * 20;
            assert_eq!((sum(vifs[0].0, |c| c.tx.packets), vifs[0].1.tx.packets), (all, all));
            assert_eq!((sum(vifs[1].0, |c| c.rx.packets), vifs[1].1.rx.packets), (all, all));
            // To a guest of one queue, and to the wire.
            let to = world[c].mac();
            send_flows(&mut world, b, to, 0, 300);
            assert_eq!(flows(&mut world, c).len(), usize::from(FLOWS));
            send_flows(&mut world, b, OUTSIDE, 0, 300);
            assert_eq!(world.wire.take_frames().len(), usize::from(FLOWS));
            let reply = frames::numbered(world[a].mac(), OUTSIDE, 7, 9, 300);
            world.wire.inject(reply.clone());
            world.settle();
            assert!(world[a].received.iter().any(|packet| packet.bytes == reply));
            world.check_at_rest();
            world.end();
        }
    }
}

/// A packet of any shape arrives by any queue, whatever queue it was sent by.
#[test]
fn packets_of_all_shapes_by_all_queues() {
    let mut world = World::of_many();
    let jumbo = [("mtu", "65517")];
    let manners = Manners { spread: Spread::InTurn, ..manners(4) };
    let [a, b] = [0, 1].map(|guest| world.attach_with(guest, manners.clone(), &jumbo));
    for (n, len) in [60, 128, 129, 1000, 4096, 4097, 20_000, 65_000].into_iter().enumerate() {
        for port in 0..16 {
            let (to, from) = (world[b].mac(), world[a].mac());
            let frame = frames::numbered(to, from, port, n as u32, len);
            world.pass_on(a, b, &Outgoing::whole(&frame));
        }
        let frame = frames::plain(world[a].mac(), world[b].mac(), len, n as u64);
        world.pass_on(b, a, &Outgoing::whole(&frame));
    }
    world.end();
}

/// No guest gets more of the domain's time by having more queues, and no queue of its more
/// than another.
#[test]
fn queues_take_turns() {
    let mut world = World::of_many();
    let a = world.attach_with(0, manners(4), &[]);
    let b = world.attach_with(1, manners(1), &[]);
    // What each sends is in order of its being taken.
    for (id, queues) in [(a, 4), (b, 1)] {
        for queue in 0..queues {
            for number in 0..256 {
                let frame = frames::numbered(OUTSIDE, world[id].mac(), queue, number, 60);
                world[id].queue_to(usize::from(queue), &Outgoing::whole(&frame));
            }
        }
        world[id].kick();
    }
    world.settle();
    let sent = world.wire.take_frames();
    assert_eq!(sent.len(), 5 * 256);
    let mac_b = world[b].mac();
    let last = sent.iter().rposition(|frame| frame[6..12] == mac_b).expect("it sends");
    assert!(last < 2 * 256 + 64, "four batches of each: {last}");
    let order = sent.iter().filter(|frame| frame[6..12] != mac_b);
    let order: Vec<_> = order.map(|frame| frames::number(frame).0).collect();
    for (n, batch) in order.chunks(64).enumerate() {
        assert!(batch.iter().all(|queue| *queue == batch[0]), "{batch:?}");
        assert_eq!(usize::from(batch[0]), (usize::from(order[0]) + n) % 4, "in turn");
    }
    world.end();
}

/// Requests that are refused come to nothing, but take time: a guest with queues full of
/// them has a batch of one looked at in a pass, as one with a single queue has.
#[test]
fn queues_full_of_refused_requests_take_turns() {
    let mut world = World::of_many();
    let a = world.attach_with(0, manners(8), &[]);
    let b = world.attach_with(1, manners(8), &[]);
    for queue in 0..8 {
        for _ in 0..256 {
            world[a].queue_to(queue, &Outgoing::whole(&[1; 13]));
        }
    }
    world[a].kick();
    let frame = frames::plain(OUTSIDE, world[b].mac(), 100, 1);
    world[b].send(&Outgoing::whole(&frame));
    let refused = |world: &World| world.network.vifs().next().expect("the first").1.tx.refused;
    let mut before = 0;
    // The last batches of all empty their queues, and go together.
    while refused(&world) < 8 * 192 {
        assert!(world.step(), "nothing happens any more");
        assert!(refused(&world) - before <= 64, "{}", refused(&world) - before);
        before = refused(&world);
        assert_eq!(world.wire.take_frames().len(), usize::from(before == 64), "in the first pass");
    }
    world.settle();
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// T-5: one of a guest's rings is not refilled for a minute. What comes for it is dropped,
/// and its sources have their pages back in 100 ms; what comes for the others arrives in the
/// moment in which it is sent, and the guest keeps its carrier.
#[test]
fn t5_a_stalled_queue_does_not_disturb_the_others() {
    for rx_notify in [true, false] {
        let mut world = World::of_many();
        let [a, other] = world.connected();
        let b = world.attach_with(2, Manners { rx_notify, ..manners(4) }, &[]);
        let to = world[b].mac();
        send_flows(&mut world, a, to, 0, 800);
        let stalled = flows(&mut world, b);
        let stalled: Vec<_> =
            stalled.iter().filter(|(_, (_, q))| q.contains(&2)).map(|(flow, _)| *flow).collect();
        assert!(stalled.len() > 4, "{stalled:?}");
        world[b].neglected = Some(2);
        let start = world.now();
        let mut number = 0;
        while world.now().since(start) < 60 * Duration::from_secs(1) {
            number += 1;
            send_flows(&mut world, a, to, number, 800);
            let now = world.now();
            for packet in &world[b].received {
                assert_eq!(packet.at, now);
            }
            let arrived = flows(&mut world, b);
            let missing: Vec<_> = (0..FLOWS).filter(|flow| !arrived.contains_key(flow)).collect();
            assert!(missing.iter().all(|flow| stalled.contains(flow)), "{missing:?}");
            if number > 64 {
                assert_eq!(missing, stalled);
            }
            let waiting = world[a].unanswered();
            assert!(waiting <= 32, "{waiting} pages of one source (O-8)");
            world.pass(100 * MILLISECOND);
            assert_eq!(world[a].unanswered(), 0);
            let mac = world[other].mac();
            let frame = frames::plain(mac, world[a].mac(), 900, u64::from(number));
            world.pass_to(a, other, &frame);
        }
        assert_eq!(world.own(b, "carrier").as_deref(), Some("1"));
        let report = Report(&world.network).to_string();
        assert_eq!(
            report.matches("packets, stalled\n").count(),
            usize::from(rx_notify),
            "{report}"
        );
        assert_eq!(world.drops(DropReason::NoCarrier) > 0, rx_notify);
        if rx_notify {
            world.check_at_rest();
        }
        // With one page more the next one arrives, by that queue.
        world.pass(Duration::from_secs(11));
        world[b].received.clear();
        world[b].neglected = None;
        world[b].offer_to(2, 64);
        world.pass(10 * MILLISECOND);
        send_flows(&mut world, a, to, 1_000_000, 800);
        let arrived = flows(&mut world, b);
        assert_eq!(arrived.len(), usize::from(FLOWS));
        assert!(!Report(&world.network).to_string().contains("stalled"));
        world.end();
    }
}

/// The operator sees each queue of a vif that has several, and whether it gets on.
#[test]
fn the_report_shows_queues() {
    let mut world = World::of_many();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 1, refills: false, ..manners(2) }, &[]);
    let to = world[b].mac();
    send_flows(&mut world, a, to, 0, 100);
    let lines = |world: &World| {
        let report = Report(&world.network).to_string();
        let lines = report.lines().filter(|line| line.contains(" queue "));
        lines.map(str::to_string).collect::<Vec<_>>()
    };
    let expected = [0, 1].map(|queue| format!("vif11.0 queue {queue}: tx 0 packets, rx 1 packets"));
    assert_eq!(lines(&world), expected);
    world.pass(STALL_TIMEOUT);
    world[b].offer_to(0, 8);
    world.settle();
    assert_eq!(lines(&world), [expected[0].clone(), format!("{}, stalled", expected[1])]);
    world.end();
}

/// T-5: a guest that receives by none of its queues has no carrier, until it refills one.
#[test]
fn t5_all_queues_stall() {
    let mut world = World::of_many();
    let a = world.attach(0);
    let short = Manners { offers: 2, refills: false, ..manners(4) };
    let b = world.attach_with(1, short, &[]);
    let to = world[b].mac();
    send_flows(&mut world, a, to, 0, 800);
    world.pass(STALL_TIMEOUT - MILLISECOND);
    assert_eq!(world.own(b, "carrier").as_deref(), Some("1"));
    world.pass(MILLISECOND);
    assert_eq!(world.own(b, "carrier").as_deref(), Some("0"));
    world.check_at_rest();
    world[b].received.clear();
    world[b].offer_to(3, 64);
    world.settle();
    assert_eq!(world.own(b, "carrier").as_deref(), Some("1"));
    let before = world.drops(DropReason::NoCarrier);
    send_flows(&mut world, a, to, 1, 800);
    let arrived = flows(&mut world, b);
    assert!(arrived.values().all(|(_, queues)| queues.iter().eq([&3])), "the others stall on");
    let lost = world.drops(DropReason::NoCarrier) - before;
    assert_eq!(lost as usize + arrived.len(), usize::from(FLOWS));
    assert!(lost > 0 && !arrived.is_empty());
    world.end();
}

/// P-16: one queue breaks the protocol, and all of the vif is served no more.
#[test]
fn p16_a_violation_in_one_queue_breaks_off_all() {
    for queue in 0..4 {
        for rx in [false, true] {
            let mut world = World::of_many();
            let a = world.attach(0);
            let b = world.attach_with(1, manners(4), &[]);
            let to = world[b].mac();
            world[b].hands_off = true;
            let (guest, rings) = (world[b].guest.clone(), world[b].rings_of(queue));
            let port = rings.port;
            match rx {
                true => {
                    let word = rings.rx.word(Word::RequestProducer);
                    rings.rx.set_word(Word::RequestProducer, word.wrapping_add(1000));
                }
                false => {
                    let word = rings.tx.word(Word::RequestProducer);
                    rings.tx.set_word(Word::RequestProducer, word.wrapping_add(1000));
                }
            }
            guest.notify(port);
            // The receive rings are looked at when those offered at first are used up.
            for number in 0..64 {
                send_flows(&mut world, a, to, number, 100);
            }
            let error = world.error(b).unwrap_or_else(|| panic!("{queue} {rx}: no error"));
            assert!(error.contains("producer index"), "{error}");
            assert_eq!(world.own(b, "carrier").as_deref(), Some("0"));
            let counts = world.xen.counts();
            for rings in world[b].queues() {
                guest.notify(rings.port);
            }
            world.settle();
            assert_eq!(world.xen.counts(), counts, "nothing of it is looked at");
            assert_eq!(world[a].unanswered(), 0);
            world.end();
        }
    }
}

/// The n-th operation of its kind that has to do with a domain, as often as it is tried.
fn nth(nth: usize) -> When {
    let mut seen = Vec::new();
    When::Chosen(Box::new(move |operation: &Operation| {
        if seen.last() != Some(operation) {
            seen.push(*operation);
        }
        seen.len() == nth
    }))
}

/// S-9: each of the operations of a connection fails in turn; the error says which, nothing
/// is left, and the next attempt succeeds.
#[test]
fn s9_each_step_of_connecting_several_queues_fails_in_turn() {
    let mut world = World::of_many();
    let [a, _] = world.connected();
    let manners = Manners { split: true, control: true, ..manners(3) };
    let per_queue = |names: [&str; 2]| {
        let of_queue = |queue| names.map(|name| format!("queue-{queue}/{name}"));
        (0..3).flat_map(of_queue).collect::<Vec<_>>()
    };
    let mut cases: Vec<(Kind, usize, String)> = Vec::new();
    let maps = per_queue(["tx-ring-ref", "rx-ring-ref"]).into_iter();
    let maps = maps.chain(["ctrl-ring-ref".to_string()]);
    cases.extend((1..).zip(maps).map(|(n, name)| (Kind::Map, n, format!("mapping {name}"))));
    let binds = per_queue(["event-channel-tx", "event-channel-rx"]).into_iter();
    let binds = binds.chain(["event-channel-ctrl".to_string()]);
    cases.extend((1..).zip(binds).map(|(n, name)| (Kind::Bind, n, format!("binding {name}"))));
    assert_eq!(cases.len(), 14);
    for (kind, n, words) in cases {
        for status in STATUSES {
            world.xen.fail(kind, nth(n), status);
            let c = world.attach_with(2, manners.clone(), &[]);
            let error = world.error(c).unwrap_or_else(|| panic!("{words}, {status}: no error"));
            assert!(error.starts_with(&words), "{words}: {error}");
            assert_eq!(world.own(c, "state").as_deref(), Some("6"), "{words}, {status}");
            world.check_at_rest();
            world.xen.clear_faults();
            assert_eq!(world.detach(c), Ok(()));
        }
        let c = world.attach_with(2, manners.clone(), &[]);
        assert!(world.is_connected(c), "{words}: the next one");
        let to = world[c].mac();
        send_flows(&mut world, a, to, 0, 300);
        assert_eq!(flows(&mut world, c).len(), usize::from(FLOWS));
        assert_eq!(world.detach(c), Ok(()));
    }
    world.end();
}

/// The rings themselves make no sense, one after the other.
#[test]
fn f8_each_ring_of_several_queues() {
    let mut world = World::of_many();
    let [a, b] = world.connected();
    for place in 0..7 {
        let manners = Manners { control: true, start: 1000, ..manners(3) };
        let evil = world.add(2, manners, &[]);
        let name = match place {
            6 => {
                let control = world[evil].control.as_ref().expect("it has one");
                control.ring.set_word(Word::RequestProducer, 5);
                "ctrl-ring-ref".to_string()
            }
            _ if place % 2 == 0 => {
                world[evil].rings_of(place / 2).tx.set_word(Word::RequestProducer, 5);
                format!("queue-{}/tx-ring-ref", place / 2)
            }
            _ => {
                world[evil].rings_of(place / 2).rx.set_word(Word::RequestProducer, 5);
                format!("queue-{}/rx-ring-ref", place / 2)
            }
        };
        world.settle();
        let error = world.error(evil).expect("an error");
        assert!(error.starts_with(&format!("{name}: producer index")), "{error}");
        world.check_at_rest();
        assert_eq!(world.detach(evil), Ok(()));
        let frame = frames::plain(world[b].mac(), world[a].mac(), 100, 1);
        world.pass_to(a, b, &frame);
    }
    world.end();
}

/// F-8: a port that two rings name, a ring that is another's page.
#[test]
fn f8_ports_and_pages_named_twice() {
    let mut world = World::of_many();
    let [_, _] = world.connected();
    for (key, of, words) in [
        ("queue-1/event-channel", "queue-0/event-channel", "binding queue-1/event-channel:"),
        ("event-channel-ctrl", "queue-1/event-channel", "binding event-channel-ctrl:"),
        ("queue-1/tx-ring-ref", "queue-0/tx-ring-ref", "queue-1/tx-ring-ref contradicts"),
        ("ctrl-ring-ref", "queue-0/tx-ring-ref", "ctrl-ring-ref contradicts queue-0/tx-ring-ref"),
        ("ctrl-ring-ref", "queue-1/rx-ring-ref", "ctrl-ring-ref contradicts queue-1/rx-ring-ref"),
    ] {
        let evil = world.add(2, Manners { control: true, ..manners(2) }, &[]);
        let keys = world[evil].xenbus.keys.clone();
        let value = &keys.iter().find(|(name, _)| name == of).expect("a key").1;
        world[evil].set_key(key, value);
        world.settle();
        let error = world.error(evil).expect("an error");
        assert!(error.starts_with(words), "{error}");
        world.check_at_rest();
        assert_eq!(world.detach(evil), Ok(()));
    }
    world.end();
}

/// F-9: numbers of queues that there cannot be, and queues without all of their keys.
#[test]
fn f9_queues_that_are_not_there() {
    let mut world = World::of_many();
    for (key, value, words) in [
        ("multi-queue-num-queues", "0", "multi-queue-num-queues asks"),
        ("multi-queue-num-queues", "9", "multi-queue-num-queues asks"),
        ("multi-queue-num-queues", "65535", "multi-queue-num-queues asks"),
        ("multi-queue-num-queues", "4", "queue-3/tx-ring-ref is missing"),
        ("queue-2/event-channel-tx", "9", "queue-2/event-channel-rx is missing"),
        ("queue-2/rx-ring-ref", "", "queue-2/rx-ring-ref is malformed"),
    ] {
        let evil = world.add(2, manners(3), &[]);
        world[evil].set_key(key, value);
        world.settle();
        let error = world.error(evil).expect("an error");
        assert!(error.starts_with(words), "{error}");
        assert_eq!(world.own(evil, "state").as_deref(), Some("6"));
        assert_eq!(world.detach(evil), Ok(()));
    }
    // What it says once it is connected means nothing (F-9).
    let b = world.attach_with(1, manners(3), &[]);
    let path = format!("{}/multi-queue-num-queues", world[b].vif().frontend_dir());
    let guest = world[b].vif().frontend;
    world.store.act(guest).write(&path, "8").expect("its own");
    send_flows(&mut world, b, OUTSIDE, 0, 100);
    assert_eq!(world.wire.take_frames().len(), usize::from(FLOWS));
    world.end();
}

/// An attempt that failed late leaves no record of pages that were never lent.
#[test]
fn s9_failed_attempts_leave_no_shard_of_any_queue() {
    let xen = FakeXen::new(US);
    let guest = xen.create_domain(GUESTS[0]);
    let mut pools = pools(&xen, Mode::Auto);
    let first = pools.tracker.open(GUESTS[0], 1).expect("a first");
    pools.tracker.close(first);
    let ring = || guest.grant(guest.add_page(), Grant::Writable);
    let queues = QueueKeys::of(4).iter().enumerate().map(|(place, keys)| QueueRings {
        keys,
        tx_ring: ring(),
        rx_ring: ring(),
        ports: RemotePorts::Split {
            tx: guest.open_port(),
            rx: if place == 3 { RemotePort(99) } else { guest.open_port() },
        },
    });
    let frontend = Frontend {
        queues: queues.collect(),
        control: None,
        rx_notify: true,
        scatter_gather: true,
        ipv4_checksum: true,
        ipv6_checksum: true,
    };
    let seed = flow::Seed::new([1, 2]);
    let result = Vif::attach(xen.clone(), GUESTS[0], &frontend, seed, &mut pools);
    assert!(matches!(result, Err(AttachError::Bind("queue-3/event-channel-rx", _))));
    assert!(xen.audit().is_clean());
    let opened = (0..4).map(|_| pools.tracker.open(GUESTS[0], 1).expect("one"));
    let mut opened: Vec<_> = opened.collect();
    assert!(opened.is_sorted());
    let fifth = pools.tracker.open(GUESTS[0], 1).expect("one");
    opened.push(fifth);
    assert!(opened.is_sorted(), "no place is taken by an attempt that failed");
    assert_eq!(pools.tracker.counters().claimed, 0);
}

/// T-15, F-12: a vif of eight queues leaves, its frontend closes or its guest dies, with
/// pages of all queues at the NIC.
#[test]
fn t15_eight_queues_leave_with_their_pages_out() {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum End {
        Detach,
        Restart,
        Kill,
    }
    for end in [End::Detach, End::Restart, End::Kill] {
        let mut world = World::mapping_for_many();
        let manners = Manners { split: true, control: true, ..manners(MAX_QUEUES) };
        let a = world.attach_with(0, manners, &[]);
        let b = world.attach(1);
        world.wire.pause();
        send_flows(&mut world, a, OUTSIDE, 0, 1000);
        let counters = world.network.pools().tracker.counters();
        assert!(counters.mapped > 16, "{counters:?}");
        let queues = world.network.vifs().next().expect("the first").0;
        assert!(world.network.queues(queues).all(|queue| queue.counters.tx.packets > 0));
        match end {
            End::Detach => {
                let done = |world: &mut World| {
                    while world.wire.complete() {}
                };
                assert_eq!(world.detach_amid(a, done), Ok(()));
            }
            End::Restart => {
                while world.wire.complete() {}
                world.restart(a);
                send_flows(&mut world, a, OUTSIDE, 1, 1000);
                while world.wire.complete() {
                    world.settle();
                }
            }
            End::Kill => {
                world.die(a);
                world.settle();
                assert_eq!(world.xen.audit().zombies, [world[a].vif().frontend]);
                while world.wire.complete() {}
                assert_eq!(world.bury(a), Ok(()));
            }
        }
        world.settle();
        assert_eq!(world.network.pools().tracker.counters().mapped, 0, "{end:?}");
        world.check_at_rest();
        send_flows(&mut world, b, OUTSIDE, 1, 100);
        while world.wire.complete() {
            world.settle();
        }
        world.end();
    }
}

/// O-12: of all queues what was lent is unmapped before any ring, and all rings before any
/// event channel is closed.
#[test]
fn o12_event_channels_are_closed_last() {
    let mut world = World::mapping_for_many();
    let manners = Manners { split: true, control: true, ..manners(2) };
    let a = world.attach_with(0, manners, &[]);
    let order = Rc::<RefCell<Vec<_>>>::default();
    for kind in [Kind::Unmap, Kind::Close] {
        let pen = order.clone();
        let none = move |_: &Operation| {
            pen.borrow_mut().push(kind);
            false
        };
        world.xen.fail(kind, When::Chosen(Box::new(none)), 1);
    }
    world.set_front(a, "6");
    world.settle();
    let (rings, ports) = ([Kind::Unmap; 5], [Kind::Close; 5]);
    assert_eq!(*order.borrow(), [rings, ports].concat());
    world.end();
}

/// F-13: as many vifs as there may be, of as many queues as they may have. Frames, handles
/// and ports are as many as is said where [`MAX_QUEUES`] stands, and no vif takes more memory
/// than is asked for before it is served.
#[test]
fn f13_sixty_four_vifs_of_eight_queues() {
    let mut world = World::of_many();
    let manners = Manners { queues: MAX_QUEUES, control: true, offers: 4, ..Manners::default() };
    let mut ids = Vec::new();
    for n in 0..MAX_VIFS {
        world.most_kept = 0;
        ids.push(world.attach_with(n % GUESTS.len(), manners.clone(), &[]));
        let heap = HEAP_FOR_A_VIF + (MAX_QUEUES - 1) * HEAP_FOR_A_QUEUE;
        // The hypervisor's part counts too.
        assert!(world.most_kept < heap as isize / 2, "{} bytes for the {n}th", world.most_kept);
        assert!(world.is_connected(ids[n]), "{:?}", world.error(ids[n]));
    }
    let audit = world.xen.audit();
    assert_eq!((audit.mappings.len(), audit.ports.len()), (1088, 64 * 9));
    for (place, &from) in ids.iter().enumerate() {
        let to = world[ids[(place + 1) % ids.len()]].mac();
        for port in 0..16 {
            let frame = frames::numbered(to, world[from].mac(), port, 1, 300);
            world[from].queue(&Outgoing::whole(&frame));
        }
        world[from].kick();
    }
    world.settle();
    for &id in &ids {
        let found = flows(&mut world, id);
        assert_eq!(found.len(), 16, "{:?}", world[id].vif());
        assert_eq!(world[id].unanswered(), 0);
    }
    world.check_at_rest();
    for id in ids {
        assert_eq!(world.detach(id), Ok(()));
    }
    world.end();
}

/// A guest that is short of event channels for us: the vif is refused, and those before it
/// are served on (L-10).
#[test]
fn l10_no_port_is_left_for_the_last_queue() {
    let mut world = World::of_many();
    let [a, b] = world.connected();
    world.xen.set_port_limit(2 + 7);
    let c = world.attach_with(2, manners(MAX_QUEUES), &[]);
    let error = world.error(c).expect("an error");
    assert!(error.starts_with("binding queue-7/event-channel"), "{error}");
    world.check_at_rest();
    let frame = frames::plain(world[b].mac(), world[a].mac(), 100, 1);
    world.pass_to(a, b, &frame);
    assert_eq!(world.detach(c), Ok(()));
    world.end();
}

/// What is sent arrives, in as many responses as there were slots.
trait PassTo {
    fn pass_to(&mut self, from: Id, to: Id, frame: &[u8]);
}

impl PassTo for World {
    fn pass_to(&mut self, from: Id, to: Id, frame: &[u8]) {
        self[from].answers.clear();
        let ids = self[from].send(&Outgoing::whole(frame));
        self.settle();
        assert_eq!(self[to].received.pop().expect("it arrives").bytes, frame);
        self.check_answers(from, &ids, Status::Okay);
    }
}
