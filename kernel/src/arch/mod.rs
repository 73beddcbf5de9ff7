//! The processor: interrupts, page tables, ports. The one place, with
//! [`memory`](crate::memory), where `unsafe` stands.

pub mod apic;
pub mod cpu;
pub mod interrupts;
pub mod paging;
pub mod ports;
