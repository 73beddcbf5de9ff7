//! What devices say.

use super::Seed;
use crate::nic::{Deed, Setup};

/// Everything mapped, for the real device.
pub fn setup() -> Setup {
    Setup { mode: 1, emulated: false }
}

pub fn seeds() -> Vec<Seed<Deed>> {
    let outward = |count| Deed::Outward { guest: 0, count, len: 1300, pieces: 200 };
    let arrive = |count, len| Deed::Arrive { count, guest: 0, len };
    let fault = |number, is| Deed::Fault { number, is };
    let wait = |time| Deed::Wait { time };
    let claim = |register, value| Deed::Claim { register, value, truth: false };
    let truth = |register| Deed::Claim { register, value: 0, truth: true };
    let lie = |status, len| Deed::Lie { times: 0, status, len };
    // While it keeps what it is given: the fourth fault.
    let stalled = |then: Vec<Deed>| [vec![fault(3, true), outward(9)], then].concat();
    vec![
        ("honest", vec![outward(5), arrive(5, 100), wait(10), outward(60), arrive(60, 1400)]),
        ("receive-lengths", [0, 13, 1519, 2048, u16::MAX].map(|len| lie(3, len)).to_vec()),
        ("receive-status", [1, 3 | 1 << 31, 0xff, u32::MAX].map(|bits| lie(bits, 100)).to_vec()),
        ("receive-floods", vec![Deed::Lie { times: 255, status: 3, len: 60 }, arrive(255, 60)]),
        ("receive-in-pieces", vec![lie(1, 2048), lie(3, 100), arrive(3, 100), lie(1, 60), wait(9)]),
        ("receive-ring-full", vec![arrive(255, 1500), arrive(255, 14), wait(100), arrive(9, 1599)]),
        ("send-claimed", stalled(vec![Deed::ClaimSent, wait(100), Deed::Kick, wait(2999)])),
        (
            "h13-reads-what-it-gave-back",
            stalled(vec![
                Deed::ClaimSent,
                wait(1000),
                Deed::Send { count: 12 },
                wait(2000),
                outward(3),
            ]),
        ),
        (
            "send-scribbled",
            stalled((0..9).map(|slot| Deed::Scribble { slot, status: 0xff - slot }).collect()),
        ),
        (
            "send-out-of-order",
            stalled(vec![
                Deed::Scribble { slot: 5, status: 1 },
                Deed::Scribble { slot: 2, status: 1 },
                Deed::Send { count: 4 },
                wait(100),
            ]),
        ),
        ("t4-stalls", stalled(vec![wait(2500), wait(2500), fault(3, false), outward(9), wait(99)])),
        ("t4-stalls-and-does-not-reset", stalled(vec![fault(1, true), wait(2999), wait(2999)])),
        (
            "t4-stalls-and-stays-busy",
            stalled(vec![
                fault(1, true),
                fault(2, true),
                wait(2999),
                Deed::Pending { are: true },
                wait(2999),
            ]),
        ),
        (
            "gone",
            stalled(vec![fault(0, true), wait(2999), fault(0, false), wait(2999), outward(3)]),
        ),
        ("loops", vec![fault(4, true), outward(40), arrive(9, 100), wait(10), outward(9)]),
        (
            "interrupts",
            vec![Deed::Interrupt { vectors: vec![0x40, 0x41, 0, 255, 0x40] }, outward(2)],
        ),
        (
            "link-flaps",
            (0..9)
                .flat_map(|n| [Deed::Link { up: n % 2 == 1 }, outward(3), wait(40 * n)])
                .collect(),
        ),
        (
            "o10-link-goes",
            stalled(vec![Deed::Link { up: false }, wait(1500), Deed::Link { up: true }, wait(500)]),
        ),
        (
            "h13-loses-mastering",
            stalled(vec![Deed::LoseMastering, wait(2500), outward(9), wait(10)]),
        ),
        (
            "registers-of-ones",
            (0..13)
                .flat_map(|register| {
                    [claim(register, u32::MAX), outward(1), wait(1200), truth(register)]
                })
                .collect(),
        ),
        (
            "registers-of-zeros",
            (0..13)
                .flat_map(|register| {
                    [claim(register, 0), arrive(1, 99), wait(1200), truth(register)]
                })
                .collect(),
        ),
        (
            "never-loaded",
            vec![claim(1, 0), Deed::LoseMastering, wait(2999), wait(2999), truth(1), wait(2999)],
        ),
        (
            "address-of-many",
            vec![claim(4, 1), claim(5, 1 << 31), Deed::LoseMastering, wait(2999), outward(3)],
        ),
    ]
}
