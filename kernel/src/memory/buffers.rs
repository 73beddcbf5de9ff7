//! Packet buffers: two sizes of cells cut from pages of our own RAM at start.
//!
//! A [`Buffer`] is the right to a cell. It moves into a device's ring or a packet
//! and comes back through [`Buffers::give`]; it cannot be copied. Sharing counts
//! the owners, and a shared cell cannot be written.

use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::slice;

use xen::{LocalFrame, LocalRegion, PAGE_SIZE};

use crate::defect::{self, Defect};
use crate::leak;

/// A buffer's size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 256 bytes: a packet's headers, or a whole small packet.
    Small,
    /// 2048 bytes: a whole packet of up to 1522 bytes, with headroom.
    Large,
}

impl Size {
    /// The cell's length in bytes. Divides a page, so no cell crosses one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 256,
            Self::Large => 2048,
        }
    }

    /// The smaller one of those that hold `bytes`, if any does.
    pub const fn of(bytes: usize) -> Self {
        if bytes <= Self::Small.bytes() { Self::Small } else { Self::Large }
    }
}

/// What is in a free cell, where anything is.
const POISON: u8 = 0xdb;

/// The right to one cell.
#[must_use = "a buffer ends by Buffers::give"]
#[derive(PartialEq, Eq, Debug)]
pub struct Buffer {
    size: Size,
    index: u32,
}

impl Buffer {
    /// The cell's size class.
    pub const fn size(&self) -> Size {
        self.size
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        leak::note("a packet buffer");
    }
}

/// A run of pages of our own RAM, handed over for good.
pub struct Ram {
    base: NonNull<u8>,
    first: LocalFrame,
    pages: usize,
}

impl fmt::Debug for Ram {
    /// Without the address, which on the host is another in every run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Ram");
        debug.field("first", &self.first).field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Ram {
    /// Takes the pages of a range of physical addresses that is mapped 1:1.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    pub unsafe fn identity(range: Range<u64>) -> Option<Self> {
        let base = NonNull::new(ptr::with_exposed_provenance_mut(range.start as usize))?;
        let page = PAGE_SIZE as u64;
        // SAFETY: the caller's contract.
        let first = unsafe { LocalFrame::new(range.start / page) };
        let pages = (range.end.saturating_sub(range.start) / page) as usize;
        // SAFETY: the caller's contract.
        Some(unsafe { Self::new(base, first, pages) })
    }

    /// Takes `pages` pages at `base`, whose frames follow each other from `first`.
    ///
    /// # Safety
    /// The memory is page-aligned, initialised, belongs to nobody else and stays
    /// for as long as the program runs; `first` and its followers are its frames.
    pub const unsafe fn new(base: NonNull<u8>, first: LocalFrame, pages: usize) -> Self {
        Self { base, first, pages }
    }

    /// How many pages.
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Cuts the first `pages` pages off; `None` if there are fewer.
    pub fn split(&mut self, pages: usize) -> Option<Self> {
        let rest = self.pages.checked_sub(pages)?;
        let first = Self { base: self.base, first: self.first, pages };
        // SAFETY: `pages` is within this run, as just checked.
        self.base = unsafe { self.base.add(pages * PAGE_SIZE) };
        self.first = Self::frame(self.first, pages);
        self.pages = rest;
        Some(first)
    }

    /// The addresses of the run's first byte and of that behind its last, for who takes it
    /// as plain memory.
    pub fn into_addresses(self) -> (usize, usize) {
        let first = self.base.as_ptr().expose_provenance();
        (first, first + self.pages * PAGE_SIZE)
    }

    /// The address of the run's first byte.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The run's first frame.
    pub(super) const fn first(&self) -> LocalFrame {
        self.first
    }

    /// The frame `pages` after `first`, within one run.
    pub(super) fn frame(first: LocalFrame, pages: usize) -> LocalFrame {
        // SAFETY: frames of a run follow each other (the contract of `new`), and
        // callers stay within the run.
        unsafe { LocalFrame::new(first.number() + pages as u64) }
    }
}

/// All packet buffers of the domain.
#[derive(Debug)]
pub struct Buffers {
    small: Class,
    large: Class,
}

impl Buffers {
    /// Cuts `small` and `large` into cells.
    pub fn new(small: Ram, large: Ram) -> Self {
        Self { small: Class::new(small, Size::Small), large: Class::new(large, Size::Large) }
    }

    /// Takes a buffer; `None` when there is none left.
    pub fn take(&mut self, size: Size) -> Option<Buffer> {
        let class = self.class_mut(size);
        let index = class.free.pop()?;
        class.owners[index as usize] = 1;
        Some(Buffer { size, index })
    }

    /// One more owner for the same bytes, which nobody can write while there are
    /// two. `None` when there are too many owners.
    pub fn share(&mut self, buffer: &Buffer) -> Option<Buffer> {
        let owners = &mut self.class_mut(buffer.size).owners[buffer.index as usize];
        *owners = owners.checked_add(1)?;
        Some(Buffer { size: buffer.size, index: buffer.index })
    }

    /// Ends an ownership; the last one frees the cell.
    pub fn give(&mut self, buffer: Buffer) {
        let Buffer { size, index } = buffer;
        mem::forget(buffer);
        let class = self.class_mut(size);
        let owners = &mut class.owners[index as usize];
        *owners -= 1;
        if *owners == 0 {
            class.free.push(index);
            class.poison(index, size);
        }
    }

    /// The cell's bytes.
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let cell = self.class(buffer.size).cell(buffer.index, buffer.size);
        // SAFETY: the cell is RAM of ours. While a device or a hypercall writes it
        // nobody can be here: its `Buffer` is then inside the device's ring, and
        // `CopyBatch::run` borrows all buffers exclusively.
        unsafe { slice::from_raw_parts(cell.as_ptr(), buffer.size.bytes()) }
    }

    /// The cell's bytes, to be written; `None` while there is another owner.
    pub fn bytes_mut(&mut self, buffer: &mut Buffer) -> Option<&mut [u8]> {
        let class = self.class_mut(buffer.size);
        let shared = class.owners[buffer.index as usize] != 1;
        if shared && !defect::is(Defect::WritesSharedHeaders) {
            return None;
        }
        let cell = class.cell(buffer.index, buffer.size);
        // SAFETY: as in `bytes`; the pool, by which alone the bytes are reached, is
        // borrowed exclusively.
        Some(unsafe { slice::from_raw_parts_mut(cell.as_ptr(), buffer.size.bytes()) })
    }

    /// Copies `range` of one cell to `at` of another and returns how many bytes it
    /// copied: none if a range leaves its cell or `to` has another owner.
    pub fn copy(
        &mut self,
        from: &Buffer,
        range: Range<usize>,
        to: &mut Buffer,
        at: usize,
    ) -> usize {
        let Some(source) = self.bytes(from).get(range) else { return 0 };
        let (source, len) = (source.as_ptr(), source.len());
        let Some(target) = self.bytes_mut(to) else { return 0 };
        let Some(target) = target.get_mut(at..).and_then(|rest| rest.get_mut(..len)) else {
            return 0;
        };
        // SAFETY: `to` has one owner and `from` is another, so the cells differ;
        // both ranges were just checked, and nothing moved in between.
        unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), len) };
        len
    }

    /// Where in RAM a part of the cell lies, for a copy or a device; `None` if
    /// `range` leaves the cell.
    pub fn region(&self, buffer: &Buffer, range: Range<usize>) -> Option<LocalRegion> {
        let size = buffer.size.bytes();
        if range.end > size {
            return None;
        }
        let len = range.end.checked_sub(range.start)?;
        let at = buffer.index as usize * size;
        let frame = Ram::frame(self.class(buffer.size).ram.first(), at / PAGE_SIZE);
        LocalRegion::new(frame, at % PAGE_SIZE + range.start, len)
    }

    /// How many cells of a size are free.
    pub fn free(&self, size: Size) -> usize {
        self.class(size).free.len()
    }

    fn class(&self, size: Size) -> &Class {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    fn class_mut(&mut self, size: Size) -> &mut Class {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }
}

struct Class {
    ram: Ram,
    free: Vec<u32>,
    owners: Vec<u16>,
}

impl fmt::Debug for Class {
    /// Without the order of the free cells, one of which is as good as another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Class");
        debug.field("ram", &self.ram).field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl Class {
    fn new(ram: Ram, size: Size) -> Self {
        let cells = ram.pages() * (PAGE_SIZE / size.bytes());
        let owners = alloc::vec![0; cells];
        let mut class = Self { free: (0..cells as u32).rev().collect(), owners, ram };
        (0..cells as u32).for_each(|index| class.poison(index, size));
        class
    }

    /// In builds that look for our own defects: makes a free cell like any other, and
    /// whoever still looks at it notice.
    fn poison(&mut self, index: u32, size: Size) {
        if cfg!(debug_assertions) {
            // SAFETY: a cell that nobody has, of `size.bytes()` bytes.
            unsafe { self.cell(index, size).as_ptr().write_bytes(POISON, size.bytes()) };
        }
    }

    /// Bytes of heap that its tables take.
    #[cfg(test)]
    fn heap(&self) -> usize {
        let Self { ram: _, free, owners } = self;
        size_of_val(&free[..]) + size_of_val(&owners[..])
    }

    fn cell(&self, index: u32, size: Size) -> NonNull<u8> {
        // SAFETY: only `take` makes indices, from the cells counted in `new`.
        unsafe { self.ram.base().add(index as usize * size.bytes()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::testing::ram;
    use super::*;

    /// Bytes of heap that a cell takes.
    pub(in super::super) const CELL: usize = 6;

    fn buffers() -> Buffers {
        Buffers::new(ram(1), ram(2))
    }

    /// As [`Layout`](super::super::Layout) reckons with.
    #[test]
    fn the_heap_that_cells_take() {
        let buffers = buffers();
        for (size, class) in [(Size::Small, &buffers.small), (Size::Large, &buffers.large)] {
            assert_eq!(class.heap(), buffers.free(size) * CELL);
        }
    }

    #[test]
    fn every_cell_is_given_once_and_none_overlaps() {
        let mut buffers = buffers();
        let mut taken = Vec::new();
        for (size, cells) in [(Size::Small, 16), (Size::Large, 4)] {
            assert_eq!(buffers.free(size), cells);
            while let Some(buffer) = buffers.take(size) {
                taken.push(buffer);
            }
            assert_eq!(buffers.free(size), 0);
        }
        assert_eq!(taken.len(), 20);
        for (number, buffer) in taken.iter_mut().enumerate() {
            buffers.bytes_mut(buffer).unwrap().fill(number as u8);
        }
        for (number, buffer) in taken.iter().enumerate() {
            let bytes = buffers.bytes(buffer);
            assert_eq!(bytes.len(), buffer.size().bytes());
            assert!(bytes.iter().all(|byte| *byte == number as u8));
        }
        taken.into_iter().for_each(|buffer| buffers.give(buffer));
        assert_eq!((buffers.free(Size::Small), buffers.free(Size::Large)), (16, 4));
    }

    #[test]
    fn a_shared_cell_is_not_written_and_is_freed_by_its_last_owner() {
        let mut buffers = buffers();
        let mut first = buffers.take(Size::Small).unwrap();
        buffers.bytes_mut(&mut first).unwrap()[0] = 7;
        let mut second = buffers.share(&first).unwrap();
        assert!(buffers.bytes_mut(&mut first).is_none());
        assert!(buffers.bytes_mut(&mut second).is_none());
        let other = buffers.take(Size::Small).unwrap();
        assert_eq!(buffers.copy(&other, 0..4, &mut first, 0), 0);
        assert_eq!(buffers.bytes(&second)[0], 7);
        buffers.give(first);
        assert_eq!(buffers.free(Size::Small), 14);
        assert!(buffers.bytes_mut(&mut second).is_some());
        buffers.give(second);
        buffers.give(other);
        assert_eq!(buffers.free(Size::Small), 16);
    }

    #[test]
    fn owners_are_counted_up_to_a_limit() {
        let mut buffers = buffers();
        let first = buffers.take(Size::Small).unwrap();
        let others: Vec<_> = core::iter::from_fn(|| buffers.share(&first)).collect();
        assert_eq!(others.len(), usize::from(u16::MAX) - 1);
        others.into_iter().for_each(|buffer| buffers.give(buffer));
        buffers.give(first);
        assert_eq!(buffers.free(Size::Small), 16);
    }

    #[test]
    #[should_panic(expected = "dropped instead of given back")]
    fn a_dropped_buffer_is_noted() {
        drop(buffers().take(Size::Small));
    }

    #[test]
    fn a_run_of_pages_is_split_in_two() {
        let mut rest = ram(3);
        let whole = rest.first().number();
        assert!(rest.split(4).is_none());
        let first = rest.split(1).unwrap();
        assert_eq!((first.pages(), rest.pages()), (1, 2));
        assert_eq!((first.first().number(), rest.first().number()), (whole, whole + 1));
        assert_eq!(rest.base().as_ptr() as usize, first.base().as_ptr() as usize + PAGE_SIZE);
    }

    proptest! {
        /// What hypercalls and devices are told lies where the bytes are, and
        /// nothing outside a cell is ever reached.
        #[test]
        fn regions_and_copies_stay_in_their_cells(
            skip in 0usize..4,
            start in 0usize..2100,
            end in 0usize..2100,
            at in 0usize..300,
        ) {
            let mut buffers = buffers();
            let mut taken: Vec<_> =
                core::iter::from_fn(|| buffers.take(Size::Large)).collect();
            let mut from = taken.swap_remove(skip);
            for (place, byte) in buffers.bytes_mut(&mut from).unwrap().iter_mut().enumerate() {
                *byte = place as u8 | 1;
            }
            let inside = start <= end && end <= 2048;
            let region = buffers.region(&from, start..end);
            prop_assert_eq!(region.is_some(), inside);
            if let Some(region) = region {
                let address = buffers.bytes(&from).as_ptr() as u64 + start as u64;
                prop_assert_eq!(region.dma_address(), address);
                prop_assert_eq!(usize::from(region.len()), end - start);
            }
            let mut to = buffers.take(Size::Small).unwrap();
            buffers.bytes_mut(&mut to).unwrap().fill(0);
            let copied = buffers.copy(&from, start..end, &mut to, at);
            let fits = inside && at + (end - start) <= 256;
            prop_assert_eq!(copied, if fits { end - start } else { 0 });
            for (place, byte) in buffers.bytes(&to).iter().enumerate() {
                let expected = if fits && (at..at + copied).contains(&place) {
                    (place - at + start) as u8 | 1
                } else {
                    0
                };
                prop_assert_eq!(*byte, expected);
            }
            taken.extend([from, to]);
            taken.into_iter().for_each(|buffer| buffers.give(buffer));
        }
    }
}
