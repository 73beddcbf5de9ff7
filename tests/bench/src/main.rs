//! `bench count CASE ROUNDS` runs rounds of a case, to be looked at from outside, and
//! `bench trace CASE ROUNDS` with marks for a trace;
//! `bench report DIRECTORY` counts the instructions of all cases, and the cache lines that
//! several vCPUs share, and writes them down beside the nanoseconds that `cargo bench` found.

mod callgrind;
mod lines;
mod plot;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::{Workbench, cases, marks};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count", name, rounds] => count(name, rounds),
        ["trace", name, rounds] => trace(name, rounds),
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

/// Says where a trace finds the marks and the stack, and counts from the second half of the
/// rounds on.
fn trace(name: &str, rounds: &str) -> Result<()> {
    let near = 0u8;
    println!("{} {}", marks::address(), (&raw const near).addr());
    let (mut bench, rounds) = set_up(name, rounds)?;
    let mut packets = 0;
    for round in 0..rounds {
        if round == rounds / 2 {
            marks::mark(marks::START);
            packets = 0;
        }
        packets += bench.round().0;
    }
    println!("{packets}");
    Ok(())
}

fn count(name: &str, rounds: &str) -> Result<()> {
    let (mut bench, rounds) = set_up(name, rounds)?;
    let packets: usize = (0..rounds).map(|_| bench.round().0).sum();
    println!("{packets}");
    Ok(())
}

fn set_up(name: &str, rounds: &str) -> Result<(Workbench, usize)> {
    let Some(case) = cases().into_iter().find(|case| case.name() == name) else {
        bail!("there is no case {name}");
    };
    Ok((Workbench::new(case), rounds.parse().context("ROUNDS is not a number")?))
}
