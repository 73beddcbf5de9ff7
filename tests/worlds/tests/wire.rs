//! Guests and the wire.

use std::time::Duration;

use etherparse::{LaxPacketHeaders, LaxSlicedPacket, NetHeaders, TransportHeader, TransportSlice};
use kernel::pages::choice::Mode;
use kernel::switch::{DropReason, Holding};
use worlds::{Id, Level, Manners, Outgoing, Uplink, World, frames, journal};
use xen::fake::Kind;
use xen::netif::TxFlags;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// Tests that are about any NIC.
macro_rules! on_any_nic {
    ($($name:ident,)+) => {
        mod scripted {
            $(
                #[test]
                fn $name() {
                    super::$name::<worlds::Wire>();
                }
            )+
        }

        mod card {
            $(
                #[test]
                fn $name() {
                    super::$name::<worlds::Card>();
                }
            )+
        }
    };
}

on_any_nic! {
    checksums_on_the_wire_are_finished,
    partial_checksums_of_what_has_none_do_not_reach_the_wire,
    frames_go_out_and_come_in_unchanged,
    a_burst_from_the_wire_arrives_in_order,
}

/// Takes the one frame on the wire, without the zeros that make it as long as a frame
/// must be.
fn take_one<U: Uplink>(world: &World<U>, len: usize) -> Vec<u8> {
    let [frame] = &mut world.wire.take_frames()[..] else { panic!("not one frame") };
    let padding = frame.split_off(len.min(frame.len()));
    assert!(padding.is_empty() || padding == vec![0; 60 - len], "{} bytes", padding.len());
    std::mem::take(frame)
}

/// Whether the transport checksum of a frame is right, by etherparse.
fn is_finished(frame: &[u8]) -> bool {
    let headers = LaxPacketHeaders::from_ethernet(frame).expect("an Ethernet frame");
    let sliced = LaxSlicedPacket::from_ethernet(frame).expect("an Ethernet frame");
    let payload = match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => tcp.payload().to_vec(),
        TransportSlice::Udp(udp) => udp.payload().to_vec(),
        other => panic!("{other:?}"),
    };
    match (headers.transport.expect("a transport header"), headers.net.expect("an IP header")) {
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv4(ip, _)) => {
            tcp.calc_checksum_ipv4(&ip, &payload).unwrap() == tcp.checksum
        }
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv6(ip, _)) => {
            tcp.calc_checksum_ipv6(&ip, &payload).unwrap() == tcp.checksum
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv4(ip, _)) => {
            udp.calc_checksum_ipv4(&ip, &payload).unwrap() == udp.checksum
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv6(ip, _)) => {
            udp.calc_checksum_ipv6(&ip, &payload).unwrap() == udp.checksum
        }
        other => panic!("{other:?}"),
    }
}

/// P-14: what goes to the wire has its checksum; what had one is not touched.
fn checksums_on_the_wire_are_finished<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Auto);
    let a = world.attach(0);
    let from = world[a].mac();
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        for len in [0, 1, 60, 200, 1001, 1400] {
            let whole = frames::transport(
                OUTSIDE,
                from,
                v6,
                tcp,
                &frames::plain(from, from, 14 + len, 3)[14..],
            );
            assert!(is_finished(&whole));
            let blank = frames::blank(whole.clone(), v6, tcp);
            let cut = Outgoing::cut(&blank, vec![(9, 20), (50, 21), (0, blank.len() as u16 - 41)]);
            world[a].send(&cut.with_flags(TxFlags::CSUM_BLANK));
            world.settle();
            assert_eq!(take_one(&world, whole.len()), whole, "{v6} {tcp} {len}");
            // A wrong one is the sender's own.
            world[a].send(&Outgoing::whole(&blank));
            world.settle();
            assert_eq!(take_one(&world, blank.len()), blank);
        }
    }
    world.check_at_rest();
    world.end();
}

/// F-5: a checksum that cannot be made; the packet is dropped and the sender's pages
/// are answered.
fn partial_checksums_of_what_has_none_do_not_reach_the_wire<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Auto);
    let a = world.attach(0);
    let from = world[a].mac();
    let arp = {
        let mut frame = frames::plain(OUTSIDE, from, 60, 1);
        frame[12..14].copy_from_slice(&[8, 6]);
        frame
    };
    let icmp = {
        let mut frame = frames::transport(OUTSIDE, from, false, false, &[1; 100]);
        frame[23] = 1;
        frame
    };
    let truncated = {
        let mut frame = frames::transport(OUTSIDE, from, false, true, &[]);
        frame.truncate(50);
        frame
    };
    for frame in [arp, icmp, truncated] {
        let before = world[a].answers.len();
        world[a].send(&Outgoing::whole(&frame).with_flags(TxFlags::CSUM_BLANK));
        world.settle();
        assert_eq!(world.wire.take_frames(), [[0u8; 0]; 0]);
        assert_eq!(world[a].answers.len(), before + 1);
    }
    world.end();
}

/// Every length the wire takes, and back.
fn frames_go_out_and_come_in_unchanged<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Auto);
    let [a, b] = world.connected();
    let [mac_a, mac_b] = [a, b].map(|id| world[id].mac());
    // Of less than 17 bytes, some of which another guest gets as well, the card makes none.
    for len in (17..=1514).step_by(7).chain([14, 15, 1513, 1514]) {
        let out = frames::plain(OUTSIDE, mac_a, len, len as u64);
        world[a].send(&Outgoing::whole(&out));
        world.settle();
        assert_eq!(take_one(&world, len), out);
        let back = frames::plain(mac_a, OUTSIDE, len, len as u64 + 5);
        world.wire.inject(back.clone());
        world.settle();
        assert_eq!(world[a].received.pop().expect("it arrives").bytes, back);
    }
    // To the other guest and not to the wire, once its address is known anyway.
    world[a].send(&Outgoing::whole(&frames::plain(mac_b, mac_a, 100, 1)));
    world.settle();
    assert_eq!(world.wire.take_frames(), [[0u8; 0]; 0]);
    let known = world[b].received.len();
    assert_eq!(known, 2, "the first frame went everywhere, and this one");
    world.end();
}

/// More than a batch from the wire at once, to a guest and to all.
fn a_burst_from_the_wire_arrives_in_order<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Auto);
    let [a, b] = world.connected();
    let mac = world[a].mac();
    let burst: Vec<_> = (0..200).map(|n| frames::plain(mac, OUTSIDE, 60 + n, n as u64)).collect();
    burst.iter().for_each(|frame| world.wire.inject(frame.clone()));
    let broadcast = frames::plain(frames::BROADCAST, OUTSIDE, 300, 1);
    world.wire.inject(broadcast.clone());
    world.settle();
    let received: Vec<_> = world[a].received.iter().map(|packet| &packet.bytes).collect();
    assert_eq!(received, burst.iter().chain([&broadcast]).collect::<Vec<_>>());
    assert_eq!(world[b].received.len(), 1);
    assert_eq!(world[b].received[0].bytes, broadcast);
    world.check_at_rest();
    world.end();
}

/// T-4: the NIC takes nothing. Guests' pages go home at once, since it has copies;
/// what waits expires.
#[test]
fn a_wire_that_stalls_keeps_no_page() {
    let mut world = World::with(Holding::Private, Mode::Auto);
    let [a, b] = world.connected();
    world.wire.set_room(3);
    let mac = world[a].mac();
    for n in 0..50 {
        world[a].queue(&Outgoing::whole(&frames::plain(OUTSIDE, mac, 1000, n)));
    }
    world[a].kick();
    world.settle();
    assert_eq!(world[a].unanswered(), 0);
    assert_eq!(world.wire.take_frames().len(), 3);
    // Room again: the oldest goes first.
    world.wire.set_room(usize::MAX);
    world.settle();
    let sent = world.wire.take_frames();
    assert_eq!(sent.len(), 47);
    assert_eq!(sent[0], frames::plain(OUTSIDE, mac, 1000, 3));
    assert_eq!(world[b].received.len(), 50, "an unknown address is everybody's");
    world.wire.set_room(0);
    world[a].send(&Outgoing::whole(&frames::plain(OUTSIDE, mac, 1000, 1)));
    world.pass(Duration::from_millis(101));
    world.check_at_rest();
    world.wire.set_room(usize::MAX);
    world.settle();
    assert_eq!(world.wire.take_frames().len(), 0);
    world.end();
}

/// A NIC neither sends nor receives frames that two tags make longer than one does: they
/// are dropped where that is counted, and guests have them.
#[test]
fn a_frame_that_two_tags_make_too_long_for_the_wire_is_the_switchs_to_drop() {
    let mut world = World::new();
    let [a, b] =
        [0, 1].map(|guest| world.attach_with(guest, Manners::default(), &[("mtu", "9000")]));
    for (len, tags, passes) in
        [(9018, 1, true), (9018, 2, true), (9019, 2, false), (9022, 2, false)]
    {
        let mut frame = frames::plain(frames::BROADCAST, world[a].mac(), len, 1);
        for tag in 0..tags {
            frame[12 + 4 * tag..14 + 4 * tag].copy_from_slice(&[0x81, 0]);
        }
        let before = world.drops(DropReason::TooLong);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        assert_eq!(world[b].received.pop().expect("every guest takes it").bytes, frame);
        assert_eq!(world.wire.take_frames().len(), usize::from(passes), "{len} bytes");
        assert_eq!(world.drops(DropReason::TooLong) - before, u64::from(!passes));
    }
    world.end();
}

/// A plug that sits loosely is told of, and not for ever.
#[test]
fn a_link_that_comes_and_goes_does_not_fill_the_log() {
    let mut world = World::new();
    let flap = |world: &mut World, times| {
        let before = journal(Level::Info, "").len();
        for _ in 0..times {
            for link in [false, true] {
                world.wire.set_link(link);
                world.settle();
            }
        }
        journal(Level::Info, "").len() - before
    };
    assert!((1..10).contains(&flap(&mut world, 100)));
    world.pass(Duration::from_secs(60));
    assert_eq!(flap(&mut world, 1), 2, "told again");
    world.end();
}

/// Where the wire has no carrier, packets for it are dropped at its door, before anything
/// is copied or mapped for them, and what waits goes home.
#[test]
fn what_is_for_a_wire_without_carrier_is_dropped_at_the_door() {
    for mode in [Mode::Auto, Mode::Never] {
        let mut world = World::with(Holding::Mapped(Duration::from_secs(4)), mode);
        let a = world.attach(0);
        let mac = world[a].mac();
        world.wire.inject(frames::plain(mac, OUTSIDE, 60, 0));
        world.settle();
        let frames: Vec<_> = (0..5).map(|n| frames::plain(OUTSIDE, mac, 1400, n)).collect();
        let send = |world: &mut World, frames: &[Vec<u8>]| {
            for frame in frames {
                world[a].queue(&Outgoing::whole(frame));
            }
            world[a].kick();
            world.settle();
        };
        let no_carrier = |world: &World| world.drops(DropReason::NoCarrier);
        // Two wait for room in the ring.
        world.wire.hold(2);
        send(&mut world, &frames[..3]);
        let waiting = 3 - world.wire.held().len() as u64;
        world.wire.set_link(false);
        world.settle();
        assert_eq!(no_carrier(&world), waiting);
        while world.wire.complete() {}
        world.wire.take_frames();
        world.settle();
        world.check_at_rest();
        let (copies, maps) = (world.record(Kind::Copy), world.record(Kind::Map));
        send(&mut world, &frames);
        assert_eq!(no_carrier(&world), waiting + 5);
        assert_eq!(copies.borrow().len(), 5, "the headers");
        assert_eq!(maps.borrow().len(), 0);
        assert_eq!(world[a].unanswered(), 0);
        world.wire.set_link(true);
        world.wire.hold(64);
        send(&mut world, &frames);
        while world.wire.complete() {}
        assert_eq!(world.wire.take_frames(), frames);
        assert_eq!(no_carrier(&world), waiting + 5);
        world.end();
    }
}

/// O-10, T-4: what the device has stays as it is until the device has read it, or was
/// reset.
#[test]
fn what_the_device_has_is_kept_until_it_was_sent_or_the_device_reset() {
    let mut world = World::with(Holding::Private, Mode::Auto);
    let a = world.attach(0);
    let mac = world[a].mac();
    let frames: Vec<_> = (0..6).map(|n| frames::plain(OUTSIDE, mac, 1000, n)).collect();
    world.wire.hold(2);
    for frame in &frames[..4] {
        world[a].send(&Outgoing::whole(frame));
    }
    world.settle();
    assert_eq!(world.wire.held().len(), 2);
    let idle = world.network.pools().idle();
    assert!(world.wire.complete());
    assert_eq!(world.wire.take_frames(), frames[..1]);
    world.settle();
    assert_eq!(world.wire.held().len(), 2, "the third in its place");
    assert_eq!(world.network.pools().idle(), idle + 1);
    // One that was sent and two that were not; what waits is lost with the link.
    assert!(world.wire.complete());
    world.wire.stall();
    world[a].send(&Outgoing::whole(&frames[4]));
    world.settle();
    assert_eq!(world.wire.held().len(), 0);
    assert_eq!(world.wire.take_frames(), frames[1..2]);
    world.check_at_rest();
    world[a].send(&Outgoing::whole(&frames[5]));
    world.settle();
    assert!(world.wire.complete());
    assert!(!world.wire.complete());
    assert_eq!(world.wire.take_frames(), frames[5..]);
    world.end();
}

/// A bridge of another name is a network of its own.
#[test]
fn bridges_do_not_leak_into_each_other() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let inside = [("bridge", "internal")];
    let [c, d] = [2, 3].map(|guest| world.attach_with(guest, Manners::default(), &inside));
    let macs = [a, b, c, d].map(|id| world[id].mac());
    let send = |world: &mut World, from: Id, to: [u8; 6]| {
        let frame = frames::plain(to, world[from].mac(), 200, 1);
        world[from].send(&Outgoing::whole(&frame));
        world.settle();
    };
    let received =
        |world: &mut World| [a, b, c, d].map(|id| std::mem::take(&mut world[id].received).len());
    send(&mut world, c, frames::BROADCAST);
    assert_eq!(received(&mut world), [0, 0, 0, 1]);
    for to in [macs[0], macs[1], OUTSIDE] {
        send(&mut world, c, to);
        assert_eq!(received(&mut world), [0, 0, 0, 1], "an unknown address there");
    }
    send(&mut world, c, macs[3]);
    assert_eq!(received(&mut world), [0, 0, 0, 1]);
    assert_eq!(world.wire.take_frames().len(), 0, "none of it on the wire");
    send(&mut world, a, frames::BROADCAST);
    assert_eq!(received(&mut world), [0, 1, 0, 0]);
    send(&mut world, a, macs[3]);
    assert_eq!(received(&mut world), [0, 1, 0, 0]);
    assert_eq!(world.wire.take_frames().len(), 2);
    world.wire.inject(frames::plain(frames::BROADCAST, OUTSIDE, 100, 1));
    world.wire.inject(frames::plain(macs[2], OUTSIDE, 100, 1));
    world.settle();
    assert_eq!(received(&mut world), [2, 2, 0, 0]);
    // The same address on another bridge is another station.
    let twin = format!("00:16:3e:00:{:02x}:00", macs[0][4]);
    let e = world.attach_with(4, Manners::default(), &[inside[0], ("mac", &twin)]);
    assert!(world.is_connected(e));
    world.end();
}
