//! Runs the sides in turn, boot by boot.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::accounting::Accounting;
use super::rows::{self, Bench};
use super::samples::{Sample, Samples};
use super::sides::{self, Side};
use super::{memory, report};
use crate::agent::bulk::{self, Way};
use crate::config::{self, DRIVER_DOMAIN};
use crate::evidence;
use crate::observe::wire::Mac;
use crate::places;
use crate::setup::{self, Parts};
use crate::wire_peer::{self, Wire, WirePeer};
use crate::world::{World, bring_up};

/// How long one boot may last.
const BOOT: Duration = Duration::from_secs(1800);

/// A frame of a guest's.
const ETHERNET: usize = 1514;

/// Boots that may be lost for each that is not.
const LOST_PER_ROUND: u32 = 3;

/// Measures `rounds` rounds and writes samples and report to `out`.
pub fn run(elf: &Path, rounds: u32, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let mut run = Run {
        elf: elf.into(),
        out: out.into(),
        started: Instant::now(),
        samples: Samples::default(),
        boots: 0,
        lost: 0,
        other: 0,
    };
    run.describe(rounds)?;
    run.peer()?;
    for round in 1..=rounds {
        let samples = run.until_it_lasts(rounds, |run| run.round(round))?;
        run.samples.samples.extend(samples);
        run.save()?;
    }
    let samples = run.until_it_lasts(rounds, Run::ceiling)?;
    run.samples.samples.extend(samples);
    run.save()?;
    // It takes as long as two rounds: not for a quick look.
    if rounds > 1 {
        run.until_it_lasts(rounds, Run::memory)?;
        run.save()?;
    }
    report::redraw(out)
}

struct Run {
    elf: PathBuf,
    out: PathBuf,
    started: Instant,
    samples: Samples,
    boots: u32,
    /// Boots in which the emulator failed.
    lost: u32,
    /// Boots that ended otherwise before their time.
    other: u32,
}

impl Run {
    fn tell(&self, text: &str) {
        println!("bench {:6.0} s: {text}", self.started.elapsed().as_secs_f32());
    }

    /// What the figures are of.
    fn describe(&mut self, rounds: u32) -> Result<()> {
        let parts = setup::setup()?;
        let output = |program: &str, args: &[&str]| -> String {
            let output = std::process::Command::new(program).args(args).output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
        };
        let checkout = places::checkout().display().to_string();
        let samples = &mut self.samples;
        samples.note("date", &output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]));
        samples.note("command", &format!("lab bench target/causeway --rounds {rounds}"));
        let commit = output("git", &["-C", &checkout, "describe", "--always", "--dirty"]);
        samples.note("commit", &commit);
        samples.note("emulator", &output("qemu-system-x86_64", &["--version"]));
        samples.note("host kernel", &output("uname", &["-srm"]));
        let processor = output("sh", &["-c", "grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2"]);
        samples.note("host processors", &format!("{} of{processor}", output("nproc", &[])));
        for (side, bytes) in images(&self.elf, &parts)? {
            let (key, value) = ("image".into(), bytes as f64 / 1024.0);
            samples.samples.push(Sample { round: 0, side, key, value });
        }
        Ok(())
    }

    /// What the wire's peer can do alone.
    fn peer(&mut self) -> Result<()> {
        let (nic, client) = UnixDatagram::pair()?;
        let _peer = WirePeer::start(Wire { nic, gateway: None })?;
        let server = wire_peer::client::start(
            client,
            Mac([0x00, 0x16, 0x3E, 0, 0, 1]),
            Ipv4Addr::new(10, 0, 2, 101),
            ETHERNET,
        )?;
        for (key, way) in [("out", Way::Out), ("in", Way::In)] {
            let moved = bulk::run(&server.to_string(), way, 1, rows::TRAFFIC)?;
            let (side, value) = (Side::Peer, moved.mbit_per_second());
            self.tell(&format!("{:10} {key:20} {value:.0}", side.key()));
            self.samples.samples.push(Sample { round: 0, side, key: key.into(), value });
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        let mut samples = self.samples.clone();
        samples.note("boots", &self.boots.to_string());
        samples.note("boots lost to the emulator", &self.lost.to_string());
        samples.note("boots that failed otherwise", &self.other.to_string());
        samples.note("minutes", &format!("{:.0}", self.started.elapsed().as_secs_f64() / 60.0));
        samples.write(&self.out.join(report::SAMPLES))
    }

    /// Tries something that needs a boot of its own until the machine lasts for it.
    fn until_it_lasts<T>(
        &mut self,
        rounds: u32,
        mut measure: impl FnMut(&mut Run) -> Result<T, Failure>,
    ) -> Result<T> {
        loop {
            self.boots += 1;
            let failure = match measure(self) {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            if failure.emulator {
                self.lost += 1;
                self.tell("the emulator failed; again");
            } else {
                self.other += 1;
                self.tell(&format!("failed: {:#}; again", failure.error));
            }
            self.samples.note("lost", &format!("{:#}", failure.error));
            if self.lost + self.other > rounds * LOST_PER_ROUND {
                return Err(failure.error).context("too many boots are lost");
            }
        }
    }

    /// All sides, one after the other, in one boot; each round begins with another.
    fn round(&mut self, round: u32) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        in_a_boot(&format!("bench-{round}"), &self.elf.clone(), |world| {
            let accounting = Accounting::start(world.dom0())?;
            if self.samples.notes.iter().all(|(name, _)| name != "Xen") {
                self.describe_xen(world)?;
            }
            for turn in 0..Side::COMPARED.len() {
                let side = Side::COMPARED[(turn + round as usize - 1) % Side::COMPARED.len()];
                self.tell(&format!("round {round}: {}", side.name()));
                let mut take = |key: &str, value: f64| {
                    if rows::ROWS.iter().any(|row| row.key == key) {
                        self.tell(&format!("round {round}: {:10} {key:20} {value:.2}", side.key()));
                    }
                    samples.push(Sample { round, side, key: key.into(), value });
                };
                measure(world, side, &self.elf, &accounting, &mut take)?;
            }
            Ok(())
        })?;
        Ok(samples)
    }

    fn describe_xen(&mut self, world: &World) -> Result<()> {
        let xen = world.dom0().run("xl info xen_version", 20)?;
        self.samples.note("Xen", &xen);
        let linux = world.dom0().run("uname -srv", 20)?;
        self.samples.note("Linux", &linux);
        Ok(())
    }

    /// A guest that owns the NIC, on the wire.
    fn ceiling(&mut self) -> Result<Vec<Sample>, Failure> {
        let side = Side::Ceiling;
        let mut samples = Vec::new();
        self.tell(side.name());
        in_a_boot("bench-ceiling", &self.elf.clone(), |world| {
            let agent = world.lab().guest_of(DRIVER_DOMAIN, &config::linux_with_nic()?)?;
            agent.run("modprobe xen-pcifront; modprobe e1000e", 20)?;
            bring_up(&agent, "eth0", "10.0.2.101")?;
            let mut take = |key: &str, value: f64| {
                self.tell(&format!("{:10} {key:20} {value:.2}", side.key()));
                samples.push(Sample { round: 0, side, key: key.into(), value });
            };
            for (key, way) in [("out", "send"), ("in", "receive")] {
                rows::wire(key, &mut take, |take| {
                    take(key, rows::to_wire(&agent, way)?.mbit_per_second());
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        Ok(samples)
    }

    /// What was found in a boot that is lost later needs not be found again.
    fn memory(&mut self) -> Result<(), Failure> {
        in_a_boot("bench-memory", &self.elf.clone(), |world| {
            for side in Side::COMPARED {
                if !self.samples.of(side, "memory").is_empty() {
                    continue;
                }
                let least = memory::least(world, side, &self.elf, &|text| {
                    self.tell(&format!("memory: {:10} {text}", side.key()));
                })?;
                let (key, value) = ("memory".into(), f64::from(least));
                self.samples.samples.push(Sample { round: 0, side, key, value });
                self.save()?;
            }
            Ok(())
        })
    }
}

/// Why a boot gave no figures.
struct Failure {
    error: anyhow::Error,
    /// Whether that was the emulator's fault.
    emulator: bool,
}

fn in_a_boot(
    name: &str,
    elf: &Path,
    act: impl FnOnce(&mut World) -> Result<()>,
) -> Result<(), Failure> {
    let world = World::boot_to_measure(name, &Side::Causeway.backend(elf));
    let mut world = world.map_err(|error| Failure { error, emulator: false })?;
    world.lab().set_limit(BOOT);
    act(&mut world).map_err(|error| {
        let emulator = world.emulator_failed();
        if !emulator {
            evidence::collect(world.lab());
        }
        let error = error.context(format!("see {}", world.lab().run_dir().display()));
        Failure { error, emulator }
    })
}

/// All figures of one side. The guests are the same for all in one boot.
fn measure(
    world: &mut World,
    side: Side,
    elf: &Path,
    accounting: &Accounting,
    take: rows::Take,
) -> Result<()> {
    world.serve_by(side.backend(elf))?;
    let start = sides::start(world, side, accounting)?;
    take("entry", start.to_entry);
    take("vif", start.to_vif);
    take("device-model", device_model_mib(world)?);
    let (a, b) = (world.guest("a")?, world.guest("b")?);
    for peer in [&a, &b] {
        world.plug(peer)?;
    }
    Bench::new(world, accounting, a.clone(), b.clone())?.traffic(take)?;
    [&a, &b].into_iter().try_for_each(|peer| world.unplug(peer))
}

/// The resident memory of the driver domain's device model, where it has one.
fn device_model_mib(world: &World) -> Result<f64> {
    let domain = world.domain_id(DRIVER_DOMAIN)?;
    let kib = world.dom0().run(
        &format!("ps -eo rss=,args= | grep -- '[-]xen-domid {domain} ' | awk '{{ s += $1 }} END {{ print s + 0 }}'"),
        20,
    )?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}

/// What each side boots, in bytes: for Linux the kernel as distributed and an initramfs of
/// the driver domain's alone, compressed.
fn images(elf: &Path, parts: &Parts) -> Result<Vec<(Side, u64)>> {
    let initramfs = std::process::Command::new("gzip")
        .args(["-9", "-c"])
        .arg(&parts.driver_domain_initramfs)
        .output()?;
    if !initramfs.status.success() {
        bail!("gzip: {}", initramfs.status);
    }
    let linux = fs::metadata(&parts.packed_kernel)?.len() + initramfs.stdout.len() as u64;
    Ok(vec![
        (Side::Causeway, fs::metadata(elf)?.len()),
        (Side::LinuxHvm, linux),
        (Side::LinuxPv, linux),
    ])
}
