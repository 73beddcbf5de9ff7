//! Every history of small worlds.
//!
//! The worlds here are small enough for every run of the tests. With `SOAK=1`
//! (`make soak`) there is a larger one as well, in which everything can happen at once.

use std::time::Duration;

use kernel::switch::Holding;
use worlds::explorer::{Play, explore};
use worlds::small::{Action, End, Plot, SmallWorld, To, Who};
use worlds::trials::soaks;
use xen::fake::Kind;

const HOLDINGS: [Holding; 2] = [Holding::Mapped(Duration::from_secs(4)), Holding::Private];
const DEATH: End = End::Death;
const CLOSE: End = End::Close;

/// Explores a world, and says how large it is.
fn histories(plot: &Plot) {
    println!("{}", explore(|| SmallWorld::new(plot)));
}

/// What happens once happens again, and states that differ look different.
#[test]
fn states_are_told_apart() {
    let after = |history: &[Action]| {
        let mut world = SmallWorld::new(&Plot::default());
        history.iter().for_each(|action| world.act(*action));
        let fingerprint = world.fingerprint();
        world.end();
        fingerprint
    };
    let history =
        [Action::Send, Action::Turn, Action::Complete, Action::Offer, Action::Turn, Action::Send];
    let states: Vec<_> = (0..=history.len()).map(|n| after(&history[..n])).collect();
    let again: Vec<_> = (0..=history.len()).map(|n| after(&history[..n])).collect();
    assert_eq!(states, again);
    for (n, state) in states.iter().enumerate() {
        assert!(!states[..n].contains(state), "after {:?}", &history[..n]);
    }
    // Who was first makes no difference.
    let either = [Action::Offer, Action::Complete].map(|last| {
        let first = if last == Action::Offer { Action::Complete } else { Action::Offer };
        after(&[Action::Send, Action::Turn, first, last])
    });
    assert_eq!(either[0], either[1]);
}

/// Nothing disturbs: everything arrives.
#[test]
fn nothing_happens() {
    for holding in HOLDINGS {
        histories(&Plot { holding, ..Plot::default() });
        let others =
            vec![(To::Stranger, vec![100, 500]), (To::Bridges, vec![500]), (To::All, vec![60])];
        histories(&Plot { packets: others, holding, ..Plot::default() });
    }
}

/// O-8, O-10, T-4, T-5: pages are held for too long, the NIC is reset, and B loses its
/// carrier.
#[test]
fn time_passes_and_the_nic_stalls() {
    for holding in HOLDINGS {
        histories(&Plot { holding, stalls: 1, waits: 2, ..Plot::default() });
        histories(&Plot { holding, droughts: 2, waits: 1, ..Plot::default() });
    }
}

/// Too few packets, frames or descriptors.
#[test]
fn something_is_short() {
    let packets = vec![(To::All, vec![300, 400]), (To::Stranger, vec![500])];
    let plot = Plot { packets, stalls: 1, waits: 1, ..Plot::default() };
    histories(&Plot { pool: 2, ..plot.clone() });
    histories(&Plot { frames: 1, ..plot.clone() });
    histories(&Plot { descriptors: 3, ..plot });
}

/// F-6, H-5, T-7, T-10: pages are edited and taken away while they are lent, and
/// operations fail.
#[test]
fn pages_change_and_vanish_and_xen_refuses() {
    let refusals = vec![Kind::Copy, Kind::Map, Kind::Unmap];
    histories(&Plot { revocations: 1, waits: 1, ..Plot::default() });
    histories(&Plot { edits: 1, ..Plot::default() });
    histories(&Plot { refusals: (refusals, 1), ..Plot::default() });
}

/// F-12, O-12, O-13, T-6, T-11: the guest whose pages they are goes at any moment, and
/// comes back.
#[test]
fn the_lender_ends_and_comes_back() {
    for end in [DEATH, CLOSE] {
        histories(&Plot {
            ends: vec![(Who::A, end)],
            offers: 1,
            waits: 1,
            returns: true,
            ..Plot::default()
        });
    }
    // The second packet's page has the same grant as the first one's had.
    let twice = vec![(To::B, vec![500]), (To::B, vec![600])];
    let ends = vec![(Who::A, CLOSE)];
    histories(&Plot { packets: twice, ends, waits: 1, returns: true, ..Plot::default() });
}

/// T-7, O-12: the guest for which they wait goes at any moment, and comes back.
#[test]
fn the_receiver_ends_and_comes_back() {
    for end in [DEATH, CLOSE] {
        histories(&Plot {
            ends: vec![(Who::B, end)],
            offers: 1,
            waits: 1,
            returns: true,
            ..Plot::default()
        });
    }
}

/// All of it at once, where there is time for that.
#[test]
fn anything_happens() {
    if !soaks() {
        println!("explored with SOAK=1 alone");
        return;
    }
    let ends = vec![(Who::A, DEATH), (Who::A, CLOSE), (Who::B, DEATH), (Who::B, CLOSE)];
    let refusals = (vec![Kind::Copy, Kind::Map, Kind::Unmap], 1);
    let plot = Plot { stalls: 1, waits: 1, revocations: 1, ends, returns: true, ..Plot::default() };
    for holding in HOLDINGS {
        histories(&Plot { holding, ..plot.clone() });
    }
    histories(&Plot { refusals, stalls: 0, revocations: 0, ..plot });
}
