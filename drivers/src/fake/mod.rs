//! A NIC in software, for tests of its driver and of all that is behind one: the device
//! with its configuration space, on the memory of the in-memory hypervisor. And what they
//! log.

mod config;
mod device;
pub mod journal;

pub use config::Model;
pub use device::{Bar, Device, Faults, MAC, OTHER, QUEUES, Sender};
