//! The control ring: frontends that choose the hash of their packets and the queue for each
//! value of it, and frontends that choose what there is not (P-25, S-5).

use std::time::Duration;

use kernel::packet::flow::HashKind;
use worlds::{Id, Level, Manners, Outgoing, ToldHash, World, frames, journal};
use xen::bindings::*;
use xen::fake::{Grant, Kind, Operation, When};
use xen::grant::GrantRef;

const OK: u32 = XEN_NETIF_CTRL_STATUS_SUCCESS;
const NOT_SUPPORTED: u32 = XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED;
const INVALID: u32 = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER;
const OVERFLOW: u32 = XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW;

const ALGORITHM: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM;
const GET_FLAGS: u32 = XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS;
const FLAGS: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS;
const KEY: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_KEY;
const GET_SIZE: u32 = XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE;
const SIZE: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE;
const MAPPING: u32 = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING;

const NONE: u32 = XEN_NETIF_CTRL_HASH_ALGORITHM_NONE;
const TOEPLITZ: u32 = XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ;

/// The key of Microsoft's "Verifying the RSS Hash Calculation".
const PUBLISHED_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Source and destination with their ports, and the hash over all of it.
type Segment = ([u8; 4], u16, [u8; 4], u16, u32);

/// Its segments from 66.9.149.187:2794 to 161.142.100.80:1766 and from 199.92.111.2:14230 to
/// 65.69.140.83:4739.
const SEGMENTS: [Segment; 2] = [
    ([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766, 0x51cc_c178),
    ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xc626_b0ea),
];

fn manners(queues: usize) -> Manners {
    Manners { queues, control: true, offers: 64, ..Manners::default() }
}

/// A sender, and a receiver of so many queues.
fn world(queues: usize) -> (World, Id, Id) {
    let mut world = World::of_many();
    let a = world.attach(0);
    let b = world.attach_with(1, manners(queues), &[]);
    assert!(world.is_connected(b), "{:?}", world.error(b));
    (world, a, b)
}

/// Asks for something; the status and what comes with it.
fn ask(world: &mut World, id: Id, kind: u32, data: [u32; 3]) -> (u32, u32) {
    world[id].ask(kind, data);
    world.settle();
    let answer = world[id].control_answers.pop().expect("an answer");
    assert_eq!(u32::from(answer.kind), kind, "the type is echoed");
    assert!(world[id].control_answers.is_empty(), "one answer");
    if answer.status != OK {
        assert_eq!(answer.data, 0);
    }
    (answer.status, answer.data)
}

fn done(world: &mut World, id: Id, kind: u32, data: [u32; 3]) {
    assert_eq!(ask(world, id, kind, data), (OK, 0), "type {kind}, {data:x?}");
}

/// A page of the guest's that holds `bytes`, granted read-only.
fn page(world: &World, id: Id, bytes: &[u8]) -> GrantRef {
    let guest = &world[id].guest;
    let frame = guest.add_page();
    guest.page(frame).write_bytes(0, bytes);
    guest.grant(frame, Grant::ReadOnly)
}

/// Has the guest set entries of its table; the status.
fn set_mapping(world: &mut World, id: Id, entries: &[u32], offset: u32) -> u32 {
    let bytes: Vec<_> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let gref = page(world, id, &bytes);
    let answer = ask(world, id, MAPPING, [gref.0, entries.len() as u32, offset]);
    assert!(world[id].guest.end_grant(gref), "it is not in use after the answer");
    answer.0
}

/// Toeplitz over all there is, with the published key.
fn choose_toeplitz(world: &mut World, id: Id) {
    let gref = page(world, id, &PUBLISHED_KEY);
    done(world, id, ALGORITHM, [TOEPLITZ, 0, 0]);
    done(world, id, FLAGS, [HashKind::ALL, 0, 0]);
    done(world, id, KEY, [gref.0, 40, 0]);
}

fn segment(world: &World, from: Id, to: Id, which: usize) -> Vec<u8> {
    let (source, source_port, destination, port, _) = SEGMENTS[which];
    let (to, from) = (world[to].mac(), world[from].mac());
    frames::segment(to, from, (source, source_port), (destination, port), &[7; 300])
}

/// Sends a published segment; the queue by which it arrives, and the hash that is told.
fn arrival(world: &mut World, from: Id, to: Id, which: usize) -> (usize, Option<ToldHash>) {
    let frame = segment(world, from, to, which);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
    let received = world[to].received.pop().expect("it arrives");
    assert_eq!((received.bytes, received.failed), (frame, 0));
    (received.queue, received.hash)
}

/// The hash is as published and told with each packet, and the table says which queue, from
/// the next packet on.
#[test]
fn p25_the_frontend_chooses_hash_and_queue() {
    for queues in [1, 2, 4, 8] {
        let (mut world, a, b) = world(queues);
        assert_eq!(arrival(&mut world, a, b, 0).1, None, "none was asked for");
        choose_toeplitz(&mut world, b);
        let told = |which: usize| {
            let (kind, value) = (HashKind::V4Tcp as u8, SEGMENTS[which].4);
            Some(ToldHash { kind, algorithm: TOEPLITZ as u8, value })
        };
        // Without a table the hash itself says.
        for which in [0, 1] {
            let queue = SEGMENTS[which].4 as usize % queues;
            assert_eq!(arrival(&mut world, a, b, which), (queue, told(which)));
        }
        done(&mut world, b, SIZE, [128, 0, 0]);
        for which in [0, 1] {
            assert_eq!(arrival(&mut world, a, b, which), (0, told(which)), "a table of zeros");
        }
        // Each queue in turn, while packets pass.
        for queue in (0..queues).rev() {
            let place = SEGMENTS[1].4 % 128;
            assert_eq!(set_mapping(&mut world, b, &[queue as u32], place), OK);
            assert_eq!(arrival(&mut world, a, b, 0), (0, told(0)));
            assert_eq!(arrival(&mut world, a, b, 1), (queue, told(1)));
        }
        // Over the addresses alone.
        done(&mut world, b, FLAGS, [HashKind::V4.flag(), 0, 0]);
        let (_, hash) = arrival(&mut world, a, b, 0);
        let kind = HashKind::V4 as u8;
        let value = 0x323e_8fc2;
        assert_eq!(hash, Some(ToldHash { kind, algorithm: TOEPLITZ as u8, value }));
        // What there is no hash of is as if it were zero.
        done(&mut world, b, FLAGS, [HashKind::V6.flag(), 0, 0]);
        assert_eq!(set_mapping(&mut world, b, &[queues as u32 - 1], 0), OK);
        assert_eq!(arrival(&mut world, a, b, 0), (queues - 1, None));
        for off in [[FLAGS, 0], [ALGORITHM, NONE]] {
            choose_toeplitz(&mut world, b);
            assert!(arrival(&mut world, a, b, 0).1.is_some());
            done(&mut world, b, off[0], [off[1], 0, 0]);
            assert_eq!(arrival(&mut world, a, b, 0).1, None);
        }
        world.check_at_rest();
        world.end();
    }
}

/// P-19: a hash takes a slot. With one too few, the packet waits for another; packets of
/// several slots are as long as ever.
#[test]
fn p19_a_hash_takes_a_slot() {
    let mut world = World::of_many();
    let jumbo = [("mtu", "65517")];
    let a = world.attach_with(0, Manners::default(), &jumbo);
    let short = Manners { offers: 1, refills: false, ..manners(1) };
    let b = world.attach_with(1, short, &jumbo);
    choose_toeplitz(&mut world, b);
    let frame = segment(&world, a, b, 0);
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    assert_eq!(world[b].received.len(), 0, "one slot for two");
    world[b].offer(1);
    world.settle();
    assert_eq!(world[b].received.pop().expect("it arrives").bytes, frame);
    for pages in [1, 2, 5, 16] {
        world[b].offer(pages + 1);
        let (source, source_port, destination, port, _) = SEGMENTS[0];
        let (to, from) = (world[b].mac(), world[a].mac());
        let payload = vec![9; 4096 * pages as usize - 200];
        let frame = frames::segment(to, from, (source, source_port), (destination, port), &payload);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        let received = world[b].received.pop().expect("it arrives");
        assert_eq!((received.slots, received.bytes), (pages as usize, frame));
        assert_eq!(received.hash.map(|hash| hash.value), Some(SEGMENTS[0].4));
        assert_eq!(world[b].rings.rx.free(), 256, "exact fit");
    }
    world.end();
}

/// Requests and what they are answered with; nothing of those that fail is in force.
#[test]
fn p25_answers() {
    let (mut world, a, b) = world(4);
    // There has to be an algorithm first.
    assert_eq!(ask(&mut world, b, GET_FLAGS, [0; 3]).0, NOT_SUPPORTED);
    assert_eq!(ask(&mut world, b, FLAGS, [HashKind::ALL, 0, 0]).0, NOT_SUPPORTED);
    assert_eq!(ask(&mut world, b, ALGORITHM, [2, 0, 0]).0, INVALID);
    assert_eq!(ask(&mut world, b, ALGORITHM, [0x101, 0, 0]).0, INVALID);
    choose_toeplitz(&mut world, b);
    assert_eq!(ask(&mut world, b, GET_FLAGS, [0; 3]), (OK, 0xf));
    assert_eq!(ask(&mut world, b, GET_SIZE, [0; 3]), (OK, 128));
    for flags in [0x10, 0x1f, u32::MAX] {
        assert_eq!(ask(&mut world, b, FLAGS, [flags, 0, 0]).0, INVALID);
    }
    for size in [129, 1 << 16, u32::MAX] {
        assert_eq!(ask(&mut world, b, SIZE, [size, 0, 0]).0, INVALID);
    }
    for kind in [0, 8, 9, 10, 11, 0xff, 0xffff] {
        assert_eq!(ask(&mut world, b, kind, [0; 3]).0, NOT_SUPPORTED, "type {kind}");
    }
    let gref = page(&world, b, &[0xff; 4096]).0;
    for len in [41, 4096, u32::MAX] {
        assert_eq!(ask(&mut world, b, KEY, [gref, len, 0]).0, OVERFLOW);
    }
    assert_eq!(arrival(&mut world, a, b, 0).1.map(|hash| hash.value), Some(SEGMENTS[0].4));
    // A key of no bytes is none, and its page is not looked at.
    done(&mut world, b, KEY, [0xffff_fff0, 0, 0]);
    assert_eq!(arrival(&mut world, a, b, 0).1.map(|hash| hash.value), Some(0));
    world.end();
}

/// S-5 (XSA-270): offsets and lengths that wrap, entries that name no queue, pages that are
/// not there. The table stays as it was, be it that the last entry of many is bad.
#[test]
fn s5_tables_that_cannot_be() {
    let (mut world, a, b) = world(4);
    choose_toeplitz(&mut world, b);
    let entries = [3; 64];
    let bytes: Vec<_> = entries.iter().flat_map(|entry: &u32| entry.to_le_bytes()).collect();
    let gref = page(&world, b, &bytes).0;
    // Before there is a table.
    assert_eq!(ask(&mut world, b, MAPPING, [gref, 1, 0]).0, INVALID);
    done(&mut world, b, SIZE, [64, 0, 0]);
    assert_eq!(set_mapping(&mut world, b, &entries, 0), OK);
    let expected = arrival(&mut world, a, b, 0);
    assert_eq!(expected.0, 3);
    let copies = world.xen.counts().copies;
    for (len, offset, status) in [
        (65, 0, INVALID),
        (1, 64, INVALID),
        (64, 1, INVALID),
        (64, 64, INVALID),
        (128, 1, OVERFLOW),
        (1, 128, OVERFLOW),
        (1025, 0, OVERFLOW),
        (1, u32::MAX, INVALID),
        (2, u32::MAX, INVALID),
        (u32::MAX, 1, INVALID),
        (u32::MAX, u32::MAX, INVALID),
        (1 << 31, 1 << 31, INVALID),
        (u32::MAX, 0, OVERFLOW),
        ((1 << 30) + 1, 0, OVERFLOW),
    ] {
        assert_eq!(ask(&mut world, b, MAPPING, [gref, len, offset]).0, status, "{len} {offset}");
    }
    assert_eq!(world.xen.counts().copies, copies, "nothing of it was read");
    assert_eq!(ask(&mut world, b, MAPPING, [0xffff_fff0, 0, 64]).0, OK, "no entry");
    for bad in [4, 5, 255, 256, 0x100, 0x0300_0000, u32::MAX] {
        let mut entries = [0; 64];
        entries[63] = bad;
        assert_eq!(set_mapping(&mut world, b, &entries, 0), INVALID, "{bad}");
        assert_eq!(set_mapping(&mut world, b, &[bad], 5), INVALID, "{bad}");
    }
    for gref in [0, 77_777, u32::MAX] {
        assert_eq!(ask(&mut world, b, MAPPING, [gref, 64, 0]).0, INVALID);
        assert_eq!(ask(&mut world, b, KEY, [gref, 40, 0]).0, INVALID);
    }
    let revoked = page(&world, b, &[0; 4096]);
    world[b].guest.revoke(revoked);
    assert_eq!(ask(&mut world, b, MAPPING, [revoked.0, 64, 0]).0, INVALID);
    assert_eq!(arrival(&mut world, a, b, 0), expected, "all as it was");
    // A smaller table is a new one.
    done(&mut world, b, SIZE, [8, 0, 0]);
    assert_eq!(arrival(&mut world, a, b, 0).0, 0);
    done(&mut world, b, SIZE, [64, 0, 0]);
    assert_eq!(arrival(&mut world, a, b, 0).0, 0, "nothing of the old one is left");
    assert_eq!(journal(Level::Warn, ""), Vec::<String>::new());
    world.end();
}

/// S-3: the table's page changes while it is being read. What was copied is what is looked
/// at, and what is in force: the guest's page afterwards is of no meaning.
#[test]
fn s3_the_table_changes_once_it_was_read() {
    let (mut world, a, b) = world(2);
    choose_toeplitz(&mut world, b);
    done(&mut world, b, SIZE, [1, 0, 0]);
    let guest = world[b].guest.clone();
    let frame = guest.add_page();
    let gref = guest.grant(frame, Grant::ReadOnly);
    // Whenever we do anything more, there is a bad queue in the page.
    let (seen, spoiler) = (guest.page(frame), guest.page(frame));
    seen.write_bytes(0, &1u32.to_le_bytes());
    let spoil = When::Chosen(Box::new(move |_: &Operation| {
        spoiler.write_bytes(0, &200u32.to_le_bytes());
        false
    }));
    world.xen.fail(Kind::Notify, spoil, 1);
    done(&mut world, b, MAPPING, [gref.0, 1, 0]);
    for _ in 0..5 {
        assert_eq!(arrival(&mut world, a, b, 0).0, 1);
    }
    world.end();
}

/// A ring full of requests that each read a page, again and again, and events without any:
/// a few are answered in a pass, so that others' packets do not wait for them.
#[test]
fn s7_a_storm_of_requests() {
    let (mut world, a, b) = world(2);
    let c = world.attach(2);
    choose_toeplitz(&mut world, b);
    let gref = page(&world, b, &[0; 4096]).0;
    done(&mut world, b, SIZE, [128, 0, 0]);
    for _ in 0..5 {
        for n in 0..128 {
            let request = [(MAPPING, [gref, 128, 0]), (KEY, [gref, 40, 0])][n % 2];
            world[b].ask(request.0, request.1);
        }
        let frame = frames::plain(world[c].mac(), world[a].mac(), 500, 1);
        world[a].send(&Outgoing::whole(&frame));
        let mut steps = 0;
        while world[a].unanswered() > 0 {
            let before = world.xen.counts();
            assert!(world.step(), "nothing happens any more");
            // Eight tables and keys, the packet's headers, and its way out.
            let calls = (world.xen.counts() - before).copy_calls;
            assert!(calls <= 10, "{calls} hypercalls in a pass");
            let now = world.now();
            world[a].service(now);
            steps += 1;
        }
        assert!(steps <= 3, "{steps} turns until it was sent");
        world.settle();
        let answers = std::mem::take(&mut world[b].control_answers);
        assert_eq!(answers.len(), 128);
        assert!(answers.iter().all(|answer| answer.status == OK));
        world[c].received.clear();
        let (guest, port) = (world[b].guest.clone(), world[b].control.as_ref().unwrap().port);
        let before = world.turns;
        for _ in 0..1000 {
            guest.notify(port);
        }
        world.pass(Duration::from_millis(1));
        assert!(world.turns - before < 10, "events of which nothing comes");
    }
    world.end();
}

/// A table cannot be read just now: the request fails, and the next one does not.
#[test]
fn a_table_that_cannot_be_read() {
    let (mut world, _, b) = world(2);
    choose_toeplitz(&mut world, b);
    done(&mut world, b, SIZE, [4, 0, 0]);
    world.xen.fail(Kind::Copy, When::Nth(1), -1);
    assert_eq!(set_mapping(&mut world, b, &[1; 4], 0), INVALID);
    assert_eq!(set_mapping(&mut world, b, &[1; 4], 0), OK);
    world.end();
}

/// Control requests while the frontend's rings are short of slots: the ring is served on.
#[test]
fn a_frontend_that_does_not_receive_has_its_control_ring() {
    let mut world = World::of_many();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 0, ..manners(1) }, &[]);
    let frame = segment(&world, a, b, 0);
    world[a].send(&Outgoing::whole(&frame));
    world.pass(Duration::from_secs(11));
    assert_eq!(world.own(b, "carrier").as_deref(), Some("0"));
    choose_toeplitz(&mut world, b);
    world[b].offer(8);
    world.settle();
    assert_eq!(arrival(&mut world, a, b, 0).1.map(|hash| hash.value), Some(SEGMENTS[0].4));
    world.end();
}
