//! Guest frame numbers, by what stands behind them.
//!
//! A frame number of our own RAM and one that a guest's page is mapped at are
//! different things: the first can be a copy's operand and a DMA target for ever,
//! the second neither (NETBACK-SPEC H-9) and only while mapped. So they are
//! different types, and neither converts to the other.

use crate::PAGE_SIZE;

/// A frame of this domain's own RAM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LocalFrame(u64);

impl LocalFrame {
    /// Names a frame of our own RAM.
    ///
    /// # Safety
    /// `number` is RAM of this domain, in use as memory that hypercalls and
    /// devices may write when its owner asks for it.
    pub const unsafe fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A run of bytes inside one frame of our own RAM: a copy's local operand, or
/// what a device is told to read or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRegion {
    frame: LocalFrame,
    offset: u16,
    len: u16,
}

impl LocalRegion {
    /// The `len` bytes from `offset` of `frame`; `None` if they leave the frame.
    pub const fn new(frame: LocalFrame, offset: usize, len: usize) -> Option<Self> {
        if offset > PAGE_SIZE || len > PAGE_SIZE - offset {
            return None;
        }
        Some(Self { frame, offset: offset as u16, len: len as u16 })
    }

    /// The frame the bytes lie in.
    pub const fn frame(&self) -> LocalFrame {
        self.frame
    }

    /// Where in the frame the bytes begin.
    pub const fn offset(&self) -> u16 {
        self.offset
    }

    /// How many bytes.
    pub const fn len(&self) -> u16 {
        self.len
    }

    /// Whether there is no byte in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address a device of ours uses: equal to the guest-physical one, since
    /// the IOMMU walks the domain's own frame numbers (NETBACK-SPEC H-13).
    pub const fn dma_address(&self) -> u64 {
        self.frame.0 * PAGE_SIZE as u64 + self.offset as u64
    }
}

/// A frame number in a hole of the guest-physical space at which a guest's page
/// can be mapped. Owning it is the right to map there; it is not `Clone`, so
/// nothing can be mapped twice at one frame (which would crash us, H-4).
#[derive(PartialEq, Eq, Debug)]
pub struct ForeignFrame(u64);

impl ForeignFrame {
    /// Takes a hole's frame number as a place for foreign pages.
    ///
    /// # Safety
    /// `number` is a hole: neither RAM nor a device's, mapped by our page tables
    /// for as long as the domain runs, and no other `ForeignFrame` has it.
    pub const unsafe fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame number.
    pub const fn number(&self) -> u64 {
        self.0
    }

    /// The frame's guest-physical address.
    pub const fn address(&self) -> u64 {
        self.0 * PAGE_SIZE as u64
    }
}
