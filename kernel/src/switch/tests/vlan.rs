//! Bridges with VLANs: who gets which frames, and in which form.

use super::*;

/// A frame with these tags' types and contents between its addresses and its type.
fn tagged(destination: [u8; 6], source: [u8; 6], tags: &[(u16, u16)], len: usize) -> Vec<u8> {
    let plain = frame(destination, source, len);
    let tags = tags.iter().flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()]);
    [&plain[..12], &tags.flatten().collect::<Vec<_>>(), &plain[12..]].concat()
}

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

fn config_in(guest: u8, vlans: &str) -> PortConfig {
    let vlans = vlans.parse().map(Box::new).unwrap();
    PortConfig { vlans: Some(vlans), ..config(Some(guest_mac(guest))) }
}

fn uplink() -> PortConfig {
    PortConfig { kind: PortKind::Uplink, addresses: 64, tags: 1, ..config(None) }
}

/// A world with an uplink and ports of these VLANs for guests 0, 1, …; of none where the
/// text is empty.
fn world<const N: usize>(vlans: [&str; N]) -> (World, PortId, [PortId; N]) {
    let mut world = World::new();
    let uplink = world.join("xenbr0", uplink());
    let mut guest = 0;
    let ports = vlans.map(|vlans| {
        let port = match vlans {
            "" => config(Some(guest_mac(guest))),
            vlans => config_in(guest, vlans),
        };
        guest += 1;
        world.join("xenbr0", port)
    });
    (world, uplink, ports)
}

/// In which form a port got a broadcast frame: its tags' contents.
fn got_tags(world: &mut World, port: PortId) -> Option<Vec<u16>> {
    let frames = world.got(port);
    assert!(frames.len() <= 1, "once");
    let frame = frames.into_iter().next()?;
    let mut tags = Vec::new();
    while frame[12 + 4 * tags.len()..][..2] == C_TAG.to_be_bytes() {
        let at = 14 + 4 * tags.len();
        tags.push(u16::from_be_bytes([frame[at], frame[at + 1]]));
    }
    let rest = &frame[12 + 4 * tags.len()..];
    let plain = super::frame(BROADCAST, [0; 6], rest.len() + 12);
    assert_eq!(rest, &plain[12..], "the rest is as it was");
    assert_eq!(frame[..6], BROADCAST);
    Some(tags)
}

fn vlan_drops(world: &World, port: PortId) -> u64 {
    world.counters(port)[DropReason::Vlan]
}

/// Every way in, and in which form the frame leaves by every port.
#[test]
fn who_gets_which_broadcast_in_which_form() {
    // By port: an access port of VLAN 10, one that has 10 and 20 tagged with 30 as PVID,
    // one with two untagged ones, and one for which nothing is configured.
    let vlans = ["10", "30p/10/20", "20p/10u", ""];
    let none: Option<&[u16]> = None;
    let untagged: Option<&[u16]> = Some(&[]);
    // From which port (4 is the uplink), with which tags; what the ports get, the uplink
    // last; `Err` where the frame is dropped.
    type Case<'a> = (usize, &'a [u16], Result<[Option<&'a [u16]>; 5], ()>);
    let cases: [Case<'_>; 17] = [
        (0, &[], Ok([none, Some(&[10]), untagged, none, Some(&[10])])),
        (0, &[10], Ok([none, Some(&[10]), untagged, none, Some(&[10])])),
        (0, &[0xe000], Ok([none, Some(&[0xe00a]), untagged, none, Some(&[0xe00a])])),
        (0, &[20], Err(())),
        (0, &[1], Err(())),
        (0, &[0xfff], Err(())),
        (1, &[], Ok([none, none, none, none, Some(&[30])])),
        (1, &[0x300a], Ok([untagged, none, untagged, none, Some(&[0x300a])])),
        (1, &[20], Ok([none, none, untagged, none, Some(&[20])])),
        (1, &[40], Err(())),
        (2, &[], Ok([none, Some(&[20]), none, none, Some(&[20])])),
        (3, &[], Ok([none, none, none, none, untagged])),
        (3, &[10], Err(())),
        (4, &[], Ok([none, none, none, untagged, none])),
        (4, &[1], Ok([none, none, none, untagged, none])),
        (4, &[10], Ok([untagged, Some(&[10]), untagged, none, none])),
        (4, &[0xfff], Err(())),
    ];
    for (from, tags, expected) in cases {
        for pages in [false, true] {
            let (mut world, uplink, ports) = world(vlans);
            let ports = [ports[0], ports[1], ports[2], ports[3], uplink];
            let source = guest_mac(if from == 4 { 9 } else { from as u8 });
            let tags: Vec<_> = tags.iter().map(|tag| (C_TAG, *tag)).collect();
            let bytes = tagged(BROADCAST, source, &tags, 100);
            if pages {
                let packet = world.lent(0, &bytes, 40, 30);
                world.forward(ports[from], packet);
                world.flush();
            } else {
                world.send(ports[from], &bytes);
            }
            let got: [_; 5] = core::array::from_fn(|to| got_tags(&mut world, ports[to]));
            let found = (got, vlan_drops(&world, ports[from]));
            let wanted = match expected {
                Ok(wanted) => (wanted.map(|tags| tags.map(<[u16]>::to_vec)), 0),
                Err(()) => (Default::default(), 1),
            };
            assert_eq!(found, wanted, "{tags:x?} from {from}");
            let nowhere = expected.is_ok_and(|all| all.iter().all(Option::is_none));
            assert_eq!(world.counters(ports[from])[DropReason::Nowhere], nowhere.into());
            world.end();
        }
    }
}

#[test]
fn without_vlans_tags_are_payload() {
    let (mut world, uplink, [a, b]) = world(["", ""]);
    for tags in [&[(C_TAG, 10)][..], &[(C_TAG, 0xfff)], &[(C_TAG, 1), (C_TAG, 20)]] {
        let bytes = tagged(BROADCAST, guest_mac(0), tags, 60);
        world.send(a, &bytes);
        assert_eq!(world.got(b), slice::from_ref(&bytes));
        assert_eq!(world.got(uplink), [bytes]);
    }
    world.end();
}

#[test]
fn a_known_station_gets_its_frames_in_its_form_or_not_at_all() {
    let (mut world, uplink, [access, trunk, other]) = world(["10", "20p/10", "20"]);
    let (to, from) = (guest_mac(1), guest_mac(0));
    world.send(access, &frame(to, from, 60));
    assert_eq!(world.got(trunk), [tagged(to, from, &[(C_TAG, 10)], 60)]);
    world.send(trunk, &tagged(from, to, &[(C_TAG, 0x200a)], 60));
    assert_eq!(world.got(access), [frame(from, to, 60)]);
    // In a VLAN that it is not in: nobody else can be that station either.
    world.send(trunk, &frame(from, to, 60));
    assert_eq!(vlan_drops(&world, access), 1);
    world.send(other, &frame(from, guest_mac(2), 60));
    assert_eq!(vlan_drops(&world, access), 2);
    for port in [uplink, access, trunk, other] {
        assert_eq!(world.got(port).len(), 0);
    }
    world.end();
}

#[test]
fn an_address_is_learnt_in_each_vlan_by_itself() {
    let (mut world, uplink, [a, b, c]) = world(["10", "10p/20", "20"]);
    let station = [2, 0, 0, 0, 0, 1];
    // It is outside in VLAN 20, and behind a guest in VLAN 10.
    world.send(uplink, &tagged(BROADCAST, station, &[(C_TAG, 20)], 60));
    world.send(b, &frame(BROADCAST, station, 60));
    for port in [uplink, a, b, c] {
        world.got(port);
    }
    world.send(a, &frame(station, guest_mac(0), 60));
    assert_eq!((world.got(b).len(), world.got(uplink).len()), (1, 0));
    world.send(c, &frame(station, guest_mac(2), 60));
    assert_eq!((world.got(b).len(), world.got(uplink).len()), (0, 1));
    assert_eq!(world.bridge().learnt, 2);
    // A frame that is not let in teaches nothing.
    world.send(c, &tagged(BROADCAST, [2, 0, 0, 0, 0, 2], &[(C_TAG, 10)], 60));
    assert_eq!(world.bridge().learnt, 2);
    // A guest's own address is its own in every VLAN.
    world.send(uplink, &tagged(BROADCAST, guest_mac(0), &[(C_TAG, 20)], 60));
    assert_eq!(world.counters(uplink)[DropReason::Forged], 1);
    world.end();
}

/// With the first port that has VLANs all have, and with the last such one none.
#[test]
fn vlans_come_and_go_with_the_ports_that_have_them() {
    let (mut world, uplink, [a, b]) = world(["", ""]);
    let station = [2, 0, 0, 0, 0, 1];
    let tag = tagged(BROADCAST, guest_mac(0), &[(C_TAG, 7)], 60);
    world.send(uplink, &frame(BROADCAST, station, 60));
    world.send(a, &tag);
    assert_eq!((world.got(b).len(), vlan_drops(&world, a)), (2, 0));
    let c = world.join("xenbr0", config_in(2, "7"));
    world.send(a, &tag);
    assert_eq!((world.got(b).len(), vlan_drops(&world, a)), (0, 1));
    // What was learnt before was learnt in no VLAN.
    world.got(uplink);
    world.send(a, &frame(station, guest_mac(0), 60));
    assert_eq!((world.got(b).len(), world.got(uplink).len()), (1, 1));
    world.switches.leave(c, &mut world.pools);
    world.fars.0.remove(&c);
    world.send(a, &tag);
    assert_eq!((world.got(b).len(), vlan_drops(&world, a)), (1, 1));
    // Nor is it known again: meanwhile the station may have moved.
    world.got(uplink);
    world.send(a, &frame(station, guest_mac(0), 60));
    assert_eq!((world.got(b).len(), world.got(uplink).len()), (1, 1));
    world.end();
}

/// O-5: the header that others look at as well is left as it is, and there is one copy for
/// all that want it otherwise.
#[test]
fn o5_a_shared_header_is_copied_once() {
    let (mut world, uplink, [a, b, c, d]) = world(["10", "10", "20p/10", "30p/10"]);
    for port in [uplink, b, c, d] {
        world.far(port).budget = 0;
    }
    let bytes = frame(BROADCAST, guest_mac(0), 1000);
    let packet = world.lent(0, &bytes, 64, 500);
    world.forward(a, packet);
    assert_eq!(world.pools.idle(), PACKETS - 4);
    assert_eq!(world.pools.buffers.free(Size::Small), 40 * 16 - 2, "two headers");
    assert_eq!(world.pools.buffers.free(Size::Large), 100 * 2);
    world.flush();
    for port in [uplink, b, c, d] {
        world.far(port).budget = 1;
        world.switches.wake(port);
    }
    world.flush();
    assert_eq!(world.got(b), slice::from_ref(&bytes));
    for port in [uplink, c, d] {
        let tagged = tagged(BROADCAST, guest_mac(0), &[(C_TAG, 10)], 1000);
        assert_eq!(world.got(port), [tagged]);
    }
    assert_eq!(world.responses(0), [0, 0]);
    world.end();
}

#[test]
fn a_header_of_its_own_is_changed_where_it_is() {
    let (mut world, uplink, [a]) = world(["10"]);
    world.far(uplink).budget = 0;
    world.send(a, &frame(BROADCAST, guest_mac(0), 100));
    assert_eq!(world.pools.buffers.free(Size::Small), 40 * 16 - 1);
    assert_eq!(world.pools.idle(), PACKETS - 1);
    world.end();
}

/// A frame that lies where there is no room before it, and one that there is no buffer for.
#[test]
fn a_header_without_room_moves_or_is_lost() {
    let (mut world, uplink, [a, b]) = world(["10", "10"]);
    for (free, lost) in [(1, false), (0, true)] {
        let mut packet = world.private(&frame(BROADCAST, guest_mac(0), 100));
        let linear = packet.linear.as_mut().unwrap();
        let cell = world.pools.buffers.bytes_mut(&mut linear.buffer).unwrap();
        cell.copy_within(20..120, 3);
        linear.offset = 3;
        let count = world.pools.buffers.free(Size::Small) - free;
        let taken: Vec<_> =
            (0..count).filter_map(|_| world.pools.buffers.take(Size::Small)).collect();
        world.forward(a, packet);
        taken.into_iter().for_each(|buffer| world.pools.buffers.give(buffer));
        world.flush();
        assert_eq!(world.got(b), [frame(BROADCAST, guest_mac(0), 100)]);
        assert_eq!(world.got(uplink).len(), usize::from(!lost));
        assert_eq!(world.counters(uplink)[DropReason::Exhausted], lost.into());
    }
    world.end();
}

/// A long frame from a NIC fills its buffers from their start: the headers get a buffer of
/// their own, and the rest stays where it is, if it can be named.
#[test]
fn a_frame_that_fills_its_buffers_is_tagged() {
    let mut world = World::new();
    let uplink = world.join("xenbr0", uplink());
    let trunk = world.join("xenbr0", PortConfig { mtu: 9000, ..config_in(0, "20p/1") });
    let bytes = frame(guest_mac(0), [2, 0, 0, 0, 0, 1], 9014);
    let large = Size::Large.bytes();
    for (piece, lost) in [(large, false), ((9014 - large) / (MAX_FRAGMENTS - 1), true)] {
        let (first, rest) = bytes.split_at(large);
        let mut packet = world.pools.take().unwrap();
        packet.linear = Some(Linear { buffer: world.buffer(first), offset: 0, len: large as u16 });
        for bytes in rest.chunks(piece) {
            let fragment = Fragment::own(world.buffer(bytes), 0, bytes.len() as u16);
            packet.fragments.push(fragment).unwrap();
        }
        assert_eq!(packet.fragments.is_full(), lost);
        world.forward(uplink, packet);
        world.flush();
        let sent = tagged(guest_mac(0), [2, 0, 0, 0, 0, 1], &[(C_TAG, 1)], 9014);
        assert_eq!(world.got(trunk), if lost { vec![] } else { vec![sent] });
        assert_eq!(world.counters(trunk)[DropReason::Exhausted], lost.into());
    }
    world.end();
}

/// From a VLAN that a trunk has untagged, no second tag reaches another one of the trunk.
#[test]
fn no_frame_hops_to_another_vlan() {
    let (mut world, uplink, [a, b, trunk]) = world(["", "20", "1p/20"]);
    for first in [1, 0] {
        let tags = [(C_TAG, first), (C_TAG, 20)];
        world.send(a, &tagged(BROADCAST, guest_mac(0), &tags, 60));
        world.send(a, &tagged(guest_mac(2), guest_mac(0), &tags, 60));
    }
    for port in [uplink, b, trunk] {
        assert_eq!(world.got(port).len(), 0);
    }
    assert_eq!((vlan_drops(&world, uplink), vlan_drops(&world, trunk)), (2, 4));
    // With its own tag before it, an inner one is payload; and so is a service tag always.
    let inner = [(C_TAG, 20), (C_TAG, 30)];
    world.send(uplink, &tagged(BROADCAST, [2, 0, 0, 0, 0, 1], &inner, 60));
    assert_eq!(world.got(trunk).len(), 1);
    assert_eq!((world.got(a).len(), world.got(b).len()), (0, 0));
    let service = tagged(BROADCAST, guest_mac(0), &[(S_TAG, 20), (C_TAG, 30)], 60);
    world.send(a, &service);
    assert_eq!(world.got(uplink), slice::from_ref(&service));
    assert_eq!((world.got(b).len(), world.got(trunk).len()), (0, 1));
    world.end();
}

#[test]
fn a_tag_that_is_cut_short_is_a_runt() {
    let (mut world, uplink, [a]) = world(["10"]);
    let whole = tagged(BROADCAST, guest_mac(0), &[(C_TAG, 10)], 14);
    for len in 14..=whole.len() {
        world.send(a, &whole[..len]);
        let runts = (len - 13).min(4) as u64;
        assert_eq!(world.counters(a)[DropReason::Runt], runts, "{len}");
    }
    assert_eq!(world.got(uplink), [whole]);
    world.end();
}

/// The tag does not count against the MTU, where the port has room for one.
#[test]
fn a_tag_that_is_put_on_may_be_longer_than_the_mtu() {
    let (mut world, uplink, [a, b]) = world(["10", "20p/10"]);
    for (len, passes) in [(1514, true), (1515, false)] {
        let packet = world.lent(0, &frame(BROADCAST, guest_mac(0), len), 64, 4000);
        world.forward(a, packet);
        world.flush();
        for port in [uplink, b] {
            let lens: Vec<_> = world.got(port).iter().map(Vec::len).collect();
            assert_eq!(lens, if passes { vec![len + 4] } else { vec![] });
        }
    }
    assert_eq!(world.counters(uplink)[DropReason::TooLong], 1);
    world.end();
}

/// Multicast filters and VLANs at once.
#[test]
fn a_filter_looks_at_what_is_in_its_vlan_alone() {
    let (mut world, uplink, [a, b, c]) = world(["10", "10", "20"]);
    let group = [1, 0, 0x5e, 0, 0, 1];
    for port in [b, c, uplink] {
        world.switches.set_filter(port, Some(&Groups::default()));
    }
    world.send(a, &frame(group, guest_mac(0), 60));
    let filtered = [b, c, uplink].map(|port| world.counters(port)[DropReason::Filtered]);
    assert_eq!(filtered, [1, 0, 1]);
    assert_eq!(world.counters(a).drops().count(), 0);
    world.end();
}

/// Checksums are made in tagged frames as in others, with as many tags as a frame may have
/// beside.
#[test]
fn a_checksum_is_found_behind_the_new_tag() {
    let (mut world, uplink, [a]) = world(["10"]);
    for partial in [Versions::NONE, Versions::ALL] {
        world.far(uplink).partial = partial;
        for (v6, own) in [false, true].into_iter().flat_map(|v6| [(v6, 0), (v6, 4), (v6, 8)]) {
            let own = &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6][..own];
            let with_tags = |field| {
                let frame = datagram(v6, BROADCAST, field);
                [&frame[..12], own, &frame[12..]].concat()
            };
            let mut packet = world.private(&with_tags(0x1111));
            packet.meta.checksum = Checksum::Partial;
            world.forward(a, packet);
            world.flush();
            let sent = std::mem::take(&mut world.far(uplink).sent);
            let [(sent, checksum)] = &sent[..] else { panic!("one frame") };
            assert_eq!(sent[12..16], [0x81, 0, 0, 10]);
            let mut plain = [&sent[..12], &sent[16..]].concat();
            if *checksum == Checksum::Partial {
                checksum::finish(&mut plain).unwrap();
            }
            assert_eq!(plain, with_tags(0));
        }
    }
    world.end();
}

/// Segments are cut behind a tag that was put on, or taken off, with as many as they have
/// beside and with headers as long as may be.
#[test]
fn segments_are_cut_behind_the_new_tag() {
    let (mut world, uplink, [access, trunk]) = world(["10", "20p/10"]);
    let own = [(C_TAG, 10)];
    let beside = [&[][..], &[(S_TAG, 5)], &[(S_TAG, 5), (C_TAG, 6)]];
    for (from, guest, own) in [(access, 0, &[][..]), (trunk, 1, &own)] {
        let all = beside.map(|beside| [own, beside].concat());
        for tags in all {
            for options in [0, 112 - 8 * tags.len().div_ceil(2)] {
                let (mut whole, gso) = uncut(&tags, options);
                whole[6..12].copy_from_slice(&guest_mac(guest));
                let segments = Segments::new(gso, whole.len());
                let cut = (0..segments.count()).map(|number| {
                    let mut segment = whole[..segments.headers()].to_vec();
                    segments.edit(&mut segment, number);
                    segment.extend(&whole[segments.payload(number)]);
                    segment.drain(12..12 + 4 * own.len());
                    segment
                });
                let plain: Vec<_> = cut.collect();
                let tagged: Vec<_> = plain
                    .iter()
                    .map(|frame| [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat())
                    .collect();
                let mut packet = world.private(&whole);
                packet.meta =
                    Meta { checksum: Checksum::Partial, gso: Some(gso), ..Meta::default() };
                world.forward(from, packet);
                world.flush();
                for (port, wanted) in [(uplink, &tagged), (access, &plain), (trunk, &tagged)] {
                    let wanted = if port == from { &vec![] } else { wanted };
                    assert_eq!(&world.got(port), wanted, "{tags:x?}, {options} bytes of options");
                }
            }
        }
    }
    world.end();
}

proptest! {
    /// Whatever tags frames have, wherever they come from: a port gets frames of its own
    /// VLANs alone, in the form it has them in, once each.
    #[test]
    fn nobody_gets_what_is_not_in_its_vlans(
        frames in prop::collection::vec(
            (0usize..5, prop::collection::vec((0usize..2, 0usize..6), 0..3), 0u8..6, any::<bool>()),
            1..30,
        ),
    ) {
        const VLANS: [u16; 6] = [0, 1, 10, 20, 30, 4095];
        let texts = ["10", "30p/10/20", "20p/10u", ""];
        let (mut world, uplink, ports) = world(texts);
        let ports = [ports[0], ports[1], ports[2], ports[3], uplink];
        for (from, tags, to, pages) in frames {
            let tags: Vec<_> = tags
                .into_iter()
                .map(|(kind, vlan)| ([C_TAG, S_TAG][kind], VLANS[vlan]))
                .collect();
            let destination = if to == 5 { BROADCAST } else { guest_mac(to) };
            let bytes = tagged(destination, guest_mac(from as u8 + 20), &tags, 80);
            let packet = match pages {
                true => world.lent(0, &bytes, 40, 30),
                false => world.private(&bytes),
            };
            world.forward(ports[from], packet);
            world.flush();
            // The VLAN of the frame, by the sender's side.
            let pvid = [10, 30, 20, 1, 1][from];
            let vlan = match tags.first() {
                Some((C_TAG, 0)) | Some((S_TAG, _)) | None => pvid,
                Some((_, vlan)) => *vlan,
            };
            for (place, port) in ports.into_iter().enumerate() {
                let members: &[u16] = [&[10][..], &[10, 20, 30], &[10, 20], &[1], &[1, 10, 20, 30]][place];
                let untagged: &[u16] = [&[10][..], &[30], &[10, 20], &[1], &[1]][place];
                for got in world.got(port) {
                    prop_assert!(place != from && members.contains(&vlan));
                    let first = u16::from_be_bytes([got[12], got[13]]);
                    let control = u16::from_be_bytes([got[14], got[15]]);
                    if untagged.contains(&vlan) {
                        prop_assert_ne!(first, C_TAG);
                    } else {
                        prop_assert_eq!((first, control), (C_TAG, vlan));
                    }
                    prop_assert_eq!(&got[got.len() - 60..], &bytes[bytes.len() - 60..]);
                }
            }
        }
        world.end();
    }
}
