//! The control plane against the fake xenstored, with a toolstack and guests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::string::ToString;
use std::vec;

use core::time::Duration;

use xen::SharedPage;
use xen::bindings::{XS_READ, XS_WATCH, XS_WRITE};
use xen::event::RemotePort;
use xen::fake_store::{
    Detach, DetachError, Manners, Netfront, Permissions, Toolstack, VifPaths, Xenstored,
};
use xen::grant::GrantRef;

use super::*;
use crate::netback::Rate;
use crate::netback::vif::{DISCONNECT_PATIENCE, LINGER};
use crate::netback::{Carrier, ConnectRequest, Options, Progress, RemotePorts, Urgency, VifConfig};

const US: DomainId = DomainId(5);

/// A data plane that keeps the trait's promises and checks those made to it.
#[derive(Default)]
struct Host {
    connected: BTreeMap<VifId, ConnectRequest>,
    disconnecting: BTreeSet<VifId>,
    connects: usize,
    reconfigurations: usize,
    refuse_admission: Option<&'static str>,
    refuse_connection: Option<&'static str>,
    /// Disconnections wait for force.
    stuck: bool,
    forced: usize,
    carriers: VecDeque<(VifId, Carrier<&'static str>)>,
}

impl VifHost for Host {
    type Refusal = &'static str;
    type Fault = &'static str;

    fn admit(&mut self, _: VifId, _: &VifConfig) -> Result<(), &'static str> {
        self.refuse_admission.map_or(Ok(()), Err)
    }

    fn connect(&mut self, request: &ConnectRequest, _: Instant) -> Result<(), &'static str> {
        if let Some(reason) = self.refuse_connection {
            return Err(reason);
        }
        self.connects += 1;
        let before = self.connected.insert(request.vif, request.clone());
        assert_eq!(before, None, "connected twice");
        Ok(())
    }

    fn reconfigure(&mut self, vif: VifId, options: Options) {
        let request = self.connected.get_mut(&vif).expect("connected");
        assert_ne!(request.frontend.options, options, "nothing changed");
        request.frontend.options = options;
        self.reconfigurations += 1;
    }

    fn limit(&mut self, vif: VifId, rate: Option<Rate>, _: Instant) {
        let request = self.connected.get_mut(&vif).expect("connected");
        assert_ne!(request.config.rate, rate, "nothing changed");
        request.config.rate = rate;
    }

    fn disconnect(&mut self, vif: VifId, urgency: Urgency, _: Instant) -> Progress {
        assert!(self.connected.contains_key(&vif), "not connected");
        if self.stuck && urgency == Urgency::Patient {
            self.disconnecting.insert(vif);
            return Progress::Pending;
        }
        self.forced += usize::from(urgency == Urgency::Forced);
        self.disconnecting.remove(&vif);
        self.connected.remove(&vif);
        Progress::Finished
    }

    fn next_carrier(&mut self) -> Option<(VifId, Carrier<&'static str>)> {
        self.carriers.pop_front()
    }
}

struct World {
    xenstored: Xenstored,
    page: SharedPage,
    store: Store,
    backend: Backend,
    host: Host,
    now: Instant,
    fronts: Vec<Netfront>,
    /// The states that our directories have shown, by vif.
    shown: BTreeMap<VifPaths, Vec<String>>,
}

fn vif(guest: u16, devid: u32) -> VifPaths {
    VifPaths { frontend: DomainId(guest), backend: US, devid }
}

fn id(vif: VifPaths) -> VifId {
    VifId { frontend: vif.frontend, handle: vif.devid }
}

impl World {
    /// A driver domain that is up, and guests 10 and 11 without vifs.
    fn new() -> Self {
        let mut world = Self::before_start();
        world.run();
        world
    }

    fn before_start() -> Self {
        let mut xenstored = Xenstored::new();
        for domain in [US, DomainId(10), DomainId(11)] {
            xenstored.create_domain(domain);
            // Something that keeps libxl from tidying up more than the vifs.
            let disk = std::format!("/local/domain/{}/device/vbd/51712", domain.0);
            xenstored.act(DomainId::ZERO).mkdir(&disk).expect("dom0 may");
        }
        let page = xenstored.connect(US, 0);
        let store = Store::new(page);
        let page = xenstored.page(US);
        Self {
            xenstored,
            page,
            store,
            backend: Backend::new(),
            host: Host::default(),
            now: Instant(1_000_000_000),
            fronts: Vec::new(),
            shown: BTreeMap::new(),
        }
    }

    /// One turn of our event loop.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..1000 {
            self.backend.poll(&mut self.store, &mut self.host, self.now);
            assert!(self.store.room() >= RESERVED_ROOM);
            let Some(event) = self.store.poll(|| moved = true) else { return moved };
            moved = true;
            self.backend.event(&event, &mut self.host, self.now);
        }
        panic!("an event loop that never rests");
    }

    /// Runs everybody until nothing moves.
    fn run(&mut self) {
        for _ in 0..20_000 {
            let mut moved = self.turn();
            moved |= self.xenstored.serve();
            self.note_states();
            for front in &self.fronts {
                moved |= front.poll(&mut self.xenstored);
            }
            self.note_states();
            if !moved {
                assert!(!self.xenstored.dropped(US));
                return;
            }
        }
        panic!("never quiet");
    }

    fn note_states(&mut self) {
        for front in &self.fronts {
            let path = format!("{}/state", front.vif.backend_dir());
            let state = self.xenstored.act(DomainId::ZERO).read(&path);
            let state = state.unwrap_or_else(|_| "-".to_string());
            let shown = self.shown.entry(front.vif).or_default();
            if shown.last() != Some(&state) {
                shown.push(state);
            }
        }
    }

    /// Lets time pass in steps, running everybody.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            self.run();
        }
    }

    fn attach(&mut self, front: Netfront) -> VifPaths {
        self.attach_with(front, &[])
    }

    fn attach_with(&mut self, front: Netfront, keys: &[(&str, &str)]) -> VifPaths {
        let vif = front.vif;
        self.shown.remove(&vif);
        self.fronts.retain(|other| other.vif != vif);
        Toolstack::attach(&mut self.xenstored, &vif, keys).expect("a new vif");
        self.fronts.push(front);
        self.run();
        vif
    }

    /// A vif whose packets flow.
    fn connected(&mut self, vif: VifPaths) -> VifPaths {
        self.attach(Netfront::new(vif));
        assert_eq!(self.own(vif, "state").as_deref(), Some("4"));
        vif
    }

    fn detach(&mut self, vif: VifPaths) -> (Result<(), DetachError>, bool) {
        let detach = Detach::start(&mut self.xenstored, vif, self.now);
        self.finish(detach)
    }

    fn destroy(&mut self, vif: VifPaths) -> Result<(), DetachError> {
        let detach = Detach::force(&mut self.xenstored, vif, self.now);
        self.finish(detach).0
    }

    fn finish(&mut self, mut detach: Detach) -> (Result<(), DetachError>, bool) {
        for _ in 0..400 {
            self.run();
            if let Some(outcome) = detach.poll(&mut self.xenstored, self.now) {
                self.run();
                return (outcome, detach.escalated);
            }
            self.now = self.now + Duration::from_millis(100);
        }
        panic!("libxl never gave up");
    }

    /// A key of our directory.
    fn own(&mut self, vif: VifPaths, key: &str) -> Option<String> {
        self.xenstored.act(DomainId::ZERO).read(&format!("{}/{key}", vif.backend_dir())).ok()
    }

    fn set_own(&mut self, vif: VifPaths, key: &str, value: &str) {
        let path = format!("{}/{key}", vif.backend_dir());
        self.xenstored.act(DomainId::ZERO).write(&path, value).expect("dom0 may");
    }

    fn front(&mut self, vif: VifPaths) -> (&Netfront, &mut Xenstored) {
        let front = self.fronts.iter().find(|front| front.vif == vif).expect("a front");
        (front, &mut self.xenstored)
    }

    fn set_front(&mut self, vif: VifPaths, state: &str) {
        let (front, xenstored) = self.front(vif);
        front.set_state(xenstored, state);
        self.note_states();
        self.run();
    }

    fn set_carrier(&mut self, vif: VifPaths, carrier: Carrier<&'static str>) {
        self.host.carriers.push_back((id(vif), carrier));
    }

    fn error(&mut self, vif: VifPaths) -> Option<String> {
        let path = format!("error/backend/vif/{}/{}/error", vif.frontend.0, vif.devid);
        self.xenstored.act(US).read(&path).ok()
    }

    fn shown(&self, vif: VifPaths) -> String {
        self.shown[&vif].concat()
    }

    /// What must be the same before and after.
    fn leftovers(&self) -> (String, usize, usize, usize) {
        let (watches, transactions) = (self.xenstored.watches(US), self.xenstored.transactions(US));
        (self.xenstored.dump().join("\n"), watches, transactions, self.host.connected.len())
    }
}

#[test]
fn attach_and_connect() {
    let mut world = World::new();
    let vif = vif(10, 0);
    let front = Netfront::new(vif);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    world.run();
    assert!(Toolstack::attached(&mut world.xenstored, &vif));
    for (key, value) in [
        ("feature-sg", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-split-event-channels", "1"),
        ("multi-queue-max-queues", "8"),
        ("feature-ctrl-ring", "1"),
        ("carrier", "1"),
        ("hotplug-status", ""),
    ] {
        assert_eq!(world.own(vif, key).as_deref(), Some(value), "{key}");
    }
    // The guest may read all of it.
    let features = format!("{}/feature-sg", vif.backend_dir());
    assert_eq!(world.xenstored.act(vif.frontend).read(&features).as_deref(), Ok("1"));
    assert!(world.host.connected.is_empty());
    world.fronts.push(front);
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.own(vif, "hotplug-status").as_deref(), Some("connected"));
    let request = &world.host.connected[&id(vif)];
    assert_eq!(request.config.mac.to_string(), "00:16:3e:00:0a:00");
    assert_eq!(request.config.bridge.as_str(), "xenbr0");
    let queue = request.frontend.queues[0];
    assert_eq!((queue.tx_ring, queue.rx_ring), (GrantRef(8), GrantRef(9)));
    assert_eq!(queue.ports, RemotePorts::Shared(RemotePort(5)));
    assert!(request.frontend.rx_notify && request.frontend.scatter_gather);
    assert!(world.xenstored.nodes(US) <= 30 + 8, "within L-9's share");
    assert_eq!(world.xenstored.watches(US), 2);
}

/// S-8: what a frontend changes meanwhile is passed on once, as it is last; what it writes
/// that makes no sense changes nothing; and one watch tells of all of it (L-9).
#[test]
fn options_are_followed() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    let path = format!("{}/request-multicast-control", vif.frontend_dir());
    let asked = |world: &World| world.host.connected[&id(vif)].frontend.options;
    assert!(!asked(&world).multicast_control);
    for (round, last) in [true, false, true].into_iter().enumerate() {
        for flip in 0..100 {
            let value = if (flip % 2 == 0) == last { "0" } else { "1" };
            world.xenstored.act(vif.frontend).write(&path, value).unwrap();
        }
        world.run();
        assert_eq!(asked(&world).multicast_control, last);
        assert_eq!(world.host.reconfigurations, round + 1);
        for garbage in ["", "-1", "4294967296", "yes"] {
            world.xenstored.act(vif.frontend).write(&path, garbage).unwrap();
            world.run();
        }
    }
    assert_eq!(world.host.reconfigurations, 3);
    assert_eq!(world.xenstored.watches(US), 2);
    let front = Netfront::new(vif).with("request-multicast-control", "1");
    assert_eq!(world.detach(vif), (Ok(()), false));
    world.attach(front);
    assert!(asked(&world).multicast_control, "from the start");
    assert_eq!(world.host.reconfigurations, 3);
}

/// A feature is there before the state that tells of it: both in one commit.
#[test]
fn features_come_with_the_state() {
    let mut world = World::new();
    let vif = vif(10, 0);
    world.xenstored.chunk = Some(3);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    for _ in 0..20_000 {
        world.turn();
        world.xenstored.serve();
        let advertised = world.own(vif, "feature-sg").is_some();
        assert_eq!(advertised, world.own(vif, "state").as_deref() == Some("2"));
        if advertised {
            return;
        }
    }
    panic!("never advertised");
}

/// L-3: orderly, without force, and nothing is left.
#[test]
fn detach() {
    let mut world = World::new();
    let before = world.leftovers();
    for _ in 0..5 {
        let vif = world.connected(vif(10, 0));
        let began = world.now;
        assert_eq!(world.detach(vif), (Ok(()), false));
        assert!(world.shown(vif).ends_with("456-"), "{}", world.shown(vif));
        assert!(world.now.since(began) >= LINGER, "libxl has time to read the 6 (L-5)");
        assert!(world.now.since(began) < 2 * LINGER);
        assert_eq!(world.leftovers(), before);
        assert_eq!(world.backend.vifs(), 0);
    }
}

/// A device that has been Closed for long: the time for libxl to read the 6 begins
/// with `online=0`, not with the 6 (L-5).
#[test]
fn detach_of_a_closed_device() {
    let mut world = World::new();
    let before = world.leftovers();
    let vif = world.connected(vif(10, 0));
    world.set_front(vif, "6");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    assert_eq!(world.backend.vifs(), 1, "kept while online (L-6)");
    let began = world.now;
    assert_eq!(world.detach(vif), (Ok(()), false));
    assert!(world.now.since(began) >= LINGER);
    assert_eq!(world.leftovers(), before);
}

/// L-4: the guest's directory goes at once; what is left of it is unreadable.
#[test]
fn destroy() {
    let mut world = World::new();
    let before = world.leftovers();
    let vif = world.connected(vif(10, 0));
    let other = world.connected(VifPaths { devid: 1, ..vif });
    assert_eq!(world.destroy(vif), Ok(()));
    assert!(world.shown(vif).ends_with("456-"), "{}", world.shown(vif));
    assert_eq!(world.own(other, "state").as_deref(), Some("4"), "the other is untouched");
    assert_eq!(world.destroy(other), Ok(()));
    assert_eq!(world.leftovers(), before);
    let path = format!("{}/state", vif.frontend_dir());
    assert_eq!(world.xenstored.act(US).read(&path), Err("EACCES"), "as L-4 says");
}

/// The guest's domain ends with all its nodes, before or after the toolstack says so.
#[test]
fn guests_that_die() {
    for said in [true, false] {
        let mut world = World::new();
        let vif = world.connected(vif(10, 0));
        world.xenstored.destroy_domain(vif.frontend);
        if said {
            world.set_own(vif, "online", "0");
        }
        world.run();
        assert!(world.host.connected.is_empty());
        assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
        world.pass(Duration::from_secs(3));
        assert_eq!(world.backend.vifs(), usize::from(!said), "removed only if offline (X-10)");
        assert_eq!(world.xenstored.watches(US), 1 + world.backend.vifs());
    }
}

/// a guest that crashed starts again on the same vif, any number of times.
#[test]
fn reboot_in_place() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    for _ in 0..20 {
        world.shown.clear();
        let (front, xenstored) = world.front(vif);
        front.reboot(xenstored);
        world.note_states();
        world.run();
        assert_eq!(world.shown(vif), "45624");
    }
    assert_eq!(world.host.connects, 21);
}

/// closed and opened again by the guest, any number of times.
#[test]
fn reconnect() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    for _ in 0..50 {
        world.shown.clear();
        world.set_front(vif, "5");
        assert!(world.host.connected.is_empty());
        world.set_front(vif, "6");
        world.set_front(vif, "1");
        assert_eq!(world.shown(vif), "45624");
    }
    // 6 at once still passes through 5.
    world.shown.clear();
    world.set_front(vif, "6");
    assert_eq!(world.shown(vif), "456");
    assert_eq!(world.own(vif, "hotplug-status"), None, "deleted on disconnect (L-7)");
}

/// Windows closes before it ever connects, then starts over; it waits for each
/// of our states.
#[test]
fn closes_before_connecting() {
    let mut world = World::new();
    let vif = vif(10, 0);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    world.run();
    let mut front = Netfront::new(vif);
    front.closes = false;
    world.fronts.push(front);
    world.fronts[0].set_state(&mut world.xenstored, "5");
    // Polling would connect it, were its state 1.
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("5"));
    world.set_front(vif, "6");
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    world.set_front(vif, "1");
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.shown(vif), "25624");
}

/// P-23: a 7 is answered by 8, which stays; from there it ends as from 4.
#[test]
fn reconfigured() {
    for end in ["5", "6", "detach"] {
        let mut world = World::new();
        let vif = world.connected(vif(10, 0));
        let path = format!("{}/xdp-headroom", vif.frontend_dir());
        for (round, headroom) in ["256", "0", "256"].into_iter().enumerate() {
            world.xenstored.act(vif.frontend).write(&path, headroom).unwrap();
            world.set_front(vif, "7");
            let options = world.host.connected[&id(vif)].frontend.options;
            assert_eq!(options.xdp_headroom.to_string(), headroom);
            assert_eq!(world.host.reconfigurations, round + 1);
            world.set_front(vif, "4");
        }
        assert!(world.shown(vif).ends_with("248"));
        world.set_carrier(vif, Carrier::Stalled);
        world.run();
        assert_eq!(world.own(vif, "carrier").as_deref(), Some("0"), "told in 8 as in 4");
        if end == "detach" {
            assert_eq!(world.detach(vif), (Ok(()), false));
            assert!(world.shown(vif).ends_with("24856-"));
            continue;
        }
        world.set_front(vif, end);
        assert_eq!(world.own(vif, "hotplug-status"), None);
        assert!(world.shown(vif).ends_with("24856"));
        assert!(world.host.connected.is_empty());
        world.set_front(vif, "1");
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    }
}

/// states that ask for nothing, and values that are no states.
#[test]
fn states_without_meaning() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    for state in ["2", "3", "8", "9", "", "abc", "-1", "4294967297", "0x5", "\0", "ж"] {
        world.set_front(vif, state);
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "{state:?}");
    }
    world.set_front(vif, &"5".repeat(2048));
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.host.connects, 1);
    world.set_front(vif, "6");
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
}

/// a node that the guest closed to us is as good as gone.
#[test]
fn unreadable_state() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    let path = format!("{}/state", vif.frontend_dir());
    let hidden = Permissions::owned(vif.frontend);
    world.xenstored.act(vif.frontend).set_permissions(&path, hidden).unwrap();
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    assert!(world.host.connected.is_empty());
    assert_eq!(world.own(vif, "online").as_deref(), Some("1"));
}

/// P-24: a frontend of several queues, whose keys are in directories of their own. One that
/// is not as it has to be closes the vif, with an error that names it.
#[test]
fn frontends_of_several_queues() {
    let mut world = World::new();
    let vif = vif(10, 0);
    let front = |queues: usize| {
        let mut front = Netfront::new(vif).without("tx-ring-ref").without("rx-ring-ref");
        front = front.without("event-channel").with("multi-queue-num-queues", &queues.to_string());
        for queue in 0..queues {
            for (place, key) in ["tx-ring-ref", "rx-ring-ref", "event-channel"].iter().enumerate() {
                let value = (100 + 3 * queue + place).to_string();
                front = front.with(&format!("queue-{queue}/{key}"), &value);
            }
        }
        front
    };
    for queues in 2..=8 {
        world.attach(front(queues));
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "{:?}", world.error(vif));
        let found = &world.host.connected[&id(vif)].frontend.queues;
        let found: Vec<_> = found.iter().map(|queue| queue.tx_ring.0).collect();
        assert_eq!(found, (0..queues as u32).map(|queue| 100 + 3 * queue).collect::<Vec<_>>());
        assert_eq!(world.detach(vif), (Ok(()), false));
    }
    for (key, value) in [
        ("queue-1/rx-ring-ref", None),
        ("queue-7/event-channel", None),
        ("queue-0/tx-ring-ref", Some("x")),
        ("queue-4/tx-ring-ref", Some("104")),
        ("queue-2/event-channel-tx", Some("1")),
    ] {
        let front = match value {
            Some(value) => front(8).with(key, value),
            None => front(8).without(key),
        };
        world.attach(front);
        let error = world.error(vif).unwrap_or_default();
        let named = if key.ends_with("-tx") { "queue-2/event-channel-rx" } else { key };
        assert!(error.starts_with(named), "{key}: {error:?}");
        assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
        assert_eq!(world.detach(vif), (Ok(()), false));
    }
}

/// xenstored fails while the queues' keys are read: they are read again.
#[test]
fn keys_of_queues_that_cannot_be_read_just_now() {
    let mut world = World::new();
    let vif = vif(10, 0);
    let mut front = Netfront::new(vif).with("multi-queue-num-queues", "2");
    for (place, key) in ["tx-ring-ref", "rx-ring-ref", "event-channel"].iter().enumerate() {
        front = front.with(&format!("queue-0/{key}"), &(100 + place).to_string());
        front = front.with(&format!("queue-1/{key}"), &(200 + place).to_string());
    }
    world.xenstored.inject(XS_READ, "queue-1/rx-ring-ref", "EIO", 1);
    world.attach(front);
    assert_ne!(world.own(vif, "state").as_deref(), Some("4"));
    world.pass(REFUSAL_DELAY);
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "{:?}", world.error(vif));
    assert_eq!(world.host.connected[&id(vif)].frontend.queues.len(), 2);
    assert_eq!(world.detach(vif), (Ok(()), false));
}

/// F-8, F-9: garbage in any of the frontend's keys closes the vif with an error that
/// names the key; good keys connect it again, and the error goes.
#[test]
fn garbage_in_the_frontends_keys() {
    let mut world = World::new();
    let before = world.leftovers();
    let vif = vif(10, 0);
    let long = "1".repeat(2048);
    for key in keys::FRONTEND_KEYS {
        for value in ["", "abc", "-1", "4294967296", "0x10", &long, "1\0", "١", "../1"] {
            world.attach(Netfront::new(vif).with(key, value));
            let error = world.error(vif).unwrap_or_default();
            assert!(error.starts_with(key), "{key} {value:?}: {error:?}");
            assert_eq!(world.own(vif, "hotplug-status").as_deref(), Some("error"));
            assert_eq!(world.own(vif, "hotplug-error"), Some(error));
            assert_eq!(world.shown(vif), "1256", "{key} {value:?}");
            assert_eq!(world.host.connects, 0);
            assert_eq!(world.detach(vif), (Ok(()), false));
            assert_eq!(world.leftovers(), before);
        }
    }
    for key in ["tx-ring-ref", "rx-ring-ref", "event-channel", "request-rx-copy"] {
        world.attach(Netfront::new(vif).without(key));
        assert!(world.error(vif).is_some_and(|error| error.starts_with(key)));
        // It thinks better of it.
        world.fronts[0] = Netfront::new(vif);
        world.set_front(vif, "1");
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
        assert_eq!(world.own(vif, "hotplug-status").as_deref(), Some("connected"));
        assert_eq!((world.error(vif), world.own(vif, "hotplug-error")), (None, None));
        assert_eq!(world.xenstored.act(US).directory("error"), Ok(vec![]));
        assert_eq!(world.detach(vif), (Ok(()), false));
    }
}

/// A key that the guest closed to us.
#[test]
fn unreadable_keys() {
    let mut world = World::new();
    let vif = vif(10, 0);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    world.run();
    let front = Netfront::new(vif);
    for (name, value) in &front.keys {
        let path = format!("{}/{name}", vif.frontend_dir());
        world.xenstored.act(vif.frontend).write(&path, value).unwrap();
        let hidden = Permissions::owned(vif.frontend);
        world.xenstored.act(vif.frontend).set_permissions(&path, hidden).unwrap();
    }
    world.fronts.push(front);
    world.run();
    assert_eq!(world.error(vif).as_deref(), Some("request-rx-copy cannot be read"));
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
}

/// A configuration that cannot be honoured is refused loudly, and stays refused: the
/// frontend cannot bring it up. The toolstack can replace it.
#[test]
fn refused_configurations() {
    let mut world = World::new();
    let before = world.leftovers();
    let vif = vif(10, 0);
    let long = "x".repeat(2048);
    for (key, value) in [
        ("mac", "garbage"),
        ("mac", "01:00:5e:00:00:01"),
        ("mac", ""),
        ("bridge", ""),
        ("bridge", &long),
        ("rate", "fast"),
        ("mtu", "0"),
        ("vlan", "10/20"),
        ("handle", "7"),
        ("frontend-id", "11"),
        ("frontend", "/local/domain/11/device/vif/0"),
        ("frontend", ""),
    ] {
        world.attach_with(Netfront::new(vif), &[(key, value)]);
        assert!(world.error(vif).is_some_and(|error| error.starts_with(key)), "{key}={value}");
        assert_eq!(world.own(vif, "hotplug-status").as_deref(), Some("error"));
        world.set_front(vif, "1");
        world.pass(Duration::from_secs(20));
        assert_eq!(world.shown(vif), "156", "{key}={value}");
        assert!(!Toolstack::attached(&mut world.xenstored, &vif));
        let _ = world.detach(vif).0;
        assert_eq!(world.leftovers(), before, "{key}={value}");
    }
    world.host.refuse_admission = Some("no such bridge");
    world.attach(Netfront::new(vif));
    assert_eq!(world.error(vif).as_deref(), Some("no such bridge"));
    world.host.refuse_admission = None;
    assert_eq!(world.detach(vif), (Ok(()), false));
    world.connected(vif);
}

/// A vif that is refused is followed all the same: its frontend may be connected.
#[test]
fn refused_while_connected() {
    let mut world = World::before_start();
    let vif = vif(10, 0);
    Toolstack::attach(&mut world.xenstored, &vif, &[("vlan", "0")]).unwrap();
    let mut front = Netfront::new(vif);
    front.closes = false;
    front.connect(&mut world.xenstored);
    world.fronts.push(front);
    world.run();
    world.set_front(vif, "6");
    assert_eq!(world.shown(vif), "156");
}

/// the host cannot connect; all is undone, and the guest may try again.
#[test]
fn connections_that_fail() {
    let mut world = World::new();
    let vif = vif(10, 0);
    world.host.refuse_connection = Some("the tx ring cannot be mapped");
    world.attach(Netfront::new(vif));
    assert_eq!(world.shown(vif), "1256");
    assert_eq!(world.error(vif).as_deref(), Some("the tx ring cannot be mapped"));
    assert_eq!(world.own(vif, "hotplug-status").as_deref(), Some("error"));
    world.host.refuse_connection = None;
    world.set_front(vif, "1");
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.error(vif), None);
    world.set_front(vif, "6");
    assert_eq!((world.error(vif), world.own(vif, "hotplug-status")), (None, None));
}

/// An error longer than anybody reads is cut, and not inside a character.
#[test]
fn long_errors() {
    let mut world = World::new();
    let long: &'static str = std::format!("x{}", "ж".repeat(200)).leak();
    world.host.refuse_connection = Some(long);
    let vif = world.attach(Netfront::new(vif(10, 0)));
    assert_eq!(world.error(vif).as_deref(), Some(&long[..255]));
}

/// P-16: the guest broke the protocol. The vif is reported, and stays until the guest
/// closes it; then it may begin anew.
#[test]
fn faults() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.set_carrier(vif, Carrier::Broken("tx producer ran away"));
    world.set_carrier(VifPaths { devid: 9, ..vif }, Carrier::Broken("nobody's"));
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.own(vif, "carrier").as_deref(), Some("0"));
    assert_eq!(world.error(vif).as_deref(), Some("tx producer ran away"));
    assert_eq!(world.host.connected.len(), 1);
    world.set_front(vif, "6");
    world.set_front(vif, "1");
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.own(vif, "carrier").as_deref(), Some("1"));
    assert_eq!(world.error(vif), None);
    // A fault that comes too late to matter.
    world.set_front(vif, "6");
    world.set_carrier(vif, Carrier::Broken("too late"));
    world.run();
    assert_eq!((world.error(vif), world.own(vif, "carrier").as_deref()), (None, Some("1")));
}

/// A guest that takes no packets loses its carrier and nothing else, and gets it back.
#[test]
fn stalls() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    for (carrier, key) in [(Carrier::Stalled, "0"), (Carrier::Up, "1"), (Carrier::Stalled, "0")] {
        world.set_carrier(vif, carrier);
        world.run();
        assert_eq!(world.own(vif, "carrier").as_deref(), Some(key));
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
        assert_eq!((world.error(vif), world.host.connected.len()), (None, 1));
    }
    // A new connection begins with a carrier, whatever was said of the old one last.
    world.set_front(vif, "6");
    assert_eq!(world.own(vif, "carrier").as_deref(), Some("0"));
    world.set_front(vif, "1");
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.own(vif, "carrier").as_deref(), Some("1"));
    assert_eq!(world.detach(vif), (Ok(()), false));
}

/// What was not written of the old connection is not written of the new one.
#[test]
fn stalls_end_with_the_connection() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.host.stuck = true;
    world.set_front(vif, "6");
    world.set_carrier(vif, Carrier::Broken("said while it was taken apart"));
    world.run();
    world.host.stuck = false;
    world.run();
    world.set_front(vif, "1");
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!((world.error(vif), world.own(vif, "carrier").as_deref()), (None, Some("1")));
}

/// Nor is it where the connection was undone before it was published.
#[test]
fn stalls_end_with_a_connection_that_failed() {
    let mut world = World::new();
    let vif = vif(10, 0);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    world.run();
    world.fronts.push(Netfront::new(vif));
    world.fronts[0].poll(&mut world.xenstored);
    while world.host.connected.is_empty() {
        world.turn();
        if world.host.connected.is_empty() {
            world.xenstored.serve();
        }
    }
    world.set_carrier(vif, Carrier::Broken("by the first connection"));
    world.xenstored.inject(XS_WRITE, "hotplug-status", "EIO", 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.host.connects, 2);
    assert_eq!((world.error(vif), world.own(vif, "carrier").as_deref()), (None, Some("1")));
}

/// S-8: however often a carrier changes, one write of it is under way, and the last
/// one counts; also where xenstored refuses some.
#[test]
fn carriers_that_flap() {
    for errno in [None, Some("EIO"), Some("EAGAIN"), Some("EQUOTA")] {
        for last in [Carrier::Up, Carrier::Stalled] {
            let mut world = World::new();
            let vif = world.connected(vif(10, 0));
            let written = |world: &World| world.xenstored.served[&XS_WRITE];
            let before = written(&world);
            if let Some(errno) = errno {
                world.xenstored.inject(XS_WRITE, "carrier", errno, 1);
            }
            for turn in 0..1000 {
                world.set_carrier(vif, Carrier::Stalled);
                world.set_carrier(vif, Carrier::Up);
                world.turn();
                // Now and then xenstored has the time.
                if turn % 100 == 0 {
                    world.xenstored.serve();
                }
            }
            world.set_carrier(vif, last);
            world.pass(Duration::from_secs(2));
            let key = if last == Carrier::Up { "1" } else { "0" };
            assert_eq!(world.own(vif, "carrier").as_deref(), Some(key), "{errno:?}");
            assert!(written(&world) - before <= 12, "{} writes", written(&world) - before);
        }
    }
}

/// Errors of several vifs: each goes with its vif, and nothing stays (L-9).
#[test]
fn error_nodes_go() {
    let mut world = World::new();
    let before = world.leftovers();
    let vifs = [vif(10, 0), vif(10, 1), vif(11, 0)];
    world.host.refuse_connection = Some("no");
    for vif in vifs {
        world.attach(Netfront::new(vif));
    }
    for (place, vif) in vifs.into_iter().enumerate() {
        assert_eq!(world.detach(vif), (Ok(()), false));
        for (other_place, other) in vifs.into_iter().enumerate() {
            assert_eq!(world.error(other).is_some(), other_place > place);
        }
    }
    assert_eq!(world.leftovers(), before);
    // All at once, too.
    for vif in vifs {
        world.attach(Netfront::new(vif));
    }
    world.xenstored.act(DomainId::ZERO).remove(&vifs[0].backend_dir()).unwrap();
    world.run();
    world.xenstored.act(DomainId::ZERO).remove(&vifs[1].backend_dir()).unwrap();
    world.xenstored.act(DomainId::ZERO).remove(&vifs[2].backend_dir()).unwrap();
    world.run();
    assert_eq!(world.xenstored.act(US).directory("error"), Ok(vec![]));
}

/// T-15, O-12: pages that do not come back are cut off before libxl loses patience.
#[test]
fn stuck_disconnection() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.host.stuck = true;
    let detach = Detach::start(&mut world.xenstored, vif, world.now);
    world.pass(DISCONNECT_PATIENCE - Duration::from_millis(100));
    assert_eq!(world.host.disconnecting.len(), 1);
    assert_eq!(world.own(vif, "state").as_deref(), Some("5"));
    assert_eq!(world.finish(detach), (Ok(()), false));
    assert_eq!(world.host.forced, 1);
}

/// One that finishes late but by itself; others go on meanwhile.
#[test]
fn slow_disconnection() {
    let mut world = World::new();
    let slow = world.connected(vif(10, 0));
    world.host.stuck = true;
    world.set_front(slow, "5");
    assert_eq!(world.own(slow, "state").as_deref(), Some("4"), "5 says that all is unmapped");
    world.connected(vif(11, 0));
    world.pass(Duration::from_secs(1));
    world.host.stuck = false;
    world.run();
    assert!(world.shown(slow).ends_with("456"));
    assert_eq!(world.host.forced, 0);
}

/// the toolstack's word that arrives while we connect is not overwritten.
#[test]
fn detach_while_connecting() {
    let mut world = World::new();
    let vif = vif(10, 0);
    Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
    world.run();
    world.fronts.push(Netfront::new(vif));
    world.fronts[0].poll(&mut world.xenstored);
    while world.host.connected.is_empty() {
        world.turn();
        if world.host.connected.is_empty() {
            world.xenstored.serve();
        }
    }
    let detach = Detach::start(&mut world.xenstored, vif, world.now);
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"), "at once");
    assert!(!world.shown(vif).contains('4'), "{}", world.shown(vif));
    assert!(world.host.connected.is_empty());
    assert_eq!(world.finish(detach), (Ok(()), false));
}

/// X-13 again: what the toolstack says while we delete, it says in time. At each
/// point the directory is either gone already or stays.
#[test]
fn removals_that_are_called_off() {
    let later = LINGER + Duration::from_millis(100);
    for (key, value) in [("online", "1"), ("state", "5")] {
        for point in 0..12 {
            let mut world = World::new();
            let vif = world.connected(vif(10, 0));
            world.set_own(vif, "online", "0");
            world.set_front(vif, "6");
            world.now = world.now + later;
            for _ in 0..point {
                world.turn();
                world.xenstored.serve();
            }
            let existed = world.own(vif, key).is_some();
            if existed {
                world.set_own(vif, key, value);
            }
            for _ in 0..12 {
                world.turn();
                world.xenstored.serve();
            }
            assert_eq!(world.own(vif, "state").is_some(), existed, "{key} at {point}");
        }
    }
}

/// The time for reading the 6 begins anew with each `online=0`.
#[test]
fn second_thoughts() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.set_front(vif, "6");
    for online in ["0", "1", "0"] {
        world.set_own(vif, "online", online);
        world.pass(LINGER - Duration::from_millis(200));
        assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    }
    world.pass(Duration::from_millis(300));
    assert_eq!(world.own(vif, "state"), None);
}

/// A state that is taken back from under us is published again: at once, but not at once
/// again and again.
#[test]
fn closed_stays_closed() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.set_front(vif, "6");
    for state in ["5", "4", "abc"] {
        world.set_own(vif, "state", state);
        world.run();
        assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
        world.set_own(vif, "state", state);
        world.run();
        assert_eq!(world.own(vif, "state").as_deref(), Some(state), "with measure");
        world.pass(Duration::from_millis(200));
        assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    }
}

/// S-18: xenstored says of a node now this and now that. We try again, with measure.
#[test]
fn a_store_that_contradicts_itself() {
    let before = World::new().leftovers();
    for every in 1..8 {
        let mut world = World::new();
        let mut reads = 0;
        world.xenstored.manners.lies = Some(Box::new(move |mut message| {
            reads += u32::from(message.kind == XS_READ);
            if message.kind == XS_READ && reads.is_multiple_of(every) {
                message.payload.clear();
            }
            vec![message]
        }));
        let vif = world.attach(Netfront::new(vif(10, 0)));
        world.pass(Duration::from_secs(10));
        let requests: usize = world.xenstored.served.values().sum();
        assert!(requests < 5000, "{requests}, every {every}");
        world.xenstored.manners = Manners::default();
        world.pass(Duration::from_secs(2));
        assert_eq!(world.detach(vif).0, Ok(()), "every {every}");
        assert_eq!(world.leftovers(), before, "every {every}");
    }
}

/// a directory that somebody removes under us is not brought back.
#[test]
fn directories_that_vanish() {
    for levels in 0..3 {
        let mut world = World::new();
        let vif = world.connected(vif(10, 0));
        world.connected(VifPaths { devid: 1, ..vif });
        world.host.stuck = true;
        let mut path = vif.backend_dir();
        for _ in 0..levels {
            path.truncate(path.rfind('/').unwrap());
        }
        world.xenstored.act(DomainId::ZERO).remove(&path).unwrap();
        world.pass(DISCONNECT_PATIENCE + Duration::from_secs(1));
        let left = usize::from(levels == 0);
        assert_eq!((world.backend.vifs(), world.host.connected.len()), (left, left));
        assert_eq!(world.xenstored.watches(US), 1 + left);
        assert_eq!(world.own(vif, "state"), None);
        let _ = world.xenstored.act(DomainId::ZERO).remove(&vif.libxl_dir());
        world.host.stuck = false;
        world.connected(vif);
    }
}

/// The toolstack gave up on us and writes a new device over the old directory.
#[test]
fn directories_that_are_replaced() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    for round in 2..10 {
        world.xenstored.act(DomainId::ZERO).remove(&vif.libxl_dir()).unwrap();
        let mac = std::format!("00:16:3e:ff:00:{round:02x}");
        world.attach_with(Netfront::new(vif), &[("mac", &mac)]);
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
        assert_eq!(world.host.connected[&id(vif)].config.mac.to_string(), mac);
        assert_eq!(world.host.connects, round);
        assert_eq!(world.xenstored.watches(US), 2);
    }
}

/// L-7: vifs from before our time are found, whatever state their directories show.
#[test]
fn found_at_boot() {
    let mut world = World::before_start();
    let states = ["1", "2", "4", "5", "6", "", "abc"];
    for (devid, state) in states.into_iter().enumerate() {
        let vif = vif(10, devid as u32);
        Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
        world.set_own(vif, "state", state);
        world.fronts.push(Netfront::new(vif));
    }
    for name in ["x", "99999", "010"] {
        let path = format!("/local/domain/{}/backend/vif/{name}/0/state", US.0);
        world.xenstored.act(DomainId::ZERO).write(&path, "1").unwrap();
    }
    world.run();
    assert_eq!(world.backend.vifs(), states.len());
    for (devid, state) in states.into_iter().enumerate() {
        let shown = world.own(vif(10, devid as u32), "state");
        assert_eq!(shown.as_deref(), Some("4"), "{state:?}");
    }
}

/// Restarted in place with guests connected: their rings are taken over.
#[test]
fn connected_before_our_time() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.store = Store::new(world.xenstored.page(US));
    world.backend = Backend::new();
    world.host = Host::default();
    world.run();
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    assert_eq!(world.host.connected.len(), 1);
    assert_eq!(world.detach(vif), (Ok(()), false));
}

/// The same, but it was being closed.
#[test]
fn closing_before_our_time() {
    for state in ["5", "6"] {
        let mut world = World::before_start();
        let vif = vif(10, 0);
        Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
        world.set_own(vif, "state", state);
        let mut front = Netfront::new(vif);
        front.closes = false;
        front.connect(&mut world.xenstored);
        world.fronts.push(front);
        world.run();
        assert_eq!(world.own(vif, "state").as_deref(), Some(state));
        assert_eq!(world.host.connects, 0);
    }
}

/// F-13, L-9: as many vifs as there may be, and one more, which waits its turn.
#[test]
fn many_vifs() {
    let mut world = World::new();
    world.xenstored.quotas().nodes = 4000;
    let before = world.leftovers();
    let vifs: Vec<VifPaths> =
        (0..=MAX_VIFS as u32).map(|n| vif(10 + (n % 2) as u16, n / 2)).collect();
    for vif in &vifs {
        Toolstack::attach(&mut world.xenstored, vif, &[]).unwrap();
        world.fronts.push(Netfront::new(*vif));
    }
    world.run();
    assert_eq!(world.host.connected.len(), MAX_VIFS);
    assert_eq!(world.xenstored.watches(US), MAX_VIFS + 1);
    let (waiting, served): (Vec<VifPaths>, Vec<VifPaths>) =
        vifs.iter().partition(|vif| !world.host.connected.contains_key(&id(**vif)));
    assert_eq!(world.detach(served[0]), (Ok(()), false));
    assert!(world.host.connected.contains_key(&id(waiting[0])));
    for vif in waiting.iter().chain(&served[1..]) {
        assert_eq!(world.destroy(*vif), Ok(()));
    }
    assert_eq!(world.leftovers(), before);
}

/// L-9: a quota that is used up is met by waiting, with everybody else served.
#[test]
fn quotas() {
    let mut world = World::new();
    world.connected(vif(11, 0));
    world.xenstored.quotas().nodes = world.xenstored.nodes(US) + 2;
    let vif = world.attach(Netfront::new(vif(10, 0)));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.own(vif, "state").as_deref(), Some("1"));
    assert_eq!(world.xenstored.transactions(US), 0);
    world.xenstored.quotas().nodes = 1000;
    world.pass(Duration::from_secs(2));
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
}

#[test]
fn quota_on_watches() {
    let mut world = World::new();
    let before = world.leftovers();
    world.xenstored.quotas().watches = 1;
    let vif = world.attach(Netfront::new(vif(10, 0)));
    assert!(world.error(vif).is_some_and(|error| error.contains("watched")));
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    assert_eq!(world.detach(vif).0, Ok(()));
    assert_eq!(world.leftovers(), before);
}

/// Other writers, without end for a while: we try with measure, and get there.
#[test]
fn conflicts() {
    let mut world = World::new();
    world.xenstored.conflicts = 500;
    let vif = world.attach(Netfront::new(vif(10, 0)));
    assert!(world.xenstored.conflicts > 480, "with measure");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    world.xenstored.conflicts = 30;
    assert_eq!(world.detach(vif), (Ok(()), false));
}

/// S-18: each request fails once in every way; the vif still comes and goes.
#[test]
fn every_request_fails_once() {
    let before = World::new().leftovers();
    for errno in ["EIO", "ENOMEM", "EQUOTA", "EAGAIN", "EINVAL", "EBUSY"] {
        for kind in 1..=22 {
            // To be out of watches is for good: see above.
            if kind == XS_WATCH && errno == "EQUOTA" {
                continue;
            }
            let mut world = World::before_start();
            world.xenstored.inject(kind, "", errno, 1);
            world.pass(Duration::from_secs(2));
            world.xenstored.clear_injections();
            world.xenstored.inject(kind, "", errno, 1);
            let vif = world.attach(Netfront::new(vif(10, 0)));
            world.pass(Duration::from_secs(3));
            assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "{kind} {errno}");
            world.xenstored.inject(kind, "", errno, 1);
            assert_eq!(world.detach(vif).0, Ok(()), "{kind} {errno}");
            world.pass(Duration::from_secs(3));
            assert_eq!(world.leftovers(), before, "{kind} {errno}");
        }
    }
}

/// The frontend's mtu follows ours, where the toolstack let us write it.
#[test]
fn mtu() {
    let mut world = World::new();
    let key = |vif: VifPaths| std::format!("{}/mtu", vif.frontend_dir());
    let vif = world.attach_with(Netfront::new(vif(10, 0)), &[("mtu", "9000")]);
    assert_eq!(world.xenstored.act(vif.frontend).read(&key(vif)).as_deref(), Ok("9000"));
    assert_eq!(world.host.connected[&id(vif)].config.mtu, Some(9000));
    assert_eq!(world.detach(vif), (Ok(()), false));
    world.xenstored.inject(XS_WRITE, "/mtu", "EACCES", 1);
    world.attach_with(Netfront::new(vif), &[("mtu", "9000")]);
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "an old toolstack's");
}

/// S-8: however often the guest writes its state, there is one mark.
#[test]
fn state_storm() {
    let mut world = World::new();
    let vif = world.connected(vif(10, 0));
    world.connected(VifPaths { devid: 1, ..vif });
    let reads = world.xenstored.served[&XS_READ];
    let path = format!("{}/state", vif.frontend_dir());
    for _ in 0..1000 {
        world.xenstored.act(vif.frontend).write(&path, "4").unwrap();
    }
    world.run();
    // Events come through a ring of 1 KiB; at worst each ringful is one look.
    assert!(world.xenstored.served[&XS_READ] - reads < 3 * 150);
    assert_eq!(world.own(vif, "state").as_deref(), Some("4"));
    // The same with states that make us do something; it ends where it ends.
    for turn in 0..1000 {
        let state = ["4", "5", "6", "1", "4", "abc"][turn % 6];
        world.xenstored.act(vif.frontend).write(&path, state).unwrap();
        if turn % 7 == 0 {
            world.turn();
            world.xenstored.serve();
        }
    }
    world.set_front(vif, "6");
    assert_eq!(world.own(vif, "state").as_deref(), Some("6"));
    assert_eq!(world.host.connected.len(), 1, "the other is untouched");
}

/// `xl shutdown` of the driver domain: all close, and stay closed.
#[test]
fn stop() {
    let mut world = World::new();
    let vifs = [vif(10, 0), vif(10, 1), vif(11, 0)];
    for vif in vifs {
        world.connected(vif);
    }
    assert!(!world.backend.is_stopped());
    world.backend.stop();
    assert!(!world.backend.is_stopped());
    world.run();
    assert!(world.backend.is_stopped());
    for vif in vifs {
        assert!(world.shown(vif).ends_with("456"), "{}", world.shown(vif));
    }
    assert!(world.host.connected.is_empty());
    let late = world.attach(Netfront::new(vif(11, 1)));
    assert_eq!(world.own(late, "state").as_deref(), Some("6"));
    world.set_front(vifs[0], "1");
    assert_eq!(world.own(vifs[0], "state").as_deref(), Some("6"));
    assert!(world.backend.is_stopped());
}

/// A guest that does not answer our closing holds up nobody but itself; the toolstack
/// gets rid of it by force (L-3).
#[test]
fn a_guest_that_will_not_close() {
    let mut world = World::new();
    let before = world.leftovers();
    let mut front = Netfront::new(vif(10, 0));
    front.closes = false;
    let stubborn = world.attach(front);
    let other = world.connected(vif(11, 0));
    let writes = world.xenstored.served[&XS_WRITE];
    let detach = Detach::start(&mut world.xenstored, stubborn, world.now);
    world.run();
    assert!(!world.host.connected.contains_key(&id(stubborn)), "it is not asked");
    assert_eq!(world.xenstored.served[&XS_WRITE], writes, "5 is written already (X-13)");
    assert_eq!(world.finish(detach), (Ok(()), true));
    assert_eq!(world.detach(other), (Ok(()), false));
    assert_eq!(world.leftovers(), before);
}

/// xenstored drops the connection and takes us back: vifs live through it.
#[test]
fn lost_connection() {
    let mut world = World::new();
    world.xenstored.offer_reconnection(US);
    let kept = world.connected(vif(10, 0));
    let gone = world.connected(vif(10, 1));
    world.xenstored.break_index(US, 3000);
    world.turn();
    world.destroy_unheard(gone);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.own(kept, "state").as_deref(), Some("4"));
    assert_eq!(world.host.connected.len(), 1);
    assert_eq!(world.host.connects, 2, "nobody was interrupted");
    assert_eq!(world.xenstored.watches(US), 2);
    assert_eq!(world.detach(kept), (Ok(()), false));
    let _ = &world.page;
}

impl World {
    fn destroy_unheard(&mut self, vif: VifPaths) {
        let mut zero = self.xenstored.act(DomainId::ZERO);
        zero.remove(&vif.backend_dir()).unwrap();
        zero.remove(&vif.frontend_dir()).unwrap();
    }
}

/// A connection lost at any point of a vif's life.
#[test]
fn lost_connection_at_any_point() {
    for point in 0..60 {
        let mut world = World::new();
        world.xenstored.offer_reconnection(US);
        let vif = vif(10, 0);
        Toolstack::attach(&mut world.xenstored, &vif, &[]).unwrap();
        world.fronts.push(Netfront::new(vif));
        for _ in 0..point {
            world.turn();
            world.xenstored.serve();
            world.fronts[0].poll(&mut world.xenstored);
        }
        world.xenstored.break_index(US, 3000);
        world.pass(Duration::from_secs(5));
        assert_eq!(world.own(vif, "state").as_deref(), Some("4"), "{point}");
        assert_eq!(world.host.connected.len(), 1);
        assert_eq!(world.xenstored.watches(US), 2, "{point}");
        assert_eq!(world.detach(vif), (Ok(()), false), "{point}");
    }
}

/// Toolstack, guests, host and xenstored at random: promises are kept all along, and
/// in the end nothing is left.
#[test]
fn anything_goes() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u32 % below
    };
    for round in 0..150 {
        let mut world = World::new();
        let before = world.leftovers();
        let vifs = [vif(10, 0), vif(10, 1), vif(11, 0)];
        for _ in 0..60 {
            let vif = vifs[random(3) as usize];
            match random(14) {
                0 | 1 => {
                    if Toolstack::attach(&mut world.xenstored, &vif, &[]).is_ok() {
                        world.fronts.retain(|front| front.vif != vif);
                        world.fronts.push(Netfront::new(vif));
                    }
                }
                2 => {
                    let _ = world.detach(vif);
                }
                3 => {
                    let _ = world.destroy(vif);
                }
                4 | 5 => {
                    let state = ["0", "1", "2", "4", "5", "6", "7", "", "x"][random(9) as usize];
                    let path = format!("{}/state", vif.frontend_dir());
                    if world.xenstored.act(vif.frontend).read(&path).is_ok() {
                        world.xenstored.act(vif.frontend).write(&path, state).unwrap();
                    }
                }
                6 => world.host.stuck = random(2) == 0,
                7 => world.host.refuse_connection = (random(3) == 0).then_some("chance"),
                8 => {
                    let off = [Carrier::Stalled, Carrier::Broken("chance")];
                    world.set_carrier(
                        vif,
                        [Carrier::Up, off[random(2) as usize]][random(2) as usize],
                    );
                }
                9 => world.xenstored.conflicts = random(20) as usize,
                10 => {
                    let errno = ["EAGAIN", "EQUOTA", "EIO"][random(3) as usize];
                    // But for watches: one that cannot be set up is refused for good.
                    let kind = [1, 2, 6, 7, 11, 13][random(6) as usize];
                    world.xenstored.inject(kind, "", errno, 1 + random(3) as usize);
                }
                11 => {
                    let _ = world.xenstored.act(DomainId::ZERO).remove(&vif.backend_dir());
                }
                12 => world.xenstored.chunk = (random(2) == 0).then(|| 1 + random(900)),
                _ => world.pass(Duration::from_millis(u64::from(random(3000)))),
            }
            for _ in 0..random(12) {
                world.turn();
                world.xenstored.serve();
                if let Some(front) = world.fronts.first() {
                    front.poll(&mut world.xenstored);
                }
            }
        }
        world.host.stuck = false;
        world.host.refuse_connection = None;
        world.xenstored.conflicts = 0;
        world.xenstored.clear_injections();
        world.xenstored.chunk = None;
        world.pass(Duration::from_secs(10));
        for vif in vifs {
            let _ = world.destroy(vif);
            let mut zero = world.xenstored.act(DomainId::ZERO);
            for path in [vif.libxl_dir(), vif.frontend_dir(), vif.backend_dir()] {
                let _ = zero.remove(&path);
            }
        }
        world.pass(Duration::from_secs(10));
        assert_eq!(world.backend.vifs(), 0, "{round}");
        let (_, watches, transactions, connected) = world.leftovers();
        assert_eq!((watches, transactions, connected), (before.1, 0, 0), "{round}");
        let errors = world.xenstored.act(US).directory("error");
        assert_eq!(errors, Ok(vec![]), "{round}");
        let vif = world.connected(vifs[0]);
        assert_eq!(world.detach(vif), (Ok(()), false), "{round}");
    }
}
