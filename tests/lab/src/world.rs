//! What scenarios act in: one booted Xen with Causeway and guests, which are
//! started when the first scenario needs them and stay for the next ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::Agent;
use crate::config::{self, DRIVER_DOMAIN, Door, GuestKind, Virt};
use crate::lab::{Lab, Options};
use crate::log::Log;
use crate::observe::counters::{self, Counters};
use crate::observe::wire::Mac;
use crate::observe::xen_log;
use crate::wire_peer::WirePeer;

/// How long Causeway may take until it is ready.
pub const READY: Duration = Duration::from_secs(60);

/// How long Causeway may take to print its counters.
const COUNTERS: Duration = Duration::from_secs(20);

/// Who serves the guests' vifs.
#[derive(Clone, Debug)]
pub enum Backend {
    /// This ELF.
    Causeway(PathBuf),
    /// Linux in its place, to prove the lab and to compare with.
    Linux(Virt),
}

/// A stock guest with one vif.
#[derive(Clone)]
pub struct Peer {
    /// Runs commands in it.
    pub agent: Agent,
    /// Its vif's address.
    pub mac: Mac,
    /// Its IPv4 address on the network of the NIC.
    pub ip: Ipv4Addr,
}

/// A booted Xen and what was started on it.
pub struct World {
    lab: Lab,
    backend: Backend,
    console: Option<Log>,
    /// What `extra=` says, where Causeway was started with it.
    options: String,
    peers: BTreeMap<String, Peer>,
    on_the_wire: BTreeSet<Mac>,
}

impl World {
    /// Boots Xen with dom0 alone.
    pub fn boot(name: &str, backend: &Backend) -> Result<World> {
        World::boot_with(Options::new(name), backend)
    }

    /// The same where nothing is to take time that is not needed.
    pub fn boot_to_measure(name: &str, backend: &Backend) -> Result<World> {
        World::boot_with(Options { capture: false, ..Options::new(name) }, backend)
    }

    fn boot_with(mut options: Options, backend: &Backend) -> Result<World> {
        if let Backend::Causeway(elf) = backend {
            options.causeway = Some(elf.clone());
        }
        let world = World {
            lab: Lab::boot(&options)?,
            backend: backend.clone(),
            console: None,
            options: String::new(),
            peers: BTreeMap::new(),
            on_the_wire: BTreeSet::new(),
        };
        world.watch_the_wire();
        Ok(world)
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
        self.attach_with(domain, mac, bridge, "")
    }

    /// The same with more settings, each behind a space.
    pub fn attach_with(&self, domain: &str, mac: Mac, bridge: &str, settings: &str) -> Result<()> {
        // Here xl takes each setting as an argument of its own.
        let settings = vif(mac, bridge).replace(',', " ") + settings;
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
            Backend::Linux(_) => bail!("this scenario is about Causeway, not Linux in its place"),
        }
    }

    /// Who is on the other end of the NIC's wire.
    pub fn wire_peer(&self) -> &WirePeer {
        self.lab.wire_peer()
    }

    /// Only dom0: ends every other domain, the driver domain last. Until it is gone it may
    /// send what guests do, when the NIC is not its own any more.
    pub fn clear(&mut self) -> Result<()> {
        self.peers.clear();
        self.console = None;
        let names =
            self.dom0().run("xl list | tail -n +3 | while read name _; do echo $name; done", 20)?;
        let (last, guests): (Vec<_>, Vec<_>) =
            names.lines().partition(|name| *name == DRIVER_DOMAIN);
        for name in guests.into_iter().chain(last) {
            self.destroy(name)?;
        }
        self.wait_gone("", 30)
    }

    /// Destroys a domain. Where that is the driver domain, the wire is silent meanwhile: a
    /// NIC whose domain had no time to stop it would receive into memory that is not the
    /// domain's any more, and Xen would rightly complain.
    pub fn destroy(&self, name: &str) -> Result<()> {
        let destroy = || self.xl(&format!("destroy {name}"), 120).map(drop);
        if name != DRIVER_DOMAIN {
            return destroy();
        }
        self.wire_peer().stall();
        let destroyed = destroy();
        self.wire_peer().go_on();
        destroyed
    }

    /// Waits until no domain whose name begins with `name` is left but dom0, and nothing
    /// of any that was destroyed: such a one has no name any more.
    pub fn wait_gone(&self, name: &str, seconds: u32) -> Result<()> {
        let domains = "xl list | tail -n +3";
        let command =
            format!("while {domains} | grep -e '^{name}' -e '^(null)'; do sleep 0.2; done");
        self.dom0().run(&command, seconds).map(drop).context("a domain does not go away")
    }

    /// Ends the driver domain, if there is one; the next one will be another's. Guests stay.
    pub fn serve_by(&mut self, backend: Backend) -> Result<()> {
        self.backend = backend;
        if self.console.take().is_some() {
            // It may have ended by itself.
            if self.domain_id(DRIVER_DOMAIN).is_ok() {
                self.destroy(DRIVER_DOMAIN)?;
            }
            self.wait_gone(DRIVER_DOMAIN, 30)?;
        }
        Ok(())
    }

    /// Whether the emulator mixed up what it emulates.
    pub fn emulator_failed(&self) -> bool {
        xen_log::is_emulator_failure(&self.lab.serial().since(0))
    }

    /// Starts Causeway by a door and waits until it is ready; returns its console
    /// and its ready line.
    pub fn start_causeway(&mut self, door: Door) -> Result<(Log, String)> {
        self.needs_causeway()?;
        let console = self.lab.driver_domain(door)?;
        let line = console.wait(&["causeway", "ready"], READY)?;
        self.adopt_driver_domain(console.clone());
        Ok((console, line))
    }

    /// Sees to it that Causeway runs with the NIC and these words in `extra=`; where it
    /// does not, it is started so in place of all other domains.
    pub fn causeway_with(&mut self, words: &str) -> Result<()> {
        self.causeway_as(format!("kernel = '/lab/causeway'\nextra = '{words}'\n"))
    }

    /// The same of so many vCPUs.
    pub fn causeway_of(&mut self, vcpus: u32) -> Result<()> {
        self.causeway_as(format!("vcpus = {vcpus}\n"))
    }

    fn causeway_as(&mut self, options: String) -> Result<()> {
        self.needs_causeway()?;
        if self.console.is_some() && self.options == options {
            return Ok(());
        }
        self.clear()?;
        let config = config::driver_domain(Door::Firmware)? + "\n" + &options;
        let console = self.lab.create(DRIVER_DOMAIN, &config, "")?;
        console.wait(&["causeway", "ready"], READY)?;
        self.adopt_driver_domain(console);
        self.options = options;
        Ok(())
    }

    /// Causeway's counters now.
    pub fn counters(&self) -> Result<Counters> {
        self.counters_once(|| Ok(()))
    }

    /// Asks Causeway for its counters, has it go on by `then`, and waits for them. What
    /// is typed is the first that it sees.
    pub fn counters_once(&self, then: impl FnOnce() -> Result<()>) -> Result<Counters> {
        let console = self.console.as_ref().context("Causeway does not run")?;
        let mark = console.len();
        let domain = self.domain_id(DRIVER_DOMAIN)?;
        let ask = format!("echo > $(xenstore-read /local/domain/{domain}/console/tty)");
        self.dom0().run(&ask, 20)?;
        then()?;
        console
            .wait_from(mark, COUNTERS, |line| line.starts_with(counters::LAST))
            .context("Causeway's counters")?;
        Ok(Counters::new(&console.since(mark)))
    }

    /// A domain's number.
    pub fn domain_id(&self, name: &str) -> Result<u16> {
        Ok(self.dom0().run(&format!("xl domid {name}"), 20)?.trim().parse()?)
    }

    /// Sees to it that the driver domain with the NIC runs; returns its console.
    pub fn driver_domain(&mut self) -> Result<Log> {
        if let Some(console) = &self.console {
            return Ok(console.clone());
        }
        match self.backend {
            Backend::Causeway(_) => Ok(self.start_causeway(Door::Firmware)?.0),
            Backend::Linux(virt) => {
                let console = self.lab.linux_driver_domain(virt)?;
                self.adopt_driver_domain(console.clone());
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
        self.allow_on_the_wire(mac);
        bring_up(&peer.agent, "eth0", peer.ip)?;
        self.peers.insert(name.into(), peer.clone());
        Ok(peer)
    }

    /// The same without a vif: [`World::plug`] gives it one.
    pub fn guest(&mut self, name: &str) -> Result<Peer> {
        if let Some(peer) = self.peers.get(name) {
            return Ok(peer.clone());
        }
        let (mac, ip) = addresses(name);
        let peer = Peer { agent: self.lab.guest(name, GuestKind::Pv, &[])?, mac, ip };
        self.peers.insert(name.into(), peer.clone());
        Ok(peer)
    }

    /// Gives a guest a vif on the NIC's network, and waits until it is connected.
    pub fn plug(&self, peer: &Peer) -> Result<()> {
        self.attach(peer.agent.name(), peer.mac, "xenbr0")?;
        bring_up(&peer.agent, "eth0", peer.ip)
    }

    /// Takes it away again.
    pub fn unplug(&self, peer: &Peer) -> Result<()> {
        self.detach(peer.agent.name(), 0)?;
        gone(&peer.agent, "eth0")
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
        self.options.clear();
    }

    /// The driver domain is another one now, or none.
    pub fn forget_driver_domain(&mut self) {
        self.console = None;
    }

    /// Frames with this source address may be on the NIC's wire.
    pub fn allow_on_the_wire(&mut self, mac: Mac) {
        self.on_the_wire.insert(mac);
        self.watch_the_wire();
    }

    /// Linux in Causeway's place has a bridge of its own that speaks.
    fn watch_the_wire(&self) {
        if matches!(self.backend, Backend::Causeway(_)) {
            self.wire_peer().expect_only(self.on_the_wire.clone());
        }
    }

    /// What must hold after every scenario: all frames on the wire are right and
    /// from who may send there, and Xen has nothing to complain about. Returns
    /// the number of new frames.
    pub fn check_invariants(&mut self) -> Result<u64> {
        let seen = self.wire_peer().take_seen();
        if seen.faults > 0 {
            bail!(
                "{} of {} frames on the wire:\n{}",
                seen.faults,
                seen.frames,
                seen.first_faults.join("\n")
            );
        }
        let log = self.lab.serial().since(0);
        let complaints = xen_log::complaints(&log);
        if !complaints.is_empty() {
            bail!("Xen complains:\n{}", complaints.join("\n"));
        }
        Ok(seen.frames)
    }
}

/// A vif as xl takes it, of Causeway's domain.
fn vif(mac: Mac, bridge: &str) -> String {
    format!("backend={DRIVER_DOMAIN},mac={mac},bridge={bridge}")
}

/// The addresses of a guest, by the letter of its name.
fn addresses(name: &str) -> (Mac, Ipv4Addr) {
    let letter = name.bytes().next().unwrap_or_default().saturating_sub(b'a');
    (Mac([0x00, 0x16, 0x3E, 0, 0, letter]), Ipv4Addr::new(10, 0, 2, 101 + letter))
}

/// Waits for an interface, gives it an address, and waits until its backend is
/// connected.
pub fn bring_up(agent: &Agent, interface: &str, ip: impl Display) -> Result<()> {
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
