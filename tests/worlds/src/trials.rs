//! How much is tried: cases of properties, and from what seed.

use std::env;
use std::hash::{BuildHasher, RandomState};

use proptest::test_runner::{Config, RngSeed};

/// How many times as many cases there are where there is time for them.
const MORE: u32 = 50;

/// Whether there is time for more than a usual run of the tests tries: `SOAK=1`.
pub fn soaks() -> bool {
    env::var_os("SOAK").is_some()
}

/// So many cases of a property, or many more with `SOAK=1`. They come from a seed that is
/// told, and `SEED=` has them again.
///
/// # Panics
/// If `SEED` is no number.
pub fn trials(cases: u32) -> Config {
    let cases = if soaks() { cases * MORE } else { cases };
    let seed = env::var("SEED").map_or_else(
        |_| RandomState::new().hash_one(cases),
        |seed| seed.parse().expect("SEED is a number"),
    );
    println!("{cases} cases, SEED={seed}");
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    }
}
