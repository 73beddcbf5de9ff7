//! The domain's memory, by use: buffers for packets, pages shared with devices,
//! places for guests' pages, device registers.

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
