//! XenStore with anything in it of a guest's vifs, beside two guests that exchange
//! packets.

use worlds::{Id, Manners, World};
use xen::DomainId;
use xen::fake_store::{Access, Manners as StoreManners, Permissions};

use crate::coding::{Script, coded, decode, pick};
use crate::pair::{MILLISECOND, Pair, check_log};

/// The most bytes of a value: more than a guest may write, and no more than fit a message.
const MOST: u16 = 3000;
/// Vifs that the guest has at most.
const VIFS: usize = 6;

/// What a frontend or a toolstack writes, and what neither does.
const KEYS: [&str; 34] = [
    "state",
    "online",
    "frontend",
    "frontend-id",
    "handle",
    "mac",
    "bridge",
    "mtu",
    "rate",
    "vlan",
    "script",
    "type",
    "hotplug-status",
    "hotplug-error",
    "carrier",
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    "multi-queue-num-queues",
    "multi-queue-max-queues",
    "queue-0/tx-ring-ref",
    "queue-1/rx-ring-ref",
    "feature-rx-notify",
    "feature-sg",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "feature-gso-tcpv4",
    "ctrl-ring-ref",
    "xdp-headroom",
    "request-multicast-control",
    "nonsense",
];

/// Values that have a meaning somewhere, or nearly.
const VALUES: [&str; 42] = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "",
    "10",
    "abc",
    "-1",
    "4294967295",
    "4294967296",
    "0x10",
    " 1",
    "1 ",
    "1.0",
    "1\n",
    "ж",
    "01",
    "67",
    "1500",
    "65535",
    "0,0",
    "1000,50000",
    "18446744073709551615,4294967295",
    "xenbr0",
    "internal",
    "a-bridge-whose-name-is-longer-than-there-is-room",
    "00:16:3e:00:0a:00",
    "00:16:3e:00:0b:00",
    "00:16:3e:77:77:77",
    "01:16:3e:00:0a:00",
    "00:00:00:00:00:00",
    "00:16:3e",
    "/local/domain/10/device/vif/0",
    "/local/domain/11/device/vif/0",
    "/local/domain/10/../11/device/vif/0",
    "connected",
];

/// What xenstored says when it is short of something for a while.
const ERRORS: [&str; 4] = ["EAGAIN", "ENOSPC", "ENOMEM", "EBUSY"];

coded! {
    /// What there is.
    pub struct Setup {
        /// How many turns anybody has after each deed.
        pub rounds: u8,
    }

    /// What the guest, its toolstack or xenstored does.
    pub enum Deed {
        /// A vif comes.
        Attach { keys: Vec<Setting> },
        /// Somebody writes a key.
        Write { vif: u8, place: Place, key: u8, value: Value },
        /// Somebody removes a key, or everything.
        Remove { vif: u8, place: Place, key: u8 },
        /// Somebody lets us read a key, or not.
        Allow { vif: u8, place: Place, key: u8, access: u8 },
        /// The frontend will write this when it connects.
        Key { vif: u8, key: u8, value: Value },
        /// The frontend answers when we close, or does not.
        Close { vif: u8, answers: bool },
        /// The frontend starts again.
        Reboot { vif: u8 },
        /// The toolstack takes a vif away.
        Detach { vif: u8, force: bool },
        /// The guest dies, and comes back without a vif.
        Die,
        /// Transactions fail.
        Conflict { times: u8 },
        /// xenstored refuses every so-many-th request; none with zero.
        Refuse { every: u8, error: u8 },
        /// xenstored takes its time.
        Pace { time: u8 },
        /// Everybody has so many turns.
        Rounds { count: u8 },
        /// Time passes.
        Wait { time: u16 },
    }

    /// A key and its value.
    pub struct Setting {
        /// Which key.
        pub key: u8,
        /// Its value.
        pub value: Value,
    }

    /// A directory.
    pub enum Place {
        /// The guest's, by the guest.
        Front,
        /// Ours, by the toolstack.
        Back,
        /// The guest's, by the toolstack.
        Home,
    }

    /// What a key says.
    pub enum Value {
        /// Something that means something.
        Known { number: u8 },
        /// A grant or port of one of the guest's vifs.
        Ring { vif: u8, which: u8 },
        /// A number.
        Number { number: u32 },
        /// Any bytes.
        Bytes { bytes: Vec<u8> },
        /// One byte many times.
        Long { len: u16, byte: u8 },
    }
}

/// What is fuzzed.
pub type Input = Script<Setup, Deed>;

/// Does what an input says.
pub fn run(data: &[u8]) {
    let Some(Script { setup, deeds }) = decode::<Input>(data) else { return };
    let mut scene = Scene::new();
    for deed in &deeds {
        scene.act(deed);
        scene.world.rounds(usize::from(setup.rounds % 32));
    }
    scene.end(deeds.len());
}

struct Scene {
    world: World,
    pair: Pair,
    /// The guest's vifs, and whether the toolstack's keys are its own.
    vifs: Vec<(Id, bool)>,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        let pair = Pair::attach(&mut world, [1, 2]);
        let mut scene = Self { world, pair, vifs: Vec::new() };
        scene.attach(&[]);
        scene
    }

    /// One of the vifs there are.
    fn vif(&self, number: u8) -> Option<Id> {
        (!self.vifs.is_empty()).then(|| pick(&self.vifs, number).0)
    }

    fn attach(&mut self, settings: &[Setting]) {
        if self.vifs.len() == VIFS {
            return;
        }
        let keys = settings
            .iter()
            .map(|setting| (pick(&KEYS, setting.key), text(&self.value(&setting.value))));
        let keys: Vec<_> = keys.collect();
        let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let id = self.world.add(0, Manners::default(), &keys);
        // What its rings are is for others to say.
        self.world[id].hands_off = true;
        self.vifs.push((id, settings.is_empty()));
    }

    fn value(&self, value: &Value) -> Vec<u8> {
        match value {
            Value::Known { number } => pick(&VALUES, *number).into(),
            Value::Ring { vif, which } => {
                let Some(id) = self.vif(*vif) else { return Vec::new() };
                let rings = &self.world[id].rings;
                let numbers = [rings.tx_page.1.0, rings.rx_page.1.0, rings.port.0];
                pick(&numbers, *which).to_string().into()
            }
            Value::Number { number } => number.to_string().into(),
            Value::Bytes { bytes } => bytes.clone(),
            Value::Long { len, byte } => vec![*byte; usize::from(len % MOST)],
        }
    }

    /// Who acts at a place of a vif's, and on which path; none where the directory is
    /// gone, or there is no vif.
    fn path(&mut self, vif: u8, place: &Place, key: Option<u8>) -> Option<(DomainId, String)> {
        let id = self.vif(vif)?;
        let paths = self.world[id].vif();
        let (who, directory) = match place {
            Place::Front => (paths.frontend, paths.frontend_dir()),
            Place::Back => (DomainId::ZERO, paths.backend_dir()),
            Place::Home => (DomainId::ZERO, paths.frontend_dir()),
        };
        self.world.store.act(DomainId::ZERO).read(&directory).ok()?;
        if matches!(place, Place::Back) {
            let touched = self.vifs.iter_mut().find(|(known, _)| *known == id);
            touched.expect("one of them").1 = false;
        }
        let below = key.map_or_else(String::new, |key| format!("/{}", pick(&KEYS, key)));
        Some((who, directory + &below))
    }

    fn act(&mut self, deed: &Deed) {
        match deed {
            Deed::Attach { keys } => self.attach(keys),
            Deed::Write { vif, place, key, value } => {
                let value = self.value(value);
                if let Some((who, path)) = self.path(*vif, place, Some(*key)) {
                    // What xenstored refuses does not happen.
                    let _ = self.world.store.act(who).write(&path, value);
                }
            }
            Deed::Remove { vif, place, key } => {
                let key = (usize::from(*key) < KEYS.len()).then_some(*key);
                if let Some((who, path)) = self.path(*vif, place, key) {
                    let _ = self.world.store.act(who).remove(&path);
                }
            }
            Deed::Allow { vif, place, key, access } => {
                let accesses = [Access::None, Access::Read, Access::Write, Access::Both];
                let key = (usize::from(*key) < KEYS.len()).then_some(*key);
                if let Some((who, path)) = self.path(*vif, place, key) {
                    let allowed = (worlds::US, pick(&accesses, *access));
                    let owner = Permissions::owned(who).0;
                    let permissions = Permissions([owner, vec![allowed]].concat());
                    let _ = self.world.store.act(who).set_permissions(&path, permissions);
                }
            }
            Deed::Key { vif, key, value } => {
                let value = text(&self.value(value));
                if let Some(id) = self.vif(*vif) {
                    self.world[id].set_key(pick(&KEYS, *key), &value);
                }
            }
            Deed::Close { vif, answers } => {
                if let Some(id) = self.vif(*vif) {
                    self.world[id].xenbus.closes = *answers;
                }
            }
            Deed::Reboot { vif } => {
                if let Some(id) = self.vif(*vif) {
                    self.world.set_front(id, "1");
                }
            }
            Deed::Detach { vif, force } => self.detach(*vif, *force),
            Deed::Die => self.die(),
            Deed::Conflict { times } => self.world.store.conflicts = usize::from(times % 8),
            Deed::Refuse { every, error } => {
                let every = usize::from(every % 8);
                let refuses = (every > 0).then(|| (every, pick(&ERRORS, *error)));
                self.world.store.manners.refuses = refuses;
            }
            Deed::Pace { time } => {
                self.world.store.manners.pace = u32::from(*time) * MILLISECOND;
            }
            Deed::Rounds { count } => self.world.rounds((*count).into()),
            Deed::Wait { time } => {
                self.world.pass(u32::from(time % 3000) * MILLISECOND);
                self.check();
            }
        }
    }

    /// Two that have nothing to do with it exchange packets.
    fn check(&mut self) {
        let others = self.pair.exchange(&mut self.world);
        assert_eq!(others, [], "nobody else sends");
        self.pair.check_answered(&self.world);
    }

    fn detach(&mut self, vif: u8, force: bool) {
        let Some(id) = self.vif(vif) else { return };
        self.remove(id, force);
    }

    /// The toolstack takes a vif away, the second time by force.
    fn remove(&mut self, id: Id, force: bool) {
        let place = self.vifs.iter().position(|(known, _)| *known == id);
        let (_, untouched) = self.vifs.remove(place.expect("one of them"));
        let manners = &self.world.store.manners;
        let honest = manners.refuses.is_none() && manners.pace.is_zero();
        let outcome = self.world.take_away(id, force);
        assert!(outcome == Ok(()) || !untouched || !honest, "{outcome:?}");
        if outcome.is_err() {
            // Nothing is there any more that it could wait for.
            let _ = self.world.take_away(id, true);
        }
    }

    fn die(&mut self) {
        self.calm();
        let Some((last, _)) = self.vifs.last().copied() else { return };
        for (id, _) in self.vifs.clone() {
            self.world[id].gone = true;
        }
        self.world.die(last);
        for (id, _) in self.vifs.clone() {
            if id != last {
                self.remove(id, true);
            }
        }
        self.vifs.clear();
        if self.world.bury(last).is_err() {
            assert_eq!(self.world.bury(last), Ok(()), "nothing is there any more");
        }
    }

    /// xenstored does what it should.
    fn calm(&mut self) {
        self.world.store.manners = StoreManners::default();
        self.world.store.conflicts = 0;
        self.world.pass(5000 * MILLISECOND);
    }

    fn end(mut self, deeds: usize) {
        self.calm();
        self.check();
        while let Some((id, _)) = self.vifs.last().copied() {
            self.remove(id, false);
        }
        // Whatever was before: a vif comes, long before the toolstack gives up (L-2).
        let id = self.world.attach(0);
        self.world.pass(2000 * MILLISECOND);
        assert!(self.world.is_connected(id), "{:?}", self.world.error(id));
        self.check();
        check_log(deeds);
        self.world.end();
    }
}

/// Bytes as text of as many.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(byte & 0x7f)).collect()
}
