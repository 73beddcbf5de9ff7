//! Memory that the driver and the modelled device both reach.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;

use kernel::memory::Ram;
use xen::fake::FakeXen;
use xen::{LocalFrame, PAGE_SIZE};

/// The frame number of the first page; not zero, so that no address is by chance.
const FIRST_FRAME: u64 = 0x1234;

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

/// RAM of the domain, by the addresses that devices use.
pub struct Memory {
    base: NonNull<u8>,
    pages: usize,
    /// Which blocks nobody has lent to the device.
    out_of_bounds: RefCell<Vec<bool>>,
    guarded: Cell<bool>,
    /// Where guests' pages are mapped.
    xen: FakeXen,
}

/// What memory is lent in.
const BLOCK: u64 = 256;

impl Memory {
    /// Makes memory of these numbers of pages, and the right to each.
    pub fn new<const N: usize>(xen: FakeXen, pages: [usize; N]) -> (Self, [Ram; N]) {
        let total = pages.iter().sum();
        let memory = Box::leak(vec![Page([0xa5; PAGE_SIZE]); total].into_boxed_slice());
        let base = NonNull::from(memory).cast();
        // SAFETY: the frame numbers are only names here.
        let first = unsafe { LocalFrame::new(FIRST_FRAME) };
        // SAFETY: leaked just now, and aligned.
        let mut all = unsafe { Ram::new(base, first, total) };
        let cut = pages.map(|pages| all.split(pages).unwrap());
        let out_of_bounds = RefCell::new(vec![false; total * PAGE_SIZE / BLOCK as usize]);
        (Self { base, pages: total, out_of_bounds, guarded: Cell::new(true), xen }, cut)
    }

    /// Has the device fault in these ranges and wherever nothing is mapped; or in no
    /// place any more.
    pub fn guard(&self, ranges: Option<impl Iterator<Item = Range<u64>>>) {
        let mut blocks = self.out_of_bounds.borrow_mut();
        blocks.fill(false);
        self.guarded.set(ranges.is_some());
        for range in ranges.into_iter().flatten() {
            let block = |address| ((address - FIRST_FRAME * PAGE_SIZE as u64) / BLOCK) as usize;
            blocks[block(range.start)..block(range.end)].fill(true);
        }
    }

    /// Reads as a device does.
    pub fn read(&self, address: u64, into: &mut [u8]) {
        if address >= FIRST_FRAME * PAGE_SIZE as u64 + (self.pages * PAGE_SIZE) as u64 {
            let read = self.xen.device_read(address, into);
            return assert!(read.is_ok() || !self.guarded.get(), "{read:?}");
        }
        for (address, byte) in (address..).zip(into) {
            // SAFETY: in the memory; volatile, for the driver has it too.
            *byte = unsafe { self.at(address).read_volatile() };
        }
    }

    /// Writes as a device does.
    pub fn write(&self, address: u64, from: &[u8]) {
        for (address, byte) in (address..).zip(from) {
            // SAFETY: as in `read`.
            unsafe { self.at(address).write_volatile(*byte) };
        }
    }

    fn at(&self, address: u64) -> NonNull<u8> {
        let offset = address.wrapping_sub(FIRST_FRAME * PAGE_SIZE as u64);
        assert!(offset < (self.pages * PAGE_SIZE) as u64, "DMA to {address:#x}: IOMMU fault");
        let block = (offset / BLOCK) as usize;
        let lent = !self.out_of_bounds.borrow()[block];
        assert!(lent, "DMA to {address:#x}, which is not lent: IOMMU fault");
        // SAFETY: inside, as just checked.
        unsafe { self.base.add(offset as usize) }
    }
}
