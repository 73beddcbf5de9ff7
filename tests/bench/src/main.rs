//! `bench count CASE ROUNDS` runs rounds of a case, to be looked at from outside;
//! `bench report DIRECTORY` counts the instructions of all cases, and writes them down
//! beside the nanoseconds that `cargo bench` found.

mod callgrind;
mod plot;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::{Workbench, cases};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count", name, rounds] => count(name, rounds),
        ["report", directory] => report::write(Path::new(directory)),
        _ => Err(anyhow::anyhow!("usage: bench count CASE ROUNDS | bench report DIRECTORY")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn count(name: &str, rounds: &str) -> Result<()> {
    let Some(case) = cases().into_iter().find(|case| case.name() == name) else {
        bail!("there is no case {name}");
    };
    let mut bench = Workbench::new(case);
    let rounds = rounds.parse().context("ROUNDS is not a number")?;
    let packets: usize = (0..rounds).map(|_| bench.round().0).sum();
    println!("{packets}");
    Ok(())
}
