//! Memory shared with somebody we do not trust.
//!
//! There is no reference into such a page anywhere: its bytes can change between
//! any two instructions. Four operations are all there is, and those that read
//! return values, so that a value cannot be fetched twice by accident.

use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::PAGE_SIZE;

/// A page that another domain, or the hypervisor, can write at any time.
#[derive(Debug)]
pub struct SharedPage {
    base: Base,
}

/// Where the page's bytes are.
#[derive(Debug)]
enum Base {
    /// Here, for as long as the value lives.
    Fixed(NonNull<u8>),
    /// Where the in-memory hypervisor says at each access.
    #[cfg(any(test, feature = "fake"))]
    Faked(alloc::sync::Arc<crate::fake::View>),
}

/// What an access does. Only the in-memory hypervisor tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
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
        Self { base: Base::Fixed(base) }
    }

    /// The page that `view` shows.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn faked(view: alloc::sync::Arc<crate::fake::View>) -> Self {
        Self { base: Base::Faked(view) }
    }

    /// Reads the 32-bit word at `offset`, before anything that follows.
    ///
    /// # Panics
    /// If the word is not aligned or not inside the page: offsets are ours, never
    /// a peer's.
    pub fn load(&self, offset: usize) -> u32 {
        self.words(Access::Read, offset, 1, |words| words[0].load(Ordering::Acquire))
    }

    /// Writes the 32-bit word at `offset`, after everything that came before.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn store(&self, offset: usize, value: u32) {
        self.words(Access::Write, offset, 1, |words| words[0].store(value, Ordering::Release));
    }

    /// Copies the value at `offset` out, each byte read once.
    ///
    /// # Panics
    /// If the value is not a whole number of aligned 32-bit words inside the page.
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        let into = value.as_mut_bytes();
        assert!(into.len().is_multiple_of(4), "shared values are whole words");
        self.words(Access::Read, offset, into.len() / 4, |words| {
            for (into, word) in into.chunks_exact_mut(4).zip(words) {
                into.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
        });
        value
    }

    /// Copies `value` to `offset`.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        let bytes = value.as_bytes();
        assert!(bytes.len().is_multiple_of(4), "shared values are whole words");
        self.words(Access::Write, offset, bytes.len() / 4, |words| {
            for (word, from) in words.iter().zip(bytes.chunks_exact(4)) {
                let value = u32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
                word.store(value, Ordering::Relaxed);
            }
        });
    }

    /// Copies bytes from `offset` out, each read once; for byte streams.
    ///
    /// # Panics
    /// If they leave the page.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        self.bytes(Access::Read, offset, into.len(), |bytes| {
            for (into, byte) in into.iter_mut().zip(bytes) {
                *into = byte.load(Ordering::Relaxed);
            }
        });
    }

    /// Copies bytes to `offset`; for byte streams.
    ///
    /// # Panics
    /// If they leave the page.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        self.bytes(Access::Write, offset, from.len(), |bytes| {
            for (byte, from) in bytes.iter().zip(from) {
                byte.store(*from, Ordering::Relaxed);
            }
        });
    }

    fn words<R>(
        &self,
        access: Access,
        offset: usize,
        count: usize,
        run: impl FnOnce(&[AtomicU32]) -> R,
    ) -> R {
        assert!(offset.is_multiple_of(4), "offset {offset} in a page");
        assert!(offset <= PAGE_SIZE && count <= (PAGE_SIZE - offset) / 4, "{count} at {offset}");
        self.with_base(access, |base| {
            // SAFETY: `offset` is inside the page or at its end, as asserted.
            let first = unsafe { base.add(offset) };
            // SAFETY: the page is accessible (`with_base`) and aligned, the words are
            // inside, and atomics may be shared with other writers.
            run(unsafe { slice::from_raw_parts(first.as_ptr().cast(), count) })
        })
    }

    fn bytes<R>(
        &self,
        access: Access,
        offset: usize,
        count: usize,
        run: impl FnOnce(&[AtomicU8]) -> R,
    ) -> R {
        assert!(offset <= PAGE_SIZE && count <= PAGE_SIZE - offset, "{count} at {offset}");
        self.with_base(access, |base| {
            // SAFETY: `offset` is inside the page or at its end, as asserted.
            let first = unsafe { base.add(offset) };
            // SAFETY: as in `words`; a byte needs no alignment.
            run(unsafe { slice::from_raw_parts(first.as_ptr().cast(), count) })
        })
    }

    /// Runs `run` with the address of the page, which stays accessible meanwhile.
    #[cfg_attr(not(any(test, feature = "fake")), expect(unused_variables, reason = "one base"))]
    fn with_base<R>(&self, access: Access, run: impl FnOnce(NonNull<u8>) -> R) -> R {
        match &self.base {
            Base::Fixed(base) => run(*base),
            #[cfg(any(test, feature = "fake"))]
            Base::Faked(view) => view.with_base(access, run),
        }
    }
}
