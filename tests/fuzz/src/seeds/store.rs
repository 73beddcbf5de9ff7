//! What XenStore has of vifs.

use super::Seed;
use crate::store::{Deed, Place, Setting, Setup, Value};

/// Some turns for everybody after each deed.
pub fn setup() -> Setup {
    Setup { rounds: 3 }
}

/// By their names: the keys of a vif.
const STATE: u8 = 0;
const ONLINE: u8 = 1;
const FRONTEND: u8 = 2;
const MAC: u8 = 5;
const BRIDGE: u8 = 6;
const TX: u8 = 15;
const RX: u8 = 16;
const PORT: u8 = 17;
const QUEUES: u8 = 21;
const EVERYTHING: u8 = 255;

fn known(number: u8) -> Value {
    Value::Known { number }
}

fn write(place: Place, key: u8, value: Value) -> Deed {
    Deed::Write { vif: 0, place, key, value }
}

fn wait(time: u16) -> Deed {
    Deed::Wait { time }
}

/// Another vif comes with this, and goes.
fn comes_with(key: u8, value: Value) -> Vec<Deed> {
    vec![Deed::Attach { keys: vec![Setting { key, value }] }, wait(100)]
}

/// The frontend writes this, and connects.
fn connects_with(settings: Vec<(u8, Value)>) -> Vec<Deed> {
    let keys = settings.into_iter().map(|(key, value)| Deed::Key { vif: 0, key, value });
    keys.chain([wait(100), Deed::Reboot { vif: 0 }, wait(100)]).collect()
}

pub fn seeds() -> Vec<Seed<Deed>> {
    let detach = |force| Deed::Detach { vif: 0, force };
    let attach = || Deed::Attach { keys: Vec::new() };
    let states = |place: fn() -> Place, states: &[u8]| -> Vec<Deed> {
        states.iter().map(|state| write(place(), STATE, known(*state))).collect()
    };
    let ring = |which| Value::Ring { vif: 1, which };
    vec![
        ("honest", vec![wait(50), attach(), wait(50), detach(false), attach(), wait(50)]),
        ("f8-same-ring", connects_with(vec![(TX, Value::Ring { vif: 0, which: 1 })])),
        (
            "f8-anothers-rings",
            [vec![attach()], connects_with(vec![(TX, ring(0)), (RX, ring(1)), (PORT, ring(2))])]
                .concat(),
        ),
        ("f8-no-grants", connects_with(vec![(TX, known(14)), (RX, known(0))])),
        ("f8-no-port", connects_with(vec![(PORT, known(23))])),
        (
            "f9-values",
            (10..24)
                .flat_map(|number| connects_with(vec![(TX + number % 3, known(number))]))
                .collect(),
        ),
        ("f9-bytes", connects_with(vec![(TX, Value::Bytes { bytes: vec![0, 0xff, 0x37] })])),
        ("f9-long", connects_with(vec![(RX, Value::Long { len: 2000, byte: b'7' })])),
        ("f9-too-long", connects_with(vec![(RX, Value::Long { len: 3000, byte: b'7' })])),
        ("f9-queues", connects_with(vec![(QUEUES, known(9)), (23, known(1)), (24, known(1))])),
        (
            "f9-unreadable",
            vec![
                wait(50),
                Deed::Allow { vif: 0, place: Place::Front, key: STATE, access: 0 },
                wait(50),
                Deed::Allow { vif: 0, place: Place::Front, key: EVERYTHING, access: 0 },
                wait(50),
                Deed::Allow { vif: 0, place: Place::Front, key: STATE, access: 1 },
            ],
        ),
        ("f9-state-flips", states(|| Place::Front, &[4, 6, 1, 7, 10, 12, 5, 2, 0, 4, 1, 3, 8, 1])),
        ("x11-our-state", states(|| Place::Back, &[5, 4, 1, 6, 2, 10, 5, 3])),
        (
            "x11-stop-and-offline",
            vec![
                wait(50),
                write(Place::Back, ONLINE, known(0)),
                write(Place::Back, STATE, known(5)),
                wait(2999),
            ],
        ),
        (
            "x10-state-is-gone",
            vec![
                wait(50),
                Deed::Remove { vif: 0, place: Place::Front, key: STATE },
                wait(500),
                Deed::Remove { vif: 0, place: Place::Home, key: EVERYTHING },
                wait(2999),
            ],
        ),
        (
            "l5-directory-is-gone",
            vec![wait(50), Deed::Remove { vif: 0, place: Place::Back, key: EVERYTHING }, wait(500)],
        ),
        ("l4-destroyed", vec![wait(50), detach(true), attach(), detach(true), attach()]),
        ("f9-path-of-another", comes_with(FRONTEND, known(39))),
        ("f9-path-with-dots", comes_with(FRONTEND, known(40))),
        ("f10-addresses", (32..38).flat_map(|number| comes_with(MAC, known(number))).collect()),
        ("f10-bridges", (29..32).flat_map(|number| comes_with(BRIDGE, known(number))).collect()),
        (
            "k1-mtu-rate-vlan",
            [(7, 23), (7, 24), (7, 25), (8, 26), (8, 27), (8, 28), (9, 1), (9, 10)]
                .into_iter()
                .flat_map(|(key, number)| {
                    let mut deeds = comes_with(key, known(number));
                    deeds.push(Deed::Detach { vif: 1, force: false });
                    deeds
                })
                .collect(),
        ),
        ("x8-restarts", vec![[Deed::Reboot { vif: 0 }, wait(50)]; 6].concat()),
        (
            "l3-frontend-does-not-close",
            vec![wait(50), Deed::Close { vif: 0, answers: false }, detach(false)],
        ),
        ("f12-dies", vec![Deed::Die, attach(), Deed::Die, attach(), wait(50), Deed::Die, attach()]),
        ("f12-dies-with-many", vec![attach(), attach(), Deed::Rounds { count: 9 }, Deed::Die]),
        ("f13-cycles", vec![[attach(), wait(20), detach(false)]; 6].concat()),
        (
            "s18-conflicts",
            vec![
                Deed::Conflict { times: 5 },
                attach(),
                wait(50),
                Deed::Conflict { times: 3 },
                detach(false),
            ],
        ),
        (
            "s18-refusals",
            (0..4)
                .flat_map(|error| {
                    [Deed::Refuse { every: 2, error }, attach(), wait(900), detach(false)]
                })
                .collect(),
        ),
        ("s18-slow", vec![Deed::Pace { time: 200 }, attach(), wait(2999), detach(false)]),
    ]
}
