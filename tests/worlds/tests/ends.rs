//! Guests and pages that go at bad moments.

use std::time::Duration;

use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{Id, Manners, Outgoing, Uplink, Wire, World, frames};
use xen::PAGE_SIZE;
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest};
use xen::ring::TX_RING_SIZE;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MILLISECOND: Duration = Duration::from_millis(1);

fn send(world: &mut World, from: Id, to: [u8; 6], len: usize) -> u16 {
    let frame = frames::plain(to, world[from].mac(), len, len as u64);
    world[from].send(&Outgoing::whole(&frame))[0]
}

/// So many pages of the first guest's wait for others that do not receive.
fn with_pages_in_flight(pages: usize) -> (World, Id) {
    let mut world = World::new();
    let a = world.attach(0);
    let short = Manners { offers: 0, ..Manners::default() };
    let others = [1, 2, 3, 4, 1, 2, 3, 4].map(|n| world.attach_with(n, short.clone(), &[]));
    for n in 0..pages {
        let to = world[others[n % others.len()]].mac();
        send(&mut world, a, to, 1000);
        world.settle();
    }
    assert_eq!(world.network.pools().tracker.counters().outstanding(), pages as u64);
    (world, a)
}

/// F-12: a guest goes with none, one, or all of the slots of its ring in flight: it dies, is
/// destroyed, or is taken its vif.
#[test]
fn f12_a_guest_goes_with_its_ring_in_flight() {
    for pages in [0, 1, TX_RING_SIZE as usize] {
        let ways: [fn(&mut World, Id) -> _; 3] = [World::kill, World::destroy, World::detach];
        for way in ways {
            let (mut world, a) = with_pages_in_flight(pages);
            let before = world.now();
            assert_eq!(way(&mut world, a), Ok(()));
            assert!(world.now().since(before) < Duration::from_secs(2), "{pages} pages");
            let counters = world.network.pools().tracker.counters();
            assert_eq!((counters.outstanding(), counters.claimed), (0, pages as u64));
            world.end();
        }
    }
}

/// F-12, T-6: the same with as many pages at the NIC as it may have. They pin the guest,
/// which goes for good when the device is done with them.
#[test]
fn f12_a_guest_dies_with_its_pages_at_the_nic() {
    let mut world = World::mapping();
    let a = world.attach(0);
    world.wire.pause();
    for _ in 0..60 {
        send(&mut world, a, OUTSIDE, 1000);
        world.settle();
    }
    let mapped = world.network.pools().tracker.counters().mapped;
    assert!(mapped > 25, "{mapped}");
    world.die(a);
    world.settle();
    assert_eq!(world.xen.audit().zombies, [world[a].vif().frontend]);
    while world.wire.complete() {}
    assert_eq!(world.bury(a), Ok(()));
    assert_eq!(world.network.pools().tracker.counters().mapped, 0);
    world.end();
}

/// F-6: a guest gives a page that it has lent back to Xen. What is mapped is there until
/// the NIC is done; what is to be copied is not there any more.
#[test]
fn f6_a_page_is_ballooned_out_while_it_is_lent() {
    for mode in [Mode::Always, Mode::Auto] {
        let mut world = World::<Wire>::of(mode);
        let a = world.attach(0);
        let short = Manners { offers: 0, ..Manners::default() };
        let b = world.attach_with(1, short, &[]);
        let to_the_nic = mode == Mode::Always;
        world.wire.pause();
        let to = if to_the_nic { OUTSIDE } else { world[b].mac() };
        let id = send(&mut world, a, to, 1000);
        world.settle();
        let page = world[a].lent_page(id);
        world[a].guest.balloon_out(page);
        while world.wire.complete() {}
        world.pass(100 * MILLISECOND);
        let status = if to_the_nic { Status::Okay } else { Status::Error };
        world.check_answers(a, &[id], status);
        assert_eq!(world.wire.take_frames().len(), usize::from(to_the_nic));
        assert_eq!(world.drops(DropReason::CopyFailed), u64::from(!to_the_nic));
        world.end();
    }
}

/// S-7: events are raised, and told to us late, at a port that is being closed, that is
/// closed, and that has become another vif's. They mean nothing, and we raise none at a port
/// that is gone.
#[test]
fn s7_events_of_a_port_that_closes() {
    let mut world = World::new();
    let a = world.attach(0);
    for n in 0..100 {
        let b = world.attach(1);
        let audit = world.xen.audit();
        let port = audit.of(world[b].vif().frontend).1[0].port;
        let (guest, remote) = (world[b].guest.clone(), world[b].rings.port);
        // It has something to say, and we to it.
        let mac_b = world[b].mac();
        send(&mut world, a, mac_b, 1000);
        send(&mut world, b, OUTSIDE, 1000);
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
        assert_eq!(audit.of(world[c].vif().frontend).1[0].port, port, "a port is used again");
        world.network.event(port);
        let mac_c = world[c].mac();
        send(&mut world, a, mac_c, 1000);
        world.settle();
        assert_eq!(world[c].received.len(), 1);
        world.check_at_rest();
        for id in [b, c] {
            assert_eq!(world.detach(id), Ok(()));
        }
    }
    world.end();
}

/// S-4: of a slot we write the bytes of the response, and of the page our own two indices
/// beside; everything else is as the guest left it, whatever becomes of its requests.
#[test]
fn s4_a_slot_carries_a_response_and_nothing_else() {
    let mut world = World::new();
    let b = world.attach(1);
    let a = world.attach_with(0, Manners { start: 0, ..Manners::default() }, &[]);
    world[a].hands_off = true;
    let frame = frames::plain(world[b].mac(), world[a].mac(), 1000, 1);
    let id = world[a].lend(&frame, 0);
    let (good, bad) = (world[a].reference(id).0, 400);
    let slot = |gref, flags, size| TxRequest::new(gref, 0, flags, 7, size).into();
    let hash = ExtraInfo::new(4, ExtraFlags::empty(), [0x5a; 6]);
    let (more, none, extra) = (TxFlags::MORE_DATA, TxFlags::empty(), TxFlags::EXTRA_INFO);
    let requests = [
        slot(good, none, 1000),
        slot(good, none, 13),
        slot(bad, none, 100),
        slot(good, more, 1000),
        slot(bad, more, 0),
        slot(good, none, 500),
        slot(good, extra, 60),
        hash.into(),
    ];
    let pages = [world[a].rings.tx_page.0, world[a].rings.rx_page.0];
    let pages = pages.map(|page| world[a].guest.page(page));
    let read = || {
        pages.each_ref().map(|page| {
            let mut bytes = [0; PAGE_SIZE];
            page.read_bytes(0, &mut bytes);
            bytes
        })
    };
    pages[0].write_bytes(64, &[0x5a; PAGE_SIZE - 64]);
    pages[1].write_bytes(64 + 8 * 256, &[0x5a; PAGE_SIZE - 64 - 8 * 256]);
    requests.iter().for_each(|request| world[a].push(*request));
    world[a].rings.tx.publish();
    for len in [60, 1000] {
        let to = world[a].mac();
        send(&mut world, b, to, len);
    }
    let before = read();
    world[a].guest.notify(world[a].rings.port);
    world.settle();
    let after = read();
    // Where it asks for an event, and where its responses end.
    let ours = 4..12;
    let places = [(12, 4, requests.len()), (8, 8, 2)];
    for ((before, after), (slot, response, count)) in before.iter().zip(&after).zip(places) {
        assert_eq!(after[8..12], (count as u32).to_ne_bytes(), "all is answered");
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            let place = at.checked_sub(64).map(|at| (at / slot, at % slot));
            let answered = place.is_some_and(|(n, byte)| n < count && byte < response);
            assert!(before == after || ours.contains(&at) || answered, "byte {at} of {slot}");
        }
    }
    world.end();
}
