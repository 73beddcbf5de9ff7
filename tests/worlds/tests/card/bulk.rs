//! Thousands of packets, round the rings many times, with a device that takes its time.

use kernel::pages::choice::Mode;
use worlds::{Card, Id, Outgoing, Uplink, World, frames};
use xen::PAGE_SIZE;
use xen::fake::FakeXen;
use xen::netif::TxFlags;

use crate::{CardWorld, Dice, MILLISECOND, OUTSIDE, check_wire, statistics};

/// Packets to the wire in each run.
const PACKETS: usize = 3000;
/// For how many rounds at most the device sends nothing: not so long that what waits for
/// it expires.
const PAUSE: usize = 3;

/// How a packet of so many bytes lies in pages, the first piece holding its header.
fn cut(dice: &mut Dice, len: usize) -> Vec<(u16, u16)> {
    let mut pieces = Vec::new();
    let (mut rest, mut least) = (len, 14);
    while rest > 0 {
        let all = pieces.len() == 7 || dice.roll(3) == 0;
        let piece = if all { rest } else { least + dice.roll(rest - least + 1) };
        // Where pieces fill their pages and begin the next ones, they can be one region.
        let last = PAGE_SIZE - piece;
        let offset = [last, 0, dice.roll(last + 1)][dice.roll(3)];
        pieces.push((offset as u16, piece as u16));
        (rest, least) = (rest - piece, 1.min(rest - piece));
    }
    pieces
}

/// What is sent, as it is sent, and as it is to be on the wire.
fn packet(dice: &mut Dice, to: [u8; 6], from: [u8; 6], number: usize) -> (Outgoing, Vec<u8>) {
    if dice.roll(3) > 0 {
        let mut frame = frames::plain(to, from, 14 + dice.roll(1501), number as u64);
        let packet = Outgoing::cut(&frame, cut(dice, frame.len()));
        frame.resize(frame.len().max(60), 0);
        return (packet, frame);
    }
    let [v6, tcp] = [(); 2].map(|()| dice.roll(2) == 0);
    let payload = &frames::plain(to, from, 14 + dice.roll(1440), number as u64)[14..];
    let mut whole = frames::transport(to, from, v6, tcp, payload);
    let blank = frames::blank(whole.clone(), v6, tcp);
    let packet = Outgoing::cut(&blank, cut(dice, blank.len())).with_flags(TxFlags::CSUM_BLANK);
    whole.resize(whole.len().max(60), 0);
    (packet, whole)
}

/// What somebody has received from a sender, of what came since this was last asked.
fn take_from(world: &mut CardWorld, id: Id, from: [u8; 6]) -> Vec<Vec<u8>> {
    let received = world[id].received.drain(..).map(|packet| packet.bytes);
    received.filter(|frame| frame[6..12] == from).collect()
}

/// Two guests send to the wire and are sent to, all at once; everything arrives, in order,
/// and not a page is out when the device has sent the last packet.
fn run(card: fn(&FakeXen) -> Card, mode: Mode, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut world: CardWorld = World::around(card, mode);
    let guests: [Id; 2] = world.connected();
    let macs = guests.map(|id| world[id].mac());
    // The bridge knows where it is.
    world.wire.inject(frames::plain(macs[0], OUTSIDE, 60, 0));
    world.settle();
    world[guests[0]].received.clear();
    let (mut on_the_wire, mut sent) = ([Vec::new(), Vec::new()], 0);
    let mut paused = 0;
    while sent < PACKETS {
        for (guest, id) in guests.into_iter().enumerate() {
            for _ in 0..dice.roll(10) {
                let (packet, expected) = packet(&mut dice, OUTSIDE, macs[guest], sent);
                if world[id].rings.tx.free() as usize >= packet.pieces.len() {
                    world[id].queue(&packet);
                    on_the_wire[guest].push(expected);
                    sent += 1;
                }
            }
            world[id].kick();
        }
        let mut inward = [Vec::new(), Vec::new()];
        for number in 0..dice.roll(12) {
            let guest = dice.roll(2);
            let frame = frames::plain(macs[guest], OUTSIDE, 14 + dice.roll(1501), number as u64);
            world.wire.inject(frame.clone());
            inward[guest].push(frame);
            world.rounds(dice.roll(3));
        }
        let device = &world.wire.device;
        match dice.roll(4) {
            0 if paused < PAUSE => device.faults.stalled.set(true),
            1 | 2 if paused < PAUSE => (0..dice.roll(20)).for_each(|_| device.send_one()),
            _ => {
                device.faults.stalled.set(false);
                device.kick();
            }
        }
        paused = if device.faults.stalled.get() { paused + 1 } else { 0 };
        world.settle();
        for (guest, id) in guests.into_iter().enumerate() {
            let arrived = take_from(&mut world, id, OUTSIDE);
            assert!(arrived == inward[guest], "from the wire, in order, at once");
        }
        world.pass(dice.roll(20) as u32 * MILLISECOND);
    }
    world.wire.device.faults.stalled.set(false);
    world.wire.device.kick();
    world.settle();
    // What waited for the ring follows at once, and all is answered without a survey.
    let frames = world.wire.take_frames();
    for (guest, mac) in macs.into_iter().enumerate() {
        let arrived = frames.iter().filter(|frame| frame[6..12] == mac);
        assert!(arrived.eq(&on_the_wire[guest]), "to the wire, in order");
        assert_eq!(world[guests[guest]].unanswered(), 0);
    }
    world.check_at_rest();
    let counted = statistics(&world);
    assert_eq!((counted.sent, counted.send_refused), (sent as u64, 0));
    assert_eq!((counted.send_aborted, counted.resets), (0, 1));
    assert_eq!(world.network.pools().choice.mapped() > 0, mode != Mode::Never);
    check_wire(&mut world, guests[0]);
    world.end();
}

#[test]
fn packets_cross_a_card_from_their_pages() {
    (1..=3).for_each(|seed| run(Uplink::new, Mode::Always, seed));
}

#[test]
fn packets_cross_a_card_as_copies() {
    (11..=12).for_each(|seed| run(Uplink::new, Mode::Never, seed));
}

#[test]
fn packets_cross_a_card_as_is_cheaper() {
    (21..=22).for_each(|seed| run(Uplink::new, Mode::Auto, seed));
}

#[test]
fn packets_cross_an_emulated_card() {
    (31..=32).for_each(|seed| run(Card::emulated, Mode::Always, seed));
}
