//! The domain's memory, by use: buffers for packets, pages shared with devices,
//! places for guests' pages, device registers.

use alloc::vec::Vec;
use core::hint;

mod buffers;
mod copy;
#[cfg(target_os = "none")]
pub mod heap;
mod layout;
mod mapped;
mod registers;
mod shared;
#[cfg(test)]
pub(crate) mod testing;
mod window;

pub use buffers::{Buffer, Buffers, Ram, Size};
pub use copy::CopyBatch;
pub use layout::{DEVICES, Layout, LayoutError};
pub(crate) use mapped::map;
pub use mapped::{MapError, MappedPage};
pub use registers::{Mmio, Registers};
pub use shared::{DmaPage, DmaPages};
pub use window::Window;

/// Whether the heap has so many bytes in one piece. To be asked before what is not
/// needed at any price: an allocation that fails is the domain's end.
pub fn heap_has(bytes: usize) -> bool {
    let mut piece = Vec::<u8>::new();
    let room = piece.try_reserve_exact(bytes).is_ok();
    // Else the compiler may leave the allocation out, and say that it succeeded.
    hint::black_box(&mut piece);
    room
}
