//! Batches of grant copies into and out of packet buffers.

use alloc::vec::Vec;

use xen::Hypervisor;
use xen::grant::{GrantCopy, GrantError};

use super::Buffers;

/// How often a copy from a page that is paged out is tried again.
const RETRIES: usize = 8;

/// Copies collected over a pass and run by one hypercall.
#[derive(Default)]
pub struct CopyBatch {
    copies: Vec<GrantCopy>,
}

impl CopyBatch {
    /// A batch with room for `capacity` copies, so that it does not allocate later.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { copies: Vec::with_capacity(capacity) }
    }

    /// How many more copies fit.
    pub fn room(&self) -> usize {
        self.copies.capacity() - self.copies.len()
    }

    /// How many copies are in it.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Adds a copy and returns its place in the batch; `None` where it is full.
    pub fn push(&mut self, copy: GrantCopy) -> Option<usize> {
        if self.room() == 0 {
            return None;
        }
        self.copies.push(copy);
        Some(self.copies.len() - 1)
    }

    /// Forgets the copies from place `len` on, which have not run.
    pub fn truncate(&mut self, len: usize) {
        self.copies.truncate(len);
    }

    /// Runs the copies. Borrowing all buffers exclusively is what makes it sound:
    /// nobody looks at a byte that Xen writes.
    pub fn run<H: Hypervisor>(&mut self, hypervisor: &H, _buffers: &mut Buffers) {
        if self.copies.is_empty() {
            return;
        }
        // SAFETY: local operands are regions of `_buffers`, no byte of which is
        // referenced during the call, since it is borrowed exclusively.
        unsafe { hypervisor.grant_copy(&mut self.copies) };
        for copy in &mut self.copies {
            for _ in 0..RETRIES {
                if copy.status() != Err(GrantError::AGAIN) {
                    break;
                }
                // SAFETY: as above.
                unsafe { hypervisor.grant_copy(core::slice::from_mut(copy)) };
            }
        }
    }

    /// What became of the copy at `place`.
    pub fn status(&self, place: usize) -> Result<(), GrantError> {
        self.copies.get(place).map_or(Err(GrantError::NOT_RUN), GrantCopy::status)
    }

    /// Empties the batch for the next pass.
    pub fn clear(&mut self) {
        self.copies.clear();
    }
}
