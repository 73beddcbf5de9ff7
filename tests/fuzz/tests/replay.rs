//! Every input of the corpora does no harm.

use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{NIC, RING, STORE, Target, WIRE};

/// The most bytes of an input, and of all of them.
const INPUT: usize = 4096;
const TOTAL: usize = 300 * 1024;

fn directory(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// A corpus, in the order of its names.
fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory(target)).expect("a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("an input"));
    paths.into_iter().map(read).collect()
}

fn replay(target: Target) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "{}: nothing to run", target.name);
    for (path, input) in &inputs {
        // What is printed is shown if it fails.
        println!("{}", path.display());
        (target.run)(input);
    }
    eprintln!("{}: {} inputs", target.name, inputs.len());
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
fn seeds_are_as_they_were_written() {
    for (target, name, bytes) in fuzz::seeds::all() {
        let stored = fs::read(directory(target).join(&name));
        let same = stored.is_ok_and(|stored| stored == bytes);
        assert!(same, "{}/{name} is out of date", target.name);
    }
    let inputs = fuzz::TARGETS.into_iter().flat_map(corpus);
    let lens: Vec<_> = inputs.map(|(_, input)| input.len()).collect();
    assert!(lens.iter().all(|len| *len < INPUT) && lens.iter().sum::<usize>() < TOTAL);
}
