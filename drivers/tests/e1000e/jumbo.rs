//! Frames longer than a buffer.

use drivers::nic::{LONGEST, Nic};
use kernel::memory::Size;
use kernel::packet::Checksum;
use proptest::prelude::*;

use crate::checksums::KINDS;
use crate::send::{PAGES, cut};
use crate::world::{World, frame};

/// A descriptor of a piece that is not the last, and one of a last.
const PIECE: u32 = 0b01;
const LAST: u32 = 0b11;
const BUFFER: u16 = 2048;

#[test]
fn frames_are_put_together() {
    let mut world = World::running();
    let free = world.free();
    let mut lens: Vec<_> = (1..=4).flat_map(|n| n * 2048 - 2..=n * 2048 + 2).collect();
    lens.extend([1514, 9014, LONGEST.into()]);
    // Round the ring some times.
    for round in 0..10 {
        let frames: Vec<_> = lens.iter().map(|len| frame(round, *len)).collect();
        frames.iter().for_each(|frame| assert!(world.device.arrive(frame)));
        assert!(world.receive() == frames);
    }
    let statistics = world.nic.statistics();
    assert_eq!(statistics.received, 10 * lens.len() as u64);
    assert_eq!(statistics.received_bytes, 10 * lens.iter().sum::<usize>() as u64);
    assert_eq!(world.free(), free);
    world.finish();
}

/// A batch of descriptors may end in the midst of one.
#[test]
fn frames_go_on_in_the_next_batch() {
    let mut world = World::running();
    let frames: Vec<_> = (0..50).map(|number| frame(number, 9000)).collect();
    frames.iter().for_each(|frame| assert!(world.device.arrive(frame)));
    assert!(world.receive() == frames);
    world.finish();
}

#[test]
fn their_checksums_are_verified_where_they_end() {
    let mut world = World::running();
    for kind in KINDS {
        let mut frame = kind.finished(&vec![7; 8900]);
        assert!(world.device.arrive(&frame));
        frame[5000] ^= 1;
        assert!(world.device.arrive(&frame));
        let received = world.receive_with_checksums();
        let checksums = received.iter().map(|(_, checksum)| *checksum);
        assert!(checksums.eq([Checksum::Validated, Checksum::Unknown]), "{kind:?}");
    }
    world.finish();
}

#[test]
fn frames_that_are_too_long_are_dropped_whole() {
    let mut world = World::running();
    let free = world.free();
    let good = frame(1, LONGEST.into());
    for (number, len) in [9019, 10_240, 12_000, 16_380].into_iter().enumerate() {
        assert!(world.device.arrive(&frame(0, len)));
        assert!(world.device.arrive(&good));
        assert!(world.receive() == [&good[..]]);
        assert_eq!(world.nic.statistics().receive_malformed, number as u64 + 1);
    }
    assert_eq!(world.free(), free);
    world.finish();
}

#[test]
fn pieces_that_make_no_frame_are_dropped_whole() {
    let mut world = World::running();
    let free = world.free();
    let good = frame(1, 5000);
    let lies: [&[(u32, u16)]; 6] = [
        // One that does not fill its buffer, that leaves it, or has nothing in it.
        &[(PIECE, BUFFER - 1), (LAST, 100)],
        &[(PIECE, BUFFER + 1), (LAST, 100)],
        &[(PIECE, 0), (PIECE, BUFFER), (LAST, 100)],
        &[(PIECE, BUFFER), (LAST, BUFFER + 1)],
        &[(PIECE, BUFFER), (LAST, 0)],
        // A whole ring of them.
        &[(PIECE, BUFFER); 200],
    ];
    for (number, lies) in lies.into_iter().enumerate() {
        lies.iter().for_each(|(status, len)| world.device.lie(*status, *len));
        if number == 5 {
            world.device.lie(LAST, 1);
        }
        assert!(world.device.arrive(&good));
        assert!(world.receive() == [&good[..]], "{number}");
        assert_eq!(world.nic.statistics().receive_malformed, number as u64 + 1);
    }
    // An error is that of the whole frame, and is told where it ends.
    world.device.lie(PIECE | 1 << 31, BUFFER);
    world.device.lie(LAST, 100);
    world.device.lie(PIECE, BUFFER);
    world.device.lie(LAST | 1 << 31, 100);
    assert_eq!(world.receive().len(), 1);
    assert_eq!(world.nic.statistics().receive_errors, 1);
    assert_eq!(world.free(), free);
    world.finish();
}

/// A frame for whose end there is no buffer is dropped, and no part of it is kept.
#[test]
fn frames_without_buffers_are_dropped_whole() {
    let mut world = World::running();
    let mut held = Vec::new();
    while let Some(buffer) = world.pools.buffers.take(Size::Large) {
        held.push(buffer);
    }
    let free = world.free();
    let long = frame(1, 9000);
    for spare in 0..7 {
        held.drain(..spare).for_each(|buffer| world.pools.buffers.give(buffer));
        for _ in 0..3 {
            assert!(world.device.arrive(&long));
            let received = world.receive();
            assert_eq!(received.len(), usize::from(spare >= 5), "{spare}");
            assert!(received.iter().all(|frame| *frame == long));
        }
        held.extend((0..spare).map(|_| world.pools.buffers.take(Size::Large).expect("it is back")));
        assert_eq!(world.free(), free);
    }
    assert_eq!(world.nic.statistics().receive_no_buffer, 5 * 3);
    held.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
    world.finish();
}

/// What is begun when the device is reset, or stopped, ends there.
#[test]
fn a_reset_ends_what_is_begun() {
    let mut world = World::running();
    let free = world.free();
    world.device.lie(PIECE, BUFFER);
    assert!(world.receive().is_empty());
    assert_ne!(world.free(), free);
    world.device.lose_mastering();
    world.survey();
    world.settle();
    assert_eq!(world.free(), free);
    assert!(world.device.arrive(&frame(1, 100)));
    assert_eq!(world.receive(), [frame(1, 100)]);
    world.device.lie(PIECE, BUFFER);
    assert!(world.receive().is_empty());
    world.finish();
}

#[test]
fn long_frames_are_sent() {
    for mut world in [World::running(), World::emulated()] {
        for kind in KINDS {
            for pages in [3, 7, PAGES] {
                let partial = kind.partial(&vec![7; 8900]);
                world.offer_pieces(&cut(&partial, 78, pages), Checksum::Partial);
                world.transmit();
                let sent = world.device.wire.take();
                assert!(sent == [kind.finished(&vec![7; 8900])], "{kind:?} {pages}");
            }
        }
        world.reap();
        world.finish();
    }
}

proptest! {
    /// Whatever descriptors say, only what can be a frame is received, and all comes back.
    #[test]
    fn any_pieces_are_safe(
        pieces in prop::collection::vec(
            (any::<u32>(), prop_oneof![Just(BUFFER), 0..3000u16, any::<u16>()]),
            0..300,
        ),
    ) {
        let mut world = World::running();
        let free = world.free();
        for (status, len) in pieces {
            world.device.lie(status | 1, len);
            for frame in world.receive() {
                prop_assert!((14..=usize::from(LONGEST)).contains(&frame.len()));
            }
        }
        // The end of what may be begun.
        world.device.lie(LAST, 100);
        world.receive();
        prop_assert_eq!(world.free(), free);
        assert!(world.device.arrive(&frame(1, 9000)));
        prop_assert!(world.receive() == [frame(1, 9000)]);
        world.finish();
    }
}
