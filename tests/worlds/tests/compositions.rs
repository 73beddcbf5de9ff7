//! Packets of every size, in all the pieces in which guests' stacks have them.
//!
//! Every size up to the usual MTU goes to a guest in every number of fragments in every
//! run of the tests. With `SOAK=1` (`make soak`) all of them go to the wire as well, and
//! there are more of the larger ones and of those made up at random.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter;
use std::time::Duration;

use kernel::pages::choice::Mode;
use kernel::switch::Holding;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use worlds::compositions::{self, Composition, Fate, LINUX_FRAGMENTS, Part, Slots, WORST};
use worlds::trials::{soaks, trials};
use worlds::{Id, Manners, Outgoing, TxAnswer, World, frames};
use xen::PAGE_SIZE;
use xen::fake::{Kind, Operation};
use xen::netif::Status;
use xen::ring::TX_RING_SIZE;

const JUMBO: (&str, &str) = ("mtu", "65517");
/// The longest frames by default, and where the MTU is as large as can be.
const LONGEST: usize = 1514;
const LONGEST_JUMBO: usize = 65_531;
/// A station on the wire.
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// A world of two guests whose MTU is as large as can be.
fn jumbo() -> (World, [Id; 2]) {
    let mut world = World::new();
    let guests = [0, 1].map(|guest| world.attach_with(guest, Manners::default(), &[JUMBO]));
    (world, guests)
}

/// A packet in these slots, whose bytes no other slots have.
fn packet(world: &World, from: Id, to: [u8; 6], slots: Slots) -> Outgoing {
    let mut hasher = DefaultHasher::new();
    slots.hash(&mut hasher);
    let len = slots.iter().map(|slot| usize::from(slot.1)).sum();
    Outgoing::cut(&frames::plain(to, world[from].mac(), len, hasher.finish()), slots)
}

/// These sizes in every number of fragments.
fn sizes(sizes: impl Iterator<Item = usize>) -> impl Iterator<Item = Composition> {
    sizes.flat_map(|size| {
        (0..=LINUX_FRAGMENTS).filter_map(move |count| compositions::spread(size, count))
    })
}

/// Sizes beyond the usual MTU: around what fills pages, some between, and the largest.
fn large() -> impl Iterator<Item = usize> {
    let around = (1..=15).flat_map(|pages| pages * PAGE_SIZE - 2..=pages * PAGE_SIZE + 2);
    let step = if soaks() { 101 } else { 1777 };
    around.chain((LONGEST + 1..LONGEST_JUMBO).step_by(step)).chain([LONGEST_JUMBO])
}

/// Those at which frontends had to split, or should have.
fn corners() -> impl Iterator<Item = Composition> {
    let counted = (1..=WORST).map(compositions::of_slots);
    compositions::crossings().chain(counted).chain(compositions::crumbs())
}

/// Corner cases and others, with parts that have no byte.
fn hollow() -> impl Iterator<Item = Composition> {
    let bases = [2, 5, 9, 16, 18].map(compositions::of_slots);
    let (head, fragments) = (Part { offset: 0, len: 60 }, [100, 300, 40, 500]);
    let plain = fragments.map(|len| Part { offset: 3, len });
    let crossing = fragments.map(Part::to_first_byte);
    let headers = [68, 1, 63].map(|len| Part { offset: 9, len });
    let others = [&plain[..], &crossing, &headers];
    let others = others.map(|parts| Composition { head, fragments: parts.to_vec() });
    bases.into_iter().chain(others).flat_map(|base| compositions::hollow(&base))
}

/// Sends them to and fro as Linux does; how many it sends.
fn exchange(
    world: &mut World,
    [a, b]: [Id; 2],
    compositions: impl Iterator<Item = Composition>,
) -> usize {
    let mut sent = 0;
    for slots in compositions.filter_map(|composition| composition.as_linux_sends()) {
        let (from, to) = if sent % 2 == 0 { (a, b) } else { (b, a) };
        let packet = packet(world, from, world[to].mac(), slots);
        world.pass_on(from, to, &packet);
        sent += 1;
    }
    sent
}

/// P-8, P-9, P-19: by Linux's rules nothing is refused, wherever pages end.
#[test]
fn what_linux_sends_arrives() {
    let (mut world, guests) = jumbo();
    let corners = exchange(&mut world, guests, corners());
    let large = exchange(&mut world, guests, sizes(large()));
    println!("{corners} corner cases and {large} large packets, as Linux sends them");
    world.end();
}

/// The same with the MTU that everybody has, and every size it allows. What is longer
/// comes to nothing, and is no mistake of the sender's.
#[test]
fn every_size_arrives_in_any_number_of_fragments() {
    let mut world = World::new();
    let guests @ [a, b] = world.connected();
    let (short, long): (Vec<_>, Vec<_>) = corners().partition(|made| made.size() <= LONGEST);
    let corners = exchange(&mut world, guests, short.into_iter());
    let sizes = exchange(&mut world, guests, sizes(14..=LONGEST));
    let mut dropped = 0;
    for slots in long.iter().filter_map(Composition::as_linux_sends) {
        let packet = packet(&world, a, world[b].mac(), slots);
        let ids = world[a].send(&packet);
        world.settle();
        assert_eq!(world[b].received, []);
        world.check_answers(a, &ids, Status::Okay);
        world.check_at_rest();
        dropped += 1;
    }
    println!("{corners} corner cases and {sizes} of all sizes arrived, {dropped} were too long");
    world.end();
}

/// Two guests fill their rings with all kinds of packets for a third, so that each is one
/// of many in the batches of copies on its way.
#[test]
fn bursts_of_compositions_arrive_in_order() {
    let mut world = World::new();
    let [a, b, c] = world.connected();
    let short = corners().chain(hollow()).filter(|made| made.size() <= LONGEST);
    let slots = short.map(|composition| composition.slots());
    let mut left = slots.filter(|slots| Fate::of(slots) == Fate::Packet).peekable();
    let (mut bursts, mut packets) = (0, 0);
    while left.peek().is_some() {
        let sent = [a, b].map(|from| {
            let mut room = TX_RING_SIZE as usize;
            let (mut ids, mut frames) = (Vec::new(), Vec::new());
            while let Some(slots) = left.next_if(|slots| slots.len() <= room) {
                room -= slots.len();
                let packet = packet(&world, from, world[c].mac(), slots);
                ids.extend(world[from].queue(&packet));
                frames.push(packet.bytes);
            }
            (from, ids, frames)
        });
        [a, b].into_iter().for_each(|from| world[from].kick());
        world.settle();
        let received = std::mem::take(&mut world[c].received);
        for (from, ids, frames) in sent {
            let theirs = received.iter().filter(|got| got.bytes[6..12] == world[from].mac());
            assert!(theirs.map(|got| &got.bytes).eq(&frames), "burst {bursts}");
            world.check_answers(from, &ids, Status::Okay);
            packets += frames.len();
        }
        world.check_at_rest();
        bursts += 1;
    }
    println!("{packets} packets in {bursts} bursts");
    world.end();
}

/// P-15, S-15: a page that cannot be read fails its slot, and costs its packet and none of
/// those in the same batch, with empty slots in between.
#[test]
fn an_unreadable_slot_among_many_is_the_one_that_fails() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let crumb = Part { offset: 7, len: 1 };
    let base = Composition { head: Part { offset: 0, len: 14 }, fragments: vec![crumb; 8] };
    let slots = compositions::hollow(&base).last().expect("empty parts everywhere").slots();
    for spoiled in (0..slots.len()).filter(|slot| slots[*slot].1 > 0) {
        let frame = |seed| frames::plain(world[b].mac(), world[a].mac(), base.size(), seed);
        let frames = [1, 2, 3].map(frame);
        let packets = frames.each_ref().map(|frame| Outgoing::cut(frame, slots.clone()));
        let ids = packets.map(|packet| world[a].queue(&packet));
        let id = ids[1][spoiled];
        world[a].guest.revoke(world[a].reference(id));
        world[a].kick();
        world.settle();
        let received: Vec<_> = world[b].received.drain(..).map(|packet| packet.bytes).collect();
        assert_eq!(received, [&frames[0][..], &frames[2]], "{spoiled}");
        let mut answers = std::mem::take(&mut world[a].answers);
        assert_eq!(answers.len(), 3 * slots.len());
        answers.retain(|answer| answer.status != Status::Okay as i16);
        assert_eq!(answers, [TxAnswer { id, status: Status::Error as i16 }], "{spoiled}");
        world.check_at_rest();
    }
    println!("three packets of {} slots, of which each in turn was unreadable", slots.len());
    world.end();
}

/// How many of these slots have bytes that are not copied with the headers: what is
/// behind the 128th, unless the packet is short enough to be copied whole.
fn borrowed(slots: &[(u16, u16)]) -> u64 {
    let ends = slots.iter().scan(0, |end, (_, len)| {
        *end += len;
        Some((*end, *len))
    });
    let beyond = ends.clone().filter(|(end, len)| *len > 0 && *end > 128).count();
    if ends.last().is_some_and(|(end, _)| end <= 192) { 0 } else { beyond as u64 }
}

/// Sends what the wire takes to the wire, whose device reads it when it is told to.
fn to_the_wire(map: Mode) {
    let mut world = World::with(Holding::Mapped(Duration::from_secs(4)), map);
    world.wire.hold(64);
    let a = world.attach(0);
    let step = if soaks() { 1 } else { 5 };
    let all = corners().chain(hollow()).chain(sizes((14..=LONGEST).step_by(step)));
    let short = all.filter(|composition| composition.size() <= LONGEST);
    let slots = short.map(|composition| composition.slots());
    let mut sent = 0;
    for slots in slots.filter(|slots| Fate::of(slots) == Fate::Packet) {
        let lent = if map == Mode::Always { borrowed(&slots) } else { 0 };
        let Outgoing { bytes, pieces, .. } = &packet(&world, a, OUTSIDE, slots);
        let ids = world[a].send(&Outgoing::cut(bytes, pieces.clone()));
        world.settle();
        let counters = world.network.pools().tracker.counters();
        assert_eq!((counters.mapped, counters.outstanding()), (lent, lent), "{pieces:?}");
        assert!(world.wire.complete(), "nothing for the device: {pieces:?}");
        world.settle();
        assert!(world.wire.take_frames() == [&bytes[..]], "changed: {pieces:?}");
        world.check_answers(a, &ids, Status::Okay);
        world.check_at_rest();
        sent += 1;
    }
    let left_out = if soaks() { "" } else { ", of every fifth size (of all with SOAK=1)" };
    println!("{sent} packets to the wire, map={map:?}{left_out}");
    world.end();
}

/// S-13, T-9, O-16: pages are mapped for the device as far as bytes of theirs are left to
/// be read, and all go home.
#[test]
fn pages_reach_the_wire_and_come_back() {
    to_the_wire(Mode::Always);
}

/// The same by copies, for which no page is kept.
#[test]
fn copies_reach_the_wire() {
    to_the_wire(Mode::Never);
}

/// Shows slots as they are, and sees that what comes of them is what must. Where that is
/// the end of a vif, it is that of a third guest: the others' packets arrive at the same
/// time, and nothing is left of it.
fn meet_their_fate(world: &mut World, [a, b]: [Id; 2], slots: Slots) -> Fate {
    let fate = Fate::of(&slots);
    let from = if fate == Fate::Fatal { world.attach(2) } else { a };
    let packet = packet(world, from, world[b].mac(), slots);
    match fate {
        Fate::Packet => world.pass_on(a, b, &packet),
        Fate::Refused => {
            let ids = world[a].send(&packet);
            world.settle();
            assert_eq!(world[b].received, []);
            world.check_answers(a, &ids, Status::Error);
            world.check_at_rest();
        }
        Fate::Fatal => {
            world[from].hands_off = true;
            world[from].send(&packet);
            let honest = frames::plain(world[b].mac(), world[a].mac(), 1000, 1);
            world.pass_on(a, b, &Outgoing::whole(&honest));
            let error = world.error(from).expect("the operator is told");
            assert!(error.contains("more than 20 slots"), "{error}");
            assert_eq!(world.own(from, "carrier").as_deref(), Some("0"), "P-16");
            assert_eq!(world.detach(from), Ok(()));
            world.check_at_rest();
        }
    }
    fate
}

/// P-9, F-3: what Linux does not send, but anybody can who cuts and does not count: up to
/// 19 slots are a packet, 20 and 21 are refused, more are the end of a vif, up to the
/// worst case. Pages of empty slots are not looked at (P-10, S-15).
#[test]
fn slots_that_nobody_counted_meet_their_fate() {
    let (mut world, guests) = jumbo();
    let copies = world.record(Kind::Copy);
    for slots in 1..=WORST {
        let expected = match slots {
            ..=19 => Fate::Packet,
            20..=21 => Fate::Refused,
            _ => Fate::Fatal,
        };
        let counted = compositions::of_slots(slots).slots();
        assert_eq!(meet_their_fate(&mut world, guests, counted), expected, "{slots} slots");
    }
    let mut fates = [0; 3];
    let uncounted = |made: &Composition| made.as_linux_sends().as_ref() != Some(&made.slots());
    for composition in corners().chain(hollow()).filter(uncounted) {
        let fate = meet_their_fate(&mut world, guests, composition.slots());
        fates[fate as usize] += 1;
    }
    let [packets, refused, fatal] = fates;
    let empty = |copy: &Operation| matches!(copy, Operation::Copy { len: 0, .. });
    assert!(!copies.borrow().iter().any(empty), "an empty slot's page (P-10)");
    println!("not as Linux sends them: {packets} packets, {refused} refused, {fatal} fatal");
    world.end();
}

/// A part of `least` bytes or more, of `most` or hardly more.
fn part(least: usize, most: usize) -> impl Strategy<Value = Part> {
    let near = |place: usize| place.saturating_sub(3)..=place + 3;
    let offset = prop_oneof![Just(0), 0..PAGE_SIZE, near(PAGE_SIZE), Just(PAGE_SIZE - 1)];
    let len = prop_oneof![
        2 => least..=least + 2,
        2 => least..=most.min(200),
        1 => least..=most,
        1 => near(most.min(PAGE_SIZE)),
    ];
    (offset, len).prop_map(|(offset, len)| Part { offset, len })
}

/// A packet of up to `longest` bytes in a head and up to so many fragments of up to `most`
/// bytes each.
fn composition(
    longest: usize,
    fragments: usize,
    most: usize,
) -> impl Strategy<Value = Composition> {
    let parts = (part(14, most), prop::collection::vec(part(0, most), 0..=fragments));
    parts.prop_map(move |(head, mut fragments)| {
        let mut left = longest - head.len;
        for part in &mut fragments {
            part.len = part.len.min(left);
            left -= part.len;
        }
        Composition { head, fragments }
    })
}

/// Whatever a stack has: as Linux sends it, and as it is.
#[test]
fn any_composition_meets_its_fate() {
    let any = prop_oneof![
        composition(LONGEST, LINUX_FRAGMENTS, 190),
        composition(LONGEST, LINUX_FRAGMENTS, 900),
        composition(LONGEST_JUMBO, LINUX_FRAGMENTS, 2 * PAGE_SIZE),
        composition(LONGEST_JUMBO, 2, 32_000),
    ];
    let config = trials(32);
    let fates = Cell::new([0; 3]);
    let outcome = TestRunner::new(config).run(&prop::collection::vec(any, 32), |all| {
        let (mut world, guests) = jumbo();
        for composition in all {
            let slots = composition.slots();
            exchange(&mut world, guests, iter::once(composition));
            let fate = meet_their_fate(&mut world, guests, slots);
            fates.update(|mut fates| {
                fates[fate as usize] += 1;
                fates
            });
        }
        world.end();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let fates @ [packets, refused, fatal] = fates.get();
    println!("at random: {packets} packets, {refused} refused, {fatal} fatal");
    assert!(fates.iter().all(|count| *count > 0), "of each some");
}
