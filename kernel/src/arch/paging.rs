//! Page tables: the identity map of the first 4 GiB that the entry code made, and
//! the few changes to it.

use core::ptr;

use x86_64::registers::control::Cr3;

const HUGE_PAGE: u64 = 2 << 20;
/// Bits of an entry (Intel SDM vol. 3, table 4-18): write-through and cache
/// disable select type 3 of the PAT's reset value, uncached.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const PRESENT_WRITABLE: u64 = 0x3;
const PAGE_SIZE_BIT: u64 = 1 << 7;

/// The end of what is mapped.
const MAPPED_END: u64 = 4 << 30;

unsafe extern "C" {
    /// The 2048 entries of 2 MiB each, made by the entry code.
    static mut page_directories: [u64; 2048];
}

/// Splits the one huge page that devices and RAM share.
#[repr(align(4096))]
struct Table([u64; 512]);

static mut APIC_TABLE: Table = Table([0; 512]);

/// Makes a range of whole 2 MiB pages uncached: device memory.
pub fn set_uncached(start: u64, end: u64) {
    for index in start / HUGE_PAGE..end.div_ceil(HUGE_PAGE).min(MAPPED_END / HUGE_PAGE) {
        // SAFETY: the index is inside the table, which only this module writes;
        // its memory type is all that changes.
        unsafe { *(&raw mut page_directories).cast::<u64>().add(index as usize) |= UNCACHED };
    }
    flush();
}

/// Makes the one 4 KiB page at `address` uncached, in a huge page that is RAM
/// elsewhere. There is room for one such page: the local APIC's.
pub fn set_uncached_page(address: u64) {
    let huge = address / HUGE_PAGE;
    let table = &raw mut APIC_TABLE;
    for index in 0..512 {
        let page = huge * HUGE_PAGE + index * 4096;
        let kind = if page == address { UNCACHED } else { 0 };
        // SAFETY: inside the table, which nothing uses yet.
        unsafe { (*table).0[index as usize] = page | PRESENT_WRITABLE | kind };
    }
    let entry = ptr::with_exposed_provenance::<Table>(table.expose_provenance()).addr() as u64;
    // SAFETY: the same pages as before, mapped by the table just filled.
    unsafe {
        *(&raw mut page_directories).cast::<u64>().add(huge as usize) =
            (entry | PRESENT_WRITABLE) & !PAGE_SIZE_BIT;
    }
    flush();
}

fn flush() {
    let (root, flags) = Cr3::read();
    // SAFETY: the same root; only stale translations go.
    unsafe { Cr3::write(root, flags) };
}
