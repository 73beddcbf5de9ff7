//! Every input of the corpora does no harm.

use std::fs;
use std::panic;

use fuzz::{NIC, RING, STORE, TARGETS, Target, WIRE, corpus, directory};

/// The most bytes of an input, and of all of them.
const INPUT: usize = 4096;
const TOTAL: usize = 300 * 1024;

fn replay(target: Target) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "{}: nothing to run", target.name);
    for (path, input) in &inputs {
        let (name, path) = (target.name, path.display());
        let found = panic::catch_unwind(|| (target.run)(input)).is_err();
        assert!(!found, "to see it: cargo run -p fuzz --bin {name} {path}");
    }
    println!("{}: {} inputs", target.name, inputs.len());
}

#[test]
fn ring() {
    replay(RING);
}

#[test]
fn store() {
    replay(STORE);
}

#[test]
fn nic() {
    replay(NIC);
}

#[test]
fn wire() {
    replay(WIRE);
}

/// The corpora are small, and have the scripts that were thought out as they are now
/// (`cargo run -p fuzz --bin seeds` writes them).
#[test]
fn corpora_are_small_and_up_to_date() {
    for (target, name, bytes) in fuzz::seeds::all() {
        let stored = fs::read(directory(target).join(&name));
        let same = stored.is_ok_and(|stored| stored == bytes);
        assert!(same, "{}/{name} is out of date", target.name);
    }
    let inputs = TARGETS.into_iter().flat_map(corpus);
    let lens: Vec<_> = inputs.map(|(_, input)| input.len()).collect();
    assert!(lens.iter().all(|len| *len < INPUT) && lens.iter().sum::<usize>() < TOTAL);
}
