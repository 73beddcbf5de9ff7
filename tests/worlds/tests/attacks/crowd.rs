//! As many vifs at once as there may be, and more (F-13).

use drivers::netback::MAX_VIFS;
use drivers::network::HEAP_FOR_A_VIF;
use worlds::{GUESTS, Id, Level, Manners, OUTSIDE, Outgoing, World, frames, journal};
use xen::fake_store::Detach;

use crate::harness::{MILLISECOND, Outcome, Place, SECOND, Setup, Told};

/// Vifs that are there before any of the crowd.
const OTHERS: usize = 3;

fn among_others(name: &str, outcome: Outcome, act: impl FnOnce(&mut World)) {
    let setup = Setup { place: Place::Many, interval: SECOND, ..Setup::default() };
    setup.attack(name, outcome, |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        act(world);
    });
}

/// So many vifs, spread over the guests, that come all at once.
fn crowd(world: &mut World, count: usize) -> Vec<Id> {
    let manners = Manners { offers: 32, ..Manners::default() };
    let vif = |n| world.add(n % GUESTS.len(), manners.clone(), &[]);
    let ids = (0..count).map(vif).collect();
    world.settle();
    ids
}

/// Each sends a packet to the next, one to another that is further away, and one to the
/// wire. All arrive, and nothing else.
fn exchange(world: &mut World, ids: &[Id]) {
    // The bridge has to hear of the station that they send to.
    let hello = frames::plain(frames::BROADCAST, OUTSIDE, 60, 1);
    world.wire.inject(hello.clone());
    world.settle();
    let mut expected = vec![vec![hello]; ids.len()];
    for (place, &from) in ids.iter().enumerate() {
        for (distance, len) in [(1, 1000), (ids.len() / 2, 300)] {
            let place = (place + distance) % ids.len();
            let frame = frames::plain(world[ids[place]].mac(), world[from].mac(), len, from as u64);
            world[from].queue(&Outgoing::whole(&frame));
            expected[place].push(frame);
        }
        let out = frames::plain(OUTSIDE, world[from].mac(), 900, from as u64);
        world[from].send(&Outgoing::whole(&out));
    }
    world.settle();
    assert_eq!(world.wire.take_frames().len(), ids.len());
    for (&id, mut expected) in ids.iter().zip(expected) {
        expected.sort();
        let received = std::mem::take(&mut world[id].received).into_iter();
        let mut received: Vec<_> = received.map(|packet| packet.bytes).collect();
        received.sort();
        assert!(received == expected, "{:?} got {}", world[id].vif(), received.len());
        assert_eq!(world[id].unanswered(), 0);
        world[id].answers.clear();
    }
    world.check_at_rest();
}

/// F-13: as many as are served, each exchanging packets with others. One more waits until
/// there is room, and they leave in any order.
#[test]
fn f_13_sixty_four_guests_at_once() {
    among_others("crowd", Told(1), |world| {
        let mut ids = crowd(world, MAX_VIFS - OTHERS);
        for &id in &ids {
            assert!(world.is_connected(id), "{:?}: {:?}", world[id].vif(), world.error(id));
        }
        // A turn connects several, and the hypervisor's part counts too.
        assert!(world.most_kept < HEAP_FOR_A_VIF as isize / 2, "{} bytes", world.most_kept);
        exchange(world, &ids);
        let late = world.attach(0);
        world.pass(20 * SECOND);
        assert_eq!(world.own(late, "state").as_deref(), Some("1"), "it waits");
        assert_eq!(journal(Level::Warn, "wait: there are 64 vifs").len(), 1);
        exchange(world, &ids);
        assert_eq!(world.detach(ids.remove(17)), Ok(()));
        assert!(world.is_connected(late), "its turn: {:?}", world.error(late));
        ids.push(late);
        exchange(world, &ids);
        // From all over the place, so that none leaves with its neighbours.
        for n in 0..ids.len() {
            let gone = ids.remove(37 * n % ids.len());
            assert_eq!(world.detach(gone), Ok(()), "after {n}");
            if n % 16 == 5 {
                exchange(world, &ids);
            }
        }
    });
}

/// F-13, L-3: all of them are to leave at once, amid their traffic, and do in the time
/// that the toolstack gives each.
#[test]
fn f_13_sixty_four_guests_leave_together() {
    among_others("exodus", Told(0), |world| {
        let ids = crowd(world, MAX_VIFS - OTHERS);
        for (place, &from) in ids.iter().enumerate() {
            let to = world[ids[(place + 1) % ids.len()]].mac();
            let frame = frames::plain(to, world[from].mac(), 1000, 1);
            for _ in 0..40 {
                world[from].queue(&Outgoing::whole(&frame));
            }
            world[from].kick();
        }
        let now = world.now();
        let vifs: Vec<_> = ids.iter().map(|id| world[*id].vif()).collect();
        let leave = |vif| Detach::start(&mut world.store, vif, now);
        let mut leaving: Vec<_> = vifs.into_iter().map(leave).collect();
        while !leaving.is_empty() {
            world.pass(50 * MILLISECOND);
            let now = world.now();
            leaving.retain_mut(|detach| {
                let outcome = detach.poll(&mut world.store, now);
                assert!(matches!(outcome, None | Some(Ok(()))), "{outcome:?}");
                assert!(!detach.escalated, "by no force");
                outcome.is_none()
            });
        }
        assert!(world.now().since(now) < 3 * SECOND, "{:?}", world.now().since(now));
        ids.iter().for_each(|id| world[*id].gone = true);
    });
}

/// L-9: xenstored lets us have fewer nodes than that. Whom they suffice for is served; the
/// others wait, and get on when somebody has left.
#[test]
fn l9_fewer_nodes_than_guests() {
    let mut world = World::of_many();
    world.store.quotas().nodes = 1000;
    let ids = crowd(&mut world, MAX_VIFS);
    let (mut served, mut waiting): (Vec<Id>, Vec<Id>) =
        ids.into_iter().partition(|id| world.is_connected(*id));
    assert!(served.len() > 10 && waiting.len() > 5, "{} served", served.len());
    world.pass(10 * SECOND);
    let told = journal(Level::Warn, "cannot write to XenStore: quota on nodes");
    assert_eq!(told.len(), waiting.len(), "once each");
    for &id in &waiting {
        assert_eq!(world.own(id, "state").as_deref(), Some("1"), "as if nobody had seen it");
    }
    exchange(&mut world, &served);
    while !waiting.is_empty() {
        for gone in served.drain(..10) {
            assert_eq!(world.detach(gone), Ok(()));
        }
        world.pass(2 * SECOND);
        let more: Vec<Id> = waiting.extract_if(.., |id| world.is_connected(*id)).collect();
        assert!(!more.is_empty(), "there are nodes again");
        served.extend(more);
        exchange(&mut world, &served);
    }
    world.end();
}
