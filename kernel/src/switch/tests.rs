//! Switches with ports that note what they got, and guests that lend pages.

mod lanes;
mod multicast;
mod slow;
mod vlan;

use std::collections::BTreeMap;
use std::{mem, slice};

use proptest::prelude::*;
use xen::DomainId;
use xen::grant::GrantRef;

use super::queue::MAX_LENT;
use super::*;
use crate::MAX_PRIVATE_COPIES;
use crate::memory::testing::{Guests, pools};
use crate::memory::{Buffer, Size};
use crate::packet::{
    Checksum, Fragment, Linear, MAX_FRAGMENTS, MacAddress, Meta, Version, checksum,
};
use crate::pages::{Claim, Page, ShardId};

const PACKETS: usize = 400;
const BROADCAST: [u8; 6] = [0xff; 6];
const MILLISECOND: u64 = 1_000_000;
const WAIT: Duration = Duration::from_secs(10);

const LENDING: Holding = Holding::Granted(Duration::from_millis(100));

fn guest_mac(guest: u8) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, guest]
}

fn config(address: Option<[u8; 6]>) -> PortConfig {
    PortConfig {
        address: address.map(MacAddress::new),
        addresses: 4,
        kind: PortKind::Guest,
        floods: Vcpus::ALL,
        mtu: 1500,
        tags: 2,
        segmentation: Versions::NONE,
        vlans: None,
        queue: QueueLimits { packets: 40, bytes: 40 * 1526, wait: WAIT },
    }
}

/// What is behind a port.
struct Far {
    guests: Guests,
    holding: Holding,
    partial: Versions,
    /// How many packets it still takes.
    budget: usize,
    sent: Vec<(Vec<u8>, Checksum)>,
    /// How many of them borrowed pages.
    lent: usize,
    /// How often it was asked to send.
    calls: usize,
}

impl Port for Far {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, _: Instant) -> Traffic {
        self.calls += 1;
        let mut sent = Traffic::default();
        for place in 0..queue.len() {
            let packet = queue.get(place).expect("no holes");
            assert!(self.holding != Holding::Private || packet.is_private());
        }
        while self.budget > 0
            && let Some(packet) = queue.pop()
        {
            self.budget -= 1;
            let fragments = packet.fragments.iter().map(|fragment| match fragment.hold() {
                None => Some(fragment.bytes(&pools.buffers).to_vec()),
                Some(hold) => {
                    let region = pools.tracker.page(hold).region(fragment.offset);
                    self.guests.read(region, usize::from(fragment.len))
                }
            });
            // A port that copies from a page that is not granted any more fails.
            if let Some(payload) = fragments.collect::<Option<Vec<_>>>() {
                let bytes = [packet.headers(&pools.buffers), &payload.concat()].concat();
                sent.add(1, bytes.len());
                self.sent.push((bytes, packet.meta.checksum));
            }
            self.lent += usize::from(!packet.is_private());
            pools.give(packet);
        }
        sent
    }

    fn holding(&self) -> Holding {
        self.holding
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn partial_checksums(&self) -> Versions {
        self.partial
    }
}

/// What stays in a queue borrows few pages of each source (O-8), and is counted as it
/// is.
fn check_queue(queue: &PortQueue) {
    let packets = || (0..queue.len()).map(|place| queue.get(place).expect("no holes"));
    assert_eq!(queue.bytes(), packets().map(Packet::len).sum::<usize>());
    for size in [Size::Small, Size::Large] {
        let buffers = packets().flat_map(Packet::buffers);
        let held = buffers.filter(|buffer| buffer.size() == size).count();
        assert_eq!(queue.buffers(size), held, "{size:?} buffers");
    }
    let mut lent = BTreeMap::<_, u16>::new();
    for packet in packets() {
        for hold in packet.holds() {
            *lent.entry(format!("{:?}", hold.lender())).or_default() += 1;
        }
    }
    assert!(lent.values().all(|lent| *lent <= MAX_LENT), "{lent:?}");
}

#[derive(Default)]
struct Fars(BTreeMap<PortId, Far>);

impl Ports for Fars {
    fn port(&mut self, id: PortId) -> Option<&mut dyn Port> {
        self.0.get_mut(&id).map(|far| far as &mut dyn Port)
    }
}

struct World {
    guests: Guests,
    pools: Pools,
    switches: Switches,
    fars: Fars,
    /// By guest, where its pages are counted.
    shards: Vec<ShardId>,
    now: Instant,
    next_grant: u32,
}

impl World {
    fn new() -> Self {
        Self::with_pools(pools(PACKETS, 40, 100, MAX_PRIVATE_COPIES + 46))
    }

    fn with_pools(mut pools: Pools) -> Self {
        let open = |domain| pools.tracker.open(DomainId(domain), 256).unwrap();
        Self {
            shards: (0..4).map(open).collect(),
            guests: Guests::default(),
            pools,
            switches: Switches::new(Limits { switches: 2, ports: 5, addresses: 64 }, [7, 11]),
            fars: Fars::default(),
            now: Instant(0),
            next_grant: 8,
        }
    }

    /// A port of the switch `name`, which lends and takes everything.
    fn join(&mut self, name: &str, config: PortConfig) -> PortId {
        let id = self.switches.join(&name.parse().unwrap(), config).unwrap();
        let far = Far {
            guests: self.guests.clone(),
            holding: LENDING,
            partial: Versions::ALL,
            budget: usize::MAX,
            sent: Vec::new(),
            lent: 0,
            calls: 0,
        };
        self.fars.0.insert(id, far);
        id
    }

    /// Ports of one switch, pinned to the addresses of guests 0, 1, …
    fn joined<const N: usize>(&mut self) -> [PortId; N] {
        core::array::from_fn(|guest| self.join("xenbr0", config(Some(guest_mac(guest as u8)))))
    }

    fn far(&mut self, port: PortId) -> &mut Far {
        self.fars.0.get_mut(&port).unwrap()
    }

    /// What a port got since it was last asked.
    fn got(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.far(port).sent.drain(..).map(|(bytes, _)| bytes).collect()
    }

    fn counters(&self, port: PortId) -> Counters {
        let all = self.switches.iter().flat_map(|(_, switch)| switch.ports());
        let mut found = all.filter(|(id, _)| *id == port).map(|(_, counters)| *counters);
        found.next().unwrap()
    }

    fn bridge(&self) -> BridgeCounters {
        self.switches.iter().next().unwrap().1.bridge()
    }

    /// A packet all in our memory.
    fn private(&mut self, frame: &[u8]) -> Box<Packet> {
        let (frame, rest) = frame.split_at(frame.len().min(2000));
        let size = if frame.len() > 200 { Size::Large } else { Size::Small };
        let mut buffer = self.pools.buffers.take(size).unwrap();
        let cell = self.pools.buffers.bytes_mut(&mut buffer).unwrap();
        cell[20..20 + frame.len()].copy_from_slice(frame);
        let mut packet = self.pools.take().unwrap();
        packet.linear = Some(Linear { buffer, offset: 20, len: frame.len() as u16 });
        for bytes in rest.chunks(2000) {
            let fragment = Fragment::own(self.buffer(bytes), 0, bytes.len() as u16);
            packet.fragments.push(fragment).unwrap();
        }
        packet
    }

    /// A large buffer that begins with these bytes.
    fn buffer(&mut self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.pools.buffers.take(Size::Large).unwrap();
        let cell = self.pools.buffers.bytes_mut(&mut buffer).unwrap();
        cell[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// A packet of which `guest` lends all but the first `headers` bytes, in pages
    /// of `page` bytes each.
    fn lent(&mut self, guest: usize, frame: &[u8], headers: usize, page: usize) -> Box<Packet> {
        let mut packet = self.private(&frame[..headers]);
        for bytes in frame[headers..].chunks(page) {
            let reference = GrantRef(self.next_grant);
            self.next_grant += 1;
            let mut granted = vec![0xee; 100];
            granted.extend(bytes);
            self.guests.grant(DomainId(guest as u16), reference, &granted);
            let id = reference.0 as u16;
            let page = Page::Granted(DomainId(guest as u16), reference);
            let claim = Claim { page, id, extras: 0, since: Instant(0) };
            let hold = self.pools.tracker.claim(self.shards[guest], claim).unwrap();
            let fragment = Fragment::lent(hold, 100, bytes.len() as u16);
            packet.fragments.push(fragment).unwrap();
        }
        packet
    }

    fn forward(&mut self, from: PortId, packet: Box<Packet>) {
        let mut batch = Batch::new();
        batch.push_back(packet).unwrap();
        self.switches.forward(from, &mut batch, &mut self.pools, self.now);
        assert!(batch.is_empty());
    }

    fn flush(&mut self) {
        self.switches.flush(&self.guests, &mut self.pools, self.now, &mut self.fars);
        self.pools.run_unmaps(&self.guests);
        assert!(self.pools.copies.is_empty());
        let slots = self.switches.iter().flat_map(|(_, switch)| &switch.slots);
        for state in slots.filter_map(|slot| slot.state.as_ref()) {
            // What waits for a port that nothing is behind is looked at once there is.
            if state.queue.fresh().is_empty() {
                check_queue(&state.queue);
            }
        }
    }

    /// Forwards a private frame and flushes.
    fn send(&mut self, from: PortId, frame: &[u8]) {
        let packet = self.private(frame);
        self.forward(from, packet);
        self.flush();
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now.0 += milliseconds * MILLISECOND;
        self.switches.expire(&self.guests, &mut self.pools, self.now);
    }

    /// The statuses that a guest's requests are answered with.
    fn responses(&mut self, guest: usize) -> Vec<i16> {
        core::iter::from_fn(|| self.pools.tracker.next_response(self.shards[guest]))
            .map(|response| response.status)
            .collect()
    }

    /// All ports go; then nothing is out any more.
    fn end(mut self) {
        let ids: Vec<_> = self.fars.0.keys().copied().collect();
        for id in ids {
            self.switches.leave(id, &mut self.pools);
        }
        self.drain();
        for guest in 0..self.shards.len() {
            self.responses(guest);
        }
        let counters = self.pools.tracker.counters();
        assert_eq!((counters.holds, counters.outstanding()), (0, 0));
        assert_eq!(self.pools.idle(), PACKETS);
        assert_eq!(self.pools.buffers.free(Size::Small), 40 * 16);
        assert_eq!(self.pools.buffers.free(Size::Large), 100 * 2);
    }
}

fn frame(destination: [u8; 6], source: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&destination[..], &source, &[0x08, 0x06]].concat();
    frame.extend((14..len).map(|at| at as u8));
    frame
}

/// A UDP datagram whose checksum field holds `field`.
fn datagram(v6: bool, destination: [u8; 6], field: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(guest_mac(0), destination);
    if v6 {
        builder.ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut frame, &[3; 200]).unwrap();
    } else {
        builder.ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut frame, &[3; 200]).unwrap();
    }
    if field != 0 {
        let at = if v6 { 60 } else { 40 };
        frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    frame
}

#[test]
fn an_unknown_destination_is_flooded_and_a_learnt_one_is_not() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    let (outside, inside) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let first = frame(outside, inside, 60);
    world.send(a, &first);
    assert_eq!(world.got(a), [[0u8; 0]; 0], "never back");
    assert_eq!(world.got(b), slice::from_ref(&first));
    assert_eq!(world.got(c), [first]);
    let answer = frame(inside, outside, 70);
    world.send(c, &answer);
    assert_eq!(world.got(a), [answer]);
    assert_eq!(world.got(b).len(), 0);
    let counters = world.counters(a);
    assert_eq!(counters.received, Traffic { packets: 1, bytes: 60 });
    assert_eq!(counters.sent, Traffic { packets: 1, bytes: 70 });
    world.end();
}

#[test]
fn a_flood_shares_pages_and_makes_one_packet_less_than_ports() {
    let mut world = World::new();
    let ports: [PortId; 4] = world.joined();
    for port in ports {
        world.far(port).budget = 0;
    }
    let bytes = frame(BROADCAST, guest_mac(0), 1000);
    let packet = world.lent(0, &bytes, 64, 500);
    world.forward(ports[0], packet);
    world.flush();
    assert_eq!(world.pools.idle(), PACKETS - 3);
    assert_eq!(world.pools.buffers.free(Size::Small), 40 * 16 - 1);
    assert_eq!(world.pools.tracker.counters().holds, 6);
    for port in &ports[1..] {
        assert_eq!(world.responses(0), [0; 0], "still held");
        world.far(*port).budget = 1;
        world.switches.wake(*port);
        world.flush();
        assert_eq!(world.got(*port), slice::from_ref(&bytes));
    }
    assert_eq!(world.responses(0), [0, 0]);
    world.end();
}

#[test]
fn what_no_bridge_forwards_is_dropped_where_it_came_from() {
    let mut world = World::new();
    let [a, b] = world.joined();
    let [mac_a, mac_b] = [guest_mac(0), guest_mac(1)];
    world.send(a, &[1, 2, 3]);
    world.send(a, &frame(mac_b, [0x33, 0x33, 0, 0, 0, 1], 60));
    world.send(a, &frame(mac_b, BROADCAST, 60));
    world.send(a, &frame(mac_b, [0; 6], 60));
    world.send(a, &frame(mac_b, mac_b, 60));
    world.send(a, &frame([0x01, 0x80, 0xc2, 0, 0, 0], mac_a, 60));
    world.send(a, &frame(mac_a, mac_a, 60));
    let counters = world.counters(a);
    let drops: Vec<_> = counters.drops().collect();
    assert_eq!(
        drops,
        [
            (DropReason::Runt, 1),
            (DropReason::BadSource, 3),
            (DropReason::Forged, 1),
            (DropReason::Reserved, 1),
            (DropReason::SamePort, 1),
        ]
    );
    assert_eq!(counters.received.packets, 7);
    assert_eq!(world.got(a).len() + world.got(b).len(), 0);
    assert_eq!(world.bridge(), BridgeCounters::default(), "nothing learnt from any of them");
    world.end();
}

#[test]
fn a_lonely_port_sends_nowhere() {
    let mut world = World::new();
    let [a] = world.joined();
    world.send(a, &frame(BROADCAST, guest_mac(0), 60));
    assert_eq!(world.counters(a)[DropReason::Nowhere], 1);
    world.end();
}

#[test]
fn a_guest_cannot_take_anothers_address_nor_one_in_use_outside() {
    let mut world = World::new();
    let uplink =
        world.join("xenbr0", PortConfig { kind: PortKind::Uplink, addresses: 64, ..config(None) });
    let [a, b] = world.joined();
    let gateway = [2, 0, 0, 0, 0, 1];
    world.send(uplink, &frame(BROADCAST, gateway, 60));
    for source in [guest_mac(0), gateway] {
        world.send(b, &frame(BROADCAST, source, 60));
    }
    world.send(uplink, &frame(guest_mac(1), guest_mac(0), 60));
    assert_eq!(world.counters(b)[DropReason::Forged], 1);
    assert_eq!(world.counters(uplink)[DropReason::Forged], 1);
    world.got(a);
    world.got(b);
    world.got(uplink);
    world.send(a, &frame(gateway, guest_mac(0), 60));
    assert_eq!(world.got(uplink).len(), 1);
    assert_eq!(world.got(b).len(), 0);
    world.send(uplink, &frame(guest_mac(0), gateway, 60));
    assert_eq!(world.got(a).len(), 1);
    assert_eq!(world.got(b).len(), 0);
    // As many addresses as it likes: the table keeps room for others.
    for number in 0..200 {
        world.send(b, &frame(guest_mac(0), [2, 9, 9, 9, 9, number], 60));
        world.got(a);
    }
    assert_eq!(world.bridge().learnt, 5, "the gateway, and a guest's limit");
    world.end();
}

#[test]
fn frames_longer_than_the_mtu_do_not_pass_and_tags_do_not_count() {
    let mut world = World::new();
    let [a, b] = world.joined();
    let tagged = |len: usize, tags: usize| {
        let mut frame = frame(guest_mac(1), guest_mac(0), len);
        for tag in 0..tags {
            frame[12 + 4 * tag..14 + 4 * tag].copy_from_slice(&[0x81, 0]);
        }
        frame
    };
    // Where tags may be out of our sight, they do not excuse a frame's length.
    for (len, passes) in [(1514, true), (1515, false)] {
        let packet = world.lent(0, &tagged(len, 1), 14, 4000);
        world.forward(a, packet);
        world.flush();
        assert_eq!(world.got(b).len(), usize::from(passes));
    }
    for (len, tags, passes) in [
        (1514, 0, true),
        (1515, 0, false),
        (1518, 1, true),
        (1519, 1, false),
        (1522, 2, true),
        (1523, 2, false),
        (1523, 3, false),
    ] {
        world.send(a, &tagged(len, tags));
        assert_eq!(world.got(b).len(), usize::from(passes), "{len} bytes, {tags} tags");
    }
    assert_eq!(world.counters(b)[DropReason::TooLong], 5);
    let c = world.join("xenbr0", PortConfig { tags: 1, ..config(None) });
    for (len, tags, passes) in [(1518, 1, true), (1518, 2, true), (1519, 2, false)] {
        let mut frame = tagged(len, tags);
        frame[..6].copy_from_slice(&BROADCAST);
        world.send(a, &frame);
        assert_eq!(world.got(c).len(), usize::from(passes), "{len} bytes, {tags} tags");
    }
    world.end();
}

#[test]
fn o9_a_queue_is_bounded_in_packets_and_in_bytes() {
    for (packets, bytes, taken) in [(3, 100_000, 3), (100, 300, 3), (100, 299, 2)] {
        let queue = QueueLimits { packets, bytes, wait: WAIT };
        let mut world = World::new();
        let [a] = world.joined();
        let b = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(1))) });
        world.far(b).budget = 0;
        for sent in 1..6 {
            world.send(a, &frame(guest_mac(1), guest_mac(0), 100));
            assert_eq!(world.pools.idle(), PACKETS - sent.min(taken));
        }
        assert_eq!(world.counters(b)[DropReason::QueueFull], 5 - taken as u64);
        world.far(b).budget = usize::MAX;
        world.switches.wake(b);
        world.flush();
        assert_eq!(world.got(b).len(), taken);
        world.send(a, &frame(guest_mac(1), guest_mac(0), 100));
        assert_eq!(world.got(b).len(), 1, "there is room again");
        world.end();
    }
}

#[test]
fn without_a_packet_to_share_only_the_last_port_gets_it() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    let packet = world.private(&frame(BROADCAST, guest_mac(0), 60));
    let taken: Vec<_> = core::iter::from_fn(|| world.pools.take()).collect();
    world.forward(a, packet);
    world.flush();
    assert_eq!((world.got(b).len(), world.got(c).len()), (0, 1));
    assert_eq!(world.counters(b)[DropReason::Exhausted], 1);
    taken.into_iter().for_each(|packet| world.pools.give(packet));
    world.end();
}

#[test]
fn ports_that_hold_nothing_get_copies_by_one_batch() {
    let mut world = World::new();
    let ports: [PortId; 4] = world.joined();
    for port in &ports[2..] {
        world.far(*port).holding = Holding::Private;
    }
    let bytes: Vec<_> = (0..3).map(|n| frame(BROADCAST, guest_mac(0), 900 + n)).collect();
    for bytes in &bytes {
        let packet = world.lent(0, bytes, 64, 300);
        world.forward(ports[0], packet);
    }
    world.flush();
    assert_eq!(world.guests.batches(), 1);
    for port in &ports[1..] {
        assert_eq!(world.got(*port), bytes);
    }
    assert_eq!(world.far(ports[1]).lent, 3);
    assert_eq!(world.far(ports[2]).lent, 0);
    assert_eq!(world.responses(0), [0; 9]);
    world.end();
}

#[test]
fn a_blocked_private_port_keeps_no_page() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.far(b).holding = Holding::Private;
    world.far(b).budget = 0;
    let packet = world.lent(0, &frame(guest_mac(1), guest_mac(0), 500), 64, 436);
    world.forward(a, packet);
    world.flush();
    assert_eq!(world.responses(0), [0]);
    world.end();
}

#[test]
fn a_page_that_cannot_be_copied_costs_its_packet_and_tells_its_lender() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.far(b).holding = Holding::Private;
    let bytes: Vec<_> = (0..3).map(|n| frame(guest_mac(1), guest_mac(0), 800 + n)).collect();
    for bytes in &bytes {
        let packet = world.lent(0, bytes, 64, 300);
        world.forward(a, packet);
    }
    // The middle packet's middle fragment.
    world.guests.revoke(DomainId(0), GrantRef(12));
    world.flush();
    assert_eq!(world.got(b), [bytes[0].clone(), bytes[2].clone()]);
    assert_eq!(world.counters(b)[DropReason::CopyFailed], 1);
    let mut statuses = world.responses(0);
    statuses.sort();
    assert_eq!(statuses, [-1, 0, 0, 0, 0, 0, 0, 0, 0]);
    world.end();
}

#[test]
fn what_finds_no_buffer_is_not_copied() {
    let mut world = World::new();
    let [a] = world.joined();
    let b = world.join("xenbr0", PortConfig { mtu: 9000, ..config(Some(guest_mac(1))) });
    world.far(b).holding = Holding::Private;
    // In one buffer, and in two and more.
    let frames = [1984, 1985, 9014].map(|len| frame(guest_mac(1), guest_mac(0), len));
    for frame in &frames {
        let packet = world.lent(0, frame, 64, 500);
        world.forward(a, packet);
        world.flush();
    }
    assert_eq!(world.got(b), frames);
    let packet = world.lent(0, &frame(guest_mac(1), guest_mac(0), 500), 64, 436);
    let buffers: Vec<_> = core::iter::from_fn(|| world.pools.buffers.take(Size::Large)).collect();
    world.forward(a, packet);
    world.flush();
    assert_eq!(world.got(b).len(), 0);
    assert_eq!(world.counters(b)[DropReason::Exhausted], 1);
    assert!(world.responses(0).iter().all(|status| *status == 0), "accepted, then lost");
    buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
    world.end();
}

#[test]
fn copies_beyond_a_batch_go_into_another() {
    // A packet's copies leave less room than another can need.
    let mut world = World::with_pools(pools(PACKETS, 40, 100, MAX_PRIVATE_COPIES + 8));
    let [a, b] = world.joined();
    world.far(b).holding = Holding::Private;
    let bytes: Vec<_> = (0..5).map(|n| frame(guest_mac(1), guest_mac(0), 964 + n)).collect();
    for bytes in &bytes {
        let packet = world.lent(0, bytes, 64, 100);
        world.forward(a, packet);
    }
    world.flush();
    assert_eq!(world.got(b), bytes);
    assert_eq!(world.guests.batches(), 5);
    world.end();
}

#[test]
fn more_copies_than_can_be_under_way_are_made_in_turn() {
    let mut world = World::with_pools(pools(PACKETS, 40, 100, 400));
    let [a] = world.joined();
    let queue = QueueLimits { packets: 200, bytes: 100_000, wait: WAIT };
    let others = [1, 2].map(|guest| {
        let port = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(guest))) });
        world.far(port).holding = Holding::Private;
        (port, frame(guest_mac(guest), guest_mac(0), 100))
    });
    for (_, bytes) in &others {
        for _ in 0..70 {
            let packet = world.lent(0, bytes, 64, 100);
            world.forward(a, packet);
        }
    }
    world.flush();
    assert_eq!(world.guests.batches(), 2);
    for (port, bytes) in others {
        assert_eq!(world.got(port), vec![bytes; 70]);
    }
    world.end();
}

/// However many maps fail, the copies instead are made by full batches, in which they
/// join those that were under way; no packet takes a hypercall, or stack, of its own.
#[test]
fn where_no_page_can_be_mapped_copies_are_made_by_batches() {
    let mut world = World::new();
    world.guests.map_none();
    let [a] = world.joined();
    let queue = QueueLimits { packets: 60, bytes: 100_000, wait: WAIT };
    let others = [(1, Holding::Private), (2, Holding::Mapped(WAIT))].map(|(guest, holding)| {
        let port = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(guest))) });
        world.far(port).holding = holding;
        port
    });
    // A batch is full of 47 copies: with less room than a packet may need.
    let sent = [(1, 40), (2, 60)].map(|(guest, count)| {
        let bytes = frame(guest_mac(guest), guest_mac(0), 100);
        for _ in 0..count {
            let packet = world.lent(0, &bytes, 64, 100);
            world.forward(a, packet);
        }
        vec![bytes; count]
    });
    world.flush();
    assert_eq!(others.map(|port| world.got(port)), sent);
    assert_eq!((world.guests.maps(), world.guests.batches()), (1, 3));
    world.end();
}

/// Xen is quick to refuse a bad page: that is not what mapping or copying costs. Nor is
/// its lender asked for more of them soon, while others' pages are mapped.
#[test]
fn a_guests_bad_pages_tell_nothing_of_what_mapping_costs() {
    let mut world = World::new();
    let [bad, good, device] = world.joined();
    world.far(device).holding = Holding::Mapped(WAIT);
    let send = |world: &mut World, port, guest: usize| {
        let bytes = frame(guest_mac(2), guest_mac(guest as u8), 1000);
        let packet = world.lent(guest, &bytes, 64, 500);
        if guest == 0 {
            world.guests.revoke(DomainId(0), GrantRef(world.next_grant - 1));
        }
        world.forward(port, packet);
        world.flush();
        (world.guests.maps(), world.pools.choice.to_string())
    };
    // Of its pages the first is good, and is mapped for nothing.
    let unmapped = "a page's map 0 ns, unmap 1000000 ns; copies".to_string();
    for _ in 0..20 {
        assert_eq!(send(&mut world, bad, 0), (1, unmapped.clone()));
    }
    assert_eq!(send(&mut world, good, 1).0, 2);
    let known = "a page's map 500000 ns, unmap 500000 ns; copies";
    assert_eq!(world.pools.choice.to_string(), known);
    world.now = world.guests.now() + Duration::from_secs(10);
    assert_eq!(send(&mut world, bad, 0).0, 3, "it may have got better");
    world.end();
}

#[test]
fn a_port_is_asked_once_a_pass_and_only_when_something_waits() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.switches.wake(b);
    world.flush();
    assert_eq!(world.far(b).calls, 0);
    for _ in 0..3 {
        let packet = world.private(&frame(guest_mac(1), guest_mac(0), 60));
        world.forward(a, packet);
        world.switches.wake(b);
    }
    world.flush();
    assert_eq!(world.far(b).calls, 1);
    world.flush();
    assert_eq!(world.far(b).calls, 1);
    world.end();
}

#[test]
fn addresses_age_without_traffic() {
    let mut world = World::new();
    let [a, _] = world.joined();
    world.send(a, &frame(BROADCAST, [2, 0, 0, 0, 0, 1], 60));
    world.wait(299_000);
    assert_eq!(world.bridge().aged, 0);
    world.wait(31_000);
    assert_eq!(world.bridge().aged, 1);
    world.end();
}

#[test]
fn o8_a_sources_pages_beyond_its_share_of_a_queue_are_copied() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    world.far(c).budget = 0;
    let send = |world: &mut World, port, guest: usize, pages: usize| {
        let bytes = frame(guest_mac(2), guest_mac(guest as u8), 64 + 10 * pages);
        let packet = world.lent(guest, &bytes, 64, 10);
        world.forward(port, packet);
        world.flush();
    };
    for _ in 0..3 {
        send(&mut world, a, 0, 10);
    }
    send(&mut world, a, 0, 3);
    assert_eq!(world.responses(0).len(), 3, "33 would be too many");
    send(&mut world, a, 0, 2);
    assert_eq!(world.responses(0).len(), 0, "32 are not");
    send(&mut world, b, 1, 10);
    assert_eq!(world.responses(1).len(), 0, "each has its own share");
    world.far(c).budget = 1;
    world.switches.wake(c);
    world.flush();
    assert_eq!(world.responses(0).len(), 10);
    send(&mut world, a, 0, 10);
    assert_eq!(world.responses(0).len(), 0, "what was sent counts no more");
    world.far(c).budget = usize::MAX;
    world.switches.wake(c);
    world.flush();
    assert_eq!(world.got(c).len(), 7);
    assert_eq!(world.far(c).lent, 6);
    world.end();
}

#[test]
fn checksums_are_made_for_ports_that_want_them_and_for_no_others() {
    for v6 in [false, true] {
        for lent in [false, true] {
            let mut world = World::new();
            let ports: [PortId; 4] = world.joined();
            world.far(ports[2]).partial = Versions { v4: true, v6: false };
            world.far(ports[3]).partial = Versions::NONE;
            // Nobody asked for these to be made, right or wrong.
            let complete = datagram(v6, BROADCAST, 0x1234);
            world.send(ports[0], &complete);
            for port in &ports[1..] {
                assert_eq!(world.far(*port).sent, [(complete.clone(), Checksum::Unknown)]);
                world.got(*port);
            }
            let partial = datagram(v6, BROADCAST, 0x1234);
            let mut packet = match lent {
                true => world.lent(0, &partial, 64, 4000),
                false => world.private(&partial),
            };
            packet.meta.checksum = Checksum::Partial;
            world.forward(ports[0], packet);
            world.flush();
            let left = (partial, Checksum::Partial);
            let made = (datagram(v6, BROADCAST, 0), Checksum::Validated);
            assert_eq!(world.far(ports[1]).sent, slice::from_ref(&left));
            assert_eq!(world.far(ports[2]).sent, [if v6 { made.clone() } else { left }]);
            assert_eq!(world.far(ports[3]).sent, [made]);
            world.end();
        }
    }
}

/// A device adds to what is in the field, so what a frontend left there must not count,
/// and nobody who looks at the same bytes may see it change (O-5).
#[test]
fn a_device_finds_the_pseudo_headers_sum_in_the_field() {
    let wrong = 0x1234;
    for (v6, lent) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new();
        let [from, guest, device] = world.joined();
        world.far(device).holding = Holding::Private;
        let any = datagram(v6, BROADCAST, wrong);
        let right = u16::from_be_bytes(checksum::locate(&any, any.len()).unwrap().seed);
        for (to, field) in
            [(guest_mac(2), wrong), (guest_mac(2), right), (BROADCAST, right), (BROADCAST, wrong)]
        {
            let partial = datagram(v6, to, field);
            let mut packet = match lent {
                true => world.lent(0, &partial, 64, 4000),
                false => world.private(&partial),
            };
            packet.meta.checksum = Checksum::Partial;
            world.forward(from, packet);
            world.flush();
            let expected = match (to == BROADCAST, field == right) {
                (true, false) => (datagram(v6, to, 0), Checksum::Validated),
                _ => (datagram(v6, to, right), Checksum::Partial),
            };
            assert_eq!(mem::take(&mut world.far(device).sent), [expected], "{v6} {lent}");
            assert_eq!(world.got(guest), if to == BROADCAST { vec![partial] } else { vec![] });
        }
        world.end();
    }
}

/// Headers that are not all in our memory, and padding, which does not count.
#[test]
fn checksums_that_a_device_cannot_make_are_made_for_it() {
    let mut world = World::new();
    let [from, device] = world.joined();
    world.far(device).holding = Holding::Private;
    let to = guest_mac(1);
    let padded = |field| [&datagram(false, to, field)[..], &[0xaa; 3]].concat();
    let cut = world.lent(0, &datagram(true, to, 0x1234), 58, 4000);
    let private = world.private(&padded(0x1234));
    let made = [datagram(true, to, 0), padded(0)];
    for (mut packet, made) in [cut, private].into_iter().zip(made) {
        packet.meta.checksum = Checksum::Partial;
        world.forward(from, packet);
        world.flush();
        assert_eq!(mem::take(&mut world.far(device).sent), [(made, Checksum::Validated)]);
    }
    world.end();
}

#[test]
fn a_checksum_is_made_in_place_where_nobody_else_looks() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.far(b).partial = Versions::NONE;
    let mut packet = world.private(&datagram(false, guest_mac(1), 0x1234));
    packet.meta.checksum = Checksum::Partial;
    let buffers: Vec<_> = core::iter::from_fn(|| world.pools.buffers.take(Size::Large)).collect();
    world.forward(a, packet);
    world.flush();
    assert_eq!(world.got(b), [datagram(false, guest_mac(1), 0)]);
    buffers.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
    world.end();
}

#[test]
fn what_has_no_checksum_to_be_made_is_dropped() {
    for lent in [false, true] {
        let mut world = World::new();
        let [a, b, c] = world.joined();
        world.far(b).partial = Versions::NONE;
        let bytes = frame(guest_mac(1), guest_mac(0), 120);
        let mut packet = match lent {
            true => world.lent(0, &bytes, 64, 4000),
            false => world.private(&bytes),
        };
        packet.meta.checksum = Checksum::Partial;
        world.forward(a, packet);
        world.flush();
        assert_eq!(world.got(b).len(), 0);
        assert_eq!(world.counters(b)[DropReason::NoChecksum], 1);
        world.send(a, &frame(guest_mac(2), guest_mac(0), 60));
        assert_eq!(world.got(c).len(), 1);
        world.end();
    }
}

#[test]
fn o9_ports_that_do_not_get_on_leave_packets_for_the_others() {
    let mut world = World::with_pools(pools(40, 40, 100, MAX_PRIVATE_COPIES));
    let [from, stalled @ .., to] = world.joined::<5>();
    for port in stalled {
        world.far(port).budget = 0;
    }
    let frame = frame(BROADCAST, guest_mac(0), 40);
    for _ in 0..200 {
        world.send(from, &frame);
        assert!(world.pools.idle() >= 40 / 4 - 1, "{} left", world.pools.idle());
    }
    assert_eq!(world.got(to).len(), 200, "the port that gets on misses nothing");
    for port in stalled {
        assert!(world.counters(port)[DropReason::QueueFull] > 0);
        world.switches.leave(port, &mut world.pools);
    }
}

/// T-5: the pages go home, the packets stay, those of all ports by one batch.
#[test]
fn o8_what_borrows_pages_is_copied_after_a_hundred_milliseconds() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    world.far(b).budget = 0;
    world.far(c).budget = 0;
    assert_eq!(world.switches.next_deadline(), None);
    let bytes = [(1, 100), (1, 60), (2, 700), (1, 900), (2, 800)].map(|(guest, len)| {
        let bytes = frame(guest_mac(guest), guest_mac(0), len);
        let packet = match len {
            60 => world.private(&bytes),
            _ => world.lent(0, &bytes, 64, 400),
        };
        world.forward(a, packet);
        world.flush();
        world.wait(if len == 700 { 30 } else { 0 });
        bytes
    });
    // The first three, then the other two.
    for (time, pages) in [(100, 3), (130, 5)] {
        assert_eq!(world.switches.next_deadline(), Some(Instant(time * MILLISECOND)));
        world.wait(time - world.now.0 / MILLISECOND - 1);
        assert_eq!(world.responses(0).len(), 0);
        let batches = world.guests.batches();
        world.wait(1);
        assert_eq!(world.responses(0), vec![0; pages]);
        assert_eq!(world.guests.batches(), batches + 1);
        assert!(world.pools.copies.is_empty());
    }
    assert_eq!(world.pools.idle(), PACKETS - 5);
    assert_eq!(world.counters(b).drops().count() + world.counters(c).drops().count(), 0);
    for (port, places) in [(b, &[0, 1, 3][..]), (c, &[2, 4])] {
        world.far(port).budget = usize::MAX;
        world.switches.wake(port);
        world.flush();
        let expected: Vec<_> = places.iter().map(|place| bytes[*place].clone()).collect();
        assert_eq!(world.got(port), expected);
        assert_eq!(world.far(port).lent, 0);
    }
    world.end();
}

#[test]
fn o8_what_lies_in_our_memory_waits_for_the_queues_own_time() {
    for (wait, lent) in [(10_000, true), (10_000, false), (100, true), (30, true), (30, false)] {
        let mut world = World::new();
        let [a] = world.joined();
        let limits = config(None).queue;
        let queue = QueueLimits { wait: Duration::from_millis(wait), ..limits };
        let b = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(1))) });
        world.far(b).budget = 0;
        let bytes = frame(guest_mac(1), guest_mac(0), 100);
        let packet = match lent {
            true => world.lent(0, &bytes, 64, 36),
            false => world.private(&bytes),
        };
        world.forward(a, packet);
        world.flush();
        world.wait(29);
        world.send(a, &bytes);
        for _ in 0..2 {
            let deadline = world.switches.next_deadline().unwrap();
            world.wait(deadline.since(world.now).as_millis() as u64);
        }
        if wait <= 100 {
            assert_eq!(world.guests.batches(), 0, "not worth a copy");
        } else if lent {
            assert_eq!(world.responses(0), [0]);
            assert_eq!(world.now.0, wait * MILLISECOND);
        }
        world.wait(29);
        assert_eq!(world.counters(b)[DropReason::Expired], 2);
        assert_eq!(world.pools.idle(), PACKETS);
        assert_eq!(world.switches.next_deadline(), None);
        world.end();
    }
}

/// What the front of a queue leaves may let the rest through.
#[test]
fn a_port_is_asked_again_when_something_expired() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.far(b).budget = 0;
    for _ in 0..2 {
        world.send(a, &frame(guest_mac(1), guest_mac(0), 60));
        world.wait(1000);
    }
    world.wait(8000);
    world.far(b).budget = 1;
    world.flush();
    assert_eq!(world.got(b).len(), 1);
    assert_eq!(world.counters(b)[DropReason::Expired], 1);
    world.end();
}

/// O-8: copy or drop. What cannot be copied does not keep its pages either.
#[test]
fn o8_what_cannot_be_copied_is_dropped_after_a_hundred_milliseconds() {
    for reason in [DropReason::Exhausted, DropReason::QueueFull, DropReason::CopyFailed] {
        let mut world = World::new();
        let [a] = world.joined();
        let b = world.join("xenbr0", PortConfig { mtu: 9000, ..config(Some(guest_mac(1))) });
        world.far(b).budget = 0;
        let lens = [300, 301];
        let first = world.next_grant;
        let bytes = lens.map(|len| {
            let bytes = frame(guest_mac(1), guest_mac(0), len);
            let packet = world.lent(0, &bytes, 64, 2000);
            world.forward(a, packet);
            bytes
        });
        world.flush();
        let mut taken = Vec::new();
        match reason {
            DropReason::CopyFailed => world.guests.revoke(DomainId(0), GrantRef(first + 1)),
            // One buffer is left for two packets, or three of which the second taken
            // would be more than is left.
            DropReason::Exhausted | DropReason::QueueFull => {
                let left = if reason == DropReason::Exhausted { 1 } else { 3 };
                taken.extend((left..200).filter_map(|_| world.pools.buffers.take(Size::Large)));
            }
            _ => {}
        }
        if reason == DropReason::QueueFull {
            // Something large waits already, twice.
            for _ in 0..2 {
                world.pools.buffers.give(taken.pop().unwrap());
                world.send(a, &frame(guest_mac(1), guest_mac(0), 1000));
            }
        }
        world.wait(100);
        assert_eq!(world.counters(b)[reason], 1, "{reason:?}");
        assert_eq!(world.counters(b).drops().count(), 1, "{reason:?}");
        let lost = if reason == DropReason::CopyFailed { -1 } else { 0 };
        let mut answers = world.responses(0);
        answers.sort();
        assert_eq!(answers, [lost, 0], "{reason:?}");
        world.far(b).budget = usize::MAX;
        world.flush();
        assert_eq!(world.got(b)[0], bytes[0], "{reason:?}");
        taken.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
        world.end();
    }
}

/// Buffers are shared like packets: what comes for ports that do not get on leaves a
/// share of them for the others, and for a device to receive into.
#[test]
fn o9_ports_that_do_not_get_on_leave_buffers_for_the_others() {
    for (size, len, cells) in
        [(Size::Small, 60, 32), (Size::Large, 1000, 40), (Size::Large, 8000, 40)]
    {
        for lent in [false, true] {
            let mut world = World::with_pools(pools(PACKETS, 2, 20, MAX_PRIVATE_COPIES));
            let config = |guest| PortConfig { mtu: 9000, ..config(Some(guest_mac(guest))) };
            let [from, stalled @ .., to] =
                [0, 1, 2, 3, 4].map(|guest| world.join("xenbr0", config(guest)));
            for port in stalled {
                world.far(port).budget = 0;
            }
            for n in 0..300 {
                for destination in [1, 2, 3, 4] {
                    let bytes = frame(guest_mac(destination), guest_mac(0), len);
                    let packet = match lent && size == Size::Large {
                        true => world.lent(0, &bytes, 64, 1000),
                        false => world.private(&bytes),
                    };
                    world.forward(from, packet);
                    world.flush();
                    world.responses(0);
                }
                let free = world.pools.buffers.free(size);
                assert!(free >= cells / 4 - 1, "{free} {size:?} left at {n}");
                world.wait(1);
            }
            assert_eq!(world.got(to).len(), 300, "the port that gets on misses nothing");
            for port in stalled {
                assert!(world.counters(port)[DropReason::QueueFull] > 0);
                world.switches.leave(port, &mut world.pools);
            }
        }
    }
}

/// A TCP segment over IPv6 that is still to be cut, with tags, and so many bytes of destination
/// options (RFC 8200, section 4.6) before its TCP header.
fn uncut(tags: &[(u16, u16)], options: usize) -> (Vec<u8>, Gso) {
    let builder = etherparse::PacketBuilder::ethernet2(guest_mac(0), BROADCAST);
    let builder = builder.ipv6([1; 16], [2; 16], 9).tcp(1, 2, 3, 4).ack(5);
    let mut frame = Vec::new();
    builder.options_raw(&[1; 4]).unwrap().write(&mut frame, &[7; 330]).unwrap();
    if options > 0 {
        let mut extension = vec![0; options];
        extension[..2]
            .copy_from_slice(&[mem::replace(&mut frame[20], 60), (options / 8 - 1) as u8]);
        frame.splice(54..54, extension);
        let len = frame.len() as u16 - 54;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
    }
    let tags = tags.iter().flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()]);
    frame.splice(12..12, tags.flatten().collect::<Vec<_>>());
    let gso = Gso::check(&frame, frame.len(), Version::V6, 100);
    (frame, gso.unwrap().unwrap())
}

/// Of a packet that is cut nothing follows a segment for which there is no room, and every
/// segment is counted.
#[test]
fn segments_behind_a_refused_one_are_lost_with_it() {
    let mut world = World::new();
    let [a] = world.joined();
    let (bytes, gso) = uncut(&[], 0);
    let segments = Segments::new(gso, bytes.len());
    assert_eq!(segments.count(), 4);
    let len = |number| segments.headers() + segments.payload(number).len();
    // The third has no room, in which the last would fit.
    let queue = QueueLimits { packets: 9, bytes: len(0) + len(1) + len(3), wait: WAIT };
    let b = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(1))) });
    let mut packet = world.private(&bytes);
    packet.meta = Meta { checksum: Checksum::Partial, gso: Some(gso), ..Meta::default() };
    world.forward(a, packet);
    world.flush();
    let got = world.got(b);
    assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [len(0), len(1)]);
    assert_eq!(world.counters(b)[DropReason::QueueFull], 2);
    world.end();
}

#[test]
fn without_a_carrier_nothing_waits_and_nothing_comes() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    world.far(b).budget = 0;
    let lent = |world: &mut World, destination| {
        let packet = world.lent(0, &frame(destination, guest_mac(0), 500), 64, 436);
        world.forward(a, packet);
        world.flush();
    };
    lent(&mut world, guest_mac(1));
    lent(&mut world, BROADCAST);
    world.switches.set_carrier(b, false, &mut world.pools);
    assert_eq!(world.counters(b)[DropReason::NoCarrier], 2);
    assert_eq!(world.responses(0), [0, 0], "what waited borrows nothing any more");
    world.far(b).budget = usize::MAX;
    lent(&mut world, guest_mac(1));
    assert_eq!(world.responses(0), [0]);
    lent(&mut world, BROADCAST);
    assert_eq!(world.counters(b)[DropReason::NoCarrier], 4);
    assert_eq!((world.got(b).len(), world.got(c).len()), (0, 2));
    // It may send all the same.
    world.send(b, &frame(guest_mac(0), guest_mac(1), 60));
    assert_eq!(world.got(a).len(), 1);
    world.switches.set_carrier(b, true, &mut world.pools);
    lent(&mut world, guest_mac(1));
    assert_eq!(world.got(b).len(), 1);
    // A port that is gone has none, and its successor has its own.
    world.switches.leave(b, &mut world.pools).unwrap();
    let d = world.join("xenbr0", config(Some(guest_mac(1))));
    world.switches.set_carrier(b, false, &mut world.pools);
    lent(&mut world, guest_mac(1));
    assert_eq!(world.got(d).len(), 1);
    world.end();
}

#[test]
fn packets_wait_for_a_port_that_nothing_is_behind_and_are_made_ready_when_it_comes() {
    let mut world = World::new();
    let [a, b] = world.joined();
    let mut far = world.fars.0.remove(&b).unwrap();
    far.holding = Holding::Private;
    let bytes = frame(guest_mac(1), guest_mac(0), 300);
    let packet = world.lent(0, &bytes, 64, 300);
    world.forward(a, packet);
    world.flush();
    world.fars.0.insert(b, far);
    world.flush();
    assert_eq!(world.got(b).len(), 0, "nobody woke it");
    world.switches.wake(b);
    world.flush();
    assert_eq!(world.got(b), [bytes]);
    world.end();
}

#[test]
fn a_removed_port_leaves_nothing_and_its_name_is_never_used_again() {
    let mut world = World::new();
    let [a, b, d] = world.joined();
    world.send(b, &frame(guest_mac(0), [2, 0, 0, 0, 0, 9], 60));
    world.far(b).budget = 0;
    let packet = world.lent(0, &frame(guest_mac(1), guest_mac(0), 300), 64, 300);
    world.forward(a, packet);
    let counters = world.switches.leave(b, &mut world.pools).unwrap();
    assert_eq!(counters[DropReason::Removed], 1);
    assert_eq!(world.responses(0), [0]);
    assert!(world.switches.leave(b, &mut world.pools).is_none());
    let c = world.join("xenbr0", config(Some(guest_mac(1))));
    assert_eq!((c.index, c.switch), (b.index, b.switch));
    assert_ne!(c, b);
    // The gone port's name: its packets go nowhere, and to it goes nothing.
    let packet = world.private(&frame(guest_mac(0), [2, 0, 0, 0, 0, 9], 60));
    world.got(a);
    world.forward(b, packet);
    world.switches.wake(b);
    world.flush();
    assert_eq!(world.switches.strays(), 1);
    assert_eq!(world.got(a).len(), 0);
    world.send(a, &frame([2, 0, 0, 0, 0, 9], guest_mac(0), 60));
    assert_eq!(world.got(c).len(), 1, "flooded: it is no longer known");
    assert_eq!(world.got(d).len(), 1);
    assert_eq!(world.far(c).calls, 1, "the gone port's turn is not its own");
    world.end();
}

#[test]
fn a_waiting_packet_survives_its_source() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.far(b).budget = 0;
    let packet = world.lent(0, &frame(guest_mac(1), guest_mac(0), 300), 64, 300);
    world.forward(a, packet);
    world.flush();
    world.switches.leave(a, &mut world.pools).unwrap();
    world.pools.tracker.close(world.shards[0]);
    assert_eq!(world.pools.tracker.counters().holds, 1);
    world.wait(100);
    assert_eq!(world.pools.tracker.counters().holds, 0);
    assert_eq!(world.pools.tracker.counters().abandoned, 1);
    assert_eq!(world.guests.batches(), 0, "what it granted may be others' pages now");
    assert_eq!(world.counters(b)[DropReason::Expired], 1);
    world.end();
}

#[test]
fn switches_are_worlds_apart_and_bounded() {
    let mut world = World::new();
    let a = world.join("xenbr0", config(Some(guest_mac(0))));
    let b = world.join("private", config(Some(guest_mac(0))));
    world.send(a, &frame(BROADCAST, guest_mac(0), 60));
    assert_eq!(world.got(b).len(), 0);
    assert_eq!(world.counters(a)[DropReason::Nowhere], 1);
    // Each keeps its own time, and the earliest counts.
    let c = world.join("private", config(Some(guest_mac(1))));
    let d = world.join("xenbr0", config(Some(guest_mac(1))));
    world.far(c).budget = 0;
    world.far(d).budget = 0;
    world.send(a, &frame(guest_mac(1), guest_mac(0), 60));
    world.wait(10);
    world.send(b, &frame(guest_mac(1), guest_mac(0), 60));
    assert_eq!(world.switches.next_deadline(), Some(Instant(10_000 * MILLISECOND)));
    world.wait(9990);
    assert_eq!(world.switches.next_deadline(), Some(Instant(10_010 * MILLISECOND)));
    world.switches.leave(c, &mut world.pools).unwrap();
    world.switches.leave(d, &mut world.pools).unwrap();
    let third = "third".parse().unwrap();
    assert_eq!(world.switches.join(&third, config(None)), Err(JoinError::Switches));
    let again = world.switches.join(&"private".parse().unwrap(), config(Some(guest_mac(0))));
    let in_use = PinError::InUse(MacAddress::new(guest_mac(0)));
    assert_eq!(again, Err(JoinError::Address(in_use)));
    world.switches.leave(b, &mut world.pools).unwrap();
    let names = |world: &World| {
        let names = world.switches.iter().map(|(name, _)| name.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&world), ["xenbr0"]);
    let c = world.switches.join(&third, config(Some(guest_mac(0)))).unwrap();
    assert_ne!(b, c);
    assert_eq!(names(&world), ["xenbr0", "third"]);
    for _ in 1..5 {
        world.switches.join(&third, config(None)).unwrap();
    }
    assert_eq!(world.switches.join(&third, config(None)), Err(JoinError::Ports));
    world.end();
}

#[test]
fn bridge_names_are_those_of_interfaces() {
    assert_eq!("xenbr0".parse::<BridgeName>().unwrap().as_str(), "xenbr0");
    assert!("fifteen.chars-1".parse::<BridgeName>().is_ok());
    assert_eq!("sixteen.chars-16".parse::<BridgeName>(), Err(BadName::TooLong));
    assert_eq!("".parse::<BridgeName>(), Err(BadName::Empty));
    for text in ["a b", "a/b", "a\0", "a\n", "é", "\u{7f}"] {
        assert_eq!(text.parse::<BridgeName>(), Err(BadName::Character), "{text:?}");
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// From a port, to a guest, to all (at 4) or to bridges (at 5), from a guest's
    /// address or (at 4) its own, with so many lent pages.
    Send {
        from: usize,
        to: u8,
        source: u8,
        pages: usize,
        partial: bool,
    },
    Flush,
    Budget {
        port: usize,
        packets: usize,
    },
    Revoke,
    Wait(u64),
    /// Looks at so many packets of the slow path.
    Look(usize),
    Carrier {
        port: usize,
        up: bool,
    },
    Rejoin(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (0usize..4, 0u8..6, prop_oneof![8 => Just(4u8), 1 => 0u8..4], 0usize..19, any::<bool>())
            .prop_map(|(from, to, source, pages, partial)| {
                Event::Send { from, to, source, pages, partial }
            }),
        3 => Just(Event::Flush),
        2 => (0usize..4, 0usize..9).prop_map(|(port, packets)| Event::Budget { port, packets }),
        1 => Just(Event::Revoke),
        2 => (0u64..60).prop_map(Event::Wait),
        1 => (0usize..9).prop_map(Event::Look),
        1 => (0usize..4, any::<bool>()).prop_map(|(port, up)| Event::Carrier { port, up }),
        1 => (0usize..4).prop_map(Event::Rejoin),
    ]
}

/// How each of the four ports is, by index.
fn set_up(world: &mut World, guest: usize) -> PortId {
    let mut config = config(Some(guest_mac(guest as u8)));
    config.queue.wait = Duration::from_millis([10_000, 300, 100, 30][guest]);
    let port = world.join("xenbr0", config);
    let far = world.far(port);
    (far.holding, far.partial) = match guest {
        0 => (LENDING, Versions::ALL),
        1 => (LENDING, Versions::NONE),
        2 => (Holding::Private, Versions { v4: true, v6: false }),
        _ => (Holding::Private, Versions::NONE),
    };
    far.budget = 0;
    port
}

proptest! {
    /// Whatever happens, every packet ends once and is counted once, nobody gets
    /// what is not for them, twice, or out of order, and at the end all is back.
    #[test]
    fn every_packet_ends_once(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        let mut ports: [PortId; 4] = core::array::from_fn(|guest| set_up(&mut world, guest));
        // Copies that should have come into being, and what the gone ports counted.
        let (mut expected, mut ended) = (0, 0);
        let ends = |counters: Counters| {
            counters.sent.packets + counters.drops().map(|(_, count)| count).sum::<u64>()
        };
        let (mut number, mut punted) = (0u32, 0);
        // By guest, how many pages it lent when.
        let mut lent: [Vec<(Instant, u16)>; 4] = Default::default();
        for event in events {
            match event {
                Event::Send { from, to, source, pages, partial } => {
                    if world.pools.tracker.outstanding(world.shards[from]) > 200 {
                        continue;
                    }
                    number += 1;
                    let forged = source != 4 && usize::from(source) != from;
                    let source = if source == 4 { from as u8 } else { source };
                    let destination = match to {
                        4 => BROADCAST,
                        5 => slow::RESERVED,
                        to => guest_mac(to),
                    };
                    punted += u64::from(forged || to == 5);
                    let mut bytes = datagram(number.is_multiple_of(2), destination, 0x1111);
                    bytes[6..12].copy_from_slice(&guest_mac(source));
                    bytes.extend(number.to_be_bytes());
                    let page = (bytes.len() - 64).div_ceil(pages.max(1));
                    let mut packet = match pages {
                        0 => world.private(&bytes),
                        _ => world.lent(from, &bytes, 64, page),
                    };
                    if partial {
                        packet.meta.checksum = Checksum::Partial;
                    }
                    lent[from].push((world.now, packet.fragments.len() as u16));
                    world.forward(ports[from], packet);
                    expected += if to == 4 && !forged { 3 } else { 1 };
                }
                Event::Flush => world.flush(),
                Event::Budget { port, packets } => {
                    world.far(ports[port]).budget = packets;
                    world.switches.wake(ports[port]);
                }
                Event::Revoke => {
                    // The page lent last, whoever did.
                    let reference = GrantRef(world.next_grant - 1);
                    (0..4).for_each(|domain| world.guests.revoke(DomainId(domain), reference));
                }
                Event::Wait(milliseconds) => {
                    // Every pass ends with one.
                    world.flush();
                    world.wait(milliseconds);
                    for (guest, lent) in lent.iter_mut().enumerate() {
                        world.responses(guest);
                        let now = world.now;
                        lent.retain(|(at, _)| now.since(*at) < MAX_WAIT);
                        let out = world.pools.tracker.outstanding(world.shards[guest]);
                        let most = lent.iter().map(|(_, pages)| pages).sum();
                        prop_assert!(out <= most, "{} pages for too long (O-8)", out - most);
                    }
                }
                Event::Carrier { port, up } => {
                    world.switches.set_carrier(ports[port], up, &mut world.pools);
                }
                Event::Look(packets) => world.look(packets),
                Event::Rejoin(guest) => {
                    world.check_sent(ports[guest], guest)?;
                    let left = world.switches.leave(ports[guest], &mut world.pools).unwrap();
                    ended += ends(left);
                    world.fars.0.remove(&ports[guest]);
                    ports[guest] = set_up(&mut world, guest);
                }
            }
            for guest in 0..4 {
                world.responses(guest);
            }
        }
        for (guest, port) in ports.into_iter().enumerate() {
            world.check_sent(port, guest)?;
            ended += ends(world.switches.leave(port, &mut world.pools).unwrap());
        }
        prop_assert_eq!(expected, ended);
        world.flush();
        world.drain();
        prop_assert_eq!(punted, ends(*world.switches.slow_path().counters()));
        world.end();
    }
}

impl World {
    /// That a port got nothing of its own or for others, nothing twice and all in
    /// order, with whole bytes and checksums as it wants them, and that what it got is
    /// what is counted as sent.
    fn check_sent(&mut self, port: PortId, guest: usize) -> Result<(), TestCaseError> {
        let counted = self.counters(port).sent;
        let far = self.far(port);
        let mut last = 0;
        let bytes: usize = far.sent.iter().map(|(bytes, _)| bytes.len()).sum();
        let sent = Traffic { packets: far.sent.len() as u64, bytes: bytes as u64 };
        prop_assert_eq!(counted, sent);
        for (bytes, checksum) in &far.sent {
            let destination: [u8; 6] = bytes[..6].try_into().unwrap();
            prop_assert!([BROADCAST, guest_mac(guest as u8)].contains(&destination));
            prop_assert_ne!(&bytes[6..12], &guest_mac(guest as u8));
            let (frame, tail) = bytes.split_at(bytes.len() - 4);
            let number = u32::from_be_bytes(tail.try_into().unwrap());
            prop_assert!(number > last, "{} after {}", number, last);
            last = number;
            let v6 = number % 2 == 0;
            let taken = if v6 { far.partial.v6 } else { far.partial.v4 };
            let field = if *checksum == Checksum::Validated { 0 } else { 0x1111 };
            prop_assert!(*checksum != Checksum::Partial || taken);
            prop_assert_eq!(&frame[12..], &datagram(v6, destination, field)[12..]);
        }
        Ok(())
    }
}
