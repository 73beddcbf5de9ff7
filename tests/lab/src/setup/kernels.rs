//! Xen and Linux as the emulator and the toolstack load them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{decompress, find};

/// How this piece is made.
pub(super) const RECIPE: &[u8] = include_bytes!("kernels.rs");

/// Xen and Linux as plain ELF files, and Linux as it is distributed. QEMU boots Xen as
/// nothing else; for Linux it saves each boot a decompression under emulation, which takes
/// seconds.
pub(super) fn build(tree: &Path, dir: &Path) -> Result<()> {
    let boot = tree.join("boot");
    decompress("gzip", &find(&boot, "xen-4.20-", ".gz")?, &dir.join("xen"))?;
    let image = fs::read(find(&boot, "vmlinuz-", "")?)?;
    let packed = dir.join("vmlinux.zst");
    fs::write(&packed, bzimage_payload(&image).context("the kernel is not a bzImage")?)?;
    decompress("zstd", &packed, &dir.join("vmlinux"))?;
    fs::remove_file(packed)?;
    Ok(fs::write(dir.join("vmlinuz"), image)?)
}

/// The compressed kernel in a bzImage, by the fields of the x86 boot protocol.
fn bzimage_payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1F1;
    const SIGNATURE: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24C;
    /// Behind the payload proper; counted in its length.
    const UNPACKED_SIZE: usize = 4;

    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    if image.get(SIGNATURE..SIGNATURE + 4)? != b"HdrS" {
        return None;
    }
    let protected_mode = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512;
    let start = protected_mode.checked_add(word(PAYLOAD_OFFSET)?)?;
    let length = word(PAYLOAD_LENGTH)?.checked_sub(UNPACKED_SIZE)?;
    image.get(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_behind_the_setup_sectors() {
        let mut image = vec![0; 2048];
        image[0x1F1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24C] = 7;
        image[1040..1047].copy_from_slice(b"abcSIZE");
        assert_eq!(bzimage_payload(&image), Some(&b"abc"[..]));
        assert_eq!(bzimage_payload(&image[..1041]), None);
        image[0x24C] = 3;
        assert_eq!(bzimage_payload(&image), None);
        assert_eq!(bzimage_payload(b""), None);
    }
}
