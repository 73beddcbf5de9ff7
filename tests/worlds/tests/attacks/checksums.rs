//! F-5: checksums that are to be made of what has none.

use kernel::switch::DropReason;
use worlds::{Manners, Outgoing, frames};
use xen::netif::{RxFlags, TxFlags};

use crate::harness::{Told, attack};

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
fn f_05_no_guest_gets_a_checksum_that_is_wrong() {
    attack("no checksum", Told(0), |world, a| {
        world[a].hands_off = false;
        world.settle();
        let takes = world.attach(1);
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
    });
}
