//! Checksums that guests leave to the device.

use kernel::pages::choice::Mode;
use worlds::{Outgoing, Uplink, World, frames};
use xen::netif::{RxFlags, TxFlags};

use crate::{CardWorld, OUTSIDE, statistics};

/// P-14, T-8: whatever stands in the field, however the packet is cut and whether its
/// pages are mapped or copied, the device makes the checksum, the wire has it right, and
/// the guest's pages are as they were.
#[test]
fn p14_the_card_makes_checksums_and_writes_to_nobodys_page() {
    for mode in [Mode::Always, Mode::Never] {
        let mut world: CardWorld = World::of(mode);
        let a = world.attach(0);
        let from = world[a].mac();
        // What comes back is looked at: nobody else uses the pages.
        world[a].keeps = true;
        let mut made = 0;
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            for len in [0, 1, 2, 60, 61, 200, 1001, 1400] {
                let payload = &frames::plain(from, from, 14 + len, len as u64)[14..];
                let mut whole = frames::transport(OUTSIDE, from, v6, tcp, payload);
                let blank = frames::blank(whole.clone(), v6, tcp);
                made += 3 * u64::from(whole.len() >= 60);
                whole.resize(whole.len().max(60), 0);
                let rest = blank.len() as u16 - 41;
                let cut = match rest.checked_sub(500) {
                    Some(last) => vec![(4000, 96), (7, rest + 41 - 96 - last), (0, last)],
                    None => vec![(100, 41), (4096 - rest, rest)],
                };
                let straddling = vec![(9, 20), (50, 21), (0, rest)];
                for pieces in [vec![(0, blank.len() as u16)], cut, straddling] {
                    let packet = Outgoing::cut(&blank, pieces.clone());
                    let ids = world[a].queue(&packet.with_flags(TxFlags::CSUM_BLANK));
                    let pages: Vec<_> = ids.iter().map(|id| world[a].lent_page(*id)).collect();
                    world[a].kick();
                    world.settle();
                    assert!(
                        world.wire.take_frames() == [&whole[..]],
                        "{v6} {tcp} {len} {pieces:?}"
                    );
                    assert_eq!(world[a].unanswered(), 0);
                    let mut sent = Vec::new();
                    for (page, (offset, len)) in pages.iter().zip(&pieces) {
                        let start = sent.len();
                        sent.resize(start + usize::from(*len), 0);
                        world[a].guest.page(*page).read_bytes((*offset).into(), &mut sent[start..]);
                    }
                    assert!(sent == blank, "the pages are as they were (O-5)");
                }
            }
        }
        assert_eq!(statistics(&world).sent_checksums, made, "short ones of ours are made by us");
        assert_eq!(world.network.pools().choice.mapped() > 0, mode == Mode::Always);
        world[a].keeps = false;
        world.end();
    }
}

/// RFC 768: a datagram whose checksum comes out as zero says so with ones, a segment does
/// not.
#[test]
fn p14_a_zero_is_one_thing_in_tcp_and_another_in_udp() {
    let mut world = crate::mapping();
    let a = world.attach(0);
    let from = world[a].mac();
    for v6 in [false, true] {
        for (tcp, zero) in [(false, [0xff, 0xff]), (true, [0, 0])] {
            let field = if v6 { 54 } else { 34 } + if tcp { 16 } else { 6 };
            // A checksum added to what it was made of.
            let frame = frames::transport(OUTSIDE, from, v6, tcp, &[0; 400]);
            let payload = [&frame[field..field + 2], &[0; 398]].concat();
            let whole = frames::transport(OUTSIDE, from, v6, tcp, &payload);
            assert_eq!(whole[field..field + 2], zero);
            let blank = frames::blank(whole.clone(), v6, tcp);
            world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
            world.settle();
            assert_eq!(world.wire.take_frames(), [whole]);
        }
    }
    world.end();
}

/// P-14: what the device found right the guest need not look at; what it found wrong, and
/// what it did not look at, is the guest's to decide about.
#[test]
fn p14_checksums_that_the_card_verified_are_told() {
    let mut world = crate::mapping();
    let a = world.attach(0);
    let to = world[a].mac();
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let frame = frames::transport(to, OUTSIDE, v6, tcp, &[5; 300]);
        let mut wrong = frame.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for (frame, flags) in [(frame, RxFlags::DATA_VALIDATED), (wrong, RxFlags::empty())] {
            world.wire.inject(frame.clone());
            world.settle();
            let got = world[a].received.pop().expect("it arrives");
            assert_eq!((got.bytes, got.flags), (frame, flags), "{v6} {tcp}");
        }
    }
    let counted = statistics(&world);
    assert_eq!((counted.received_checksums, counted.receive_bad_checksums), (4, 4));
    world.end();
}

/// A checksum that the device cannot be told of is made by us: its header is not all among
/// those that we have.
#[test]
fn p14_what_the_card_cannot_make_is_made_for_it() {
    let mut world = crate::mapping();
    let a = world.attach(0);
    let whole = frames::transport(OUTSIDE, world[a].mac(), true, true, &[7; 900]);
    // Hop-by-hop options before it, more than our headers are long.
    let options = [&[6, 13][..], &[1, 108], &[0; 108]].concat();
    let mut long = [&whole[..54], &options, &whole[54..]].concat();
    long[20] = 0;
    let len = (long.len() - 54) as u16;
    long[18..20].copy_from_slice(&len.to_be_bytes());
    let mut blank = long.clone();
    blank[54 + 112 + 16..][..2].copy_from_slice(&[0xab, 0xcd]);
    world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
    world.settle();
    assert_eq!(world.wire.take_frames(), [long]);
    assert_eq!(statistics(&world).sent_checksums, 0);
    world.end();
}
