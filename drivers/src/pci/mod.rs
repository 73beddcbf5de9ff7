//! PCI, as far as finding and setting up a NIC needs it.
//!
//! Behind xen-pt configuration space is the device model's: its answers are
//! checked, every walk through it is bounded, and what was written is read back.
//! Crates for PCI exist; those looked at follow capability chains without end, size
//! BARs while the device decodes them, or want `unsafe` of whoever implements the
//! access.

mod bar;
mod enumerate;
mod function;
mod msix;

use core::fmt;

pub use bar::{Bar, BarError, Region, WINDOW, assign};
pub use enumerate::{Found, find};
pub use function::{Command, Function, Identity};
pub use msix::{Message, Msix, MsixError};

/// Where a function is: bus, device (0 to 31), function (0 to 7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// Names a function; `device` and `function` are taken modulo their ranges.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self { bus, device: device & 0x1f, function: function & 7 }
    }

    /// The address of a register as configuration mechanism 1 wants it, without
    /// the enable bit.
    pub const fn register(self, register: u8) -> u32 {
        (self.bus as u32) << 16
            | (self.device as u32) << 11
            | (self.function as u32) << 8
            | (register & !3) as u32
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// Configuration space, the first 256 bytes of each function: what mechanism 1
/// reaches. Registers are whole words, their offsets multiples of 4. A function that
/// is not there reads as ones.
pub trait ConfigSpace {
    /// Reads a register.
    fn read(&self, address: Address, register: u8) -> u32;

    /// Writes a register.
    fn write(&self, address: Address, register: u8, value: u32);
}

impl<T: ConfigSpace + ?Sized> ConfigSpace for &T {
    fn read(&self, address: Address, register: u8) -> u32 {
        (**self).read(address, register)
    }

    fn write(&self, address: Address, register: u8, value: u32) {
        (**self).write(address, register, value);
    }
}
