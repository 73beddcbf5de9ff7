//! The least memory with which a driver domain serves two guests and the wire.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::rows::suffices;
use super::sides::Side;
use crate::config::DRIVER_DOMAIN;
use crate::world::World;

/// MiB that are tried, by side; found by halving.
const CAUSEWAY: &[u32] = &[8, 10, 12, 14, 16, 20];
const LINUX: &[u32] = &[64, 80, 96, 112, 128, 144, 160, 192, 224];

/// How long a driver domain may take to serve; one without memory often just hangs.
const STARTS: Duration = Duration::from_secs(40);

/// The least of what is tried that suffices. Guests stay; they are attached anew.
pub(super) fn least(world: &mut World, side: Side, elf: &Path, tell: &dyn Fn(&str)) -> Result<u32> {
    let sizes = if side == Side::Causeway { CAUSEWAY } else { LINUX };
    let (mut low, mut high) = (0, sizes.len());
    while low < high {
        let middle = (low + high) / 2;
        let result = attempt(world, side, elf, sizes[middle]);
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
                tell(&format!("{} MiB do not: {error:#}", sizes[middle]));
                low = middle + 1;
            }
        }
    }
    match sizes.get(low) {
        Some(size) => Ok(*size),
        None => bail!("nothing that was tried suffices"),
    }
}

fn attempt(world: &mut World, side: Side, elf: &Path, mib: u32) -> Result<()> {
    world.serve_by(side.backend(elf))?;
    let config = format!("{}\nmemory = {mib}\non_reboot = 'destroy'\n", side.config()?);
    let console = world.lab().create(DRIVER_DOMAIN, &config, "")?;
    world.adopt_driver_domain(console.clone());
    let line = console.wait_from(0, STARTS, |line| side.is_ready(line) || is_short(line))?;
    if !side.is_ready(&line) {
        bail!("{line}");
    }
    let (a, b) = (world.guest("a")?, world.guest("b")?);
    let result = world.plug(&a).and_then(|()| world.plug(&b)).and_then(|()| suffices(&a, &b));
    for peer in [&a, &b] {
        let unplugged = world.unplug(peer);
        if result.is_ok() {
            unplugged?;
        }
    }
    result
}

/// Whether a console tells that memory is short.
fn is_short(line: &str) -> bool {
    ["panic", "Out of memory", "out of memory", "oom-kill", "Cannot allocate", "page allocation"]
        .iter()
        .any(|sign| line.contains(sign))
}
