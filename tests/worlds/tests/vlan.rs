//! Guests in VLANs (`vlan=`).

use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{Card, Id, Level, Manners, Outgoing, Uplink, Wire, World, frames, journal};
use xen::PAGE_SIZE;
use xen::netif::TxFlags;

const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const TYPE: usize = 12;

/// The frame with a tag.
fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    [&frame[..TYPE], &[0x81, 0], &control.to_be_bytes(), &frame[TYPE..]].concat()
}

fn attach<U: Uplink>(world: &mut World<U>, guest: usize, vlan: &str) -> Id {
    let id = world.attach_with(guest, Manners::default(), &[("vlan", vlan)]);
    assert!(world.is_connected(id), "{vlan}: {:?}", world.error(id));
    id
}

fn frame<U: Uplink>(world: &World<U>, from: Id, to: [u8; 6], len: usize) -> Vec<u8> {
    frames::plain(to, world[from].mac(), len, len as u64)
}

/// What a guest received, and nothing else.
fn received<U: Uplink>(world: &mut World<U>, id: Id) -> Vec<Vec<u8>> {
    world[id].received.drain(..).map(|packet| packet.bytes).collect()
}

/// T-8: a tag put on and taken off, of packets of any length and cut anywhere, copied and
/// mapped read-only for the device (H-10). What arrives is right, and the guest's pages are
/// as they were.
#[test]
fn t8_tags_leave_lent_pages_alone() {
    t8::<Wire>(Mode::Auto);
    t8::<Wire>(Mode::Always);
    t8::<Card>(Mode::Always);
}

fn t8<U: Uplink>(mode: Mode) {
    let mut world = World::<U>::of(mode);
    let a = attach(&mut world, 0, "10");
    let b = attach(&mut world, 1, "10");
    let trunk = attach(&mut world, 2, "20p/10");
    world[a].keeps = true;
    world[trunk].keeps = true;
    for len in [60, 191, 192, 193, 1000, 1514] {
        for first in [14, 60, 128, 129, 1000] {
            if first >= len {
                continue;
            }
            // To all, untagged: as it is to one, with a tag to the other and to the wire.
            let plain = frame(&world, a, frames::BROADCAST, len);
            let second = len - first;
            let offset = (PAGE_SIZE - second) as u16;
            let cut = vec![(7, first as u16), (offset, second as u16)];
            let ids = world[a].send(&Outgoing::cut(&plain, cut.clone()));
            let pages = ids.iter().map(|id| world[a].lent_page(*id)).collect::<Vec<_>>();
            world.settle();
            let with_tag = tagged(&plain, 10);
            let mut sent = world.wire.take_frames();
            assert_eq!(sent.len(), 1, "{len}, {first}");
            assert!(sent.pop().is_some_and(|sent| sent.starts_with(&with_tag)), "{len}, {first}");
            assert!(received(&mut world, b) == [plain.clone()], "{len}, {first}");
            assert!(received(&mut world, trunk) == [with_tag], "{len}, {first}");
            for ((offset, len), (page, piece)) in
                cut.into_iter().zip(pages.into_iter().zip([&plain[..first], &plain[first..]]))
            {
                let mut bytes = vec![0; usize::from(len)];
                world[a].guest.page(page).read_bytes(offset.into(), &mut bytes);
                assert!(bytes == piece, "its page was written");
            }
            // With its tag, to a guest that gets it without.
            let tag = tagged(&frame(&world, trunk, world[b].mac(), len), 10);
            world[trunk].send(&Outgoing::whole(&tag));
            world.settle();
            let [untagged] = &received(&mut world, b)[..] else { panic!("one frame") };
            assert!(tagged(untagged, 10) == tag, "{len}");
            assert!(received(&mut world, a).is_empty());
        }
    }
    if mode == Mode::Always {
        assert!(world.network.pools().choice.mapped() > 0, "nothing was mapped");
    }
    assert_eq!(world[a].unanswered() + world[trunk].unanswered(), 0);
    world.end();
}

/// A checksum that is left to the wire is right behind a tag that we put on.
#[test]
fn p14_a_checksum_behind_a_new_tag_is_right() {
    on_the_wire::<Wire>(Mode::Auto);
    on_the_wire::<Card>(Mode::Auto);
    on_the_wire::<Card>(Mode::Always);
}

fn on_the_wire<U: Uplink>(mode: Mode) {
    let mut world = World::<U>::of(mode);
    let a = attach(&mut world, 0, "10");
    for v6 in [false, true] {
        for tcp in [false, true] {
            for len in [60, 200, 1400] {
                let payload = vec![7; len];
                let whole = frames::transport(OUTSIDE, world[a].mac(), v6, tcp, &payload);
                let blank = frames::blank(whole.clone(), v6, tcp);
                world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
                world.settle();
                assert_eq!(world.wire.take_frames(), [tagged(&whole, 10)], "{v6}, {tcp}, {len}");
            }
        }
    }
    world.end();
}

/// From the wire: each guest gets what is in its VLANs, and the untagged is VLAN 1's.
#[test]
fn the_wire_is_a_trunk_of_all() {
    let mut world = World::new();
    let access = attach(&mut world, 0, "10");
    let trunk = attach(&mut world, 1, "20p/10/30-40");
    let plain = world.attach(2);
    let all = [access, trunk, plain];
    let bytes = frames::plain(frames::BROADCAST, OUTSIDE, 1000, 1);
    let with = |vlan| tagged(&bytes, vlan);
    for (frame, expected) in [
        (bytes.clone(), [None, None, Some(bytes.clone())]),
        (with(1), [None, None, Some(bytes.clone())]),
        (with(10), [Some(bytes.clone()), Some(with(10)), None]),
        (with(0xa00a), [Some(bytes.clone()), Some(with(0xa00a)), None]),
        (with(20), [None, Some(bytes.clone()), None]),
        (with(35), [None, Some(with(35)), None]),
        (with(41), [None, None, None]),
    ] {
        world.wire.inject(frame);
        world.settle();
        let got = all.map(|id| received(&mut world, id).pop());
        assert!(got == expected, "{got:?}");
    }
    world.end();
}

/// Guests of different VLANs do not reach each other, whatever tags they use; a bridge
/// without VLANs passes tags on.
#[test]
fn vlans_are_apart() {
    let mut world = World::new();
    let a = attach(&mut world, 0, "10");
    let b = attach(&mut world, 1, "20");
    for to in [world[b].mac(), frames::BROADCAST] {
        let plain = frame(&world, a, to, 100);
        for bytes in [plain.clone(), tagged(&plain, 10), tagged(&plain, 20), tagged(&plain, 0)] {
            world[a].send(&Outgoing::whole(&bytes));
            world.settle();
        }
    }
    assert!(received(&mut world, b).is_empty());
    // Two were let in by no port, and three to the other one out by none.
    assert_eq!(world.drops(DropReason::Vlan), 5);
    assert!(world.wire.take_frames().iter().all(|sent| sent[TYPE..][..4] == [0x81, 0, 0, 10]));
    let elsewhere = |world: &mut World, guest| {
        world.attach_with(guest, Manners::default(), &[("bridge", "plain")])
    };
    let [c, d] = [2, 3].map(|guest| elsewhere(&mut world, guest));
    let bytes = tagged(&frame(&world, c, world[d].mac(), 100), 20);
    world[c].send(&Outgoing::whole(&bytes));
    world.settle();
    assert!(received(&mut world, d) == [bytes]);
    world.end();
}

/// A text that names no VLANs: the vif is refused, with the reason.
#[test]
fn k1_a_malformed_vlan_is_refused() {
    for (text, reason) in [
        ("", "vlan is malformed: a term is not VLAN, VLAN-VLAN or VLAN+OFFSETxCOUNT"),
        ("10/20", "vlan is malformed: no VLAN is marked as the PVID, with a p behind it"),
        ("10p/20p", "vlan is malformed: more than one VLAN is marked as the PVID"),
        ("4095", "vlan is malformed: a VLAN is not one of 1 to 4094"),
        ("10p/3-2", "vlan is malformed: a range does not go upwards"),
        ("10p/9+1x1", "vlan is malformed: VLAN 10 is named twice"),
        ("10 p", "vlan is malformed"),
    ] {
        let mut world = World::new();
        let a = world.attach_with(0, Manners::default(), &[("vlan", text)]);
        assert!(!world.is_connected(a));
        assert_eq!(world.error(a).as_deref(), Some(reason), "{text}");
        world.end();
    }
}

/// K-1: keys that have no effect are told with the reason, once each, and do no harm.
#[test]
fn k1_keys_without_effect_are_explained() {
    let mut world = World::new();
    let keys = [
        ("ip", "10.0.0.1"),
        ("gatewaydev", "eth0"),
        ("vifname", "web"),
        ("forwarddev", "eth1"),
        ("trusted", "1"),
        ("script", "/etc/xen/scripts/vif-route"),
        ("type", "vif_ioemu"),
    ];
    let a = world.attach_with(0, Manners::default(), &keys);
    let plain = world.attach(1);
    assert!(world.is_connected(a) && world.is_connected(plain));
    for (key, _) in &keys[..6] {
        assert_eq!(journal(Level::Warn, &format!("vif10.0: {key} has no effect: ")).len(), 1);
    }
    assert_eq!(journal(Level::Warn, "emulated NIC is not connected").len(), 1, "L-8");
    assert_eq!(journal(Level::Warn, "vif10.0").len(), keys.len());
    assert_eq!(journal(Level::Warn, "vif11.0").len(), 0, "nothing to tell of the toolstack's own");
    let bytes = frame(&world, a, world[plain].mac(), 1000);
    world[a].send(&Outgoing::whole(&bytes));
    world.settle();
    assert!(received(&mut world, plain) == [bytes], "the paravirtual vif is served");
    world.restart(a);
    assert_eq!(journal(Level::Warn, "has no effect").len(), 6, "once");
    world.end();
}
