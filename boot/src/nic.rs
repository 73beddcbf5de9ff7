//! The NIC: found, given its addresses and interrupts, handed to its driver.

use core::ops::Range;
use core::ptr::{self, NonNull};

use drivers::nic::PoolBuffers;
use drivers::nic::e1000e::{self, E1000e, Messages};
use drivers::pci::{self, Address, ConfigSpace, Function, Identity, Message, Msix, Region};
use kernel::arch::interrupts::DEVICE_VECTOR;
use kernel::arch::paging;
use kernel::arch::ports::ConfigPorts;
use kernel::memory::{DEVICES, DmaPages, Mmio};

/// The one kind of NIC that is driven.
pub type Driver = E1000e<Mmio, Config, PoolBuffers>;

/// PCI configuration space through its ports.
#[derive(Debug)]
pub struct Config(ConfigPorts);

impl ConfigSpace for Config {
    fn read(&self, address: Address, register: u8) -> u32 {
        self.0.read(address.register(register))
    }

    fn write(&self, address: Address, register: u8, value: u32) {
        // SAFETY: `drivers::pci` puts BARs only where `assign` was told that
        // nothing else is, while decoding is off, and lets a device master the bus
        // only once its driver gave it addresses of its own buffers.
        unsafe { self.0.write(address.register(register), value) }
    }
}

/// Finds the first NIC that is driven and gives it its addresses, clear of
/// `reserved`; `lapic` takes its interrupts. Without one the domain switches
/// between guests alone.
pub fn find(reserved: &[Range<u64>], lapic: u32, pages: &mut DmaPages) -> Option<Driver> {
    // SAFETY: the only place that takes the mechanism, called once.
    let config = Config(unsafe { ConfigPorts::new() });
    let nic = pci::find(&config, |found| {
        let Identity { vendor, device, .. } = found.identity;
        let supported = e1000e::supports(&found.identity);
        if !supported && found.identity.is_ethernet() {
            log::warn!("NIC {}: no driver for {vendor:04x}:{device:04x}", found.address);
        }
        supported
    })?;
    let function = Function::new(config, nic.address);
    let regions = match pci::assign(&function, DEVICES, reserved) {
        Ok(regions) => regions,
        Err(error) => {
            log::error!("NIC {}: {error}", nic.address);
            return None;
        }
    };
    for region in &regions {
        paging::set_uncached(region.address, region.address + region.size);
    }
    let Some(registers) = registers(&regions, e1000e::REGISTERS_BAR) else {
        log::error!("NIC {}: no registers", nic.address);
        return None;
    };
    let messages = messages(&function, &regions, lapic);
    let (Some(receive), Some(transmit)) = (pages.take(), pages.take()) else {
        log::error!("NIC {}: no memory for its rings", nic.address);
        return None;
    };
    log::info!(
        "NIC {}: 82574 ({:04x}:{:04x})",
        nic.address,
        nic.identity.vendor,
        nic.identity.device
    );
    Some(E1000e::new(function, registers, messages, [receive, transmit], PoolBuffers))
}

fn messages(function: &Function<Config>, regions: &[Region], lapic: u32) -> Option<Messages<Mmio>> {
    let msix = match Msix::find(function, regions) {
        Ok(msix) => msix,
        Err(error) => {
            log::warn!("NIC {}: polled, {error}", function.address());
            return None;
        }
    };
    let table = registers(regions, msix.bar)?;
    let lapic = u8::try_from(lapic).ok()?;
    let queues = Message::new(DEVICE_VECTOR, lapic)?;
    let other = Message::new(DEVICE_VECTOR + 1, lapic)?;
    Some(Messages { msix, table, messages: [queues, other] })
}

/// The registers that a BAR decodes.
fn registers(regions: &[Region], bar: u8) -> Option<Mmio> {
    let region = regions.iter().find(|region| region.index == bar)?;
    let base = NonNull::new(ptr::with_exposed_provenance_mut(region.address as usize))?;
    let len = u32::try_from(region.size).ok()?;
    // SAFETY: the BAR was just put here, below 4 GiB and so mapped 1:1, and made
    // uncached; it stays for good.
    Some(unsafe { Mmio::new(base, len) })
}
