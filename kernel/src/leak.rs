//! What was dropped instead of given back.
//!
//! Buffers and holds on lent pages end only through their owner. One that is
//! dropped is a defect of ours: it fails tests, and in the domain it is counted
//! and what it stood for stays out of use.

use core::sync::atomic::{AtomicU64, Ordering};

static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Takes note of a leak.
pub(crate) fn note(what: &str) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    log::error!("{what} was dropped instead of given back");
    #[cfg(not(target_os = "none"))]
    assert!(std::thread::panicking(), "{what} was dropped instead of given back");
}

/// How many buffers and holds were lost since the start.
pub fn leaked() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}
