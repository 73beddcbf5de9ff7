//! S-7, S-16: events, in plenty and at ports that close.

use worlds::{Id, OUTSIDE, Outgoing, World, frames};
use xen::ring::Word;

use crate::harness::{
    Counted, Harmless, MILLISECOND, NONE, SECOND, Setup, Told, attack, knock, request,
};

fn send(world: &mut World, from: Id, to: [u8; 6], len: usize) {
    let frame = frames::plain(to, world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame));
}

/// S-7 (XSA-331): a million events a second. However many there are, they are one; a turn
/// for them takes nobody's packets, and no turn follows from nothing.
#[test]
fn s_07_an_event_storm() {
    attack("storm", Harmless, |world, evil| {
        let turns = world.turns;
        for _ in 0..1000 {
            for _ in 0..1000 {
                knock(world, evil);
            }
            world.pass(MILLISECOND);
        }
        let turns = world.turns - turns;
        // Two of ours a millisecond, and what the others' packets take.
        assert!(turns < 4000, "{turns} turns");
    });
}

/// Events in plenty are one event: the turn is that of one batch, and nothing piles up
/// (S-7).
#[test]
fn s_07_many_events_are_one() {
    attack("many events", Counted, |world, evil| {
        world.settle();
        let audit = world.xen.audit();
        let port = audit.of(world[evil].vif().frontend).1[0].port;
        for _ in 0..256 {
            world[evil].push(request(1, 0, NONE, 5));
        }
        world[evil].rings.tx.publish();
        for _ in 0..1000 {
            world.network.event(port);
        }
        knock(world, evil);
        assert!(world.step());
        assert_eq!(std::iter::from_fn(|| world[evil].rings.tx.take()).count(), 64);
        world.settle();
        assert_eq!(std::iter::from_fn(|| world[evil].rings.tx.take()).count(), 192);
    });
}

/// S-7 (XSA-332, XSA-441): events are raised, and told to us late, at a port that is being
/// closed, that is closed, and that has become another vif's. They mean nothing, and we
/// raise none at a port that is gone.
#[test]
fn s_07_events_of_a_port_that_closes() {
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("closing ports", Told(0), |world, a| {
        world[a].hands_off = false;
        for n in 0..100 {
            let b = world.attach(1);
            let audit = world.xen.audit();
            let port = audit.of(world[b].vif().frontend).1[0].port;
            let (guest, remote) = (world[b].guest.clone(), world[b].rings.port);
            // It has something to say, and we to it.
            let mac_b = world[b].mac();
            send(world, a, mac_b, 1000);
            send(world, b, OUTSIDE, 1000);
            world.set_front(b, "6");
            for _ in 0..n % 10 {
                guest.notify(remote);
                world.network.event(port);
                world.rounds(1);
            }
            world.settle();
            assert_eq!(world.own(b, "state").as_deref(), Some("6"));
            world.network.event(port);
            let c = world.attach(2);
            let audit = world.xen.audit();
            let again = audit.of(world[c].vif().frontend).1[0].port;
            assert_eq!(again, port, "a port is used again");
            world.network.event(port);
            let mac_c = world[c].mac();
            send(world, a, mac_c, 1000);
            world.settle();
            assert_eq!(world[c].received.len(), 1);
            world.check_at_rest();
            for id in [b, c] {
                assert_eq!(world.detach(id), Ok(()));
            }
        }
    });
}

/// P-4, S-16 (XSA-391): an event for the response that was asked for, and for no other.
#[test]
fn s_16_guests_are_notified_of_the_response_they_asked_for() {
    attack("events", Harmless, |world, a| {
        world[a].hands_off = false;
        let b = world.attach(1);
        world.settle();
        for front in [a, b] {
            world[front].polls = true;
        }
        // The fifth packet is the first that either asks to be told of.
        let rings = &world[a].rings;
        let next = rings.tx.word(Word::ResponseProducer).wrapping_add(5);
        rings.tx.set_word(Word::ResponseEvent, next);
        let rings = &world[b].rings;
        let next = rings.rx.word(Word::ResponseProducer).wrapping_add(5);
        rings.rx.set_word(Word::ResponseEvent, next);
        let to = world[b].mac();
        for n in 1..=8 {
            let before = world.xen.counts();
            send(world, a, to, 100);
            world.settle();
            let counts = world.xen.counts() - before;
            assert_eq!(counts.notifies, if n == 5 { 2 } else { 0 }, "packet {n}");
        }
        let now = world.now();
        for front in [a, b] {
            world[front].service(now);
            world[front].polls = false;
        }
        assert_eq!(world[b].received.len(), 8);
        world[a].hands_off = true;
    });
}
