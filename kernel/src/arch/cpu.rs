//! Processor state that the firmware would have set up.

use core::arch::x86_64::_rdtsc;
use core::ptr;

use x86_64::instructions::interrupts;
use x86_64::instructions::random::RdRand;
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::model_specific::{Efer, Msr};
use xen::hypercall::ControlRegisters;

/// IA32_MTRR_DEF_TYPE (Intel SDM vol. 3, 12.11.2.1).
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// MTRRs on, fixed ranges off, write-back everywhere.
const WRITE_BACK: u64 = 0x806;

/// Makes all memory write-back, as page tables then decide alone. With MTRRs off,
/// as an HVM domain starts, an Intel host runs a domain that has a device with all
/// of its memory uncached. Each effective change flushes the caches of every
/// processor of the host, so there is at most one.
pub fn enable_write_back() {
    let mut msr = Msr::new(MTRR_DEFAULT_TYPE);
    // SAFETY: the register is architectural; reading it has no effect.
    let now = unsafe { msr.read() };
    if now != WRITE_BACK {
        // SAFETY: write-back is right for RAM; devices' memory is uncached by our
        // page tables.
        unsafe { msr.write(WRITE_BACK) };
    }
}

/// Cycles for one read of the same word, the best of several tries; hundreds where
/// memory is uncached. Reading the counter may itself be an exit, so there are many
/// reads to each.
pub fn memory_read_cycles() -> u64 {
    const READS: u64 = 4096;
    let word = 0u64;
    let tries = (0..8).map(|_| {
        let start = timestamp();
        for _ in 0..READS {
            // SAFETY: a live local.
            unsafe { ptr::read_volatile(&raw const word) };
        }
        (timestamp() - start) / READS
    });
    tries.min().unwrap_or(0)
}

/// The time stamp counter.
pub fn timestamp() -> u64 {
    // SAFETY: reading the counter has no precondition.
    unsafe { _rdtsc() }
}

/// A number that nobody outside can guess: the processor's own, where it makes
/// such, stirred with the time stamp counter.
pub fn random() -> u64 {
    let own = RdRand::new().and_then(RdRand::get_u64).unwrap_or(0);
    // An odd multiplier spreads the counter's few unknown bits.
    own ^ timestamp().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The control registers of this processor, for another to begin with the same.
pub fn control_registers() -> ControlRegisters {
    let (root, flags) = Cr3::read_raw();
    ControlRegisters {
        cr0: Cr0::read_raw(),
        cr3: root.start_address().as_u64() | u64::from(flags),
        cr4: Cr4::read_raw(),
        efer: Efer::read_raw(),
    }
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    interrupts::enable();
}

/// Sleeps until an interrupt unless `busy` finds work. Interrupts are off while it
/// looks and come on together with the sleep, so none falls in between.
pub fn sleep_unless(busy: impl FnOnce() -> bool) {
    interrupts::disable();
    if busy() {
        interrupts::enable();
    } else {
        interrupts::enable_and_hlt();
    }
}
