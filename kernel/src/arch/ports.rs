//! I/O ports: PCI's configuration space, and the device model's fw_cfg.

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

/// Reads an item of the device model's fw_cfg into `into`. Without such a device
/// it reads ones.
pub fn read_fw_cfg(item: u16, into: &mut [u8]) {
    let mut select = Port::new(FW_CFG_SELECTOR);
    let mut data = Port::<u8>::new(FW_CFG_DATA);
    // SAFETY: selects what is read next, and nothing else.
    unsafe { select.write(item) };
    for byte in into {
        // SAFETY: reading moves the device's own position alone.
        *byte = unsafe { data.read() };
    }
}
