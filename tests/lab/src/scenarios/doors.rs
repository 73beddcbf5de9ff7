//! The ways into Causeway.

use anyhow::{Context, Result, bail};

use super::measure::ping;
use crate::config::Door;
use crate::machine::NIC_MAC;
use crate::observe::wire::Mac;
use crate::world::{World, bring_up};

/// The smallest domain serves four vifs.
pub(super) fn pvh(world: &mut World) -> Result<String> {
    world.clear()?;
    let (_, line) = world.start_causeway(Door::Pvh)?;
    let (a, b) = world.pair()?;
    for (n, peer) in [(1, &a), (2, &b)] {
        let mac = Mac([0x00, 0x16, 0x3E, 0, 4, n]);
        world.attach(peer.agent.name(), mac, "inside")?;
        bring_up(&peer.agent, "eth1", format!("192.168.9.{n}"))?;
    }
    let outer = ping(&a.agent, b.ip, 5)?;
    let inner = ping(&a.agent, "192.168.9.2", 5)?;
    let said = describe(&line)?;
    Ok(format!("{said}; four vifs on two bridges, round trips {outer:.2} and {inner:.2} ms"))
}

pub(super) fn firmware(world: &mut World) -> Result<String> {
    world.clear()?;
    let (_, line) = world.start_causeway(Door::Firmware)?;
    for wanted in ["us after entry", "16 MiB", NIC_MAC, "link 1000 Mbit/s"] {
        if !line.contains(wanted) {
            bail!("the ready line does not tell {wanted}: {line}");
        }
    }
    describe(&line)
}

/// The ready line itself tells how long it took; xl does not know.
fn describe(line: &str) -> Result<String> {
    let (_, said) = line.split_once("causeway ").context("a ready line")?;
    Ok(said.to_owned())
}
