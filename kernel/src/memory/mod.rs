//! The domain's memory, by use: buffers for packets, pages shared with devices,
//! places for guests' pages, device registers.

mod buffers;
mod copy;
mod registers;
mod shared;

pub use buffers::{Buffer, Buffers, Ram, Size};
pub use copy::CopyBatch;
pub use registers::{Mmio, Registers};
pub use shared::{DmaPage, DmaPages};
