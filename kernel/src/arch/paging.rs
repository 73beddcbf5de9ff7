//! Page tables: the identity map of the first 4 GiB that the entry code made, and
//! the few changes to it.

use alloc::boxed::Box;
use core::arch::x86_64::__cpuid;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::control::Cr3;

const HUGE_PAGE: u64 = 2 << 20;
/// In an entry for 2 MiB or 1 GiB: that is a page, not a table of smaller ones.
const HUGE: u64 = 1 << 7;
/// Where an entry says the page or the table is.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits of an entry (Intel SDM vol. 3, table 4-18): write-through and cache
/// disable select type 3 of the PAT's reset value, uncached.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
/// What everything is but the image: data.
const DATA: u64 = PRESENT | WRITABLE | NO_EXECUTE;

/// The end of what is mapped.
const MAPPED_END: u64 = 4 << 30;

/// What an entry of the root covers: the second one's addresses begin here.
const ROOT_ENTRY: u64 = 512 << 30;
/// Where CPUID leaf 0x80000001 says in edx that there are pages of 1 GiB.
const GIB_PAGES: u32 = 1 << 26;

// The processor reads the tables while we write them: their entries are atomics.
unsafe extern "C" {
    /// The root of the tables.
    safe static page_root: [AtomicU64; 512];
    /// The 2048 entries of 2 MiB each, made by the entry code.
    safe static page_directories: [AtomicU64; 2048];
    // Addresses alone, from the linker script and the entry code.
    static image_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static stack_guard: u8;
}

/// Splits a huge page.
#[repr(align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Takes the place of the huge page at `index`, each page of which gets the flags
    /// that `flags` gives for its address.
    fn split(&self, index: u64, flags: impl Fn(u64) -> u64) {
        for (page, entry) in (index * HUGE_PAGE..).step_by(4096).zip(&self.0) {
            entry.store(page | flags(page), Ordering::Relaxed);
        }
        // Identity mapped: the table's address is where the processor finds it.
        let table = (&raw const *self).expose_provenance() as u64;
        page_directories[index as usize].store(table | PRESENT | WRITABLE, Ordering::Relaxed);
        flush();
    }
}

/// Of the huge page that holds the image.
static IMAGE_TABLE: Table = Table::new();
/// Of the one that devices and RAM share.
static APIC_TABLE: Table = Table::new();

/// Where the page of 1 GiB is.
static GIB_TABLE: Table = Table::new();

/// Has code not written, nothing else executed, and the stack end where its memory
/// does: an overflow is a fault, not a change of what lies below.
pub fn protect_image() {
    let at = |symbol: *const u8| symbol.expose_provenance() as u64;
    let (code, constants) = (at(&raw const image_start), at(&raw const rodata_start));
    let (data, guard) = (at(&raw const data_start), at(&raw const stack_guard));
    // The linker script sees that one huge page holds all of it. At no moment is the
    // code that runs not executable.
    let image = code / HUGE_PAGE;
    IMAGE_TABLE.split(image, |page| match page {
        page if page == guard => 0,
        page if (code..constants).contains(&page) => PRESENT,
        page if (constants..data).contains(&page) => PRESENT | NO_EXECUTE,
        _ => DATA,
    });
    for (_, entry) in (0..).zip(&page_directories).filter(|(index, _)| *index != image) {
        entry.fetch_or(NO_EXECUTE, Ordering::Relaxed);
    }
    flush();
}

/// Maps the first GiB once more, as data in one page: where that is, if the processor has
/// pages of this size. Fewer tables lead there than to any other address, for Xen, which
/// reads them in software. Nobody here uses these addresses: the image can be written there.
pub fn map_first_gib_again() -> Option<u64> {
    if __cpuid(0x8000_0001).edx & GIB_PAGES == 0 {
        return None;
    }
    let [gib, ..] = &GIB_TABLE.0;
    gib.store(DATA | HUGE, Ordering::Relaxed);
    // Identity mapped: the table's address is where the processor finds it.
    let table = (&raw const GIB_TABLE).expose_provenance() as u64;
    page_root[1].store(table | PRESENT | WRITABLE, Ordering::Relaxed);
    flush();
    Some(ROOT_ENTRY)
}

/// Takes the page at `address` off the map, so that touching it is a fault: the end of a
/// stack. Allocates a table where its huge page was whole.
pub fn unmap(address: u64) {
    let entry = &page_directories[(address / HUGE_PAGE) as usize];
    let flags = entry.load(Ordering::Relaxed) & !ADDRESS;
    if flags & HUGE != 0 {
        let table: &'static Table = Box::leak(Box::new(Table::new()));
        table.split(address / HUGE_PAGE, |_| flags & !HUGE);
    }
    let table = (entry.load(Ordering::Relaxed) & ADDRESS) as usize;
    // SAFETY: a table that `split` put there, identity mapped, for good.
    let table = unsafe { &*ptr::with_exposed_provenance::<Table>(table) };
    table.0[(address % HUGE_PAGE / 4096) as usize].store(0, Ordering::Relaxed);
    flush();
}

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
    APIC_TABLE.split(address / HUGE_PAGE, |page| DATA | if page == address { UNCACHED } else { 0 });
}

fn flush() {
    let (root, flags) = Cr3::read();
    // SAFETY: the same root; only stale translations go.
    unsafe { Cr3::write(root, flags) };
}
