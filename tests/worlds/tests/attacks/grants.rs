//! F-6: grants that are none, or do not stay what they were.

use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};
use xen::DomainId;
use xen::fake::Grant;
use xen::grant::GrantRef;
use xen::netif::{RxRequest, Status, TxRequest};

use crate::harness::{
    Counted, EVIL, Harmless, MILLISECOND, MORE, NONE, Place, Setup, Told, attack, counters,
    exhaust, knock, page, request, show,
};

/// F-6: a page that cannot be read fails its slot (P-15), and the packet goes
/// nowhere.
#[test]
fn f_06_grants_that_are_none() {
    type Make = fn(&mut World, Id) -> u32;
    let cases: [(&str, Make); 6] = [
        ("zero", |_, _| 0),
        ("huge", |_, _| u32::MAX),
        ("free", |_, _| 400),
        ("another domain's", |world, evil| {
            let frame = world[evil].guest.add_page();
            world[evil].guest.grant_to(DomainId(1), frame, Grant::Writable).0
        }),
        ("revoked", |world, evil| {
            let gref = page(world, evil);
            world[evil].guest.revoke(GrantRef(gref));
            gref
        }),
        ("no page", |world, evil| {
            let frame = world[evil].guest.add_page();
            let gref = world[evil].guest.grant(frame, Grant::ReadOnly).0;
            world[evil].guest.balloon_out(frame);
            gref
        }),
    ];
    for (name, make) in cases {
        attack(name, Counted, |world, evil| {
            let (good, bad) = (page(world, evil), make(world, evil));
            let id = |id: u16, gref, flags, size| TxRequest::new(gref, 0, flags, id, size).into();
            // Among the headers.
            show(
                world,
                evil,
                &[id(1, good, MORE, 1000), id(2, bad, MORE, 936), id(3, good, NONE, 50)],
            );
            world.settle();
            let mut answers: Vec<_> = (0..3)
                .map(|_| {
                    let answer = world[evil].rings.tx.take().expect("a response a slot");
                    (answer.id, answer.status)
                })
                .collect();
            answers.sort();
            let (okay, error) = (Status::Okay as i16, Status::Error as i16);
            assert_eq!(answers, [(1, okay), (2, error), (3, okay)], "{name}");
            let counters = counters(world).tx;
            assert_eq!((counters.packets, counters.unreadable), (0, 1), "{name}");
            assert!(world.wire.take_frames().is_empty(), "{name}");
        });
        attack(name, Harmless, |world, evil| {
            let (good, bad) = (page(world, evil), make(world, evil));
            // Behind the headers: found when it is copied on.
            show(world, evil, &[request(good, 0, MORE, 1000), request(bad, 0, NONE, 500)]);
            world.settle();
            assert!(world.wire.take_frames().is_empty(), "{name}");
        });
    }
}

/// F-6, F-7: the same page and the same id in all slots is nobody's business.
#[test]
fn f_06_the_same_grant_everywhere() {
    attack("same grant, same id", Harmless, |world, evil| {
        let gref = page(world, evil);
        let slots = vec![request(gref, 0, NONE, 1000); 256 - 15];
        show(world, evil, &slots);
        world.settle();
        for _ in slots {
            let response = world[evil].rings.tx.take().expect("a response a slot");
            assert_eq!((response.id, response.status), (7, 0));
        }
        assert_eq!(world.wire.take_frames().len(), 256 - 15);
    });
}

/// F-6: pages offered to be filled that are not the guest's to offer.
#[test]
fn f_06_receive_grants_that_are_none() {
    attack("receive grants", Counted, |world, evil| {
        exhaust(world, evil);
        let guest = world[evil].guest.clone();
        let read_only = guest.grant(guest.add_page(), Grant::ReadOnly).0;
        let foreign = guest.grant_to(DomainId(1), guest.add_page(), Grant::Writable).0;
        let table = guest.add_page();
        guest.make_page_table(table);
        let table = guest.grant(table, Grant::Writable).0;
        // As a frame of MMIO: there is no RAM.
        let hole = guest.add_page();
        guest.balloon_out(hole);
        let hole = guest.grant(hole, Grant::Writable).0;
        while world[evil].rings.rx.take().is_some() {}
        let grants = [0, u32::MAX, 444, read_only, foreign, table, hole];
        for gref in grants.into_iter().cycle().take(256) {
            let request = RxRequest { id: 3, pad: 0, gref };
            world[evil].rings.rx.push(request).expect("room");
        }
        world[evil].rings.rx.publish();
        knock(world, evil);
        world.settle();
        exhaust(world, evil);
        let mut statuses = Vec::new();
        while let Some(response) = world[evil].rings.rx.take() {
            statuses.push(response.status);
        }
        assert_eq!(statuses, [Status::Error as i16; 256]);
    });
}

/// F-6: a guest gives a page that it has lent back to Xen. What is mapped is there until
/// the NIC is done; what is to be copied is not there any more.
#[test]
fn f_06_a_page_is_ballooned_out_while_it_is_lent() {
    for place in [Place::Mapping, Place::Usual] {
        let to_the_nic = place == Place::Mapping;
        let mut scene = Setup { place, ..Setup::default() }.begin("ballooned");
        let world = &mut scene.world;
        let short = Manners { offers: 0, ..Manners::default() };
        let b = world.attach_with(1, short, &[]);
        world.wire.hold(64);
        let to = if to_the_nic { OUTSIDE } else { world[b].mac() };
        let frame = frames::plain(to, world[EVIL].mac(), 1000, 1);
        let id = world[EVIL].send(&Outgoing::whole(&frame))[0];
        world.settle();
        let page = world[EVIL].lent_page(id);
        world[EVIL].guest.balloon_out(page);
        while world.wire.complete() {}
        world.pass(100 * MILLISECOND);
        let status = if to_the_nic { Status::Okay } else { Status::Error };
        world.check_answers(EVIL, &[id], status);
        assert_eq!(world.wire.take_frames().len(), usize::from(to_the_nic));
        let lost = world.drops(kernel::switch::DropReason::CopyFailed);
        assert_eq!(lost, u64::from(!to_the_nic), "it is counted");
        world.wire.set_room(usize::MAX);
        scene.end(Told(0));
    }
}

/// F-6: a grant is freed, or comes to stand for another page, while its packet waits. The
/// headers that were looked at are those that arrive; of the rest nothing does, or what is
/// in the other page.
#[test]
fn f_06_a_grant_changes_while_it_is_lent() {
    for regranted in [false, true] {
        attack("in flight", Harmless, |world, evil| {
            let to = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
            let frame = frames::plain(world[to].mac(), world[evil].mac(), 1000, 3);
            let id = world[evil].lend(&frame, 0);
            let (guest, gref) = (world[evil].guest.clone(), world[evil].reference(id));
            show(world, evil, &[TxRequest::new(gref.0, 0, NONE, id, 1000).into()]);
            world.settle();
            assert_eq!(world.network.pools().tracker.counters().outstanding(), 1);
            if regranted {
                let other = guest.add_page();
                guest.page(other).write_bytes(0, &[0x55; 1000]);
                guest.regrant(gref, other, Grant::ReadOnly);
            } else {
                guest.revoke(gref);
            }
            world[to].offer(1);
            world.settle();
            let received = world[to].received.pop().expect("a slot, filled or not");
            let whole = (received.failed == 0).then_some(received.bytes);
            let expected = [&frame[..128], &[0x55; 872]].concat();
            assert_eq!(whole, regranted.then_some(expected));
            let answer = world[evil].rings.tx.take().expect("a response");
            assert_eq!(answer.id, id);
        });
    }
}
