//! The lab: real Xen in an emulator without hardware virtualisation, with
//! Causeway as its driver domain and stock Linux guests.
//!
//! - [`setup`] makes what a boot needs, from Debian's packages, and caches it.
//! - [`machine`] is one emulated machine; [`lab`] is Xen and dom0 on it.
//! - [`client`] and [`serve`] are the two ends of [`protocol`], by which commands
//!   run in dom0 and in guests without the network under test.

pub mod client;
pub mod config;
pub mod lab;
pub mod log;
pub mod machine;
pub mod places;
pub mod protocol;
pub mod serve;
pub mod setup;
