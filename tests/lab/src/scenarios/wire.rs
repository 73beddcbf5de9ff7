//! The other end of the NIC's wire: honest, hostile, stalled.

use std::time::Duration;

use anyhow::{Result, bail};

use super::measure::{ping, transfer, transfer_between};
use super::streams::{InwardStream, OutwardStream};
use crate::agent::transfer::Transferred;
use crate::wire_peer::{self, Garbage, KINDS};
use crate::world::{Peer, World};

const MIB: u64 = 32;

/// Any would do; this one can be said when a run fails.
const SEED: u64 = 0xCA05;

/// Between two bursts: what the slowest of machines can take beside honest traffic.
const GARBAGE_INTERVAL: Duration = Duration::from_millis(8);

/// For how many seconds the peer stalls.
const STALL: u32 = 5;

pub(super) fn wire(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    Ok(format!(
        "{}; beside garbage {}; {}",
        honest(world, &a)?,
        garbage(world, &a, &b)?,
        stalled(world, &a)?
    ))
}

fn honest(world: &World, a: &Peer) -> Result<String> {
    let round_trip = ping(&a.agent, wire_peer::IP, 20)?;
    let outward = OutwardStream::start(a)?;
    let inward = InwardStream::start(world.wire_peer(), a)?;
    let out = transfer(&a.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let back = transfer(&a.agent, "get", wire_peer::SERVER, MIB)?.mbit_per_second();
    let outward = outward.end(world.wire_peer())?.undisturbed()?;
    let inward = inward.end(world.wire_peer())?.undisturbed()?;
    Ok(format!(
        "round trip {round_trip:.2} ms, {MIB} MiB out at {out:.0} Mbit/s, in at {back:.0} Mbit/s, \
         beside it {outward} out, {inward} in"
    ))
}

/// Transfers between guests and to the wire, both hashed, while garbage comes in.
fn garbage(world: &World, a: &Peer, b: &Peer) -> Result<String> {
    let wire_peer = world.wire_peer();
    let victims = [a, b].map(|peer| (peer.mac, peer.ip.octets())).to_vec();
    wire_peer.begin_litter(Garbage::new(SEED, victims), GARBAGE_INTERVAL);
    let outward =
        b.agent.start(&format!("lab-agent transfer-put {} {MIB}", wire_peer::SERVER), 600)?;
    let between = transfer_between(&a.agent, &b.agent, b.ip, MIB);
    let outward = outward.wait()?;
    let back = transfer(&a.agent, "get", wire_peer::SERVER, MIB);
    let sent = wire_peer.end_litter();
    let between = between?.mbit_per_second();
    let back = back?.mbit_per_second();
    if !outward.exit.success() {
        bail!("to the wire beside garbage: {}", outward.stderr);
    }
    let out = outward.stdout.trim().parse::<Transferred>()?.mbit_per_second();
    if let Some(kind) = KINDS.iter().find(|kind| !sent.contains_key(kind)) {
        bail!("no {kind:?} was sent: {sent:?}");
    }
    let frames: u64 = sent.values().sum();
    Ok(format!(
        "({frames} frames) {between:.0} Mbit/s between guests and {out:.0} Mbit/s out, \
         {back:.0} Mbit/s in"
    ))
}

/// A transfer in which the peer stops to read for a while.
fn stalled(world: &World, a: &Peer) -> Result<String> {
    let command = format!("lab-agent transfer-put {} {MIB}", wire_peer::SERVER);
    let running = a.agent.start(&command, 600)?;
    ping(&a.agent, wire_peer::IP, 1)?;
    world.wire_peer().stall();
    let pings = format!("ping -c {STALL} -W 1 {}", wire_peer::IP);
    let answered = a.agent.output(&pings, STALL + 30);
    world.wire_peer().go_on();
    if answered?.exit.success() {
        bail!("the peer answered while it stalled");
    }
    let transferred = running.wait()?;
    if !transferred.exit.success() {
        bail!("a transfer does not survive a stall: {}", transferred.stderr);
    }
    let seconds = transferred.stdout.trim().parse::<Transferred>()?.time.as_secs_f32();
    let round_trip = ping(&a.agent, wire_peer::IP, 20)?;
    Ok(format!(
        "{MIB} MiB out in {seconds:.1} s with a stall in it, afterwards round trip {round_trip:.2} ms"
    ))
}
