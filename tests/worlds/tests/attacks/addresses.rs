//! F-10: addresses that are nobody's, or another's.

use kernel::switch::DropReason;
use worlds::{Level, Manners, Outgoing, frames, journal};

use crate::harness::{HONEST, Harmless, MILLISECOND, SECOND, Setup, Told, attack};

/// F-10: an address that another vif of the bridge has. It is refused, gets nothing of the
/// other's, and is free again once the first is gone.
#[test]
fn f_10_two_vifs_of_one_address() {
    attack("twins", Told(1), |world, _| {
        let first = world.attach(1);
        let sender = world.attach(1);
        let mac = world[first].mac().map(|byte| format!("{byte:02x}")).join(":");
        let twin = world.attach_with(2, Manners::default(), &[("mac", &mac)]);
        let error = world.error(twin).expect("an error");
        assert!(error.contains(&format!("{mac} belongs to another port")), "{error}");
        assert_eq!(journal(Level::Warn, "belongs to another port").len(), 1);
        world.check_at_rest();
        let frame = frames::plain(world[first].mac(), world[sender].mac(), 100, 1);
        world[sender].send(&Outgoing::whole(&frame));
        world.settle();
        assert_eq!((world[first].received.len(), world[twin].received.len()), (1, 0));
        for id in [twin, first] {
            assert_eq!(world.detach(id), Ok(()));
        }
        let twin = world.attach_with(2, Manners::default(), &[("mac", &mac)]);
        assert!(world.is_connected(twin));
    });
}

/// F-10: addresses that no station has. The vif is refused, and the operator is told.
#[test]
fn f_10_addresses_that_are_none() {
    let macs = [
        "",
        "garbage",
        "00:16:3e:00:0a",
        "00:16:3e:00:0a:00:01",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("no address", Told(macs.len()), |world, _| {
        for mac in macs {
            let evil = world.attach_with(0, Manners::default(), &[("mac", mac)]);
            let error = world.error(evil).unwrap_or_else(|| panic!("{mac}: no error"));
            assert!(error.starts_with("mac"), "{mac}: {error}");
            assert!(!world.is_connected(evil));
            assert_eq!(world.detach(evil), Ok(()));
        }
    });
}

/// F-10: a guest sends from the address of another, for as long as it likes, or from
/// nobody's. Nobody gets any of it, the other's packets still go to the other, and the
/// operator is told who it was, once.
#[test]
fn f_10_forged_senders_go_nowhere() {
    attack("forged", Told(1), |world, evil| {
        let third = world.attach(1);
        let (victim, to) = (world[HONEST[0]].mac(), world[third].mac());
        world[evil].hands_off = false;
        for n in 0..100 {
            for from in [victim, frames::BROADCAST, [0; 6]] {
                for to in [to, frames::BROADCAST] {
                    world[evil].send(&Outgoing::whole(&frames::plain(to, from, 100, n)));
                }
            }
            world.pass(MILLISECOND);
        }
        assert_eq!(world[third].received, []);
        assert_eq!(world.wire.take_frames().len(), 0);
        let dropped = [DropReason::Forged, DropReason::BadSource].map(|why| world.drops(why));
        assert_eq!(dropped, [200, 400]);
        assert_eq!(journal(Level::Warn, "vif10.0: sends from").len(), 1);
    });
}

/// F-10: a guest sends from more addresses than a port may have. It takes no place of
/// anybody's: what goes to others goes where it went.
#[test]
fn f_10_a_guest_of_many_addresses() {
    attack("many addresses", Harmless, |world, evil| {
        world[evil].hands_off = false;
        for n in 0..5000u32 {
            let [_, _, high, low] = n.to_be_bytes();
            let from = [2, 0xee, 0, 0, high, low];
            world[evil].queue(&Outgoing::whole(&frames::plain(frames::BROADCAST, from, 60, 1)));
            if n % 64 == 0 {
                world[evil].kick();
                world.pass(MILLISECOND);
            }
        }
        world[evil].kick();
        world.settle();
        let (_, switch) = world.network.switches().iter().next().expect("a bridge");
        let addresses = switch.bridge();
        assert!(addresses.over_limit > 4000, "{addresses:?}");
        world.wire.take_frames();
        world[evil].hands_off = true;
    });
}
