//! An interactive shell in dom0, for people.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::client::Agent;

/// Joins this terminal to a shell in `agent`'s domain until that ends. Without a
/// terminal, standard input is the shell's script.
pub fn run(agent: &Agent) -> Result<()> {
    let terminal = io::stdin().is_terminal();
    let command = if terminal {
        let size = stty(&["size"])?;
        let (rows, columns) = size.trim().split_once(' ').context("a terminal's size")?;
        format!("stty rows {rows} cols {columns}; exec bash -l")
    } else {
        "exec bash".into()
    };
    // `script` gives the shell a terminal of its own in dom0.
    let command = match terminal {
        true => format!("TERM=linux exec script -qfc '{command}' /dev/null"),
        false => format!("{command} 2>&1"),
    };
    let (mut reader, mut writer) = agent.start(&command, u32::MAX)?.into_stream();
    let raw = terminal.then(RawTerminal::enter).transpose()?;
    // At the end of a script the shell still has something to do: the writer, which
    // would kill it when dropped, stays with the thread's handle.
    let _input = thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut writer);
        let _ = writer.close();
        writer
    });
    io::copy(&mut reader, &mut Unbuffered(io::stdout()))?;
    drop(raw);
    Ok(())
}

/// A prompt ends without a newline and must be seen all the same.
struct Unbuffered(io::Stdout);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Passes every key on while it lives.
struct RawTerminal {
    before: String,
}

impl RawTerminal {
    fn enter() -> Result<RawTerminal> {
        let before = stty(&["-g"])?.trim().to_owned();
        stty(&["raw", "-echo"])?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = stty(&[&self.before]);
    }
}

fn stty(args: &[&str]) -> Result<String> {
    let output = Command::new("stty").args(args).stdin(Stdio::inherit()).output()?;
    Ok(String::from_utf8(output.stdout)?)
}
