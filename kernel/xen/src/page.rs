//! Memory shared with somebody we do not trust.
//!
//! There is no reference into such a page anywhere: its bytes can change between
//! any two instructions. Four operations are all there is, and those that read
//! return values, so that a value cannot be fetched twice by accident.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::PAGE_SIZE;

/// A page that another domain, or the hypervisor, can write at any time.
#[derive(Debug)]
pub struct SharedPage {
    base: NonNull<u8>,
}

// SAFETY: every access to the page is atomic, and whoever else writes it is not
// bound to a thread either.
unsafe impl Send for SharedPage {}

impl SharedPage {
    /// Wraps the page at `base`.
    ///
    /// # Safety
    /// `base` is page-aligned and its [`PAGE_SIZE`] bytes stay accessible for as
    /// long as the value lives; nothing else in this program makes references to
    /// them.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self { base }
    }

    /// Reads the 32-bit word at `offset`, before anything that follows.
    ///
    /// # Panics
    /// If the word is not aligned or not inside the page: offsets are ours, never
    /// a peer's.
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes the 32-bit word at `offset`, after everything that came before.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Copies the value at `offset` out, each byte read once.
    ///
    /// # Panics
    /// If the value is not a whole number of aligned 32-bit words inside the page.
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.read_words(offset, value.as_mut_bytes());
        value
    }

    /// Copies `value` to `offset`.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        let bytes = value.as_bytes();
        assert!(bytes.len().is_multiple_of(4), "shared values are whole words");
        for (index, word) in bytes.chunks_exact(4).enumerate() {
            let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            self.word(offset + 4 * index).store(word, Ordering::Relaxed);
        }
    }

    /// Copies bytes from `offset` out, each read once; for byte streams.
    ///
    /// # Panics
    /// If they leave the page.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.byte(offset + index).load(Ordering::Relaxed);
        }
    }

    /// Copies bytes to `offset`; for byte streams.
    ///
    /// # Panics
    /// If they leave the page.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            self.byte(offset + index).store(*byte, Ordering::Relaxed);
        }
    }

    fn read_words(&self, offset: usize, into: &mut [u8]) {
        assert!(into.len().is_multiple_of(4), "shared values are whole words");
        for (index, chunk) in into.chunks_exact_mut(4).enumerate() {
            let word = self.word(offset + 4 * index).load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset <= PAGE_SIZE - 4, "offset {offset} in a page");
        // SAFETY: `offset` is inside the page, as asserted.
        let word = unsafe { self.base.add(offset) };
        // SAFETY: the page is accessible for as long as `self` (the constructor's
        // contract), aligned, and an atomic may be shared with other writers.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < PAGE_SIZE, "offset {offset} in a page");
        // SAFETY: `offset` is inside the page, as asserted.
        let byte = unsafe { self.base.add(offset) };
        // SAFETY: as in `word`; a byte needs no alignment.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}
