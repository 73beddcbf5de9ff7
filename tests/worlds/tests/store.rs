//! A xenstored that is slow, dead, short of something or lying (S-18). Packets do not
//! depend on it; vifs come and go as fast as it lets them; and once it is honest again
//! everything is as if it always had been.

use std::time::Duration;

use worlds::{Id, Manners, Outgoing, World, frames};
use xen::fake_store::Manners as StoreManners;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// How long libxl waits for each step (L-2, L-3).
const PATIENCE: Duration = Duration::from_secs(10);

/// Two guests and a station on the wire exchange packets, which arrive at once.
fn exchange(world: &mut World, guests: [Id; 2]) {
    let [a, b] = guests;
    let plain = |to, from| frames::plain(to, from, 1000, 7);
    let [mac_a, mac_b] = guests.map(|id| world[id].mac());
    for (from, to) in [(a, mac_b), (b, mac_a), (a, OUTSIDE)] {
        let packet = plain(to, world[from].mac());
        world[from].send(&Outgoing::whole(&packet));
    }
    world.wire.inject(plain(mac_b, OUTSIDE));
    world.settle();
    for (id, mac, senders) in [(a, mac_a, vec![mac_b]), (b, mac_b, vec![mac_a, OUTSIDE])] {
        let mut received: Vec<_> = world[id].received.drain(..).collect();
        received.retain(|packet| packet.bytes[..6] == mac);
        assert!(received.iter().all(|packet| packet.at == world.now()));
        let mut from: Vec<_> = received.iter().map(|packet| &packet.bytes[6..12]).collect();
        from.sort();
        assert_eq!(from, senders);
        assert_eq!(world[id].unanswered(), 0);
    }
    assert_eq!(world.wire.take_frames(), [plain(OUTSIDE, mac_a)]);
}

/// Lets time pass, with packets in every part of it.
fn pass(world: &mut World, time: Duration, guests: [Id; 2]) {
    for _ in 0..20 {
        world.pass(time / 20);
        exchange(world, guests);
    }
}

/// A world with two guests that are connected, and its store with these manners.
fn with(manners: StoreManners) -> (World, [Id; 2]) {
    let mut world = World::new();
    let guests = world.connected();
    world.store.manners = manners;
    (world, guests)
}

fn honest(world: &mut World) {
    world.store.manners = StoreManners::default();
    world.pass(5 * SECOND);
}

/// How much xenstored has done for us.
fn requests(world: &World) -> u32 {
    world.store.served.values().sum::<usize>() as u32
}

/// Waits until a vif has this state, with packets all along; for how long, and how much
/// xenstored did meanwhile.
fn wait(world: &mut World, vif: Id, state: &str, guests: [Id; 2]) -> (Duration, u32) {
    let (start, before) = (world.now(), requests(world));
    while world.own(vif, "state").as_deref() != Some(state) {
        assert!(world.now().since(start) < 60 * SECOND, "never {state}");
        world.pass(MILLISECOND);
        exchange(world, guests);
    }
    (world.now().since(start), requests(world) - before)
}

/// Takes a vif away while its store is not itself: that may fail, and then the toolstack
/// has deleted all it knew of.
fn detach_somehow(world: &mut World, vif: Id, guests: [Id; 2]) {
    let _ = world.detach_amid(vif, |world| exchange(world, guests));
    world[vif].gone = true;
}

/// L-2, L-3: whatever xenstored takes for each request, we take no time beside it, and a
/// toolstack that has patience for the one has it for all of us.
#[test]
fn l2_l3_a_slow_store_is_all_that_takes_time() {
    for pace in [2, 50, 200].map(|pace| pace * MILLISECOND) {
        let (mut world, guests) = with(StoreManners { pace, ..StoreManners::default() });
        let c = world.add(2, Manners::default(), &[]);
        let (time, done) = wait(&mut world, c, "2", guests);
        assert_eq!(time, pace * done);
        assert!(time < PATIENCE, "{time:?} (L-2)");
        let (time, done) = wait(&mut world, c, "4", guests);
        assert_eq!(time, pace * done);
        exchange(&mut world, [c, guests[0]]);
        // The toolstack sees the 6, and that the directory is gone, each in its time.
        let (start, before) = (world.now(), requests(&world));
        assert_eq!(world.detach_amid(c, |world| exchange(world, guests)), Ok(()));
        let (time, done) = (world.now().since(start), requests(&world) - before);
        let expected = Duration::from_millis(1500) + pace * done;
        assert!(time <= expected + 50 * MILLISECOND, "{time:?} where {expected:?} would do");
        honest(&mut world);
        world.end();
    }
}

/// L-3: slower than the toolstack waits. What it gives up we still tidy up.
#[test]
fn l3_a_store_that_is_too_slow() {
    let (mut world, guests) = with(StoreManners { pace: 2 * SECOND, ..StoreManners::default() });
    let c = world.add(2, Manners::default(), &[]);
    pass(&mut world, 200 * SECOND, guests);
    assert!(world.is_connected(c));
    detach_somehow(&mut world, c, guests);
    pass(&mut world, 200 * SECOND, guests);
    assert_eq!(world.network.vifs().count(), 2);
    honest(&mut world);
    world.end();
}
