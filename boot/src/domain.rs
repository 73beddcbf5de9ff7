//! The domain at work: its parts, and the loop that turns them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use drivers::control::Control;
use drivers::fabric::Fabric;
use drivers::network::Network;
use drivers::nic::{Cause, Nic, Status};
use drivers::report::Report;
use drivers::turn::{DataPlane, Next, turn};
use kernel::arch::cpu;
use kernel::command_line::CommandLine;
use kernel::memory::{Buffers, DmaPages, Ram, heap};
use kernel::pages::choice::{Mode, UnknownMode};
use kernel::switch::{BridgeName, Switches};
use kernel::{Limits, Pools, console, events, link, switch};
use xen::hypercall::{self, Shutdown, Xen};
use xen::{Hypervisor, Instant};

use crate::bring_up::{Platform, Ports};
use crate::nic::{self, Driver};
use crate::rest::Rest;
use crate::secondary::{self, Secondary, Shared};

/// The bridge that the NIC is the uplink of, unless `uplink=` names another.
const UPLINK: &str = "xenbr0";
/// Pages for devices' descriptor rings.
const DMA_PAGES: usize = 8;
/// How large the switches are. An address table of 4096 entries takes 64 KiB.
const SWITCHES: switch::Limits = switch::Limits { switches: 16, ports: 128, addresses: 4096 };
/// Copies in one hypercall.
const COPIES: usize = 512;

/// How long the NIC has to stop before the domain ends.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Everything there is.
pub struct Domain {
    xen: Xen,
    ports: Ports,
    control: Control,
    /// The networks of all vCPUs.
    fabric: Fabric<Xen, Shared>,
    /// That of the first one, which has the NIC.
    network: Shared,
    rest: Rest,
    entered: Instant,
    memory: u64,
    ready: bool,
}

impl Domain {
    /// Puts the parts together on a platform that is up, and has the other vCPUs begin.
    pub fn new(platform: Platform) -> Self {
        let Platform {
            mut vcpus,
            mut ram,
            packets,
            window,
            store,
            ports,
            lapic,
            reserved,
            command_line,
            memory,
            entered,
        } = platform;
        let (xen, there) = (vcpus[0], vcpus.len());
        vcpus.truncate(link::carried(heap::usage().1));
        if vcpus.len() < there {
            log::warn!("{} of {there} vCPUs are used: set memory= higher", vcpus.len());
        }
        let mut pages = DmaPages::new(cut(&mut ram, DMA_PAGES));
        let stacks: Vec<_> = vcpus[1..].iter().map(|_| cut(&mut ram, secondary::STACK)).collect();
        let limits =
            Limits { packets: packets / vcpus.len(), copies: COPIES, map: map_mode(&command_line) };
        let seed = [cpu::random(), cpu::random()];
        let share = ram.pages() / vcpus.len();
        let windows = window.split(vcpus.len());
        let (mut networks, mut rests) = (Vec::new(), Vec::new());
        for (xen, window) in vcpus.iter().copied().zip(windows) {
            let mut large = cut(&mut ram, share);
            let small = cut(&mut large, share / 8);
            let pools = Pools::new(Buffers::new(small, large), window, limits);
            let rest = Rest::new(xen).unwrap_or_else(|error| panic!("vcpu{}: {error}", xen.vcpu()));
            let network = Network::new(xen, pools, Switches::new(SWITCHES, seed));
            networks.push((network, rest.bell()));
            rests.push(rest);
        }
        let uplink = nic::find(&reserved, lapic, &mut pages)
            .and_then(|nic| set_uplink(&mut networks[0].0, nic, &command_line, xen.now()));
        let share = |network| &*Box::leak(Box::new(network));
        let fabric = Fabric::new(xen, networks, uplink.as_ref(), share)
            .unwrap_or_else(|error| panic!("several vCPUs: {error}"));
        let mut rests = rests.into_iter();
        let rest = rests.next().unwrap_or_else(|| panic!("no vCPU"));
        for (((xen, network), rest), stack) in
            vcpus.iter().zip(fabric.networks()).skip(1).zip(rests).zip(stacks)
        {
            let secondary = Secondary { xen: *xen, network, rest };
            if let Err(error) = secondary.start(stack) {
                panic!("vcpu{} does not start: {error}", xen.vcpu());
            }
        }
        Self {
            xen,
            ports,
            control: Control::new(store),
            network: fabric.networks()[0],
            fabric,
            rest,
            entered: xen.clock().at(entered),
            memory,
            ready: false,
        }
    }

    /// Turns the loop: takes what happened, does one pass over all that is ready,
    /// and sleeps when nothing is. Ends when the toolstack asks for it.
    pub fn run(mut self) -> ! {
        cpu::enable_interrupts();
        loop {
            self.note();
            let now = self.xen.now();
            let (xen, store) = (self.xen, self.ports.store);
            let next = turn(&mut self.control, &mut self.fabric, now, || xen.notify(store));
            self.say_ready();
            match next {
                Next::Again => {}
                Next::Sleep(deadline) => self.rest.until(deadline),
                Next::End(Shutdown::Crash) => panic!("the toolstack asked for a crash"),
                Next::End(reason) => self.end(reason),
            }
        }
    }

    /// Takes note of events and interrupts.
    fn note(&mut self) {
        let mut console = false;
        let mut network = self.network.lock();
        events::take_ports(self.xen.vcpu(), |port| match port {
            port if port == self.ports.console => console = true,
            port if self.rest.event(port) => {}
            port => network.event(port),
        });
        let devices = events::take_devices(self.xen.vcpu());
        for (number, cause) in [Cause::Queues, Cause::Other].into_iter().enumerate() {
            if devices & 1 << number != 0 {
                network.interrupt(cause);
            }
        }
        drop(network);
        if console {
            console::flush();
            self.answer();
        }
    }

    /// Answers a line typed on the console with all counters.
    fn answer(&mut self) {
        // All that the console's ring holds.
        let mut typed = [0; 1024];
        let len = console::read(&mut typed);
        if typed[..len].iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            for (vcpu, network) in self.fabric.networks().iter().enumerate() {
                if vcpu > 0 {
                    console::print(format_args!("vcpu{vcpu}:\n"));
                }
                console::print(format_args!("{}", Report(&*network.lock())));
            }
            let (used, size) = heap::usage();
            console::print(format_args!("heap: {used} of {size} bytes\n"));
        }
    }

    /// Takes the NIC down, for as long as that is worth waiting for, and ends.
    fn end(&mut self, reason: Shutdown) -> ! {
        let mut network = self.network.lock();
        let started = self.xen.now();
        network.stop(started);
        loop {
            let now = self.xen.now();
            network.poll(now);
            if network.is_stopped() || now.since(started) > STOP_PATIENCE {
                break;
            }
        }
        log::info!("{reason:?}");
        hypercall::shutdown(reason)
    }

    /// Says once that the domain serves, and with what.
    fn say_ready(&mut self) {
        if self.ready {
            return;
        }
        let network = self.network.lock();
        let uplink = network.uplink();
        if uplink.is_some_and(|(status, _)| status == Status::Changing) {
            return;
        }
        self.ready = true;
        let version = env!("CARGO_PKG_VERSION");
        let micros = self.xen.now().since(self.entered).as_micros();
        let memory = self.memory >> 20;
        match (uplink, network.nic()) {
            (Some((Status::Running, link)), Some(nic)) => log::info!(
                "{version} ready {micros} us after entry: {memory} MiB, NIC {}, link {link}",
                nic.mac()
            ),
            (uplink, _) => {
                let nic = if uplink.is_some() { "the NIC failed" } else { "no NIC" };
                log::info!("{version} ready {micros} us after entry: {memory} MiB, {nic}");
            }
        }
    }
}

/// Makes the NIC the uplink of the bridge that `uplink=` names; which that is.
fn set_uplink(
    network: &mut Network<Xen, Driver>,
    nic: Driver,
    command_line: &CommandLine,
    now: Instant,
) -> Option<BridgeName> {
    let bridge = command_line.value("uplink").unwrap_or(UPLINK);
    let name = match bridge.parse::<BridgeName>() {
        Ok(name) => name,
        Err(error) => {
            log::error!("uplink={bridge}: {error}");
            return None;
        }
    };
    match network.set_uplink(nic, &name, now) {
        Ok(()) => Some(name),
        Err(error) => {
            log::error!("{bridge}: {error}");
            None
        }
    }
}

/// What `map=` says.
fn map_mode(command_line: &CommandLine) -> Mode {
    let Some(text) = command_line.value("map") else { return Mode::default() };
    text.parse().unwrap_or_else(|UnknownMode| {
        log::error!("map={text}: neither auto nor always nor never");
        Mode::default()
    })
}

fn cut(ram: &mut Ram, pages: usize) -> Ram {
    ram.split(pages).unwrap_or_else(|| panic!("too little memory: {pages} pages wanted"))
}
