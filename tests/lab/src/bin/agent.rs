//! The agent: what the harness runs inside dom0 and the guests.
//!
//! `lab-agent serve PORT` executes the harness's commands; `lab-agent relay PORT`
//! joins a guest's port, seen from dom0, to standard input and output. The other
//! subcommands are traffic with a known content.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lab::serve;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", port] => serve::serve(port).with_context(|| format!("serving {port}")),
        ["relay", port] => serve::relay(port).with_context(|| format!("relaying {port}")),
        _ => bail!("usage: lab-agent serve PORT | relay PORT"),
    }
}
