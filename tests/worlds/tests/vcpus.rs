//! Several vCPUs: what goes from one to another, what stays on one, and what each has to
//! leave to the others.

use std::sync::Arc;
use std::time::Duration;

use drivers::netback::{Carrier, Progress, VifHost};
use drivers::network::Refusal;
use kernel::link::{self, Bell};
use kernel::packet::MacAddress;
use kernel::pages::choice::Mode;
use kernel::switch::{JoinError, PinError, PortId};
use proptest::prelude::*;
use worlds::allocations::used;
use worlds::{Level, Manners, Outgoing, Received, US, Vcpus, frames, pools};
use xen::Hypervisor;
use xen::fake::FakeXen;
use xen::netif::{TxFlags, TxRequest};

/// Sizes on both sides of what headers take, and one of more pages than one.
const SIZES: [usize; 6] = [60, 128, 192, 193, 1514, 9000];

fn bytes(received: &[Received]) -> Vec<Vec<u8>> {
    let mut bytes: Vec<_> = received.iter().map(|packet| packet.bytes.clone()).collect();
    bytes.sort();
    bytes
}

/// Sends frames from one frontend to an address.
fn send(world: &mut Vcpus, from: usize, frames: &[Vec<u8>]) {
    for frame in frames {
        world.fronts[from].queue(&Outgoing::whole(frame));
    }
    world.fronts[from].kick();
    world.settle();
}

fn queues(queues: usize) -> Manners {
    Manners { queues, ..Manners::default() }
}

/// How many packets the links of a vCPU brought and took.
fn linked(world: &Vcpus, vcpu: usize) -> (u64, u64) {
    let network = world.network(vcpu);
    let counts: Vec<_> = network.links().map(|(_, counters)| counters).collect();
    let sum = |count: fn(&kernel::link::LinkCounters) -> u64| counts.iter().map(count).sum();
    (sum(|counters| counters.received), sum(|counters| counters.sent))
}

#[test]
fn guests_of_two_vcpus_reach_each_other() {
    let mut world = Vcpus::new(2);
    let [a, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    for (from, to) in [(a, b), (b, a)] {
        let sent: Vec<_> = SIZES[..5]
            .iter()
            .map(|len| frames::plain(macs[to], macs[from], *len, *len as u64))
            .collect();
        send(&mut world, from, &sent);
        let mut sent = sent;
        sent.sort();
        assert_eq!(bytes(&world.fronts[to].received), sent);
        world.fronts[to].received.clear();
        assert_eq!(world.fronts[from].unanswered(), 0);
        assert!(world.fronts[from].answers.iter().all(|answer| answer.status == 0));
    }
    assert_eq!([linked(&world, 0), linked(&world, 1)], [(5, 5), (5, 5)]);
    world.check();
}

/// A packet's payload is copied once, from the sender's page to the receiver's.
#[test]
fn what_crosses_is_copied_once() {
    let copies = [1, 2].map(|vcpus| {
        let mut world = Vcpus::new(vcpus);
        let [a, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
        let macs = [a, b].map(|front| world.fronts[front].mac());
        let before = world.xen.counts();
        send(&mut world, a, &[frames::plain(macs[b], macs[a], 1514, 1)]);
        assert_eq!(world.fronts[b].received.len(), 1);
        let after = world.xen.counts();
        (after.copies - before.copies, after.copy_calls - before.copy_calls)
    });
    assert_eq!(copies[0], copies[1], "as on one vCPU");
}

#[test]
fn guests_of_all_vcpus_reach_the_wire() {
    let mut world = Vcpus::new(3);
    let fronts = [0, 1, 2].map(|guest| world.attach(guest, Manners::default()));
    let station = [2, 0, 0, 0, 0, 9];
    world.wire.inject(frames::plain(frames::BROADCAST, station, 60, 1));
    world.settle();
    world.fronts.iter_mut().for_each(|front| front.received.clear());
    for front in fronts {
        let mac = world.fronts[front].mac();
        let sent = frames::plain(station, mac, 1000, 3);
        send(&mut world, front, std::slice::from_ref(&sent));
        assert_eq!(world.wire.take_frames(), [sent]);
        let back = frames::plain(mac, station, 1200, 4);
        world.wire.inject(back.clone());
        world.settle();
        assert_eq!(bytes(&world.fronts[front].received), [back]);
        let others = fronts.iter().filter(|other| **other != front);
        assert!(others.clone().all(|other| world.fronts[*other].received.is_empty()));
        world.fronts[front].received.clear();
    }
    world.check();
}

/// Whatever is spread where, a broadcast comes to everyone once.
#[test]
fn a_broadcast_comes_once() {
    for vcpus in 1..=4 {
        let mut world = Vcpus::new(vcpus);
        let fronts = [(0, 1), (1, 2), (2, 1), (3, 4), (4, 1)]
            .map(|(guest, count)| world.attach(guest, queues(count)));
        for from in fronts {
            let mac = world.fronts[from].mac();
            for queue in 0..world.fronts[from].queues().count() {
                let sent = frames::plain(frames::BROADCAST, mac, 300, queue as u64);
                world.fronts[from].queue_to(queue, &Outgoing::whole(&sent));
                world.fronts[from].kick();
                world.settle();
                for to in fronts.into_iter().filter(|to| *to != from) {
                    let received = bytes(&world.fronts[to].received);
                    assert_eq!(received, std::slice::from_ref(&sent), "{vcpus}: {from} to {to}");
                    world.fronts[to].received.clear();
                }
                assert!(world.fronts[from].received.is_empty(), "not to itself");
                assert_eq!(world.wire.take_frames(), [sent]);
            }
        }
        let station = [2, 0, 0, 0, 0, 9];
        let sent = frames::plain(frames::BROADCAST, station, 300, 7);
        world.wire.inject(sent.clone());
        world.settle();
        for front in fronts {
            assert_eq!(bytes(&world.fronts[front].received), std::slice::from_ref(&sent));
        }
        world.check();
    }
}

/// Guests of as many queues as there are vCPUs have each to do with one alone.
#[test]
fn what_is_spread_stays_where_it_is() {
    let mut world = Vcpus::new(2);
    let [a, b] = [0, 1].map(|guest| world.attach(guest, queues(2)));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    // Their addresses are known without a word on the links.
    for queue in 0..2 {
        let sent = frames::plain(macs[b], macs[a], 1514, queue as u64);
        world.fronts[a].queue_to(queue, &Outgoing::whole(&sent));
        world.fronts[a].kick();
        world.settle();
        let received = std::mem::take(&mut world.fronts[b].received);
        assert_eq!(received.iter().map(|packet| packet.queue).collect::<Vec<_>>(), [queue]);
        assert_eq!(received[0].bytes, sent);
    }
    assert_eq!([linked(&world, 0), linked(&world, 1)], [(0, 0), (0, 0)]);
    let served = [0, 1].map(|vcpu| world.network(vcpu).vifs().count());
    assert_eq!(served, [2, 2]);
    world.check();
}

/// What concerns all queues of a vif together is looked after in one place.
#[test]
fn a_limit_keeps_a_vif_together() {
    let mut world = Vcpus::new(2);
    let front = world.front(0, queues(2));
    let rate = drivers::netback::Rate { bytes: 1 << 20, interval: 50_000 };
    world.connect(front, |config| config.rate = Some(rate)).unwrap();
    let other = world.front(1, Manners { control: true, ..queues(2) });
    world.connect(other, |_| ()).unwrap();
    world.settle();
    let served = [0, 1].map(|vcpu| world.network(vcpu).vifs().count());
    assert_eq!(served, [1, 1], "each on one, and not on the same");
}

/// A guest's address is its own on all vCPUs.
#[test]
fn nobody_takes_anothers_address_on_another_vcpu() {
    let mut world = Vcpus::new(2);
    let [a, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    let forged = frames::plain(frames::BROADCAST, macs[b], 100, 1);
    send(&mut world, a, &[forged]);
    assert!(world.wire.take_frames().is_empty());
    let vif = world.vif(b);
    assert_eq!(worlds::journal(Level::Warn, &format!("which is {vif}'s")).len(), 1);
    let twin = world.front(2, Manners::default());
    let taken = MacAddress::new(macs[b]);
    let refusal = world.connect(twin, |config| config.mac = taken).unwrap_err();
    assert_eq!(refusal, Refusal::Join(JoinError::Address(PinError::InUse(taken))));
    // It is free again once its owner is gone, and nothing of the refusal is left.
    assert_eq!(world.disconnect(b), Progress::Finished);
    world.connect(twin, |config| config.mac = taken).unwrap();
    world.settle();
    world.check();
}

/// Nor on the same vCPU: who is refused there leaves the owner's address known on the others.
#[test]
fn who_is_refused_takes_no_address_along() {
    let mut world = Vcpus::new(2);
    let [a, b, _] = [0, 1, 2].map(|guest| world.attach(guest, Manners::default()));
    assert_eq!([0, 1].map(|vcpu| world.network(vcpu).vifs().count()), [2, 1]);
    let macs = [a, b].map(|front| world.fronts[front].mac());
    let twin = world.front(3, Manners::default());
    let taken = MacAddress::new(macs[1]);
    let refusal = world.connect(twin, |config| config.mac = taken).unwrap_err();
    assert_eq!(refusal, Refusal::Join(JoinError::Address(PinError::InUse(taken))));
    send(&mut world, a, &[frames::plain(frames::BROADCAST, macs[1], 100, 1)]);
    assert!(world.wire.take_frames().is_empty(), "still nobody else's");
}

/// What a guest took from a station that was silent comes back on all vCPUs once that speaks
/// outside, and not where another guest claims to be it.
#[test]
fn a_station_outside_comes_back_on_all_vcpus() {
    let mut world = Vcpus::new(2);
    let [a, b, _, c] = [0, 1, 2, 3].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b, c].map(|front| world.fronts[front].mac());
    assert_eq!([0, 1].map(|vcpu| world.network(vcpu).vifs().count()), [2, 2]);
    let station = [2, 0, 0, 0, 0, 9];
    let call = |from| frames::plain(frames::BROADCAST, from, 60, 1);
    let finds = |world: &mut Vcpus| {
        world.wire.take_frames();
        world.fronts.iter_mut().for_each(|front| front.received.clear());
        send(world, c, &[frames::plain(station, macs[2], 100, 2)]);
        (world.wire.take_frames().len(), world.fronts[b].received.len())
    };
    world.wire.inject(call(station));
    world.settle();
    assert_eq!(finds(&mut world), (1, 0), "outside");
    world.pass(Duration::from_secs(4));
    send(&mut world, b, &[call(station)]);
    assert_eq!(finds(&mut world), (0, 1), "taken over, on the same vCPU");
    send(&mut world, a, &[call(station)]);
    assert_eq!(finds(&mut world), (0, 1), "kept against a guest of the other");
    world.wire.inject(call(station));
    world.settle();
    assert_eq!(finds(&mut world), (1, 0), "back at once");
    world.check();
}

/// A vCPU that does not get to run keeps what is lent to it, a bounded share, and the
/// others go on without it.
#[test]
fn a_vcpu_that_stands_still_holds_up_nobody_else() {
    let mut world = Vcpus::new(2);
    let [a, b, c] = [0, 1, 2].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b, c].map(|front| world.fronts[front].mac());
    assert_eq!([0, 1].map(|vcpu| world.network(vcpu).vifs().count()), [2, 1]);
    world.held_up.push(1);
    for round in 0..40 {
        let frames: Vec<_> =
            (0..20).map(|n| frames::plain(macs[b], macs[a], 700, round * 20 + n)).collect();
        send(&mut world, a, &frames);
        let beside = frames::plain(macs[c], macs[a], 700, round);
        send(&mut world, a, std::slice::from_ref(&beside));
        assert_eq!(bytes(&world.fronts[c].received), [beside], "round {round}");
        world.fronts[c].received.clear();
        world.pass(Duration::from_millis(10));
    }
    let out = world.network(0).pools().tracker.counters().outstanding();
    assert!(out > 0 && out < 256, "{out} pages are with it");
    assert_eq!(world.disconnect(a), Progress::Pending, "its pages are looked at");
    world.held_up.clear();
    world.settle();
    world.pass(Duration::from_millis(200));
    assert_eq!(world.disconnect(a), Progress::Finished);
    assert!(!world.fronts[b].received.is_empty());
    world.check();
}

/// A page that cannot be read on the other side, where a checksum is to be made of it, is
/// answered so on this one.
#[test]
fn a_bad_grant_is_answered_from_the_other_side() {
    let mut world = Vcpus::new(2);
    let plain = Manners { ipv4_checksum: false, ..Manners::default() };
    let [a, b] =
        [(0, Manners::default()), (1, plain)].map(|(guest, manners)| world.attach(guest, manners));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    let frame = frames::transport(macs[b], macs[a], false, false, &[7; 1200]);
    let frame = frames::blank(frame, false, false);
    let pieces = vec![(0, 200), (0, frame.len() as u16 - 200)];
    let packet = Outgoing::cut(&frame, pieces).with_flags(TxFlags::CSUM_BLANK);
    let ids = world.fronts[a].queue(&packet);
    world.fronts[a].kick();
    // Its headers are read, and its second page is taken back before the rest is.
    world.held_up.push(1);
    world.settle();
    let reference = world.fronts[a].reference(ids[1]);
    world.fronts[a].guest.revoke(reference);
    world.held_up.clear();
    world.settle();
    assert!(world.fronts[b].received.is_empty());
    let statuses: Vec<_> = world.fronts[a].answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == -1).count(), 1, "{statuses:?}");
    let good = frames::plain(macs[b], macs[a], 1514, 2);
    send(&mut world, a, std::slice::from_ref(&good));
    assert_eq!(bytes(&world.fronts[b].received), [good]);
    world.check();
}

/// A packet that is all headers ends as soon as they are on their way.
#[test]
fn headers_alone_keep_nothing() {
    let mut world = Vcpus::new(2);
    let [a, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    world.held_up.push(1);
    let idle = world.network(0).pools().idle();
    let sent = [(100, 0), (1514, 1)].map(|(len, out)| {
        let frame = frames::plain(macs[b], macs[a], len, 1);
        send(&mut world, a, std::slice::from_ref(&frame));
        assert_eq!(world.fronts[a].unanswered(), out, "{len} bytes");
        assert_eq!(world.network(0).pools().idle(), idle - out, "{len} bytes");
        frame
    });
    world.held_up.clear();
    world.settle();
    assert_eq!(bytes(&world.fronts[b].received), sent);
    world.check();
}

/// What finds no parcel waits for one, and goes as soon as there is.
#[test]
fn more_than_there_are_parcels_cross_in_turn() {
    let mut world = Vcpus::new(2);
    let [a, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
    let macs = [a, b].map(|front| world.fronts[front].mac());
    world.held_up.push(1);
    let mut sent: Vec<_> =
        (0..200).map(|number| frames::plain(macs[b], macs[a], 500, number)).collect();
    for some in sent.chunks(50) {
        send(&mut world, a, some);
    }
    world.held_up.clear();
    world.settle();
    sent.sort();
    assert_eq!(bytes(&world.fronts[b].received), sent);
    world.check();
}

/// What the control plane changes on another vCPU, that one sees at once.
#[test]
fn a_limit_that_ends_is_seen_by_any_vcpu() {
    let mut world = Vcpus::new(2);
    let a = world.attach(0, Manners::default());
    let b = world.front(1, Manners::default());
    let rate = drivers::netback::Rate { bytes: 2000, interval: 1_000_000 };
    world.connect(b, |config| config.rate = Some(rate)).unwrap();
    world.settle();
    assert_eq!(world.network(1).vifs().count(), 1);
    let macs = [a, b].map(|front| world.fronts[front].mac());
    let sent: Vec<_> = (0..10).map(|seed| frames::plain(macs[0], macs[1], 1000, seed)).collect();
    send(&mut world, b, &sent);
    assert!(world.fronts[a].received.len() < 10, "limited");
    let (vif, now) = (world.vif(b), world.xen.now());
    world.fabric.limit(vif, None, now);
    world.settle();
    assert_eq!(world.fronts[a].received.len(), 10);
    world.check();
}

/// A vif that cannot be connected leaves nothing, on any vCPU.
#[test]
fn what_cannot_be_connected_leaves_its_address() {
    let mut world = Vcpus::new(2);
    world.attach(0, Manners::default());
    let address = MacAddress::new([2, 0, 0, 0, 0, 7]);
    let bad = world.front(1, queues(2));
    let [_, second] = [0, 1].map(|queue| world.fronts[bad].rings_of(queue).tx_page.1);
    world.fronts[bad].guest.revoke(second);
    let refusal = world.connect(bad, |config| config.mac = address).unwrap_err();
    assert!(matches!(refusal, Refusal::Attach(_)), "{refusal}");
    let single = world.front(2, Manners::default());
    let reference = world.fronts[single].rings_of(0).tx_page.1;
    world.fronts[single].guest.revoke(reference);
    assert!(world.connect(single, |config| config.mac = address).is_err());
    assert_eq!([0, 1].map(|vcpu| world.network(vcpu).vifs().count()), [1, 0]);
    // One more on the other vCPU, so that the next is on this one.
    world.attach(3, Manners::default());
    let good = world.front(4, Manners::default());
    world.connect(good, |config| config.mac = address).unwrap();
    world.settle();
    assert_eq!([0, 1].map(|vcpu| world.network(vcpu).vifs().count()), [2, 1]);
}

/// A link takes as much heap as the image reckons with.
#[test]
fn the_heap_that_a_link_takes() {
    let xen = FakeXen::new(US);
    let [mut one, mut other] = [(); 2].map(|()| pools(&xen, Mode::Auto));
    let [here, there] = [(); 2].map(|()| Arc::new(Bell::new(xen.bind_ipi())));
    let before = used();
    let link = link::link((&mut one, here), (&mut other, there)).expect("records");
    let taken = (used() - before) as usize;
    assert!((link::HEAP * 4 / 5..link::HEAP).contains(&taken), "{taken} of {}", link::HEAP);
    drop(link);
}

/// VLANs that are configured for a port of one vCPU are there on all.
#[test]
fn vlans_are_on_all_vcpus() {
    let mut world = Vcpus::new(2);
    let fronts = [0, 1, 2, 3].map(|guest| world.front(guest, Manners::default()));
    // On one vCPU alone.
    for (front, vlan) in fronts.into_iter().zip([Some("10"), None, Some("10"), None]) {
        let vlans = vlan.map(|vlan| Box::new(vlan.parse().expect("a VLAN")));
        world.connect(front, |config| config.vlans = vlans).unwrap();
        world.settle();
    }
    for (from, to) in [(0, vec![2]), (1, vec![3]), (2, vec![0]), (3, vec![1])] {
        let mac = world.fronts[from].mac();
        let sent = frames::plain(frames::BROADCAST, mac, 100, from as u64);
        send(&mut world, from, std::slice::from_ref(&sent));
        for other in (0..4).filter(|other| *other != from) {
            let received = bytes(&world.fronts[other].received);
            let expected = if to.contains(&other) { vec![sent.clone()] } else { vec![] };
            assert_eq!(received, expected, "{from} to {other}");
            world.fronts[other].received.clear();
        }
    }
    for front in fronts {
        assert_eq!(world.disconnect(front), Progress::Finished);
    }
    world.settle();
    world.check();
}

/// A bridge that only vifs are on goes with the last of them, on all vCPUs.
#[test]
fn a_bridge_goes_with_its_last_vif() {
    let mut world = Vcpus::new(2);
    let ports = |world: &Vcpus| -> Vec<Vec<PortId>> {
        [0, 1]
            .map(|vcpu| {
                let network = world.network(vcpu);
                let switches = network.switches().iter();
                switches.flat_map(|(_, switch)| switch.ports().map(|(port, _)| port)).collect()
            })
            .into()
    };
    let before: Vec<_> = ports(&world).iter().map(Vec::len).collect();
    for _ in 0..20 {
        let fronts = [0, 1].map(|guest| world.front(guest, Manners::default()));
        for front in fronts {
            world.connect(front, |config| config.bridge = "inner".try_into().unwrap()).unwrap();
        }
        world.settle();
        let mac = world.fronts[fronts[0]].mac();
        let sent = frames::plain(frames::BROADCAST, mac, 100, 1);
        send(&mut world, fronts[0], std::slice::from_ref(&sent));
        assert_eq!(bytes(&world.fronts[fronts[1]].received), [sent]);
        assert!(world.wire.take_frames().is_empty());
        for front in fronts {
            assert_eq!(world.disconnect(front), Progress::Finished);
        }
        world.settle();
        let after: Vec<_> = ports(&world).iter().map(Vec::len).collect();
        assert_eq!(after, before);
        world.fronts.clear();
    }
    world.check();
}

/// A carrier that changes on another vCPU is told to the control plane.
#[test]
fn a_carrier_is_told_from_any_vcpu() {
    let mut world = Vcpus::new(2);
    let [_, b] = [0, 1].map(|guest| world.attach(guest, Manners::default()));
    assert_eq!(world.network(1).vifs().count(), 1);
    let id = world.vif(b);
    // A request that points beyond its page breaks the protocol (P-5).
    world.fronts[b].push(TxRequest::new(1, 4090, TxFlags::empty(), 7, 100).into());
    world.fronts[b].kick();
    world.settle();
    let told = world.carriers.last().expect("it is told");
    assert!(told.0 == id && matches!(told.1, Carrier::Broken(_)), "{told:?}");
    assert_eq!(world.fabric.next_carrier(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whichever vCPU goes when, no packet is lost while there is room for all, none comes
    /// twice, and none sleeps over what is left for it.
    #[test]
    fn any_order_of_the_vcpus(
        vcpus in 2usize..4,
        counts in prop::array::uniform4(1usize..4),
        picks in prop::collection::vec(0usize..4, 1..40),
        sends in prop::collection::vec((0usize..4, 0usize..4, 0usize..6), 1..60),
    ) {
        let mut world = Vcpus::new(vcpus);
        let fronts = [0, 1, 2, 3].map(|guest| world.attach(guest, queues(counts[guest])));
        let macs = fronts.map(|front| world.fronts[front].mac());
        let mut expected = vec![Vec::new(); 4];
        for (seed, (from, to, size)) in sends.into_iter().enumerate() {
            if from == to {
                continue;
            }
            let frame = frames::plain(macs[to], macs[from], SIZES[size].min(1514), seed as u64);
            world.fronts[fronts[from]].queue(&Outgoing::whole(&frame));
            expected[to].push(frame);
            if seed % 3 == 0 {
                world.fronts[fronts[from]].kick();
                world.step(picks[seed % picks.len()] % vcpus);
            }
        }
        fronts.iter().for_each(|front| world.fronts[*front].kick());
        world.settle_by(|turn| picks[turn % picks.len()]);
        for (to, mut expected) in expected.into_iter().enumerate() {
            expected.sort();
            prop_assert_eq!(bytes(&world.fronts[fronts[to]].received), expected);
        }
        world.check();
    }
}
