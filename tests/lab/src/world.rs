//! What scenarios act in: one booted Xen with Causeway and guests, which are
//! started when the first scenario needs them and stay for the next ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::transfer;
use crate::client::Agent;
use crate::config::{DRIVER_DOMAIN, Door, GuestKind};
use crate::lab::{Lab, Options};
use crate::log::Log;
use crate::observe::wire::{Capture, Frame, Mac};
use crate::observe::xen_log;

/// The gateway of the user-mode network: the way to programs on the host.
pub const GATEWAY: &str = "10.0.2.2";

/// Addresses of the user-mode network's own hosts begin with this.
const GATEWAY_MAC: [u8; 5] = [0x52, 0x55, 10, 0, 2];

/// How long Causeway may take until it is ready.
pub const READY: Duration = Duration::from_secs(60);

/// Who serves the guests' vifs.
#[derive(Clone, Debug)]
pub enum Backend {
    /// This ELF.
    Causeway(PathBuf),
    /// Linux in its place, to prove the lab and to compare with.
    Linux,
}

/// A stock guest with one vif.
#[derive(Clone)]
pub struct Peer {
    /// Runs commands in it.
    pub agent: Agent,
    /// Its vif's address.
    pub mac: Mac,
    /// Its IPv4 address on the network of the NIC.
    pub ip: String,
}

/// A booted Xen and what was started on it.
pub struct World {
    lab: Lab,
    backend: Backend,
    console: Option<Log>,
    peers: BTreeMap<String, Peer>,
    capture: Capture,
    on_the_wire: BTreeSet<Mac>,
    outside_port: u16,
}

impl World {
    /// Boots Xen with dom0 alone.
    pub fn boot(name: &str, backend: &Backend) -> Result<World> {
        let mut options = Options::new(name);
        if let Backend::Causeway(elf) = backend {
            options.causeway = Some(elf.clone());
        }
        let lab = Lab::boot(&options)?;
        let capture = Capture::follow(lab.wire_capture());
        Ok(World {
            lab,
            backend: backend.clone(),
            console: None,
            peers: BTreeMap::new(),
            capture,
            on_the_wire: BTreeSet::new(),
            outside_port: serve_outside()?,
        })
    }

    /// Xen and dom0.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Who serves the guests' vifs.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// dom0.
    pub fn dom0(&self) -> &Agent {
        self.lab.dom0()
    }

    /// Runs an xl command.
    pub fn xl(&self, command: &str, seconds: u32) -> Result<String> {
        self.lab.xl(command, seconds)
    }

    /// Gives a domain another vif of the driver domain's.
    pub fn attach(&self, domain: &str, mac: Mac, bridge: &str) -> Result<()> {
        // Here xl takes each setting as an argument of its own.
        let settings = vif(mac, bridge).replace(',', " ");
        self.xl(&format!("network-attach {domain} {settings}"), 60).map(drop)
    }

    /// Takes a domain's vif away again.
    pub fn detach(&self, domain: &str, index: u32) -> Result<()> {
        self.xl(&format!("network-detach {domain} {index}"), 60).map(drop)
    }

    /// Fails where Linux stands in Causeway's place and a scenario is about
    /// Causeway itself.
    pub fn needs_causeway(&self) -> Result<()> {
        match self.backend {
            Backend::Causeway(_) => Ok(()),
            Backend::Linux => bail!("this scenario is about Causeway, not Linux in its place"),
        }
    }

    /// The server of hashed transfers outside, as guests reach it.
    pub fn outside(&self) -> String {
        format!("{GATEWAY}:{}", self.outside_port)
    }

    /// Only dom0: ends every other domain.
    pub fn clear(&mut self) -> Result<()> {
        self.peers.clear();
        self.console = None;
        let names =
            self.dom0().run("xl list | tail -n +3 | while read name _; do echo $name; done", 20)?;
        for name in names.lines() {
            self.xl(&format!("destroy {name}"), 60)?;
        }
        self.wait_gone("", 30)
    }

    /// Waits until no domain whose name begins with `name` is left but dom0.
    pub fn wait_gone(&self, name: &str, seconds: u32) -> Result<()> {
        let command = format!("while xl list | tail -n +3 | grep '^{name}'; do sleep 0.2; done");
        self.dom0().run(&command, seconds).map(drop).context("a domain does not go away")
    }

    /// Starts Causeway by a door and waits until it is ready; returns its console
    /// and its ready line.
    pub fn start_causeway(&mut self, door: Door) -> Result<(Log, String)> {
        self.needs_causeway()?;
        let console = self.lab.driver_domain(door)?;
        let line = console.wait(&["causeway", "ready"], READY)?;
        self.console = Some(console.clone());
        Ok((console, line))
    }

    /// Sees to it that the driver domain with the NIC runs; returns its console.
    pub fn driver_domain(&mut self) -> Result<Log> {
        if let Some(console) = &self.console {
            return Ok(console.clone());
        }
        match self.backend {
            Backend::Causeway(_) => Ok(self.start_causeway(Door::Firmware)?.0),
            Backend::Linux => {
                let console = self.lab.linux_driver_domain()?;
                self.console = Some(console.clone());
                Ok(console)
            }
        }
    }

    /// Sees to it that this guest runs, with a vif on the NIC's network, and that
    /// the network reaches it. Guests are `a` to `z`.
    pub fn peer(&mut self, name: &str, kind: GuestKind) -> Result<Peer> {
        if let Some(peer) = self.peers.get(name) {
            return Ok(peer.clone());
        }
        self.driver_domain()?;
        let (mac, ip) = addresses(name);
        let agent = self.lab.guest(name, kind, &[&vif(mac, "xenbr0")])?;
        let peer = Peer { agent, mac, ip };
        self.on_the_wire.insert(mac);
        bring_up(&peer.agent, "eth0", &peer.ip)?;
        peer.agent.run(&format!("ip route add default via {GATEWAY}"), 10)?;
        self.peers.insert(name.into(), peer.clone());
        Ok(peer)
    }

    /// The two guests that most scenarios need.
    pub fn pair(&mut self) -> Result<(Peer, Peer)> {
        Ok((self.peer("a", GuestKind::Pv)?, self.peer("b", GuestKind::Pv)?))
    }

    /// The guest is gone, or is about to go.
    pub fn forget(&mut self, name: &str) {
        self.peers.remove(name);
    }

    /// A scenario started the driver domain itself; this is its console.
    pub fn adopt_driver_domain(&mut self, console: Log) {
        self.console = Some(console);
    }

    /// The driver domain is another one now, or none.
    pub fn forget_driver_domain(&mut self) {
        self.console = None;
    }

    /// Frames with this source address may be on the NIC's wire.
    pub fn allow_on_the_wire(&mut self, mac: Mac) {
        self.on_the_wire.insert(mac);
    }

    /// What must hold after every scenario: all frames on the wire are right and
    /// from who may send there, and Xen has nothing to complain about. Returns
    /// the number of new frames.
    pub fn check_invariants(&mut self) -> Result<usize> {
        let frames = self.capture.new_frames()?;
        // What the user-mode network itself sends is not ours to judge.
        let ours = |frame: &&Frame| !frame.source().is_some_and(|s| s.0.starts_with(&GATEWAY_MAC));
        let ours: Vec<&Frame> = frames.iter().filter(ours).collect();
        for frame in &ours {
            frame.check().with_context(|| format!("on the wire: {frame:?}"))?;
            if matches!(self.backend, Backend::Causeway(_))
                && !frame.source().is_some_and(|source| self.on_the_wire.contains(&source))
            {
                bail!("this frame must not be on the wire: {frame:?}");
            }
        }
        let log = self.lab.serial().since(0);
        let complaints = xen_log::complaints(&log);
        if !complaints.is_empty() {
            bail!("Xen complains:\n{}", complaints.join("\n"));
        }
        Ok(ours.len())
    }
}

/// A vif as xl takes it, of Causeway's domain.
fn vif(mac: Mac, bridge: &str) -> String {
    format!("backend={DRIVER_DOMAIN},mac={mac},bridge={bridge}")
}

/// The addresses of a guest, by the letter of its name.
fn addresses(name: &str) -> (Mac, String) {
    let letter = name.bytes().next().unwrap_or_default().saturating_sub(b'a');
    (Mac([0x00, 0x16, 0x3E, 0, 0, letter]), format!("10.0.2.{}", 101 + letter))
}

/// Waits for an interface, gives it an address, and waits until its backend is
/// connected.
pub fn bring_up(agent: &Agent, interface: &str, ip: &str) -> Result<()> {
    let command = format!(
        "until [ -e /sys/class/net/{interface} ]; do sleep 0.1; done\n\
         ip addr add {ip}/24 dev {interface} && ip link set {interface} up\n\
         until [ \"$(cat /sys/class/net/{interface}/carrier)\" = 1 ]; do sleep 0.1; done"
    );
    let name = agent.name();
    agent.run(&command, 30).map(drop).with_context(|| format!("{interface} in {name} connects"))
}

/// Waits until an interface is no more.
pub fn gone(agent: &Agent, interface: &str) -> Result<()> {
    let command = format!("while [ -e /sys/class/net/{interface} ]; do sleep 0.1; done");
    let name = agent.name();
    agent.run(&command, 30).map(drop).with_context(|| format!("{interface} in {name} goes away"))
}

/// Serves hashed transfers on the host's loopback, where the user-mode network
/// leads what is sent to its gateway.
fn serve_outside() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || transfer::serve(&listener));
    Ok(port)
}
