//! Time, as Xen tells it: a record in the shared information page that relates
//! the processor's time stamp counter to the nanoseconds since the host started.

use core::arch::x86_64::_rdtsc;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::Instant;
use crate::bindings::{vcpu_info, vcpu_time_info};
use crate::event::vcpu_offset;

/// The clock of a vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The `vcpu_time_info` that Xen keeps up to date.
    record: NonNull<u8>,
}

// SAFETY: every access to the record is an atomic load.
unsafe impl Send for Clock {}
// SAFETY: as above.
unsafe impl Sync for Clock {}

/// One consistent reading of the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    tsc: u64,
    nanoseconds: u64,
    multiplier: u32,
    shift: i8,
}

impl Clock {
    /// Reads a vCPU's time from the shared information page; `None` where that has no record
    /// of it.
    ///
    /// # Safety
    /// The page stays mapped for ever.
    pub unsafe fn new(base: NonNull<u8>, vcpu: u32) -> Option<Self> {
        let offset = vcpu_offset(vcpu)? + offset_of!(vcpu_info, time);
        // SAFETY: inside the page.
        Some(Self { record: unsafe { base.add(offset) } })
    }

    /// The time since the host started.
    pub fn now(&self) -> Instant {
        let (reading, tsc) = self.read();
        reading.at(tsc)
    }

    /// When the time stamp counter was `tsc`.
    pub fn at(&self, tsc: u64) -> Instant {
        let (reading, _) = self.read();
        reading.at(tsc)
    }

    /// Reads the record and the counter until Xen did not change the former
    /// meanwhile: its version is odd during a change (xen.h).
    fn read(&self) -> (Reading, u64) {
        loop {
            let version = self.word(offset_of!(vcpu_time_info, version));
            fence(Ordering::Acquire);
            let reading = Reading {
                tsc: self.long(offset_of!(vcpu_time_info, tsc_timestamp)),
                nanoseconds: self.long(offset_of!(vcpu_time_info, system_time)),
                multiplier: self.word(offset_of!(vcpu_time_info, tsc_to_system_mul)),
                shift: self.word(offset_of!(vcpu_time_info, tsc_shift)) as i8,
            };
            // SAFETY: reading the counter has no precondition.
            let tsc = unsafe { _rdtsc() };
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && version == self.word(0) {
                return (reading, tsc);
            }
        }
    }

    fn word(&self, offset: usize) -> u32 {
        // SAFETY: inside the record, which is aligned to 8 bytes.
        let word = unsafe { self.record.add(offset) };
        // SAFETY: the page stays mapped (the contract of `new`); Xen writes it.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }.load(Ordering::Relaxed)
    }

    fn long(&self, offset: usize) -> u64 {
        // SAFETY: inside the record, which is aligned to 8 bytes.
        let long = unsafe { self.record.add(offset) };
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(long.as_ptr().cast()) }.load(Ordering::Relaxed)
    }
}

impl Reading {
    fn at(self, tsc: u64) -> Instant {
        // Signed: the counter may have been read before the record was written.
        let passed = i128::from(tsc.wrapping_sub(self.tsc).cast_signed());
        let scaled =
            if self.shift < 0 { passed >> -i32::from(self.shift) } else { passed << self.shift };
        let nanoseconds = (scaled * i128::from(self.multiplier)) >> 32;
        Instant(self.nanoseconds.wrapping_add_signed(nanoseconds as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_become_nanoseconds() {
        // 2 GHz: half a nanosecond a cycle.
        let reading = Reading { tsc: 1_000, nanoseconds: 5_000, multiplier: 1 << 31, shift: 0 };
        assert_eq!(reading.at(3_000), Instant(6_000));
        let shifted = Reading { shift: 1, multiplier: 1 << 30, ..reading };
        assert_eq!(shifted.at(3_000), Instant(6_000));
        let narrowed = Reading { shift: -1, multiplier: u32::MAX, ..reading };
        assert_eq!(narrowed.at(3_000), Instant(5_999));
        assert_eq!(reading.at(900), Instant(4_950), "before the record");
        let long = reading.at(1_000 + 2_000_000_000 * 86_400 * 365);
        assert_eq!(long, Instant(5_000 + 1_000_000_000 * 86_400 * 365));
    }
}
