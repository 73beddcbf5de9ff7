//! S-5 (XSA-270), F-1, F-8: the control ring and what is asked for by it.

use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};
use xen::bindings::*;
use xen::fake::Grant;
use xen::ring::Word;

use crate::harness::{Disabled, Harmless, MILLISECOND, SECOND, Setup, Told, knock};

const MAPPING: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING;
const KEY: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_KEY;
const SIZE: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE;
const FLAGS: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS;
const ALGORITHM: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM;
const OK: u32 = XEN_NETIF_CTRL_STATUS_SUCCESS;
/// How many entries the attacker's table has, and of how many queues.
const ENTRIES: u32 = 64;
const QUEUES: usize = 2;

/// An attacker of two queues and a control ring.
fn setup() -> Setup {
    let manners = Manners { queues: QUEUES, control: true, offers: 64, ..Manners::default() };
    Setup { manners, ..Setup::default() }
}

/// A page of entries, and its reference.
fn table(world: &World, evil: Id, entries: &[u32]) -> u32 {
    let guest = &world[evil].guest;
    let frame = guest.add_page();
    let bytes: Vec<_> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    guest.page(frame).write_bytes(0, &bytes);
    guest.grant(frame, Grant::ReadOnly).0
}

/// Asks for all of it, as much as the ring takes at once; the statuses.
fn ask(world: &mut World, evil: Id, requests: &[(u32, [u32; 3])]) -> Vec<u32> {
    world[evil].hands_off = false;
    for some in requests.chunks(128) {
        some.iter().for_each(|(kind, data)| world[evil].ask(*kind, *data));
        world.settle();
    }
    let answers = std::mem::take(&mut world[evil].control_answers).into_iter();
    answers.map(|answer| answer.status).collect()
}

/// A table whose entries all name the second queue.
fn prepare(world: &mut World, evil: Id) {
    let gref = table(world, evil, &[1; ENTRIES as usize]);
    let requests = [
        (ALGORITHM, [XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ, 0, 0]),
        (FLAGS, [0xf, 0, 0]),
        (SIZE, [ENTRIES, 0, 0]),
        (MAPPING, [gref, ENTRIES, 0]),
    ];
    assert_eq!(ask(world, evil, &requests), [OK; 4]);
}

/// Tables and keys that cannot be: lengths and offsets that wrap, entries that name no queue,
/// pages that are not there, sizes, flags and types that do not exist.
fn bad_requests(world: &World, evil: Id) -> Vec<(u32, [u32; 3])> {
    let good = table(world, evil, &[0; ENTRIES as usize]);
    let mut requests: Vec<_> = [
        (ENTRIES + 1, 0),
        (1, ENTRIES),
        (ENTRIES, 1),
        (128, 1),
        (1, 128),
        (1, u32::MAX),
        (2, u32::MAX),
        (u32::MAX, 1),
        (u32::MAX, u32::MAX),
        (1 << 31, 1 << 31),
        (1 << 30, 0),
        ((1 << 30) + 1, 0),
        (1025, 0),
    ]
    .map(|(len, offset)| (MAPPING, [good, len, offset]))
    .into();
    for bad in [QUEUES as u32, 8, 255, 256, 1 << 24, u32::MAX] {
        let mut entries = [0; ENTRIES as usize];
        entries[ENTRIES as usize - 1] = bad;
        requests.push((MAPPING, [table(world, evil, &entries), ENTRIES, 0]));
    }
    for gref in [0, 77_777, u32::MAX] {
        requests.extend([(MAPPING, [gref, ENTRIES, 0]), (KEY, [gref, 40, 0])]);
    }
    requests.extend([41, 4096, u32::MAX].map(|len| (KEY, [good, len, 0])));
    requests.extend([129, u32::MAX].map(|size| (SIZE, [size, 0, 0])));
    requests.extend([0x10, u32::MAX].map(|flags| (FLAGS, [flags, 0, 0])));
    requests.extend([2, u32::MAX].map(|algorithm| (ALGORITHM, [algorithm, 0, 0])));
    requests.extend([0, 8, 9, 10, 11, 0xffff].map(|kind| (kind, [u32::MAX; 3])));
    requests
}

/// S-5 (XSA-270): rings full of requests that cannot be met, again and again. Each is answered
/// with an error, and the table stays as it was.
#[test]
fn s_05_a_flood_of_tables_that_cannot_be() {
    setup().attack("bad tables", Harmless, |world, evil| {
        prepare(world, evil);
        let requests = bad_requests(world, evil);
        let kept = world.most_kept;
        for _ in 0..100 {
            let statuses = ask(world, evil, &requests);
            assert_eq!(statuses.len(), requests.len());
            for (request, status) in requests.iter().zip(statuses) {
                assert_ne!(status, OK, "{request:x?}");
            }
        }
        assert!(world.most_kept <= kept.max(4 << 10), "{} bytes", world.most_kept);
        let sender = world.attach(1);
        world[evil].received.clear();
        for port in 0..16 {
            let frame = frames::numbered(world[evil].mac(), world[sender].mac(), port, 1, 100);
            world[sender].send(&Outgoing::whole(&frame));
        }
        world.settle();
        let queues: Vec<_> = world[evil].received.iter().map(|packet| packet.queue).collect();
        assert_eq!(queues, [1; 16]);
    });
}

/// S-5, S-3: entries that change while the table is read again and again: whatever is read, no
/// queue is used that there is not.
#[test]
fn s_05_a_table_that_flickers() {
    setup().attack("flickering", Harmless, |world, evil| {
        prepare(world, evil);
        let sender = world.attach(1);
        let guest = world[evil].guest.clone();
        let frame = guest.add_page();
        let gref = guest.grant(frame, Grant::ReadOnly).0;
        world[evil].received.clear();
        for n in 0..200u32 {
            let entry = [0, 1, QUEUES as u32, u32::MAX][n as usize % 4];
            world[evil].ask(MAPPING, [gref, ENTRIES, 0]);
            for place in 0..ENTRIES as usize {
                guest.page(frame).write_bytes(4 * place, &entry.to_le_bytes());
                if place == n as usize % ENTRIES as usize {
                    world.step();
                }
            }
            let to = world[evil].mac();
            let frame = frames::numbered(to, world[sender].mac(), n as u16, n, 100);
            world[sender].send(&Outgoing::whole(&frame));
            world.settle();
        }
        assert_eq!(world[evil].received.len(), 200);
        assert!(world[evil].received.iter().all(|packet| packet.queue < QUEUES));
        let answers = std::mem::take(&mut world[evil].control_answers);
        assert!(answers.iter().any(|answer| answer.status == OK));
        assert!(answers.iter().any(|answer| answer.status != OK));
    });
}

/// F-1, S-5 (XSA-270): Linux' netback takes whatever the control ring's producer says.
#[test]
fn f_01_s_05_the_control_rings_producer_jumps() {
    for by in [129, 257, 1 << 31, 0u32.wrapping_sub(1)] {
        setup().attack(&format!("by {by}"), Disabled("producer index"), |world, evil| {
            prepare(world, evil);
            world[evil].hands_off = true;
            let control = world[evil].control.as_ref().expect("a ring");
            let producer = control.ring.word(Word::RequestProducer);
            control.ring.set_word(Word::RequestProducer, producer.wrapping_add(by));
            world[evil].guest.notify(control.port);
        });
    }
}

/// F-8: the page of a ring is the control ring's as well, by another grant. Whatever stands
/// there are requests, and answers to them.
#[test]
fn f_08_the_control_ring_lies_in_another_ring() {
    for receive in [false, true] {
        let setup = Setup { interval: SECOND, ..setup() };
        setup.attack("another ring", Told(1), |world, _| {
            let sender = world.attach(1);
            let manners = Manners { start: 0, queues: QUEUES, control: true, ..Manners::default() };
            let evil = world.add(0, manners, &[]);
            let guest = world[evil].guest.clone();
            let rings = &world[evil].rings;
            let frame = if receive { rings.rx_page.0 } else { rings.tx_page.0 };
            let twin = guest.grant(frame, Grant::Writable);
            world[evil].set_key("ctrl-ring-ref", &twin.0.to_string());
            world[evil].hands_off = true;
            world.settle();
            let port = world[evil].control.as_ref().expect("a ring").port;
            for n in 0..20 {
                let frame = frames::plain(world[evil].mac(), world[sender].mac(), 100, n);
                world[sender].send(&Outgoing::whole(&frame));
                let out = frames::plain(OUTSIDE, world[evil].mac(), 100, n);
                world[evil].send(&Outgoing::whole(&out));
                guest.notify(port);
                knock(world, evil);
                world.pass(MILLISECOND);
            }
            world.pass(200 * MILLISECOND);
            assert_eq!(world[sender].unanswered(), 0);
        });
    }
}
