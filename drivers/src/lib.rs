//! What the domain drives: netback, PCI, NICs.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;
pub mod fabric;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod lldp;
mod log_budget;
pub mod netback;
pub mod network;
pub mod nic;
pub mod pci;
pub mod report;
pub mod turn;
