//! Batches of grant copies into and out of packet buffers.

use alloc::vec::Vec;

use xen::Hypervisor;
use xen::grant::{GrantCopy, GrantError};

use super::Buffers;
use super::mapped::RETRIES;

/// Copies collected over a pass and run by one hypercall.
#[derive(Default, Debug)]
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
        // SAFETY: what is written is regions of `_buffers`, no byte of which is
        // referenced during the call, since it is borrowed exclusively. What is read is
        // such, or what another vCPU lends, which nobody writes until it is returned.
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

#[cfg(test)]
mod tests {
    use xen::DomainId;
    use xen::grant::{GrantRef, GrantRegion};

    use super::super::testing::{Guests, ram};
    use super::super::{Buffer, Size};
    use super::*;

    const GUEST: DomainId = DomainId(5);

    fn set_up() -> (Guests, Buffers, Buffer) {
        let mut buffers = Buffers::new(ram(1), ram(1));
        let mut buffer = buffers.take(Size::Small).unwrap();
        buffers.bytes_mut(&mut buffer).unwrap().fill(0);
        (Guests::default(), buffers, buffer)
    }

    fn copy(buffers: &Buffers, buffer: &Buffer, reference: u32, at: usize) -> GrantCopy {
        let from = GrantRegion { domain: GUEST, reference: GrantRef(reference), offset: 1 };
        GrantCopy::from_grant(from, buffers.region(buffer, at..at + 3).unwrap())
    }

    #[test]
    fn each_copy_says_what_became_of_it() {
        let (guests, mut buffers, buffer) = set_up();
        guests.grant(GUEST, GrantRef(1), b"xabcx");
        guests.grant(GUEST, GrantRef(3), b"xdefx");
        let mut batch = CopyBatch::with_capacity(3);
        for (place, reference) in [1, 2, 3].into_iter().enumerate() {
            assert_eq!(batch.push(copy(&buffers, &buffer, reference, 3 * place)), Some(place));
        }
        assert_eq!((batch.room(), batch.len()), (0, 3));
        assert_eq!(batch.push(copy(&buffers, &buffer, 1, 0)), None, "it does not grow");
        assert_eq!(batch.status(0), Err(GrantError::NOT_RUN));
        batch.run(&guests, &mut buffers);
        assert_eq!(guests.batches(), 1);
        assert_eq!(batch.status(0), Ok(()));
        assert_eq!(batch.status(1), Err(GrantError(-3)));
        assert_eq!(batch.status(2), Ok(()));
        assert_eq!(batch.status(3), Err(GrantError::NOT_RUN));
        assert_eq!(&buffers.bytes(&buffer)[..9], b"abc\0\0\0def");
        batch.clear();
        assert!(batch.is_empty());
        batch.run(&guests, &mut buffers);
        assert_eq!(guests.batches(), 1, "no hypercall for nothing");
        buffers.give(buffer);
    }

    #[test]
    fn a_page_that_is_paged_out_is_tried_again_but_not_for_ever() {
        let (guests, mut buffers, buffer) = set_up();
        guests.grant(GUEST, GrantRef(1), b"xabcx");
        for (times, status) in
            [(1, Ok(())), (RETRIES, Ok(())), (RETRIES + 1, Err(GrantError::AGAIN))]
        {
            let mut batch = CopyBatch::with_capacity(1);
            batch.push(copy(&buffers, &buffer, 1, 0));
            guests.page_out(times);
            batch.run(&guests, &mut buffers);
            assert_eq!(batch.status(0), status, "paged out for {times} copies");
        }
        buffers.give(buffer);
    }

    #[test]
    fn copies_that_were_taken_back_do_not_run() {
        let (guests, mut buffers, buffer) = set_up();
        guests.grant(GUEST, GrantRef(1), b"xabcx");
        let mut batch = CopyBatch::with_capacity(2);
        batch.push(copy(&buffers, &buffer, 1, 0));
        batch.push(copy(&buffers, &buffer, 1, 3));
        batch.truncate(1);
        batch.run(&guests, &mut buffers);
        assert_eq!(&buffers.bytes(&buffer)[..6], b"abc\0\0\0");
        buffers.give(buffer);
    }
}
