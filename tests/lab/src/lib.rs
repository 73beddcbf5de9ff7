//! The lab: real Xen in an emulator without hardware virtualisation, with
//! Causeway as its driver domain and stock Linux guests.
//!
//! - [`setup`] makes what a boot needs, from Debian's packages, and caches it.
//! - [`machine`] is one emulated machine; [`lab`] is Xen and dom0 on it.
//! - [`wire_peer`] is who is on the other end of the NIC's wire.
//! - [`client`] runs commands in dom0 and in guests, where an [`agent`] serves, by
//!   ways that are not the network under test.

pub mod agent;
pub mod bench;
pub mod client;
pub mod config;
pub mod evidence;
pub mod lab;
pub mod log;
pub mod machine;
pub mod observe;
pub mod places;
pub mod runner;
pub mod scenarios;
pub mod setup;
pub mod shell;
pub mod wire_peer;
pub mod world;
