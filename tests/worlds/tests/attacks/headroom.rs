//! F-11, S-8: headroom that no page has, and options that change without end.

use drivers::netback::data::MAX_HEADROOM;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};

use crate::harness::{EVIL, Harmless, MILLISECOND, SECOND, Setup, Told, attack};

const HEADROOM: &str = "xdp-headroom";
const MULTICAST: &str = "request-multicast-control";

/// The attacker's driver goes on by itself, and another guest sends to it.
fn sender(world: &mut World) -> Id {
    world[EVIL].hands_off = false;
    world.settle();
    world.attach(1)
}

/// The headroom that a packet of a full Ethernet frame comes with.
fn headroom(world: &mut World, from: Id, to: Id) -> u16 {
    world[to].received.clear();
    let frame = frames::plain(world[to].mac(), world[from].mac(), 1514, 1);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
    let [packet] = &world[to].received[..] else { panic!("one packet") };
    assert!(packet.bytes == frame && packet.failed == 0 && packet.slots == 1);
    packet.headroom
}

/// F-11: more than leaves room for a packet is cut, and told, be it in state 7; what is no
/// number changes nothing then.
#[test]
fn f_11_headroom_beyond_a_page_is_cut() {
    let asked = ["2049", "4096", "32767", "65535", "65536", "4294967295"];
    let garbage = ["", "-1", "0x10", "4294967296", "256 "];
    // The log of one vif is bounded, the rest is counted.
    attack("headroom", Told(asked.len() + 1), |world, evil| {
        let sender = sender(world);
        let reconfigure = |world: &mut World, value: &str| {
            world.set_front(evil, "7");
            world.set_front_key(evil, HEADROOM, value);
            world.settle();
            assert_eq!(world.own(evil, "state").as_deref(), Some("8"));
            world.set_front(evil, "4");
            world.settle();
        };
        for value in asked {
            reconfigure(world, value);
            assert_eq!(headroom(world, sender, evil), MAX_HEADROOM, "{value}");
            let cut = format!("xdp-headroom {value} is cut to {MAX_HEADROOM}");
            assert_eq!(journal(Level::Warn, &cut).len(), 1);
        }
        for (value, left) in [("2048", MAX_HEADROOM), ("256", 256)] {
            reconfigure(world, value);
            assert_eq!(headroom(world, sender, evil), left);
        }
        for value in garbage {
            reconfigure(world, value);
            assert_eq!(headroom(world, sender, evil), 256, "{value}");
        }
        assert_eq!(journal(Level::Warn, "xdp-headroom is malformed").len(), 1, "told once");
    });
}

/// F-11: the same when it connects, where it is a key as any other: garbage is refused.
#[test]
fn f_11_headroom_beyond_a_page_from_the_start() {
    let asked = ["4096", "32767", "65535", "4294967295"];
    let garbage = ["", "x", "-1", "4294967296"];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("from the start", Told(asked.len() + garbage.len()), |world, _| {
        let sender = sender(world);
        for value in asked.into_iter().chain(garbage) {
            let evil = world.add(0, Manners::default(), &[]);
            world[evil].set_key(HEADROOM, value);
            world.settle();
            assert_eq!(world.is_connected(evil), asked.contains(&value), "{value}");
            if world.is_connected(evil) {
                assert_eq!(headroom(world, sender, evil), MAX_HEADROOM, "{value}");
            } else {
                let error = world.error(evil).expect("an error");
                assert!(error.contains("xdp-headroom is malformed"), "{error}");
            }
            assert_eq!(world.detach(evil), Ok(()));
        }
    });
}

/// F-11, S-8 (XSA-349): states 7, 8 and 4, headroom and the request for groups, all written
/// again and again while packets flow. However much is written between two looks, it is one
/// look; the last word counts, and when it is quiet nothing goes on.
#[test]
fn f_11_s_08_options_that_change_without_end() {
    attack("flips", Harmless, |world, evil| {
        let sender = sender(world);
        world[evil].hands_off = true;
        let (turns, kept) = (world.turns, world.most_kept);
        for n in 0..10_000 {
            world.set_front(evil, ["7", "8", "4"][n % 3]);
            world.set_front_key(evil, HEADROOM, ["0", "256", "2048"][n % 7 % 3]);
            world.set_front_key(evil, MULTICAST, ["0", "1"][n % 2]);
            if n % 100 == 0 {
                world.pass(MILLISECOND);
            }
        }
        world.settle();
        // Events come through a ring of 1 KiB; at worst each ringful is one look.
        assert!(world.turns - turns < 12_000, "{} turns", world.turns - turns);
        assert!(world.most_kept <= kept.max(32 << 10), "{} bytes", world.most_kept);
        world[evil].hands_off = false;
        for (value, multicast) in [("0", "1"), ("256", "0")] {
            world.set_front_key(evil, HEADROOM, value);
            world.set_front_key(evil, MULTICAST, multicast);
            world.set_front(evil, "4");
            world.settle();
            assert_eq!(headroom(world, sender, evil).to_string(), value);
            let group = frames::plain([1, 0, 0x5e, 0, 0, 1], world[sender].mac(), 60, 1);
            world[evil].received.clear();
            world[sender].send(&Outgoing::whole(&group));
            world.settle();
            assert_eq!(world[evil].received.len(), usize::from(multicast == "0"));
        }
    });
}
