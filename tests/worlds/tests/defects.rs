//! Deliberate defects: each is seen by a scenario.

use std::panic::{self, AssertUnwindSafe};

use kernel::defect::{self, Defect};
use worlds::scenarios;

/// The first scenario that sees a defect.
fn seen_by(defect: Defect) -> Option<&'static str> {
    defect::set(Some(defect));
    let found = scenarios::ALL.iter().find(|(_, run)| {
        let outcome = panic::catch_unwind(AssertUnwindSafe(run));
        outcome.is_err()
    });
    defect::set(None);
    found.map(|(name, _)| *name)
}

#[test]
fn each_is_seen() {
    // What they say when they see one is expected.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let seen: Vec<_> = Defect::ALL.iter().map(|defect| (defect, seen_by(*defect))).collect();
    panic::set_hook(hook);
    for (defect, by) in &seen {
        println!("{defect:?}: {}", by.unwrap_or("not seen"));
    }
    let missed: Vec<_> = seen.iter().filter(|(_, by)| by.is_none()).collect();
    assert!(missed.is_empty(), "not seen: {missed:?}");
}
