//! Where the words of `extra=` are found.

use core::ptr;

use kernel::arch::ports::FwCfg;
use kernel::command_line::{CommandLine, LONGEST};

/// Items of fw_cfg: what the device model keeps of `kernel=` and `extra=`, as the
/// multiboot information and the memory that it points into.
const SIGNATURE: u16 = 0x00;
const KERNEL_ADDRESS: u16 = 0x07;
const KERNEL_DATA: u16 = 0x11;
const MULTIBOOT_INFORMATION: u16 = 0x12;
/// Where the information's flags and its command line's address are, and the flag
/// that it has one (Multiboot specification 0.6.96, 3.3).
const FLAGS: usize = 0;
const COMMAND_LINE: usize = 16;
const HAS_COMMAND_LINE: u32 = 1 << 2;
/// The most bytes in front of the command line: the image and its page.
const FARTHEST: u32 = 16 << 20;
/// The command line that the domain builder left at an address of the start info;
/// there is one in a PVH domain.
///
/// # Safety
/// The address is zero, or the builder's, in identity-mapped memory that nothing
/// uses yet.
pub unsafe fn of_start_info(address: u64) -> Option<CommandLine> {
    if address == 0 {
        return None;
    }
    // SAFETY: the caller's contract; what lies behind the string is memory as well.
    Some(CommandLine::new(unsafe { ptr::read(ptr::with_exposed_provenance(address as usize)) }))
}

/// The command line that the device model keeps, where the configuration names our
/// image as `kernel=` beside `firmware=`.
pub fn of_device_model() -> Option<CommandLine> {
    if &read::<4>(SIGNATURE) != b"QEMU" {
        return None;
    }
    let information = read::<{ COMMAND_LINE + 4 }>(MULTIBOOT_INFORMATION);
    let base = u32::from_le_bytes(read(KERNEL_ADDRESS));
    let word = |at: usize| {
        let bytes = information.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    if word(FLAGS)? & HAS_COMMAND_LINE == 0 {
        return None;
    }
    let offset = word(COMMAND_LINE)?.checked_sub(base).filter(|offset| *offset < FARTHEST)?;
    let mut data = FwCfg::select(KERNEL_DATA);
    data.skip(offset as usize);
    let mut bytes = [0; LONGEST];
    data.read(&mut bytes);
    Some(CommandLine::new(bytes))
}

fn read<const LEN: usize>(item: u16) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    FwCfg::select(item).read(&mut bytes);
    bytes
}
