//! Vifs that come and go while others carry traffic. What is left over is counted
//! by Xen and the toolstack, not by Causeway.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::measure::ping;
use super::streams::Stream;
use crate::agent::transfer::Transferred;
use crate::config::{DRIVER_DOMAIN, GuestKind};
use crate::observe::snapshot::Snapshot;
use crate::observe::wire::Mac;
use crate::world::{World, bring_up, gone};

const TIMES: u32 = 20;

/// A guest that is destroyed has to be created before, which takes the emulator a while.
const DEATHS: u32 = 4;

/// What a vif carries when it goes: something at any time, but not so much that the
/// toolstack gets no time to run.
const PING: &str = "exec ping -i 0.01 -s 1400";

/// How long Xen and the toolstack may take to clean up.
pub(super) const SETTLE: Duration = Duration::from_secs(30);

/// The guest's second vif that comes and goes.
const MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 3, 0]);
const IP: &str = "192.168.8.3";

/// Where a guest receives that is saved meanwhile.
const SAVED_PORT: u16 = 7002;

pub(super) fn reattach(world: &mut World) -> Result<String> {
    reattach_times(world, TIMES)
}

pub(super) fn reattach_often(world: &mut World) -> Result<String> {
    reattach_times(world, 10 * TIMES)
}

fn reattach_times(world: &mut World, times: u32) -> Result<String> {
    let (a, b) = world.pair()?;
    let c = world.peer("c", GuestKind::PvLarge)?;
    world.allow_on_the_wire(MAC);
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    b.agent.run("ip addr add 192.168.8.2/24 dev eth0", 10)?;
    for _ in 0..times {
        world.attach("c", MAC, "xenbr0")?;
        bring_up(&c.agent, "eth1", IP)?;
        let mut traffic = c.agent.start(&format!("{PING} 192.168.8.2"), 120)?;
        traffic.wait_line("seq=5")?;
        world.detach("c", 1)?;
        gone(&c.agent, "eth1")?;
    }
    b.agent.run("ip addr del 192.168.8.2/24 dev eth0", 10)?;
    let stream = stream.end()?.undisturbed()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{times} times, Xen's counts as before, beside it {stream}"))
}

pub(super) fn destroy(world: &mut World) -> Result<String> {
    destroy_times(world, DEATHS)
}

pub(super) fn destroy_often(world: &mut World) -> Result<String> {
    destroy_times(world, 10 * DEATHS)
}

fn destroy_times(world: &mut World, times: u32) -> Result<String> {
    let (a, b) = world.pair()?;
    // The toolstack's first guest of a kind may leave things for the next.
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    for _ in 0..times {
        let d = world.peer("d", GuestKind::Pv)?;
        let mut traffic = d.agent.start(&format!("{PING} {}", b.ip), 120)?;
        traffic.wait_line("seq=5")?;
        world.forget("d");
        world.destroy("d")?;
        world.wait_gone("d ", 30)?;
    }
    let stream = stream.end()?.undisturbed()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{times} times, Xen's counts as before, beside it {stream}"))
}

/// A guest is saved in the middle of a transfer to it, and restored: the connection goes on,
/// through a vif of another domain's.
pub(super) fn save(world: &mut World) -> Result<String> {
    const MIB: u32 = 32;
    let (a, b) = world.pair()?;
    let before = lent(world)?;
    let address = format!("{}:{SAVED_PORT}", b.ip);
    // By itself: the agent's connection ends with the domain.
    b.agent.run(
        &format!(
            "setsid lab-agent transfer-serve {address} > /tmp/served 2>&1 &\n\
             until grep -q listening /tmp/served; do sleep 0.1; done"
        ),
        20,
    )?;
    let put = a.agent.start(&format!("exec lab-agent transfer-put {address} {MIB}"), 900)?;
    let received = "/sys/class/net/eth0/statistics/rx_bytes";
    b.agent.run(
        &format!(
            "start=$(cat {received})\n\
             until [ $(($(cat {received}) - start)) -gt 1000000 ]; do sleep 0.02; done"
        ),
        120,
    )?;
    world.lab().save_and_restore("b")?;
    let put = put.wait()?;
    let transferred: Transferred = put
        .stdout
        .trim()
        .parse()
        .with_context(|| format!("{:?}: {} {}", put.exit, put.stdout, put.stderr))?;
    let round_trip = ping(&a.agent, b.ip, 20)?;
    let after = lent(world)?;
    if before != after {
        bail!("{before} of b's pages were in use before, {after} are now");
    }
    world.forget("b");
    world.destroy("b")?;
    world.wait_gone("b ", 30)?;
    Ok(format!(
        "{MIB} MiB arrive intact, {:.0} s with the pause; round trip {round_trip:.2} ms; {after} \
         pages in use as before",
        transferred.time.as_secs_f64()
    ))
}

/// How many of b's pages Causeway has in use: its rings, at rest.
fn lent(world: &World) -> Result<usize> {
    let snapshot = Snapshot::take(world.lab())?;
    Ok(snapshot.grants(world.domain_id("b")?, world.domain_id(DRIVER_DOMAIN)?))
}

/// As many guests as the machine's memory holds, each of which reaches the next.
pub(super) fn crowd(world: &mut World) -> Result<String> {
    // MiB: a guest's, and what Xen and the toolstack take beside it.
    const ROOM: u32 = 128 + 32;
    let mut guests = Vec::new();
    for name in 'a'..='z' {
        let free: u32 = world.xl("info free_memory", 20)?.trim().parse()?;
        if free < ROOM {
            break;
        }
        guests.push(world.peer(&name.to_string(), GuestKind::Pv)?);
        println!("        {} guests", guests.len());
    }
    let mut slowest = 0f64;
    for (from, to) in guests.iter().zip(guests.iter().cycle().skip(1)) {
        slowest = slowest.max(ping(&from.agent, to.ip, 10)?);
    }
    let counters = world.counters()?;
    let heap = counters.line("heap").context("Causeway's heap")?.to_owned();
    world.clear()?;
    Ok(format!("{} guests, the slowest round trip {slowest:.2} ms; heap {heap}", guests.len()))
}
