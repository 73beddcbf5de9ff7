//! Honest guests among each other.

use std::time::Duration;

use etherparse::PacketBuilder;
use worlds::{Id, Manners, Outgoing, TxAnswer, World, frames};
use xen::fake::{Kind, Operation};
use xen::netif::{ExtraFlags, ExtraInfo, RxFlags, Status, TxFlags};
use xen::ring::Word;

const OKAY: i16 = Status::Okay as i16;
const ERROR: i16 = Status::Error as i16;

fn frame(world: &World, from: Id, to: Id, len: usize) -> Vec<u8> {
    frames::plain(world[to].mac(), world[from].mac(), len, len as u64)
}

/// Headers are copied to our memory, the payload is not: it goes from one guest's
/// page to the other's by one copy (DESIGN, O-6, O-15).
#[test]
fn payload_is_copied_once_and_never_to_our_memory() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let frame = frame(&world, a, b, 1514);
    let ids = world[a].queue(&Outgoing::whole(&frame));
    let source = (world[a].vif().frontend, world[a].reference(ids[0]));
    let dest = (world[b].vif().frontend, world[b].offered(0));
    let copies = world.record(Kind::Copy);
    let before = world.xen.counts();
    world[a].kick();
    world.settle();
    assert_eq!(
        *copies.borrow(),
        [
            Operation::Copy { from: Some(source), to: None, len: 128 },
            Operation::Copy { from: None, to: Some(dest), len: 128 },
            Operation::Copy { from: Some(source), to: Some(dest), len: 1386 },
        ]
    );
    let counts = world.xen.counts() - before;
    assert_eq!((counts.copy_calls, counts.maps, counts.unmaps), (2, 0, 0));
    assert_eq!(counts.notifies, 2, "one to each guest");
    assert_eq!(world[b].received[0].bytes, frame);
    world.end();
}

/// What fits a header buffer is copied whole, and its page is back at once, whether or
/// not the receiver takes it.
#[test]
fn small_packets_hold_no_page() {
    let mut world = World::new();
    let a = world.attach(0);
    let b = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
    for (len, held) in [(60, 0), (191, 0), (192, 0), (193, 1)] {
        let frame = frame(&world, a, b, len);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        assert_eq!(world[a].unanswered(), held, "{len}");
    }
    world.end();
}

/// A batch is a batch: one hypercall for all headers, one for all deliveries, one
/// event to each guest.
#[test]
fn a_batch_takes_as_many_hypercalls_as_one_packet() {
    let mut world = World::new();
    let [a, b] = world.connected();
    // Both look only when there is something.
    let frames: Vec<_> = (0..20).map(|n| frame(&world, a, b, 1000 + n)).collect();
    for frame in &frames {
        world[a].queue(&Outgoing::whole(frame));
    }
    let before = world.xen.counts();
    world[a].kick();
    assert!(world.step());
    let counts = world.xen.counts() - before;
    assert_eq!((counts.copy_calls, counts.notifies), (2, 2));
    world.settle();
    let received: Vec<_> = world[b].received.iter().map(|packet| &packet.bytes).collect();
    assert_eq!(received, frames.iter().collect::<Vec<_>>());
    world.end();
}

/// However many packets a batch has, where there are slots for them their payload
/// does not go through our memory.
#[test]
fn the_payload_of_a_large_batch_is_copied_once() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let frame = frame(&world, a, b, 1514);
    for _ in 0..64 {
        world[a].queue(&Outgoing::whole(&frame));
    }
    let copies = world.record(Kind::Copy);
    world[a].kick();
    world.settle();
    assert_eq!(world[b].received.len(), 64);
    let to_us = |operation: &&Operation| matches!(operation, Operation::Copy { to: None, .. });
    assert_eq!(copies.borrow().iter().filter(to_us).count(), 64, "headers");
    world.end();
}

/// P-5: we ask for an event when the ring is empty, and for none while we look.
#[test]
fn an_event_is_asked_for_with_the_next_request() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let frame = frame(&world, a, b, 100);
    for _ in 0..100 {
        world[a].queue(&Outgoing::whole(&frame));
    }
    let asked = world[a].rings.tx.word(Word::RequestEvent);
    world[a].kick();
    assert!(world.step());
    assert_eq!(world[a].rings.tx.word(Word::RequestEvent), asked, "36 are left to be looked at");
    world.settle();
    let produced = world[a].rings.tx.word(Word::RequestProducer);
    assert_eq!(world[a].rings.tx.word(Word::RequestEvent), produced.wrapping_add(1));
    assert_eq!(world[b].received.len(), 100);
    world.end();
}

#[test]
fn nothing_to_do_costs_nothing() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let frame = frame(&world, a, b, 1000);
    world.pass_on(a, b, &Outgoing::whole(&frame));
    world.pass(Duration::from_secs(1));
    let (counts, turns) = (world.xen.counts(), world.turns);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.xen.counts(), counts);
    assert_eq!(world.turns, turns);
    // Events for nothing: a turn each, and no hypercall.
    let (guest, port) = (world[a].guest.clone(), world[a].rings.port);
    for _ in 0..10 {
        guest.notify(port);
        world.settle();
    }
    assert_eq!(world.xen.counts(), counts);
    assert!(world.turns - turns <= 10);
    world.end();
}

/// What is known of a checksum, from guest to guest (P-14, P-17, P-21).
#[test]
fn checksum_states_are_passed_on() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let (blank, validated) = (TxFlags::CSUM_BLANK, TxFlags::DATA_VALIDATED);
    for (sent, got) in [
        (TxFlags::empty(), RxFlags::empty()),
        (validated, RxFlags::DATA_VALIDATED),
        (blank, RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED),
        (blank | validated, RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED),
    ] {
        let frame = frame(&world, a, b, 500);
        world[a].send(&Outgoing::whole(&frame).with_flags(sent));
        world.settle();
        let received = world[b].received.pop().expect("it arrives");
        assert_eq!((received.flags, received.bytes), (got, frame));
    }
    world.end();
}

/// UDP over IPv4 or IPv6, its checksum right or still to be made.
fn datagram(to: [u8; 6], from: [u8; 6], v6: bool, finished: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to);
    if v6 {
        builder.ipv6([1; 16], [2; 16], 9).udp(7, 9).write(&mut frame, payload).unwrap();
    } else {
        builder.ipv4([1; 4], [2; 4], 9).udp(7, 9).write(&mut frame, payload).unwrap();
    }
    if !finished {
        let at = if v6 { 60 } else { 40 };
        frame[at..at + 2].copy_from_slice(&[0x12, 0x34]);
    }
    frame
}

/// A guest that refuses partial checksums gets them finished (K-4).
#[test]
fn checksums_are_finished_for_guests_that_refuse_them() {
    let mut world = World::new();
    let a = world.attach(0);
    let both = [(true, true), (false, true), (true, false), (false, false)];
    for (n, (ipv4_checksum, ipv6_checksum)) in both.into_iter().enumerate() {
        let manners = Manners { ipv4_checksum, ipv6_checksum, ..Manners::default() };
        let b = world.attach_with(n + 1, manners, &[]);
        for (v6, takes) in [(false, ipv4_checksum), (true, ipv6_checksum)] {
            for len in [20, 1000] {
                let [to, from] = [b, a].map(|id| world[id].mac());
                let payload = &frames::plain(to, from, len, 1);
                let blank = datagram(to, from, v6, false, payload);
                world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
                world.settle();
                let received = world[b].received.pop().expect("it arrives");
                let finished = datagram(to, from, v6, true, payload);
                let expected = if takes {
                    (blank, RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED)
                } else {
                    (finished, RxFlags::DATA_VALIDATED)
                };
                assert!((received.bytes, received.flags) == expected, "{n}, {v6}, {len}");
            }
        }
    }
    world.end();
}

/// P-11, P-15: a hash is information and no more; what was not offered is refused;
/// each slot of extra info has a NULL of its own.
#[test]
fn extra_info_is_answered_beside_its_request() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let extra = |kind, more| {
        let flags = if more { ExtraFlags::MORE } else { ExtraFlags::empty() };
        ExtraInfo::new(kind, flags, [1; 6])
    };
    let (gso, hash, xdp) = (1, 4, 5);
    for (extras, status) in [
        (vec![extra(hash, false)], OKAY),
        (vec![extra(hash, true), extra(hash, false)], ERROR),
        (vec![extra(gso, false)], ERROR),
        (vec![extra(xdp, false)], ERROR),
        (vec![extra(hash, true), extra(gso, false)], ERROR),
        (vec![extra(gso, true), extra(hash, false)], ERROR),
    ] {
        let frame = frame(&world, a, b, 1000);
        let packet = Outgoing::cut(&frame, vec![(0, 300), (7, 700)]).with_extras(&extras);
        let mut ids = world[a].queue(&packet);
        ids.extend(world[a].send(&packet));
        world.settle();
        let mut answers = std::mem::take(&mut world[a].answers);
        answers.sort_by_key(|answer| answer.id);
        let expected: Vec<_> = ids.into_iter().map(|id| TxAnswer { id, status }).collect();
        assert_eq!(answers, expected, "{extras:?}");
        assert_eq!(world[a].unanswered(), 0, "a NULL each: {extras:?}");
        let arrived = world[b].received.drain(..).map(|packet| packet.bytes).collect::<Vec<_>>();
        assert_eq!(arrived, if status == OKAY { vec![frame; 2] } else { vec![] });
    }
    world.end();
}

/// All slots of the ring, over and over.
#[test]
fn a_full_ring_goes_round() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let mut sent = 0;
    for round in 0..5 {
        for _ in 0..256 - 3 * round {
            let frame = frame(&world, a, b, 60 + sent % 1400);
            world[a].queue(&Outgoing::whole(&frame));
            sent += 1;
        }
        world[a].kick();
        world.settle();
        assert_eq!(world[b].received.len(), sent);
    }
    for (n, packet) in world[b].received.iter().enumerate() {
        assert_eq!(packet.bytes, frame(&world, a, b, 60 + n % 1400));
    }
    world.end();
}

/// T-1: one page, many holders. It goes home when the last is done.
#[test]
fn a_broadcast_reaches_everybody_once() {
    let mut world = World::new();
    let [a, b, c, d] = world.connected();
    let frame = frames::plain(frames::BROADCAST, world[a].mac(), 1000, 5);
    world[a].send(&Outgoing::cut(&frame, vec![(100, 200), (0, 800)]));
    world.settle();
    for front in [b, c, d] {
        assert_eq!(world[front].received.len(), 1);
        assert_eq!(world[front].received[0].bytes, frame);
    }
    assert_eq!(world[a].received, []);
    assert_eq!(world.wire.take_frames(), [frame]);
    assert_eq!(world[a].answers.len(), 2);
    world.end();
}
