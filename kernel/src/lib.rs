//! What the domain is: memory, lent pages, packets, the switch, the event loop.
//!
//! `unsafe` stands only in [`arch`] and [`memory`]; the rest is safe code that
//! builds and tests on the host.

#![cfg_attr(target_os = "none", no_std)]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub mod arch;
pub mod command_line;
#[cfg(target_os = "none")]
pub mod console;
pub mod defect;
pub mod events;
mod leak;
pub mod link;
#[allow(unsafe_code)]
pub mod memory;
pub mod packet;
pub mod pages;
mod pools;
pub mod switch;

pub use leak::leaked;
pub(crate) use pools::OWN_HEADERS;
pub use pools::{DmaRegion, DmaRegions, HEADROOM, Limits, MAX_PRIVATE_COPIES, Pools, Private};
