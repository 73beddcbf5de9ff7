//! S-18: a xenstored that is dead, short of something or lying. Packets do not depend on
//! it; vifs come and go as fast as it lets them; and once it is honest again everything is
//! as if it always had been.

use worlds::{Id, Level, Manners, Outgoing, US, World, frames, journal};
use xen::bindings::{XS_DIRECTORY, XS_ERROR, XS_READ, XS_WATCH_EVENT};
use xen::fake_store::{Lies, Manners as StoreManners, Message};
use xen::ring::Word;

use crate::harness::{EVIL, SECOND, Scene, Setup, Told};

/// How much the log may say of a xenstored that is not itself.
const MEASURE: usize = 40;

/// A scene whose plan has few turns, and its store with these manners.
fn with(what: &str, manners: StoreManners) -> Scene {
    let mut scene = Setup { interval: SECOND / 2, ..Setup::default() }.begin(what);
    scene.world.settle();
    scene.world.store.manners = manners;
    scene
}

fn honest(world: &mut World) {
    world.store.manners = StoreManners::default();
    world.pass(5 * SECOND);
}

/// Takes a vif away while its store is not itself: that may fail, and then the toolstack
/// has deleted all it knew of.
fn detach_somehow(world: &mut World, vif: Id) {
    let _ = world.detach_amid(vif, |_| {});
    world[vif].gone = true;
}

/// With a store that is honest again a vif is served, or at least can be taken away and
/// attached anew; and of the others we hear when one closes.
fn recovers(world: &mut World, vif: Id, by_itself: bool, what: &str) {
    let mut vif = vif;
    if !world.is_connected(vif) {
        assert!(!by_itself, "{what}: it stays away, {:?}", world.error(vif));
        world.forget(vif);
        vif = world.attach(2);
        assert!(world.is_connected(vif), "{what}: {:?}", world.error(vif));
    }
    for (from, to) in [(vif, EVIL), (EVIL, vif)] {
        world[to].received.clear();
        let frame = frames::plain(world[to].mac(), world[from].mac(), 1000, 1);
        world[from].send(&Outgoing::whole(&frame));
        world.settle();
        let received: Vec<_> = world[to].received.iter().map(|packet| &packet.bytes).collect();
        assert!(received == [&frame], "{what}");
    }
    for id in [vif, EVIL] {
        world.set_front(id, "6");
        world.settle();
        assert_eq!(world.own(id, "state").as_deref(), Some("6"), "{what}: it is watched");
    }
    assert_eq!(world.detach(vif), Ok(()), "{what}");
}

/// S-18: xenstored moves a few bytes at a time, each way.
#[test]
fn s_18_a_store_that_comes_in_bytes() {
    for chunk in [1, 15, 17] {
        let mut scene = with("in bytes", StoreManners::default());
        scene.world.store.chunk = Some(chunk);
        let c = scene.world.attach(2);
        recovers(&mut scene.world, c, true, "in bytes");
        scene.end(Told(0));
    }
}

/// S-18: xenstored stops at any point of an attach: to take requests, or to answer those it
/// has taken. Nobody else notices, we wait at rest, and go on when it does.
#[test]
fn s_18_a_dead_store_stops_nothing_but_vifs_that_come() {
    let mut connected = Vec::new();
    for rounds in 0..24 {
        let mut scene = with("dead", StoreManners::default());
        let world = &mut scene.world;
        let c = world.add(2, Manners::default(), &[]);
        world.rounds(rounds);
        connected.push(world.is_connected(c));
        let takes = rounds % 2 == 0;
        (world.store.manners.dead, world.store.hold) = (!takes, takes);
        world.pass(30 * SECOND);
        world.rest();
        let turns = world.turns;
        world.pass(600 * SECOND);
        assert!(world.turns - turns <= 2, "{} turns for nothing", world.turns - turns);
        world.go_on();
        world.store.hold = false;
        honest(world);
        recovers(world, c, true, &format!("after {rounds} rounds"));
        scene.end(Told(0));
    }
    assert!(!connected[0] && connected[23], "from beginning to end: {connected:?}");
}

/// S-18: vifs that are to go while xenstored is dead stay, and cost nobody anything, until
/// it says so: the toolstack takes them away, with and without patience; their guests
/// crash, die, or close.
#[test]
fn s_18_vifs_that_go_while_the_store_is_dead() {
    type Go = fn(&mut World, Id);
    let ways: [(&str, Go); 4] = [
        ("detach", detach_somehow),
        ("close", |world, c| world.set_front(c, "6")),
        ("crash", |world, c| {
            world[c].hands_off = true;
            world.set_front(c, "1");
        }),
        ("die", |world, c| world.die(c)),
    ];
    for (what, go) in ways {
        let mut scene = with(what, StoreManners::default());
        let world = &mut scene.world;
        let c = world.attach(2);
        world.store.manners.dead = true;
        go(world, c);
        world.pass(30 * SECOND);
        assert_eq!(world.network.vifs().count(), 4, "{what}: nobody told us");
        honest(world);
        match what {
            "die" => assert_eq!(world.bury(c), Ok(())),
            "crash" => {
                assert!(world.is_connected(c), "anew (X-8)");
                world.forget(c);
            }
            _ => assert_eq!(world.network.vifs().count(), 3, "{what}"),
        }
        scene.end(Told(0));
    }
}

/// S-18: what becomes of a guest does not wait for xenstored, only the word of it does: one
/// that stalls has no carrier, and one that breaks its ring is not served.
#[test]
fn s_18_what_happens_while_the_store_is_dead_is_told_later() {
    let mut scene = with("later", StoreManners::default());
    let world = &mut scene.world;
    let short = Manners { offers: 0, ..Manners::default() };
    let [stalls, breaks] = [short, Manners::default()].map(|how| world.attach_with(2, how, &[]));
    world.store.manners.dead = true;
    let frame = frames::plain(world[stalls].mac(), world[EVIL].mac(), 1000, 1);
    world[EVIL].send(&Outgoing::whole(&frame));
    world[breaks].hands_off = true;
    let tx = &world[breaks].rings.tx;
    tx.set_word(Word::RequestProducer, tx.word(Word::RequestProducer).wrapping_add(1000));
    world[breaks].guest.notify(world[breaks].rings.port);
    world.pass(20 * SECOND);
    assert_eq!(journal(Level::Warn, "carrier off").len(), 2);
    assert_eq!([stalls, breaks].map(|id| world.own(id, "carrier").unwrap()), ["1", "1"]);
    honest(world);
    assert_eq!([stalls, breaks].map(|id| world.own(id, "carrier").unwrap()), ["0", "0"]);
    assert!(world.error(breaks).is_some_and(|error| error.contains("producer index")));
    scene.end(Told(2));
}

/// S-18: xenstored is short of something, or busy: every request, or every second or third,
/// is refused. A vif that comes waits until it is served, and one that goes is gone once
/// xenstored does what it is asked.
#[test]
fn s_18_a_store_that_refuses() {
    for errno in ["EAGAIN", "ENOSPC", "EINVAL", "ENOMEM", "EIO", "EBUSY", "EWHATEVER"] {
        for every in 1..=3 {
            let what = format!("every {every}, {errno}");
            let mut scene = with(&what, StoreManners::default());
            let world = &mut scene.world;
            let gone = world.attach(1);
            world.store.manners.refuses = Some((every, errno));
            let c = world.add(2, Manners::default(), &[]);
            world.pass(20 * SECOND);
            world.rest();
            let turns = world.turns;
            world.pass(60 * SECOND);
            assert!(world.turns - turns < 1000, "{what}: {} turns", world.turns - turns);
            world.go_on();
            detach_somehow(world, gone);
            honest(world);
            assert_eq!(world.network.vifs().count(), 4, "{what}");
            recovers(world, c, true, &what);
            scene.end(Told(MEASURE));
        }
    }
}

/// S-18: xenstored says of some things that they are not there, or not for us. It is
/// believed of a vif that comes; that one can be taken away and attached anew.
#[test]
fn s_18_a_store_that_hides_what_there_is() {
    for errno in ["EACCES", "ENOENT"] {
        for every in 1..=7 {
            let what = format!("every {every}, {errno}");
            let refuses = Some((every, errno));
            let mut scene = with(&what, StoreManners { refuses, ..StoreManners::default() });
            let world = &mut scene.world;
            let c = world.add(2, Manners::default(), &[]);
            world.pass(20 * SECOND);
            honest(world);
            recovers(world, c, false, &what);
            scene.end(Told(MEASURE));
        }
    }
}

/// S-18 (XSA-326): xenstored lets us have no node more, and then some again.
#[test]
fn s_18_no_node_is_left() {
    let mut scene = with("quota", StoreManners::default());
    let world = &mut scene.world;
    world.store.quotas().nodes = world.store.nodes(US);
    let c = world.attach(2);
    world.pass(20 * SECOND);
    assert!(!world.is_connected(c));
    world.store.quotas().nodes = 1000;
    honest(world);
    recovers(world, c, true, "quota");
    scene.end(Told(MEASURE));
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

/// S-18: xenstored lies. It is believed as far as it makes sense; the guests that are served go on,
/// and when it is honest again the third can come.
#[test]
fn s_18_a_store_that_lies() {
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
            let mut scene = with(&what, StoreManners::default());
            let world = &mut scene.world;
            world.store.offer_reconnection(US);
            world.store.manners.lies = Some(lies(every, times, lie));
            let c = world.add(2, Manners::default(), &[]);
            world.pass(20 * SECOND);
            honest(world);
            assert!(world.is_connected(EVIL), "{what}: {:?}", world.error(EVIL));
            recovers(world, c, false, &what);
            // A line for each lie, and one for what came of it.
            scene.end(Told(2 * MEASURE));
        }
    }
}

/// S-18: xenstored breaks each connection as soon as it is made, and offers another: that is
/// all that the control plane comes to, and packets go on beside it.
#[test]
fn s_18_a_store_that_breaks_every_connection_stops_no_packets() {
    let mut scene = with("connections", StoreManners::default());
    let world = &mut scene.world;
    world.store.offer_reconnection(US);
    let too_long = |message| vec![Message { payload: vec![0; 5000], ..message }];
    world.store.manners.lies = Some(lies(1, usize::MAX, too_long));
    let c = world.add(2, Manners::default(), &[]);
    for _ in 0..100 {
        // It never rests, so that no time passes.
        world.go_on();
        world.keep_schedule();
        world.rounds(4);
    }
    world.store.manners = StoreManners::default();
    world.settle();
    assert!(world.is_connected(EVIL));
    recovers(world, c, true, "connections");
    scene.end(Told(MEASURE * 10));
}
