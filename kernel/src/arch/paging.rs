//! Page tables: the identity map of the first 4 GiB that the entry code made, and
//! the few changes to it.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::control::Cr3;

const HUGE_PAGE: u64 = 2 << 20;
/// Bits of an entry (Intel SDM vol. 3, table 4-18): write-through and cache
/// disable select type 3 of the PAT's reset value, uncached.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const PRESENT_WRITABLE: u64 = 0x3;

/// The end of what is mapped.
const MAPPED_END: u64 = 4 << 30;

// The processor reads the tables while we write them: their entries are atomics.
unsafe extern "C" {
    /// The 2048 entries of 2 MiB each, made by the entry code.
    safe static page_directories: [AtomicU64; 2048];
}

/// Splits the one huge page that devices and RAM share.
#[repr(align(4096))]
struct Table([AtomicU64; 512]);

static APIC_TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

/// Makes a range of whole 2 MiB pages uncached: device memory.
pub fn set_uncached(start: u64, end: u64) {
    let pages = start / HUGE_PAGE..end.div_ceil(HUGE_PAGE).min(MAPPED_END / HUGE_PAGE);
    for index in pages {
        page_directories[index as usize].fetch_or(UNCACHED, Ordering::Relaxed);
    }
    flush();
}

/// Makes the one 4 KiB page at `address` uncached, in a huge page that is RAM
/// elsewhere. There is room for one such page: the local APIC's.
pub fn set_uncached_page(address: u64) {
    let huge = address / HUGE_PAGE;
    for (page, entry) in (huge * HUGE_PAGE..).step_by(4096).zip(&APIC_TABLE.0) {
        let kind = if page == address { UNCACHED } else { 0 };
        entry.store(page | PRESENT_WRITABLE | kind, Ordering::Relaxed);
    }
    // Identity mapped: the table's address is where the processor finds it.
    let table = (&raw const APIC_TABLE).expose_provenance() as u64;
    page_directories[huge as usize].store(table | PRESENT_WRITABLE, Ordering::Relaxed);
    flush();
}

fn flush() {
    let (root, flags) = Cr3::read();
    // SAFETY: the same root; only stale translations go.
    unsafe { Cr3::write(root, flags) };
}
