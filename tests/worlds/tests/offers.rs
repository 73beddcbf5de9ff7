//! Features that are not offered: who uses them all the same is refused or not heeded.

use worlds::{Id, Manners, Outgoing, World, frames};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags};

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const JUMBO: (&str, &str) = ("mtu", "65517");

/// Both get a packet of several slots from the other, and as it was sent.
fn exchange(world: &mut World, [a, b]: [Id; 2]) {
    for (from, to) in [(a, b), (b, a)] {
        let frame = frames::plain(world[to].mac(), world[from].mac(), 9000, 1);
        world.pass_on(from, to, &Outgoing::whole(&frame));
    }
}

fn write(world: &mut World, id: Id, key: &str, value: &str) {
    let path = format!("{}/{key}", world[id].vif().frontend_dir());
    let guest = world[id].vif().frontend;
    world.store.act(guest).write(&path, value).expect("its own");
}

/// F-11: a frontend asks for headroom, segments or multicast addresses. Nothing of that is
/// looked at, and its packets are as all others.
#[test]
fn f11_what_is_not_offered_is_not_heeded() {
    let mut world = World::new();
    let a = world.attach_with(0, Manners::default(), &[JUMBO]);
    for headroom in ["0", "256", "4096", "32767", "65535", "-1"] {
        let b = world.add(1, Manners::default(), &[JUMBO]);
        for feature in [
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-multicast-control",
            "feature-dynamic-multicast-control",
            "feature-xdp-headroom",
        ] {
            assert_eq!(world.own(a, feature), None);
        }
        for (key, value) in [
            ("xdp-headroom", headroom),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("request-multicast-control", "1"),
            ("queue-0/tx-ring-ref", "0"),
        ] {
            world[b].set_key(key, value);
        }
        world.settle();
        assert!(world.is_connected(b), "{headroom}: {:?}", world.error(b));
        exchange(&mut world, [a, b]);
        let audit = world.xen.audit();
        let (mappings, ports) = audit.of(world[b].guest.id());
        assert_eq!((mappings.len(), ports.len()), (2, 1), "two rings and their event channel");
        assert_eq!(world.detach(b), Ok(()));
    }
    world.end();
}

/// F-4, F-11: packets to be cut into segments, and with headroom, are refused, whatever they
/// say; their slots are answered, nothing of them goes anywhere, and the guest is served on.
#[test]
fn f4_f11_segmentation_is_refused_in_every_form() {
    const GSO: u8 = 1;
    const XDP: u8 = 5;
    let mut world = World::new();
    let [a, b] = world.connected();
    let [from, to] = [a, b].map(|id| world[id].mac());
    let mut packets = Vec::new();
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let whole = frames::transport(to, from, v6, tcp, &[3; 1200]);
        // With a header that is too short, one that is too long, and part of one.
        let shapes = [&[][..], &[(14, 0x41)], &[(46, 0x10)], &[(46, 0xf0)], &[(20, 0x20)]];
        packets.extend(shapes.map(|changes: &[(usize, u8)]| {
            let mut frame = whole.clone();
            changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
            frame
        }));
        packets.push(whole[..60].to_vec());
    }
    for frame in &packets {
        for flags in [TxFlags::empty(), TxFlags::CSUM_BLANK] {
            for size in [0u16, 1, 1448, u16::MAX] {
                for kind in [0, 1, 2, 3, 255] {
                    let [low, high] = size.to_ne_bytes();
                    let info = [GSO, XDP].map(|extra| {
                        let data = [low, high, kind, 0, 0, 0];
                        ExtraInfo::new(extra, ExtraFlags::empty(), data)
                    });
                    for extra in info {
                        let packet = Outgoing::whole(frame).with_flags(flags);
                        let ids = world[a].send(&packet.with_extras(&[extra]));
                        world.settle();
                        world.check_answers(a, &ids, Status::Error);
                    }
                }
            }
        }
    }
    assert_eq!((world[b].received.len(), world.wire.take_frames().len()), (0, 0));
    assert_eq!(world.error(a), None);
    let frame = frames::plain(to, from, 1000, 1);
    world.pass_on(a, b, &Outgoing::whole(&frame));
    world.end();
}

/// F-9: a frontend that is connected changes what it said of itself. It is served as it was;
/// what it says then counts when it connects the next time.
#[test]
fn f9_keys_that_change_once_connected() {
    let mut world = World::new();
    let ids = [0, 1].map(|guest| world.attach_with(guest, Manners::default(), &[JUMBO]));
    let evil = ids[0];
    let mappings = world.xen.audit().mappings;
    for (key, value) in [
        ("multi-queue-num-queues", "4"),
        ("multi-queue-num-queues", "0"),
        ("queue-0/tx-ring-ref", "1"),
        ("tx-ring-ref", "0"),
        ("rx-ring-ref", "x"),
        ("event-channel", "99"),
        ("request-rx-copy", "0"),
        ("feature-sg", "0"),
        ("feature-rx-notify", "0"),
    ] {
        write(&mut world, evil, key, value);
        // And says that it is connected, once more.
        write(&mut world, evil, "state", "4");
        world.settle();
        exchange(&mut world, ids);
        assert_eq!((world.is_connected(evil), world.error(evil)), (true, None), "{key}");
    }
    assert_eq!(world.xen.audit().mappings, mappings);
    world.restart(evil);
    assert!(!world.is_connected(evil));
    let error = world.error(evil).expect("no queue at all");
    assert!(error.contains("multi-queue-num-queues"), "{error}");
    let outside = frames::plain(OUTSIDE, world[ids[1]].mac(), 1000, 1);
    world[ids[1]].send(&Outgoing::whole(&outside));
    world.settle();
    assert_eq!(world.wire.take_frames(), [outside], "others go on");
    world.end();
}
