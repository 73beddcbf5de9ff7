//! What Xen accounts to a domain, and traces of a processor.

use std::cell::RefCell;

use anyhow::{Context, Result};

use crate::agent::trace::Trace;
use crate::client::{Agent, Running};

const PROGRAM: &str = include_str!("../../files/xen-accounting.py");

/// How long dom0 may run the program, which answers for as long as a boot lasts.
const SECONDS: u32 = 24 * 3600;

/// Events that are traced: all ways into Xen, on the driver domain's processor. Xen's
/// buffer takes some megabytes.
const TRACE: &str = "xentrace -c 0x2 -e 0x0028f000 -S 1024 /run/trace";

/// Asks Xen, from dom0.
pub(super) struct Accounting {
    running: RefCell<Running>,
}

impl Accounting {
    pub(super) fn start(dom0: &Agent) -> Result<Accounting> {
        dom0.put("/run/xen-accounting.py", PROGRAM.as_bytes())?;
        let mut running = dom0.start("exec python3 /run/xen-accounting.py", SECONDS)?;
        running.wait_line("listening")?;
        Ok(Accounting { running: RefCell::new(running) })
    }

    /// Seconds that a domain's processors ran.
    pub(super) fn cpu_seconds(&self, domain: u16) -> Result<f64> {
        Ok(self.ask("cpu", domain)? as f64 / 1e9)
    }

    /// Lets a domain run; returns when, in microseconds of dom0's clock.
    pub(super) fn unpause(&self, domain: u16) -> Result<u64> {
        self.ask("unpause", domain)
    }

    fn ask(&self, what: &str, domain: u16) -> Result<u64> {
        let mut running = self.running.borrow_mut();
        running.write(format!("{what} {domain}\n").as_bytes())?;
        let line = running.wait_line("answer")?;
        line.trim_start_matches("answer ").parse().with_context(|| format!("Xen said {line}"))
    }
}

/// Traces the driver domain's processor while something happens.
pub(super) fn traced<T>(dom0: &Agent, happens: impl FnOnce() -> Result<T>) -> Result<(T, Trace)> {
    let trace = dom0.start(&format!("rm -f /run/trace; exec {TRACE}"), 300)?;
    dom0.run("until [ -e /run/trace ]; do sleep 0.1; done", 20).context("xentrace starts")?;
    let result = happens()?;
    dom0.run("kill -INT $(pidof xentrace)", 20)?;
    trace.wait()?;
    let counted = dom0.run("lab-agent trace-count /run/trace && rm /run/trace", 120)?;
    Ok((result, counted.parse()?))
}
