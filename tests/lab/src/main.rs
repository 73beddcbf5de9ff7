//! The command line of the lab.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::config::{Door, Virt};
use lab::lab::{Lab, Options};
use lab::world::Backend;
use lab::{bench, places, runner, scenarios, setup, shell};

/// How long a person may use a shell.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

const USAGE: &str = "usage: lab COMMAND
  setup                 make what a boot needs, and cache it
  list                  list the scenarios
  test ELF [NAME ...]   show on real Xen what the named scenarios show, or all
  bench ELF [--rounds N] [--out DIR]
                        measure ELF side by side with Linux driver domains: 5 rounds,
                        into docs/bench; a single round is quick, and leaves out memory
  bench-report [DIR]    make that report again from its samples
  demo ELF              show the main job, briefly
  shell [ELF]           boot Xen and open a shell in dom0; ELF is there as /lab/causeway
  up DOOR ELF           boot Xen and start ELF as the driver domain by DOOR (pvh, firmware)
With `linux` or `linux-hvm` for ELF, test runs a Linux driver domain in Causeway's
place, paravirtual or hardware-virtualised.";

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
        ["list"] => {
            for scenario in scenarios::ALL {
                println!("{:14} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        ["test", "linux", names @ ..] => {
            runner::run(&runner::select(names)?, &Backend::Linux(Virt::Pv))
        }
        ["test", "linux-hvm", names @ ..] => {
            runner::run(&runner::select(names)?, &Backend::Linux(Virt::Hvm))
        }
        ["test", elf, names @ ..] => runner::run(&runner::select(names)?, &causeway(elf)?),
        ["bench", elf, options @ ..] => measure(elf, options),
        ["bench-report"] => bench::redraw(&bench_dir()),
        ["bench-report", dir] => bench::redraw(Path::new(dir)),
        ["demo", elf] => runner::run(&[&scenarios::DEMO], &causeway(elf)?),
        ["shell"] => open_shell(None),
        ["shell", elf] => open_shell(Some(elf.into())),
        ["up", "pvh", elf] => up(Door::Pvh, Path::new(elf)),
        ["up", "firmware", elf] => up(Door::Firmware, Path::new(elf)),
        _ => bail!("{USAGE}"),
    }
}

fn causeway(elf: &str) -> Result<Backend> {
    if !Path::new(elf).is_file() {
        bail!("{elf} is not there; `make build` makes it");
    }
    Ok(Backend::Causeway(elf.into()))
}

/// Where the report is kept.
fn bench_dir() -> PathBuf {
    places::checkout().join("docs/bench")
}

fn measure(elf: &str, mut options: &[&str]) -> Result<()> {
    causeway(elf)?;
    let (mut rounds, mut out) = (5, bench_dir());
    while let [name, value, rest @ ..] = options {
        match *name {
            "--rounds" => rounds = value.parse().context("a number of rounds")?,
            "--out" => out = value.into(),
            _ => bail!("{USAGE}"),
        }
        options = rest;
    }
    if !options.is_empty() {
        bail!("{USAGE}");
    }
    bench::run(Path::new(elf), rounds, &out)
}

/// The logs stay in the run's directory.
fn open_shell(causeway: Option<PathBuf>) -> Result<()> {
    let options = Options { causeway, ..Options::new("shell") };
    let lab = Lab::boot(&options)?;
    lab.set_limit(A_DAY);
    eprintln!("lab: Xen is up, logs in {}", lab.run_dir().display());
    shell::run(lab.dom0())
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
