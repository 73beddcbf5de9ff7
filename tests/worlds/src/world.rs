//! The domain, and everything around it.

use std::cell::RefCell;
use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::time::Duration;

use drivers::control::Control;
use drivers::fake::journal;
use drivers::netback::data::STALL_TIMEOUT;
use drivers::network::Network;
use drivers::nic::Status;
use drivers::turn::{DataPlane, Next, turn};
use kernel::memory::{Buffers, Ram, Size, Window};
use kernel::pages::choice::Mode;
use kernel::switch::{self, DropReason, Holding, Switches};
use kernel::{Limits, Pools};
use xen::event::EventPort;
use xen::fake::{Audit, FakeXen, Guest, Kind, Operation, When};
use xen::fake_store::{Detach, DetachError, Toolstack, VifPaths, Xenstored};
use xen::hypercall::Shutdown;
use xen::{DomainId, Hypervisor, Instant};

use crate::allocations::used;
use crate::front::{Front, Manners};
use crate::schedule::Schedule;
use crate::uplink::Uplink;
use crate::wire::Wire;

/// The driver domain.
pub const US: DomainId = DomainId(5);
/// The guests there are.
pub const GUESTS: [DomainId; 5] =
    [DomainId(10), DomainId(11), DomainId(12), DomainId(13), DomainId(14)];

/// Pages of small and of large buffers.
const SMALL: usize = 64;
const LARGE: usize = 256;
/// Frames to map at, and those of a world with many vifs.
const FRAMES: usize = 64;
const MANY_FRAMES: usize = 1280;
const PACKETS: usize = 1200;
const COPIES: usize = 512;
/// Ports for all vifs that are served at once, and a table of addresses as the image has.
pub(crate) const SWITCHES: switch::Limits =
    switch::Limits { switches: 4, ports: 72, addresses: 4096 };

/// Turns without a rest after which the domain is taken to spin.
const PATIENCE: usize = 20_000;
/// What a turn takes whose loop looks at the NIC without pause. All others take no time.
const GLANCE: Duration = Duration::from_micros(100);
/// How long the image gives its NIC to stop.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Names a vif of a world.
pub type Id = usize;

/// What packets are made of, in RAM of the domain's. A clone of the hypervisor has to
/// be kept for as long.
pub fn pools(xen: &FakeXen, map: Mode) -> Pools {
    pools_with(xen, map, FRAMES)
}

/// The same, with so many frames to map at.
pub fn pools_with(xen: &FakeXen, map: Mode, frames: usize) -> Pools {
    let window = Window::of(xen.foreign_frames(frames));
    let limits = Limits { packets: PACKETS, copies: COPIES, map };
    Pools::new(Buffers::new(ram(xen, SMALL), ram(xen, LARGE)), window, limits)
}

/// RAM of the domain's, on the same terms.
pub(crate) fn ram(xen: &FakeXen, pages: usize) -> Ram {
    let (base, first) = xen.ram(pages);
    // SAFETY: fresh pages, which live as long as the hypervisor does.
    unsafe { Ram::new(base, first, pages) }
}

/// The domain and everything around it. A test ends with [`end`](Self::end), which
/// finds what was left behind.
pub struct World<U: Uplink = Wire> {
    /// The hypervisor.
    pub xen: FakeXen,
    /// XenStore.
    pub store: Xenstored,
    /// The data plane.
    pub network: Network<FakeXen, U::Nic>,
    /// The NIC of `xenbr0`, from the other side.
    pub wire: U,
    /// How often the domain was woken or went on without a rest.
    pub turns: usize,
    /// How many bytes of memory any of them took and kept at most.
    pub most_kept: isize,
    /// How many frames are expected to be lost to unmaps that failed.
    pub quarantined: usize,
    /// How many ports are expected to be lost to closes that failed.
    pub lost_ports: usize,
    /// Frames to map at, in all.
    frames: usize,
    pub(crate) schedule: Schedule,
    control: Control,
    fronts: Vec<Front>,
    guests: Vec<Guest>,
    events: Vec<EventPort>,
    store_event: bool,
    next: Next,
    /// The store and our watches before any vif.
    before: Vec<String>,
    watches: usize,
    ended: bool,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A driver domain that is up, with a scripted NIC, and guests without vifs.
    pub fn new() -> Self {
        Self::of(Mode::Auto)
    }

    /// The same, where all pages are mapped that can be.
    pub fn mapping() -> Self {
        Self::of(Mode::Always)
    }

    /// The same, with a NIC that holds guests' pages in this way.
    pub fn with(holding: Holding, map: Mode) -> Self {
        Self::around(|xen| Wire::new(xen.clone(), holding), map)
    }

    /// A world with room for as many vifs as are served at once, of as many queues as they
    /// may have.
    pub fn of_many() -> Self {
        let mut world = Self::with_frames(Uplink::new, Mode::Auto, MANY_FRAMES);
        world.store.quotas().nodes = 4000;
        world
    }

    /// The same, where all pages are mapped that can be.
    pub fn mapping_for_many() -> Self {
        Self::with_frames(Uplink::new, Mode::Always, MANY_FRAMES)
    }
}

impl<U: Uplink> World<U> {
    /// A driver domain that is up, with a NIC, and guests without vifs.
    pub fn of(map: Mode) -> Self {
        Self::around(U::new, map)
    }

    /// The same, with this NIC.
    pub fn around(wire: impl FnOnce(&FakeXen) -> U, map: Mode) -> Self {
        Self::with_frames(wire, map, FRAMES)
    }

    fn with_frames(wire: impl FnOnce(&FakeXen) -> U, map: Mode, frames: usize) -> Self {
        journal::start();
        let xen = FakeXen::new(US);
        xen.advance(Duration::from_secs(1000));
        let mut store = Xenstored::new();
        store.create_domain(US);
        let guests = GUESTS.map(|guest| {
            store.create_domain(guest);
            // Keeps libxl from tidying up more than the vifs.
            let disk = format!("/local/domain/{}/device/vbd/51712", guest.0);
            store.act(DomainId::ZERO).mkdir(&disk).expect("dom0 may");
            xen.create_domain(guest)
        });
        let pools = pools_with(&xen, map, frames);
        let switches = Switches::new(SWITCHES, [3, 5]);
        let mut network = Network::new(xen.clone(), pools, switches);
        let wire = wire(&xen);
        let bridge = "xenbr0".parse().expect("a name");
        network.set_uplink(wire.driver(&xen), &bridge, xen.now()).expect("a first port");
        let control = Control::new(store.connect(US, 0));
        let mut world = Self {
            xen,
            store,
            network,
            wire,
            turns: 0,
            most_kept: 0,
            quarantined: 0,
            lost_ports: 0,
            frames,
            schedule: Schedule::default(),
            control,
            fronts: Vec::new(),
            guests: guests.to_vec(),
            events: Vec::new(),
            store_event: false,
            next: Next::Again,
            before: Vec::new(),
            watches: 0,
            ended: false,
        };
        world.settle();
        world.before = world.store.dump();
        world.watches = world.store.watches(US);
        world
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.xen.now()
    }

    /// Gives the `guest`-th guest a vif, whose frontend is honest, and waits until
    /// nothing moves any more.
    pub fn attach(&mut self, guest: usize) -> Id {
        self.attach_with(guest, Manners::default(), &[])
    }

    /// The same, with manners, and keys of the toolstack's.
    pub fn attach_with(&mut self, guest: usize, manners: Manners, keys: &[(&str, &str)]) -> Id {
        let id = self.add(guest, manners, keys);
        self.settle();
        id
    }

    /// The same, without letting anybody move yet.
    pub fn add(&mut self, guest: usize, manners: Manners, keys: &[(&str, &str)]) -> Id {
        let frontend = GUESTS[guest];
        let living = self.fronts.iter().filter(|front| !front.gone);
        let taken: Vec<_> = living.map(Front::vif).collect();
        let vif = |devid| VifPaths { frontend, backend: US, devid };
        let devid = (0..).find(|devid| !taken.contains(&vif(*devid))).expect("a number");
        Toolstack::attach(&mut self.store, &vif(devid), keys).expect("a new vif");
        self.fronts.push(Front::new(self.guests[guest].clone(), vif(devid), manners));
        self.fronts.len() - 1
    }

    /// So many guests, connected to `xenbr0`.
    pub fn connected<const N: usize>(&mut self) -> [Id; N] {
        std::array::from_fn(|guest| {
            let id = self.attach(guest);
            assert!(self.is_connected(id), "{:?}", self.error(id));
            id
        })
    }

    /// One turn of the domain's loop.
    fn turn(&mut self) {
        self.turns += 1;
        for port in self.events.drain(..) {
            self.network.event(port);
        }
        for cause in self.wire.take_interrupts() {
            self.network.interrupt(cause);
        }
        self.store_event = false;
        let now = self.xen.now();
        let before = used();
        self.next = turn(&mut self.control, &mut self.network, now, || ());
        self.most_kept = self.most_kept.max(used() - before);
        if self.network.is_polled() {
            self.xen.advance(GLANCE);
        }
    }

    /// Whether anything keeps the domain from sleeping, or wakes it.
    fn wakes(&mut self) -> bool {
        self.events.extend(self.xen.take_pending());
        let due = match self.next {
            Next::Again => true,
            Next::Sleep(deadline) => deadline.is_some_and(|deadline| deadline <= self.xen.now()),
            Next::End(_) => return false,
        };
        due || self.store_event || self.wire.interrupts() || !self.events.is_empty()
    }

    /// Lets everybody move until nobody does, without time passing, but for what a NIC
    /// takes to be up.
    ///
    /// # Panics
    /// If that never happens, or a page that is lent is not accounted for.
    pub fn settle(&mut self) {
        for _ in 0..PATIENCE {
            if !self.round() {
                return self.check_lent_pages();
            }
        }
        panic!("the domain never rests");
    }

    /// Lets everybody move once. Whether anybody did.
    fn round(&mut self) -> bool {
        let mut moved = self.step();
        if self.store.serve_at(self.xen.now()) {
            self.store_event = true;
            moved = true;
        }
        let now = self.xen.now();
        for front in &mut self.fronts {
            moved |= front.poll(&mut self.store, now);
        }
        moved
    }

    /// One turn, if anything wakes the domain, and nobody else moves. Whether there
    /// was one.
    pub fn step(&mut self) -> bool {
        let wakes = self.wakes();
        if wakes {
            self.turn();
        }
        wakes
    }

    /// A few rounds of everybody, wherever that leads.
    pub fn rounds(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.round();
        }
    }

    /// Lets time pass; the domain wakes at its deadlines.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        loop {
            self.keep_schedule();
            self.settle();
            let now = self.now();
            if now >= end {
                return;
            }
            let ours = match self.next {
                Next::Sleep(deadline) => deadline,
                _ => None,
            };
            let others = [ours, self.store.deadline(), self.schedule.deadline()];
            let next = others.into_iter().flatten().fold(end, Instant::min);
            self.xen.advance(next.since(now));
        }
    }

    /// When the domain wakes, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match self.next {
            Next::Sleep(deadline) => deadline,
            _ => Some(self.now()),
        }
    }

    /// `xl network-detach`, and what it comes to.
    pub fn detach(&mut self, id: Id) -> Result<(), DetachError> {
        self.detach_amid(id, |_| {})
    }

    /// The same, while something goes on.
    pub fn detach_amid(
        &mut self,
        id: Id,
        meanwhile: impl FnMut(&mut Self),
    ) -> Result<(), DetachError> {
        let (vif, now) = (self[id].vif(), self.now());
        let detach = Detach::start(&mut self.store, vif, now);
        self.finish_amid(detach, meanwhile)?;
        self[id].close();
        self[id].gone = true;
        Ok(())
    }

    /// `xl destroy`: the guest's directory goes, then the guest. Its other vifs must
    /// have gone before.
    pub fn destroy(&mut self, id: Id) -> Result<(), DetachError> {
        let (vif, now) = (self[id].vif(), self.now());
        let detach = Detach::force(&mut self.store, vif, now);
        self.finish(detach)?;
        self[id].gone = true;
        self[id].guest.die();
        self.reincarnate(id);
        Ok(())
    }

    /// The guest dies; the toolstack tidies up afterwards. Its other vifs must have
    /// gone before.
    pub fn kill(&mut self, id: Id) -> Result<(), DetachError> {
        self.die(id);
        self.bury(id)
    }

    /// The guest dies, and nobody does anything about it.
    pub fn die(&mut self, id: Id) {
        self[id].gone = true;
        self[id].guest.die();
    }

    /// The toolstack tidies up after a guest that has died.
    pub fn bury(&mut self, id: Id) -> Result<(), DetachError> {
        let (vif, now) = (self[id].vif(), self.now());
        let detach = Detach::force(&mut self.store, vif, now);
        self.finish(detach)?;
        self.reincarnate(id);
        Ok(())
    }

    /// A guest of the same number can be created once nothing keeps the old one.
    fn reincarnate(&mut self, id: Id) {
        let domain = self[id].vif().frontend;
        assert_eq!(self.xen.audit().zombies, [], "the guest cannot go");
        let place = GUESTS.iter().position(|guest| *guest == domain).expect("a guest");
        self.guests[place] = self.xen.create_domain(domain);
    }

    fn finish(&mut self, detach: Detach) -> Result<(), DetachError> {
        self.finish_amid(detach, |_| {})
    }

    fn finish_amid(
        &mut self,
        mut detach: Detach,
        mut meanwhile: impl FnMut(&mut Self),
    ) -> Result<(), DetachError> {
        loop {
            meanwhile(self);
            self.settle();
            let now = self.now();
            if let Some(outcome) = detach.poll(&mut self.store, now) {
                self.settle();
                return outcome;
            }
            self.pass(Duration::from_millis(50));
        }
    }

    /// The toolstack takes away a vif whose frontend cannot end its grants.
    pub fn forget(&mut self, id: Id) {
        assert_eq!(self.take_away(id, false), Ok(()));
    }

    /// The same, or at once by force, and what it comes to: of directories that others
    /// wrote to nobody knows.
    pub fn take_away(&mut self, id: Id, force: bool) -> Result<(), DetachError> {
        let (vif, now) = (self[id].vif(), self.now());
        let begin = if force { Detach::force } else { Detach::start };
        let detach = begin(&mut self.store, vif, now);
        let outcome = self.finish(detach);
        self[id].gone = true;
        outcome
    }

    /// The guest crashes and its driver starts again on the same device.
    ///
    /// # Panics
    /// If the backend keeps anything of the old one.
    pub fn restart(&mut self, id: Id) {
        self.restart_after(id, |_| {});
    }

    /// The same, where others hold pages of the old driver's: it does not take them
    /// back.
    ///
    /// # Panics
    /// If the backend keeps anything else of the old one.
    pub fn restart_with_pages_out(&mut self, id: Id) {
        self.restart_after(id, Front::forget_lent);
    }

    fn restart_after(&mut self, id: Id, before: impl FnOnce(&mut Front)) {
        self[id].hands_off = true;
        let front = &self.fronts[id];
        front.xenbus.reboot(&mut self.store);
        let mut passes = 0;
        while self.own(id, "state").as_deref() != Some("2") {
            passes += 1;
            assert!(passes < 1000, "never ready again");
            // The driver is not there yet.
            let closes = std::mem::replace(&mut self[id].gone, true);
            self.pass(Duration::from_millis(10));
            self[id].gone = closes;
        }
        before(&mut self[id]);
        self[id].close();
        self[id].reopen();
        self[id].hands_off = false;
        self.settle();
    }

    /// Has every operation of a kind noted from now on.
    pub fn record(&self, kind: Kind) -> Rc<RefCell<Vec<Operation>>> {
        let notes = Rc::<RefCell<Vec<_>>>::default();
        let pen = notes.clone();
        let none = When::Chosen(Box::new(move |operation| {
            pen.borrow_mut().push(*operation);
            false
        }));
        self.xen.fail(kind, none, 1);
        notes
    }

    /// The same of several kinds, in the order in which they are done.
    pub fn record_order(&self, kinds: &[Kind]) -> Rc<RefCell<Vec<Kind>>> {
        let order = Rc::<RefCell<Vec<_>>>::default();
        for &kind in kinds {
            let pen = order.clone();
            let none = When::Chosen(Box::new(move |_| {
                pen.borrow_mut().push(kind);
                false
            }));
            self.xen.fail(kind, none, 1);
        }
        order
    }

    /// Has a frontend write its state.
    pub fn set_front(&mut self, id: Id, state: &str) {
        self.fronts[id].xenbus.set_state(&mut self.store, state);
    }

    /// Has a frontend write a key of its directory.
    pub fn set_front_key(&mut self, id: Id, key: &str, value: &str) {
        let vif = self[id].vif();
        let path = format!("{}/{key}", vif.frontend_dir());
        self.store.act(vif.frontend).write(&path, value).expect("its own");
    }

    /// Has the toolstack write a key of our directory.
    pub fn set_own(&mut self, id: Id, key: &str, value: &str) {
        let path = format!("{}/{key}", self[id].vif().backend_dir());
        self.store.act(DomainId::ZERO).write(&path, value).expect("dom0 may");
    }

    /// A key of our directory.
    pub fn own(&mut self, id: Id, key: &str) -> Option<String> {
        let path = format!("{}/{key}", self[id].vif().backend_dir());
        self.store.act(DomainId::ZERO).read(&path).ok()
    }

    /// Whether the vif is in state Connected.
    pub fn is_connected(&mut self, id: Id) -> bool {
        self.own(id, "state").as_deref() == Some("4")
    }

    /// How many packets were dropped for a reason, at all ports.
    pub fn drops(&self, reason: DropReason) -> u64 {
        let switches = self.network.switches();
        let ports = switches.iter().flat_map(|(_, bridge)| bridge.ports());
        let counters = ports.map(|(_, counters)| counters).chain([switches.slow_path().counters()]);
        counters.map(|counters| counters[reason]).sum()
    }

    /// The error that XenStore has of the vif.
    pub fn error(&mut self, id: Id) -> Option<String> {
        let vif = self[id].vif();
        let path = format!("error/backend/vif/{}/{}/error", vif.frontend.0, vif.devid);
        self.store.act(US).read(&path).ok()
    }

    /// Checks what holds while pages are on their way as well (O-16): the counters, the
    /// records and Xen know of the same.
    fn check_lent_pages(&self) {
        let pools = self.network.pools();
        let (counters, census) = (pools.tracker.counters(), pools.tracker.census());
        let counted = (counters.outstanding(), counters.holds, counters.mapped);
        assert_eq!((census.records, census.holds, census.mapped), counted, "{counters:?} (O-16)");
        let expected = self.network.rings() + pools.window.quarantined() + census.mapped as usize;
        assert_eq!(self.xen.mappings(), expected, "{census:?} (O-16)");
    }

    /// Checks what holds whenever nothing is on its way: every page lent is back
    /// (O-16), every packet and every buffer, and of Xen's things there is what the
    /// connected vifs need.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check_at_rest(&self) {
        let pools = self.network.pools();
        let counters = pools.tracker.counters();
        assert_eq!(counters.outstanding(), 0, "{counters:?} (O-16)");
        assert_eq!(counters.holds, 0, "{counters:?}");
        let vifs = self.network.vifs().map(|(vif, _)| self.network.queues(vif).count());
        let (lend, queues) = (pools.tracker.census().queues, vifs.sum::<usize>());
        assert!((queues..=queues + self.quarantined).contains(&lend), "{lend} queues lend");
        assert_eq!(pools.idle(), PACKETS, "packets lost");
        let stopped = self.network.uplink().is_some_and(|(status, _)| status == Status::Stopped);
        let kept = if stopped { 0 } else { U::KEEPS };
        for (size, pages, kept) in [(Size::Small, SMALL, 0), (Size::Large, LARGE, kept)] {
            let cells = pages * xen::PAGE_SIZE / size.bytes();
            assert_eq!(pools.buffers.free(size), cells - kept, "{size:?} buffers lost");
        }
        assert!(pools.copies.is_empty(), "copies left over");
        let (rings, channels) = (self.network.rings(), self.network.ports().len());
        let Audit { mappings, ports, zombies, displaced, stray_notifies } = self.xen.audit();
        assert_eq!(pools.window.quarantined(), self.quarantined, "unmaps failed");
        assert_eq!(mappings.len(), rings + self.quarantined, "{mappings:?}");
        assert_eq!(pools.window.free() + mappings.len(), self.frames, "frames lost");
        assert_eq!(ports.len(), channels + self.lost_ports, "{ports:?}");
        assert_eq!((zombies.len(), displaced.len(), stray_notifies), (0, 0, 0));
    }

    /// The toolstack asks the domain to end; what it ends by, and when, with nothing
    /// of any guest's left in its hands.
    ///
    /// # Panics
    /// If it does not end, or something is left.
    pub fn shut_down(mut self, wish: &str) -> Shutdown {
        self.ended = true;
        let path = format!("/local/domain/{}/control/shutdown", US.0);
        self.store.act(DomainId::ZERO).write(&path, wish).expect("dom0 may");
        let end = self.now() + Duration::from_secs(10);
        loop {
            self.pass(Duration::from_millis(10));
            if let Next::End(reason) = self.next {
                assert!(self.xen.audit().is_clean(), "{:?}", self.xen.audit());
                self.stop();
                return reason;
            }
            assert!(self.now() < end, "it does not end");
        }
    }

    /// The NIC is taken down, as at the end of the image. It keeps nothing.
    fn stop(&mut self) {
        let start = self.now();
        self.network.stop(start);
        loop {
            self.network.poll(self.now());
            if self.network.is_stopped() {
                return self.check_at_rest();
            }
            assert!(self.now().since(start) < STOP_PATIENCE, "the NIC does not stop");
            self.xen.advance(GLANCE);
        }
    }

    /// Lets what is on its way arrive or expire, checks what every world must be
    /// then, takes all vifs away, and checks that nothing is left of them.
    ///
    /// # Panics
    /// If anything is.
    pub fn end(mut self) {
        self.ended = true;
        self.xen.clear_faults();
        self.pass(STALL_TIMEOUT + Duration::from_secs(1));
        self.check_at_rest();
        for front in self.fronts.iter().filter(|front| !front.gone && !front.hands_off) {
            assert_eq!(front.unanswered(), 0, "{:?} waits for responses", front.vif());
        }
        for id in 0..self.fronts.len() {
            if !self[id].gone {
                assert_eq!(self.detach(id), Ok(()), "detaching {:?}", self[id].vif());
            }
        }
        self.pass(Duration::from_secs(5));
        self.check_at_rest();
        assert_eq!(self.network.vifs().count(), 0);
        assert_eq!(self.store.dump(), self.before, "left in XenStore");
        assert_eq!(self.store.watches(US), self.watches, "watches left");
        assert_eq!(self.store.transactions(US), 0);
        let turns = self.turns;
        self.pass(Duration::from_secs(60));
        let turns = self.turns - turns;
        assert!(turns <= 2 + 60 * U::LOOKS, "{turns} turns with nothing to do");
        self.stop();
    }
}

impl<U: Uplink> Drop for World<U> {
    fn drop(&mut self) {
        assert!(self.ended || std::thread::panicking(), "a world ends by World::end");
    }
}

impl<U: Uplink> Index<Id> for World<U> {
    type Output = Front;

    fn index(&self, id: Id) -> &Front {
        &self.fronts[id]
    }
}

impl<U: Uplink> IndexMut<Id> for World<U> {
    fn index_mut(&mut self, id: Id) -> &mut Front {
        &mut self.fronts[id]
    }
}
