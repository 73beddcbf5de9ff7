//! Deliberate defects: each would fail the replay of a corpus.

use std::panic;

use fuzz::{NIC, RING, STORE, Target, WIRE, corpus};
use kernel::defect::{self, Defect};

fn finds(target: Target, input: &[u8]) -> bool {
    panic::catch_unwind(|| (target.run)(input)).is_err()
}

/// Whether an input of a corpus sees a defect.
fn sees(target: Target, defect: Defect) -> bool {
    let inputs = corpus(target);
    defect::set(Some(defect));
    let seen = inputs.iter().find(|(_, input)| finds(target, input));
    defect::set(None);
    if let Some((path, _)) = seen {
        println!("{}: {defect:?} is seen by {}", target.name, path.display());
    }
    seen.is_some()
}

#[test]
fn deliberate_defects_are_seen() {
    let broken = [
        (RING, Defect::LosesARelease),
        (RING, Defect::ReopensTooEarly),
        (STORE, Defect::AnswersTwice),
        (NIC, Defect::EndsPacketsAtOnce),
        (WIRE, Defect::LosesARelease),
    ];
    // What they say when they see one is expected.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let missed = broken.into_iter().filter(|(target, defect)| !sees(*target, *defect));
    let missed: Vec<_> = missed.map(|(target, defect)| (target.name, defect)).collect();
    panic::set_hook(hook);
    assert!(missed.is_empty(), "not seen: {missed:?}");
}
