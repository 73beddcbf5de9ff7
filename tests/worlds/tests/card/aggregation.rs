//! Streams from the wire whose segments reach a guest as one packet.

use kernel::packet::{Gso, Segments, Version, checksum};
use kernel::pages::choice::Mode;
use worlds::streams::{headers, outgoing, segment};
use worlds::{Card, Manners, Received, Uplink, World, frames};
use xen::fake::FakeXen;
use xen::netif::{ExtraInfo, RxFlags};

use crate::{CardWorld, Dice, OUTSIDE, check_wire, statistics};

const MSS: u16 = 1428;

/// A segment that was cut on its way, and what of it arrives.
fn stream(to: [u8; 6], v6: bool, len: usize) -> ((Vec<u8>, ExtraInfo), Vec<Vec<u8>>) {
    let whole = segment(to, OUTSIDE, v6, len, MSS);
    let (frame, headers) = (&whole.0, headers(v6));
    let version = if v6 { Version::V6 } else { Version::V4 };
    let gso = Gso::check(frame, len, version, MSS).expect("TCP").expect("more than one");
    let segments = Segments::new(gso, len);
    let cut = (0..segments.count()).map(|number| {
        let mut head = frame[..headers].to_vec();
        segments.edit(&mut head, number);
        let mut segment = [&head, &frame[segments.payload(number)]].concat();
        checksum::finish(&mut segment).expect("TCP");
        segment
    });
    let cut = cut.collect();
    (whole, cut)
}

/// What arrived, with the checksum made that is left to the guest.
fn finished(packet: Received) -> Vec<u8> {
    let mut bytes = packet.bytes;
    if packet.flags.contains(RxFlags::CSUM_BLANK) {
        checksum::finish(&mut bytes).expect("TCP");
    }
    bytes
}

fn run(card: fn(&FakeXen) -> Card) {
    let mut world: CardWorld = World::around(card, Mode::Always);
    let a = world.attach(0);
    let without = |gso| Manners { gso, ..Manners::default() };
    let b = world.attach_with(1, without([false; 2]), &[]);
    let narrow = Manners { scatter_gather: false, ..without([false; 2]) };
    let c = world.attach_with(2, Manners { ipv4_checksum: false, ..narrow }, &[]);
    for v6 in [false, true] {
        for len in [3000, 20_000, 45_000] {
            let (whole, cut) = stream(world[a].mac(), v6, len);
            cut.iter().for_each(|frame| world.wire.inject(frame.clone()));
            let joined = world.network.joined();
            world.settle();
            let got: Vec<_> = world[a].received.drain(..).collect();
            let [got] = &got[..] else { panic!("{} packets", got.len()) };
            assert!(got.bytes == outgoing(&whole, v6).bytes, "{v6} {len}");
            assert_eq!(got.gso, Some(whole.1.segmentation()));
            assert_eq!(got.flags, RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED);
            assert_eq!(world.network.joined() - joined, cut.len() as u64 - 1);
            // Who does not take that has what came.
            for id in [b, c] {
                let (_, cut) = stream(world[id].mac(), v6, len);
                cut.iter().for_each(|frame| world.wire.inject(frame.clone()));
                world.settle();
                let got: Vec<_> = world[id].received.drain(..).map(finished).collect();
                assert!(got == cut, "{v6} {len}");
            }
            // And so it is where all get it.
            let (whole, cut) = stream(frames::BROADCAST, v6, len);
            cut.iter().for_each(|frame| world.wire.inject(frame.clone()));
            world.settle();
            assert!(world[a].received.pop().unwrap().bytes == outgoing(&whole, v6).bytes);
            for id in [b, c] {
                let got: Vec<_> = world[id].received.drain(..).map(finished).collect();
                assert!(got == cut, "{v6} {len}");
            }
        }
    }
    check_wire(&mut world, a);
    world.end();
}

#[test]
fn p21_streams_from_the_wire_arrive_as_they_were() {
    run(Uplink::new);
    run(Card::emulated);
}

/// A segment that is not right is the guest's to drop, and no part of anything.
#[test]
fn a_wrong_segment_is_not_hidden_in_a_packet() {
    let mut world = crate::mapping();
    let a = world.attach(0);
    for v6 in [false, true] {
        let (_, mut cut) = stream(world[a].mac(), v6, 15_000);
        *cut[4].last_mut().unwrap() ^= 1;
        cut.iter().for_each(|frame| world.wire.inject(frame.clone()));
        world.settle();
        let got: Vec<_> = world[a].received.drain(..).collect();
        let [before, wrong, after] = &got[..] else { panic!("{} packets", got.len()) };
        assert_eq!((&wrong.bytes, wrong.flags), (&cut[4], RxFlags::empty()));
        assert!(before.gso.is_some() && after.gso.is_some());
    }
    assert_eq!(statistics(&world).receive_bad_checksums, 2);
    world.end();
}

/// Streams to several guests, cut anywhere and mixed with others: each guest has its own,
/// in order, byte by byte.
#[test]
fn mixed_streams_arrive_in_order() {
    for seed in 1..=5 {
        let mut dice = Dice::new(seed);
        let mut world = crate::mapping();
        let guests = [
            world.attach(0),
            world.attach_with(1, Manners { gso: [false; 2], ..Manners::default() }, &[]),
            world.attach(2),
        ];
        for _ in 0..20 {
            let mut came = [const { Vec::new() }; 3];
            let mut queues: Vec<_> = guests
                .iter()
                .enumerate()
                .map(|(guest, id)| {
                    let v6 = guest == 1;
                    let (_, cut) = stream(world[*id].mac(), v6, 3000 + dice.roll(30_000));
                    let plain = frames::plain(world[*id].mac(), OUTSIDE, 60 + dice.roll(1000), 3);
                    let mut frames = cut;
                    frames.insert(dice.roll(frames.len()), plain);
                    frames.reverse();
                    frames
                })
                .collect();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let guest = dice.roll(3);
                if let Some(frame) = queues[guest].pop() {
                    world.wire.inject(frame.clone());
                    came[guest].push(frame);
                }
                if dice.roll(15) == 0 {
                    world.rounds(dice.roll(3));
                }
            }
            world.settle();
            for (guest, id) in guests.into_iter().enumerate() {
                let got: Vec<_> = world[id].received.drain(..).collect();
                let plain = |frame: &&Vec<u8>| frame[12..14] == [0x88, 0xb5];
                // Other packets may overtake those that are joined, and no segment another.
                let payload = |frames: Vec<&Vec<u8>>| {
                    let segments = frames.into_iter().filter(|frame| !plain(frame));
                    segments
                        .flat_map(|frame| frame[headers(guest == 1)..].to_vec())
                        .collect::<Vec<_>>()
                };
                let bytes: Vec<_> = got.iter().map(|packet| &packet.bytes).collect();
                assert_eq!(bytes.iter().filter(|frame| plain(frame)).count(), 1);
                assert!(payload(bytes) == payload(came[guest].iter().collect()));
            }
        }
        assert!(world.network.joined() > 100);
        world.end();
    }
}
