//! What a frontend says of itself once it is connected.

use worlds::{Id, Manners, Outgoing, World, frames};

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
