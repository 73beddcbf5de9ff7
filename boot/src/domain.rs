//! The domain at work: its parts, and the loop that turns them.

use core::time::Duration;

use drivers::control::Control;
use drivers::network::Network;
use drivers::nic::{Cause, Nic, Status};
use drivers::report::Report;
use drivers::turn::{Next, turn};
use kernel::arch::cpu;
use kernel::command_line::CommandLine;
use kernel::memory::{Buffers, DmaPages, Ram, heap};
use kernel::pages::choice::{Mode, UnknownMode};
use kernel::switch::{BridgeName, Switches};
use kernel::{Limits, Pools, console, events, switch};
use xen::event::EventPort;
use xen::hypercall::{self, Shutdown, Xen};
use xen::time::Clock;
use xen::{Hypervisor, Instant};

use crate::bring_up::{Platform, Ports};
use crate::nic::{self, Driver};

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
    clock: Clock,
    ports: Ports,
    control: Control,
    network: Network<Xen, Driver>,
    /// When the timer is set to.
    timer: Option<Instant>,
    entered: Instant,
    memory: u64,
    ready: bool,
}

impl Domain {
    /// Puts the parts together on a platform that is up.
    pub fn new(platform: Platform) -> Self {
        let Platform {
            xen,
            clock,
            mut ram,
            packets,
            window,
            store,
            ports,
            lapic,
            reserved,
            command_line,
            ..
        } = platform;
        let now = clock.now();
        let mut pages = DmaPages::new(cut(&mut ram, DMA_PAGES));
        let small = ram.pages() / 8;
        let buffers = Buffers::new(cut(&mut ram, small), ram);
        let map = map_mode(&command_line);
        let pools = Pools::new(buffers, window, Limits { packets, copies: COPIES, map });
        let switches = Switches::new(SWITCHES, [cpu::random(), cpu::random()]);
        let mut network = Network::new(xen, pools, switches);
        if let Some(nic) = nic::find(&reserved, lapic, &mut pages) {
            let bridge = command_line.value("uplink").unwrap_or(UPLINK);
            match bridge.parse::<BridgeName>() {
                Ok(name) => {
                    if let Err(error) = network.set_uplink(nic, &name, now) {
                        log::error!("{bridge}: {error}");
                    }
                }
                Err(error) => log::error!("uplink={bridge}: {error}"),
            }
        }
        Self {
            xen,
            clock,
            ports,
            control: Control::new(store),
            network,
            timer: None,
            entered: clock.at(platform.entered),
            memory: platform.memory,
            ready: false,
        }
    }

    /// Turns the loop: takes what happened, does one pass over all that is ready,
    /// and sleeps when nothing is. Ends when the toolstack asks for it.
    pub fn run(mut self) -> ! {
        cpu::enable_interrupts();
        loop {
            events::take_ports(|port| self.event(port));
            let devices = events::take_devices();
            for (number, cause) in [Cause::Queues, Cause::Other].into_iter().enumerate() {
                if devices & 1 << number != 0 {
                    self.network.interrupt(cause);
                }
            }
            let now = self.clock.now();
            let (xen, store) = (self.xen, self.ports.store);
            let next = turn(&mut self.control, &mut self.network, now, || xen.notify(store));
            self.say_ready();
            match next {
                Next::Again => {}
                Next::Sleep(deadline) => self.sleep_until(deadline),
                Next::End(Shutdown::Crash) => panic!("the toolstack asked for a crash"),
                Next::End(reason) => self.end(reason),
            }
        }
    }

    fn event(&mut self, port: EventPort) {
        if port == self.ports.console {
            console::flush();
            self.answer();
        } else if port == self.ports.timer {
            self.timer = None;
        } else {
            self.network.event(port);
        }
    }

    /// Answers a line typed on the console with all counters.
    fn answer(&mut self) {
        // All that the console's ring holds.
        let mut typed = [0; 1024];
        let len = console::read(&mut typed);
        if typed[..len].iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let (used, size) = heap::usage();
            let report = Report(&self.network);
            console::print(format_args!("{report}heap: {used} of {size} bytes\n"));
        }
    }

    /// Takes the NIC down, for as long as that is worth waiting for, and ends.
    fn end(&mut self, reason: Shutdown) -> ! {
        let started = self.clock.now();
        self.network.stop(started);
        loop {
            let now = self.clock.now();
            self.network.poll(now);
            if self.network.is_stopped() || now.since(started) > STOP_PATIENCE {
                break;
            }
        }
        log::info!("{reason:?}");
        hypercall::shutdown(reason)
    }

    /// Sleeps until something happens, at the latest at `deadline`.
    fn sleep_until(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.timer.is_none_or(|timer| deadline < timer)
        {
            // A moment in the past raises the event at once.
            match hypercall::set_timer(0, deadline) {
                Ok(()) => self.timer = Some(deadline),
                Err(error) => log::error!("timer: {error}"),
            }
        }
        cpu::sleep_unless(events::any);
    }

    /// Says once that the domain serves, and with what.
    fn say_ready(&mut self) {
        let uplink = self.network.uplink();
        if self.ready || uplink.is_some_and(|(status, _)| status == Status::Changing) {
            return;
        }
        self.ready = true;
        let version = env!("CARGO_PKG_VERSION");
        let micros = self.clock.now().since(self.entered).as_micros();
        let memory = self.memory >> 20;
        match (uplink, self.network.nic()) {
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
