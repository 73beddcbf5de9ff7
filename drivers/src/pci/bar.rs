//! Base address registers: what the NIC decodes, and where.
//!
//! Through the firmware door nobody has assigned them and they read the host's
//! addresses (ARCHITECTURE.md, "Booting"). A BAR over RAM replaces that RAM, so they
//! change only while the function decodes nothing.

use core::fmt;
use core::ops::Range;

use super::{Address, Command, ConfigSpace, Function};

const FIRST: u8 = 0x10;
const MOST: usize = 6;
const PAGE: u64 = 4096;

/// Where BARs are put: below the LAPIC and what the toolstack keeps there.
pub const WINDOW: Range<u64> = 0xf000_0000..0xfc00_0000;

/// A memory BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// How many bytes it decodes: a power of two.
    pub size: u64,
    /// Whether its address has 64 bits, in two registers.
    pub wide: bool,
    /// The address in it.
    pub address: u64,
}

/// A memory BAR in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The BAR's number, 0 to 5.
    pub index: u8,
    /// Where it begins.
    pub address: u64,
    /// How many bytes it decodes.
    pub size: u64,
}

impl Region {
    /// The whole pages it is in; nothing else is in them (S-19).
    const fn pages(&self) -> Range<u64> {
        self.address..self.address.saturating_add(if self.size < PAGE { PAGE } else { self.size })
    }
}

/// Why BARs could not be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarError {
    /// A BAR's size bits, or its type, are none that exist.
    Malformed {
        /// Whose.
        function: Address,
        /// Which BAR.
        index: u8,
        /// What it read after ones were written.
        mask: u64,
    },
    /// There is no free place for a BAR.
    NoRoom {
        /// Whose.
        function: Address,
        /// Which BAR.
        index: u8,
        /// How much it needs.
        size: u64,
    },
    /// A BAR does not hold the address that was written.
    NotAccepted {
        /// Whose.
        function: Address,
        /// Which BAR.
        index: u8,
        /// What was written.
        wrote: u64,
        /// What it reads.
        reads: u64,
    },
    /// Decoding does not go on or off.
    Decoding {
        /// Whose.
        function: Address,
    },
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Malformed { function, index, mask } => {
                write!(f, "{function}: BAR {index} is malformed: its mask reads {mask:#x}")
            }
            Self::NoRoom { function, index, size } => {
                write!(f, "{function}: no room for the {size:#x} bytes of BAR {index}")
            }
            Self::NotAccepted { function, index, wrote, reads } => {
                write!(f, "{function}: BAR {index} reads {reads:#x} after {wrote:#x} was written")
            }
            Self::Decoding { function } => {
                write!(f, "{function}: memory decoding cannot be switched")
            }
        }
    }
}

impl core::error::Error for BarError {}

/// The memory BARs of `function` in their places, decoded from now on.
///
/// Addresses that firmware gave are kept; otherwise the BARs go into `window`,
/// naturally aligned, each in pages of its own, clear of `reserved` (RAM and the
/// reserved entries of the memory map). I/O BARs stay off. On an error the function
/// decodes nothing.
pub fn assign<C: ConfigSpace>(
    function: &Function<C>,
    window: Range<u64>,
    reserved: &[Range<u64>],
) -> Result<heapless::Vec<Region, MOST>, BarError> {
    let decoded = function.command();
    let decoding = Command::IO | Command::MEMORY;
    if !function.change_command(Command::empty(), decoding) {
        return Err(BarError::Decoding { function: function.address() });
    }
    let bars = probe(function)?;
    let regions = if decoded.contains(Command::MEMORY) && usable(&bars, reserved) {
        bars.iter()
            .map(|&Bar { index, size, address, .. }| Region { index, address, size })
            .collect()
    } else {
        let regions = place(&bars, window, reserved).map_err(|bar| BarError::NoRoom {
            function: function.address(),
            index: bar.index,
            size: bar.size,
        })?;
        for (bar, region) in bars.iter().zip(&regions) {
            write(function, bar, region.address)?;
        }
        regions
    };
    if !function.change_command(Command::MEMORY, Command::IO) {
        return Err(BarError::Decoding { function: function.address() });
    }
    Ok(regions)
}

/// Sizes the memory BARs (PCI Local Bus 3.0, 6.2.5.1). The function decodes nothing.
fn probe<C: ConfigSpace>(function: &Function<C>) -> Result<heapless::Vec<Bar, MOST>, BarError> {
    let mut bars = heapless::Vec::new();
    let mut index = 0;
    while index < MOST as u8 {
        let low = register(index);
        let found = function.read(low);
        let wide = match found & 0b111 {
            0b000 => false,
            0b100 => true,
            // I/O space is left alone; types 1 and 3 of memory space do not exist.
            kind if kind & 1 == 1 => {
                index += 1;
                continue;
            }
            _ => return Err(malformed(function, index, found.into())),
        };
        if wide && index + 1 == MOST as u8 {
            return Err(malformed(function, index, found.into()));
        }
        let (mut address, mut mask) = (u64::from(found), u64::from(size_bits(function, low)));
        if wide {
            let high = register(index + 1);
            address |= u64::from(function.read(high)) << 32;
            mask |= u64::from(size_bits(function, high)) << 32;
        } else if mask != 0 {
            mask |= 0xffff_ffff << 32;
        }
        if mask != 0 {
            let size = (!(mask & !0xf)).wrapping_add(1);
            if !size.is_power_of_two() || size < 16 {
                return Err(malformed(function, index, mask));
            }
            let bar = Bar { index, size, wide, address: address & !0xf };
            // There are at most `MOST`.
            let _ = bars.push(bar);
        }
        index += 1 + u8::from(wide);
    }
    Ok(bars)
}

/// What a register keeps of all ones; its value is put back.
fn size_bits<C: ConfigSpace>(function: &Function<C>, register: u8) -> u32 {
    let found = function.read(register);
    function.write(register, u32::MAX);
    let mask = function.read(register);
    function.write(register, found);
    mask
}

fn write<C: ConfigSpace>(function: &Function<C>, bar: &Bar, address: u64) -> Result<(), BarError> {
    let low = register(bar.index);
    function.write(low, address as u32);
    let mut reads = u64::from(function.read(low) & !0xf);
    if bar.wide {
        function.write(low + 4, (address >> 32) as u32);
        reads |= u64::from(function.read(low + 4)) << 32;
    }
    if reads == address {
        return Ok(());
    }
    let function = function.address();
    Err(BarError::NotAccepted { function, index: bar.index, wrote: address, reads })
}

const fn register(index: u8) -> u8 {
    FIRST + 4 * index
}

fn malformed<C: ConfigSpace>(function: &Function<C>, index: u8, mask: u64) -> BarError {
    BarError::Malformed { function: function.address(), index, mask }
}

/// Whether the BARs can stay where they are.
fn usable(bars: &[Bar], reserved: &[Range<u64>]) -> bool {
    let pages =
        |bar: &Bar| Region { index: bar.index, address: bar.address, size: bar.size }.pages();
    bars.iter().enumerate().all(|(place, bar)| {
        bar.address != 0
            && bar.address.is_multiple_of(bar.size.max(PAGE))
            && bar.address.checked_add(bar.size).is_some()
            && !reserved.iter().any(|range| overlap(range, &pages(bar)))
            && !bars[..place].iter().any(|other| overlap(&pages(other), &pages(bar)))
    })
}

/// Finds places: largest first, each at the first free address. Gives them in the
/// order of `bars`, or the BAR that has none.
fn place(
    bars: &[Bar],
    window: Range<u64>,
    reserved: &[Range<u64>],
) -> Result<heapless::Vec<Region, MOST>, Bar> {
    let mut order: heapless::Vec<usize, MOST> = (0..bars.len()).take(MOST).collect();
    order.sort_unstable_by_key(|&bar| (core::cmp::Reverse(bars[bar].size), bar));
    let mut regions: heapless::Vec<Region, MOST> = bars
        .iter()
        .map(|&Bar { index, size, .. }| Region { index, address: 0, size })
        .take(MOST)
        .collect();
    let mut free = window.start;
    for &bar in &order {
        let region = &mut regions[bar];
        let align = region.size.max(PAGE);
        loop {
            let aligned = free.checked_next_multiple_of(align).ok_or(bars[bar])?;
            region.address = aligned;
            let pages = region.pages();
            if pages.end > window.end {
                return Err(bars[bar]);
            }
            // Every round leaves at least one reserved range behind for good.
            match reserved.iter().find(|range| overlap(range, &pages)) {
                Some(range) => free = range.end,
                None => {
                    free = pages.end;
                    break;
                }
            }
        }
    }
    Ok(regions)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use std::slice;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::fake::Model;

    #[test]
    fn unassigned_bars_are_sized_and_placed() {
        let model = Model::nic();
        let regions =
            assign(&model.function(), WINDOW, &[0..0xa_0000, 0x10_0000..0x100_0000]).unwrap();
        assert_eq!(
            regions.as_slice(),
            [
                Region { index: 0, address: 0xf000_0000, size: 0x2_0000 },
                Region { index: 1, address: 0xf002_0000, size: 0x2_0000 },
                Region { index: 3, address: 0xf004_0000, size: 0x4000 },
            ]
        );
        assert_eq!(model.bar(0), 0xf000_0000);
        assert_eq!(model.bar(3), 0xf004_0000);
        let command = model.function().command();
        assert!(command.contains(Command::MEMORY | Command::INTX_DISABLE));
        assert!(!command.contains(Command::IO));
    }

    #[test]
    fn s_19_wide_bars_change_both_halves_with_decoding_off() {
        let model = Model::nic();
        model.make_wide(0);
        let regions = assign(&model.function(), WINDOW, &[]).unwrap();
        assert_eq!(regions[0].address, 0xf000_0000);
        assert_eq!(model.bar(0), 0xf000_0000, "the host's upper half is gone");
        assert_eq!(regions.iter().map(|region| region.index).collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn what_firmware_assigned_stays() {
        let model = Model::nic();
        model.set_bar(0, 0xf305_0000 & !0x1_ffff);
        model.set_bar(1, 0xf308_0000);
        model.set_bar(3, 0xf30a_0000);
        model.function().change_command(Command::MEMORY, Command::empty());
        let regions = assign(&model.function(), WINDOW, &[]).unwrap();
        assert_eq!(regions[0].address, 0xf304_0000);
        assert_eq!(regions[2].address, 0xf30a_0000);
        // Over something else, they move.
        let reserved = 0xf308_0000..0xf308_1000;
        let moved = assign(&model.function(), WINDOW, slice::from_ref(&reserved)).unwrap();
        assert_eq!(moved[0].address, 0xf000_0000);
    }

    #[test]
    fn s_19_liars_are_refused_and_decode_nothing() {
        let refused = |model: &Model| {
            let result = assign(&model.function(), WINDOW, &[]);
            if !model.gone() {
                assert!(!model.function().command().contains(Command::MEMORY));
            }
            result.unwrap_err()
        };
        let model = Model::nic();
        model.set_mask(1, 0xff0f_0000);
        assert!(matches!(refused(&model), BarError::Malformed { index: 1, .. }));
        let model = Model::nic();
        model.set_mask(0, 0x8000_0000);
        assert!(matches!(refused(&model), BarError::NoRoom { index: 0, .. }));
        let model = Model::nic();
        model.stick(3);
        assert!(matches!(refused(&model), BarError::NotAccepted { index: 3, .. }));
        let model = Model::nic();
        model.set_type(1, 0b010);
        assert!(matches!(refused(&model), BarError::Malformed { index: 1, .. }));
        let model = Model::nic();
        model.set_type(5, 0b100);
        assert!(matches!(refused(&model), BarError::Malformed { index: 5, .. }));
        let model = Model::nic();
        model.vanish();
        assert!(matches!(refused(&model), BarError::Decoding { .. }));
    }

    fn bars() -> impl Strategy<Value = Vec<Bar>> {
        prop::collection::vec((4u32..28, any::<bool>()), 0..=MOST).prop_map(|bars| {
            let bar = |(index, (shift, wide))| Bar {
                index: index as u8,
                size: 1u64 << shift,
                wide,
                address: 0,
            };
            bars.into_iter().enumerate().map(bar).collect()
        })
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        let start = WINDOW.start - 0x2_0000..WINDOW.start + 0x8_0000;
        let range = (prop_oneof![start, WINDOW], 0..0x4_0000u64);
        prop::collection::vec(range.prop_map(|(start, len)| start..start + len), 0..6)
    }

    proptest! {
        /// S-19: no two BARs share a page, nor does one with anything else.
        #[test]
        fn s_19_places_are_aligned_disjoint_and_free(bars in bars(), reserved in ranges()) {
            let Ok(regions) = place(&bars, WINDOW, &reserved) else { return Ok(()) };
            prop_assert_eq!(regions.len(), bars.len());
            for (place, region) in regions.iter().enumerate() {
                prop_assert_eq!((region.index, region.size), (bars[place].index, bars[place].size));
                prop_assert!(region.address.is_multiple_of(region.size));
                let first = region.address / PAGE;
                let last = (region.address + region.size - 1) / PAGE;
                prop_assert!(region.address >= WINDOW.start && (last + 1) * PAGE <= WINDOW.end);
                for range in &reserved {
                    let empty = range.start == range.end;
                    prop_assert!(empty || range.end <= first * PAGE || (last + 1) * PAGE <= range.start);
                }
                for other in &regions[..place] {
                    let others = other.address / PAGE..=(other.address + other.size - 1) / PAGE;
                    prop_assert!(!others.contains(&first) && !others.contains(&last));
                }
            }
        }

        #[test]
        fn an_empty_window_holds_whatever_fits(shift in 4u32..27) {
            let bar = Bar { index: 0, size: 1u64 << shift, wide: false, address: 0 };
            prop_assert!(place(&[bar], WINDOW, &[]).is_ok());
        }
    }
}
