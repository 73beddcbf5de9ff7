//! Frame numbers in holes at which pages of others can be put.

use alloc::vec::Vec;
use core::ops::Range;

use xen::{ForeignFrame, PAGE_SIZE};

/// The free foreign frames.
#[derive(Debug)]
pub struct Window {
    free: Vec<ForeignFrame>,
    quarantined: usize,
}

impl Window {
    /// Takes a range of addresses as frames.
    ///
    /// # Safety
    /// The range is a hole, page-aligned, mapped 1:1 for good, and nobody else
    /// has frames of it.
    pub unsafe fn new(range: Range<u64>) -> Self {
        let page = PAGE_SIZE as u64;
        let numbers = range.start / page..range.end / page;
        // SAFETY: the caller's contract; each number is taken once.
        Self::of(numbers.rev().map(|number| unsafe { ForeignFrame::new(number) }).collect())
    }

    /// A window of given frames.
    pub fn of(frames: Vec<ForeignFrame>) -> Self {
        Self { free: frames, quarantined: 0 }
    }

    /// Takes a frame; `None` when there is none left.
    pub fn take(&mut self) -> Option<ForeignFrame> {
        self.free.pop()
    }

    /// Gives a frame back, once Xen confirmed that nothing is mapped there (O-14).
    pub fn give(&mut self, frame: ForeignFrame) {
        self.free.push(frame);
    }

    /// Keeps a frame out of use for ever: something may still be mapped there.
    pub fn quarantine(&mut self, frame: ForeignFrame) {
        self.quarantined += 1;
        log::error!("frame {:#x} cannot be unmapped and is out of use", frame.number());
    }

    /// How many frames are out of use.
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }
}
