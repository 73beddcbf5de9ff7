//! Guests, a NIC and the data plane between them, and packets that go round by round.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use drivers::netback::{ConnectRequest, VifConfig, VifHost, VifId};
use drivers::network::Network;
use drivers::nic::{Cause, Status};
use drivers::turn::DataPlane;
use kernel::packet::MacAddress;
use kernel::pages::choice::Mode;
use kernel::switch::{self, Switches};
use worlds::{Card, Front, Manners, Outgoing, US, Uplink, frames, pools_with};
use xen::event::EventPort;
use xen::fake::FakeXen;
use xen::fake_store::VifPaths;
use xen::{DomainId, Hypervisor};

use crate::case::{Case, Path};
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

/// The domain's part: one pass over what happened. Callgrind counts here, by the
/// function's name.
#[inline(never)]
pub fn pass(
    network: &mut Network<Metered, Nic>,
    events: &[EventPort],
    causes: &[Cause],
    now: xen::Instant,
) -> bool {
    events.iter().for_each(|port| network.event(*port));
    causes.iter().for_each(|cause| network.interrupt(*cause));
    network.poll(now)
}

/// All that a case takes.
pub struct Workbench {
    case: Case,
    xen: FakeXen,
    metered: Metered,
    /// Never taken apart: its rings are full of buffers.
    network: ManuallyDrop<Network<Metered, Nic>>,
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
        xen.set_port_limit(usize::from(SWITCHES.ports) + 1);
        xen.advance(Duration::from_secs(1000));
        let metered = Metered::new(xen.clone());
        let pools = pools_with(&xen, Mode::Never, FRAMES);
        let mut network = Network::new(metered.clone(), pools, Switches::new(SWITCHES, SEED));
        let card = Card::new(&xen);
        let bridge = "xenbr0".parse().expect("a name");
        network.set_uplink(card.driver(&xen), &bridge, xen.now()).expect("a first port");
        let mut guests = BTreeMap::new();
        let fronts = (0..case.vifs).map(|number| {
            let domain = DomainId((10 + number / VIFS_OF_A_GUEST) as u16);
            let guest = guests.entry(domain).or_insert_with(|| xen.create_domain(domain));
            let devid = (number % VIFS_OF_A_GUEST) as u32;
            let vif = VifPaths { frontend: domain, backend: US, devid };
            Front::new(guest.clone(), vif, Manners { offers: OFFERS, ..Manners::default() })
        });
        let fronts = fronts.collect();
        let (network, spent) = (ManuallyDrop::new(network), Duration::ZERO);
        let mut bench = Self { case, xen, metered, network, card, fronts, rounds: 0, spent };
        bench.bring_up();
        bench
    }

    fn bring_up(&mut self) {
        let up = |network: &Network<_, _>| {
            network.uplink().is_some_and(|(status, _)| status == Status::Running)
        };
        for _ in 0..PATIENCE {
            self.settle();
            if up(&self.network) {
                break;
            }
            self.xen.advance(ROUND);
        }
        assert!(up(&self.network), "the NIC is not up");
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
            self.network.connect(&request, self.xen.now()).expect("all that it takes is there");
        }
        self.settle();
        let to = self.fronts[0].mac();
        for number in 0..self.case.stations {
            self.card.inject(frames::plain(to, station(number), 60, 1));
            self.settle();
        }
        self.fronts.iter_mut().for_each(|front| front.received.clear());
    }

    /// Turns until nothing moves any more; guests move as well, on their own time.
    fn settle(&mut self) {
        let now = self.xen.now();
        let mut again = true;
        for _ in 0..PATIENCE {
            let (events, causes) = (self.xen.take_pending(), self.card.take_interrupts());
            if again || !events.is_empty() || !causes.is_empty() {
                let (start, beyond) = (Instant::now(), self.metered.spent());
                again = pass(&mut self.network, &events, &causes, now);
                self.spent += start.elapsed().saturating_sub(self.metered.spent() - beyond);
            } else {
                let attended = self.fronts.iter_mut().map(|front| front.attend(now));
                if attended.filter(|did| *did).count() == 0 {
                    return;
                }
            }
        }
        panic!("the domain never rests");
    }

    /// Sends a batch, and has it arrive. Says how many packets did, and how long the domain
    /// worked for them.
    pub fn round(&mut self) -> (usize, Duration) {
        let Case { path, len, batch, vifs, stations } = self.case;
        self.rounds += 1;
        self.spent = Duration::ZERO;
        let from = if path == Path::Pairs { self.rounds * 2 % (vifs - vifs % 2) } else { 0 };
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
            self.fronts[from].queue(&Outgoing::whole(&frame));
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
