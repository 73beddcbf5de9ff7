//! The least memory with which a driver domain serves two guests and the wire.

use std::time::Duration;

use anyhow::{Result, bail};

use super::rows::suffices;
use super::sides::Side;
use crate::config::DRIVER_DOMAIN;
use crate::world::{World, bring_up, gone};

/// MiB that are tried, by side; found by halving.
const CAUSEWAY: &[u32] = &[10, 12, 14, 16, 20, 24];
const LINUX: &[u32] = &[48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256];

/// How long a driver domain may take to serve; one without memory often just hangs.
const STARTS: Duration = Duration::from_secs(40);

/// The least of what is tried that suffices. Guests stay; they are attached anew.
pub(super) fn least(world: &mut World, side: Side, tell: &dyn Fn(&str)) -> Result<u32> {
    let sizes = if side == Side::Causeway { CAUSEWAY } else { LINUX };
    let (mut low, mut high) = (0, sizes.len());
    while low < high {
        let middle = (low + high) / 2;
        let result = attempt(world, side, sizes[middle]);
        // The emulator's own failures are no sign of too little memory.
        if world.emulator_failed() {
            bail!("the emulator failed");
        }
        match result {
            Ok(()) => {
                tell(&format!("{} MiB suffice", sizes[middle]));
                high = middle;
            }
            Err(error) => {
                tell(&format!("{} MiB do not: {error}", sizes[middle]));
                low = middle + 1;
            }
        }
    }
    match sizes.get(low) {
        Some(size) => Ok(*size),
        None => bail!("nothing that was tried suffices"),
    }
}

fn attempt(world: &mut World, side: Side, mib: u32) -> Result<()> {
    if world.dom0().run(&format!("xl domid {DRIVER_DOMAIN}"), 20).is_ok() {
        world.destroy(DRIVER_DOMAIN)?;
        world.wait_gone(DRIVER_DOMAIN, 30)?;
    }
    let config = format!("{}\nmemory = {mib}\non_reboot = 'destroy'\n", side.config()?);
    let console = world.lab().create(DRIVER_DOMAIN, &config, "")?;
    let line = console.wait_from(0, STARTS, |line| side.is_ready(line) || is_short(line))?;
    if !side.is_ready(&line) {
        bail!("{line}");
    }
    let (a, b) = (world.guest("a")?, world.guest("b")?);
    for peer in [&a, &b] {
        let name = peer.agent.name();
        world.attach(name, peer.mac, "xenbr0")?;
        bring_up(&peer.agent, "eth0", peer.ip)?;
    }
    let result = suffices(&a, &b);
    for peer in [&a, &b] {
        world.detach(peer.agent.name(), 0)?;
        gone(&peer.agent, "eth0")?;
    }
    result
}

/// Whether a console tells that memory is short.
fn is_short(line: &str) -> bool {
    ["panic", "Out of memory", "out of memory", "oom-kill", "Cannot allocate", "page allocation"]
        .iter()
        .any(|sign| line.contains(sign))
}
