//! A driver domain of several vCPUs, each of which goes when it is let, and sleeps as those
//! of the image do: from then on, nothing but an event or its deadline wakes it.

use std::sync::Arc;
use std::time::Duration;

use drivers::fabric::{Fabric, Shared};
use drivers::fake::journal;
use drivers::netback::{Carrier, ConnectRequest, Progress, Urgency, VifConfig, VifHost, VifId};
use drivers::network::{Network, Refusal};
use drivers::turn::DataPlane;
use kernel::link::Bell;
use kernel::pages::choice::Mode;
use kernel::switch::Switches;
use xen::event::EventPort;
use xen::fake::{FakeXen, Guest};
use xen::fake_store::VifPaths;
use xen::{Hypervisor, Instant};

use crate::front::{Front, Manners};
use crate::uplink::Uplink;
use crate::wire::Wire;
use crate::world::{GUESTS, SWITCHES, US, pools_with};

type Pointer = Arc<Shared<FakeXen, <Wire as Uplink>::Nic>>;

/// Frames to map at, for each vCPU.
const FRAMES: usize = 256;
/// Turns in which everything has to come to rest.
const PATIENCE: usize = 100_000;
/// How long a NIC that is polled is left alone.
const GLANCE: Duration = Duration::from_micros(10);

/// A vCPU, seen from outside.
struct Processor {
    bell: Arc<Bell>,
    ipi: EventPort,
    asleep: bool,
    deadline: Option<Instant>,
}

/// The domain and everything around it.
pub struct Vcpus {
    /// The hypervisor.
    pub xen: FakeXen,
    /// All networks.
    pub fabric: Fabric<FakeXen, Pointer>,
    /// The NIC of `xenbr0`, which the first has, from the other side.
    pub wire: Wire,
    /// The guests' frontends.
    pub fronts: Vec<Front>,
    /// vCPUs that do not get to run.
    pub held_up: Vec<usize>,
    /// What the control plane was told.
    pub carriers: Vec<(VifId, Carrier<drivers::netback::data::Violation>)>,
    processors: Vec<Processor>,
    guests: Vec<Guest>,
}

impl Vcpus {
    /// A domain of so many vCPUs that is up, and guests without vifs.
    pub fn new(vcpus: usize) -> Self {
        journal::start();
        let xen = FakeXen::new(US);
        xen.advance(Duration::from_secs(1000));
        let guests = GUESTS.map(|guest| xen.create_domain(guest)).to_vec();
        let wire = <Wire as Uplink>::new(&xen);
        let mut processors = Vec::new();
        let mut networks = Vec::new();
        for _ in 0..vcpus {
            let ipi = xen.bind_ipi();
            let bell = Arc::new(Bell::new(ipi));
            let pools = pools_with(&xen, Mode::Auto, FRAMES);
            let switches = Switches::new(SWITCHES, [3, 5]);
            networks.push((Network::new(xen.clone(), pools, switches), bell.clone()));
            processors.push(Processor { bell, ipi, asleep: false, deadline: None });
        }
        let bridge = "xenbr0".parse().expect("a name");
        networks[0].0.set_uplink(wire.driver(&xen), &bridge, xen.now()).expect("a first port");
        let fabric =
            Fabric::new(xen.clone(), networks, Some(&bridge), Arc::new).expect("room for links");
        let (fronts, held_up, carriers) = (Vec::new(), Vec::new(), Vec::new());
        let mut vcpus = Self { xen, fabric, wire, fronts, held_up, carriers, processors, guests };
        vcpus.settle();
        vcpus
    }

    /// Gives the `guest`-th guest a vif on `xenbr0`.
    pub fn attach(&mut self, guest: usize, manners: Manners) -> usize {
        let front = self.front(guest, manners);
        self.connect(front, |_| ()).expect("all that it takes is there");
        self.settle();
        front
    }

    /// Gives the `guest`-th guest a frontend that is not connected.
    pub fn front(&mut self, guest: usize, manners: Manners) -> usize {
        let vif = VifPaths { frontend: GUESTS[guest], backend: US, devid: 0 };
        self.fronts.push(Front::new(self.guests[guest].clone(), vif, manners));
        self.fronts.len() - 1
    }

    /// Connects a frontend, as `change` has it configured.
    pub fn connect(
        &mut self,
        front: usize,
        change: impl FnOnce(&mut VifConfig),
    ) -> Result<(), Refusal> {
        let front_end = &self.fronts[front];
        let mut config = VifConfig {
            mac: kernel::packet::MacAddress::new(front_end.mac()),
            bridge: "xenbr0".try_into().expect("a name"),
            mtu: None,
            rate: None,
            vlans: None,
        };
        change(&mut config);
        let (vif, frontend) = (self.vif(front), front_end.frontend());
        self.fabric.connect(&ConnectRequest { vif, config, frontend }, self.xen.now())
    }

    /// A frontend's vif.
    pub fn vif(&self, front: usize) -> VifId {
        let VifPaths { frontend, devid, .. } = self.fronts[front].vif();
        VifId { frontend, handle: devid }
    }

    /// Goes on with taking a vif apart.
    pub fn disconnect(&mut self, front: usize) -> Progress {
        self.fabric.disconnect(self.vif(front), Urgency::Patient, self.xen.now())
    }

    /// A vCPU's network.
    pub fn network(
        &self,
        vcpu: usize,
    ) -> impl std::ops::DerefMut<Target = Network<FakeXen, <Wire as Uplink>::Nic>> {
        self.fabric.networks()[vcpu].try_lock().expect("nobody holds it")
    }

    /// One turn of a vCPU, if anything wakes it. Whether there was one.
    pub fn step(&mut self, vcpu: usize) -> bool {
        if self.held_up.contains(&vcpu) {
            return false;
        }
        let now = self.xen.now();
        let mut wakes = !self.processors[vcpu].asleep;
        wakes |= self.processors[vcpu].deadline.is_some_and(|deadline| deadline <= now);
        wakes |= self.xen.take_pending_at(self.processors[vcpu].ipi);
        let ports = self.network(vcpu).ports();
        for port in ports {
            if self.xen.take_pending_at(port) {
                wakes = true;
                self.fabric.networks()[vcpu].lock().event(port);
            }
        }
        if vcpu == 0 {
            for cause in self.wire.take_interrupts() {
                wakes = true;
                self.fabric.networks()[0].lock().interrupt(cause);
            }
        }
        if !wakes {
            return false;
        }
        self.processors[vcpu].bell.awake();
        let (more, deadline) = if vcpu == 0 {
            self.carriers.extend(self.fabric.next_carrier());
            (self.fabric.poll(now) || self.fabric.is_polled(), self.fabric.next_deadline())
        } else {
            let mut network = self.fabric.networks()[vcpu].lock();
            (network.poll(now), network.next_deadline())
        };
        if vcpu == 0 && self.fabric.is_polled() {
            self.xen.advance(GLANCE);
        }
        let processor = &mut self.processors[vcpu];
        let due = deadline.is_some_and(|deadline| deadline <= now);
        processor.deadline = deadline;
        processor.asleep = !more && !due && processor.bell.may_sleep();
        true
    }

    /// Lets guests move. Whether any did.
    pub fn attend(&mut self) -> bool {
        let now = self.xen.now();
        let attended = self.fronts.iter_mut().map(|front| front.attend(now));
        attended.filter(|did| *did).count() > 0
    }

    /// Lets everybody move until nobody does.
    ///
    /// # Panics
    /// If that never happens.
    pub fn settle(&mut self) {
        self.settle_by(|turn| turn);
    }

    /// The same, where `pick` says who goes first in each round.
    pub fn settle_by(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for turn in 0..PATIENCE {
            let first = pick(turn);
            let all = self.processors.len();
            let moved = (0..all).any(|vcpu| self.step((first + vcpu) % all));
            if !moved && !self.attend() {
                return;
            }
        }
        panic!("the domain never rests");
    }

    /// Lets time pass; vCPUs wake at their deadlines.
    pub fn pass(&mut self, time: Duration) {
        let end = self.xen.now() + time;
        while self.xen.now() < end {
            let up = |processor: &Processor| processor.deadline;
            let next = self.processors.iter().filter_map(up).filter(|at| *at > self.xen.now());
            let next = next.min().map_or(end, |at| at.min(end));
            self.xen.advance(next.since(self.xen.now()));
            self.settle();
        }
    }

    /// Sees that nothing is left behind on any vCPU.
    ///
    /// # Panics
    /// If something is.
    pub fn check(&self) {
        for vcpu in 0..self.processors.len() {
            let network = self.network(vcpu);
            let pages = network.pools().tracker.counters();
            assert_eq!((pages.outstanding(), pages.holds), (0, 0), "vcpu{vcpu}: {pages:?}");
            assert_eq!(network.pools().tracker.census().records, 0, "vcpu{vcpu}");
            let mapped = network.pools().window.free() + network.rings();
            assert_eq!(mapped, FRAMES, "vcpu{vcpu}");
        }
    }
}
