//! Sending.

use std::time::Duration;

use drivers::fake::OTHER;
use drivers::nic::{Fault, Link, Nic, Status};
use kernel::packet::Checksum;
use kernel::switch::{Holding, Port, Traffic};

use crate::world::{RING, World, frame};

/// The most pages that a packet borrows.
pub const PAGES: usize = 19;

/// A frame as the device pads it.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// How long a packet may be with the device.
fn bound(world: &World) -> Duration {
    match world.nic.holding() {
        Holding::Mapped(bound) => bound,
        holding => panic!("{holding:?}"),
    }
}

#[test]
pub fn packets_are_sent_in_order_and_ended_once_sent() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    let free = world.free();
    let frames: Vec<_> = (0..300).map(|n| frame(n, 17 + n * 5)).collect();
    frames.iter().for_each(|frame| world.offer(frame));
    world.transmit();
    assert_eq!(world.queue.len(), 300 - RING, "one slot stays free");
    world.reap();
    assert_eq!(world.free().1, free.1 - 300, "nothing is sent yet");
    world.device.faults.stalled.set(false);
    world.device.set_link(true);
    // The next doorbell starts it again.
    for _ in 0..3 {
        world.offer(&frame(1, 60));
        world.reap();
        world.transmit();
        world.device.kick();
    }
    world.reap();
    assert_eq!(world.free(), free);
    let sent: Vec<_> = frames.into_iter().map(padded).collect();
    assert_eq!(world.device.wire.borrow()[..300], sent);
    let statistics = world.nic.statistics();
    assert_eq!(statistics.sent, 303);
    world.finish();
}

#[test]
fn a_thousand_packets_go_out_and_come_back() {
    let mut world = World::running();
    world.device.faults.loopback.set(true);
    for round in 0..20 {
        let frames: Vec<_> = (0..50).map(|n| frame(round * 50 + n, 60 + n * 29)).collect();
        frames.iter().for_each(|frame| world.offer(frame));
        world.transmit();
        assert_eq!(world.receive(), frames);
    }
    world.survey();
    let device = world.nic.statistics().device;
    assert_eq!((device.received, device.sent), (1000, 1000));
    world.survey();
    assert_eq!(world.nic.statistics().device.sent, 1000, "counted once");
    world.finish();
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let mut world = World::running();
    let free = world.free();
    world.offer(&frame(0, 13));
    world.offer_pieces(&cut(&frame(0, 9019), 60, 3), Checksum::Unknown);
    world.offer_as(&frame(0, 60), Checksum::Partial);
    let mut empty = world.pools.take().unwrap();
    empty.linear = None;
    world.queue.push(empty, world.now).unwrap();
    world.offer_pieces(&cut(&frame(9, 9018), 60, 3), Checksum::Unknown);
    assert_eq!(world.transmit(), Traffic { packets: 1, bytes: 9018 });
    world.reap();
    assert_eq!(world.nic.statistics().send_refused, 4);
    assert_eq!(*world.device.wire.borrow(), [frame(9, 9018)]);
    let accesses = world.device.accesses.get();
    world.transmit();
    assert_eq!(world.device.accesses.get(), accesses, "nothing to ring the bell for");
    assert_eq!(world.free(), free);
    world.finish();
}

/// What is behind a short frame in its buffer, and whatever was there before, does not
/// go out.
#[test]
fn short_frames_are_padded_with_zeros() {
    let mut world = World::running();
    for len in 14..60 {
        for frame in [frame(1, 200), frame(len, len)] {
            world.offer(&frame);
            world.transmit();
            world.reap();
            assert_eq!(world.device.wire.take(), [padded(frame)]);
        }
    }
    assert_eq!(world.device.sender.borrow().padded, 0, "nothing is left to the device");
    world.finish();
}

/// The device pads what the driver cannot: bytes that somebody else looks at too, or
/// that are not all in our memory, or at the end of it.
#[test]
fn short_frames_that_cannot_be_padded_are_padded_by_the_device() {
    let mut world = World::running();
    let free = world.free();
    let short = frame(1, 40);
    let packet = world.packet(&[&short], Checksum::Unknown);
    let clone = world.pools.share(&packet).unwrap();
    world.queue.push(packet, world.now).unwrap();
    world.offer_pieces(&[&short[..20], &short[20..]], Checksum::Unknown);
    let mut last = world.packet(&[&short], Checksum::Unknown);
    let linear = last.linear.as_mut().unwrap();
    let cell = world.pools.buffers.bytes_mut(&mut linear.buffer).unwrap();
    let start = cell.len() - short.len();
    cell[start..].copy_from_slice(&short);
    linear.offset = start as u16;
    world.queue.push(last, world.now).unwrap();
    world.transmit();
    assert_eq!(world.device.wire.take(), vec![padded(short.clone()); 3]);
    assert_eq!(world.device.sender.borrow().padded, 3);
    assert_eq!(clone.headers(&world.pools.buffers), short);
    world.pools.give(clone);
    world.reap();
    assert_eq!(world.free(), free);
    // Fewer bytes than it can send.
    world.offer_pieces(&[&short[..14], &short[14..16]], Checksum::Unknown);
    world.transmit();
    assert_eq!(world.nic.statistics().send_refused, 1);
    world.finish();
}

#[test]
fn without_a_link_no_packet_is_taken() {
    let mut world = World::running();
    world.device.set_link(false);
    assert_eq!(world.interrupts(), [OTHER]);
    assert_eq!(world.nic.link(), Link::Down);
    (0..5).for_each(|n| world.offer(&frame(n, 60)));
    world.transmit();
    assert_eq!((world.queue.len(), world.nic.statistics().sent), (5, 0));
    world.device.set_link(true);
    assert_eq!(world.interrupts(), [OTHER]);
    assert!(matches!(world.nic.link(), Link::Up { .. }));
    world.finish();
}

#[test]
fn a_device_that_claims_everything_is_done_ends_nothing_twice() {
    let mut world = World::running();
    let free = world.free();
    (0..256).for_each(|_| world.device.lie(0b11, 100));
    // One claim is for a slot that was not the device's.
    assert_eq!(world.receive().len(), RING);
    world.device.claim_sent();
    world.reap();
    world.transmit();
    assert_eq!(world.free(), free);
    world.device.faults.stalled.set(true);
    (0..3).for_each(|n| world.offer(&frame(n, 60)));
    world.transmit();
    world.device.claim_sent();
    world.reap();
    world.reap();
    assert_eq!(world.free(), free);
    world.finish();
}

/// A frame cut in pieces: so many bytes of headers, and the rest in so many pages.
pub fn cut(frame: &[u8], headers: usize, pages: usize) -> Vec<&[u8]> {
    let headers = if pages == 0 { frame.len() } else { headers.min(frame.len()) };
    let (headers, payload) = frame.split_at(headers);
    let piece = payload.len().div_ceil(pages.max(1)).max(1);
    std::iter::once(headers).chain(payload.chunks(piece)).collect()
}

#[test]
fn packets_are_gathered_from_where_they_lie() {
    gather(World::running(), |pages| pages.div_ceil(2));
}

/// QEMU's device needs each page told of.
#[test]
fn packets_are_gathered_page_by_page_for_an_emulated_device() {
    gather(World::emulated(), |pages| pages);
}

/// Sends packets of which two pages each are one region to the device, and others;
/// `regions` of the former's pages have a descriptor each.
fn gather(mut world: World, regions: impl Fn(usize) -> usize) {
    let free = world.free();
    for adjacent in [false, true] {
        world.set_adjacent(adjacent);
        for pages in 0..=PAGES {
            for len in [80, 1000, 1514] {
                let frame = frame(len, len);
                let pieces = cut(&frame, 60, pages);
                world.device.faults.stalled.set(true);
                world.offer_pieces(&pieces, Checksum::Unknown);
                let tail = world.device.tail();
                world.transmit();
                assert_eq!(world.lent(), pieces.len() - 1, "the device has them");
                let descriptors = (256 + world.device.tail() - tail) % 256;
                let lent = pieces.len() - 1;
                let told = if adjacent { regions(lent) } else { lent };
                assert_eq!(descriptors, 1 + told, "{lent} pages, adjacent: {adjacent}");
                world.device.faults.stalled.set(false);
                world.device.kick();
                world.reap();
                assert_eq!((world.lent(), world.free()), (0, free));
                assert_eq!(world.device.wire.take(), [frame]);
            }
        }
    }
    world.finish();
}

/// Packets of all sizes, round the ring, as fast as it takes them.
#[test]
fn packets_in_pieces_go_round_the_ring_in_order() {
    let mut world = World::running();
    let mut sent = Vec::new();
    let mut full = 0;
    world.device.faults.stalled.set(true);
    for number in 0..1000 {
        let frame = frame(number, 100 + number % 1400);
        world.set_adjacent(number % 3 == 0);
        world.offer_pieces(&cut(&frame, 60, number * 7 % (PAGES + 1)), Checksum::Unknown);
        world.transmit();
        if !world.queue.is_empty() {
            // Full: a part of what is in it goes out.
            full += 1;
            for _ in 0..PAGES {
                world.device.send_one();
                world.transmit();
            }
            assert!(world.queue.is_empty());
        }
        sent.push(frame);
    }
    assert!(full > 10);
    world.device.faults.stalled.set(false);
    world.device.kick();
    world.reap();
    assert_eq!(world.lent(), 0);
    assert!(world.device.wire.take() == sent);
    world.finish();
}

#[test]
fn a_packet_that_does_not_fit_waits_and_is_not_overtaken() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    let small: Vec<_> = (0..RING - PAGES).map(|n| frame(n, 60)).collect();
    small.iter().for_each(|frame| world.offer(frame));
    world.transmit();
    assert!(world.queue.is_empty());
    let (large, last) = (frame(1, 1500), frame(2, 60));
    world.offer_pieces(&cut(&large, 60, PAGES), Checksum::Unknown);
    world.offer(&last);
    world.transmit();
    assert_eq!((world.queue.len(), world.lent()), (2, PAGES), "one descriptor short");
    world.device.send_one();
    world.transmit();
    assert_eq!(world.queue.len(), 1, "no room for the last one");
    world.device.send_one();
    world.transmit();
    assert!(world.queue.is_empty());
    world.device.faults.stalled.set(false);
    world.device.kick();
    assert!(world.device.wire.take() == [small, vec![large, last]].concat());
    world.finish();
}

/// O-10: a packet is with the device until its last descriptor is written back.
#[test]
fn a_packet_is_given_back_whole() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    let bytes = frame(0, 600);
    world.offer_pieces(&cut(&bytes, 60, 4), Checksum::Unknown);
    world.offer(&frame(1, 60));
    world.transmit();
    for slot in 0..4 {
        world.device.scribble(slot, 1);
        world.reap();
        assert_eq!(world.lent(), 4);
    }
    world.device.scribble(4, 1);
    world.reap();
    assert_eq!((world.lent(), world.free().1), (0, world.at_rest.1 - 1));
    world.finish();
}

#[test]
fn a_packet_out_of_the_devices_reach_is_refused() {
    let mut world = World::running();
    let packet = world.packet(&[&frame(0, 100), b"in a page"], Checksum::Unknown);
    world.queue.push(packet, world.now).unwrap();
    world.transmit();
    assert_eq!(world.nic.statistics().send_refused, 1);
    assert_eq!(world.lent(), 0);
    world.finish();
}

/// What a device writes back counts only where it is the oldest packet's turn, and
/// only by the one bit.
#[test]
fn what_is_written_back_out_of_order_ends_nothing() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    let free = world.free();
    (0..4).for_each(|n| world.offer(&frame(n, 60)));
    world.transmit();
    let in_flight = |world: &World| free.1 - world.free().1;
    for slot in [1, 2, 200, 255] {
        world.device.scribble(slot, 1);
        world.reap();
    }
    world.device.scribble(0, 0xfe);
    world.reap();
    assert_eq!(in_flight(&world), 4);
    world.device.scribble(0, 0xff);
    world.reap();
    assert_eq!(in_flight(&world), 1, "the second and the third were done already");
    world.finish();
}

#[test]
fn a_packet_that_is_not_sent_resets_the_device() {
    let mut world = World::running();
    let free = world.free();
    world.device.faults.stalled.set(true);
    world.offer(&frame(0, 60));
    world.transmit();
    world.run(Duration::from_millis(1900));
    assert_eq!(world.nic.statistics().stalls, 0, "not yet");
    world.run(bound(&world));
    let statistics = world.nic.statistics();
    assert_eq!((statistics.stalls, statistics.send_aborted), (1, 1));
    assert_eq!(world.free(), free);
    assert_eq!(world.settle(), Status::Running);
    // And then it sends again.
    world.device.faults.stalled.set(false);
    world.offer(&frame(1, 60));
    world.transmit();
    assert_eq!(*world.device.wire.borrow(), [frame(1, 60)]);
    world.finish();
}

/// What counts is how long a packet is in the ring, not whether others leave it.
#[test]
fn a_device_that_is_slow_is_not_stalled_until_a_packet_is_late() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    for (interval, stalls) in [(100, 0), (600, 1)] {
        (0..10).for_each(|n| world.offer(&frame(n, 60)));
        world.transmit();
        for _ in 0..10 {
            world.run(Duration::from_millis(interval));
            world.device.send_one();
        }
        world.reap();
        assert_eq!(world.nic.statistics().stalls, stalls);
    }
    world.finish();
}

/// O-10: whatever the device does, its packets are back within the bound it tells,
/// each once.
#[test]
fn a_hung_device_gives_its_packets_back_within_the_bound() {
    for (stuck_reset, busy, pending) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
    {
        let mut world = World::running();
        // Just after a survey is the worst moment.
        let survey = world.nic.deadline().unwrap();
        world.pass(survey.since(world.now));
        world.watchdog();
        world.pass(Duration::from_micros(1));
        let free = world.free();
        let device = world.device.clone();
        let faults = &device.faults;
        faults.stalled.set(true);
        faults.stuck_reset.set(stuck_reset);
        faults.busy.set(busy);
        world.device.config.set(0xe8, u32::from(pending) << 21);
        for number in 0..60 {
            world.offer_pieces(&cut(&frame(number, 1000), 60, 3), Checksum::Unknown);
        }
        (0..60).for_each(|n| world.offer(&frame(n, 100)));
        world.transmit();
        world.run(Duration::from_millis(1999));
        assert_eq!(world.free().1, free.1 - 120, "not before it is sure");
        assert_eq!(world.lent(), 180);
        world.run(bound(&world) - Duration::from_millis(1999));
        assert_eq!(world.free().1, free.1 - world.queue.len(), "{stuck_reset} {busy} {pending}");
        assert_eq!(world.lent(), 0);
        assert_eq!(world.nic.statistics().send_aborted, 75);
        let failed = Status::Failed(Fault::Reset);
        assert_eq!(world.settle(), if stuck_reset { failed } else { Status::Running });
        faults.stuck_reset.set(false);
        world.finish();
    }
}

#[test]
fn a_link_lost_with_packets_in_the_ring_is_flushed() {
    let mut world = World::running();
    let free = world.free();
    for noticed in [true, false] {
        let resets = world.device.resets.get();
        world.device.faults.stalled.set(true);
        (0..5).for_each(|n| world.offer_pieces(&cut(&frame(n, 600), 60, 2), Checksum::Unknown));
        world.transmit();
        world.device.faults.silent.set(!noticed);
        world.device.set_link(false);
        assert_eq!(world.interrupts().len(), usize::from(noticed));
        world.device.faults.stalled.set(false);
        world.device.kick();
        world.run(Duration::from_millis(1100));
        assert_eq!((world.lent(), world.free()), (0, free));
        // Once: there is nothing more to flush.
        world.run(Duration::from_secs(10));
        assert_eq!(world.device.resets.get(), resets + 1);
        assert_eq!(world.nic.link(), Link::Down);
        world.device.set_link(true);
        world.run(Duration::from_secs(1));
        assert!(matches!(world.nic.link(), Link::Up { .. }));
        world.offer(&frame(9, 60));
        world.transmit();
        assert_eq!(*world.device.wire.borrow(), [frame(9, 60)], "and none of the others");
        world.device.wire.take();
        world.reap();
    }
    let statistics = world.nic.statistics();
    assert_eq!((statistics.flushes, statistics.stalls, statistics.send_aborted), (2, 0, 10));
    world.finish();
}

/// A link that comes back before anybody looks cost nothing.
#[test]
fn a_short_loss_of_the_link_is_ridden_out() {
    let mut world = World::running();
    world.watchdog();
    world.device.faults.stalled.set(true);
    world.offer(&frame(0, 60));
    world.transmit();
    world.device.set_link(false);
    world.interrupts();
    world.run(Duration::from_millis(100));
    world.device.set_link(true);
    world.interrupts();
    world.device.faults.stalled.set(false);
    world.device.kick();
    world.run(Duration::from_secs(2));
    assert_eq!(world.device.resets.get(), 1);
    assert_eq!(*world.device.wire.borrow(), [frame(0, 60)]);
    world.finish();
}
