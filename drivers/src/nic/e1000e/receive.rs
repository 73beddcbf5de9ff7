//! Receiving: a ring of extended descriptors (7.1), each with a buffer.
//!
//! The ring is always full of buffers: a frame leaves it only for another buffer,
//! and where there is none, the frame is dropped. So reception never stops for want
//! of somebody to refill the ring.

use kernel::Pools;
use kernel::memory::DmaPage;
use kernel::packet::{BATCH, Batch, Checksum, ETHERNET_HEADER};

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

/// The longest frame that the device takes, with its checksum. With long packets enabled
/// (10.2.5.1, LPE) it would take 16 KiB, and write up to 2048 bytes into a buffer.
const LONGEST_ON_WIRE: u16 = LONGEST + 4;

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
    /// Whether the last descriptor was a part of a frame but not its end.
    inside: bool,
}

impl<B: BufferProvider> Receiver<B> {
    pub(super) fn new(page: DmaPage, provider: B) -> Self {
        Self { page, provider, ring: Ring::new(), inside: false }
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
        self.inside = false;
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
            let next = match self.accept(status, len, counters) {
                true => self.deliver(posted, status, len, batch, pools, counters),
                false => posted,
            };
            self.post(next, pools);
        }
        taken
    }

    /// Whether a descriptor stands for a whole good frame.
    fn accept(&mut self, status: u32, len: u16, counters: &mut Statistics) -> bool {
        let starts_inside = self.inside;
        self.inside = status & EOP == 0;
        // No frame we let in needs two buffers.
        if starts_inside || self.inside {
            counters.receive_malformed += 1;
            return false;
        }
        if status & ERRORS != 0 {
            counters.receive_errors += 1;
            return false;
        }
        if !(ETHERNET_HEADER as u16..=LONGEST).contains(&len) {
            counters.receive_malformed += 1;
            return false;
        }
        true
    }

    /// Makes a packet of a buffer and returns what takes the buffer's place in the
    /// ring: the same one where there is no other.
    fn deliver(
        &mut self,
        posted: Posted<B::Buffer>,
        status: u32,
        len: u16,
        batch: &mut Batch,
        pools: &mut Pools,
        counters: &mut Statistics,
    ) -> Posted<B::Buffer> {
        let Some(fresh) = self.provide(pools) else {
            counters.receive_no_buffer += 1;
            return posted;
        };
        match self.provider.packet(posted.buffer, len, pools) {
            Some(mut packet) => {
                packet.meta.checksum = verified(status, counters);
                counters.received += 1;
                counters.received_bytes += u64::from(len);
                if let Err(packet) = batch.push_back(packet) {
                    pools.give(packet);
                }
            }
            None => counters.receive_no_buffer += 1,
        }
        fresh
    }

    fn provide(&mut self, pools: &mut Pools) -> Option<Posted<B::Buffer>> {
        let (buffer, window) = self.provider.provide(pools)?;
        if window.len < LONGEST_ON_WIRE {
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
