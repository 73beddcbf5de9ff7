//! F-3, F-4, F-8, F-9, F-11, S-5: features that are not offered. Who uses them all the same
//! is refused or not heeded.

use worlds::{Id, Manners, Outgoing, World, frames};
use xen::fake::Grant;
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxSlot};

use crate::harness::{
    Counted, JUMBO, MORE, NONE, SECOND, Setup, Told, attack, counters, page, request, show,
};

/// Both get a packet of several slots from the other, and as it was sent.
fn exchange(world: &mut World, [a, b]: [Id; 2]) {
    for (from, to) in [(a, b), (b, a)] {
        let frame = frames::plain(world[to].mac(), world[from].mac(), 9000, 1);
        world.pass_on(from, to, &Outgoing::whole(&frame));
    }
}

/// F-8, F-11, S-5 (XSA-270): a frontend asks for headroom, segments, a control ring, which
/// may be one of the others, or a filter. Nothing of that is looked at, let alone mapped,
/// and its packets are as all others.
#[test]
fn f_08_f_11_s_05_what_is_not_offered_is_not_heeded() {
    let setup = Setup { keys: &[JUMBO], interval: SECOND, ..Setup::default() };
    setup.attack("not offered", Told(0), |world, _| {
        let a = world.attach_with(2, Manners::default(), &[JUMBO]);
        for headroom in ["0", "256", "4096", "32767", "65535", "-1"] {
            for same in [false, true] {
                let b = world.add(1, Manners::default(), &[JUMBO]);
                let own = ["feature-gso-tcpv4", "feature-gso-tcpv6", "feature-multicast-control"];
                let others = [
                    "feature-dynamic-multicast-control",
                    "feature-xdp-headroom",
                    "feature-split-event-channels",
                    "multi-queue-max-queues",
                    "feature-ctrl-ring",
                ];
                for feature in own.into_iter().chain(others) {
                    assert_eq!(world.own(a, feature), None);
                }
                let guest = world[b].guest.clone();
                // Control requests whose offset and length wrap, and a producer that runs
                // away.
                let control = guest.add_page();
                guest.page(control).write_bytes(0, &[0xff; 4096]);
                let (granted, port) = (guest.grant(control, Grant::Writable), guest.open_port());
                let ring = if same { world[b].rings.tx_page.1 } else { granted };
                for (key, value) in [
                    ("xdp-headroom", headroom),
                    ("ctrl-ring-ref", &ring.0.to_string()),
                    ("event-channel-ctrl", &port.0.to_string()),
                    ("feature-gso-tcpv4", "1"),
                    ("feature-gso-tcpv6", "1"),
                    ("request-multicast-control", "1"),
                    ("queue-0/tx-ring-ref", "0"),
                ] {
                    world[b].set_key(key, value);
                }
                world.settle();
                assert!(world.is_connected(b), "{headroom}: {:?}", world.error(b));
                guest.notify(port);
                exchange(world, [a, b]);
                let audit = world.xen.audit();
                let (mappings, ports) = audit.of(guest.id());
                assert_eq!((mappings.len(), ports.len()), (2, 1), "two rings and one channel");
                assert!(guest.end_grant(granted));
                assert_eq!(world.detach(b), Ok(()));
            }
        }
    });
}

/// F-9: more queues than there are, none, or more than a number holds; before and after it
/// is connected.
#[test]
fn f_09_queues_that_were_not_offered() {
    let counts = ["0", "2", "9", "65535", "4294967296", "-1", ""];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("queues", Told(counts.len() + 1), |world, evil| {
        for count in counts {
            let b = world.add(1, Manners::default(), &[]);
            world[b].set_key("multi-queue-num-queues", count);
            world[b].set_key("queue-1/tx-ring-ref", "8");
            world.settle();
            let error = world.error(b).unwrap_or_else(|| panic!("{count}: no error"));
            assert!(error.contains("multi-queue-num-queues"), "{count}: {error}");
            assert_eq!(world.own(b, "state").as_deref(), Some("6"));
            assert_eq!(world.detach(b), Ok(()));
        }
        // One that is served says it later, which counts when it connects the next time.
        let path = format!("{}/multi-queue-num-queues", world[evil].vif().frontend_dir());
        let guest = world[evil].vif().frontend;
        let mappings = world.xen.audit().mappings;
        world.store.act(guest).write(&path, "4").expect("its own");
        world.set_front(evil, "4");
        world.settle();
        assert_eq!((world.is_connected(evil), world.error(evil)), (true, None));
        assert_eq!(world.xen.audit().mappings, mappings);
        world.restart(evil);
        let error = world.error(evil).expect("one queue was offered");
        assert!(error.contains("multi-queue-num-queues"), "{error}");
    });
}

/// Extra info by its type and flags.
type Extras = &'static [(u8, ExtraFlags)];

/// F-3: extra info that exists and was not offered: filters of addresses, as many as a packet
/// may have, a hash twice, headroom of what is sent, and a list that goes on with the data.
#[test]
fn f_03_extras_that_were_not_offered() {
    const MORE_INFO: ExtraFlags = ExtraFlags::MORE;
    const LAST: ExtraFlags = ExtraFlags::empty();
    let cases: [(&str, Extras, TxFlags); 7] = [
        ("MCAST_ADD", &[(2, LAST)], NONE),
        ("MCAST_DEL", &[(3, LAST)], NONE),
        ("MCAST_ADD with data", &[(2, LAST)], MORE),
        ("XDP", &[(5, LAST)], NONE),
        ("a hash twice", &[(4, MORE_INFO), (4, LAST)], NONE),
        (
            "all of them",
            &[(1, MORE_INFO), (2, MORE_INFO), (3, MORE_INFO), (4, MORE_INFO), (5, LAST)],
            NONE,
        ),
        (
            "all of them, with data",
            &[(1, MORE_INFO), (2, MORE_INFO), (3, MORE_INFO), (4, MORE_INFO), (5, LAST)],
            MORE,
        ),
    ];
    for (name, extras, flags) in cases {
        attack(name, Counted, |world, evil| {
            let gref = page(world, evil);
            let first = request(gref, 0, flags | TxFlags::EXTRA_INFO, 1000);
            let mut slots = vec![first];
            let info = extras
                .iter()
                .map(|(kind, flags)| ExtraInfo::new(*kind, *flags, [1, 0, 0x5e, 0, 0, 1]));
            slots.extend(info.map(TxSlot::from));
            slots.extend((flags == MORE).then(|| request(gref, 0, NONE, 100)));
            answered(world, evil, &slots, extras.len());
        });
    }
}

/// Shows slots, the second and so many further of which are extra info, and sees the others
/// answered with an error, and those with nothing (P-15).
fn answered(world: &mut World, evil: Id, slots: &[TxSlot], extras: usize) {
    world.settle();
    let before = counters(world).tx;
    show(world, evil, slots);
    world.settle();
    let answers = std::iter::from_fn(|| world[evil].rings.tx.take()).map(|answer| answer.status);
    let (null, error) = (Status::Null as i16, Status::Error as i16);
    let expected = (0..slots.len()).map(|n| if (1..=extras).contains(&n) { null } else { error });
    assert!(answers.eq(expected), "one response a slot");
    let now = counters(world).tx;
    assert_eq!((now.packets, now.refused), (before.packets, before.refused + 1));
}

/// F-4, F-11: packets to be cut into segments, and with headroom, are refused, whatever they
/// say; their slots are answered, nothing of them goes anywhere, and the guest is served on.
#[test]
fn f_04_f_11_segmentation_is_refused_in_every_form() {
    const GSO: u8 = 1;
    const XDP: u8 = 5;
    attack("segments", Counted, |world, a| {
        world[a].hands_off = false;
        world.settle();
        world[a].answers.clear();
        let b = world.attach(1);
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
        let kinds =
            [GSO, XDP].into_iter().flat_map(|extra| [0, 1, 2, 3, 255].map(|kind| (extra, kind)));
        let extras: Vec<_> = kinds
            .flat_map(|(extra, kind)| [0u16, 1, 1448, u16::MAX].map(|size| (extra, kind, size)))
            .map(|(extra, kind, size)| {
                let [low, high] = size.to_ne_bytes();
                ExtraInfo::new(extra, ExtraFlags::empty(), [low, high, kind, 0, 0, 0])
            })
            .collect();
        for frame in &packets {
            for flags in [TxFlags::empty(), TxFlags::CSUM_BLANK] {
                for extra in &extras {
                    let packet = Outgoing::whole(frame).with_flags(flags);
                    let ids = world[a].send(&packet.with_extras(&[*extra]));
                    world.settle();
                    world.check_answers(a, &ids, Status::Error);
                }
            }
        }
        assert_eq!((world[b].received.len(), world.wire.take_frames().len()), (0, 0));
    });
}
