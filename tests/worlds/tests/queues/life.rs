//! How vifs of several queues come and go, and what they take.

use super::*;

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
        gso_v4: true,
        gso_v6: true,
        options: drivers::netback::Options::default(),
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
    let order = world.record_order(&[Kind::Unmap, Kind::Close]);
    world.set_front(a, "6");
    world.settle();
    let (rings, ports) = ([Kind::Unmap; 5], [Kind::Close; 5]);
    assert_eq!(*order.borrow(), [rings, ports].concat());
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
