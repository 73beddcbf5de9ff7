//! S-3, S-4, S-6, S-16: pages that both sides see, and what is made of them.

use worlds::{Manners, OUTSIDE, Outgoing, Spread, frames};
use xen::PAGE_SIZE;
use xen::fake::{Grant, Kind, Operation, When};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest};
use xen::ring::Word;

use crate::harness::{Counted, Harmless, MORE, NONE, Place, Setup, attack, knock, show};

/// S-3 (XSA-155): what a slot says is read once. A change after that changes nothing.
#[test]
fn s_03_slots_change_after_they_were_read() {
    attack("double fetch", Harmless, |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        let other = world.attach(1);
        let frame = frames::plain(world[other].mac(), world[evil].mac(), 1400, 9);
        let place = world[evil].rings.tx.word(Word::RequestProducer) % 256;
        let ids = world[evil].queue(&Outgoing::cut(&frame, vec![(0, 600), (9, 800)]));
        let tx_page = world[evil].guest.page(world[evil].rings.tx_page.0);
        world.xen.fail(
            Kind::Copy,
            When::Chosen(Box::new(move |_| {
                for slot in [place, (place + 1) % 256] {
                    tx_page.write_bytes(64 + 12 * slot as usize, &[0xff; 12]);
                }
                false
            })),
            1,
        );
        world[evil].kick();
        world.settle();
        world.xen.clear_faults();
        let received: Vec<_> = world[other].received.iter().map(|packet| &packet.bytes).collect();
        assert!(received == [&frame], "sizes, offsets and flags as they were read");
        // With the ids as they were read, or the frontend would not know them.
        world.check_answers(evil, &ids, Status::Okay);
    });
}

/// S-3 (XSA-155): an offered page's slot changes once it was read; what was offered first
/// is filled.
#[test]
fn s_03_offers_change_after_they_were_read() {
    attack("double fetch of offers", Harmless, |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        world[evil].received.clear();
        let other = world.attach(1);
        let frame = frames::plain(world[evil].mac(), world[other].mac(), 1000, 9);
        let rx_page = world[evil].guest.page(world[evil].rings.rx_page.0);
        world.xen.fail(
            Kind::Copy,
            When::Chosen(Box::new(move |operation| {
                if matches!(operation, Operation::Copy { to: Some(_), .. }) {
                    rx_page.write_bytes(64, &[0xff; 8 * 256]);
                }
                false
            })),
            1,
        );
        world[other].send(&Outgoing::whole(&frame));
        // Its own driver would read what is left of its ring.
        world[evil].hands_off = true;
        world.settle();
        world.xen.clear_faults();
        let response = world[evil].rings.rx.take().expect("a response");
        assert_eq!(response.status, 1000, "into the page that was offered");
        assert_ne!(response.id, u16::MAX, "under the id that it was offered by");
    });
}

/// S-4: of a slot we write the bytes of the response, and of the page our own two indices
/// beside; everything else is as the guest left it, whatever becomes of its requests.
#[test]
fn s_04_a_slot_carries_a_response_and_nothing_else() {
    let manners = Manners { start: 0, ..Manners::default() };
    Setup { manners, ..Setup::default() }.attack("padding", Counted, |world, evil| {
        world.settle();
        let other = world.attach(1);
        let frame = frames::plain(world[other].mac(), world[evil].mac(), 1000, 1);
        let id = world[evil].lend(&frame, 0);
        let (good, bad) = (world[evil].reference(id).0, 400);
        let slot = |gref, flags, size| TxRequest::new(gref, 0, flags, 7, size).into();
        let hash = ExtraInfo::new(4, ExtraFlags::empty(), [0x5a; 6]);
        let requests = [
            slot(good, NONE, 1000),
            slot(good, NONE, 13),
            slot(bad, NONE, 100),
            slot(good, MORE, 1000),
            slot(bad, MORE, 0),
            slot(good, NONE, 500),
            slot(good, TxFlags::EXTRA_INFO, 60),
            hash.into(),
        ];
        let rings = &world[evil].rings;
        let pages = [rings.tx_page.0, rings.rx_page.0].map(|page| world[evil].guest.page(page));
        let read = || {
            pages.each_ref().map(|page| {
                let mut bytes = [0; PAGE_SIZE];
                page.read_bytes(0, &mut bytes);
                bytes
            })
        };
        pages[0].write_bytes(64, &[0x5a; PAGE_SIZE - 64]);
        pages[1].write_bytes(64 + 8 * 256, &[0x5a; PAGE_SIZE - 64 - 8 * 256]);
        requests.iter().for_each(|request| world[evil].push(*request));
        world[evil].rings.tx.publish();
        for len in [60, 1000] {
            let frame = frames::plain(world[evil].mac(), world[other].mac(), len, 1);
            world[other].send(&Outgoing::whole(&frame));
        }
        let filled = world[evil].rings.rx.word(Word::ResponseProducer) as usize;
        let before = read();
        knock(world, evil);
        world.settle();
        let after = read();
        // Where it asks for an event, and where its responses end.
        let ours = 4..12;
        let places = [(12, 4, 0..requests.len()), (8, 8, filled..filled + 2)];
        for ((before, after), (slot, response, fresh)) in before.iter().zip(&after).zip(places) {
            assert_eq!(after[8..12], (fresh.end as u32).to_ne_bytes(), "all is answered");
            for (at, (before, after)) in before.iter().zip(after).enumerate() {
                let place = at.checked_sub(64).map(|at| (at / slot, at % slot));
                let answered = place.is_some_and(|(n, byte)| fresh.contains(&n) && byte < response);
                assert!(before == after || ours.contains(&at) || answered, "byte {at} of {slot}");
            }
        }
    });
}

/// S-6 (XSA-300): a guest has as many pages mapped as it can, while the device sends none.
/// They are mapped where nothing is, at frames of which it has no more than are left for
/// others; a second guest's are mapped all the same, and what is beyond is copied.
#[test]
fn s_06_mapping_all_frames() {
    mapping_all_frames("all frames", 1);
}

/// The same with as many queues as there may be, which have no more than one has.
#[test]
fn s_06_mapping_all_frames_by_many_queues() {
    mapping_all_frames("all frames, by eight queues", 8);
}

fn mapping_all_frames(name: &'static str, queues: usize) {
    let manners = Manners { queues, spread: Spread::InTurn, ..Manners::default() };
    let setup = Setup { place: Place::Mapping, manners, ..Setup::default() };
    setup.attack(name, Harmless, |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        let other = world.attach(1);
        world.wire.hold(256);
        let mapped = [evil, other].map(|id| {
            let before = world.network.pools().tracker.counters().mapped;
            for len in 0..100 {
                let frame = frames::plain(OUTSIDE, world[id].mac(), 1000 + len, 1);
                world[id].send(&Outgoing::whole(&frame));
                world.settle();
            }
            world.network.pools().tracker.counters().mapped - before
        });
        assert!(mapped[0] > 10 && mapped[1] > 4, "{mapped:?}");
        assert!(world.network.pools().window.room() > 0, "some are left for rings");
        assert!(world.xen.audit().displaced.is_empty(), "no RAM of ours is lost (H-4)");
        let third = world.attach(2);
        assert!(world.is_connected(third), "{:?}", world.error(third));
        while world.wire.complete() {}
        world.wire.set_room(usize::MAX);
        world.settle();
        assert_eq!(world.wire.take_frames().len(), 200);
        assert_eq!(world[evil].unanswered() + world[other].unanswered(), 0);
        assert_eq!(world.network.pools().tracker.counters().mapped, 0);
    });
}

/// S-16 (XSA-396): what is mapped is unmapped before its request is answered; the frontend
/// sees the grant unused, whenever it looks.
#[test]
fn s_16_pages_are_unmapped_before_they_are_answered() {
    let setup = Setup { place: Place::Mapping, ..Setup::default() };
    setup.attack("in use", Harmless, |world, evil| {
        world[evil].hands_off = false;
        world.settle();
        world.wire.hold(64);
        let frame = frames::plain(OUTSIDE, world[evil].mac(), 1400, 1);
        let ids: Vec<_> =
            (0..20).flat_map(|_| world[evil].send(&Outgoing::whole(&frame))).collect();
        world.settle();
        assert!(world.network.pools().tracker.counters().mapped >= 10);
        // It looks at each answer's grant as soon as it is there.
        while world.wire.complete() {
            world.settle();
        }
        world.wire.set_room(usize::MAX);
        world.check_answers(evil, &ids, Status::Okay);
    });
}

/// S-16: of a page only the slot's bytes are read, and nothing around them, by the copy of
/// headers, by the copy to a guest, and by the device.
#[test]
fn s_16_nothing_beside_a_slot_is_read() {
    for place in [Place::Usual, Place::Mapping] {
        let setup = Setup { place, ..Setup::default() };
        setup.attack("beside", Harmless, |world, evil| {
            let other = world.attach(1);
            for (offset, len) in [(3096, 1000), (7, 200), (4082, 14), (1, 130), (2000, 60)] {
                for to in [world[other].mac(), OUTSIDE] {
                    let frame = frames::plain(to, world[evil].mac(), len, 9);
                    let guest = world[evil].guest.clone();
                    let page = guest.add_page();
                    guest.page(page).write_bytes(0, &[0xee; PAGE_SIZE]);
                    guest.page(page).write_bytes(offset, &frame);
                    let gref = guest.grant(page, Grant::ReadOnly);
                    let slot = TxRequest::new(gref.0, offset as u16, NONE, 7, len as u16);
                    show(world, evil, &[slot.into()]);
                    world.settle();
                    assert_eq!(world[evil].rings.tx.take().map(|answer| answer.status), Some(0));
                    let mut got = world.wire.take_frames();
                    got.extend(world[other].received.drain(..).map(|packet| packet.bytes));
                    got.retain(|got| got[6..12] == world[evil].mac());
                    assert!(got == [frame], "{len} bytes at {offset}");
                }
            }
        });
    }
}
