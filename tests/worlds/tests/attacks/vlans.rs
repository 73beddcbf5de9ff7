//! F-10: guests that send as if they were in other VLANs.

use worlds::{Id, Manners, OUTSIDE, Outgoing, World, frames};

use crate::harness::{HONEST, Setup, Told};

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

/// The frame with tags.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()]);
    [&frame[..12], &tags.collect::<Vec<_>>().concat(), &frame[12..]].concat()
}

/// F-10: double tags, priority tags, tags of others' VLANs and of none, service tags, to
/// everybody, to somebody of another VLAN by its address, and to the wire. From VLAN 1, which
/// has no tag anywhere, from another one, and from a trunk. Nobody gets anything that is not
/// of a VLAN both are in, and on the wire nothing is in another VLAN than its sender, once
/// its first tag is taken off as often as not.
#[test]
fn f_10_no_frame_hops_to_another_vlan() {
    Setup::default().attack("hopping", Told(0), |world, plain| {
        world[plain].hands_off = false;
        let attach = |world: &mut World, guest, vlan| {
            let id = world.attach_with(guest, Manners::default(), &[("vlan", vlan)]);
            assert!(world.is_connected(id), "{:?}", world.error(id));
            id
        };
        let access = attach(world, 0, "10");
        let trunk = attach(world, 0, "10p/11");
        let native = attach(world, 0, "1p/11");
        let victim = attach(world, 1, "20");
        let victims = attach(world, 2, "20p/21/30");
        let vids = [0, 1, 10, 11, 20, 21, 30, 4094, 4095];
        let mut stacks: Vec<Vec<(u16, u16)>> = vec![vec![]];
        for outer in vids {
            for priority in [0, 0xe000, 0x1000] {
                stacks.push(vec![(C_TAG, outer | priority)]);
            }
            for inner in vids {
                stacks.push(vec![(C_TAG, outer), (C_TAG, inner)]);
                stacks.push(vec![(S_TAG, outer), (C_TAG, inner)]);
                stacks.push(vec![(C_TAG, outer), (S_TAG, inner)]);
                stacks.push(vec![(C_TAG, outer), (C_TAG, inner), (C_TAG, 20)]);
            }
        }
        // What each may be in: as the wire has it, VLAN 1 without a tag.
        let senders: [(Id, &[u16]); 4] =
            [(plain, &[1]), (access, &[10]), (trunk, &[10, 11]), (native, &[1, 11])];
        world.wire.take_frames();
        for (from, vlans) in senders {
            for to in [frames::BROADCAST, OUTSIDE, world[victim].mac(), world[victims].mac()] {
                let frame = frames::plain(to, world[from].mac(), 100, 1);
                for some in stacks.chunks(100) {
                    for tags in some {
                        world[from].send(&Outgoing::whole(&tagged(&frame, tags)));
                    }
                    world.settle();
                }
                let ids = [victim, victims];
                assert_eq!(ids.map(|id| world[id].received.len()), [0; 2], "{vlans:?}");
                let sent = world.wire.take_frames();
                assert!(to != frames::BROADCAST || !sent.is_empty());
                for sent in sent {
                    assert_eq!(sent[6..12], world[from].mac());
                    let tag = (sent[12..14] == C_TAG.to_be_bytes())
                        .then(|| u16::from_be_bytes([sent[14], sent[15]]) & 0xfff);
                    // VLAN 1's frames have no tag, which leaves none to be taken for another.
                    let vlan = tag.unwrap_or(1);
                    assert!(vlans.contains(&vlan), "{vlans:?}: {:x?}", &sent[12..24]);
                    assert_ne!(tag, Some(1), "{:x?}", &sent[12..24]);
                }
            }
        }
        // The honest are in VLAN 1, and get what is.
        let to_honest = |world: &World, from: Id| {
            let mac = world[from].mac();
            HONEST.map(|id| world[id].received.iter().filter(|it| it.bytes[6..12] == mac).count())
        };
        assert_eq!([access, trunk].map(|from| to_honest(world, from)), [[0; 2]; 2]);
        assert!([plain, native].iter().all(|from| to_honest(world, *from)[0] > 0));
    });
}
