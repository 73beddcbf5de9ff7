//! Vifs that come and go while others carry traffic. What is left over is counted
//! by Xen and the toolstack, not by Causeway.

use std::time::Duration;

use anyhow::Result;

use super::streams::Stream;
use crate::config::GuestKind;
use crate::observe::snapshot::Snapshot;
use crate::observe::wire::Mac;
use crate::world::{World, bring_up, gone};

const TIMES: u32 = 20;

/// How long Xen and the toolstack may take to clean up.
pub(super) const SETTLE: Duration = Duration::from_secs(30);

/// The guest's second vif that comes and goes.
const MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 3, 0]);
const IP: &str = "192.168.8.3";

pub(super) fn reattach(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let c = world.peer("c", GuestKind::Pv)?;
    world.allow_on_the_wire(MAC);
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    b.agent.run("ip addr add 192.168.8.2/24 dev eth0", 10)?;
    for _ in 0..TIMES {
        world.attach("c", MAC, "xenbr0")?;
        bring_up(&c.agent, "eth1", IP)?;
        let mut traffic = c.agent.start("exec ping -A -s 1400 192.168.8.2", 120)?;
        traffic.wait_line("seq=5")?;
        world.detach("c", 1)?;
        gone(&c.agent, "eth1")?;
    }
    b.agent.run("ip addr del 192.168.8.2/24 dev eth0", 10)?;
    let stream = stream.end()?.undisturbed()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{TIMES} times, Xen's counts as before, beside it {stream}"))
}

pub(super) fn destroy(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    // The toolstack's first guest of a kind may leave things for the next.
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    for _ in 0..TIMES {
        let d = world.peer("d", GuestKind::Pv)?;
        let mut traffic = d.agent.start(&format!("exec ping -A -s 1400 {}", b.ip), 120)?;
        traffic.wait_line("seq=5")?;
        world.forget("d");
        world.destroy("d")?;
        world.wait_gone("d ", 30)?;
    }
    let stream = stream.end()?.undisturbed()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{TIMES} times, Xen's counts as before, beside it {stream}"))
}
