//! Device registers.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// A device's 32-bit registers, by offset in bytes. A trait so that drivers run
/// against a model of their device on the host.
pub trait Registers {
    /// Reads a register; many have side effects.
    fn read(&self, offset: u32) -> u32;

    /// Writes a register.
    fn write(&self, offset: u32, value: u32);
}

/// Registers in memory space: a BAR, mapped uncached.
#[derive(Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: u32,
}

impl Mmio {
    /// Takes the `len` bytes of registers at `base`.
    ///
    /// # Safety
    /// The range is mapped uncached for as long as the value lives, aligned to 4
    /// bytes, and decoded by the device whose driver gets it.
    pub const unsafe fn new(base: NonNull<u8>, len: u32) -> Self {
        Self { base, len }
    }

    fn register(&self, offset: u32) -> NonNull<u32> {
        assert!(
            offset.is_multiple_of(4) && self.len >= 4 && offset <= self.len - 4,
            "register {offset:#x} in {:#x} bytes",
            self.len
        );
        // SAFETY: inside the range, as asserted.
        unsafe { self.base.add(offset as usize) }.cast()
    }
}

impl Registers for Mmio {
    fn read(&self, offset: u32) -> u32 {
        // SAFETY: mapped and aligned (the contract of `new`).
        let value = unsafe { self.register(offset).read_volatile() };
        // What the device wrote to memory before is looked at after.
        fence(Ordering::Acquire);
        value
    }

    fn write(&self, offset: u32, value: u32) {
        // What the device is to find in memory is there before.
        fence(Ordering::Release);
        // SAFETY: mapped and aligned (the contract of `new`).
        unsafe { self.register(offset).write_volatile(value) };
    }
}
