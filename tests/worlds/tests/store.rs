//! A xenstored that is slow, dead, short of something or lying (S-18). Packets do not
//! depend on it; vifs come and go as fast as it lets them; and once it is honest again
//! everything is as if it always had been.

use std::time::Duration;

use worlds::{Id, Level, Manners, Outgoing, US, World, frames, journal};
use xen::bindings::{XS_DIRECTORY, XS_ERROR, XS_READ, XS_WATCH_EVENT};
use xen::fake_store::{Lies, Manners as StoreManners, Message};
use xen::ring::Word;

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

/// With a store that is honest again the third guest is served, or at least can be taken
/// away and attached anew; and of the others we hear when one closes.
fn recovers(world: &mut World, vif: Id, by_itself: bool, what: &str) {
    let mut vif = vif;
    if !world.is_connected(vif) {
        assert!(!by_itself, "{what}: it stays away, {:?}", world.error(vif));
        world.forget(vif);
        vif = world.attach(2);
        assert!(world.is_connected(vif), "{what}: {:?}", world.error(vif));
    }
    exchange(world, [vif, 0]);
    assert_eq!(world.detach(vif), Ok(()), "{what}");
    world.set_front(1, "6");
    world.settle();
    assert_eq!(world.own(1, "state").as_deref(), Some("6"), "{what}: it is watched");
}

/// L-2, L-3: whatever xenstored takes for each request, we take no time beside it, and a
/// toolstack that has patience for the one has it for all of us.
#[test]
fn l2_l3_a_slow_store_is_all_that_takes_time() {
    for pace in [2, 50, 250].map(|pace| pace * MILLISECOND) {
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
    pass(&mut world, 100 * SECOND, guests);
    assert!(world.is_connected(c));
    detach_somehow(&mut world, c, guests);
    pass(&mut world, 100 * SECOND, guests);
    assert_eq!(world.network.vifs().count(), 2);
    honest(&mut world);
    world.end();
}

/// xenstored moves a few bytes at a time, each way.
#[test]
fn a_store_that_comes_in_bytes() {
    for chunk in [1, 15, 17] {
        let (mut world, guests) = with(StoreManners::default());
        world.store.chunk = Some(chunk);
        let c = world.attach(2);
        exchange(&mut world, guests);
        recovers(&mut world, c, true, "in bytes");
        world.end();
    }
}

/// xenstored stops at any point of an attach: to take requests, or to answer those it has
/// taken. Nobody else notices, we wait at rest, and go on when it does.
#[test]
fn s18_a_dead_store_stops_nothing_but_vifs_that_come() {
    let mut connected = Vec::new();
    for rounds in 0..24 {
        let (mut world, guests) = with(StoreManners::default());
        let c = world.add(2, Manners::default(), &[]);
        world.rounds(rounds);
        connected.push(world.is_connected(c));
        let takes = rounds % 2 == 0;
        (world.store.manners.dead, world.store.hold) = (!takes, takes);
        pass(&mut world, 30 * SECOND, guests);
        let turns = world.turns;
        world.pass(600 * SECOND);
        assert!(world.turns - turns <= 2, "{} turns for nothing", world.turns - turns);
        world.store.hold = false;
        honest(&mut world);
        recovers(&mut world, c, true, &format!("after {rounds} rounds"));
        world.end();
    }
    assert!(!connected[0] && connected[23], "from beginning to end: {connected:?}");
}

/// Vifs that are to go while xenstored is dead stay, and cost nobody anything, until it
/// says so: the toolstack takes them away, with and without patience; their guests crash,
/// die, or close.
#[test]
fn s18_vifs_that_go_while_the_store_is_dead() {
    type Go = fn(&mut World, Id, [Id; 2]);
    let ways: [(&str, Go); 4] = [
        ("detach", detach_somehow),
        ("close", |world, c, _| world.set_front(c, "6")),
        ("crash", |world, c, _| {
            world[c].hands_off = true;
            world.set_front(c, "1");
        }),
        ("die", |world, c, _| world.die(c)),
    ];
    for (what, go) in ways {
        let (mut world, guests) = with(StoreManners::default());
        let c = world.attach(2);
        world.store.manners.dead = true;
        go(&mut world, c, guests);
        pass(&mut world, 30 * SECOND, guests);
        assert_eq!(world.network.vifs().count(), 3, "{what}: nobody told us");
        honest(&mut world);
        match what {
            "die" => assert_eq!(world.bury(c), Ok(())),
            "crash" => {
                assert!(world.is_connected(c), "anew (X-8)");
                world.forget(c);
            }
            _ => assert_eq!(world.network.vifs().count(), 2, "{what}"),
        }
        world.end();
    }
}

/// What becomes of a guest does not wait for xenstored, only the word of it does: one that
/// stalls has no carrier, and one that breaks its ring is not served.
#[test]
fn s18_what_happens_while_the_store_is_dead_is_told_later() {
    let (mut world, guests) = with(StoreManners::default());
    // After this nothing that they send is for everybody.
    exchange(&mut world, guests);
    let short = Manners { offers: 0, ..Manners::default() };
    let [stalls, breaks] = [short, Manners::default()].map(|how| world.attach_with(2, how, &[]));
    world.store.manners.dead = true;
    let frame = frames::plain(world[stalls].mac(), world[guests[0]].mac(), 1000, 1);
    world[guests[0]].send(&Outgoing::whole(&frame));
    world[breaks].hands_off = true;
    let tx = &world[breaks].rings.tx;
    tx.set_word(Word::RequestProducer, tx.word(Word::RequestProducer).wrapping_add(1000));
    world[breaks].guest.notify(world[breaks].rings.port);
    world.pass(100 * MILLISECOND);
    pass(&mut world, 20 * SECOND, guests);
    assert_eq!(journal(Level::Warn, "carrier off").len(), 2);
    assert_eq!([stalls, breaks].map(|id| world.own(id, "carrier").unwrap()), ["1", "1"]);
    honest(&mut world);
    assert_eq!([stalls, breaks].map(|id| world.own(id, "carrier").unwrap()), ["0", "0"]);
    assert!(world.error(breaks).is_some_and(|error| error.contains("producer index")));
    world.end();
}

/// xenstored is short of something, or busy: every request, or every second or third, is
/// refused. A vif that comes waits until it is served, and one that goes is gone once
/// xenstored does what it is asked.
#[test]
fn s18_a_store_that_refuses() {
    for errno in ["EAGAIN", "ENOSPC", "EINVAL", "ENOMEM", "EIO", "EBUSY", "EWHATEVER"] {
        for every in 1..=3 {
            let what = format!("every {every}, {errno}");
            let refuses = Some((every, errno));
            let (mut world, guests) = with(StoreManners::default());
            let gone = world.attach(3);
            world.store.manners.refuses = refuses;
            let c = world.add(2, Manners::default(), &[]);
            pass(&mut world, 20 * SECOND, guests);
            let turns = world.turns;
            world.pass(60 * SECOND);
            assert!(world.turns - turns < 1000, "{what}: {} turns", world.turns - turns);
            detach_somehow(&mut world, gone, guests);
            assert!(journal(Level::Warn, "").len() < 40, "{what}: told with measure");
            honest(&mut world);
            assert_eq!(world.network.vifs().count(), 3, "{what}");
            recovers(&mut world, c, true, &what);
            world.end();
        }
    }
}

/// xenstored says of some things that they are not there, or not for us. It is believed of a
/// vif that comes; that one can be taken away and attached anew.
#[test]
fn s18_a_store_that_hides_what_there_is() {
    for errno in ["EACCES", "ENOENT"] {
        for every in 1..=7 {
            let refuses = Some((every, errno));
            let (mut world, guests) = with(StoreManners { refuses, ..StoreManners::default() });
            let c = world.add(2, Manners::default(), &[]);
            pass(&mut world, 20 * SECOND, guests);
            honest(&mut world);
            recovers(&mut world, c, false, &format!("every {every}, {errno}"));
            world.end();
        }
    }
}

/// Has every so-many-th message replaced, so many times.
fn lies(every: usize, times: usize, lie: fn(Message) -> Vec<Message>) -> Lies {
    let (mut seen, mut told) = (0, 0);
    Box::new(move |message| {
        seen += 1;
        if told == times || seen % every != 0 {
            return vec![message];
        }
        told += 1;
        lie(message)
    })
}

/// A value in place of each that is read.
fn value(message: Message, value: &[u8]) -> Vec<Message> {
    let reads = [XS_READ, XS_DIRECTORY].contains(&message.kind);
    let payload = if reads { value.to_vec() } else { message.payload.clone() };
    vec![Message { payload, ..message }]
}

/// Events that are not, or not so, beside each message.
fn events(message: Message) -> Vec<Message> {
    let event = |payload: &[u8]| Message { kind: XS_WATCH_EVENT, id: 0, payload: payload.to_vec() };
    let made_up: [&[u8]; 6] = [
        b"backend/vif/10/7\0vif/10/7\0",
        b"backend/vif/../..\0vif\0",
        b"backend/vif\0nobody\0",
        b"/local/domain/10/device/vif/0/state\0vif/10/0\0",
        b"control/shutdown\0control/shutdown\0",
        b"backend/vif/12/0/state\0vif\0",
    ];
    made_up.iter().map(|payload| event(payload)).chain([message.clone()]).collect()
}

/// xenstored lies. It is believed as far as it makes sense; the guests that are served go on,
/// and when it is honest again the third can come.
#[test]
fn s18_a_store_that_lies() {
    type Lie = fn(Message) -> Vec<Message>;
    let lasting: [(&str, Lie); 8] = [
        ("another kind", |message| vec![Message { kind: 77, ..message }]),
        ("empty values", |message| value(message, b"")),
        ("long values", |message| value(message, &[b'7'; 4096])),
        ("values of NULs", |message| value(message, &[0; 100])),
        ("values that are no text", |message| value(message, &[0xff; 100])),
        ("values that are paths", |message| value(message, b"/local/domain/0/../10")),
        ("values without sense", |message| value(message, b"-1")),
        ("errors without an end", |message| {
            let payload = vec![b'E'; 4096];
            let error = message.kind != XS_WATCH_EVENT;
            vec![if error { Message { kind: XS_ERROR, payload, ..message } } else { message }]
        }),
    ];
    // The first of these makes itself work; of the others we have enough at some point, and
    // connect anew.
    let passing: [(&str, Lie); 5] = [
        ("made-up events", events),
        ("answers to nobody", |message| {
            let stray = Message { id: message.id ^ 0x5555_0000, ..message.clone() };
            vec![stray; 7].into_iter().chain([message]).collect()
        }),
        ("answers twice", |message| vec![message.clone(), message]),
        ("events without an end", |message| {
            let event = Message { kind: XS_WATCH_EVENT, id: 0, payload: b"backend/vif".to_vec() };
            vec![event, message]
        }),
        ("too long", |message| vec![Message { payload: vec![0; 5000], ..message }]),
    ];
    let lasting = lasting.into_iter().map(|lie| (lie, usize::MAX));
    for ((what, lie), times) in lasting.chain(passing.map(|lie| (lie, 40))) {
        for every in [1, 2, 5] {
            let what = format!("{what}, every {every}");
            let (mut world, guests) = with(StoreManners::default());
            world.store.offer_reconnection(US);
            world.store.manners.lies = Some(lies(every, times, lie));
            let c = world.add(2, Manners::default(), &[]);
            pass(&mut world, 20 * SECOND, guests);
            honest(&mut world);
            for id in guests {
                assert!(world.is_connected(id), "{what}: {:?}", world.error(id));
            }
            recovers(&mut world, c, false, &what);
            world.end();
        }
    }
}

/// xenstored breaks each connection as soon as it is made, and offers another: that is all
/// that the control plane comes to, and packets go on beside it.
#[test]
fn s18_a_store_that_breaks_every_connection_stops_no_packets() {
    let (mut world, [a, b]) = with(StoreManners::default());
    world.store.offer_reconnection(US);
    let too_long = |message| vec![Message { payload: vec![0; 5000], ..message }];
    world.store.manners.lies = Some(lies(1, usize::MAX, too_long));
    let c = world.add(2, Manners::default(), &[]);
    let frame = frames::plain(world[b].mac(), world[a].mac(), 1000, 1);
    for n in 0..100 {
        world[a].send(&Outgoing::whole(&frame));
        world.rounds(4);
        assert_eq!((world[b].received.len(), world[a].unanswered()), (n + 1, 0));
    }
    world.store.manners = StoreManners::default();
    world.settle();
    assert!(world.is_connected(a) && world.is_connected(b));
    recovers(&mut world, c, true, "connections");
    world.end();
}
