//! What no bridge forwards: told to the operator, at nobody's cost.

use std::time::Duration;

use drivers::netback::{Progress, Urgency, VifHost, VifId};
use drivers::report::Report;
use kernel::switch::{DropReason, SlowPath};
use proptest::prelude::*;
use worlds::trials::trials;
use worlds::{Id, Level, Outgoing, Received, World, frames, journal};
use xen::ring::Word;

const MILLISECOND: Duration = Duration::from_millis(1);
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

/// A frame for bridges: its header's last two bytes, and what begins the rest.
fn control(last: u8, from: [u8; 6], kind: [u8; 2], begin: &[u8]) -> Vec<u8> {
    let mut to = NEAREST_BRIDGE;
    to[5] = last;
    let mut frame = frames::plain(to, from, 200, 5);
    frame[12..14].copy_from_slice(&kind);
    frame[14..14 + begin.len()].copy_from_slice(begin);
    frame
}

/// An LLDP frame of these TLVs.
fn lldp(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = [&NEAREST_BRIDGE[..], &OUTSIDE, &[0x88, 0xcc]].concat();
    for (kind, value) in tlvs {
        frame.extend((u16::from(*kind) << 9 | value.len() as u16).to_be_bytes());
        frame.extend(*value);
    }
    frame
}

/// A switch's announcement.
fn announcement(port: &str, name: &str, seconds: u16) -> Vec<u8> {
    let port = [b"\x05", port.as_bytes()].concat();
    let chassis = b"\x04\x00\x1b\x21\x00\x00\x01";
    lldp(&[(1, chassis), (2, &port), (3, &seconds.to_be_bytes()), (5, name.as_bytes()), (0, b"")])
}

/// The same frame from somebody else.
fn sent_by(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

fn counted(world: &World, reason: DropReason) -> u64 {
    let (_, switch) = world.network.switches().iter().next().expect("a bridge");
    switch.ports().map(|(_, counters)| counters[reason]).sum()
}

/// Many slots for few bytes each: so many pages, and few enough bytes to be copied.
fn in_pages(frame: &[u8]) -> Outgoing {
    let rest = (frame.len() - 200) as u16;
    Outgoing::cut(frame, vec![(0, 200), (7, rest / 2), (9, rest - rest / 2)])
}

/// F-10: who sends from whose address, once for each, and no longer once that is its
/// own.
#[test]
fn forgers_are_told_once() {
    let mut world = World::new();
    let [a, b, c] = world.connected();
    let [mac_a, mac_b] = [a, b].map(|id| world[id].mac());
    for _ in 0..100 {
        for from in [a, c] {
            let frame = frames::plain(frames::BROADCAST, mac_b, 100, 1);
            world[from].send(&Outgoing::whole(&frame));
        }
        world.wire.inject(frames::plain(frames::BROADCAST, mac_a, 100, 1));
        world.pass(100 * MILLISECOND);
    }
    assert_eq!(counted(&world, DropReason::Forged), 300);
    let lines = journal(Level::Warn, "");
    let expected = [
        "uplink: sends from 00:16:3e:00:0a:00, which is vif10.0's; dropped",
        "vif10.0: sends from 00:16:3e:00:0b:00, which is vif11.0's; dropped",
        "vif12.0: sends from 00:16:3e:00:0b:00, which is vif11.0's; dropped",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    assert!(expected.iter().all(|line| lines.iter().any(|it| it == line)), "{lines:?}");
    world.end();
}

/// However many addresses a guest sends from, and however often it comes back.
#[test]
fn forgers_do_not_fill_the_log() {
    let mut world = World::new();
    let evil = world.attach(0);
    let others: [Id; 12] = std::array::from_fn(|_| world.attach(1));
    let forge = |world: &mut World| {
        for other in others {
            let frame = frames::plain(frames::BROADCAST, world[other].mac(), 100, 1);
            world[evil].queue(&Outgoing::whole(&frame));
        }
        world[evil].kick();
    };
    let lines = || journal(Level::Warn, "sends from").len();
    for _ in 0..20 {
        forge(&mut world);
        world.pass(1000 * MILLISECOND);
    }
    assert_eq!(lines(), 8, "a few of the twelve");
    let start = world.now();
    for _ in 0..20 {
        world.restart(evil);
        for _ in 0..10 {
            forge(&mut world);
            world.settle();
        }
    }
    let seconds = world.now().since(start).as_secs() as usize;
    assert!((9..=8 + 8 + seconds).contains(&lines()), "{} lines in {seconds} s", lines());
    assert_eq!(counted(&world, DropReason::Forged), 10 * 12, "since it came back");
    world.end();
}

/// A guest takes part in bridges' protocols: told once, and in which.
#[test]
fn control_frames_are_told_by_their_kind() {
    let cases: [(u8, [u8; 2], &[u8], &str); 8] = [
        (0, [0, 38], &[0x42, 0x42, 3], "spanning tree"),
        (0, [5, 0xdc], &[0xaa, 0xaa, 3], "LLC"),
        (1, [0x88, 0x08], &[0, 1], "pause"),
        (2, [0x88, 0x09], &[1], "LACP"),
        (2, [0x88, 0x09], &[3], "ethertype 0x8809"),
        (3, [0x88, 0x8e], &[], "802.1X"),
        (14, [0x88, 0xcc], &[], "LLDP"),
        (15, [0x12, 0x34], &[], "ethertype 0x1234"),
    ];
    for (last, kind, begin, words) in cases {
        let mut world = World::new();
        let [a, b] = world.connected();
        let frame = control(last, world[a].mac(), kind, begin);
        for packet in [Outgoing::whole(&frame), in_pages(&[frame, vec![0; 900]].concat())] {
            world[a].send(&packet);
            world.settle();
        }
        let expected = format!("vif10.0: sends bridge control frames ({words}); dropped");
        assert_eq!(journal(Level::Info, "control frames"), [expected]);
        assert_eq!(counted(&world, DropReason::Reserved), 2);
        assert_eq!((world[b].received.len(), world.wire.take().len()), (0, 0));
        world.end();
    }
}

/// Two honest guests, and what each got of the other while the third is busy.
fn among_others(mut act: impl FnMut(&mut World, Id)) -> (World, [Vec<Received>; 2]) {
    let mut world = World::new();
    let [evil, a, b] = world.connected();
    for round in 0..20 {
        for (from, to) in [(a, b), (b, a)] {
            for n in 0..3 {
                let len = 60 + 30 * round + 400 * n;
                let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
                world[from].queue(&Outgoing::whole(&frame));
            }
            world[from].kick();
        }
        for _ in 0..10 {
            act(&mut world, evil);
            world.rounds(1);
        }
        world.pass(10 * MILLISECOND);
    }
    let received = [a, b].map(|id| std::mem::take(&mut world[id].received));
    (world, received)
}

/// A guest floods what goes to the slow path, with payload in many pages, as fast as
/// its ring takes it: nobody else's packet is a moment later, its pages do not stay,
/// and the log has a line for each thing it did.
#[test]
fn a_flood_disturbs_nobody() {
    let (calm, expected) = among_others(|_, _| ());
    assert_eq!(expected.each_ref().map(Vec::len), [60, 60]);
    calm.end();
    let mut fullest = 0;
    let (world, received) = among_others(|world, evil| {
        let [mac, other] = [evil, evil + 1].map(|id| world[id].mac());
        let forged = frames::plain(frames::BROADCAST, other, 1500, 1);
        let reserved = control(0, mac, [0, 38], &[0x42, 0x42]);
        let reserved = [reserved, vec![0; 1500]].concat();
        while world[evil].rings.tx.free() >= 6 {
            world[evil].queue(&in_pages(&forged));
            world[evil].queue(&in_pages(&reserved));
        }
        world[evil].kick();
        fullest = fullest.max(world.network.switches().slow_path().len());
    });
    assert!(received == expected, "others were affected");
    assert!(fullest > 0 && fullest < SlowPath::PLACES, "{fullest} of one guest");
    let slow = world.network.switches().slow_path().counters();
    assert!(slow.sent.packets > 100 && slow[DropReason::QueueFull] > 1000, "{slow:?}");
    let lines = journal(Level::Info, "dropped");
    assert_eq!(lines.len(), 2, "{lines:?}");
    let report = Report(&world.network).to_string();
    assert!(report.contains(&format!("queue-full {}", slow[DropReason::QueueFull])), "{report}");
    world.end();
}

/// O-4, O-8: the pages of what waits in the slow path are back in the very turn in
/// which it came; and a flood in front of another guest's frame does not hide that one.
#[test]
fn pages_come_back_at_once_and_others_are_heard() {
    let mut world = World::new();
    let [evil, b] = world.connected();
    let [mac, other] = [evil, b].map(|id| world[id].mac());
    let answered = |world: &World| world[evil].rings.tx.word(Word::ResponseProducer);
    let before = answered(&world);
    for n in 0..64 {
        let frame = match n % 2 {
            0 => frames::plain(frames::BROADCAST, other, 1500, 1),
            _ => [control(14, mac, [0x88, 0xcc], &[]), vec![0; 1500]].concat(),
        };
        world[evil].queue(&in_pages(&frame));
    }
    world[evil].kick();
    let copies = world.xen.counts().copies;
    let frame = control(0, other, [0, 38], &[0x42, 0x42]);
    world[b].send(&Outgoing::whole(&frame));
    assert!(world.step());
    assert_eq!(world.network.pools().tracker.counters().holds, 0);
    assert_eq!(answered(&world).wrapping_sub(before), 3 * 64);
    // All headers, and the payload of those reserved ones that got in.
    assert_eq!(world.xen.counts().copies - copies, 64 + 16 * 3 + 1 + 1);
    assert_eq!(world.network.switches().slow_path().len(), 32 + 1 - 16, "a few a turn");
    world.settle();
    assert_eq!(world.network.switches().slow_path().len(), 0);
    assert_eq!(journal(Level::Info, "vif11.0: sends bridge control frames").len(), 1);
    world.end();
}

/// What a guest left there when it went is nobody's any more.
#[test]
fn what_a_gone_guest_sent_is_passed_over() {
    let mut world = World::new();
    let [evil, b] = world.connected();
    let [mac, other] = [evil, b].map(|id| world[id].mac());
    for n in 0..32 {
        let frame = match n {
            ..16 => control(14, mac, [0x88, 0xcc], &[]),
            // The gone guest is not the wire.
            16 => sent_by(mac, announcement("Gi1/0/7", "sw1", 120)),
            _ => frames::plain(frames::BROADCAST, other, 100, 1),
        };
        world[evil].queue(&Outgoing::whole(&frame));
    }
    world[evil].kick();
    assert!(world.step());
    assert_eq!(world.network.switches().slow_path().len(), 16);
    let vif = VifId { frontend: world[evil].vif().frontend, handle: 0 };
    let now = world.now();
    assert_eq!(world.network.disconnect(vif, Urgency::Patient, now), Progress::Finished);
    world.settle();
    assert_eq!(world.network.switches().slow_path().len(), 0);
    assert_eq!(journal(Level::Info, "control frames").len(), 1);
    assert_eq!(journal(Level::Info, "connected to"), [""; 0]);
    assert_eq!(journal(Level::Warn, ""), [""; 0]);
    world.end();
}

/// A switch that says who it is: told when it is new, shown while it says so.
#[test]
fn the_neighbour_is_told_once_and_shown() {
    let mut world = World::new();
    let a = world.attach(0);
    let told = || journal(Level::Info, "connected to");
    let shown = |world: &World| {
        let report = Report(&world.network).to_string();
        report.lines().find(|line| line.contains("connected to")).map(str::to_owned)
    };
    assert_eq!(shown(&world), None);
    // Not from a guest, not to bridges further away, and nothing else.
    let announced = announcement("Gi1/0/7", "sw1", 120);
    let from_guest = sent_by(world[a].mac(), announced.clone());
    world[a].send(&Outgoing::whole(&from_guest));
    let mut further = announced.clone();
    further[5] = 0;
    world.wire.inject(further);
    let mut other = announced.clone();
    other[13] = 0xcd;
    world.wire.inject(other);
    world.settle();
    assert_eq!((told(), shown(&world)), (vec![], None));
    let first = "uplink: connected to port \"Gi1/0/7\" of \"sw1\", chassis 00:1b:21:00:00:01";
    for _ in 0..5 {
        world.wire.inject(announced.clone());
        world.pass(Duration::from_secs(30));
        assert_eq!((told(), shown(&world).as_deref()), (vec![first.into()], Some(first)));
    }
    // It moved, and says so; then says nothing any more.
    world.wire.inject(announcement("Gi1/0/8", "sw1", 120));
    world.pass(Duration::from_secs(119));
    let second = first.replace("/7", "/8");
    assert_eq!((told().len(), shown(&world)), (2, Some(second.clone())));
    world.pass(Duration::from_secs(2));
    assert_eq!(shown(&world), None);
    world.wire.inject(announcement("Gi1/0/8", "sw1", 120));
    world.settle();
    assert_eq!((told().len(), shown(&world)), (2, Some(second.clone())), "as before");
    // It takes its leave, and comes back.
    world.wire.inject(lldp(&[(1, b"\x04\x00\x1b\x21\x00\x00\x01"), (2, b"\x05x"), (3, b"\0\0")]));
    world.settle();
    assert_eq!(shown(&world), None);
    world.wire.inject(announcement("Gi1/0/8", "sw1", 120));
    world.settle();
    assert_eq!((told().len(), shown(&world)), (3, Some(second)));
    assert_eq!(world[a].received, [], "no bridge forwards it");
    world.end();
}

/// A wire on which every frame is from another switch.
#[test]
fn neighbours_do_not_fill_the_log() {
    let mut world = World::new();
    let a = world.attach(0);
    for n in 0..1000 {
        world.wire.inject(announcement(&format!("Gi1/0/{n}"), "sw1", 120));
        let frame = frames::plain(world[a].mac(), OUTSIDE, 100, n);
        world.wire.inject(frame);
    }
    world.settle();
    assert_eq!(world[a].received.len(), 1000);
    assert_eq!(journal(Level::Info, "connected to").len(), 8);
    // Nor does it use up what is there for guests.
    let frame = control(0, world[a].mac(), [0, 38], &[0x42, 0x42]);
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    assert_eq!(journal(Level::Info, "control frames").len(), 1);
    world.end();
}

proptest! {
    #![proptest_config(trials(64))]

    /// Whatever comes from the wire for bridges, and whatever a guest sends there: what
    /// is told of it is printable and little, and the others' packets pass.
    #[test]
    fn garbage_for_bridges_harms_nothing(
        garbage in prop::collection::vec(
            (
                any::<bool>(),
                0u8..16,
                any::<bool>(),
                prop::collection::vec((0u8..9, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
                prop::collection::vec(any::<u8>(), 0..80),
            ),
            1..40,
        )
    ) {
        let mut world = World::new();
        let [a, b] = world.connected();
        for (round, (wire, last, headed, tlvs, tail)) in garbage.into_iter().enumerate() {
            let mut frame = announcement("1", "sw", 120);
            // Without the end that would hide the rest.
            frame.truncate(if headed { frame.len() - 2 } else { 14 });
            let tlvs: Vec<_> = tlvs.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            frame.extend(&lldp(&tlvs)[14..]);
            frame.extend(tail);
            frame[5] = if wire { 0x0e } else { last };
            if wire {
                world.wire.inject(frame);
            } else {
                let frame = sent_by(world[a].mac(), frame);
                world[a].send(&Outgoing::whole(&frame));
            }
            let good = frames::plain(world[b].mac(), world[a].mac(), 300, round as u64);
            world[a].send(&Outgoing::whole(&good));
            world.settle();
            prop_assert_eq!(&world[b].received.pop().expect("it arrives").bytes, &good);
        }
        for line in journal(Level::Info, "") {
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", line);
            prop_assert!(line.len() < 900, "{}", line);
        }
        prop_assert!(journal(Level::Info, "control frames").len() <= 1);
        prop_assert!(journal(Level::Info, "connected to").len() <= 8);
        world.check_at_rest();
        world.end();
    }
}
