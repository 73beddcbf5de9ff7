//! Causeway's image: how the domain comes up, and its event loop.

#![no_std]
#![no_main]

extern crate alloc;

mod bring_up;
mod config;
mod domain;
mod entry;
mod nic;
mod rest;
mod secondary;
mod start_info;

use core::panic::PanicInfo;

use kernel::arch::cpu;
use kernel::console;
use xen::hypercall::{self, Shutdown};

use crate::domain::Domain;

/// The first Rust code, from [`entry`], with the start info's address.
extern "C" fn entry(start_info: u32) -> ! {
    let entered = cpu::timestamp();
    match bring_up::bring_up(start_info, entered) {
        Ok(platform) => Domain::new(platform).run(),
        Err(error) => panic!("cannot start: {error}"),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => console::last_words(format_args!("panic at {place}: {}", info.message())),
        None => console::last_words(format_args!("panic: {}", info.message())),
    }
    hypercall::shutdown(Shutdown::Crash)
}
