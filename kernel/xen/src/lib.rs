//! The hypervisor's interface.
//!
//! [`bindings`] are generated from Xen's public headers; over them stands one
//! module per facility. The rest of Causeway talks to Xen only through here, and
//! on the packet path only through [`Hypervisor`], so that the same code runs on
//! the in-memory hypervisor of feature `fake`.

#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod abi;
pub mod bindings;
pub mod console;
mod domain;
pub mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod fake_store;
pub mod frame;
pub mod grant;
pub mod hypercall;
mod hypervisor;
pub mod netif;
pub mod page;
pub mod ring;
pub mod store;
pub mod time;

pub use domain::DomainId;
pub use frame::{ForeignFrame, LocalFrame, LocalRegion};
pub use hypervisor::{Errno, Hypervisor, Instant};
pub use page::SharedPage;

/// Bytes in a page of Xen's interface, whatever the processor uses.
pub const PAGE_SIZE: usize = 4096;
