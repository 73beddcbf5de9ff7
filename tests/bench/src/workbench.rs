//! Guests, a NIC and the data plane between them, and packets that go round by round.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::fabric::{Fabric, Shared};
use drivers::netback::{ConnectRequest, VifConfig, VifHost, VifId};
use drivers::network::Network;
use drivers::nic::{Cause, Status};
use drivers::turn::DataPlane;
use kernel::link::Bell;
use kernel::packet::MacAddress;
use kernel::pages::choice::Mode;
use kernel::switch::{self, Switches};
use worlds::{Card, Front, Manners, Outgoing, US, Uplink, frames, pools_with};
use xen::event::EventPort;
use xen::fake::FakeXen;
use xen::fake_store::VifPaths;
use xen::{DomainId, Hypervisor};

use crate::case::{Case, Path};
use crate::marks::{NOBODY, mark};
use crate::metered::Metered;

/// A bridge for as many vifs as growth is looked at with, and the image's table of addresses.
const SWITCHES: switch::Limits = switch::Limits { switches: 1, ports: 1024, addresses: 4096 };
/// Frames for the rings of all vifs, and for pages to be mapped.
const FRAMES: usize = 4096;
/// How many vifs a guest has at most.
const VIFS_OF_A_GUEST: usize = 8;
/// What the image takes from the processor's random numbers.
const SEED: [u64; 2] = [0x2545_f491_4f6c_dd1d, 0x9e6c_63d0_876a_8b53];
/// The pages that a guest offers to be filled: two rounds' worth.
const OFFERS: u32 = 64;
/// What a round takes.
const ROUND: Duration = Duration::from_micros(100);
/// Passes in which the domain has to come to rest.
const PATIENCE: usize = 10_000;

type Nic = <Card as Uplink>::Nic;

/// The domain's part: one pass of a vCPU over what happened. Callgrind counts here, by the
/// function's name.
#[inline(never)]
pub fn pass(
    vcpu: usize,
    network: &Shared<Metered, Nic>,
    events: &[EventPort],
    causes: &[Cause],
    now: xen::Instant,
) -> bool {
    mark(vcpu);
    let mut network = network.lock();
    events.iter().for_each(|port| network.event(*port));
    causes.iter().for_each(|cause| network.interrupt(*cause));
    let more = network.poll(now);
    drop(network);
    mark(NOBODY);
    more
}

/// A vCPU, from outside.
struct Processor {
    bell: Arc<Bell>,
    ipi: EventPort,
    asleep: bool,
    events: Vec<EventPort>,
}

/// All that a case takes.
pub struct Workbench {
    case: Case,
    xen: FakeXen,
    metered: Metered,
    /// Never taken apart: its rings are full of buffers.
    fabric: ManuallyDrop<Fabric<Metered, Arc<Shared<Metered, Nic>>>>,
    processors: Vec<Processor>,
    /// Which vCPU an event is for.
    ports: BTreeMap<EventPort, usize>,
    card: Card,
    fronts: Vec<Front>,
    rounds: usize,
    spent: Duration,
}

impl Workbench {
    /// A domain that is up, with all vifs connected and all stations known.
    ///
    /// # Panics
    /// If the domain does not come up, here and everywhere.
    pub fn new(case: Case) -> Self {
        let xen = FakeXen::new(US);
        xen.set_port_limit(usize::from(SWITCHES.ports) + 1 + case.vcpus);
        xen.advance(Duration::from_secs(1000));
        let metered = Metered::new(xen.clone());
        let card = Card::new(&xen);
        let bridge = "xenbr0".parse().expect("a name");
        let (mut networks, mut processors) = (Vec::new(), Vec::new());
        for vcpu in 0..case.vcpus {
            let pools = pools_with(&xen, Mode::Never, FRAMES);
            let ipi = xen.bind_ipi();
            let bell = Arc::new(Bell::new(ipi));
            let network = Network::new(metered.of(vcpu), pools, Switches::new(SWITCHES, SEED));
            networks.push((network, bell.clone()));
            processors.push(Processor { bell, ipi, asleep: false, events: Vec::new() });
        }
        let driver = card.driver(&xen);
        networks[0].0.set_uplink(driver, &bridge, xen.now()).expect("a first port");
        let fabric = Fabric::new(metered.clone(), networks, Some(&bridge), Arc::new);
        let fabric = ManuallyDrop::new(fabric.expect("room for links"));
        let mut guests = BTreeMap::new();
        let fronts = (0..case.vifs).map(|number| {
            let domain = DomainId((10 + number / VIFS_OF_A_GUEST) as u16);
            let guest = guests.entry(domain).or_insert_with(|| xen.create_domain(domain));
            let devid = (number % VIFS_OF_A_GUEST) as u32;
            let vif = VifPaths { frontend: domain, backend: US, devid };
            let manners = Manners { offers: OFFERS, queues: case.queues, ..Manners::default() };
            Front::new(guest.clone(), vif, manners)
        });
        let fronts = fronts.collect();
        let (ports, rounds, spent) = (BTreeMap::new(), 0, Duration::ZERO);
        let mut bench =
            Self { case, xen, metered, fabric, processors, ports, card, fronts, rounds, spent };
        bench.bring_up();
        bench
    }

    fn bring_up(&mut self) {
        let up = |bench: &Self| {
            let network = bench.fabric.networks()[0].lock();
            network.uplink().is_some_and(|(status, _)| status == Status::Running)
        };
        for _ in 0..PATIENCE {
            self.settle();
            if up(self) {
                break;
            }
            self.xen.advance(ROUND);
        }
        assert!(up(self), "the NIC is not up");
        for front in &self.fronts {
            let VifPaths { frontend, devid, .. } = front.vif();
            let request = ConnectRequest {
                vif: VifId { frontend, handle: devid },
                config: VifConfig {
                    mac: MacAddress::new(front.mac()),
                    bridge: "xenbr0".try_into().expect("a name"),
                    mtu: None,
                    rate: None,
                    vlans: None,
                },
                frontend: front.frontend(),
            };
            self.fabric.connect(&request, self.xen.now()).expect("all that it takes is there");
        }
        for (vcpu, network) in self.fabric.networks().iter().enumerate() {
            self.ports.extend(network.lock().ports().into_iter().map(|port| (port, vcpu)));
        }
        self.ports.extend(self.processors.iter().enumerate().map(|(vcpu, of)| (of.ipi, vcpu)));
        self.settle();
        let to = self.fronts[self.on_the_wire()].mac();
        for number in 0..self.case.stations {
            self.card.inject(frames::plain(to, station(number), 60, 1));
            self.settle();
        }
        self.fronts.iter_mut().for_each(|front| front.received.clear());
    }

    /// The vif that stations talk to: with several vCPUs the second one, and with it the
    /// second vCPU, where the NIC is not.
    fn on_the_wire(&self) -> usize {
        usize::from(self.case.vcpus > 1)
    }

    /// Turns until nothing moves any more; guests move as well, on their own time.
    fn settle(&mut self) {
        // Time has passed, and may have brought deadlines.
        self.processors.iter_mut().for_each(|processor| processor.asleep = false);
        for _ in 0..PATIENCE {
            for port in self.xen.take_pending() {
                let vcpu = self.ports.get(&port).copied().unwrap_or(0);
                let processor = &mut self.processors[vcpu];
                processor.events.push(port);
                processor.asleep = false;
            }
            let causes = self.card.take_interrupts();
            self.processors[0].asleep &= causes.is_empty();
            if self.processors.iter().any(|processor| !processor.asleep) {
                self.go(&causes);
                continue;
            }
            let now = self.xen.now();
            let attended = self.fronts.iter_mut().map(|front| front.attend(now));
            if attended.filter(|did| *did).count() == 0 {
                return;
            }
        }
        panic!("the domain never rests");
    }

    /// One pass of every vCPU that is awake.
    fn go(&mut self, causes: &[Cause]) {
        let now = self.xen.now();
        for (vcpu, processor) in self.processors.iter_mut().enumerate() {
            if processor.asleep {
                continue;
            }
            processor.bell.awake();
            let causes = if vcpu == 0 { causes } else { &[] };
            let network = &self.fabric.networks()[vcpu];
            let (start, beyond) = (Instant::now(), self.metered.spent());
            let more = pass(vcpu, network, &processor.events, causes, now);
            self.spent += start.elapsed().saturating_sub(self.metered.spent() - beyond);
            processor.events.clear();
            processor.asleep = !more && processor.bell.may_sleep();
        }
    }

    /// Sends a batch, and has it arrive. Says how many packets did, and how long the domain
    /// worked for them.
    pub fn round(&mut self) -> (usize, Duration) {
        let Case { path, len, batch, vifs, stations, queues, .. } = self.case;
        self.rounds += 1;
        self.spent = Duration::ZERO;
        let from = match path {
            Path::Pairs => self.rounds * 2 % (vifs - vifs % 2),
            Path::ToWire | Path::FromWire => self.on_the_wire(),
            _ => 0,
        };
        for number in 0..batch {
            let seed = number as u64;
            if path == Path::FromWire {
                let to = self.fronts[from].mac();
                self.card.inject(frames::plain(to, station(0), len, seed));
                continue;
            }
            let to = match path {
                Path::Flood => frames::BROADCAST,
                Path::ToWire => station((self.rounds * batch + number) % stations),
                _ => self.fronts[from + 1].mac(),
            };
            let frame = frames::plain(to, self.fronts[from].mac(), len, seed);
            self.fronts[from].queue_to(number % queues, &Outgoing::whole(&frame));
        }
        self.fronts[from].kick();
        self.settle();
        self.xen.advance(ROUND);
        let sent = self.card.take_frames().len();
        let received = |front: &mut Front| front.received.drain(..).count();
        let received: usize = self.fronts.iter_mut().map(received).sum();
        self.fronts[from].answers.clear();
        let (arrived, expected) = match path {
            Path::Flood => (received + sent, batch * vifs),
            Path::ToWire => (sent, batch),
            _ => (received, batch),
        };
        assert_eq!(arrived, expected, "all packets arrive");
        (arrived, self.spent)
    }
}

/// The address of a station on the wire.
fn station(number: usize) -> [u8; 6] {
    let [.., high, low] = number.to_be_bytes();
    [2, 0, 0, 0, high, low]
}
