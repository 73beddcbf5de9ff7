//! The ways into Causeway.

use anyhow::{Context, Result, bail};

use crate::config::Door;
use crate::machine::NIC_MAC;
use crate::world::World;

pub(super) fn pvh(world: &mut World) -> Result<String> {
    world.clear()?;
    let (_, line) = world.start_causeway(Door::Pvh)?;
    describe(&line)
}

pub(super) fn firmware(world: &mut World) -> Result<String> {
    world.clear()?;
    let (console, line) = world.start_causeway(Door::Firmware)?;
    let text = console.since(0);
    for wanted in [NIC_MAC, "link"] {
        if !text.contains(wanted) {
            bail!("the console does not tell the NIC's {wanted}: {text}");
        }
    }
    describe(&line)
}

/// The ready line itself tells how long it took; xl does not know.
fn describe(line: &str) -> Result<String> {
    let (_, said) = line.split_once("causeway ").context("a ready line")?;
    Ok(said.to_owned())
}
