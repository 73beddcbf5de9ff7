//! The client against the fake xenstored, through bytes.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use super::*;
use crate::DomainId;
use crate::bindings::{XS_TRANSACTION_END, XS_TRANSACTION_START};
use crate::fake_store::{Permissions, Xenstored};

const US: DomainId = DomainId(7);
const GUEST: DomainId = DomainId(9);

/// A client and its xenstored.
struct World {
    xenstored: Xenstored,
    store: Store,
    page: SharedPage,
}

impl World {
    fn new() -> Self {
        Self::starting_at(0)
    }

    fn starting_at(index: u32) -> Self {
        let mut world = Self::unconnected(index);
        assert_eq!(world.run(), [Event::Ready]);
        world
    }

    fn unconnected(index: u32) -> Self {
        let mut xenstored = Xenstored::new();
        xenstored.create_domain(US);
        xenstored.create_domain(GUEST);
        let page = xenstored.connect(US, index);
        let again = xenstored.page(US);
        Self { xenstored, store: Store::new(page), page: again }
    }

    /// Runs both sides until nothing moves; returns the client's events.
    fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..100_000 {
            let mut notified = false;
            while let Some(event) = self.store.poll(|| notified = true) {
                events.push(event);
            }
            if !self.xenstored.serve() && !notified {
                return events;
            }
        }
        panic!("never quiet: {events:?}");
    }

    /// The outcome of an operation that is alone.
    fn result(&mut self, id: Result<RequestId, Busy>) -> Result<Reply, Error> {
        let id = id.expect("there is room");
        let mut events = self.run().into_iter();
        match (events.next(), events.next()) {
            (Some(Event::Reply { id: answered, result }), None) if answered == id => result,
            other => panic!("not one reply: {other:?}"),
        }
    }

    fn read(&mut self, path: &str) -> Result<Reply, Error> {
        let id = self.store.read(path);
        self.result(id)
    }
}

fn value(text: &str) -> Result<Reply, Error> {
    Ok(Reply::Value(text.as_bytes().to_vec()))
}

/// Every operation, from any starting index, in pieces of any size.
#[test]
fn operations() {
    for (start, chunk) in
        [(0, None), (0xffff_ff80, None), (1000, None), (0xffff_ffff, Some(1)), (5, Some(7))]
    {
        let mut world = World::starting_at(start);
        world.xenstored.chunk = chunk;
        let id = world.store.write("data/a", b"one");
        assert_eq!(world.result(id), Ok(Reply::Done));
        assert_eq!(world.read("data/a"), value("one"));
        assert_eq!(world.read("/local/domain/7/data/a"), value("one"));
        let id = world.store.mkdir("data/b");
        assert_eq!(world.result(id), Ok(Reply::Done));
        assert_eq!(world.read("data/b"), value(""));
        let id = world.store.directory("data");
        assert_eq!(world.result(id), Ok(Reply::Names(vec!["a".into(), "b".into()])));
        let id = world.store.directory("data/a");
        assert_eq!(world.result(id), Ok(Reply::Names(vec![])));
        let id = world.store.remove("data/a");
        assert_eq!(world.result(id), Ok(Reply::Done));
        assert_eq!(world.read("data/a"), Err(Error::NotFound));
        assert!(!world.xenstored.dropped(US));
    }
}

/// Values longer than the ring pass through it in pieces, both ways.
#[test]
fn values_longer_than_the_ring() {
    let mut world = World::new();
    world.xenstored.quotas().node_size = 4096;
    let long: Vec<u8> = (0..4095 - "data/a".len()).map(|index| index as u8).collect();
    let id = world.store.write("data/a", &long);
    for _ in 0..3 {
        assert_eq!(world.store.poll(|| ()), None, "nothing overtakes xenstored");
    }
    assert_eq!(world.result(id), Ok(Reply::Done));
    assert_eq!(world.read("data/a"), Ok(Reply::Value(long)));
}

/// What would break the message, or the connection (L-13), is not sent.
#[test]
fn unsendable_requests() {
    let mut world = World::new();
    let before = world.xenstored.served.clone();
    for (path, error) in
        [("", Error::Invalid), ("data/a\0b", Error::Invalid), (&"x".repeat(2049), Error::TooLong)]
    {
        assert_eq!(world.read(path), Err(error.clone()));
        let id = world.store.read_many(vec!["data".to_string(), path.to_string()]);
        assert_eq!(world.result(id), Err(error.clone()));
        let id = world.store.transaction(Transaction::new().write("data/a", b"1").remove(path));
        assert_eq!(world.result(id), Err(error));
    }
    let id = world.store.write("data/a", &vec![0; 4096 - "data/a".len()]);
    assert_eq!(world.result(id), Err(Error::TooLong));
    assert_eq!(world.xenstored.served, before);
}

#[test]
fn errors_have_their_names() {
    let mut world = World::new();
    let guest = Permissions::owned(GUEST);
    let mut zero = world.xenstored.act(DomainId::ZERO);
    zero.write("/local/domain/9/data/secret", "x").unwrap();
    zero.set_permissions("/local/domain/9/data", guest).unwrap();
    assert_eq!(world.read("data/none"), Err(Error::NotFound));
    assert_eq!(world.read("/local/domain/9/data/secret"), Err(Error::Denied));
    assert_eq!(world.read("/local/domain/9/data/none"), Err(Error::Denied));
    assert_eq!(world.read("data//a"), Err(Error::Invalid));
    for (errno, error) in [
        ("EQUOTA", Error::Quota),
        ("ENOMEM", Error::NoMemory),
        ("ELSE", Error::Other("ELSE".try_into().unwrap())),
        ("E\x01VERYLONGANDUNPRINTABLE", Error::Other("EVERYLONGANDUNPR".try_into().unwrap())),
    ] {
        world.xenstored.inject(XS_READ, "a", errno, 1);
        assert_eq!(world.read("data/a"), Err(error));
    }
}

#[test]
fn reads_together() {
    let mut world = World::new();
    let mut us = world.xenstored.act(US);
    us.write("data/a", "1").unwrap();
    us.write("data/long", "x".repeat(READ_MANY_VALUE_MAX + 1)).unwrap();
    us.write("data/fits", "y".repeat(READ_MANY_VALUE_MAX)).unwrap();
    let paths = ["data/a", "data/none", "data/long", "data/fits"].map(ToString::to_string);
    let id = world.store.read_many(paths.to_vec());
    let fits = "y".repeat(READ_MANY_VALUE_MAX).into_bytes();
    let expected = vec![Ok(b"1".to_vec()), Err(Error::NotFound), Err(Error::TooLong), Ok(fits)];
    assert_eq!(world.result(id), Ok(Reply::Values(expected)));
    let id = world.store.read_many(vec![]);
    assert_eq!(world.result(id), Ok(Reply::Values(vec![])));
}

/// More operations than fit in flight are all answered, each with its own id, and
/// xenstored never has more than its quota allows (L-9).
#[test]
fn many_at_once() {
    let mut world = World::new();
    world.xenstored.hold = true;
    let mut ids = Vec::new();
    for number in 0..OPERATIONS {
        let path = format!("data/{number}");
        world.xenstored.act(US).write(&path, number.to_string()).unwrap();
        ids.push(world.store.read(&path).unwrap());
    }
    assert_eq!(world.store.read("data/0"), Err(Busy));
    assert_eq!(world.run(), []);
    assert_eq!(world.xenstored.served[&XS_READ], IN_FLIGHT);
    world.xenstored.hold = false;
    let expected: Vec<Event> = (0..OPERATIONS)
        .map(|number| Event::Reply { id: ids[number], result: value(&number.to_string()) })
        .collect();
    assert_eq!(world.run(), expected);
    assert_eq!(world.store.room(), OPERATIONS);
}

/// Answers are told apart by their ids, in whatever order they come.
#[test]
fn answers_out_of_order() {
    let mut world = World::new();
    let first = world.store.read("data/a").unwrap();
    let second = world.store.read("data/b").unwrap();
    while world.store.poll(|| ()).is_some() {}
    let wire = world.store.last_wire;
    world.xenstored.send_message(US, XS_READ, wire, b"second");
    world.xenstored.send_message(US, XS_ERROR, wire - 1, b"EACCES\0");
    world.xenstored.serve();
    let events: Vec<Event> = core::iter::from_fn(|| world.store.poll(|| ())).collect();
    assert_eq!(
        events[..2],
        [
            Event::Reply { id: second, result: value("second") },
            Event::Reply { id: first, result: Err(Error::Denied) },
        ]
    );
}

/// An answer of another kind than the question is none.
#[test]
fn answers_of_the_wrong_kind() {
    let mut world = World::new();
    let id = world.store.read("data").unwrap();
    assert_eq!(world.store.poll(|| ()), None);
    let wire = world.store.last_wire;
    world.xenstored.hold = true;
    world.xenstored.send_message(US, XS_WRITE, wire, b"OK\0");
    world.xenstored.hold = false;
    assert_eq!(world.run(), [Event::Reply { id, result: Err(Error::Protocol) }]);
}

#[test]
fn transactions_commit() {
    let mut world = World::new();
    world.xenstored.act(US).write("data/state", "2").unwrap();
    world.xenstored.act(US).write("data/old", "").unwrap();
    let id = world.store.transaction(
        Transaction::new()
            .expect("data/state", b"2")
            .write("data/new", b"n")
            .remove("data/old")
            .remove("data/never/was")
            .write("data/state", b"4"),
    );
    assert_eq!(world.result(id), Ok(Reply::Done));
    assert_eq!(world.read("data/state"), value("4"));
    assert_eq!(world.read("data/new"), value("n"));
    assert_eq!(world.read("data/old"), Err(Error::NotFound));
    let id = world.store.transaction(Transaction::new());
    assert_eq!(world.result(id), Ok(Reply::Done));
    assert_eq!(world.xenstored.transactions(US), 0);
}

/// A guard that fails, or any step, leaves everything as it was, and nothing open.
#[test]
fn transactions_give_up_whole() {
    let mut world = World::new();
    world.xenstored.act(US).write("data/state", "5").unwrap();
    world.xenstored.inject(XS_WRITE, "refused", "EQUOTA", usize::MAX);
    let before = world.xenstored.dump();
    for (transaction, error) in [
        (Transaction::new().write("data/x", b"1").expect("data/state", b"2"), Error::Guard),
        (Transaction::new().expect("data/state", b"2").write("data/x", b"1"), Error::Guard),
        (Transaction::new().expect("data/gone", b"2").write("data/gone", b"1"), Error::Guard),
        (Transaction::new().expect("data/gone", b"").write("data/gone", b"1"), Error::Guard),
        (Transaction::new().write("data/x", b"1").write("data/refused", b"1"), Error::Quota),
        (Transaction::new().write("data/x", b"1").write("/local/domain/9/x", b""), Error::Denied),
        (Transaction::new().write("data/x", b"1").remove("/local/domain/9"), Error::Denied),
    ] {
        let id = world.store.transaction(transaction);
        assert_eq!(world.result(id), Err(error));
        assert_eq!(world.xenstored.dump(), before);
        assert_eq!(world.xenstored.transactions(US), 0);
    }
}

/// Conflicts are met by trying again, a bounded number of times.
#[test]
fn transactions_meet_other_writers() {
    let mut world = World::new();
    for conflicts in [1, 7, 8, 20] {
        world.xenstored.conflicts = conflicts;
        let id = world.store.transaction(Transaction::new().write("data/x", b"1"));
        let tries = TRANSACTION_TRIES as usize;
        let expected = if conflicts < tries { Ok(Reply::Done) } else { Err(Error::Again) };
        assert_eq!(world.result(id), expected);
        assert_eq!(world.xenstored.transactions(US), 0);
        assert_eq!(world.xenstored.conflicts, conflicts.saturating_sub(tries));
    }
}

/// A real conflict, not an injected one: another domain writes what was read.
#[test]
fn a_guard_sees_what_a_conflict_brought() {
    let mut world = World::new();
    world.xenstored.act(US).write("data/state", "2").unwrap();
    let id = world
        .store
        .transaction(Transaction::new().expect("data/state", b"2").write("data/state", b"4"))
        .unwrap();
    world.xenstored.chunk = Some(1000);
    // Until the steps are done and the end is on its way.
    while !world.xenstored.served.contains_key(&XS_READ) {
        assert_eq!(world.store.poll(|| ()), None);
        world.xenstored.serve();
    }
    world.xenstored.act(DomainId::ZERO).write("/local/domain/7/data/state", "5").unwrap();
    assert_eq!(world.run(), [Event::Reply { id, result: Err(Error::Guard) }]);
    assert_eq!(world.xenstored.served[&XS_TRANSACTION_END], 2);
    assert_eq!(world.read("data/state"), value("5"));
}

/// Transactions wait for each other; what comes after them does not.
#[test]
fn one_transaction_at_a_time() {
    let mut world = World::new();
    let transaction = || Transaction::new().write("data/x", b"1");
    let first = world.store.transaction(transaction()).unwrap();
    let second = world.store.transaction(transaction()).unwrap();
    let read = world.store.read("data").unwrap();
    world.xenstored.hold = true;
    assert_eq!(world.run(), []);
    assert_eq!(world.xenstored.transactions(US), 1);
    world.xenstored.hold = false;
    let done = |id| Event::Reply { id, result: Ok(Reply::Done) };
    let expected = [Event::Reply { id: read, result: value("") }, done(first), done(second)];
    assert_eq!(world.run(), expected);
}

/// A failed start is no transaction; a strange id is no transaction either.
#[test]
fn transactions_that_do_not_start() {
    let mut world = World::new();
    world.xenstored.inject(XS_TRANSACTION_START, "", "ENOSPC", 1);
    let id = world.store.transaction(Transaction::new().write("data/x", b"1"));
    assert_eq!(world.result(id), Err(Error::NoSpace));
    for bad in [b"0\0".as_slice(), b"", b"x\0", b"4294967296\0"] {
        world.xenstored.hold = true;
        let id = world.store.transaction(Transaction::new()).unwrap();
        assert_eq!(world.store.poll(|| ()), None);
        let wire = world.store.last_wire;
        world.xenstored.send_message(US, XS_TRANSACTION_START, wire, bad);
        world.xenstored.hold = false;
        let events = world.run();
        assert_eq!(events, [Event::Reply { id, result: Err(Error::Protocol) }]);
    }
}

#[test]
fn watches() {
    let mut world = World::new();
    let event = |path: &str, token: &str| Event::Watch { path: path.into(), token: token.into() };
    let id = world.store.watch("data/w", "ours").unwrap();
    let done = Event::Reply { id, result: Ok(Reply::Done) };
    assert_eq!(world.run(), [done, event("data/w", "ours")]);
    let guest = Permissions::owned(GUEST).readable_by(US);
    let mut zero = world.xenstored.act(DomainId::ZERO);
    zero.write("/local/domain/9/data/state", "1").unwrap();
    zero.set_permissions("/local/domain/9/data/state", guest).unwrap();
    let id = world.store.watch("/local/domain/9/data/state", "theirs");
    assert!(id.is_ok());
    world.run();
    world.xenstored.act(US).write("data/w/deep/er", "1").unwrap();
    world.xenstored.act(GUEST).write("data/state", "4").unwrap();
    world.xenstored.act(GUEST).write("data/other", "4").unwrap();
    world.xenstored.act(GUEST).remove("data/state").unwrap();
    let theirs = || event("/local/domain/9/data/state", "theirs");
    assert_eq!(world.run(), [event("data/w/deep/er", "ours"), theirs(), theirs()]);
    let id = world.store.unwatch("data/w", "ours");
    assert_eq!(world.result(id), Ok(Reply::Done));
    let id = world.store.unwatch("data/w", "ours");
    assert_eq!(world.result(id), Err(Error::NotFound));
    assert_eq!(world.xenstored.watches(US), 1);
    world.xenstored.act(US).write("data/w", "2").unwrap();
    assert_eq!(world.run(), []);
}

/// A storm of events stays with xenstored until it is taken, one event at a time
/// (S-8).
#[test]
fn watch_storms_are_not_queued() {
    let mut world = World::new();
    world.store.watch("data", "t").unwrap();
    world.run();
    for _ in 0..5000 {
        world.xenstored.act(US).write("data/flip", "1").unwrap();
    }
    world.xenstored.serve();
    assert!(world.store.poll(|| ()).is_some());
    assert!(world.store.finished.is_empty());
    assert_eq!(world.store.room(), OPERATIONS);
    assert_eq!(world.run().len(), 4999);
}

/// A connection begins without what an earlier owner of the ring left behind
/// (L-13): watches, and answers to questions that we did not ask.
#[test]
fn begins_afresh() {
    let mut world = World::new();
    world.store.watch("data", "old").unwrap();
    world.run();
    world.store.read("data").unwrap();
    assert_eq!(world.store.poll(|| ()), None);
    world.xenstored.serve();
    world.store = Store::new(world.xenstored.page(US));
    assert_eq!(world.run(), [Event::Ready]);
    assert_eq!(world.xenstored.watches(US), 0);
}

/// Each way in which xenstored can break the protocol ends the connection, and
/// every operation, without a panic (S-18).
#[test]
fn broken_connections() {
    type Break = fn(&mut World);
    let closed: Break = |world| {
        let features = XENSTORE_SERVER_FEATURE_ERROR;
        world.page.store(offset_of!(interface, server_features), features);
        world.page.store(offset_of!(interface, error), 2);
    };
    let breaks: [(Break, Fault); 6] = [
        (|world| world.xenstored.break_index(US, 1025), Fault::Index),
        (|world| world.xenstored.break_index(US, u32::MAX), Fault::Index),
        (|world| world.page.store(offset_of!(interface, req_cons), 0x8000_0000), Fault::Index),
        (
            |world| {
                let words = [XS_READ, 1, 0, 4097].map(u32::to_ne_bytes).concat();
                world.xenstored.send_raw(US, &words);
            },
            Fault::Length(4097),
        ),
        (
            |world| {
                for _ in 0..=STRAYS {
                    world.xenstored.send_message(US, XS_READ, 0xdead_beef, b"");
                }
            },
            Fault::Strays,
        ),
        (closed, Fault::Closed(2)),
    ];
    for (broken, fault) in breaks {
        let mut world = World::new();
        world.xenstored.hold = true;
        let read = world.store.read("data").unwrap();
        let transaction = world.store.transaction(Transaction::new()).unwrap();
        assert_eq!(world.store.poll(|| ()), None);
        broken(&mut world);
        world.xenstored.hold = false;
        let lost = |id| Event::Reply { id, result: Err(Error::Lost) };
        // What was on its way before the fault may still have been answered.
        let events = world.run();
        let place = events.iter().position(|event| *event == Event::Lost(fault));
        let place = place.unwrap_or_else(|| panic!("no {fault:?} in {events:?}"));
        let expected = [Event::Lost(fault), lost(read), lost(transaction)];
        for event in &events[place..] {
            assert!(expected.contains(event), "{event:?}");
        }
        assert_eq!(world.read("data"), Err(Error::Lost));
    }
}

/// Where xenstored lets us, we connect anew, and everything works again: of what
/// was half sent, half received or in flight, nothing is left.
#[test]
fn reconnects() {
    let mut world = World::starting_at(77);
    world.xenstored.offer_reconnection(US);
    world.store.watch("data", "t").unwrap();
    world.run();
    world.xenstored.hold = true;
    let mut ids: Vec<_> = (1..IN_FLIGHT).map(|_| world.store.read("data").unwrap()).collect();
    ids.push(world.store.write("data/x", &[b'x'; 1500]).unwrap());
    assert_eq!(world.store.poll(|| ()), None);
    world.xenstored.hold = false;
    world.xenstored.send_raw(US, &[1; 10]);
    world.xenstored.chunk = Some(10);
    world.xenstored.serve();
    assert_eq!(world.store.poll(|| ()), None);
    world.xenstored.break_index(US, 5000);
    let events: Vec<Event> = core::iter::from_fn(|| world.store.poll(|| ())).collect();
    let lost = |id| Event::Reply { id, result: Err(Error::Lost) };
    assert_eq!(events[0], Event::Lost(Fault::Index));
    assert!(events[1..].iter().eq(ids.into_iter().map(lost).collect::<Vec<_>>().iter()));
    let read = world.store.read("data").unwrap();
    assert_eq!(world.run(), [Event::Ready, Event::Reply { id: read, result: value("") }]);
    assert_eq!(world.xenstored.watches(US), 0);
    assert!(!world.xenstored.dropped(US));
}

/// One that takes its time for each request, one that is dead for a while, and one that
/// refuses some: an answer comes to each all the same.
#[test]
fn manners() {
    use crate::Instant;
    use core::time::Duration;

    let mut world = World::new();
    let second = Duration::from_secs(1);
    world.xenstored.manners.pace = second;
    for _ in 0..2 {
        world.store.read("data").unwrap();
    }
    let answers: Vec<usize> = (0..=3)
        .map(|seconds| {
            world.xenstored.serve_at(Instant::default() + seconds * second);
            world.run().len()
        })
        .collect();
    assert_eq!(answers, [0, 1, 1, 0]);
    world.xenstored.manners = Default::default();
    world.xenstored.manners.dead = true;
    let read = world.store.read("data").unwrap();
    assert_eq!(world.run(), []);
    world.xenstored.manners.dead = false;
    assert_eq!(world.run(), [Event::Reply { id: read, result: value("") }]);
    world.xenstored.manners.refuses = Some((2, "ENOSPC"));
    let results = [(); 4].map(|()| world.read("data"));
    assert_eq!(results[..2], results[2..]);
    assert_eq!(results.iter().filter(|result| **result == Err(Error::NoSpace)).count(), 2);
}

/// xenstored is told that something moved, once per batch and only then.
#[test]
fn notifications() {
    let mut world = World::new();
    let mut told = 0;
    world.store.read("data").unwrap();
    world.store.read("data").unwrap();
    assert_eq!(world.store.poll(|| told += 1), None);
    assert_eq!(world.store.poll(|| told += 1), None);
    assert_eq!(told, 1);
    world.xenstored.serve();
    while world.store.poll(|| told += 1).is_some() {}
    assert_eq!(told, 2, "that there is room again");
}

/// Whatever the ring holds: no panic, no endless loop, at most a lost connection.
#[test]
fn noise() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u32
    };
    for round in 0..3000 {
        let mut world = World::unconnected(random());
        if round % 2 == 0 {
            world.xenstored.offer_reconnection(US);
        }
        for _ in 0..random() % 8 {
            let _ = world.store.read("data");
            let _ =
                world.store.transaction(Transaction::new().expect("data", b"").remove("data/x"));
        }
        let mut events = 0;
        for _ in 0..20 {
            match random() % 6 {
                0 => {
                    let bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
                    world.xenstored.send_raw(US, &bytes);
                }
                1 => {
                    let payload: Vec<u8> = (0..random() % 40)
                        .map(|_| b"TF0123/E\0A"[random() as usize % 10])
                        .collect();
                    let (kind, id) = (random() % 24, random() % 12);
                    world.xenstored.send_message(US, kind, id, &payload);
                }
                2 => world.page.store(2048 + 4 * (random() as usize % 8), random()),
                3 => world.xenstored.break_index(US, random() % 2000),
                _ => {
                    world.xenstored.chunk = Some(random() % 900 + 1);
                    world.xenstored.serve();
                }
            }
            while world.store.poll(|| ()).is_some() {
                events += 1;
                assert!(events < 5000, "an endless stream of events");
            }
        }
    }
}
