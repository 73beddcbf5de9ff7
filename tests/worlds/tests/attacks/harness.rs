//! An attack beside two honest guests, and what has to be true of every one.
//!
//! The two exchange packets by plan with each other and with a station on the wire, and
//! some are on their way when it begins. They have to get the very same packets at the
//! very same times as in a world in which nobody does anything. The attacker is told what
//! it did wrong, in XenStore or by its counters, and the log in a few lines; then the
//! world ends, which finds whatever is left of anything (O-16).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drivers::netback::VifId;
use drivers::netback::data::VifCounters;
use worlds::{Id, Level, Manners, OUTSIDE, Outgoing, Received, Step, World, frames, journal};
use xen::Instant;
use xen::fake_store::VifPaths;
use xen::netif::{Status, TxFlags, TxRequest, TxSlot};
use xen::ring::Word;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MORE: TxFlags = TxFlags::MORE_DATA;
pub const NONE: TxFlags = TxFlags::empty();
pub const JUMBO: (&str, &str) = ("mtu", "65517");

/// The attacker's vif.
pub const EVIL: Id = 0;
/// The honest ones'.
pub const HONEST: [Id; 2] = [1, 2];
/// How many turns of the plan are before the attack, and how many after it.
const TURNS: [u32; 2] = [5, 15];
/// In how many turns an honest guest sends something to the attacker.
const FRIENDLY: usize = 20;

/// What an attack leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The vif is served no more; XenStore and the log say so, in these words.
    Disabled(&'static str),
    /// What was wrong is counted as refused, unreadable or failed, and the vif is served
    /// on.
    Counted,
    /// The attacker harms itself at most, and is served on.
    Harmless,
    /// It was told while it went on, and the log in so many lines at most. The vif need
    /// not be there any more.
    Told(usize),
}
pub use Outcome::{Counted, Disabled, Harmless, Told};

/// In which world it happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// As it is by default.
    Usual,
    /// One where all pages are mapped that can be.
    Mapping,
    /// One with room for as many vifs as are served at once.
    Many,
}

/// How an attack begins.
#[derive(Clone)]
pub struct Setup {
    pub place: Place,
    /// The attacker's manners until it attacks.
    pub manners: Manners,
    /// Keys of the toolstack's, for all.
    pub keys: &'static [(&'static str, &'static str)],
    /// The time between two turns of the plan.
    pub interval: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        let (place, manners) = (Place::Usual, Manners::default());
        Self { place, manners, keys: &[], interval: 10 * MILLISECOND }
    }
}

/// What the honest do.
fn plan(turn: usize) -> Vec<Step> {
    let [a, b] = HONEST.map(Some);
    let len = 60 + 30 * (turn % 40);
    let step = |from, to, len| Step { from, to, len };
    let mut steps =
        vec![step(a, b, len), step(b, a, len + 100), step(None, b, len + 200), step(a, b, 1514)];
    steps.extend((turn < FRIENDLY).then_some(step(a, Some(EVIL), len)));
    steps
}

impl Setup {
    fn world(&self) -> World {
        let mut world = match self.place {
            Place::Usual => World::new(),
            Place::Mapping => World::mapping(),
            Place::Many => World::of_many(),
        };
        world.attach_with(0, self.manners.clone(), self.keys);
        for guest in [3, 4] {
            let id = world.attach_with(guest, Manners::default(), self.keys);
            assert!(world.is_connected(id), "{:?}", world.error(id));
        }
        world
    }

    /// A world in which the plan is under way, and packets of it are on their way.
    pub fn begin(self, name: &str) -> Scene {
        let mut world = self.world();
        world.follow(plan, self.interval);
        world.pass(TURNS[0] * self.interval);
        world.go_on();
        world.keep_schedule();
        Scene { world, name: name.to_string(), setup: self }
    }

    /// The attacker does `act`, once.
    pub fn attack(self, name: &str, outcome: Outcome, act: impl FnOnce(&mut World, Id)) {
        let mut scene = self.begin(name);
        scene.world[EVIL].hands_off = true;
        let counted = counted(&scene.world);
        act(&mut scene.world, EVIL);
        scene.world.settle();
        if outcome == Counted {
            assert!(counted < self::counted(&scene.world), "{name}: it is not counted");
        }
        scene.end(outcome);
    }

    /// What the honest get in a world in which nothing happens, where packets are sent at
    /// these times.
    fn calm(&self, moments: Vec<Instant>) -> Arc<[Vec<Received>; 2]> {
        type Runs = BTreeMap<(Place, Vec<Instant>), Arc<[Vec<Received>; 2]>>;
        static RUNS: Mutex<Runs> = Mutex::new(BTreeMap::new());
        let key = (self.place, moments);
        // Of a run that failed the next one has to make its own.
        let known = || RUNS.lock().ok()?.get(&key).cloned();
        known().unwrap_or_else(|| {
            let mut world = self.world();
            world.repeat(plan, &key.1);
            let received = HONEST.map(|id| honest(&world, id));
            let turns = key.1.len();
            assert_eq!(received.each_ref().map(Vec::len), [turns, 3 * turns], "all arrive");
            world.end();
            let received = Arc::new(received);
            if let Ok(mut runs) = RUNS.lock() {
                runs.insert(key, received.clone());
            }
            received
        })
    }
}

/// A world in which an attack happens.
pub struct Scene {
    pub world: World,
    name: String,
    setup: Setup,
}

impl Scene {
    /// Lets the plan go on for a while, and checks what has to be true in the end.
    ///
    /// # Panics
    /// If it is not.
    pub fn end(self, outcome: Outcome) {
        let Self { mut world, name, setup } = self;
        world.pass(TURNS[1] * setup.interval);
        world.rest();
        world.pass(100 * MILLISECOND);
        // Another world begins another journal.
        let lines = journal(Level::Warn, "");
        let calm = setup.calm(world.turns_of_plan());
        for (id, expected) in HONEST.into_iter().zip(&*calm) {
            assert!(honest(&world, id) == *expected, "{name}: others were affected");
            assert_eq!(world[id].unanswered(), 0, "{name}: others wait for responses");
        }
        match outcome {
            Told(budget) => assert!(lines.len() <= budget, "{name}: {lines:?}"),
            Disabled(words) => is_disabled(&mut world, words, &lines, &name),
            Counted | Harmless => is_served(&mut world, lines, &name),
        }
        world.end();
    }
}

fn is_disabled(world: &mut World, words: &str, lines: &[String], name: &str) {
    let error = world.error(EVIL).unwrap_or_else(|| panic!("{name}: no error"));
    assert!(error.contains(words), "{name}: {error}");
    assert_eq!(world.own(EVIL, "carrier").as_deref(), Some("0"), "{name} (P-16)");
    assert_eq!(lines.len(), 1, "{name}: {lines:?}");
    assert!(lines[0].contains("vif10.0") && lines[0].contains(words), "{name}: {lines:?}");
}

fn is_served(world: &mut World, lines: Vec<String>, name: &str) {
    let told = (world.error(EVIL), lines);
    assert_eq!(told, (None, Vec::new()), "{name}");
    assert_eq!(world.own(EVIL, "carrier").as_deref(), Some("1"), "{name}");
    let before = counters(world).tx.packets;
    still_sends(world);
    assert_eq!(counters(world).tx.packets - before, 1, "{name}: it is served on");
}

/// What an honest guest got of the others' packets.
fn honest(world: &World, id: Id) -> Vec<Received> {
    let strangers =
        |mac: &[u8]| mac != OUTSIDE && HONEST.into_iter().all(|other| mac != world[other].mac());
    let (failed, whole): (Vec<_>, Vec<_>) =
        world[id].received.iter().partition(|packet| packet.failed > 0);
    // Some page of a sender's was not there; what it was to fill alone may as well not be.
    let rx =
        world.network.vifs().find(|(vif, _)| *vif == vif_id(world[id].vif())).map(|it| it.1.rx);
    let rx = rx.expect("it is served");
    assert_eq!(rx.failed + rx.unreadable, failed.len() as u64, "{:?}", world[id].vif());
    let to_it = |packet: &&Received| {
        packet.bytes[..6] == world[id].mac() && !strangers(&packet.bytes[6..12])
    };
    whole.into_iter().filter(to_it).cloned().collect()
}

/// The data plane's name of a vif.
pub fn vif_id(vif: VifPaths) -> VifId {
    VifId { frontend: vif.frontend, handle: vif.devid }
}

/// The attacker's counters.
pub fn counters(world: &World) -> VifCounters {
    let evil = vif_id(world[EVIL].vif());
    world.network.vifs().find(|(vif, _)| *vif == evil).expect("it is served").1
}

/// How many of the attacker's mistakes were counted.
fn counted(world: &World) -> u64 {
    let evil = vif_id(world[EVIL].vif());
    let found = world.network.vifs().find(|(vif, _)| *vif == evil);
    found.map_or(0, |(_, VifCounters { tx, rx })| {
        tx.refused + tx.unreadable + tx.unsegmentable + rx.failed + rx.unreadable + rx.too_long
    })
}

/// The attacker does `act`, once, in the usual world.
pub fn attack(name: &str, outcome: Outcome, act: impl FnOnce(&mut World, Id)) {
    Setup::default().attack(name, outcome, act);
}

/// The attacker sends a good packet: its driver does, or where that looks no more, by a
/// request behind what was written before.
fn still_sends(world: &mut World) {
    let frame = frames::plain(frames::BROADCAST, world[EVIL].mac(), 100, 1);
    if world[EVIL].hands_off {
        let id = world[EVIL].lend(&frame, 0);
        let reference = world[EVIL].reference(id);
        let rings = &world[EVIL].rings;
        let producer = rings.tx.word(Word::RequestProducer);
        rings.tx.write(producer, &TxRequest::new(reference.0, 0, NONE, id, 100).into());
        rings.tx.set_word(Word::RequestProducer, producer.wrapping_add(1));
        knock(world, EVIL);
    } else {
        world[EVIL].send(&Outgoing::whole(&frame));
    }
    world.settle();
}

/// Shows these slots, and raises the event whether it is wanted or not.
pub fn show(world: &mut World, evil: Id, slots: &[TxSlot]) {
    slots.iter().for_each(|slot| world[evil].push(*slot));
    world[evil].kick();
    knock(world, evil);
}

/// Raises the event.
pub fn knock(world: &World, evil: Id) {
    world[evil].guest.notify(world[evil].rings.port);
}

/// A page with a frame to everybody, and its reference.
pub fn page(world: &mut World, evil: Id) -> u32 {
    let frame = frames::plain(frames::BROADCAST, world[evil].mac(), 1000, 1);
    let id = world[evil].lend(&frame, 0);
    world[evil].reference(id).0
}

/// A slot, whose id is 7.
pub fn request(gref: u32, offset: u16, flags: TxFlags, size: u16) -> TxSlot {
    TxRequest::new(gref, offset, flags, 7, size).into()
}

/// Shows slots, and sees them all answered with an error.
pub fn refused(world: &mut World, evil: Id, slots: &[TxSlot]) {
    // What the others sent first is not this guest's.
    world.settle();
    let sent = counters(world).tx;
    show(world, evil, slots);
    world.settle();
    for _ in slots {
        let response = world[evil].rings.tx.take().expect("a response a slot");
        assert_eq!((response.id, response.status), (7, Status::Error as i16));
    }
    assert_eq!(world[evil].rings.tx.take(), None);
    let now = counters(world).tx;
    assert_eq!((now.packets, now.refused), (sent.packets, sent.refused + 1));
}

/// Sends the attacker so many packets that its offered pages are used up.
pub fn exhaust(world: &mut World, evil: Id) {
    let sender = world.attach(1);
    let frame = frames::plain(world[evil].mac(), world[sender].mac(), 100, 1);
    for _ in 0..256 {
        world[sender].queue(&Outgoing::whole(&frame));
    }
    world[sender].kick();
    world.settle();
}
