//! Queues that a guest does not refill.

use super::*;

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
