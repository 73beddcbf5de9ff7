//! The heap: for set-up and control, never for packets.

use linked_list_allocator::LockedHeap;

use super::Ram;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory, once.
pub fn start(ram: &Ram) {
    let bytes = ram.pages() * xen::PAGE_SIZE;
    // SAFETY: the memory was handed over for good, and nothing else uses it; the
    // only caller is the bring-up, once.
    unsafe { HEAP.lock().init(ram.base().as_ptr(), bytes) };
}

/// Bytes in use, and in all.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.used(), heap.size())
}
