//! Pages of our own RAM that a device writes while we read: descriptor rings.

use xen::{LocalRegion, PAGE_SIZE, SharedPage};

use super::buffers::Ram;

/// A page for a device's descriptors: reached like any memory that somebody else
/// writes, by value.
#[derive(Debug)]
pub struct DmaPage {
    /// Our view of it.
    pub page: SharedPage,
    region: LocalRegion,
}

impl DmaPage {
    /// The address the device uses.
    pub const fn dma_address(&self) -> u64 {
        self.region.dma_address()
    }
}

/// Pages set aside for devices at start.
#[derive(Debug)]
pub struct DmaPages {
    ram: Ram,
}

impl DmaPages {
    /// Sets `ram` aside.
    pub const fn new(ram: Ram) -> Self {
        Self { ram }
    }

    /// Takes a zeroed page for good; `None` when there is none left.
    pub fn take(&mut self) -> Option<DmaPage> {
        let run = self.ram.split(1)?;
        // SAFETY: a whole page of RAM that `split` gave to us alone.
        unsafe { run.base().as_ptr().write_bytes(0, PAGE_SIZE) };
        // SAFETY: the page is ours for good, and only this value reaches it.
        let page = unsafe { SharedPage::new(run.base()) };
        let region = LocalRegion::new(run.first(), 0, PAGE_SIZE)?;
        Some(DmaPage { page, region })
    }
}
