//! S-12: packets that are dropped, at every place where one can be (XSA-424): whatever it
//! held is free again, its sender has its answers, and everybody goes on.

use kernel::switch::DropReason;
use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};
use xen::PAGE_SIZE;
use xen::netif::TxFlags;

use crate::harness::{EVIL, JUMBO, MILLISECOND, Place, Setup, Told};

/// From the attacker, of so many bytes, to this address.
fn send(world: &mut World, to: [u8; 6], len: usize) {
    let frame = frames::plain(to, world[EVIL].mac(), len, len as u64);
    world[0].send(&Outgoing::whole(&frame));
    world.settle();
}

/// A guest that does not receive.
fn silent(world: &mut World, keys: &[(&str, &str)]) -> Id {
    world.attach_with(1, Manners { offers: 0, ..Manners::default() }, keys)
}

/// Has a packet of the attacker's dropped for a reason.
fn provoke(world: &mut World, reason: DropReason) {
    let a = EVIL;
    match reason {
        DropReason::Runt => world.wire.inject(vec![1; 13]),
        DropReason::BadSource => {
            let frame = frames::plain(OUTSIDE, [3, 0, 0, 0, 0, 1], 1000, 1);
            world[a].send(&Outgoing::whole(&frame));
        }
        DropReason::Forged => {
            let b = world.attach(1);
            let frame = frames::plain(OUTSIDE, world[b].mac(), 1000, 1);
            world[a].send(&Outgoing::whole(&frame));
        }
        DropReason::Reserved => send(world, [1, 0x80, 0xc2, 0, 0, 0], 1000),
        DropReason::SamePort => send(world, world[a].mac(), 1000),
        DropReason::Nowhere => {
            let alone = world.attach_with(1, Manners::default(), &[("bridge", "alone")]);
            let frame = frames::plain(OUTSIDE, world[alone].mac(), 1000, 1);
            world[alone].send(&Outgoing::whole(&frame));
        }
        DropReason::NoCarrier => {
            world.wire.set_link(false);
            world.settle();
            send(world, OUTSIDE, 1000);
            world.wire.set_link(true);
        }
        DropReason::TooLong => send(world, OUTSIDE, 9015),
        DropReason::QueueFull => {
            let to = silent(world, &[]);
            (0..600).for_each(|_| send(world, world[to].mac(), 100));
        }
        DropReason::Exhausted => {
            for n in 0..60 {
                let short = Manners { offers: 0, ..Manners::default() };
                world.attach_with(n % 5, short, &[]);
            }
            // What is left is then taken by a batch, before any of it is shared.
            for _ in 0..10 {
                for len in 60..124 {
                    let frame = frames::plain(frames::BROADCAST, world[a].mac(), len, 1);
                    world[a].queue(&Outgoing::whole(&frame));
                }
                world[a].kick();
                world.settle();
            }
        }
        DropReason::TooLongToCopy => {
            send(world, [1, 0x80, 0xc2, 0, 0, 0], 3 * PAGE_SIZE);
        }
        DropReason::CopyFailed => {
            let to = silent(world, &[]);
            send(world, world[to].mac(), 1000);
            let lent = world[a].lent().next().expect("its page is lent");
            let reference = world[a].reference(lent);
            world[a].guest.revoke(reference);
            world.pass(100 * MILLISECOND);
        }
        DropReason::NoChecksum => {
            let frame = frames::plain(OUTSIDE, world[a].mac(), 1000, 1);
            world[a].send(&Outgoing::whole(&frame).with_flags(TxFlags::CSUM_BLANK));
        }
        DropReason::Vlan => {
            let b =
                world.attach_with(1, Manners::default(), &[("vlan", "10"), ("bridge", "vlans")]);
            world.attach_with(2, Manners::default(), &[("bridge", "vlans")]);
            let frame = frames::plain(frames::BROADCAST, world[b].mac(), 1000, 1);
            world[b].send(&Outgoing::whole(&frame));
            let c = b + 1;
            let frame = frames::plain(world[c].mac(), world[b].mac(), 1000, 1);
            world[b].send(&Outgoing::whole(&frame));
        }
        DropReason::Filtered => {
            let b = world.attach(1);
            world.set_front_key(b, "request-multicast-control", "1");
            world.settle();
            send(world, [1, 0, 0x5e, 0, 0, 1], 1000);
        }
        DropReason::Undelivered => {
            let b = world.attach(1);
            let offered = world[b].offered(0);
            world[b].guest.revoke(offered);
            send(world, world[b].mac(), 1000);
        }
        DropReason::Expired => {
            let polled = Manners { offers: 0, rx_notify: false, ..Manners::default() };
            let b = world.attach_with(1, polled, &[]);
            send(world, world[b].mac(), 100);
            world.pass(30 * MILLISECOND);
        }
        DropReason::Removed => {
            let to = silent(world, &[]);
            send(world, world[to].mac(), 1000);
            world.set_front(to, "6");
        }
    }
    world.settle();
}

/// S-12: for each reason, with pages copied and with pages mapped.
#[test]
fn s_12_nothing_is_lost_with_a_packet_that_is_dropped() {
    let reasons = DropReason::ALL.into_iter().filter(|reason| *reason != DropReason::Exhausted);
    for reason in reasons {
        for place in [Place::Usual, Place::Mapping] {
            let setup = Setup { place, keys: &[JUMBO], ..Setup::default() };
            setup.attack(&format!("{reason:?}"), Told(1), |world, evil| {
                world[evil].hands_off = false;
                world.settle();
                is_dropped(world, evil, reason);
                // A page with several holders, one of whom drops it late.
                let deaf = silent(world, &[]);
                send(world, frames::BROADCAST, 1000);
                assert_ne!(world[evil].unanswered(), 0, "its page waits");
                world.pass(100 * MILLISECOND);
                assert_eq!(world[evil].unanswered(), 0, "{reason:?}");
                assert_eq!(world[deaf].received, []);
            });
        }
    }
}

/// S-12: packets run out, of which honest guests need some as well; what there is when the
/// others are gone is as much as ever.
#[test]
fn s_12_nothing_is_lost_when_packets_run_out() {
    let mut world = World::of_many();
    let evil = world.attach_with(0, Manners::default(), &[JUMBO]);
    is_dropped(&mut world, evil, DropReason::Exhausted);
    world.end();
}

/// A packet is dropped for a reason, and the attacker and others are served on.
fn is_dropped(world: &mut World, evil: Id, reason: DropReason) {
    let before = world.drops(reason);
    provoke(world, reason);
    // Its port's counters go with the port.
    assert!(world.drops(reason) > before || reason == DropReason::Removed, "{reason:?}");
    world.pass(100 * MILLISECOND);
    assert_eq!(world[evil].unanswered(), 0, "{reason:?}");
    let after = world.attach(2);
    send(world, world[after].mac(), 1000);
    let to_it = world[after].received.iter().filter(|packet| packet.bytes.len() == 1000);
    assert_eq!(to_it.count(), 1, "{reason:?}: others go on");
}
