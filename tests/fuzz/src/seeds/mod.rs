//! Scripts that were thought out: what an honest peer does, and each attack that the
//! contract lists (NETBACK-SPEC F-1 to F-13). Fuzzing begins with them.

mod nic;
mod ring;
mod store;
mod wire;

use crate::coding::{Coded, Script, encode};
use crate::{NIC, RING, STORE, Target, WIRE};

/// A script and its name.
type Seed<Deed> = (&'static str, Vec<Deed>);

/// All of them: of which target, under which name, and in which bytes.
pub fn all() -> Vec<(Target, String, Vec<u8>)> {
    let ring = named(RING, ring::setup(), ring::seeds());
    let store = named(STORE, store::setup(), store::seeds());
    let nic = named(NIC, nic::setup(), nic::seeds());
    let wire = named(WIRE, wire::setup(), wire::seeds());
    [ring, store, nic, wire].concat()
}

fn named<Setup: Coded + Clone, Deed: Coded>(
    target: Target,
    setup: Setup,
    seeds: Vec<Seed<Deed>>,
) -> Vec<(Target, String, Vec<u8>)> {
    let named = seeds.into_iter().map(|(name, deeds)| {
        let script = Script { setup: setup.clone(), deeds };
        (target, format!("seed-{name}"), encode(&script))
    });
    named.collect()
}
