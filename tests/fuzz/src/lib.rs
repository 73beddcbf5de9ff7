//! Fuzz targets: a world of [`worlds`] in which one peer does what bytes say, beside
//! guests that keep the rules.
//!
//! A target reads its bytes as a setup and a script of deeds, and does them in turn.
//! Whatever they are, after each deed two honest guests' packets arrive unchanged and at
//! once; what is logged is little; in the end everything is at rest, nothing is lost and
//! nothing is left of anybody. What does not hold is a panic.
//!
//! The engine is libFuzzer (`make fuzz`). The inputs that it keeps are in the repository,
//! and an ordinary test runs them all.

use std::fs;
use std::path::{Path, PathBuf};

mod coding;
mod frame;
mod nic;
mod pair;
mod ring;
pub mod seeds;
mod store;
mod wire;

/// What is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Does what an input says.
    ///
    /// # Panics
    /// If anything does not hold that has to.
    pub run: fn(&[u8]),
    /// What an input says, for people.
    pub tell: fn(&[u8]) -> String,
}

/// What a frontend writes into its rings, and does with its pages.
pub const RING: Target = Target { name: "ring", run: ring::run, tell: coding::tell::<ring::Input> };
/// What XenStore has of a vif.
pub const STORE: Target =
    Target { name: "store", run: store::run, tell: coding::tell::<store::Input> };
/// What a NIC says.
pub const NIC: Target = Target { name: "nic", run: nic::run, tell: coding::tell::<nic::Input> };
/// What comes from the wire.
pub const WIRE: Target = Target { name: "wire", run: wire::run, tell: coding::tell::<wire::Input> };

/// All of them.
pub const TARGETS: [Target; 4] = [RING, STORE, NIC, WIRE];

/// Where a target's corpus is.
pub fn directory(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// A target's corpus, in the order of its names.
///
/// # Panics
/// If it cannot be read.
pub fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory(target)).expect("a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("an input"));
    paths.into_iter().map(read).collect()
}

/// The body of a target's binary: libFuzzer's, or without it one that runs the inputs in
/// the files it is given.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| ($crate::$target.run)(data));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay($crate::$target, std::env::args().skip(1));
        }
    };
}

/// Tells what inputs say, and runs them.
///
/// # Panics
/// If a file cannot be read, or an input finds something.
pub fn replay(target: Target, files: impl Iterator<Item = String>) {
    for file in files {
        let data = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        println!("{file}: {}", (target.tell)(&data));
        (target.run)(&data);
    }
}
