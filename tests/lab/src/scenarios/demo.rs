//! The main job, for a person to watch: who talks to whom through Causeway, and
//! what it costs.

use std::fs;

use anyhow::{Context, Result};

use super::measure::{ping, transfer, transfer_between};
use super::{Scenario, scenario};
use crate::config::Door;
use crate::wire_peer;
use crate::world::{Backend, World};

/// What each direction carries.
const MIB: u64 = 16;

/// The demonstration; not one of the tests.
pub const DEMO: Scenario = scenario("demo", "the main job", demo);

fn demo(world: &mut World) -> Result<String> {
    let image = match world.backend() {
        Backend::Causeway(elf) => fs::metadata(elf)?.len(),
        Backend::Linux(_) => 0,
    };
    println!("        Xen and dom0 are up; starting Causeway with the NIC");
    let (console, ready) = world.start_causeway(Door::Firmware)?;
    for line in console.since(0).lines() {
        println!("        | {line}");
    }
    println!("        starting two stock Linux guests, a and b");
    let (a, b) = world.pair()?;
    println!("        a and b are connected; measuring");
    let between = ping(&a.agent, b.ip, 20)?;
    let there = transfer_between(&a.agent, &b.agent, b.ip, MIB)?.mbit_per_second();
    let back = transfer_between(&b.agent, &a.agent, a.ip, MIB)?.mbit_per_second();
    let beyond = ping(&a.agent, wire_peer::IP, 20)?;
    let out = transfer(&a.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let into = transfer(&a.agent, "get", wire_peer::SERVER, MIB)?.mbit_per_second();
    let list = world.xl("list driver-domain", 20)?;
    let domain = list.lines().last().context("xl list")?;
    let fields: Vec<&str> = domain.split_whitespace().collect();
    let (memory, seconds) = match fields[..] {
        [_, _, memory, _, _, seconds, ..] => (memory, seconds),
        _ => ("?", "?"),
    };
    let (_, ready) = ready.split_once("] ").context("a ready line")?;
    Ok(format!(
        "all hashes right\n\
         \n\
         \x20 who                          round trip   TCP there     TCP back\n\
         \x20 guest a <-> guest b        {between:>8.2} ms {there:>6.0} Mbit/s {back:>6.0} Mbit/s\n\
         \x20 guest a <-> outside (NIC)  {beyond:>8.2} ms {out:>6.0} Mbit/s {into:>6.0} Mbit/s\n\
         \n\
         \x20 Causeway   {ready}\n\
         \x20 memory     {memory} MiB as xl counts\n\
         \x20 processor  {seconds} s since its start, all of the above in it\n\
         \x20 image      {image} bytes\n\
         \n\
         \x20 The processor is emulated: figures compare with each other, not with hardware.\n"
    ))
}
