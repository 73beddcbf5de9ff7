//! The device's DMA, through the IOMMU.

use std::ops::Range;

use xen::fake::IommuFault;

use super::Device;

/// What our RAM is lent in.
const BLOCK: u64 = 256;
/// How many faults Xen looks on (NETBACK-SPEC H-13).
const STRIKES: u32 = 10;

impl Device {
    /// Has the device be wrong in these ranges of our RAM, instead of those named
    /// before: they are not lent to it.
    pub fn keep_out(&self, ranges: impl Iterator<Item = Range<u64>>) {
        let mut blocks = self.out_of_bounds.borrow_mut();
        blocks.fill(false);
        for range in ranges {
            let [start, end] = [range.start, range.end].map(|address| (address / BLOCK) as usize);
            let len = blocks.len().max(end);
            blocks.resize(len, false);
            blocks[start..end].fill(true);
        }
    }

    pub(super) fn read_memory(&self, address: u64, into: &mut [u8]) {
        if self.may_reach(address) {
            self.contain(self.xen.device_read(address, into));
        }
    }

    pub(super) fn write_memory(&self, address: u64, from: &[u8]) {
        if self.may_reach(address) {
            self.contain(self.xen.device_write(address, from));
        }
    }

    fn may_reach(&self, address: u64) -> bool {
        let block = usize::try_from(address / BLOCK).unwrap_or(usize::MAX);
        let kept = self.out_of_bounds.borrow().get(block).is_some_and(|kept| *kept);
        self.must(!kept, "DMA to what is not lent");
        self.masters()
    }

    /// A device that keeps to what it is told has no faults, or its driver told it too
    /// much (O-10). One that lied has them counted.
    fn contain(&self, access: Result<(), IommuFault>) {
        let Err(fault) = access else { return };
        self.must(false, &format!("{fault:?}"));
        self.strikes.set(self.strikes.get() + 1);
        if self.strikes.get() == STRIKES {
            self.strikes.set(0);
            self.lose_mastering();
        }
    }

    /// A rule of the driver's, which no longer binds it once the device has lied.
    pub(super) fn must(&self, holds: bool, rule: &str) {
        assert!(holds || self.has_lied(), "{rule}");
    }
}
