//! Instructions, by valgrind's callgrind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bench::Case;

/// Rounds before anything is compared, and those that are.
const ROUNDS: [usize; 2] = [20, 60];

/// Where counting begins and stops.
const SWITCHED_BY: [&str; 4] = [
    "bench::workbench::pass",
    "bench::metered::beyond",
    "<drivers::fake::device::Bar as kernel::memory::registers::Registers>::read",
    "<drivers::fake::device::Bar as kernel::memory::registers::Registers>::write",
];

/// How many instructions a packet takes. What setting up takes is in both of two runs.
pub fn instructions_per_packet(case: &Case, scratch: &Path) -> Result<f64> {
    let [less, more] = ROUNDS;
    let (few, early) = run(case, less, scratch)?;
    let (many, late) = run(case, more, scratch)?;
    ensure!(many > few && late > early, "{}: nothing was counted", case.name());
    Ok((late - early) as f64 / (many - few) as f64)
}

/// Packets and instructions.
fn run(case: &Case, rounds: usize, scratch: &Path) -> Result<(u64, u64)> {
    let out = scratch.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind", "--collect-atstart=no"]);
    valgrind.args(SWITCHED_BY.map(|name| format!("--toggle-collect={name}")));
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(std::env::current_exe()?).args(["count", &case.name(), &rounds.to_string()]);
    let output = valgrind.output().context("valgrind, of the package of that name")?;
    if !output.status.success() {
        bail!("{}: {}", case.name(), String::from_utf8_lossy(&output.stderr));
    }
    let packets = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let text = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    Ok((packets, total(&text).context("callgrind counted nothing")?))
}

fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_is_read() {
        let text = "version: 1\nevents: Ir\nfn=(1)\n1 2\ntotals: 4711\n";
        assert_eq!(super::total(text), Some(4711));
        assert_eq!(super::total("events: Ir\n"), None);
    }
}
