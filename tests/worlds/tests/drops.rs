//! Packets that are dropped, at every place where one can be (S-12, XSA-424): whatever it
//! held is free again, its sender has its answers, and everybody goes on.

use std::time::Duration;

use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{Manners, Outgoing, World, frames};
use xen::PAGE_SIZE;
use xen::netif::{RxFlags, TxFlags};

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const JUMBO: (&str, &str) = ("mtu", "65517");
const MILLISECOND: Duration = Duration::from_millis(1);

/// From the first guest, of so many bytes, to this address.
fn send(world: &mut World, to: [u8; 6], len: usize) {
    let frame = frames::plain(to, world[0].mac(), len, len as u64);
    world[0].send(&Outgoing::whole(&frame));
    world.settle();
}

/// A guest that does not receive.
fn silent(world: &mut World, keys: &[(&str, &str)]) -> [u8; 6] {
    let id = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, keys);
    world[id].mac()
}

/// Has a packet of the first guest's dropped for a reason.
fn provoke(world: &mut World, reason: DropReason) {
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
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
        }
        DropReason::TooLong => send(world, OUTSIDE, 9015),
        DropReason::QueueFull => {
            let to = silent(world, &[]);
            (0..600).for_each(|_| send(world, to, 100));
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
            send(world, to, 1000);
            let lent = world[a].lent().next().expect("its page is lent");
            let reference = world[a].reference(lent);
            world[a].guest.revoke(reference);
            world.pass(100 * MILLISECOND);
        }
        DropReason::NoChecksum => {
            let frame = frames::plain(OUTSIDE, world[a].mac(), 1000, 1);
            world[a].send(&Outgoing::whole(&frame).with_flags(TxFlags::CSUM_BLANK));
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
            send(world, to, 1000);
            world.set_front(1, "6");
        }
    }
    world.settle();
}

/// S-12: for each reason, with pages copied and with pages mapped.
#[test]
fn s12_nothing_is_lost_with_a_packet_that_is_dropped() {
    for reason in DropReason::ALL {
        for mode in [Mode::Auto, Mode::Always] {
            let exhausted = reason == DropReason::Exhausted;
            let mut world = if exhausted { World::of_many() } else { World::of(mode) };
            provoke(&mut world, reason);
            // Its port's counters go with the port.
            assert!(world.drops(reason) > 0 || reason == DropReason::Removed, "{reason:?}");
            world.pass(100 * MILLISECOND);
            assert_eq!(world[0].unanswered(), 0, "{reason:?}");
            let c = world.attach(2);
            world[c].received.clear();
            let to = world[c].mac();
            send(&mut world, to, 1000);
            assert_eq!(world[c].received.len(), 1, "{reason:?}: others go on");
            world.end();
        }
    }
}

/// What is put between an Ethernet or IPv6 header and what follows it.
const VLAN: [u8; 4] = [0x81, 0, 0, 5];
const PADDING: [u8; 8] = [17, 0, 1, 4, 0, 0, 0, 0];
const MORE_PADDING: [u8; 8] = [60, 0, 1, 4, 0, 0, 0, 0];
const ROUTE: [u8; 8] = [17, 0, 4, 1, 0, 0, 0, 0];
const FRAGMENT: [u8; 8] = [17, 0, 0, 1, 0, 0, 0, 1];

fn tagged(frame: Vec<u8>) -> Vec<u8> {
    [&frame[..12], &VLAN, &frame[12..]].concat()
}

/// A datagram over IPv6 with an extension header of this kind.
fn extended(frame: Vec<u8>, kind: u8, header: [u8; 8]) -> Vec<u8> {
    let mut frame = [&frame[..54], &header, &frame[54..]].concat();
    frame[20] = kind;
    let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

/// A datagram that some bytes make another thing.
fn altered(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
    frame
}

/// F-5: checksums that are to be made of what may have none, from guest to guest. One that
/// takes partial checksums gets them as they are; one that does not gets right ones or nothing.
#[test]
fn f5_no_guest_gets_a_checksum_that_is_wrong() {
    let mut world = World::new();
    let [a, takes] = world.connected();
    let manners = Manners { ipv4_checksum: false, ipv6_checksum: false, ..Manners::default() };
    let refuses = world.attach_with(2, manners, &[]);
    for len in [20, 1000] {
        let payload = vec![7; len];
        for (guest, to) in [takes, refuses].map(|id| (id, world[id].mac())) {
            let from = world[a].mac();
            let udp = |v6| frames::transport(to, from, v6, false, &payload);
            let finished: [(&str, Vec<u8>); 6] = [
                ("IPv4", udp(false)),
                ("IPv6", udp(true)),
                ("VLAN", tagged(udp(false))),
                ("two tags", tagged(tagged(udp(true)))),
                ("hop-by-hop options", extended(udp(true), 0, PADDING)),
                ("two of them", extended(extended(udp(true), 60, PADDING), 0, MORE_PADDING)),
            ];
            let lost: [(&str, Vec<u8>); 8] = [
                ("ARP", altered(udp(false), &[(13, 6)])),
                ("ICMP", altered(udp(false), &[(23, 1)])),
                ("ICMPv6", altered(udp(true), &[(20, 58)])),
                ("ICMP behind a tag", tagged(altered(udp(false), &[(23, 1)]))),
                ("a fragment", altered(udp(false), &[(20, 0x20)])),
                ("a fragment of IPv6", extended(udp(true), 44, FRAGMENT)),
                ("on its route", extended(udp(true), 43, ROUTE)),
                ("more than there is", altered(udp(false), &[(16, 0x7f)])),
            ];
            let finished = finished.into_iter().map(|(what, frame)| {
                let at = frame.len() - len - 2;
                let blank = altered(frame.clone(), &[(at, 0xab), (at + 1, 0xcd)]);
                (what, blank, Some(frame))
            });
            let lost = lost.into_iter().map(|(what, frame)| (what, frame, None));
            for (what, blank, expected) in finished.chain(lost) {
                let before = world.drops(DropReason::NoChecksum);
                world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
                world.settle();
                let received = world[guest].received.pop();
                let received = received.map(|packet| (packet.bytes, packet.flags));
                if guest == takes {
                    let flags = RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED;
                    assert!(received == Some((blank, flags)), "{what}: as it is");
                } else {
                    let lost = world.drops(DropReason::NoChecksum) - before;
                    assert_eq!(lost, u64::from(expected.is_none()), "{what}, {len}");
                    let expected = expected.map(|frame| (frame, RxFlags::DATA_VALIDATED));
                    assert!(received == expected, "{what}, {len}");
                }
                assert_eq!(world[a].unanswered(), 0, "{what}");
            }
        }
    }
    world.end();
}
