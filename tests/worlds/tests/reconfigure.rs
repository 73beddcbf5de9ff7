//! Frontends that change what they ask for while packets flow (P-23): xenbus's states 7
//! and 8, and the headroom that XDP wants.

use drivers::netback::data::MAX_HEADROOM;
use kernel::pages::choice::Mode;
use worlds::streams::{check_stream, finished, outgoing, segment};
use worlds::{Id, Manners, Outgoing, World, frames};
use xen::PAGE_SIZE;

const JUMBO: (&str, &str) = ("mtu", "65517");
const HEADROOM: &str = "xdp-headroom";
/// What Linux asks for.
const XDP: u16 = 256;

fn frame(world: &World, from: Id, to: Id, len: usize) -> Vec<u8> {
    frames::plain(world[to].mac(), world[from].mac(), len, len as u64)
}

/// What a packet of so many bytes arrives as: its headroom, and in how many slots.
fn sent(world: &mut World, from: Id, to: Id, len: usize) -> Option<(u16, usize)> {
    let bytes = frame(world, from, to, len);
    world[from].send(&Outgoing::whole(&bytes));
    world.settle();
    let packet = world[to].received.pop()?;
    assert!(packet.bytes == bytes && packet.failed == 0, "whole, whatever is before it");
    Some((packet.headroom, packet.slots))
}

/// What netfront does to change its headroom (`talk_to_netback_xdp` and what is around
/// it): 7, the key, and once we say 8, 4.
fn reconfigure(world: &mut World, id: Id, headroom: &str) {
    world.set_front(id, "7");
    world.set_front_key(id, HEADROOM, headroom);
    world.settle();
    assert_eq!(world.own(id, "state").as_deref(), Some("8"));
    world.set_front(id, "4");
    world.settle();
    assert_eq!(world.own(id, "state").as_deref(), Some("8"), "it stays, as with Linux");
}

#[test]
fn p23_headroom_comes_and_goes_while_packets_flow() {
    let mut world = World::new();
    let [a, b] = world.connected();
    assert_eq!(world.own(b, "feature-xdp-headroom").as_deref(), Some("1"));
    assert_eq!(sent(&mut world, a, b, 1000), Some((0, 1)));
    for _ in 0..3 {
        reconfigure(&mut world, b, "256");
        assert_eq!(sent(&mut world, a, b, 1000), Some((XDP, 1)));
        assert_eq!(sent(&mut world, a, b, 1514), Some((XDP, 1)));
        assert_eq!(sent(&mut world, b, a, 1000), Some((0, 1)), "the other one asked for none");
        reconfigure(&mut world, b, "0");
        assert_eq!(sent(&mut world, a, b, 1000), Some((0, 1)));
    }
    // Nothing was connected anew, and the vif ends as any other.
    assert_eq!(world.network.vifs().count(), 2);
    world.end();
}

/// The frontend says 7 before it writes the key. Where we look in between, we say 8 and
/// follow the key when it comes.
#[test]
fn p23_a_key_that_comes_late_is_followed() {
    let mut world = World::new();
    let [a, b] = world.connected();
    world.set_front(b, "7");
    world.settle();
    assert_eq!(world.own(b, "state").as_deref(), Some("8"));
    world.set_front_key(b, HEADROOM, "256");
    world.settle();
    assert_eq!(sent(&mut world, a, b, 60), Some((XDP, 1)));
    world.set_front(b, "4");
    world.settle();
    assert_eq!(sent(&mut world, a, b, 60), Some((XDP, 1)));
    world.end();
}

/// P-19: exactly the slots it takes, with those of the headroom and of the extra info, and
/// every byte in its place; from our memory and from the sender's pages alike.
#[test]
fn p19_slots_are_counted_with_the_headroom() {
    for headroom in [1, XDP, 1000, MAX_HEADROOM] {
        let room = PAGE_SIZE - usize::from(headroom);
        for slots in 1..=18 {
            let len = (slots * room).min(65_531);
            if len <= (slots - 1) * room {
                continue;
            }
            let mut world = World::new();
            let a = world.attach_with(0, Manners::default(), &[JUMBO]);
            let manners = Manners {
                offers: slots as u32,
                refills: false,
                xdp_headroom: headroom.into(),
                ..Manners::default()
            };
            let b = world.attach_with(1, manners, &[JUMBO]);
            assert_eq!(sent(&mut world, a, b, len), None, "one slot is for the extra info");
            world[b].offer(1);
            world.settle();
            let packet = world[b].received.pop().expect("there is room now");
            assert!(packet.bytes == frame(&world, a, b, len));
            assert_eq!((packet.headroom, packet.slots), (headroom, slots));
            assert_eq!(world[a].unanswered(), 0);
            world.end();
        }
    }
}

/// P-18: where there is so much headroom that a packet would take more slots than Linux'
/// frontend takes, it comes with less. A packet of more slots than a frontend takes at all is
/// lost and counted, and what is behind it is not.
#[test]
fn p18_headroom_takes_no_more_slots_than_there_may_be() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let manners = Manners { xdp_headroom: MAX_HEADROOM.into(), ..Manners::default() };
    let b = world.attach_with(1, manners, &[JUMBO]);
    let most = 18 * (PAGE_SIZE - usize::from(MAX_HEADROOM));
    assert_eq!(sent(&mut world, a, b, most), Some((MAX_HEADROOM, 18)));
    assert_eq!(sent(&mut world, a, b, most + 1), Some((MAX_HEADROOM - 1, 18)));
    assert_eq!(sent(&mut world, a, b, 65_531), Some((455, 18)));
    world.end();
    // One slot alone, for a frontend without feature-sg.
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let manners = Manners { xdp_headroom: XDP.into(), scatter_gather: false, ..Manners::default() };
    let b = world.attach_with(1, manners, &[JUMBO]);
    assert_eq!(sent(&mut world, a, b, PAGE_SIZE - 255), None);
    let (_, counters) = world.network.vifs().last().expect("b");
    assert_eq!(counters.rx.too_long, 1);
    assert_eq!(sent(&mut world, a, b, PAGE_SIZE - 256), Some((XDP, 1)));
    world.end();
}

/// The longest TCP segment there is, to be cut; whether it arrives uncut, and whole in any
/// case.
fn arrives_uncut(world: &mut World, from: Id, to: Id, v6: bool) -> bool {
    const MSS: u16 = 1428;
    let sent = segment(world[to].mac(), world[from].mac(), v6, 65_535, MSS);
    let out = outgoing(&sent, v6);
    world[from].send(&out);
    world.settle();
    assert_eq!(world[from].unanswered(), 0);
    let received = std::mem::take(&mut world[to].received);
    if let [packet] = &received[..] {
        assert_eq!((&packet.bytes, packet.gso), (&out.bytes, Some(sent.1.segmentation())));
        return true;
    }
    check_stream(&finished(received), &sent.0, MSS, "cut");
    false
}

/// P-21, P-23: who looks at packets in headroom sees into no more than one page, so segments
/// come cut while there is any, be it from the start or later, and uncut again to who takes
/// them so.
#[test]
fn p21_with_headroom_segments_come_cut() {
    for v6 in [false, true] {
        let mut world = World::new();
        let [a, b] = world.connected();
        let none = Manners { gso: [false; 2], ..Manners::default() };
        let c = world.attach_with(2, none, &[]);
        for headroom in [1, XDP, MAX_HEADROOM] {
            assert!(arrives_uncut(&mut world, a, b, v6));
            reconfigure(&mut world, b, &headroom.to_string());
            assert!(!arrives_uncut(&mut world, a, b, v6), "{headroom}");
            assert!(arrives_uncut(&mut world, b, a, v6), "the other one asked for none");
            reconfigure(&mut world, b, "0");
            reconfigure(&mut world, c, "0");
            assert!(!arrives_uncut(&mut world, a, c, v6), "it never took them");
        }
        let asks = Manners { xdp_headroom: XDP.into(), ..Manners::default() };
        let d = world.attach_with(3, asks, &[]);
        assert!(!arrives_uncut(&mut world, a, d, v6), "from the start");
        reconfigure(&mut world, d, "0");
        assert!(arrives_uncut(&mut world, a, d, v6));
        let too_long = world.network.vifs().map(|(_, counters)| counters.rx.too_long);
        assert_eq!(too_long.sum::<u64>(), 0);
        world.end();
    }
}

/// A change of the headroom while packets wait for slots, and pages are lent for them:
/// they come with what there is by then.
#[test]
fn p23_waiting_packets_come_with_the_new_headroom() {
    for mode in [Mode::Auto, Mode::Always] {
        let mut world = World::of(mode);
        let a = world.attach(0);
        let manners = Manners { offers: 0, refills: false, ..Manners::default() };
        let b = world.attach_with(1, manners, &[]);
        for len in [1000, 60] {
            assert_eq!(sent(&mut world, a, b, len), None);
        }
        reconfigure(&mut world, b, "256");
        world[b].offer(4);
        world.settle();
        let packets: Vec<_> =
            world[b].received.iter().map(|packet| (packet.headroom, packet.bytes.len())).collect();
        assert_eq!(packets, [(XDP, 1000), (XDP, 60)]);
        world.end();
    }
}

/// What is still to be cut and waits as headroom is asked for is not lost, and neither is what
/// is behind it.
#[test]
fn p23_segments_that_wait_uncut_come() {
    for (v6, headroom) in [(false, XDP), (true, MAX_HEADROOM)] {
        let mut world = World::new();
        let a = world.attach(0);
        let manners = Manners { offers: 0, refills: false, ..Manners::default() };
        let b = world.attach_with(1, manners, &[]);
        let stream = segment(world[b].mac(), world[a].mac(), v6, 65_535, 1428);
        let out = outgoing(&stream, v6);
        world[a].send(&out);
        world.settle();
        reconfigure(&mut world, b, &headroom.to_string());
        let behind = frame(&world, a, b, 60);
        world[a].send(&Outgoing::whole(&behind));
        world.settle();
        assert!(world[b].received.is_empty());
        world[b].offer(22);
        world.settle();
        let [packet, last] = &world[b].received[..] else { panic!("two packets") };
        assert_eq!((&packet.bytes, packet.gso), (&out.bytes, Some(stream.1.segmentation())));
        assert_eq!((&last.bytes, last.headroom), (&behind, headroom));
        world.end();
    }
}

/// A page that cannot be written fails its own slot, with headroom as without (P-20).
#[test]
fn p20_a_failed_slot_fails_alone() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    let manners = Manners { xdp_headroom: XDP.into(), ..Manners::default() };
    let b = world.attach_with(1, manners, &[JUMBO]);
    // The packet's second slot: the extra info's page is not looked at.
    for n in [1, 2] {
        let offered = world[b].offered(n);
        world[b].guest.revoke(offered);
    }
    let bytes = frame(&world, a, b, 10_000);
    world[a].send(&Outgoing::whole(&bytes));
    world.settle();
    let packet = world[b].received.pop().expect("it came");
    assert_eq!((packet.failed, packet.slots), (1, 3));
    assert_eq!(sent(&mut world, a, b, 60), Some((XDP, 1)));
    world.end();
}

/// A frontend in 7 or 8 for good, or going from there to anywhere, ends as any other.
#[test]
fn p23_every_end_from_8() {
    for (last, ours) in [("7", "8"), ("8", "8"), ("4", "8"), ("5", "6"), ("6", "6")] {
        let mut world = World::new();
        let [a, b] = world.connected();
        reconfigure(&mut world, b, "256");
        world.set_front(b, last);
        world.settle();
        assert_eq!(world.own(b, "state").as_deref(), Some(ours));
        if ours == "8" {
            assert_eq!(sent(&mut world, b, a, 60), Some((0, 1)));
        }
        world.end();
    }
    let mut world = World::new();
    let [a, b] = world.connected();
    reconfigure(&mut world, b, "256");
    // A stall is told in state 8 as in 4.
    world[b].manners.refills = false;
    while sent(&mut world, a, b, 60).is_some() {}
    world.pass(drivers::netback::data::STALL_TIMEOUT);
    assert_eq!(world.own(b, "carrier").as_deref(), Some("0"));
    world[b].manners.refills = true;
    world[b].offer(10);
    world.settle();
    assert_eq!(world.own(b, "carrier").as_deref(), Some("1"));
    assert_eq!(world.own(b, "hotplug-status").as_deref(), Some("connected"));
    world.restart(b);
    assert_eq!(world.own(b, "state").as_deref(), Some("4"), "anew");
    world.end();
}
