//! Guests whose sending is limited (`rate=`, P-26).

use std::time::Duration;

use drivers::netback::data::STALL_TIMEOUT;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::{DomainId, Instant};

const NANOSECOND: Duration = Duration::from_nanos(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const JUMBO: (&str, &str) = ("mtu", "65517");
/// What any vif may save up at least.
const BURST: usize = 128 << 10;

/// A guest with this limit, another without, and when the first one connected.
fn limited(rate: &str) -> (World, Id, Id, Instant) {
    let mut world = World::new();
    let b = world.attach_with(1, Manners::default(), &[JUMBO]);
    let a = world.attach_with(0, Manners::default(), &[("rate", rate), JUMBO]);
    assert!(world.is_connected(a), "{:?}", world.error(a));
    let start = world.now();
    (world, a, b, start)
}

/// Has one guest send to another, all at once.
fn send(world: &mut World, from: Id, to: Id, lens: &[usize]) {
    for &len in lens {
        let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
        world[from].queue(&Outgoing::whole(&frame));
    }
    world[from].kick();
    world.settle();
}

/// When packets arrived, since `start`, and how long they are.
fn arrivals(world: &World, id: Id, start: Instant) -> Vec<(Duration, usize)> {
    let packets = world[id].received.iter();
    packets.map(|packet| (packet.at.since(start), packet.bytes.len())).collect()
}

/// P-26: a vif starts with one interval's bytes; what it sends beyond stays in its ring,
/// unanswered and not even looked at, until the interval ends, to the nanosecond; nothing
/// is dropped, reordered or copied again.
#[test]
fn p26_bytes_pass_by_the_interval() {
    let (mut world, a, b, start) = limited("10000,50000");
    send(&mut world, a, b, &[1000; 35]);
    for interval in 0..4 {
        let all = (10 * (interval + 1)).min(35);
        let expected: Vec<_> =
            (0..all).map(|n| (50 * MILLISECOND * (n as u32 / 10), 1000)).collect();
        assert_eq!(arrivals(&world, b, start), expected);
        assert_eq!(world[a].unanswered(), 35 - all);
        let (counts, turns) = (world.xen.counts(), world.turns);
        world.pass(50 * MILLISECOND - NANOSECOND);
        assert_eq!(world.xen.counts(), counts, "no hypercall before its time");
        assert_eq!(world.turns, turns, "nobody looks meanwhile");
        assert_eq!(world.network.pools().tracker.counters().outstanding(), 0, "nothing is held");
        world.pass(NANOSECOND);
    }
    assert_eq!(world[a].answers.len(), 35);
    // The last half interval's bytes are saved up, and those of idle ones.
    send(&mut world, a, b, &[5000, 9986, 14, 14]);
    world.pass(50 * MILLISECOND);
    let at = |milliseconds, len| (milliseconds * MILLISECOND, len);
    let last = &arrivals(&world, b, start)[35..];
    assert_eq!(last, [at(200, 5000), at(200, 9986), at(200, 14), at(250, 14)]);
    world.end();
}

/// Idle time is worth no more than a burst, or one interval's bytes where that is more.
#[test]
fn p26_a_burst_has_a_bound() {
    for (rate, burst) in [("1000,1000", BURST), ("200000,1000", 200_000)] {
        let (mut world, a, b, _) = limited(rate);
        world.pass(3600 * SECOND);
        let now = world.now();
        send(&mut world, a, b, &[1024; 220]);
        let at_once = world[b].received.iter().filter(|packet| packet.at == now).count();
        assert_eq!(at_once, burst / 1024);
        world.pass(SECOND);
        assert_eq!(world[b].received.len(), 220, "the rest follows");
        world.end();
    }
}

/// A packet of many slots that is longer than all the credit of an interval passes as soon
/// as enough of them have ended; what is behind it waits for it.
#[test]
fn p26_the_longest_packet_passes_in_time() {
    let (mut world, a, b, start) = limited("10000,50000");
    send(&mut world, a, b, &[9000, 65_531, 100]);
    world.pass(10 * SECOND);
    let expected = [
        (Duration::ZERO, 9000),
        // 1000 are left, and seven times 10000 come.
        (350 * MILLISECOND, 65_531),
        (350 * MILLISECOND, 100),
    ];
    assert_eq!(arrivals(&world, b, start), expected);
    world.end();
    // Of one byte a millisecond.
    let (mut world, a, b, start) = limited("1,1000");
    send(&mut world, a, b, &[65_531]);
    world.pass(65_530 * MILLISECOND - NANOSECOND);
    assert_eq!(world[b].received, []);
    world.pass(NANOSECOND);
    assert_eq!(arrivals(&world, b, start), [(65_530 * MILLISECOND, 65_531)]);
    world.end();
}

/// P-26: the toolstack's word counts at any time: what waits goes by the new limit at once.
/// What is no rate changes nothing, and is told once.
#[test]
fn p26_the_limit_changes_while_packets_wait() {
    let (mut world, a, b, start) = limited("10000,50000");
    send(&mut world, a, b, &[1000; 50]);
    let mut passed = 0;
    for (rate, pass) in [("5000,20000", 5), ("none", 0), ("0,0", 0), ("20000,20000", 20)] {
        passed = world[b].received.len();
        world.set_own(a, "rate", rate);
        world.settle();
        assert_eq!(world[b].received.len(), passed + pass, "{rate}");
    }
    assert_eq!(passed, 15);
    let told = journal(Level::Warn, "rate is malformed; what it was before stays");
    assert_eq!(told.len(), 1);
    world.pass(20 * MILLISECOND - NANOSECOND);
    assert_eq!(world[b].received.len(), 35);
    world.pass(NANOSECOND);
    assert_eq!(world[b].received.len(), 50);
    assert!(arrivals(&world, b, start).iter().all(|(at, _)| *at <= 20 * MILLISECOND));
    // Without a limit, and the same for who is not connected then.
    let path = format!("{}/rate", world[a].vif().backend_dir());
    world.store.act(DomainId::ZERO).remove(&path).unwrap();
    world.settle();
    send(&mut world, a, b, &[1000; 200]);
    assert_eq!(world[b].received.len(), 250);
    world.detach(a).unwrap();
    world.end();
}

/// A request costs what it says, be it good or not; events meanwhile change nothing, nor
/// what the guest does to a slot that was read.
#[test]
fn p26_what_waits_cannot_be_changed() {
    let (mut world, a, b, start) = limited("10000,50000");
    send(&mut world, a, b, &[10_000, 9000]);
    let (guest, port) = (world[a].guest.clone(), world[a].rings.port);
    // The second packet's first slot says 14 bytes now.
    let place = world[a].rings.tx_page.0;
    let first = 64 + (world[a].manners.start.wrapping_add(3) as usize % 256) * 12;
    guest.page(place).write_bytes(first + 10, &14u16.to_le_bytes());
    for _ in 0..100 {
        guest.notify(port);
        world.settle();
    }
    assert_eq!(world[b].received.len(), 1);
    world.pass(50 * MILLISECOND);
    let expected = [(Duration::ZERO, 10_000), (50 * MILLISECOND, 9000)];
    assert_eq!(arrivals(&world, b, start), expected);
    world.end();
}

/// A guest is limited alone, and in what it sends alone.
#[test]
fn p26_others_go_on() {
    let (mut world, a, b, start) = limited("100,1000000");
    let c = world.attach(2);
    send(&mut world, a, c, &[100, 100]);
    send(&mut world, b, a, &[1000; 50]);
    send(&mut world, b, c, &[1000; 50]);
    assert_eq!(world[a].received.len(), 50);
    assert_eq!(world[c].received.len(), 51);
    world.pass(SECOND);
    assert_eq!(arrivals(&world, c, start)[51..], [(SECOND, 100)]);
    world.end();
}

/// A frontend that connects anew has what it had left, not more.
#[test]
fn p26_connecting_anew_does_not_pay() {
    let (mut world, a, b, start) = limited("10000,20000000");
    send(&mut world, a, b, &[9000]);
    for _ in 0..3 {
        world.restart(a);
        send(&mut world, a, b, &[1001]);
        assert_eq!(world[b].received.len(), 1);
    }
    world.restart(a);
    send(&mut world, a, b, &[1000, 1000]);
    assert_eq!(world[b].received.len(), 2);
    assert!(world.now().since(start) < 20 * SECOND);
    world.pass(20 * SECOND - world.now().since(start));
    assert_eq!(arrivals(&world, b, start)[2..], [(20 * SECOND, 1000)]);
    world.end();
}

/// One that waits for credit can be detached, destroyed and killed, and what it has in its
/// ring harms nothing.
#[test]
fn p26_a_limited_guest_goes() {
    type End = fn(&mut World, Id) -> Result<(), xen::fake_store::DetachError>;
    for end in [World::detach as End, World::destroy as End, World::kill as End] {
        let (mut world, a, b, _) = limited("100,1000000");
        send(&mut world, a, b, &[1000; 20]);
        assert_eq!(world[b].received, []);
        assert_eq!(end(&mut world, a), Ok(()));
        world.pass(STALL_TIMEOUT);
        world.check_at_rest();
        world.end();
    }
}
