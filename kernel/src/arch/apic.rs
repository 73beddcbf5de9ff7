//! The local APIC: on, and the end of an interrupt.
//!
//! In x2APIC mode where the processor has it (Xen emulates it for every domain
//! unless told otherwise), since there the end of an interrupt is one MSR write;
//! else through its page.

use core::arch::x86_64::__cpuid;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::registers::model_specific::Msr;

use super::paging;

const BASE: Msr = Msr::new(0x1b);
const ENABLE: u64 = 1 << 11;
const ENABLE_X2APIC: u64 = 1 << 10;
/// Registers by their offset in the page; their MSR is 0x800 + offset / 16.
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
/// Software enable, in the spurious vector's register.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Where the page is after reset, and stays.
const PAGE: u64 = 0xfee0_0000;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// Turns the local APIC on, with `spurious` for interrupts it takes back, and
/// returns its number.
pub fn enable(spurious: u8) -> u32 {
    let mut base = BASE;
    // SAFETY: reading the register has no effect.
    let now = unsafe { base.read() };
    // SAFETY: turning the APIC on raises nothing: its vectors are masked.
    unsafe { base.write(now | ENABLE) };
    // CPUID leaf 1, ECX bit 21 (Intel SDM vol. 3, 11.12.1).
    if __cpuid(1).ecx & 1 << 21 != 0 {
        // SAFETY: x2APIC is there, and entered from the enabled state as it must be.
        unsafe { base.write(now | ENABLE | ENABLE_X2APIC) };
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        paging::set_uncached_page(PAGE);
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(spurious));
    let id = read(ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

/// Ends the interrupt in service; without one it does nothing.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

fn read(offset: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: an x2APIC register.
        unsafe { Msr::new(0x800 + offset / 16).read() as u32 }
    } else {
        let register = ptr::with_exposed_provenance::<u32>((PAGE + u64::from(offset)) as usize);
        // SAFETY: the APIC's page is identity mapped, uncached.
        unsafe { register.read_volatile() }
    }
}

fn write(offset: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: an x2APIC register; the values we write touch no memory.
        unsafe { Msr::new(0x800 + offset / 16).write(value.into()) };
    } else {
        let register = ptr::with_exposed_provenance_mut::<u32>((PAGE + u64::from(offset)) as usize);
        // SAFETY: the APIC's page is identity mapped, uncached.
        unsafe { register.write_volatile(value) };
    }
}
