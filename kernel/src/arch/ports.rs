//! I/O ports: PCI's configuration space, and the device model's fw_cfg.

use core::arch::asm;

use x86_64::instructions::port::Port;

const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
const FW_CFG_SELECTOR: u16 = 0x510;
const FW_CFG_DATA: u16 = 0x511;

/// PCI's configuration mechanism 1. There is one, and one value for it.
#[derive(Debug)]
pub struct ConfigPorts(());

impl ConfigPorts {
    /// Takes the mechanism.
    ///
    /// # Safety
    /// Called once: an access is two port accesses that must not mix with others.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Reads the word at `address` (bus, device, function, register, as the
    /// mechanism wants them).
    pub fn read(&self, address: u32) -> u32 {
        let mut select = Port::new(PCI_ADDRESS);
        let mut data = Port::new(PCI_DATA);
        // SAFETY: bit 31 makes it a configuration cycle; no memory is touched.
        unsafe { select.write(address | 1 << 31) };
        // SAFETY: reading configuration space has no effect on memory.
        unsafe { data.read() }
    }

    /// Writes the word at `address`.
    ///
    /// # Safety
    /// The write moves no device's memory over ours and starts no DMA into memory
    /// that is not the device's.
    pub unsafe fn write(&self, address: u32, value: u32) {
        let mut select = Port::new(PCI_ADDRESS);
        let mut data = Port::new(PCI_DATA);
        // SAFETY: as in `read`.
        unsafe { select.write(address | 1 << 31) };
        // SAFETY: the caller's contract.
        unsafe { data.write(value) };
    }
}

/// An item of the device model's fw_cfg, read from its start.
#[derive(Debug)]
pub struct FwCfg(());

impl FwCfg {
    /// Selects `item`. Without such a device it reads ones.
    pub fn select(item: u16) -> Self {
        // SAFETY: selects what is read next, and nothing else.
        unsafe { Port::new(FW_CFG_SELECTOR).write(item) };
        Self(())
    }

    /// Reads the next bytes, many by one exit to the device model.
    pub fn read(&mut self, into: &mut [u8]) {
        // SAFETY: the instruction writes `into`'s bytes, in ascending order as the
        // direction flag is clear by the ABI.
        unsafe {
            asm!("rep insb", in("dx") FW_CFG_DATA, inout("rdi") into.as_mut_ptr() => _,
                inout("rcx") into.len() => _, options(nostack, preserves_flags));
        }
    }

    /// Passes over the next `count` bytes.
    pub fn skip(&mut self, count: usize) {
        let mut discarded = [0; 4096];
        let mut left = count;
        while left > 0 {
            let step = left.min(discarded.len());
            self.read(&mut discarded[..step]);
            left -= step;
        }
    }
}
