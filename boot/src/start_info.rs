//! What the domain builder left for us: the PVH start info (start_info.h).

use core::mem::size_of;
use core::ptr;

use kernel::command_line::LONGEST;
use xen::bindings::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};

/// The start info, and how far it and all it points at reach. It lies just above
/// the image in memory that no map marks as reserved, so this is where free memory
/// begins.
pub struct StartInfo {
    /// The first address above all of it.
    pub end: u64,
    /// Where the command line is; zero if there is none.
    pub command_line: u64,
}

impl StartInfo {
    /// Reads the start info at `address`; `None` if there is none.
    pub fn read(address: u32) -> Option<Self> {
        let address = u64::from(address);
        // SAFETY: the boot protocol's register points here, in identity-mapped
        // memory below 4 GiB.
        let info: hvm_start_info = unsafe { read(address) };
        if info.magic != XEN_HVM_START_MAGIC_VALUE {
            return None;
        }
        let mut end = address + size_of::<hvm_start_info>() as u64;
        let mut reach = |start: u64, size: u64| {
            // Address 0 stands for "not there", as the builder's empty module does.
            if start != 0 {
                end = end.max(start.saturating_add(size));
            }
        };
        reach(info.cmdline_paddr, LONGEST as u64);
        let modules = u64::from(info.nr_modules);
        reach(info.modlist_paddr, modules * size_of::<hvm_modlist_entry>() as u64);
        if info.version >= 1 {
            let entries = u64::from(info.memmap_entries);
            reach(info.memmap_paddr, entries * size_of::<hvm_memmap_table_entry>() as u64);
        }
        for index in 0..modules {
            let at = info.modlist_paddr + index * size_of::<hvm_modlist_entry>() as u64;
            // SAFETY: the builder's list, in identity-mapped memory.
            let module: hvm_modlist_entry = unsafe { read(at) };
            reach(module.paddr, module.size);
            reach(module.cmdline_paddr, LONGEST as u64);
        }
        Some(Self { end, command_line: info.cmdline_paddr })
    }
}

/// # Safety
/// A `T` lies at `address`, in identity-mapped memory.
unsafe fn read<T>(address: u64) -> T {
    // SAFETY: the caller's contract.
    unsafe { ptr::read_unaligned(ptr::with_exposed_provenance(address as usize)) }
}
