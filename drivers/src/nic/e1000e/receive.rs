//! Receiving: a ring of extended descriptors (7.1), each with a buffer.
//!
//! The ring is always full of buffers: what is received leaves it only for another buffer,
//! and where there is none, the frame is dropped. So reception never stops for want
//! of somebody to refill the ring.
//!
//! A frame longer than a buffer goes on in the next ones, of which the last says what else
//! there is to say of it. It is put together piece by piece, or dropped whole.

use alloc::boxed::Box;
use core::mem;

use kernel::Pools;
use kernel::memory::DmaPage;
use kernel::packet::{BATCH, Batch, Checksum, ETHERNET_HEADER, Packet};

use super::SLOTS;
use crate::nic::ring::Ring;
use crate::nic::{BufferProvider, LONGEST, Statistics};

const DESCRIPTOR: usize = 16;
/// Status and errors are one word of the descriptor as written back.
const STATUS: usize = 8;
const DD: u32 = 1 << 0;
const EOP: u32 = 1 << 1;
/// CE, SE, SEQ, CXE and RXE: the frame is broken.
const ERRORS: u32 = 0x97 << 24;
/// Nothing that is said of checksums counts.
const IXSM: u32 = 1 << 2;
/// A TCP or UDP checksum was looked at; TCPE says that it is wrong, and IPE that the
/// IPv4 header's is. The device looks at none of a fragment, nor where there is none
/// (RFC 768).
const TCPCS: u32 = 1 << 5;
const TCPE: u32 = 1 << 29;
const IPE: u32 = 1 << 30;
/// The length is the lower half of the next word.
const LENGTH: usize = 12;

/// What the device writes to a buffer before it goes on in the next (10.2.5.1, BSIZE).
const PIECE: u16 = 2048;

/// A buffer in the ring.
struct Posted<T> {
    buffer: T,
    address: u64,
}

/// The receive queue.
pub(super) struct Receiver<B: BufferProvider> {
    page: DmaPage,
    provider: B,
    ring: Ring<Posted<B::Buffer>, SLOTS>,
    frame: Frame,
}

/// What came of a frame so far.
enum Frame {
    /// Nothing: the next piece begins one.
    Awaited,
    /// Its first pieces.
    Begun(Box<Packet>),
    /// It is dropped: its other pieces are of no use.
    Dropped,
}

/// What a descriptor says of its buffer.
#[derive(Clone, Copy)]
struct Piece {
    status: u32,
    len: u16,
}

/// Why a frame is dropped.
enum Flaw {
    Malformed,
    Broken,
    NoBuffer,
}

impl<B: BufferProvider> Receiver<B> {
    pub(super) fn new(page: DmaPage, provider: B) -> Self {
        Self { page, provider, ring: Ring::new(), frame: Frame::Awaited }
    }

    /// The ring's address.
    pub(super) const fn base(&self) -> u64 {
        self.page.dma_address()
    }

    /// The tail register's value.
    pub(super) fn tail(&self) -> u32 {
        self.ring.tail() as u32
    }

    /// Fills the ring and writes its descriptors from slot 0, for a device just
    /// reset. Returns whether there were enough buffers.
    pub(super) fn prepare(&mut self, pools: &mut Pools) -> bool {
        self.forget(pools);
        while self.ring.room() > 0 {
            let Some(posted) = self.provide(pools) else { return false };
            self.post(posted, pools);
        }
        self.ring.rewind();
        for (slot, posted) in self.ring.iter() {
            describe(&self.page, slot, posted.address);
        }
        true
    }

    /// Gives all buffers back, after a reset.
    pub(super) fn release(&mut self, pools: &mut Pools) {
        self.forget(pools);
        while let Some(posted) = self.ring.pop() {
            self.provider.give(posted.buffer, pools);
        }
    }

    /// Takes finished descriptors, at most a batch of them however many the device
    /// claims, and moves their frames to `batch`. Returns how many it took.
    pub(super) fn receive(
        &mut self,
        batch: &mut Batch,
        pools: &mut Pools,
        counters: &mut Statistics,
    ) -> usize {
        let mut taken = 0;
        while taken < BATCH && !batch.is_full() {
            let Some((slot, _)) = self.ring.oldest() else { break };
            let status = self.page.page.load(slot * DESCRIPTOR + STATUS);
            if status & DD == 0 {
                break;
            }
            let len = self.page.page.load(slot * DESCRIPTOR + LENGTH) as u16;
            let Some(posted) = self.ring.pop() else { break };
            taken += 1;
            let next = self.take(posted, Piece { status, len }, batch, pools, counters);
            self.post(next, pools);
        }
        taken
    }

    /// Takes a piece of a frame, and returns what takes its buffer's place in the ring: the
    /// same one where it is not used, or there is no other.
    fn take(
        &mut self,
        posted: Posted<B::Buffer>,
        piece: Piece,
        batch: &mut Batch,
        pools: &mut Pools,
        counters: &mut Statistics,
    ) -> Posted<B::Buffer> {
        let begun = match mem::replace(&mut self.frame, Frame::Awaited) {
            Frame::Awaited => None,
            Frame::Begun(packet) => Some(packet),
            Frame::Dropped => {
                self.skip(piece);
                return posted;
            }
        };
        let flaw = piece.flaw(begun.as_ref().map_or(0, |packet| packet.len()));
        let fresh = if flaw.is_none() { self.provide(pools) } else { None };
        let (Some(fresh), None) = (fresh, &flaw) else {
            if let Some(packet) = begun {
                pools.give(packet);
            }
            self.drop(flaw.unwrap_or(Flaw::NoBuffer), piece, counters);
            return posted;
        };
        let packet = match begun {
            None => self.provider.packet(posted.buffer, piece.len, pools),
            Some(packet) => self.provider.append(packet, posted.buffer, piece.len, pools),
        };
        match packet {
            None => self.drop(Flaw::NoBuffer, piece, counters),
            Some(packet) if piece.is_last() => {
                deliver(packet, piece.status, batch, pools, counters);
            }
            Some(packet) => self.frame = Frame::Begun(packet),
        }
        fresh
    }

    /// Drops a frame of which this is the first piece that is of no use.
    fn drop(&mut self, flaw: Flaw, piece: Piece, counters: &mut Statistics) {
        match flaw {
            Flaw::Malformed => counters.receive_malformed += 1,
            Flaw::Broken => counters.receive_errors += 1,
            Flaw::NoBuffer => counters.receive_no_buffer += 1,
        }
        self.skip(piece);
    }

    fn skip(&mut self, piece: Piece) {
        self.frame = if piece.is_last() { Frame::Awaited } else { Frame::Dropped };
    }

    /// Drops a frame whose rest does not come, since the device was reset.
    fn forget(&mut self, pools: &mut Pools) {
        if let Frame::Begun(packet) = mem::replace(&mut self.frame, Frame::Awaited) {
            pools.give(packet);
        }
    }

    fn provide(&mut self, pools: &mut Pools) -> Option<Posted<B::Buffer>> {
        let (buffer, window) = self.provider.provide(pools)?;
        if window.len < PIECE {
            self.provider.give(buffer, pools);
            return None;
        }
        Some(Posted { buffer, address: window.address })
    }

    fn post(&mut self, posted: Posted<B::Buffer>, pools: &mut Pools) {
        let address = posted.address;
        match self.ring.push(posted, 1) {
            Ok(slot) => describe(&self.page, slot, address),
            Err(posted) => self.provider.give(posted.buffer, pools),
        }
    }
}

impl Piece {
    const fn is_last(self) -> bool {
        self.status & EOP != 0
    }

    /// Why a frame of which `before` bytes came before this piece is none.
    fn flaw(self, before: usize) -> Option<Flaw> {
        let len = before + usize::from(self.len);
        let whole = match self.is_last() {
            true => (1..=PIECE).contains(&self.len) && len >= ETHERNET_HEADER,
            false => self.len == PIECE,
        };
        if !whole || len > LONGEST.into() {
            return Some(Flaw::Malformed);
        }
        // Only the last says what is wrong.
        (self.is_last() && self.status & ERRORS != 0).then_some(Flaw::Broken)
    }
}

/// Hands a whole frame on.
fn deliver(
    mut packet: Box<Packet>,
    status: u32,
    batch: &mut Batch,
    pools: &mut Pools,
    counters: &mut Statistics,
) {
    packet.meta.checksum = verified(status, counters);
    counters.received += 1;
    counters.received_bytes += packet.len() as u64;
    if let Err(packet) = batch.push_back(packet) {
        pools.give(packet);
    }
}

/// What the device found of a frame's TCP or UDP checksum (7.1.10). One that is wrong is
/// for the receiver to decide about, as if nobody had looked.
fn verified(status: u32, counters: &mut Statistics) -> Checksum {
    if status & IXSM != 0 || status & TCPCS == 0 {
        return Checksum::Unknown;
    }
    if status & (TCPE | IPE) != 0 {
        counters.receive_bad_checksums += 1;
        return Checksum::Unknown;
    }
    counters.received_checksums += 1;
    Checksum::Validated
}

/// Writes a descriptor for the device to read: the address, and DD clear.
fn describe(page: &DmaPage, slot: usize, address: u64) {
    page.page.write(slot * DESCRIPTOR, &[address, 0]);
}
