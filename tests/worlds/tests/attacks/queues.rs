//! F-8, F-9: queues of which there are too many, not enough, or only a part, and which share
//! what each should have for itself.

use worlds::{Id, Manners, Outgoing, World, frames};

use crate::harness::{SECOND, Setup, Told, attack};

fn manners(queues: usize) -> Manners {
    Manners { queues, control: true, offers: 64, ..Manners::default() }
}

/// The value of a key that a frontend is going to write.
fn value(world: &World, id: Id, key: &str) -> String {
    let keys = &world[id].xenbus.keys;
    keys.iter().find(|(name, _)| name == key).expect("a key").1.clone()
}

/// Another vif of the attacker's is refused for what it says, in these words, and leaves
/// nothing.
fn is_refused(world: &mut World, evil: Id, words: &str) {
    world.settle();
    let error = world.error(evil).unwrap_or_else(|| panic!("{words}: no error"));
    assert!(error.starts_with(words), "{words}: {error}");
    assert_eq!(world.own(evil, "state").as_deref(), Some("6"), "{words}");
    world.check_at_rest();
    assert_eq!(world.detach(evil), Ok(()), "{words}");
}

/// F-8: one page for several rings, of one queue, of two, or the control ring's; one port for
/// several of them.
#[test]
fn f_08_pages_and_ports_named_twice() {
    type Case = (usize, &'static [&'static str], &'static str, &'static str);
    let cases: [Case; 11] = [
        (1, &["rx-ring-ref"], "tx-ring-ref", "rx-ring-ref contradicts"),
        (1, &["ctrl-ring-ref"], "tx-ring-ref", "ctrl-ring-ref contradicts tx-ring-ref"),
        (1, &["rx-ring-ref", "ctrl-ring-ref"], "tx-ring-ref", "rx-ring-ref contradicts"),
        (1, &["event-channel-ctrl"], "event-channel", "binding event-channel-ctrl:"),
        (2, &["queue-1/event-channel"], "queue-0/event-channel", "binding queue-1/event-channel:"),
        (2, &["event-channel-ctrl"], "queue-1/event-channel", "binding event-channel-ctrl:"),
        (2, &["queue-0/rx-ring-ref"], "queue-0/tx-ring-ref", "queue-0/rx-ring-ref contradicts"),
        (2, &["queue-1/tx-ring-ref"], "queue-0/tx-ring-ref", "queue-1/tx-ring-ref contradicts"),
        (2, &["queue-1/rx-ring-ref"], "queue-0/tx-ring-ref", "queue-1/rx-ring-ref contradicts"),
        (2, &["ctrl-ring-ref"], "queue-1/rx-ring-ref", "ctrl-ring-ref contradicts queue-1/rx"),
        (8, &["ctrl-ring-ref"], "queue-7/tx-ring-ref", "ctrl-ring-ref contradicts queue-7/tx"),
    ];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("named twice", Told(cases.len()), |world, _| {
        for (queues, keys, of, words) in cases {
            let evil = world.add(0, manners(queues), &[]);
            let value = value(world, evil, of);
            keys.iter().for_each(|key| world[evil].set_key(key, &value));
            is_refused(world, evil, words);
        }
    });
}

/// F-9: more queues than there are, none, no number, and queues without all of their keys.
#[test]
fn f_09_queues_that_are_not_there() {
    const COUNT: &str = "multi-queue-num-queues";
    let cases = [
        (COUNT, "0", "multi-queue-num-queues asks"),
        (COUNT, "9", "multi-queue-num-queues asks"),
        (COUNT, "65535", "multi-queue-num-queues asks"),
        (COUNT, "4294967296", "multi-queue-num-queues is malformed"),
        (COUNT, "-1", "multi-queue-num-queues is malformed"),
        (COUNT, "", "multi-queue-num-queues is malformed"),
        (COUNT, "4", "queue-3/tx-ring-ref is missing"),
        (COUNT, "8", "queue-3/tx-ring-ref is missing"),
        (COUNT, "1", "tx-ring-ref is missing"),
        ("queue-2/event-channel-tx", "9", "queue-2/event-channel-rx is missing"),
        ("queue-2/event-channel-rx", "9", "queue-2/event-channel-tx is missing"),
        ("queue-2/rx-ring-ref", "", "queue-2/rx-ring-ref is malformed"),
        ("queue-1/tx-ring-ref", "x", "queue-1/tx-ring-ref is malformed"),
        ("queue-1/event-channel", "77", "binding queue-1/event-channel:"),
        ("queue-2/rx-ring-ref", "77777", "mapping queue-2/rx-ring-ref:"),
    ];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("queues", Told(cases.len()), |world, _| {
        for (key, value, words) in cases {
            let evil = world.add(0, manners(3), &[]);
            world[evil].set_key(key, value);
            is_refused(world, evil, words);
        }
    });
}

/// F-9: the number of queues and their keys change once the vif is connected. It is served as
/// it was, and what they say counts when it connects the next time.
#[test]
fn f_09_queues_that_change_once_connected() {
    attack("more queues", Told(1), |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        let mappings = world.xen.audit().mappings;
        for count in ["8", "0", "65535", "x", "4"] {
            world.set_front_key(evil, "multi-queue-num-queues", count);
            world.set_front_key(evil, "queue-0/tx-ring-ref", "8");
            world.set_front(evil, "4");
            world.settle();
            assert_eq!((world.is_connected(evil), world.error(evil)), (true, None));
            assert_eq!(world.xen.audit().mappings, mappings, "{count}");
            let out = frames::plain(worlds::OUTSIDE, world[evil].mac(), 100, 1);
            world[evil].answers.clear();
            let ids = world[evil].send(&Outgoing::whole(&out));
            world.settle();
            world.check_answers(evil, &ids, xen::netif::Status::Okay);
        }
        world.restart(evil);
        let error = world.error(evil).expect("four queues, of which one is half there");
        assert!(error.starts_with("queue-0/rx-ring-ref is missing"), "{error}");
    });
}
