//! Causeway's image: how the domain comes up, and hands over to its event loop.

#![no_std]
#![no_main]

mod bring_up;
mod entry;
mod start_info;

use core::panic::PanicInfo;

use kernel::arch::cpu;
use kernel::{console, events};
use xen::hypercall::{self, Shutdown};

/// The first Rust code, from [`entry`], with the start info's address.
extern "C" fn entry(start_info: u32) -> ! {
    let entered = cpu::timestamp();
    let domain = match bring_up::bring_up(start_info) {
        Ok(domain) => domain,
        Err(error) => panic!("cannot start: {error}"),
    };
    log::info!(
        "causeway {} ready after {} us: {} MiB",
        env!("CARGO_PKG_VERSION"),
        domain.clock.now().since(domain.clock.at(entered)).as_micros(),
        domain.memory >> 20,
    );
    loop {
        events::take_ports(|port| {
            if port == domain.ports.console {
                console::flush();
            }
        });
        cpu::sleep_unless(events::any);
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
