//! Xen with dom0 on an emulated machine, and the domains started on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::{Agent, StreamWriter};
use crate::config::{self, DRIVER_DOMAIN, Door, GuestKind, Virt};
use crate::log::Log;
use crate::machine::{Machine, Nic, Running};
use crate::places;
use crate::setup::{self, Parts};
use crate::wire_peer::WirePeer;

/// How long `xl create` may take.
const CREATE_SECONDS: u32 = 90;

/// How long it may take to write a guest's memory to a disk, or to read it again.
const SAVE_SECONDS: u32 = 240;

/// How long a guest's agent may take to answer.
const GUEST_STARTS: Duration = Duration::from_secs(120);

/// What a Linux driver domain says when it serves vifs.
pub const LINUX_READY: &str = "linux driver domain: ready";

/// How much room the jobs disk has.
const JOBS_DISK: u64 = 256 << 20;

/// What a boot is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the run's directory.
    pub name: String,
    /// Causeway's ELF, seen in dom0 as `/lab/causeway`.
    pub causeway: Option<PathBuf>,
    /// The NIC that is passed through.
    pub nic: Nic,
    /// Whether what passes on the wire is captured, which costs the emulator time.
    pub capture: bool,
}

impl Options {
    /// The usual boot.
    pub fn new(name: &str) -> Options {
        Options { name: name.into(), causeway: None, nic: Nic::default(), capture: true }
    }
}

/// A booted Xen.
pub struct Lab {
    run: PathBuf,
    machine: Running,
    peer: WirePeer,
    followed: RefCell<BTreeMap<String, Followed>>,
}

/// The console of the newest domain of a name.
struct Followed {
    /// Which one it is, from 1.
    life: u32,
    _stream: StreamWriter,
}

impl Lab {
    /// Boots Xen and dom0.
    pub fn boot(options: &Options) -> Result<Lab> {
        let parts = setup::setup()?;
        let run = places::new_run(&options.name)?;
        let jobs_disk = jobs_disk(&parts, options, &run)?;
        let machine = Machine {
            parts: &parts,
            jobs_disk: &jobs_disk,
            run: &run,
            nic: options.nic,
            capture: options.capture,
        };
        let (machine, wire) = machine.start().with_context(|| format!("see {}", run.display()))?;
        // The emulator has it open; the logs stay, this need not.
        fs::remove_file(&jobs_disk)?;
        let peer = WirePeer::start(wire)?;
        Ok(Lab { run, machine, peer, followed: RefCell::default() })
    }

    /// Where the logs of this run are.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// From now on the machine has this long to live.
    pub fn set_limit(&self, limit: Duration) {
        self.machine.set_limit(limit);
    }

    /// dom0.
    pub fn dom0(&self) -> &Agent {
        &self.machine.dom0
    }

    /// Xen's console.
    pub fn serial(&self) -> &Log {
        &self.machine.serial
    }

    /// Runs an xl command; what xl tells of it goes to the transcript.
    pub fn xl(&self, command: &str, seconds: u32) -> Result<String> {
        self.dom0().run(&format!("xl -vvv {command}"), seconds)
    }

    /// Who is on the other end of the NIC's wire.
    pub fn wire_peer(&self) -> &WirePeer {
        &self.peer
    }

    /// Creates a domain from an xl configuration and follows its console. With
    /// `options` for xl: `-p` leaves it paused.
    pub fn create(&self, name: &str, config: &str, options: &str) -> Result<Log> {
        let path = format!("/tmp/{name}.cfg");
        fs::write(self.run.join(format!("{name}.cfg")), config)?;
        self.dom0().put(&path, config.as_bytes())?;
        let console = self.follow(name)?;
        self.xl(&format!("create {options} {path}"), CREATE_SECONDS)?;
        Ok(console)
    }

    /// Follows what a domain of this name prints on its PV console from now on;
    /// no longer what its predecessor printed.
    fn follow(&self, name: &str) -> Result<Log> {
        let mut followed = self.followed.borrow_mut();
        let life = followed.remove(name).map_or(1, |previous| previous.life + 1);
        let console = Log::create(&self.run.join(format!("console-{name}-{life}.log")))?;
        // The file is one for all domains of a name.
        let file = format!("/var/log/xen/console/guest-{name}.log");
        let command =
            format!("touch {file}; exec tail -f -c +$(($(stat -c %s {file}) + 1)) {file}");
        let (mut reader, writer) = self.dom0().start(&command, u32::MAX)?.into_stream();
        followed.insert(name.into(), Followed { life, _stream: writer });
        let log = console.clone();
        thread::spawn(move || {
            let _ = std::io::copy(&mut reader, &mut AppendTo(&log));
            log.end();
        });
        Ok(console)
    }

    /// Starts Causeway and returns its console.
    pub fn driver_domain(&self, door: Door) -> Result<Log> {
        self.create(DRIVER_DOMAIN, &config::driver_domain(door)?, "")
    }

    /// Makes Causeway's domain, but does not let it run yet.
    pub fn driver_domain_paused(&self, door: Door) -> Result<Log> {
        self.create(DRIVER_DOMAIN, &config::driver_domain(door)?, "-p")
    }

    /// Starts a Linux driver domain in Causeway's place.
    pub fn linux_driver_domain(&self, virt: Virt) -> Result<Log> {
        let console = self.create(DRIVER_DOMAIN, &config::linux_driver_domain(virt)?, "")?;
        console.wait(&[LINUX_READY], GUEST_STARTS)?;
        Ok(console)
    }

    /// Starts a stock guest whose vifs are given as in xl.cfg, and waits for its
    /// agent.
    pub fn guest(&self, name: &str, kind: GuestKind, vifs: &[&str]) -> Result<Agent> {
        self.guest_of(name, &config::guest(name, kind, vifs)?)
    }

    /// Starts a guest of this configuration, and waits for its agent.
    pub fn guest_of(&self, name: &str, config: &str) -> Result<Agent> {
        self.create(name, config, "")?;
        self.connect_guest(name)
    }

    /// Saves a guest, which ends it, and restores it as another domain. Its agent is not
    /// connected again.
    pub fn save_and_restore(&self, name: &str) -> Result<()> {
        let file = format!("/tmp/{name}.save");
        self.xl(&format!("save {name} {file}"), SAVE_SECONDS)?;
        self.xl(&format!("restore {file}"), SAVE_SECONDS)?;
        self.dom0().run(&format!("rm {file}"), 20).map(drop)
    }

    /// Connects to the agent in a running guest, over its second console.
    fn connect_guest(&self, name: &str) -> Result<Agent> {
        let find = format!(
            "id=$(xl domid {name}) && xenstore-read /local/domain/$id/device/console/1/tty \
             || xenstore-read /local/domain/0/backend/console/$id/1/tty"
        );
        let pty = self.dom0().run(&find, 20)?;
        if !pty.starts_with("/dev/pts/") {
            bail!("{name} has no second console: {pty}");
        }
        let relay = self.dom0().start(&format!("exec lab-agent relay {pty}"), u32::MAX)?;
        let (reader, writer) = relay.into_stream();
        let transcript = Log::create(&self.run.join(format!("commands-{name}.log")))?;
        Agent::connect(name, reader, writer, transcript, GUEST_STARTS)
    }
}

struct AppendTo<'a>(&'a Log);

impl std::io::Write for AppendTo<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// dom0's second disk: what this run tests, and what it is tested with.
fn jobs_disk(parts: &Parts, options: &Options, run: &Path) -> Result<PathBuf> {
    let tree = run.join("jobs");
    fs::create_dir(&tree)?;
    let mut files = vec![
        ("vmlinux", parts.kernel.as_path()),
        ("vmlinuz", &parts.packed_kernel),
        ("guest-initramfs", &parts.guest_initramfs),
        ("driver-domain-initramfs", &parts.driver_domain_initramfs),
        ("lab-agent", &parts.agent),
    ];
    if let Some(causeway) = &options.causeway {
        files.push(("causeway", causeway));
    }
    for (name, from) in files {
        fs::copy(from, tree.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    let disk = run.join("jobs.ext4");
    setup::make_ext4(&disk, &tree, JOBS_DISK)?;
    fs::remove_dir_all(&tree)?;
    Ok(disk)
}
