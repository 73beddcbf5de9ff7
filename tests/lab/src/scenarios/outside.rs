//! What is beyond the guests: the NIC's wire, dom0, and networks without a wire.

use anyhow::{Context, Result, bail};

use super::measure::{ping, transfer};
use crate::agent::protocol::Exit;
use crate::client::Agent;
use crate::config::GuestKind;
use crate::observe::wire::Mac;
use crate::wire_peer::{self, gateway};
use crate::world::{Backend, World, bring_up, gone};

const MIB: u64 = 16;

/// dom0's vif.
const DOM0_MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 1, 0]);
const DOM0_IP: &str = "10.0.2.100";

pub(super) fn guest(world: &mut World) -> Result<String> {
    let (a, _) = world.pair()?;
    let figures = reach_outside(&a.agent)?;
    if matches!(world.backend(), Backend::Linux(_)) {
        return Ok(figures);
    }
    // What the device can do of all that, it has done.
    let counters = world.counters()?;
    let counter = |name| counters.get("NIC", name);
    let cut = counter("segmented").context("the NIC cuts no segments")?;
    let verified = counter("checksums verified").context("the NIC verifies no checksums")?;
    let joined = counter("joined").unwrap_or(0);
    Ok(format!(
        "{figures}; the NIC cut {cut} packets and verified {verified}, of which {joined} were joined"
    ))
}

/// Ping, and hashed transfers each way, over the NIC.
fn reach_outside(from: &Agent) -> Result<String> {
    let round_trip = ping(from, wire_peer::IP, 20)?;
    ping(from, gateway::IP, 20).context("the user-mode network's gateway")?;
    let out = transfer(from, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let back = transfer(from, "get", wire_peer::SERVER, MIB)?.mbit_per_second();
    Ok(format!(
        "round trip {round_trip:.2} ms, {MIB} MiB out at {out:.0} Mbit/s, in at {back:.0} Mbit/s"
    ))
}

pub(super) fn dom0(world: &mut World) -> Result<String> {
    let (a, _) = world.pair()?;
    world.allow_on_the_wire(DOM0_MAC);
    let dom0 = world.dom0();
    dom0.run("modprobe xen-netfront", 20)?;
    world.attach("0", DOM0_MAC, "xenbr0")?;
    bring_up(dom0, "eth0", DOM0_IP)?;
    let outside = reach_outside(dom0)?;
    let round_trip = ping(dom0, a.ip, 20)?;
    ping(&a.agent, DOM0_IP, 20)?;
    world.detach("0", 0)?;
    gone(dom0, "eth0")?;
    Ok(format!("{outside}; to a guest {round_trip:.2} ms"))
}

/// Two guests get a second vif each, on a bridge that has no NIC. What they send
/// there must be seen neither on the wire, which every scenario's check of the
/// capture sees to, nor on the other network, and the other way round.
pub(super) fn internal(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    for (n, peer) in [(1, &a), (2, &b)] {
        let mac = Mac([0x00, 0x16, 0x3E, 0, 2, n]);
        world.attach(peer.agent.name(), mac, "inside")?;
        bring_up(&peer.agent, "eth1", format!("192.168.7.{n}"))?;
    }
    let round_trip = ping(&a.agent, "192.168.7.2", 20)?;

    // Some frames are the guests' own business; a leak would be as many as are sent.
    const BROADCASTS: u64 = 50;
    for (network, inside) in [("192.168.7.255", true), ("10.0.2.255", false)] {
        let before = received(&b.agent)?;
        a.agent.output(&format!("ping -c {BROADCASTS} -i 0.05 {network}"), 30)?;
        let after = received(&b.agent)?;
        let (eth0, eth1) = (after.0 - before.0, after.1 - before.1);
        let (right, wrong) = if inside { (eth1, eth0) } else { (eth0, eth1) };
        if right < BROADCASTS || wrong > BROADCASTS / 2 {
            bail!("{BROADCASTS} broadcasts to {network}: b saw {eth0} on eth0, {eth1} on eth1");
        }
    }
    for peer in [&a, &b] {
        world.detach(peer.agent.name(), 1)?;
    }
    Ok(format!("round trip {round_trip:.2} ms inside, no broadcast crosses"))
}

/// The NIC belongs to the bridge that `extra=` names, and to no other.
pub(super) fn uplink(world: &mut World) -> Result<String> {
    world.causeway_with("uplink=other")?;
    let a = world.peer("a", GuestKind::Pv)?;
    let mac = Mac([0x00, 0x16, 0x3E, 0, 3, 1]);
    world.allow_on_the_wire(mac);
    world.attach("a", mac, "other")?;
    bring_up(&a.agent, "eth1", "10.0.2.131")?;
    let outside = wire_peer::IP;
    let ping = |interface| a.agent.output(&format!("ping -c 3 -W 5 -I {interface} {outside}"), 30);
    if ping("eth1")?.exit != Exit::Code(0) {
        bail!("nobody outside answers on the uplink's bridge");
    }
    if ping("eth0")?.exit == Exit::Code(0) {
        bail!("somebody outside answers on xenbr0, which has no NIC");
    }
    world.clear()?;
    Ok("the NIC is on the bridge that was named, and not on xenbr0".into())
}

/// Frames that a guest got on its two interfaces.
fn received(agent: &Agent) -> Result<(u64, u64)> {
    let text = agent.run("cat /sys/class/net/eth[01]/statistics/rx_packets", 10)?;
    let (first, second) = text.split_once('\n').context("two interfaces")?;
    Ok((first.trim().parse()?, second.trim().parse()?))
}
