//! The 82574's driver against a model of its device.

mod checksums;
mod defects;
mod jumbo;
mod segments;
mod send;
mod world;

use std::time::Duration;

use drivers::fake::journal::{self, Level, journal};
use drivers::fake::{MAC, Model, QUEUES};
use drivers::nic::{BufferProvider, Cause, Fault, Link, Nic, PoolBuffers, Status, Window};
use drivers::pci::Command;
use kernel::Pools;
use kernel::memory::{Buffer, Size};
use kernel::packet::{BATCH, Batch, Checksum, MacAddress, Packet};
use proptest::prelude::*;

use checksums::KINDS;
use send::{PAGES, cut};
use world::{BUFFERS, RING, World, frame};

#[test]
fn it_comes_up_and_goes_down() {
    let mut world = World::new();
    assert_eq!(world.watchdog(), Status::Stopped);
    assert_eq!(world.nic.deadline(), None);
    assert_eq!(world.start(), Status::Running);
    assert_eq!(world.nic.mac(), MacAddress::new(MAC));
    assert_eq!(world.nic.link(), Link::Up { speed: 1000, full_duplex: true });
    assert_eq!(world.device.resets.get(), 1);
    assert_eq!(world.free().0, world.at_rest.0 - RING, "the ring is full");
    world.nic.stop(world.now);
    assert_eq!(world.settle(), Status::Stopped);
    assert_eq!(world.free(), world.at_rest);
    assert_eq!(world.start(), Status::Running);
    world.finish();
}

#[test]
fn frames_are_received_in_order_round_the_ring() {
    let mut world = World::running();
    for round in 0..10 {
        let frames: Vec<_> = (0..100).map(|n| frame(round * 100 + n, 14 + n * 15)).collect();
        frames.iter().for_each(|frame| assert!(world.device.arrive(frame)));
        assert_eq!(world.receive(), frames);
    }
    let statistics = world.nic.statistics();
    assert_eq!(statistics.received, 1000);
    assert_eq!(statistics.received_bytes, 10 * (0..100).map(|n| 14 + n * 15).sum::<u64>());
    world.finish();
}

#[test]
fn a_full_ring_holds_all_but_one_slot_and_drains_in_batches() {
    let mut world = World::running();
    let taken = (0..300).filter(|&n| world.device.arrive(&frame(n, 60))).count();
    assert_eq!(taken, RING);
    let mut batch = Batch::new();
    assert!(world.nic.receive(&mut batch, &mut world.pools));
    assert_eq!(batch.len(), BATCH);
    assert!(world.nic.receive(&mut batch, &mut world.pools), "no room for more");
    while let Some(packet) = batch.pop_front() {
        world.pools.give(packet);
    }
    assert_eq!(world.receive().len(), RING - BATCH);
    assert!(world.receive().is_empty());
    world.survey();
    assert_eq!(world.nic.statistics().device.missed, 45);
    world.finish();
}

#[test]
fn descriptors_that_lie_are_dropped() {
    let mut world = World::running();
    let free = world.free();
    let good = 0b11;
    for (status, len) in [(good, 0), (good, 13), (good, 2049), (good, u16::MAX), (0b01, 60)] {
        world.device.lie(status, len);
    }
    // The end of the frame in pieces, then a good one.
    world.device.lie(good, 60);
    assert!(world.device.arrive(&frame(1, 60)));
    assert_eq!(world.receive(), [frame(1, 60)]);
    assert_eq!(world.nic.statistics().receive_malformed, 5);
    for error in [24, 25, 26, 28, 31] {
        world.device.lie(good | 1 << error, 60);
    }
    assert!(world.receive().is_empty());
    assert_eq!(world.nic.statistics().receive_errors, 5);
    assert_eq!(world.free(), free);
    world.finish();
}

#[test]
fn one_call_takes_a_batch_of_bad_descriptors_and_no_more() {
    let mut world = World::running();
    (0..200).for_each(|_| world.device.lie(0b11, 0));
    let mut batch = Batch::new();
    assert!(world.nic.receive(&mut batch, &mut world.pools));
    assert_eq!(world.nic.statistics().receive_malformed, BATCH as u64);
    world.finish();
}

#[test]
fn without_buffers_frames_are_dropped_and_reception_goes_on() {
    let mut world = World::running();
    let mut held = Vec::new();
    while let Some(buffer) = world.pools.buffers.take(Size::Large) {
        held.push(buffer);
    }
    for n in 0..600 {
        assert!(world.device.arrive(&frame(n, 60)));
        assert!(world.receive().is_empty());
    }
    assert_eq!(world.nic.statistics().receive_no_buffer, 600);
    held.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
    assert!(world.device.arrive(&frame(7, 60)));
    assert_eq!(world.receive(), [frame(7, 60)]);
    // Without packets likewise.
    let held: Vec<_> = std::iter::from_fn(|| world.pools.take()).collect();
    assert!(world.device.arrive(&frame(8, 60)));
    assert!(world.receive().is_empty());
    assert_eq!(world.nic.statistics().receive_no_buffer, 601);
    held.into_iter().for_each(|packet| world.pools.give(packet));
    world.finish();
}

#[test]
fn too_few_buffers_fail_and_are_tried_again() {
    let mut world = World::with(RING.div_ceil(2) - 1, true);
    assert_eq!(world.start(), Status::Failed(Fault::NoBuffers));
    assert!(!world.device.config.function().command().contains(Command::BUS_MASTER));
    world.pass(Duration::from_secs(9));
    assert_eq!(world.settle(), Status::Failed(Fault::NoBuffers));
    assert_eq!(world.device.resets.get(), 1);
    assert!(world.nic.deadline().unwrap().since(world.now) <= Duration::from_secs(1));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.settle(), Status::Failed(Fault::NoBuffers));
    assert_eq!(world.device.resets.get(), 2);
    world.finish();
}

/// Buffers that a frame may not fit.
struct Short;

impl BufferProvider for Short {
    type Buffer = Buffer;

    fn provide(&mut self, pools: &mut Pools) -> Option<(Buffer, Window)> {
        let (buffer, window) = PoolBuffers.provide(pools)?;
        Some((buffer, Window { len: 2047, ..window }))
    }

    fn packet(&mut self, buffer: Buffer, len: u16, pools: &mut Pools) -> Option<Box<Packet>> {
        PoolBuffers.packet(buffer, len, pools)
    }

    fn append(
        &mut self,
        packet: Box<Packet>,
        buffer: Buffer,
        len: u16,
        pools: &mut Pools,
    ) -> Option<Box<Packet>> {
        PoolBuffers.append(packet, buffer, len, pools)
    }

    fn give(&mut self, buffer: Buffer, pools: &mut Pools) {
        PoolBuffers.give(buffer, pools);
    }
}

#[test]
fn buffers_that_are_too_short_are_not_used() {
    let mut world = World::of(Model::nic(), BUFFERS, true, Short);
    assert_eq!(world.start(), Status::Failed(Fault::NoBuffers));
    world.finish();
}

#[test]
fn interrupts_are_masked_while_the_loop_looks_and_armed_before_it_sleeps() {
    for masks_itself in [false, true] {
        let mut world = World::running();
        world.device.faults.masks_itself.set(masks_itself);
        world.nic.rearm();
        world.interrupts();
        world.nic.rearm();
        assert!(world.interrupts().is_empty(), "nothing has happened");
        world.device.arrive(&frame(0, 60));
        assert_eq!(world.interrupts(), [QUEUES]);
        // Awake: no more of them.
        world.device.arrive(&frame(1, 60));
        world.offer(&frame(2, 60));
        world.transmit();
        assert!(world.interrupts().is_empty());
        // One comes after the last look: arming again tells of it.
        assert_eq!(world.receive().len(), 2);
        world.device.arrive(&frame(3, 60));
        world.nic.rearm();
        assert!(world.interrupts().contains(&QUEUES));
        assert_eq!(world.receive().len(), 1);
        world.finish();
    }
}

#[test]
fn sent_packets_interrupt_only_where_some_are_under_way() {
    let mut world = World::running();
    world.nic.rearm();
    world.interrupts();
    world.nic.rearm();
    world.device.faults.stalled.set(true);
    world.offer(&frame(0, 60));
    // Armed already: sending while asleep needs no more.
    world.transmit();
    world.device.faults.stalled.set(false);
    world.device.kick();
    assert_eq!(world.interrupts(), [QUEUES], "the lender waits for it");
    world.reap();
    // Awake: what is under way when the loop goes to sleep.
    world.device.faults.stalled.set(true);
    world.offer(&frame(0, 60));
    world.transmit();
    world.nic.rearm();
    world.device.faults.stalled.set(false);
    world.device.kick();
    assert_eq!(world.interrupts(), [QUEUES]);
    world.reap();
    world.offer(&frame(0, 60));
    world.transmit();
    world.reap();
    world.nic.rearm();
    assert!(world.interrupts().is_empty());
    world.finish();
}

/// EITR, in 256 ns: by what passes, told only where it changes.
#[test]
fn interrupts_come_as_often_as_suits_the_load() {
    const EITR: u32 = 0xe8;
    let mut world = World::running();
    world.watchdog();
    let prompt = world.device.get(EITR);
    let pass = |world: &mut World, packets, len| {
        let accesses = world.device.accesses.get();
        for _ in 0..30 {
            (0..packets).for_each(|number| assert!(world.device.arrive(&frame(number, len))));
            world.receive();
            world.pass(Duration::from_micros(1000));
            world.watchdog();
        }
        // Beside one for each time frames are received (RDT).
        let received = if packets == 0 { 0 } else { 30 };
        (world.device.get(EITR), world.device.accesses.get() - accesses - received)
    };
    let (bulk, writes) = pass(&mut world, 60, 1514);
    assert_eq!(writes, 1);
    let (steady, writes) = pass(&mut world, 40, 100);
    assert_eq!(writes, 1);
    assert_eq!(pass(&mut world, 40, 100), (steady, 0));
    assert_eq!(pass(&mut world, 2, 100), (prompt, 1));
    assert_eq!(pass(&mut world, 0, 0), (prompt, 0));
    assert_eq!(pass(&mut world, 60, 1514), (bulk, 1));
    assert!(prompt < steady && steady < bulk);
    // A reset device begins anew.
    world.device.lose_mastering();
    world.pass(Duration::from_secs(2));
    world.settle();
    assert_eq!(world.device.get(EITR), prompt);
    world.finish();
}

#[test]
fn interrupts_that_do_not_come_make_it_polled() {
    let mut world = World::new();
    world.device.faults.silent.set(true);
    assert_eq!(world.start(), Status::Running);
    assert!(world.nic.is_polled(), "not seen yet");
    world.pass(Duration::from_millis(900));
    world.watchdog();
    world.device.faults.silent.set(false);
    world.nic.acknowledge(Cause::Queues);
    world.pass(Duration::from_millis(200));
    world.watchdog();
    assert!(world.nic.is_polled());
    assert_eq!(world.device.config.get(0xa0) >> 31, 0, "MSI-X is off");
    world.nic.rearm();
    world.nic.acknowledge(Cause::Other);
    world.device.arrive(&frame(0, 60));
    assert!(world.interrupts().is_empty());
    assert_eq!(world.receive().len(), 1);
    world.finish();
}

#[test]
fn without_msix_it_is_polled() {
    let mut world = World::with(BUFFERS, false);
    assert_eq!(world.start(), Status::Running);
    world.device.arrive(&frame(0, 60));
    world.nic.rearm();
    assert!(world.nic.is_polled());
    assert!(world.interrupts().is_empty());
    assert_eq!(world.device.get(0xd0), 0, "nothing is unmasked");
    assert_eq!(world.receive().len(), 1);
    world.finish();
}

#[test]
fn bus_mastering_taken_away_is_noticed_counted_and_recovered_from() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    (0..10).for_each(|n| world.offer(&frame(n, 60)));
    world.transmit();
    // Half the ring is behind it, so that the slots must move.
    (0..100).for_each(|n| assert!(world.device.arrive(&frame(n, 60))));
    // And a frame is cut off in the middle.
    world.device.lie(0b01, 2048);
    assert_eq!(world.receive().len(), 100);
    world.device.lose_mastering();
    assert!(!world.device.arrive(&frame(0, 60)));
    assert_eq!(world.survey(), Status::Changing);
    assert_eq!(world.settle(), Status::Running);
    let statistics = world.nic.statistics();
    assert_eq!((statistics.mastering_lost, statistics.resets), (1, 2));
    assert_eq!(statistics.send_aborted, 10);
    assert_eq!(world.free().1, world.at_rest.1, "aborted packets are back");
    world.device.faults.stalled.set(false);
    world.device.faults.loopback.set(true);
    world.interrupts();
    assert!(!world.nic.is_polled());
    world.nic.rearm();
    world.interrupts();
    let frames: Vec<_> = (0..200).map(|n| frame(n, 60)).collect();
    frames.iter().for_each(|frame| world.offer(frame));
    world.transmit();
    assert_eq!(world.receive(), frames);
    world.finish();
}

/// What goes wrong again and again is counted each time, and told a few times.
#[test]
fn resets_without_end_do_not_fill_the_log() {
    let mut world = World::running();
    journal::start();
    for _ in 0..50 {
        world.device.lose_mastering();
        assert_eq!(world.watchdog(), Status::Changing);
        assert_eq!(world.settle(), Status::Running);
    }
    assert_eq!(world.nic.statistics().mastering_lost, 50);
    let lines = journal(Level::Info, "");
    assert!((1..20).contains(&lines.len()), "{lines:?}");
    world.finish();
}

/// So is a link that comes and goes.
#[test]
fn links_lost_are_counted() {
    let mut world = World::running();
    for _ in 0..50 {
        world.device.set_link(false);
        world.interrupts();
        world.device.set_link(true);
        world.interrupts();
    }
    assert_eq!(world.nic.statistics().links_lost, 50);
    world.finish();
}

#[test]
fn a_running_device_is_looked_at_once_a_second() {
    let mut world = World::running();
    world.watchdog();
    let accesses = world.device.accesses.get();
    let deadline = world.nic.deadline().unwrap();
    for _ in 0..9 {
        world.pass(Duration::from_millis(100));
        world.watchdog();
    }
    assert_eq!(world.device.accesses.get(), accesses);
    world.pass(deadline.since(world.now));
    world.watchdog();
    assert!(world.device.accesses.get() > accesses);
    world.finish();
}

#[test]
fn a_configuration_space_that_vanishes_is_noticed() {
    let mut world = World::running();
    world.device.set(0x4010, !0);
    world.survey();
    assert_eq!(world.nic.statistics().device.missed, 0, "ones are not a count");
    world.device.config.vanish();
    world.survey();
    assert_eq!(world.settle(), Status::Failed(Fault::Gone));
    // It never comes back, and nor do its receive buffers.
    std::mem::forget(world.nic);
}

#[test]
fn a_reset_that_does_not_finish_ends_at_the_ladders_last_rung() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    (0..4).for_each(|n| world.offer(&frame(n, 60)));
    world.transmit();
    let free = world.free();
    world.device.faults.stuck_reset.set(true);
    world.device.config.set(0xe8, 1 << 21);
    world.device.lose_mastering();
    world.survey();
    let begun = world.now;
    while world.watchdog() == Status::Changing {
        assert_eq!(world.free(), free, "it may still look at them");
        world.pass(Duration::from_micros(100));
    }
    assert_eq!(world.settle(), Status::Failed(Fault::Reset));
    assert!(world.now.since(begun) >= Duration::from_millis(300), "pending transactions");
    assert_eq!(world.free(), (free.0 + 4, free.1 + 4), "sent packets alone are back");
    assert!(world.receive().is_empty());
    world.offer(&frame(0, 60));
    world.transmit();
    assert_eq!(world.queue.len(), 1, "nor does it send");
    world.device.faults.stuck_reset.set(false);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.settle(), Status::Running);
    world.finish();
}

#[test]
fn quiet_transactions_shorten_the_ladder() {
    let mut world = World::new();
    world.device.faults.stuck_reset.set(true);
    let begun = world.now;
    assert_eq!(world.start(), Status::Failed(Fault::Reset));
    assert!(world.now.since(begun) < Duration::from_millis(250));
    world.device.faults.stuck_reset.set(false);
    world.finish();
}

#[test]
fn dma_that_does_not_end_delays_the_reset_a_little() {
    let mut world = World::new();
    world.device.faults.busy.set(true);
    let begun = world.now;
    assert_eq!(world.start(), Status::Running);
    let took = world.now.since(begun);
    assert!((10..20).contains(&took.as_millis()), "{took:?}");
    world.finish();
}

#[test]
fn a_device_that_vanishes_is_reported() {
    let mut world = World::running();
    world.device.faults.stalled.set(true);
    world.offer(&frame(0, 60));
    world.transmit();
    world.device.faults.gone.set(true);
    world.survey();
    assert_eq!(world.settle(), Status::Failed(Fault::Gone));
    assert_eq!(world.nic.link(), Link::Down);
    assert_eq!(world.free().1, world.at_rest.1);
    assert!(!world.device.config.function().command().contains(Command::BUS_MASTER));
    world.device.faults.gone.set(false);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.settle(), Status::Running);
    // Half-way through a reset.
    world.device.lose_mastering();
    world.survey();
    world.device.faults.gone.set(true);
    assert_eq!(world.settle(), Status::Failed(Fault::Gone));
    // And with its configuration space, which does not come back.
    world.device.config.vanish();
    world.pass(Duration::from_secs(11));
    assert_eq!(world.settle(), Status::Failed(Fault::Gone));
    // Its receive buffers stay out of use for good.
    assert_eq!(world.free().0, world.at_rest.0 - RING);
    std::mem::forget(world.nic);
}

#[test]
fn a_device_without_an_address_does_not_run() {
    let mut world = World::new();
    let [low, high] = world.device.nvm.get();
    for bad in [[low, high & !(1 << 31)], [0, 1 << 31], [low | 1, high]] {
        world.device.nvm.set(bad);
        world.nic.stop(world.now);
        world.settle();
        assert_eq!(world.start(), Status::Failed(Fault::NoAddress));
    }
    world.finish();
}

#[test]
fn stopping_and_starting_cross() {
    let mut world = World::new();
    world.nic.start(world.now);
    world.nic.stop(world.now);
    assert_eq!(world.settle(), Status::Stopped);
    world.nic.start(world.now);
    world.watchdog();
    world.nic.stop(world.now);
    world.nic.start(world.now);
    assert_eq!(world.settle(), Status::Running);
    assert_eq!(world.start(), Status::Running, "it runs already");
    world.offer(&frame(0, 60));
    world.device.faults.stalled.set(true);
    world.transmit();
    world.finish();
}

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    Arrive(u16),
    Lie(u32, u16),
    ClaimSent,
    Scribble(u8, u8),
    SendOne,
    Offer(u16),
    Lend(u16, usize),
    Partial(usize, u16, usize),
    Segments(bool, u16, u16, usize),
    Transmit,
    Receive,
    Reap,
    Interrupts,
    Rearm,
    Watchdog(u16),
    LoseMastering,
    Link(bool),
    Fault(u8, bool),
    Start,
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        6 => prop_oneof![14..1519u16, 14..16_381u16].prop_map(Arrive),
        2 => (any::<u32>(), any::<u16>()).prop_map(|(status, len)| Lie(status, len)),
        1 => Just(ClaimSent),
        1 => any::<(u8, u8)>().prop_map(|(slot, status)| Scribble(slot, status)),
        3 => Just(SendOne),
        6 => (0..1600u16).prop_map(Offer),
        6 => (0..1600u16, 0..=PAGES).prop_map(|(len, pages)| Lend(len, pages)),
        6 => (0..8usize, 0..1400u16, 0..=PAGES).prop_map(|(kind, len, pages)| Partial(kind, len, pages)),
        3 => (any::<bool>(), 2000..60_000u16, 500..1400u16, 1..=PAGES)
            .prop_map(|(v6, len, mss, pages)| Segments(v6, len, mss, pages)),
        6 => Just(Transmit),
        6 => Just(Receive),
        3 => Just(Reap),
        3 => Just(Interrupts),
        3 => Just(Rearm),
        8 => (0..1500u16).prop_map(Watchdog),
        1 => Just(LoseMastering),
        1 => any::<bool>().prop_map(Link),
        2 => (0..6u8, any::<bool>()).prop_map(|(fault, on)| Fault(fault, on)),
        1 => Just(Start),
        1 => Just(Stop),
    ]
}

impl World {
    fn offer_if_possible(&mut self, pieces: &[&[u8]], checksum: Checksum) {
        let room = self.room_to_lend() >= pieces.len();
        if self.pools.idle() > 0 && self.free().0 > 0 && room && self.queue.len() < 500 {
            self.offer_pieces(pieces, checksum);
        }
    }

    fn happen(&mut self, event: Event) {
        let device = self.device.clone();
        match event {
            Event::Arrive(len) => drop(device.arrive(&frame(0, len.into()))),
            Event::Lie(status, len) => device.lie(status, len),
            Event::ClaimSent => device.claim_sent(),
            Event::Scribble(slot, status) => device.scribble(slot.into(), status),
            Event::SendOne => device.send_one(),
            Event::Offer(len) => self.happen(Event::Lend(len, 0)),
            Event::Lend(len, pages) => {
                let frame = frame(0, len.into());
                self.offer_if_possible(&cut(&frame, 60, pages), Checksum::Unknown);
            }
            Event::Partial(kind, len, pages) => {
                let frame = KINDS[kind].partial(&vec![7; len.into()]);
                self.offer_if_possible(&cut(&frame, 78, pages), Checksum::Partial);
            }
            Event::Segments(v6, len, mss, pages) => {
                let room = self.room_to_lend() > pages && self.pools.idle() > 0;
                if room && self.free().0 > 0 && self.queue.len() < 500 {
                    let pages = pages.max(usize::from(len).div_ceil(4000));
                    segments::Whole::over(v6, len.into()).offer(self, mss, pages);
                }
            }
            Event::Transmit => _ = self.transmit(),
            Event::Receive => drop(self.receive()),
            Event::Reap => self.reap(),
            Event::Interrupts => drop(self.interrupts()),
            Event::Rearm => self.nic.rearm(),
            Event::Watchdog(time) => {
                self.pass(Duration::from_millis(time.into()));
                self.watchdog();
            }
            Event::LoseMastering => device.lose_mastering(),
            Event::Link(up) => device.set_link(up),
            Event::Fault(fault, on) => device.fault(fault).set(on),
            Event::Start => self.nic.start(self.now),
            Event::Stop => self.nic.stop(self.now),
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_everything_comes_back(events in prop::collection::vec(event(), 0..200)) {
        let mut world = World::running();
        for event in events {
            world.happen(event);
        }
        (0..6).for_each(|fault| world.device.fault(fault).set(false));
        world.pass(Duration::from_secs(60));
        world.settle();
        world.finish();
    }
}
