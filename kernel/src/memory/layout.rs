//! Which of the domain's physical addresses are used for what.

use core::fmt;
use core::ops::{Range, RangeInclusive};

use xen::PAGE_SIZE;
use xen::hypercall::MemoryRange;

/// Bytes of holes set aside for guests' pages, as the domain's memory allows: 2048
/// frames to 32,768. A domain's paging pool pays a page for each 2 MiB of it, and the
/// most are an eighth of the handles that Xen has for a domain by default (NETBACK-SPEC
/// H-7).
const WINDOW: RangeInclusive<u64> = 8 << 20..=128 << 20;
/// Bytes of heap: at least what the pools of the smallest domain and a few vifs take, at
/// most what those of the largest do.
const HEAP: RangeInclusive<u64> = 4 << 20..=64 << 20;
/// Bytes of heap for each packet that can be on its way: it takes less than half of that itself,
/// and what else there is grows with the memory as well.
const HEAP_PER_PACKET: u64 = 29 << 6;
/// What a huge page covers; the window takes whole ones, so that no page table is
/// shared between RAM and holes.
const HUGE_PAGE: u64 = 2 << 20;
/// Where devices' memory begins: the range in which BARs are assigned.
pub const DEVICES: Range<u64> = 0xf000_0000..0xfc00_0000;

/// Where what is. Addresses in bytes, page-aligned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// RAM that nothing uses yet.
    pub free: Range<u64>,
    /// The end of all RAM below 4 GiB.
    pub ram_end: u64,
    /// A hole for frames that are not ours: shared information, guests' pages.
    pub window: Range<u64>,
}

/// Why a memory map is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The image does not lie in RAM.
    NoRam,
    /// RAM leaves no hole below the devices' memory.
    NoHole,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRam => write!(f, "the memory map has no RAM where the image is"),
            Self::NoHole => write!(f, "no room below 3.75 GiB beside the RAM: set memory= lower"),
        }
    }
}

impl Layout {
    /// Lays out the memory of `map`, where everything below `used` in the image's
    /// range of RAM is taken.
    pub fn new(map: &[MemoryRange], used: u64) -> Result<Self, LayoutError> {
        let ranges = || {
            map.iter().map(|range| {
                let (base, size, kind) = (range.base, range.size, range.kind);
                (base..base.saturating_add(size), kind)
            })
        };
        let ram = || ranges().filter(|(_, kind)| *kind == MemoryRange::RAM).map(|(range, _)| range);
        let own = ram().find(|range| range.contains(&used)).ok_or(LayoutError::NoRam)?;
        let ram_end = ram()
            .filter(|range| range.start < DEVICES.start)
            .map(|range| range.end)
            .max()
            .ok_or(LayoutError::NoRam)?;
        if ram_end > DEVICES.start {
            return Err(LayoutError::NoHole);
        }
        let window = (ram_end / 2).min(DEVICES.start - ram_end) / HUGE_PAGE * HUGE_PAGE;
        let window = within(WINDOW, window);
        // Above all RAM, and clear of whatever else the map lists there.
        let mut start = ram_end.next_multiple_of(HUGE_PAGE);
        while let Some((taken, _)) =
            ranges().find(|(range, _)| range.start < start + window && start < range.end)
        {
            start = taken.end.checked_next_multiple_of(HUGE_PAGE).ok_or(LayoutError::NoHole)?;
            if start > DEVICES.start {
                break;
            }
        }
        if start > DEVICES.start - window {
            return Err(LayoutError::NoHole);
        }
        let page = PAGE_SIZE as u64;
        let free = used.next_multiple_of(page)..own.end / page * page;
        Ok(Self { free, ram_end, window: start..start + window })
    }

    /// How many bytes of the free RAM are for the heap; the rest is for buffers.
    pub fn heap(&self) -> u64 {
        let free = self.free.end - self.free.start;
        within(HEAP, free / 4 / PAGE_SIZE as u64 * PAGE_SIZE as u64)
    }

    /// How many packets can be on their way at once.
    pub fn packets(&self) -> usize {
        (self.heap() / HEAP_PER_PACKET) as usize
    }
}

fn within(bounds: RangeInclusive<u64>, value: u64) -> u64 {
    value.clamp(*bounds.start(), *bounds.end())
}

#[cfg(test)]
mod tests {
    use xen::ForeignFrame;

    use super::super::buffers::Size;
    use super::super::buffers::tests::CELL;
    use super::*;
    use crate::packet::Packet;

    fn range(base: u64, end: u64, kind: u32) -> MemoryRange {
        MemoryRange { base, size: end - base, kind }
    }

    #[test]
    fn a_small_domain_has_its_window_above_its_ram() {
        let map = [range(1 << 20, 16 << 20, 1)];
        let layout = Layout::new(&map, 0x18_0123).unwrap();
        assert_eq!(layout.free, 0x18_1000..16 << 20);
        assert_eq!(layout.window, 16 << 20..24 << 20);
    }

    #[test]
    fn reserved_ranges_and_odd_ends_are_kept_clear_of() {
        let map = [
            range(0, 0xa_0000, 1),
            range(1 << 20, 0x13f_f123, 1),
            range(0x150_0000, 0x160_0000, 2),
            range(0xfeff_8000, 0x1_0000_0000, 2),
        ];
        let layout = Layout::new(&map, 2 << 20).unwrap();
        assert_eq!(layout.free, 2 << 20..0x13f_f000);
        assert_eq!(layout.window, 0x160_0000..0x1e0_0000);
    }

    /// What is made at start fits the heap, whatever `memory=` says, and leaves as much
    /// as several vifs need (README, "16 MiB").
    #[test]
    fn the_pools_fit_the_heap() {
        // The allocator's own, for each allocation.
        const HEADER: u64 = 16;
        for mib in (16..64).chain((64..3832).step_by(61)) {
            let map = [range(1 << 20, mib << 20, 1)];
            let layout = Layout::new(&map, 0x18_0000).unwrap();
            let heap = layout.heap();
            let buffers = layout.free.end - layout.free.start - heap;
            let cells = [Size::Small, Size::Large].map(|size| {
                let share = if size == Size::Small { buffers / 8 } else { buffers };
                share / size.bytes() as u64
            });
            let packet = size_of::<Packet>() + size_of::<Box<Packet>>();
            let packets = layout.packets() as u64 * (packet as u64 + HEADER);
            let frames = (layout.window.end - layout.window.start) / PAGE_SIZE as u64;
            let pools = packets
                + cells.iter().sum::<u64>() * CELL as u64
                + frames * size_of::<Option<ForeignFrame>>() as u64;
            assert!(pools + heap / 4 < heap, "{mib} MiB: {pools} of {heap} bytes");
            assert!(cells.iter().all(|cells| *cells > layout.packets() as u64), "{mib} MiB");
        }
    }

    #[test]
    fn a_large_domain_maps_more() {
        let frames = |mib: u64| {
            let layout = Layout::new(&[range(1 << 20, mib << 20, 1)], 2 << 20).unwrap();
            (layout.window.end - layout.window.start) >> 12
        };
        assert_eq!([16, 64, 1024, 3700].map(frames), [2048, 8192, 32_768, 32_768]);
        assert_eq!([3800, 3832].map(frames), [10_240, 2048], "what the devices leave");
    }

    #[test]
    fn memory_maps_of_no_use_are_refused() {
        assert_eq!(Layout::new(&[], 1 << 20), Err(LayoutError::NoRam));
        let full = [range(1 << 20, 0xf000_0000, 1)];
        assert_eq!(Layout::new(&full, 2 << 20), Err(LayoutError::NoHole));
        let lying =
            [range(1 << 20, 16 << 20, 1), MemoryRange { base: 16 << 20, size: u64::MAX, kind: 2 }];
        assert_eq!(Layout::new(&lying, 2 << 20), Err(LayoutError::NoHole));
        let wrapping = [range(1 << 20, 16 << 20, 1), range(16 << 20, 0xffff_ffff_ff80_0000, 2)];
        assert_eq!(Layout::new(&wrapping, 2 << 20), Err(LayoutError::NoHole));
    }
}
