//! Ports that want multicast of some groups alone.

use super::*;

fn group(last: u8) -> [u8; 6] {
    [0x01, 0, 0x5e, 0, 0, last]
}

fn groups(lasts: &[u8]) -> Groups {
    let mut groups = Groups::default();
    lasts.iter().for_each(|last| groups.add(MacAddress::new(group(*last))).unwrap());
    groups
}

fn filtered(world: &World, port: PortId) -> u64 {
    world.counters(port)[DropReason::Filtered]
}

#[test]
fn a_filter_is_for_one_port_and_for_multicast_alone() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    world.switches.set_filter(b, Some(&groups(&[7, 9])));
    let unknown = [2, 0, 0, 0, 0, 1];
    for (to, b_gets) in [
        (group(7), true),
        (group(8), false),
        (group(9), true),
        ([0x33, 0x33, 0, 0, 0, 1], false),
        (BROADCAST, true),
        (unknown, true),
    ] {
        let before = filtered(&world, b);
        let bytes = frame(to, guest_mac(0), 60);
        world.send(a, &bytes);
        assert_eq!(world.got(b).len(), usize::from(b_gets), "{to:x?}");
        assert_eq!(filtered(&world, b) - before, u64::from(!b_gets));
        assert_eq!(world.got(c), [bytes], "c gets everything");
    }
    assert_eq!(filtered(&world, a) + filtered(&world, c), 0);
    // What a filtering port sends is nobody's business.
    world.send(b, &frame(group(1), guest_mac(1), 60));
    assert_eq!((world.got(a).len(), world.got(c).len()), (1, 1));
    world.switches.set_filter(b, None);
    world.send(a, &frame(group(8), guest_mac(0), 60));
    assert_eq!(world.got(b).len(), 1);
    world.end();
}

#[test]
fn what_is_filtered_is_never_made_and_nothing_is_lost() {
    let mut world = World::new();
    let [a, b, c] = world.joined();
    for port in [b, c] {
        world.switches.set_filter(port, Some(&Groups::default()));
    }
    // Nobody wants it: it ends where it came from, as neither lost nor lonely.
    let packet = world.lent(0, &frame(group(1), guest_mac(0), 1000), 64, 500);
    world.forward(a, packet);
    assert_eq!(world.responses(0), [0, 0], "back at once");
    assert_eq!(world.counters(a).drops().count(), 0);
    assert_eq!((filtered(&world, b), filtered(&world, c)), (1, 1));
    // One wants it: it gets the packet itself, and no clone is made meanwhile.
    world.switches.set_filter(b, Some(&groups(&[1])));
    let packet = world.lent(0, &frame(group(1), guest_mac(0), 1000), 64, 500);
    world.forward(a, packet);
    assert_eq!(world.pools.idle(), PACKETS - 1);
    world.flush();
    assert_eq!(world.got(b).len(), 1);
    world.end();
}

#[test]
fn groups_are_bounded_and_counted() {
    let all: Vec<u8> = (0..64).collect();
    let mut groups = groups(&all);
    let address = |last| MacAddress::new(group(last));
    assert_eq!(groups.add(address(0)), Err(TooManyGroups));
    groups.remove(address(64));
    assert_eq!(groups.add(address(64)), Err(TooManyGroups), "nothing was removed");
    groups.remove(address(5));
    assert!(!groups.contains(address(5)));
    groups.add(address(6)).unwrap();
    groups.remove(address(6));
    assert!(groups.contains(address(6)), "added twice");
    groups.remove(address(6));
    assert!(!groups.contains(address(6)));
}

#[test]
fn a_port_that_is_gone_has_no_filter() {
    let mut world = World::new();
    let [a, b] = world.joined();
    world.switches.set_filter(b, Some(&Groups::default()));
    world.switches.leave(b, &mut world.pools);
    world.fars.0.remove(&b);
    world.switches.set_filter(b, Some(&Groups::default()));
    let c = world.join("xenbr0", config(Some(guest_mac(1))));
    world.send(a, &frame(group(1), guest_mac(0), 60));
    assert_eq!(world.got(c).len(), 1, "in the same place");
    world.end();
}
