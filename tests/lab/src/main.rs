//! The command line of the lab.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::config::Door;
use lab::lab::{Lab, Options};
use lab::setup;

const USAGE: &str = "usage: lab COMMAND
  setup            make what a boot needs, and cache it
  up DOOR ELF      boot Xen and start ELF as the driver domain by DOOR (pvh, firmware)";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["setup"] => {
            let start = Instant::now();
            setup::setup()?;
            println!("set up in {:.2} s", start.elapsed().as_secs_f32());
            Ok(())
        }
        ["up", "pvh", elf] => up(Door::Pvh, Path::new(elf)),
        ["up", "firmware", elf] => up(Door::Firmware, Path::new(elf)),
        _ => bail!("{USAGE}"),
    }
}

/// Boots Causeway once and shows what it said.
fn up(door: Door, elf: &Path) -> Result<()> {
    let options = Options { causeway: Some(elf.into()), ..Options::new("up") };
    let lab = Lab::boot(&options)?;
    println!("lab: Xen is up, logs in {}", lab.run_dir().display());
    let mark = lab.serial().len();
    let console = lab.driver_domain(door)?;
    let ready = console.wait(&["causeway", "ready"], Duration::from_secs(20));
    println!("--- xl list\n{}", lab.dom0().run("xl list", 20)?);
    println!("--- Xen's console since\n{}", lab.serial().since(mark));
    println!("--- the domain's console\n{}", console.since(0));
    ready.context("the driver domain is not ready").map(drop)
}
