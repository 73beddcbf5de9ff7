//! A world small enough for every history of it to be tried: two guests, a NIC, few
//! packets, and one end.
//!
//! The data plane is the real one, on the in-memory hypervisor; XenStore is left away,
//! and the explorer asks for what the control plane would. The domain's turn is an
//! action like any other, so whatever happens happens before it, after it, and much
//! later; guests look at their rings whenever the domain calls the hypervisor. Checked
//! is what guests, the wire and the hypervisor see.

mod meanwhile;
mod play;
mod plot;
mod rules;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use drivers::fake::journal;
use drivers::netback::data::Violation;
use drivers::netback::{Carrier, ConnectRequest, Progress, Urgency, VifConfig, VifHost, VifId};
use drivers::network::Network;
use drivers::turn::DataPlane;
use kernel::memory::{Buffers, Window};
use kernel::packet::MacAddress;
use kernel::pages::choice::Mode;
use kernel::switch::{self, Switches};
use kernel::{Limits, MAX_PRIVATE_COPIES, Pools};
use xen::fake::{FakeXen, Guest, GuestFrame};
use xen::fake_store::VifPaths;
use xen::grant::GrantRef;
use xen::netif::{ExtraFlags, ExtraInfo};
use xen::{DomainId, Hypervisor, Instant};

use crate::frames;
use crate::front::{Front, Manners, Outgoing};
use crate::uplink::Uplink;
use crate::wire::{ScriptedNic, Wire};
use crate::world::{US, ram};
use meanwhile::Meanwhile;
use plot::Left;

pub use plot::{Action, End, POOL, Plot, To, Who};

/// What the control plane waits before it forces an end (`DISCONNECT_PATIENCE`).
const PATIENCE: Duration = Duration::from_secs(5);
/// Turns without a rest after which the domain is taken to spin.
const RESTLESS: usize = 100;
/// Frames that two devices' rings need.
const RINGS: usize = 4;
const SMALL: usize = 1;
const LARGE: usize = 2;
const SWITCHES: switch::Limits = switch::Limits { switches: 1, ports: 4, addresses: 8 };
/// The guests at the start. Who comes back after its death has the next number.
const GUESTS: [DomainId; 2] = [DomainId(10), DomainId(11)];
/// What A writes to its pages when it edits them.
const EDITED: u8 = 0xee;
/// `XEN_NETIF_EXTRA_TYPE_HASH`.
const HASH: u8 = 4;
/// Where a guest has no page.
const NOWHERE: GuestFrame = GuestFrame(u64::MAX);
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Where bridges listen that are the nearest (IEEE 802.1Q, table 8-1).
const BRIDGES: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];

/// A guest's device.
#[derive(Debug)]
struct Device {
    front: Front,
    phase: Phase,
    /// The pages it lends that the domain knows of, by their slots' ids, and since when.
    taken: BTreeMap<u16, Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Connected, at both ends.
    Connected,
    /// The guest's end is gone.
    Ended(End),
    /// The domain has been taking its own end apart since then.
    Ending(End, Instant),
    /// The domain's is gone, too.
    Gone(End),
}

impl Device {
    /// A device of a new guest.
    fn new(xen: &FakeXen, domain: DomainId) -> Self {
        let manners =
            Manners { offers: 0, refills: false, start: u32::MAX - 1, ..Manners::default() };
        let paths = VifPaths { frontend: domain, backend: US, devid: 0 };
        let front = Front::new(xen.create_domain(domain), paths, manners);
        Self { front, phase: Phase::Connected, taken: BTreeMap::new() }
    }

    fn vif(&self) -> VifId {
        VifId { frontend: self.front.guest.id(), handle: 0 }
    }
}

/// A small world under way.
pub struct SmallWorld {
    plot: Plot,
    left: Left,
    xen: FakeXen,
    network: Network<FakeXen, ScriptedNic>,
    wire: Wire,
    devices: [Device; 2],
    meanwhile: Meanwhile,
    /// To and from which addresses each packet was sent.
    sent: Vec<[[u8; 6]; 2]>,
    /// The first packet that can still arrive, at B and at the wire.
    next: [usize; 2],
    /// How many packets have.
    arrived: [usize; 2],
    /// How many packets were sent when A edited its pages.
    edited: usize,
    /// How many pages were lent, and answered.
    lent: u64,
    answered: u64,
    /// How many pages were lent and claimed before A's device connected.
    before: (u64, u64),
    /// Whether the domain has to take another turn at once.
    restless: bool,
    /// Whether there is a reason for a copy to fail.
    spoilt: bool,
    /// Whether anybody's device has ended.
    ended: bool,
    /// Pages that were still in use when their vif was taken apart.
    stuck: Vec<(Guest, GrantRef)>,
    next_domain: u16,
}

impl SmallWorld {
    /// The world before anything happens: both guests are connected.
    pub fn new(plot: &Plot) -> Self {
        journal::start();
        let xen = FakeXen::new(US);
        xen.advance(Duration::from_secs(1000));
        let window = Window::of(xen.foreign_frames(RINGS + plot.frames));
        let limits = Limits { packets: plot.pool, copies: MAX_PRIVATE_COPIES, map: Mode::Always };
        let pools = Pools::new(Buffers::new(ram(&xen, SMALL), ram(&xen, LARGE)), window, limits);
        let mut network = Network::new(xen.clone(), pools, Switches::new(SWITCHES, [3, 5]));
        let wire = Wire::new(xen.clone(), plot.holding);
        wire.hold(plot.descriptors);
        let bridge = "xenbr0".parse().expect("a name");
        network.set_uplink(wire.nic(), &bridge, xen.now()).expect("a first port");
        let mut world = Self {
            plot: plot.clone(),
            left: Left::of(plot),
            devices: GUESTS.map(|domain| Device::new(&xen, domain)),
            meanwhile: Meanwhile::new(&xen),
            xen,
            network,
            wire,
            sent: Vec::new(),
            next: [0; 2],
            arrived: [0; 2],
            edited: 0,
            lent: 0,
            answered: 0,
            before: (0, 0),
            restless: false,
            spoilt: false,
            ended: false,
            stuck: Vec::new(),
            next_domain: GUESTS[1].0 + 1,
        };
        world.connect(Who::A);
        world.connect(Who::B);
        world.settle();
        world
    }

    fn device(&mut self, who: Who) -> &mut Device {
        &mut self.devices[who as usize]
    }

    fn phase(&self, who: Who) -> Phase {
        self.devices[who as usize].phase
    }

    fn connect(&mut self, who: Who) {
        let now = self.xen.now();
        let device = &self.devices[who as usize];
        let request = ConnectRequest {
            vif: device.vif(),
            config: VifConfig {
                mac: MacAddress::new(device.front.mac()),
                bridge: "xenbr0".try_into().expect("a name"),
                mtu: None,
                rate: None,
                vlans: None,
            },
            frontend: device.front.frontend(),
        };
        self.network.connect(&request, now).expect("all that it takes is there");
        if who == Who::A {
            self.before = (self.lent, self.network.pools().tracker.counters().claimed);
            self.meanwhile.watch(&self.devices[0].front);
        }
    }

    /// The `n`-th packet, as it was sent.
    fn packet(&self, n: usize) -> Vec<u8> {
        let [to, from] = self.sent[n];
        let len = self.plot.packets[n].1.iter().map(|len| usize::from(*len)).sum();
        frames::plain(to, from, len, n as u64)
    }

    fn send(&mut self) {
        let n = self.sent.len();
        let [from, to_b] = self.devices.each_ref().map(|device| device.front.mac());
        let (to, pieces) = &self.plot.packets[n];
        let to = match to {
            To::All => frames::BROADCAST,
            To::B => to_b,
            To::Stranger => STRANGER,
            To::Bridges => BRIDGES,
        };
        self.sent.push([to, from]);
        self.lent += pieces.len() as u64;
        let pieces = pieces.iter().map(|len| (0, *len)).collect();
        let mut packet = Outgoing::cut(&self.packet(n), pieces);
        if n % 2 == 1 {
            packet = packet.with_extras(&[ExtraInfo::new(HASH, ExtraFlags::empty(), [0; 6])]);
        }
        self.devices[0].front.send(&packet);
        self.meanwhile.watch(&self.devices[0].front);
    }

    /// A turn of the domain's loop, and what connected guests do about it.
    fn turn(&mut self) {
        for port in self.xen.take_pending() {
            self.network.event(port);
        }
        for cause in self.wire.take_interrupts() {
            self.network.interrupt(cause);
        }
        let now = self.xen.now();
        self.restless = self.network.poll(now);
        while let Some((vif, carrier)) = self.network.next_carrier() {
            match carrier {
                Carrier::Up | Carrier::Stalled => assert_eq!(vif, self.devices[1].vif()),
                Carrier::Broken(Violation::Quarantined) => {
                    // It closes, unless it has ended in another way already.
                    if self.phase(Who::A) == Phase::Connected {
                        self.end_device(Who::A, End::Close);
                    }
                }
                Carrier::Broken(fault) => panic!("an honest frontend is given up: {fault}"),
            }
        }
        if self.phase(Who::B) == Phase::Connected {
            self.devices[1].front.attend(now);
        }
        if self.phase(Who::A) == Phase::Connected {
            let claimed = self.network.pools().tracker.counters().claimed;
            let untaken = (self.lent - self.before.0) - (claimed - self.before.1);
            let Device { front, taken, .. } = &mut self.devices[0];
            let lent: Vec<_> = front.lent().collect();
            for id in &lent[..lent.len() - untaken as usize] {
                taken.entry(*id).or_insert(now);
            }
            front.attend(now);
            self.answered += front.answers.drain(..).count() as u64;
            taken.retain(|id, _| front.lent().any(|lent| lent == *id));
            self.meanwhile.watch(front);
            self.check_deadlines(now);
        }
    }

    fn end_device(&mut self, who: Who, end: End) {
        self.ended = true;
        if who == Who::A {
            self.meanwhile.look_away();
        }
        let device = self.device(who);
        device.phase = Phase::Ended(end);
        if end == End::Death {
            device.front.guest.die();
            // It has no grants any more to be looked at.
            let domain = device.front.guest.id();
            self.stuck.retain(|(guest, _)| guest.id() != domain);
            self.spoilt = true;
        }
    }

    fn disconnect(&mut self, who: Who, urgency: Urgency) {
        let now = self.xen.now();
        let vif = self.device(who).vif();
        let progress = self.network.disconnect(vif, urgency, now);
        // The control plane's part is the first half of a turn.
        self.restless = true;
        let kept = !self.meanwhile.kept().is_empty();
        let device = self.device(who);
        let (end, since) = match device.phase {
            Phase::Ending(end, since) => (end, since),
            Phase::Ended(end) => (end, now),
            Phase::Connected | Phase::Gone(_) => unreachable!("it has ended, and not quite"),
        };
        device.phase = Phase::Ending(end, since);
        if progress == Progress::Pending {
            assert_eq!(urgency, Urgency::Patient, "no longer than this");
            return;
        }
        device.phase = Phase::Gone(end);
        device.taken.clear();
        match (end, urgency) {
            (End::Death, _) => {}
            (End::Close, Urgency::Patient) if !kept => device.front.close(),
            (End::Close, _) => {
                let guest = device.front.guest.clone();
                let stuck = device.front.close_forced();
                self.stuck.extend(stuck.into_iter().map(|reference| (guest.clone(), reference)));
                self.spoilt |= urgency == Urgency::Forced;
            }
        }
    }

    fn come_back(&mut self, who: Who) {
        let device = &mut self.devices[who as usize];
        if device.phase == Phase::Gone(End::Death) {
            *device = Device::new(&self.xen, DomainId(self.next_domain));
            self.next_domain += 1;
        } else {
            device.front.reopen();
            device.phase = Phase::Connected;
        }
        self.connect(who);
    }

    /// Whether anything keeps the domain from sleeping, or wakes it.
    fn wakes(&self) -> bool {
        let due = self.network.next_deadline().is_some_and(|at| at <= self.xen.now());
        let events = self.xen.has_pending() || self.wire.interrupts();
        self.restless || due || events || self.network.is_polled()
    }

    /// The domain goes on until it sleeps.
    fn settle(&mut self) {
        for _ in 0..RESTLESS {
            if !self.wakes() {
                return;
            }
            self.turn();
            self.check();
        }
        panic!("the domain never rests");
    }

    /// Time passes, and the domain wakes when it has to.
    fn pass(&mut self, time: Duration) {
        let end = self.xen.now() + time;
        loop {
            self.settle();
            let now = self.xen.now();
            if now >= end {
                return;
            }
            let next = self.network.next_deadline().map_or(end, |at| at.min(end));
            self.xen.advance(next.since(now));
        }
    }
}
