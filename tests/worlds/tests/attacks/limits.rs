//! P-26: a guest with `rate=` that sends as if it had none.

use worlds::{Id, Manners, Outgoing, World, frames};

use crate::harness::{MILLISECOND, Setup, Told, knock};

/// What any vif may save up at least.
const BURST: u64 = 128 << 10;
/// What it may send in each interval of a millisecond.
const BYTES: u64 = 1000;

/// How many bytes another guest got of the attacker's.
fn got(world: &mut World, receiver: Id, evil: Id) -> u64 {
    let mac = world[evil].mac();
    let received = std::mem::take(&mut world[receiver].received).into_iter();
    let own = received.filter(|packet| packet.bytes[6..12] == mac);
    own.map(|packet| packet.bytes.len() as u64).sum()
}

/// For a second its ring is full all the time, of requests long and short, good and bad, and
/// it raises an event whether or not one is wanted. How much of it got through, never more
/// than `saved` and what the time gives.
fn flood(world: &mut World, receiver: Id, evil: Id, saved: u64) -> u64 {
    let mut sent = 0;
    for elapsed in 0..1000 {
        let free = world[evil].rings.tx.free() as usize;
        for len in [1514, 60, 13, 700].into_iter().cycle().take(free) {
            let to = world[receiver].mac();
            let frame = frames::plain(to, world[evil].mac(), len.max(14), elapsed);
            world[evil].queue(&Outgoing::whole(&frame[..len]));
        }
        world[evil].kick();
        knock(world, evil);
        world.settle();
        sent += got(world, receiver, evil);
        let most = saved + elapsed * BYTES;
        assert!(sent <= most, "{sent} of {most} bytes");
        world.pass(MILLISECOND);
    }
    sent + got(world, receiver, evil)
}

/// It gets through what it may send and no more, after a pause of whatever length a burst
/// beside, and by connecting anew nothing.
#[test]
fn p26_a_limited_guest_that_floods() {
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("flood", Told(0), |world, _| {
        let receiver = world.attach(1);
        let evil = world.attach_with(0, Manners::default(), &[("rate", "1000,1000")]);
        assert!(world.is_connected(evil), "{:?}", world.error(evil));
        let sent = flood(world, receiver, evil, BYTES);
        assert!(sent > 950 * BYTES, "{sent} bytes: what it may");
        let before = world.now();
        world.restart(evil);
        let pause = world.now().since(before).as_millis() as u64 + 1;
        assert!(pause < 100, "too short for a burst");
        flood(world, receiver, evil, pause * BYTES);
        world.restart(evil);
        world.pass(100_000 * MILLISECOND);
        let sent = flood(world, receiver, evil, BURST);
        assert!(sent > BURST + 950 * BYTES, "{sent} bytes: what it may");
    });
}
