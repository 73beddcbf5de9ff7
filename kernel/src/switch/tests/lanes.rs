//! Ports of several lanes: what does not get on in one holds up nothing in another.

use super::*;
use crate::memory::Buffers;

/// A port of as many lanes as it has budgets. A packet's lane is its last byte.
struct Laned {
    id: PortId,
    holding: Holding,
    /// By lane, how many packets it still takes.
    budgets: Vec<usize>,
    /// A lane that is closed.
    closed: Option<u8>,
    /// How often it was asked for a lane.
    asked: core::cell::Cell<usize>,
    /// What it got, in order.
    sent: Vec<(u8, Vec<u8>)>,
}

impl Port for Laned {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, _: Instant) -> Traffic {
        let mut sent = Traffic::default();
        let lanes = self.lanes();
        for number in 0..lanes {
            let mut lane = queue.lane(number, lanes);
            while self.budgets[usize::from(number)] > 0
                && let Some(packet) = lane.pop()
            {
                self.budgets[usize::from(number)] -= 1;
                sent.add(1, packet.len());
                self.sent.push((number, packet.headers(&pools.buffers).to_vec()));
                pools.give(packet);
            }
        }
        sent
    }

    fn holding(&self) -> Holding {
        self.holding
    }

    fn lanes(&self) -> u8 {
        self.budgets.len() as u8
    }

    fn steer(&self, packet: &mut Packet, buffers: &Buffers) -> Option<u8> {
        self.asked.set(self.asked.get() + 1);
        let lane = *packet.headers(buffers).last().unwrap();
        (self.closed != Some(lane)).then_some(lane)
    }

    fn partial_checksums(&self) -> Versions {
        Versions::ALL
    }
}

impl Ports for Laned {
    fn port(&mut self, id: PortId) -> Option<&mut dyn Port> {
        (id == self.id).then_some(self as &mut dyn Port)
    }
}

/// A world, a port to send from, and one of so many lanes, whose queue has room for 40
/// packets.
fn laned(lanes: usize) -> (World, PortId, Laned) {
    let mut world = World::new();
    let [from, id] = world.joined();
    let asked = core::cell::Cell::new(0);
    let budgets = vec![0; lanes];
    let port = Laned { id, holding: LENDING, budgets, closed: None, asked, sent: Vec::new() };
    (world, from, port)
}

fn frame_for(lane: u8, number: u8) -> Vec<u8> {
    let mut frame = frame(guest_mac(1), guest_mac(0), 60);
    frame.extend([number, lane]);
    frame
}

impl World {
    fn flush_to(&mut self, port: &mut Laned) {
        self.switches.flush(&self.guests, &mut self.pools, self.now, port);
    }

    fn send_to(&mut self, port: &mut Laned, from: PortId, lane: u8, number: u8) {
        let packet = self.private(&frame_for(lane, number));
        self.forward(from, packet);
        self.flush_to(port);
    }

    /// By lane, what waits for the second port.
    fn waiting(&self) -> Vec<usize> {
        let (_, switch) = self.switches.iter().next().unwrap();
        let queue = &switch.slots[1].state.as_ref().unwrap().queue;
        let lanes = queue.check_lanes();
        assert_eq!(lanes.iter().sum::<usize>(), queue.len());
        lanes.to_vec()
    }
}

#[test]
fn a_lane_that_does_not_get_on_holds_up_no_other() {
    let (mut world, from, mut port) = laned(3);
    port.budgets = vec![0, 100, 100];
    for number in 0..100 {
        for lane in 0..3 {
            world.send_to(&mut port, from, lane, number);
        }
    }
    // A quarter of the queue is its share: one is for what has just come.
    assert_eq!(world.waiting()[..3], [10, 0, 0]);
    assert_eq!(world.counters(port.id)[DropReason::QueueFull], 90);
    let order: Vec<_> = port.sent.drain(..).collect();
    let expected = (0..100).flat_map(|number| [1, 2].map(|lane| (lane, frame_for(lane, number))));
    assert_eq!(order, expected.collect::<Vec<_>>());
    assert_eq!(port.asked.get(), 300, "once for each");
    port.budgets[0] = 100;
    world.switches.wake(port.id);
    world.flush_to(&mut port);
    let expected = (0..10).map(|number| (0, frame_for(0, number)));
    assert_eq!(port.sent, expected.collect::<Vec<_>>(), "its first packets, in order");
    world.end();
}

/// Whatever all others keep, a lane has its share, and takes any packet while it is empty.
#[test]
fn all_lanes_but_one_do_not_get_on() {
    let (mut world, from, mut port) = laned(8);
    port.budgets[7] = 100;
    for number in 0..100 {
        for lane in 0..8 {
            world.send_to(&mut port, from, lane, number);
        }
    }
    assert_eq!(world.waiting(), [4, 4, 4, 4, 4, 4, 4, 0]);
    assert_eq!(port.sent.len(), 100);
    // More bytes than a share has.
    port.budgets = vec![0; 2];
    port.sent.clear();
    world.switches.leave(port.id, &mut world.pools);
    let queue = QueueLimits { packets: 40, bytes: 3000, wait: WAIT };
    port.id = world.join("xenbr0", PortConfig { queue, ..config(Some(guest_mac(1))) });
    let mut long = frame(guest_mac(1), guest_mac(0), 1400);
    for expected in [1, 1] {
        *long.last_mut().unwrap() = 0;
        let packet = world.private(&long);
        world.forward(from, packet);
        world.flush_to(&mut port);
        assert_eq!(world.waiting()[..2], [expected, 0]);
    }
    *long.last_mut().unwrap() = 1;
    let packet = world.private(&long);
    world.forward(from, packet);
    world.flush_to(&mut port);
    assert_eq!(world.waiting()[..2], [1, 1]);
    world.end();
}

#[test]
fn nothing_waits_for_a_closed_lane() {
    let (mut world, from, mut port) = laned(2);
    port.closed = Some(1);
    port.budgets = vec![0, 10];
    for lane in [0, 1, 0, 1] {
        world.send_to(&mut port, from, lane, 0);
    }
    assert_eq!(world.waiting()[..2], [2, 0]);
    assert_eq!(world.counters(port.id)[DropReason::NoCarrier], 2);
    assert_eq!(port.sent, []);
    world.end();
}

/// Packets in the middle of the queue are replaced by copies, and expire, and go.
#[test]
fn o8_lanes_of_what_borrows_pages() {
    let (mut world, from, mut port) = laned(3);
    for number in 0..6 {
        let lane = number % 3;
        let mut bytes = frame(guest_mac(1), guest_mac(0), 300);
        bytes[63] = lane;
        let packet = world.lent(0, &bytes, 64, 500);
        world.forward(from, packet);
        world.flush_to(&mut port);
    }
    world.wait(100);
    assert_eq!(world.responses(0).len(), 6, "copied");
    assert_eq!(world.waiting()[..3], [2, 2, 2]);
    port.budgets[1] = 1;
    world.switches.wake(port.id);
    world.flush_to(&mut port);
    assert_eq!(world.waiting()[..3], [2, 1, 2]);
    // A hole in the middle leaves all others where they are known to be.
    world.send_to(&mut port, from, 1, 9);
    assert_eq!(world.waiting()[..3], [2, 2, 2]);
    world.wait(10_000 - 100);
    assert_eq!(world.waiting()[..3], [0, 1, 0], "the last came later");
    assert_eq!(world.counters(port.id)[DropReason::Expired], 5);
    world.end();
}

proptest! {
    /// Any packets for any lanes, which get on and do not: each lane keeps its order, and
    /// each packet ends once.
    #[test]
    fn lanes_keep_their_order(
        events in prop::collection::vec((0..4u8, 0..3usize, any::<bool>(), 0..200u64), 1..150),
    ) {
        let (mut world, from, mut port) = laned(4);
        let mut next = [0u8; 4];
        for (lane, budget, lent, wait) in events {
            let number = next[usize::from(lane)];
            next[usize::from(lane)] = number.wrapping_add(1);
            let bytes = frame_for(lane, number);
            let packet = match lent {
                // Its last bytes in our memory are the same.
                true => {
                    let whole = [&bytes[..], &[0; 40]].concat();
                    world.lent(0, &whole, bytes.len(), 64)
                }
                false => world.private(&bytes),
            };
            world.forward(from, packet);
            port.budgets[usize::from(lane) * 7 % 4] += budget;
            world.switches.wake(port.id);
            world.flush_to(&mut port);
            world.waiting();
            world.wait(wait);
            world.waiting();
            world.responses(0);
        }
        for lane in 0..4 {
            let numbers = port.sent.iter().filter(|(sent, _)| *sent == lane);
            let numbers: Vec<_> = numbers.map(|(_, bytes)| bytes[60]).collect();
            prop_assert!(numbers.is_sorted(), "lane {lane}: {numbers:?}");
            prop_assert!(port.sent.iter().all(|(sent, bytes)| bytes[61] == *sent));
        }
        let counters = world.counters(port.id);
        let dropped: u64 = counters.drops().map(|(_, count)| count).sum();
        let waiting = world.waiting().iter().sum::<usize>() as u64;
        let all: u64 = world.counters(from).received.packets;
        prop_assert_eq!(port.sent.len() as u64 + dropped + waiting, all);
        world.end();
    }
}
