//! What is compared, and how it is started.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::accounting::Accounting;
use crate::config::{self, DRIVER_DOMAIN, Door, Virt};
use crate::lab::LINUX_READY;
use crate::world::{Backend, READY, World};

/// Who serves the guests' vifs and has the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Causeway,
    LinuxHvm,
    LinuxPv,
    /// No driver domain: a Linux guest in its place has the NIC for itself. What it does
    /// on the wire is about what the wire and its peer can do.
    Ceiling,
    /// No emulator at all: the wire's peer and a client of its own kind on the host.
    Peer,
}

impl Side {
    /// Those that are compared.
    pub(super) const COMPARED: [Side; 3] = [Side::Causeway, Side::LinuxHvm, Side::LinuxPv];

    pub(super) const ALL: [Side; 5] =
        [Side::Causeway, Side::LinuxHvm, Side::LinuxPv, Side::Ceiling, Side::Peer];

    /// In the file of samples.
    pub(super) fn key(self) -> &'static str {
        match self {
            Side::Causeway => "causeway",
            Side::LinuxHvm => "linux-hvm",
            Side::LinuxPv => "linux-pv",
            Side::Ceiling => "ceiling",
            Side::Peer => "peer",
        }
    }

    pub(super) fn of_key(key: &str) -> Option<Side> {
        Side::ALL.into_iter().find(|side| side.key() == key)
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Causeway => "Causeway (HVM)",
            Side::LinuxHvm => "Linux (HVM)",
            Side::LinuxPv => "Linux (PV)",
            Side::Ceiling => "Linux with the NIC for itself (PV)",
            Side::Peer => "the wire's peer and a client on the host",
        }
    }

    pub(super) fn backend(self, elf: &Path) -> Backend {
        match self {
            Side::Causeway => Backend::Causeway(elf.into()),
            Side::LinuxHvm => Backend::Linux(Virt::Hvm),
            _ => Backend::Linux(Virt::Pv),
        }
    }

    /// Its driver domain's configuration.
    pub(super) fn config(self) -> Result<String> {
        match self {
            Side::Causeway => config::driver_domain(Door::Firmware),
            Side::LinuxHvm => config::linux_driver_domain(Virt::Hvm),
            _ => config::linux_driver_domain(Virt::Pv),
        }
    }

    /// By what its console says that it serves.
    pub(super) fn is_ready(self, line: &str) -> bool {
        match self {
            Side::Causeway => line.contains("causeway") && line.contains("ready"),
            _ => line.contains(LINUX_READY),
        }
    }
}

/// How long a driver domain took to start, in seconds.
pub(super) struct Start {
    /// From `xl create` until its kernel was entered.
    pub(super) to_entry: f64,
    /// From then on until a vif that was there already had a backend in InitWait.
    pub(super) to_vif: f64,
}

/// Starts a side's driver domain with a vif that waits for it.
///
/// The vif is dom0's and made by hand, as a toolstack would: xl itself waits for a
/// backend for ten seconds only, which is not enough for all. It goes when the
/// backend was seen.
pub(super) fn start(world: &mut World, side: Side, accounting: &Accounting) -> Result<Start> {
    let begun = Instant::now();
    let console = world.lab().create(DRIVER_DOMAIN, &side.config()?, "-p")?;
    let created = begun.elapsed().as_secs_f64();
    let domain = world.domain_id(DRIVER_DOMAIN)?;
    let dom0 = world.dom0();
    let backend = format!("/local/domain/{domain}/backend/vif/0/9");
    let frontend = "/local/domain/0/device/vif/9";
    dom0.run(&waiting_vif(domain, &backend, frontend), 30)?;
    let mut initwait = dom0.start(&format!("exec lab-agent node-wait {backend}/state 2"), 150)?;
    let uptime_node = format!("/local/domain/{domain}/data/uptime");
    let mut uptime = match side {
        Side::LinuxHvm => {
            let mut wait = dom0.start(&format!("exec lab-agent node-wait {uptime_node}"), 150)?;
            wait.wait_line("waiting")?;
            Some(wait)
        }
        _ => None,
    };
    initwait.wait_line("waiting")?;
    let unpaused = accounting.unpause(domain)?;
    let (served, _) = seen(&initwait.wait()?.stdout).context("no backend in InitWait")?;
    // Causeway is entered at once, and so is a paravirtual Linux. Another Linux tells how
    // long its kernel has been running, by a clock that starts a little after its entry.
    let entered = match uptime.take() {
        None => unpaused,
        Some(wait) => {
            let (at, uptime) = seen(&wait.wait()?.stdout).context("no uptime")?;
            at - (uptime.parse::<f64>()? * 1e6) as u64
        }
    };
    dom0.run(&format!("xenstore-rm {frontend}; xenstore-rm {backend}"), 20)?;
    console.wait_from(0, READY, |line| side.is_ready(line))?;
    world.adopt_driver_domain(console);
    let seconds = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
    Ok(Start { to_entry: created + seconds(unpaused, entered), to_vif: seconds(entered, served) })
}

/// The commands that make a vif's nodes.
fn waiting_vif(domain: u16, backend: &str, frontend: &str) -> String {
    format!(
        "xenstore-write {frontend}/backend {backend} {frontend}/backend-id {domain} \
             {frontend}/state 1 {frontend}/handle 9 {frontend}/mac 00:16:3e:00:09:09 && \
         xenstore-chmod -r {frontend} n0 r{domain} && \
         xenstore-write {backend}/frontend {frontend} {backend}/frontend-id 0 {backend}/online 1 \
             {backend}/handle 9 {backend}/mac 00:16:3e:00:09:09 {backend}/bridge xenbr0 \
             {backend}/type vif {backend}/state 1 && \
         xenstore-chmod -r {backend} n{domain} r0"
    )
}

/// When a node was seen, and its value.
fn seen(said: &str) -> Result<(u64, String)> {
    let line = said.lines().rfind(|line| *line != "waiting").context("it said nothing")?;
    let (at, value) = line.split_once(' ').context("a time and a value")?;
    Ok((at.parse()?, value.into()))
}
