//! F-9, S-8: what a frontend writes to XenStore, and what it does to what it wrote.

use worlds::{Id, Manners, Outgoing, World, frames};
use xen::bindings::XS_READ;
use xen::fake_store::Permissions;

use crate::harness::{JUMBO, MILLISECOND, SECOND, Setup, Told, attack};

/// What a frontend says of itself.
const KEYS: [&str; 8] = [
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
];

/// The path of a key of a frontend's.
fn path(world: &World, id: Id, key: &str) -> String {
    format!("{}/{key}", world[id].vif().frontend_dir())
}

fn write(world: &mut World, id: Id, key: &str, value: &str) {
    let (path, guest) = (path(world, id, key), world[id].vif().frontend);
    world.store.act(guest).write(&path, value).expect("its own");
}

/// A vif of the attacker's is refused for this key, and can be taken away.
fn is_refused(world: &mut World, evil: Id, key: &str, value: &str) {
    let error = world.error(evil).unwrap_or_else(|| panic!("{key}={value:?}: no error"));
    assert!(error.contains(key), "{key}={value:?}: {error}");
    assert_eq!(world.own(evil, "hotplug-status").as_deref(), Some("error"));
    assert_eq!(world.own(evil, "state").as_deref(), Some("6"), "{key}={value:?}");
    world.check_at_rest();
    assert_eq!(world.detach(evil), Ok(()), "{key}={value:?}");
}

/// F-9: values that no frontend writes.
#[test]
fn f_09_garbage_in_every_key() {
    let long = "7".repeat(2048);
    let values =
        ["", "abc", "-1", "+1", "4294967296", "0x10", " 1", "1 ", "1.0", "1\n", "1\0", "ж", &long];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("garbage", Told(KEYS.len() * values.len()), |world, _| {
        for key in KEYS {
            for value in values {
                let evil = world.add(0, Manners::default(), &[]);
                world[evil].set_key(key, value);
                world.settle();
                is_refused(world, evil, key, value);
            }
        }
    });
}

/// F-9: nodes that the guest has closed to us.
#[test]
fn f_09_keys_that_cannot_be_read() {
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("unreadable", Told(KEYS.len()), |world, _| {
        for key in KEYS {
            let evil = world.add(0, Manners::default(), &[]);
            write(world, evil, key, "1");
            let (path, guest) = (path(world, evil, key), world[evil].vif().frontend);
            let closed = Permissions::owned(guest);
            world.store.act(guest).set_permissions(&path, closed).expect("its own");
            world.settle();
            is_refused(world, evil, key, "closed");
        }
    });
}

/// F-9: paths that lead out of the guest's part of the store. Only the toolstack can
/// write them; nothing is read there all the same.
#[test]
fn f_09_a_frontend_that_is_somewhere_else() {
    let paths = [
        "/local/domain/10/../13/device/vif/0",
        "/local/domain/13/device/vif/0",
        "/local/domain/100/device/vif/0",
        "device/vif/0",
        "",
    ];
    let setup = Setup { interval: SECOND, ..Setup::default() };
    setup.attack("elsewhere", Told(paths.len()), |world, _| {
        for path in paths {
            let evil = world.attach_with(0, Manners::default(), &[("frontend", path)]);
            let error = world.error(evil).expect("the operator is told");
            assert!(error.contains("frontend"), "{path}: {error}");
            assert!(!world.is_connected(evil));
            assert_eq!(world.detach(evil), Ok(()), "{path}");
        }
    });
}

/// F-9, S-8: a state that changes a thousand times a second.
#[test]
fn f_09_s_08_state_flips() {
    attack("flips", Told(20), |world, evil| {
        let states = ["4", "6", "1", "7", "x", "", "5", "2", "0", "4", "1", "3", "8", "99"];
        for n in 0..1000 {
            write(world, evil, "state", states[n * 7 % states.len()]);
            if n % 3 == 0 {
                world.pass(3 * MILLISECOND);
            }
        }
    });
}

/// S-8 (XSA-349): a flood of writes that we are told of. There is one mark however many
/// they are, what is looked at is bounded by the ring and not by the flood, and none of it
/// takes memory of ours.
#[test]
fn s_08_a_flood_of_watch_events() {
    attack("watch flood", Told(0), |world, evil| {
        world.settle();
        let (reads, kept) = (world.store.served[&XS_READ], world.most_kept);
        for _ in 0..20_000 {
            write(world, evil, "state", "4");
        }
        world.settle();
        let reads = world.store.served[&XS_READ] - reads;
        // Events come through a ring of 1 KiB; at worst each ringful is one look.
        assert!(reads < 3 * 20_000 / 10, "{reads} reads");
        assert!(world.most_kept <= kept.max(16 << 10), "{} bytes", world.most_kept);
        assert!(world.is_connected(evil));
    });
}

/// F-9: a frontend that is connected changes what it said of itself. It is served as it
/// was.
#[test]
fn f_09_keys_that_change_once_connected() {
    let setup = Setup { keys: &[JUMBO], ..Setup::default() };
    setup.attack("changed keys", Told(0), |world, evil| {
        world[evil].hands_off = false;
        let other = world.attach_with(1, Manners::default(), &[JUMBO]);
        world.settle();
        world[evil].received.clear();
        world[evil].answers.clear();
        let mappings = world.xen.audit().mappings;
        for (key, value) in [
            ("tx-ring-ref", "0"),
            ("rx-ring-ref", "x"),
            ("event-channel", "99"),
            ("request-rx-copy", "0"),
            ("feature-sg", "0"),
            ("feature-rx-notify", "0"),
        ] {
            write(world, evil, key, value);
            // And says that it is connected, once more.
            write(world, evil, "state", "4");
            world.settle();
            for (from, to) in [(evil, other), (other, evil)] {
                let frame = frames::plain(world[to].mac(), world[from].mac(), 9000, 1);
                world.pass_on(from, to, &Outgoing::whole(&frame));
            }
            assert_eq!((world.is_connected(evil), world.error(evil)), (true, None), "{key}");
        }
        assert_eq!(world.xen.audit().mappings, mappings);
    });
}
