//! What guests leave to others, and what they get whole.

use anyhow::{Context, Result, bail};

use super::measure::{iperf, transfer, transfer_between};
use crate::client::Agent;
use crate::config::GuestKind;
use crate::observe::wire::{LONGEST, LONGEST_JUMBO, Mac};
use crate::wire_peer;
use crate::world::{Peer, World, bring_up};

const MIB: u64 = 16;

/// TCP segments that are still to be cut go uncut from one guest to the other, and cut onto
/// the wire, where every frame is looked at.
pub(super) fn gso(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let mut figures = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        // What is captured is to be what came: nothing that the guest put together itself.
        to.agent.run("ethtool -K eth0 gro off", 10)?;
        let (largest, with) = largest_segment(from, to)?;
        to.agent.run("ethtool -K eth0 gro on", 10)?;
        if largest <= LONGEST {
            bail!("the longest packet that {} got is of {largest} bytes", to.agent.name());
        }
        from.agent.run("ethtool -K eth0 tso off gso off", 10)?;
        let without = transfer_between(&from.agent, &to.agent, to.ip, MIB)?.mbit_per_second();
        from.agent.run("ethtool -K eth0 tso on gso on", 10)?;
        figures.push(format!(
            "to {} in packets of up to {largest} bytes, {with:.0} Mbit/s, against {without:.0} of \
             an Ethernet's",
            to.agent.name()
        ));
    }
    let out = transfer(&a.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let back = transfer(&a.agent, "get", wire_peer::SERVER, MIB)?.mbit_per_second();
    figures.push(format!("to the wire {out:.0} Mbit/s, from it {back:.0}"));
    Ok(figures.join("; "))
}

/// How long the longest TCP segment is that arrives during a transfer, and the transfer's
/// Mbit/s.
fn largest_segment(from: &Peer, to: &Peer) -> Result<(usize, f64)> {
    let filter = format!("src {} and tcp and greater {}", from.ip, LONGEST + 1);
    let command = format!("exec tcpdump -Z root -nn -q -l -s 96 -i eth0 '{filter}' 2>&1");
    let mut capture = to.agent.start(&command, 300)?;
    capture.wait_line("listening on")?;
    let rate = transfer_between(&from.agent, &to.agent, to.ip, MIB)?.mbit_per_second();
    capture.kill()?;
    let captured = capture.wait()?.stdout;
    let lengths = captured.lines().filter_map(|line| line.rsplit_once(" tcp ")?.1.parse().ok());
    Ok((lengths.max().with_context(|| format!("tcpdump printed {captured}"))?, rate))
}

/// Frontends of four queues use four, each way, for sixteen streams.
pub(super) fn queues(world: &mut World) -> Result<String> {
    const QUEUES: u32 = 4;
    let [a, b] = ["q", "r"].map(|name| world.peer(name, GuestKind::PvFourQueues));
    let (a, b) = (a?, b?);
    for peer in [&a, &b] {
        let kinds = peer.agent.run("ls /sys/class/net/eth0/queues", 10)?;
        let count = |kind| kinds.split_whitespace().filter(|queue| queue.starts_with(kind)).count();
        if [count("rx-"), count("tx-")] != [QUEUES as usize; 2] {
            bail!("{} has other queues than four each way: {kinds}", peer.agent.name());
        }
    }
    let rate = iperf(&a.agent, &b.agent, b.ip, "-P 16")?.mbit_per_second;
    let counters = world.counters()?;
    let mut shares = Vec::new();
    for (peer, way) in [(&a, "tx"), (&b, "rx")] {
        let vif = format!("vif{}.0", world.domain_id(peer.agent.name())?);
        for queue in 0..QUEUES {
            match counters.get(&format!("{vif} queue {queue}"), way) {
                None | Some(0) => bail!("{vif} does not use queue {queue} for {way}"),
                Some(packets) => shares.push(packets.to_string()),
            }
        }
    }
    let (sent, received) = shares.split_at(QUEUES as usize);
    let shares = format!("{} sent, {} received", sent.join("+"), received.join("+"));
    for name in ["q", "r"] {
        world.forget(name);
        world.destroy(name)?;
    }
    world.wait_gone("[qr] ", 30)?;
    Ok(format!("16 streams at {rate:.0} Mbit/s, packets by queue: {shares}"))
}

/// Frames of 9000 bytes between two guests, and to the wire and back, in one piece each.
pub(super) fn jumbo(world: &mut World) -> Result<String> {
    const BYTES: u32 = 9000 - 28;
    const COUNT: u64 = 10;
    let (a, b) = world.pair()?;
    world.wire_peer().allow(LONGEST_JUMBO);
    for (n, peer) in [(0, &a), (1, &b)] {
        // An interface answers for its own addresses, and not for another's.
        peer.agent.run("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore", 10)?;
        let mac = Mac([0x00, 0x16, 0x3E, 0, 4, n]);
        world.allow_on_the_wire(mac);
        world.attach_with(peer.agent.name(), mac, "xenbr0", " mtu=9000")?;
        bring_up(&peer.agent, "eth1", format!("192.168.10.{}", 1 + n))?;
        peer.agent.run("ip link set eth1 mtu 9000", 10)?;
    }
    let (own, wire) = ("10.0.2.141", wire_peer::IP.to_string());
    let route = format!("ip route add {wire} dev eth1 src {own}");
    a.agent.run(&format!("ip addr add {own}/32 dev eth1\n{route}"), 10)?;
    let mut figures = Vec::new();
    for (what, to) in [("between guests", "192.168.10.2"), ("to the wire", wire.as_str())] {
        let before = received(&a.agent)?;
        let command = format!("ping -q -s {BYTES} -c {COUNT} -i 0.2 -W 5 {to}");
        let said = a.agent.run(&command, 30)?;
        let packets = received(&a.agent)? - before;
        if !said.contains(" 0% packet loss") || !(COUNT..2 * COUNT).contains(&packets) {
            bail!("{COUNT} packets of 9000 bytes {what} came as {packets}: {said}");
        }
        figures.push(format!("{COUNT} of 9000 bytes {what} in {packets} frames"));
    }
    for peer in [&a, &b] {
        world.detach(peer.agent.name(), 1)?;
    }
    world.wire_peer().allow(LONGEST);
    Ok(figures.join(", "))
}

fn received(agent: &Agent) -> Result<u64> {
    Ok(agent.run("cat /sys/class/net/eth1/statistics/rx_packets", 10)?.trim().parse()?)
}

/// What `rate=` leaves of a guest's throughput.
pub(super) fn rate(world: &mut World) -> Result<String> {
    const LIMIT: f64 = 8.0;
    let (a, b) = world.pair()?;
    let mac = Mac([0x00, 0x16, 0x3E, 0, 5, 0]);
    world.allow_on_the_wire(mac);
    world.attach_with("a", mac, "xenbr0", " rate=8Mb/s")?;
    bring_up(&a.agent, "eth1", "192.168.9.1")?;
    b.agent.run("ip addr add 192.168.9.2/24 dev eth0", 10)?;
    let free = iperf(&a.agent, &b.agent, b.ip, "")?.mbit_per_second;
    let limited = iperf(&a.agent, &b.agent, "192.168.9.2", "")?.mbit_per_second;
    let back = iperf(&b.agent, &a.agent, "192.168.9.1", "")?.mbit_per_second;
    b.agent.run("ip addr del 192.168.9.2/24 dev eth0", 10)?;
    world.detach("a", 1)?;
    // Beside the limit there is a burst at the beginning.
    if limited > 2.0 * LIMIT {
        bail!("{limited:.1} Mbit/s with rate=8Mb/s");
    }
    Ok(format!("{limited:.1} Mbit/s with rate=8Mb/s, {free:.0} without; {back:.0} to the guest"))
}
