//! How often memory was allocated, by thread, how much, and how much there is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
    static USED: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator, beside a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends counts no more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        let _ = USED.try_with(|used| used.set(used.get() + layout.size() as isize));
        if LARGEST.try_with(|largest| layout.size() > largest.get()).unwrap_or(false) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        let _ = USED.try_with(|used| used.set(used.get() - layout.size() as isize));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(base, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many bytes this thread has allocated and not given back.
pub fn used() -> isize {
    USED.get()
}

/// From now on this thread gets no piece of memory that is larger than so many bytes.
pub fn set_largest(bytes: usize) {
    LARGEST.set(bytes);
}

/// How often this thread has allocated.
pub(crate) fn allocations() -> u64 {
    COUNT.get()
}
