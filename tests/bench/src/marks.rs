//! Marks in a trace of all accesses to memory: which vCPU goes from there on, and when counting
//! begins.

use std::sync::atomic::{AtomicU8, Ordering};

/// The most vCPUs that are told apart.
pub const VCPUS: usize = 8;

/// The mark of nobody.
pub const NOBODY: usize = VCPUS;
/// The mark from which on there is counting.
pub const START: usize = VCPUS + 1;

/// Writing one of the bytes is the mark of that number.
static MARKS: [AtomicU8; START + 1] = [const { AtomicU8::new(0) }; START + 1];

/// Where the marks are.
pub fn address() -> usize {
    MARKS.as_ptr().expose_provenance()
}

/// Makes a mark: that from here on a vCPU goes, or [`NOBODY`], or [`START`].
#[inline(always)]
pub fn mark(number: usize) {
    MARKS[number].store(1, Ordering::Relaxed);
}
