//! The slow path: what gets in, what stays out, and what it keeps of others' pages.

use super::*;

const FOREIGN: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Where LLDP goes to (IEEE 802.1Q, table 8-1).
pub(super) const RESERVED: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

impl World {
    /// What the slow path has next, with its bytes.
    fn punted(&mut self) -> Option<(PuntReason, PortId, usize, Vec<u8>)> {
        let Punted { reason, from, len, packet } = self.switches.next_punted()?;
        assert!(packet.fragments.is_empty(), "a page waits in the slow path");
        let bytes = packet.headers(&self.pools.buffers).to_vec();
        self.pools.give(packet);
        Some((reason, from, len, bytes))
    }

    /// Takes so many packets.
    pub(super) fn look(&mut self, packets: usize) {
        (0..packets).for_each(|_| drop(self.punted()));
    }

    /// The slow path's drops.
    fn refused(&self) -> Vec<(DropReason, u64)> {
        self.switches.slow_path().counters().drops().collect()
    }

    /// Takes all that waits, and checks that as many got in as were taken.
    pub(super) fn drain(&mut self) -> u64 {
        let waiting = self.switches.slow_path().len() as u64;
        let before = self.switches.slow_path().counters().sent.packets;
        let taken = core::iter::from_fn(|| self.punted()).count() as u64;
        let after = self.switches.slow_path().counters().sent.packets;
        assert_eq!((taken, after - before), (waiting, waiting));
        assert!(self.switches.slow_path().is_empty());
        taken
    }

    /// A port on either switch, pinned to the address of a guest of its own.
    fn add(&mut self, number: u8) -> PortId {
        let bridge = if number < 5 { "xenbr0" } else { "second" };
        self.join(bridge, config(Some(guest_mac(number))))
    }
}

#[test]
fn forged_frames_leave_their_headers_and_reserved_ones_a_copy() {
    let mut world = World::new();
    let [a, b] = world.joined();
    let forged = frame(FOREIGN, guest_mac(1), 1000);
    let reserved = frame(RESERVED, guest_mac(0), 1000);
    let private = frame(RESERVED, guest_mac(0), 60);
    for bytes in [&forged, &reserved] {
        let packet = world.lent(0, bytes, 64, 300);
        world.forward(a, packet);
    }
    let packet = world.private(&private);
    world.forward(a, packet);
    assert_eq!(world.responses(0), [0; 4], "nobody copies what of the first was lent");
    assert_eq!(world.punted(), None, "not copied yet");
    world.flush();
    assert_eq!(world.guests.batches(), 1);
    assert_eq!(world.responses(0), [0; 4]);
    assert_eq!(world.pools.tracker.counters().holds, 0);
    let [mac_a, mac_b] = [0, 1].map(|guest| MacAddress::new(guest_mac(guest)));
    assert_eq!(world.switches.owner(a, mac_b), Some(b));
    assert_eq!(world.switches.owner(b, mac_a), Some(a));
    assert_eq!(world.switches.owner(a, MacAddress::new(FOREIGN)), None);
    let headers = forged[..64].to_vec();
    assert_eq!(world.punted(), Some((PuntReason::Forged, a, 1000, headers)));
    assert_eq!(world.punted(), Some((PuntReason::Reserved, a, 1000, reserved)));
    assert_eq!(world.punted(), Some((PuntReason::Reserved, a, 60, private)));
    assert_eq!(world.punted(), None);
    // As at a port, and at the port they came from as ever.
    let counters = *world.switches.slow_path().counters();
    assert_eq!(counters.sent, Traffic { packets: 3, bytes: 2060 });
    assert_eq!(counters.drops().count(), 0);
    let counters = world.counters(a);
    assert_eq!(counters.received, Traffic { packets: 3, bytes: 2060 });
    assert_eq!((counters[DropReason::Forged], counters[DropReason::Reserved]), (1, 2));
    assert_eq!(world.got(a).len() + world.got(b).len(), 0);
    world.end();
}

#[test]
fn nothing_else_that_is_dropped_goes_there() {
    let mut world = World::new();
    let [a] = world.joined();
    world.send(a, &frame(BROADCAST, FOREIGN, 60));
    let learnt = MacAddress::new(FOREIGN);
    assert_eq!((world.bridge().learnt, world.switches.owner(a, learnt)), (1, None));
    world.send(a, &[1, 2, 3]);
    world.send(a, &frame(FOREIGN, BROADCAST, 60));
    world.send(a, &frame(guest_mac(0), guest_mac(0), 60));
    assert_eq!(world.counters(a).drops().count(), 4);
    assert!(world.switches.slow_path().is_empty());
    world.end();
}

/// O-8: whoever floods gets what he leaves free, the next half of the rest, and so on;
/// in all no more than there are places. Nobody's pages wait.
#[test]
fn a_flood_leaves_room_for_others_and_keeps_no_page() {
    let mut world = World::new();
    let ports: [PortId; 8] = core::array::from_fn(|number| world.add(number as u8));
    let mut waiting = 0;
    for (number, places) in [32, 16, 8, 4, 2, 1, 1, 0].into_iter().enumerate() {
        for n in 0..100 {
            // Forged and reserved ones in turn.
            let other = if number < 5 { (number + 1) % 5 } else { 5 + (number - 4) % 3 };
            let source = guest_mac(if n % 2 == 0 { other } else { number } as u8);
            let destination = if n % 2 == 0 { BROADCAST } else { RESERVED };
            let packet = world.lent(number % 4, &frame(destination, source, 800), 64, 300);
            world.forward(ports[number], packet);
            if n % 10 == 9 {
                world.flush();
                assert_eq!(world.pools.tracker.counters().holds, 0);
                world.responses(number % 4);
            }
        }
        waiting += places;
        assert_eq!(world.switches.slow_path().len(), waiting, "places of port {number}");
    }
    assert_eq!(waiting, SlowPath::PLACES);
    assert_eq!(world.refused(), [(DropReason::QueueFull, 800 - 64)]);
    assert_eq!(world.pools.tracker.counters().outstanding(), 0, "all answered");
    assert_eq!(world.pools.idle(), PACKETS - 64);
    assert_eq!(world.pools.buffers.free(Size::Large), 200 - 31, "a copy of each second");
    // What is taken makes room, for him first who has least.
    let (_, from, ..) = world.punted().unwrap();
    assert_eq!(from, ports[0]);
    for (port, waiting) in [(0, 63), (7, 64), (6, 64)] {
        let source = guest_mac(port as u8);
        let packet = world.private(&frame(RESERVED, source, 60));
        world.forward(ports[port], packet);
        assert_eq!(world.switches.slow_path().len(), waiting);
    }
    world.flush();
    assert_eq!(world.drain(), 64);
    world.end();
}

#[test]
fn a_flood_takes_no_more_of_the_pool_than_it_leaves() {
    let mut world = World::with_pools(pools(40, 40, 100, MAX_PRIVATE_COPIES));
    let [a] = world.joined();
    for _ in 0..100 {
        world.send(a, &frame(RESERVED, guest_mac(0), 60));
    }
    assert_eq!((world.switches.slow_path().len(), world.pools.idle()), (20, 20));
    world.drain();
    assert_eq!(world.pools.idle(), 40);
}

#[test]
fn a_page_that_cannot_be_copied_keeps_its_packet_out() {
    let mut world = World::new();
    let [a] = world.joined();
    let bytes: Vec<_> = (0..3).map(|n| frame(RESERVED, guest_mac(0), 800 + n)).collect();
    for bytes in &bytes {
        let packet = world.lent(0, bytes, 64, 300);
        world.forward(a, packet);
    }
    // The middle packet's middle fragment.
    world.guests.revoke(DomainId(0), GrantRef(12));
    world.flush();
    assert_eq!(world.refused(), [(DropReason::CopyFailed, 1)]);
    let mut statuses = world.responses(0);
    statuses.sort();
    assert_eq!(statuses, [-1, 0, 0, 0, 0, 0, 0, 0, 0]);
    for bytes in [&bytes[0], &bytes[2]] {
        assert_eq!(world.punted().unwrap().3, *bytes);
    }
    world.end();
}

/// Whoever looks sees all of a packet, and it is in one buffer, however many it came in: as what
/// the wire brings where it is long, or was put together.
#[test]
fn what_lies_in_several_buffers_is_in_one_or_stays_out() {
    let mut world = World::new();
    let [a, _] = world.joined();
    for (source, len) in [(0, 1984), (0, 1985), (1, 9000)] {
        let bytes = frame(RESERVED, guest_mac(source), len);
        let mut packet = world.private(&bytes[..1000]);
        for piece in bytes[1000..].chunks(1000) {
            let mut other = world.private(piece);
            let Linear { buffer, offset, len } = other.linear.take().unwrap();
            packet.fragments.push(Fragment::own(buffer, offset, len)).unwrap();
            world.pools.give(other);
        }
        world.forward(a, packet);
    }
    world.flush();
    assert_eq!(world.refused(), [(DropReason::TooLongToCopy, 1)]);
    assert_eq!(world.pools.buffers.free(Size::Large), 200 - 2);
    assert_eq!(world.punted().unwrap().3, frame(RESERVED, guest_mac(0), 1984));
    assert_eq!(world.punted().unwrap().3.len(), 1000, "forged: only what leads it");
    assert_eq!(world.punted(), None);
    world.end();
}

#[test]
fn what_fits_no_buffer_or_finds_none_stays_out() {
    let mut world = World::new();
    let [a] = world.joined();
    for len in [1984, 1985] {
        let packet = world.lent(0, &frame(RESERVED, guest_mac(0), len), 64, 500);
        world.forward(a, packet);
        world.flush();
    }
    assert_eq!(world.refused(), [(DropReason::TooLongToCopy, 1)]);
    // The headers alone fit, however long what they lead is.
    let packet = world.lent(0, &frame(RESERVED, guest_mac(1), 9000), 64, 3000);
    world.join("xenbr0", config(Some(guest_mac(1))));
    world.forward(a, packet);
    let packet = world.lent(0, &frame(RESERVED, guest_mac(0), 500), 64, 500);
    let buffers: Vec<_> = core::iter::from_fn(|| world.pools.buffers.take(Size::Large)).collect();
    world.forward(a, packet);
    world.flush();
    assert_eq!(world.refused(), [(DropReason::Exhausted, 1), (DropReason::TooLongToCopy, 1)]);
    assert!(world.responses(0).iter().all(|status| *status == 0), "accepted, then lost");
    buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
    let lengths: Vec<_> =
        core::iter::from_fn(|| world.punted()).map(|(_, _, len, _)| len).collect();
    assert_eq!(lengths, [1984, 9000]);
    world.end();
}

#[test]
fn copies_beyond_a_batch_go_into_another_in_order() {
    // A packet's copies leave less room than another can need.
    let mut world = World::with_pools(pools(PACKETS, 40, 100, MAX_PRIVATE_COPIES + 8));
    let [a] = world.joined();
    let bytes: Vec<_> = (0..6).map(|n| frame(RESERVED, guest_mac(0), 964 + n)).collect();
    for (n, bytes) in bytes.iter().enumerate() {
        let packet = if n == 3 { world.private(bytes) } else { world.lent(0, bytes, 64, 100) };
        world.forward(a, packet);
    }
    world.flush();
    assert_eq!(world.guests.batches(), 5);
    let taken: Vec<_> = core::iter::from_fn(|| world.punted()).map(|punted| punted.3).collect();
    assert_eq!(taken, bytes);
    world.end();
}

#[test]
fn a_ports_packets_outlive_it_and_are_not_its_successors() {
    let mut world = World::new();
    let [a, b] = world.joined();
    let reserved = frame(RESERVED, guest_mac(0), 500);
    for _ in 0..40 {
        let packet = world.lent(0, &reserved, 64, 500);
        world.forward(a, packet);
    }
    // Some not even copied yet.
    world.switches.leave(a, &mut world.pools).unwrap();
    world.pools.tracker.close(world.shards[0]);
    world.flush();
    assert_eq!(world.pools.tracker.counters().holds, 0);
    assert_eq!(world.switches.owner(a, MacAddress::new(guest_mac(0))), None);
    let successor = world.add(0);
    assert_eq!((successor.index, world.switches.slow_path().len()), (a.index, 32));
    for _ in 0..40 {
        world.send(successor, &frame(RESERVED, guest_mac(0), 60));
    }
    assert_eq!(world.switches.slow_path().len(), 48, "its own share");
    world.send(b, &frame(RESERVED, guest_mac(1), 60));
    let from: Vec<_> = core::iter::from_fn(|| world.punted()).map(|punted| punted.1).collect();
    let count = |port| from.iter().filter(|from| **from == port).count();
    assert_eq!((count(a), count(successor), count(b)), (32, 16, 1));
    world.shards[0] = world.pools.tracker.open(DomainId(0), 256).unwrap();
    world.end();
}
