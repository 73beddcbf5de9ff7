//! Runs scenarios and reports, one line each.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::evidence;
use crate::scenarios::{self, Scenario};
use crate::world::{Backend, World};

/// How often one scenario may meet the emulator's own failure.
const EMULATOR_FAILURES: u32 = 3;

/// The scenarios of these names; without any, those that run by default.
pub fn select(names: &[&str]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenarios::ALL.iter().filter(|scenario| scenario.by_default).collect());
    }
    names
        .iter()
        .map(|name| {
            scenarios::ALL
                .iter()
                .find(|scenario| scenario.name == *name)
                .with_context(|| format!("there is no scenario {name}; see lab list"))
        })
        .collect()
}

/// Runs scenarios, as many as possible in one boot. Fails if one failed.
pub fn run(selected: &[&Scenario], backend: &Backend) -> Result<()> {
    let mut world = None;
    let mut failures = Vec::new();
    for scenario in selected {
        if scenario.alone {
            world = None;
        }
        if let Err(error) = run_one(scenario, backend, &mut world) {
            failures.push(format!("{}: {error:#}", scenario.name));
        }
        if scenario.alone {
            world = None;
        }
    }
    println!("{} passed, {} failed", selected.len() - failures.len(), failures.len());
    if !failures.is_empty() {
        // Once more, where whoever has only the last lines sees them.
        bail!("scenarios failed\n{}", failures.join("\n"));
    }
    Ok(())
}

/// Runs one scenario in `world`, or a new one where there is none. After a failure
/// there is none again: the next scenario must not suffer from it.
fn run_one(scenario: &Scenario, backend: &Backend, world: &mut Option<World>) -> Result<()> {
    let name = scenario.name;
    let mut emulator_failures = 0;
    loop {
        let start = Instant::now();
        match attempt(scenario, backend, world) {
            Ok(figures) => {
                println!("ok      {name}: {figures} ({:.1} s)", start.elapsed().as_secs_f32());
                return Ok(());
            }
            Err(error) => {
                let world = world.take();
                if let Some(world) = &world
                    && world.emulator_failed()
                    && emulator_failures < EMULATOR_FAILURES
                {
                    emulator_failures += 1;
                    println!("again   {name}: the emulator failed ({emulator_failures}), not Xen");
                    continue;
                }
                println!("FAILED  {name} ({:.1} s): {error:#}", start.elapsed().as_secs_f32());
                if let Some(world) = &world {
                    evidence::collect(world.lab());
                    println!(
                        "        consoles, logs, dumps, wire.pcap: {}",
                        world.lab().run_dir().display()
                    );
                }
                return Err(error);
            }
        }
    }
}

fn attempt(scenario: &Scenario, backend: &Backend, world: &mut Option<World>) -> Result<String> {
    let world = match world {
        Some(world) => world,
        None => world.insert(World::boot(scenario.name, backend)?),
    };
    world.lab().set_limit(scenario.limit);
    let figures = (scenario.run)(world)?;
    let frames = world.check_invariants()?;
    Ok(if frames > 0 { format!("{figures}; {frames} right frames on the wire") } else { figures })
}
