//! Vifs of several queues: what holds for one of them holds for each, and none is in
//! another's way (P-24).

mod control;
mod life;
mod stall;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drivers::netback::data::{AttachError, STALL_TIMEOUT, Vif};
use drivers::netback::{Frontend, MAX_QUEUES, QueueKeys, QueueRings, RemotePorts};
use drivers::report::Report;
use kernel::packet::flow;
use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{GUESTS, Id, Manners, Outgoing, Spread, US, Uplink, World, frames, pools};
use xen::event::RemotePort;
use xen::fake::{FakeXen, Grant, Kind, Operation, When};
use xen::netif::Status;
use xen::ring::Word;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MILLISECOND: Duration = Duration::from_millis(1);
/// Flows enough that each of eight queues has some.
const FLOWS: u16 = 64;
/// Grant statuses, as in the tests of one queue.
const STATUSES: [i16; 3] = [-1, 1, i16::MAX];

fn manners(queues: usize) -> Manners {
    Manners { queues, offers: 64, ..Manners::default() }
}

/// Sends the `number`-th datagram of each of the flows.
fn send_flows(world: &mut World, from: Id, to: [u8; 6], number: u32, len: usize) {
    for port in 0..FLOWS {
        let frame = frames::numbered(to, world[from].mac(), port, number, len);
        world[from].queue(&Outgoing::whole(&frame));
    }
    world[from].kick();
    world.settle();
}

/// By flow, the numbers of what a guest got and its queues.
fn flows(world: &mut World, id: Id) -> BTreeMap<u16, (Vec<u32>, BTreeSet<usize>)> {
    let mut flows = BTreeMap::<_, (Vec<_>, BTreeSet<_>)>::new();
    for packet in std::mem::take(&mut world[id].received) {
        assert_eq!(packet.failed, 0);
        let (flow, number) = frames::number(&packet.bytes);
        let (numbers, queues) = flows.entry(flow).or_default();
        numbers.push(number);
        queues.insert(packet.queue);
    }
    flows
}

/// P-24: guests of one to eight queues, with a channel for each queue or for each ring. All
/// queues are used both ways, a flow has one of them and keeps its order, and Xen's things
/// are as many as there should be.
#[test]
fn p24_every_queue_is_used_and_flows_keep_their_order() {
    for queues in [1, 2, 4, 8] {
        for (split, control) in [(false, false), (true, false), (true, true)] {
            let mut world = World::of_many();
            let manners = Manners { split, control, ..manners(queues) };
            let [a, b] = [0, 1].map(|guest| world.attach_with(guest, manners.clone(), &[]));
            let c = world.attach(2);
            assert!(world.is_connected(a), "{:?}", world.error(a));
            let audit = world.xen.audit();
            let (mappings, ports) = audit.of(world[a].vif().frontend);
            let more = usize::from(control);
            assert_eq!(mappings.len(), 2 * queues + more);
            assert_eq!(ports.len(), queues * (1 + usize::from(split)) + more);
            let to = world[b].mac();
            for number in 0..20 {
                send_flows(&mut world, a, to, number, 200 + 300 * (number as usize % 4));
            }
            let found = flows(&mut world, b);
            assert_eq!(found.len(), usize::from(FLOWS));
            for (numbers, queues) in found.values() {
                assert_eq!(*numbers, (0..20).collect::<Vec<_>>());
                assert_eq!(queues.len(), 1, "a flow has one queue");
            }
            let used: BTreeSet<_> = found.values().flat_map(|(_, queues)| queues).collect();
            assert_eq!(used.len(), queues);
            let vifs: Vec<_> = world.network.vifs().collect();
            let sum = |id, direction: fn(&drivers::netback::data::VifCounters) -> u64| {
                let queues = world.network.queues(id).map(|queue| direction(&queue.counters));
                let queues: Vec<_> = queues.collect();
                assert!(queues.iter().all(|count| *count > 0), "{queues:?}");
                queues.iter().sum::<u64>()
            };
            let all = u64::from(FLOWS) * 20;
            assert_eq!((sum(vifs[0].0, |c| c.tx.packets), vifs[0].1.tx.packets), (all, all));
            assert_eq!((sum(vifs[1].0, |c| c.rx.packets), vifs[1].1.rx.packets), (all, all));
            // To a guest of one queue, and to the wire.
            let to = world[c].mac();
            send_flows(&mut world, b, to, 0, 300);
            assert_eq!(flows(&mut world, c).len(), usize::from(FLOWS));
            send_flows(&mut world, b, OUTSIDE, 0, 300);
            assert_eq!(world.wire.take_frames().len(), usize::from(FLOWS));
            let reply = frames::numbered(world[a].mac(), OUTSIDE, 7, 9, 300);
            world.wire.inject(reply.clone());
            world.settle();
            assert!(world[a].received.iter().any(|packet| packet.bytes == reply));
            world.check_at_rest();
            world.end();
        }
    }
}

/// A packet of any shape arrives by any queue, whatever queue it was sent by.
#[test]
fn packets_of_all_shapes_by_all_queues() {
    let mut world = World::of_many();
    let jumbo = [("mtu", "65517")];
    let manners = Manners { spread: Spread::InTurn, ..manners(4) };
    let [a, b] = [0, 1].map(|guest| world.attach_with(guest, manners.clone(), &jumbo));
    for (n, len) in [60, 128, 129, 1000, 4096, 4097, 20_000, 65_000].into_iter().enumerate() {
        for port in 0..16 {
            let (to, from) = (world[b].mac(), world[a].mac());
            let frame = frames::numbered(to, from, port, n as u32, len);
            world.pass_on(a, b, &Outgoing::whole(&frame));
        }
        let frame = frames::plain(world[a].mac(), world[b].mac(), len, n as u64);
        world.pass_on(b, a, &Outgoing::whole(&frame));
    }
    world.end();
}

/// No guest gets more of the domain's time by having more queues, and no queue of its more
/// than another.
#[test]
fn queues_take_turns() {
    let mut world = World::of_many();
    let a = world.attach_with(0, manners(4), &[]);
    let b = world.attach_with(1, manners(1), &[]);
    // What each sends is in order of its being taken.
    for (id, queues) in [(a, 4), (b, 1)] {
        for queue in 0..queues {
            for number in 0..256 {
                let frame = frames::numbered(OUTSIDE, world[id].mac(), queue, number, 60);
                world[id].queue_to(usize::from(queue), &Outgoing::whole(&frame));
            }
        }
        world[id].kick();
    }
    world.settle();
    let sent = world.wire.take_frames();
    assert_eq!(sent.len(), 5 * 256);
    let mac_b = world[b].mac();
    let last = sent.iter().rposition(|frame| frame[6..12] == mac_b).expect("it sends");
    assert!(last < 2 * 256 + 64, "four batches of each: {last}");
    let order = sent.iter().filter(|frame| frame[6..12] != mac_b);
    let order: Vec<_> = order.map(|frame| frames::number(frame).0).collect();
    for (n, batch) in order.chunks(64).enumerate() {
        assert!(batch.iter().all(|queue| *queue == batch[0]), "{batch:?}");
        assert_eq!(usize::from(batch[0]), (usize::from(order[0]) + n) % 4, "in turn");
    }
    world.end();
}

/// Requests that are refused come to nothing, but take time: a guest with queues full of
/// them has a batch of one looked at in a pass, as one with a single queue has.
#[test]
fn queues_full_of_refused_requests_take_turns() {
    let mut world = World::of_many();
    let a = world.attach_with(0, manners(8), &[]);
    let b = world.attach_with(1, manners(8), &[]);
    for queue in 0..8 {
        for _ in 0..256 {
            world[a].queue_to(queue, &Outgoing::whole(&[1; 13]));
        }
    }
    world[a].kick();
    let frame = frames::plain(OUTSIDE, world[b].mac(), 100, 1);
    world[b].send(&Outgoing::whole(&frame));
    let refused = |world: &World| world.network.vifs().next().expect("the first").1.tx.refused;
    let mut before = 0;
    // The last batches of all empty their queues, and go together.
    while refused(&world) < 8 * 192 {
        assert!(world.step(), "nothing happens any more");
        assert!(refused(&world) - before <= 64, "{}", refused(&world) - before);
        before = refused(&world);
        assert_eq!(world.wire.take_frames().len(), usize::from(before == 64), "in the first pass");
    }
    world.settle();
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// P-16: one queue breaks the protocol, and all of the vif is served no more.
#[test]
fn p16_a_violation_in_one_queue_breaks_off_all() {
    for queue in 0..4 {
        for rx in [false, true] {
            let mut world = World::of_many();
            let a = world.attach(0);
            let b = world.attach_with(1, manners(4), &[]);
            let to = world[b].mac();
            world[b].hands_off = true;
            let (guest, rings) = (world[b].guest.clone(), world[b].rings_of(queue));
            let port = rings.port;
            match rx {
                true => {
                    let word = rings.rx.word(Word::RequestProducer);
                    rings.rx.set_word(Word::RequestProducer, word.wrapping_add(1000));
                }
                false => {
                    let word = rings.tx.word(Word::RequestProducer);
                    rings.tx.set_word(Word::RequestProducer, word.wrapping_add(1000));
                }
            }
            guest.notify(port);
            // The receive rings are looked at when those offered at first are used up.
            for number in 0..64 {
                send_flows(&mut world, a, to, number, 100);
            }
            let error = world.error(b).unwrap_or_else(|| panic!("{queue} {rx}: no error"));
            assert!(error.contains("producer index"), "{error}");
            assert_eq!(world.own(b, "carrier").as_deref(), Some("0"));
            let counts = world.xen.counts();
            for rings in world[b].queues() {
                guest.notify(rings.port);
            }
            world.settle();
            assert_eq!(world.xen.counts(), counts, "nothing of it is looked at");
            assert_eq!(world[a].unanswered(), 0);
            world.end();
        }
    }
}

/// What is sent arrives, in as many responses as there were slots.
trait PassTo {
    fn pass_to(&mut self, from: Id, to: Id, frame: &[u8]);
}

impl PassTo for World {
    fn pass_to(&mut self, from: Id, to: Id, frame: &[u8]) {
        self[from].answers.clear();
        let ids = self[from].send(&Outgoing::whole(frame));
        self.settle();
        assert_eq!(self[to].received.pop().expect("it arrives").bytes, frame);
        self.check_answers(from, &ids, Status::Okay);
    }
}
