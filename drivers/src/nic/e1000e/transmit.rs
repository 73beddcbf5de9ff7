//! Sending: a ring of legacy descriptors (7.2.10.1), one for each packet.

use alloc::boxed::Box;

use kernel::Pools;
use kernel::memory::DmaPage;
use kernel::packet::{Checksum, Packet};
use xen::LocalRegion;

use super::SLOTS;
use crate::nic::ring::Ring;

const DESCRIPTOR: usize = 16;
/// The second half: length, command and status (7.2.10.1).
const STATUS: usize = 12;
const DD: u32 = 1 << 0;
const EOP: u64 = 1 << 24;
const IFCS: u64 = 1 << 25;
const RS: u64 = 1 << 27;

/// The shortest frame that the device pads (10.2.6.1, PSP): less than 17 bytes is
/// less than it can send.
const SHORTEST: u16 = 17;
/// The longest frame of an Ethernet with one tag, without its checksum.
const LONGEST: u16 = 1518;

/// The transmit queue.
pub(super) struct Transmitter {
    page: DmaPage,
    ring: Ring<Box<Packet>, SLOTS>,
    /// Packets sent since the start.
    pub(super) completed: u64,
}

impl Transmitter {
    pub(super) fn new(page: DmaPage) -> Self {
        Self { page, ring: Ring::new(), completed: 0 }
    }

    /// The ring's address.
    pub(super) const fn base(&self) -> u64 {
        self.page.dma_address()
    }

    /// The tail register's value.
    pub(super) fn tail(&self) -> u32 {
        self.ring.tail() as u32
    }

    /// How many packets the device has.
    pub(super) fn in_flight(&self) -> usize {
        self.ring.len()
    }

    /// Whether the device takes no more now.
    pub(super) fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    /// Gives a packet to the device; it sees it once it is told the tail. A packet
    /// that it cannot send comes back.
    pub(super) fn send(&mut self, packet: Box<Packet>, pools: &Pools) -> Result<(), Box<Packet>> {
        let Some(region) = sendable(&packet, pools) else { return Err(packet) };
        let slot = self.ring.push(packet)?;
        let command = EOP | IFCS | RS | u64::from(region.len());
        self.page.page.write(slot * DESCRIPTOR, &[region.dma_address(), command]);
        Ok(())
    }

    /// Ends the packets that the device says it has sent.
    pub(super) fn reap(&mut self, pools: &mut Pools) {
        // At most all that are in the ring, whatever the device says.
        while let Some(slot) = self.ring.oldest() {
            if self.page.page.load(slot * DESCRIPTOR + STATUS) & DD == 0 {
                break;
            }
            let Some(packet) = self.ring.pop() else { break };
            pools.give(packet);
            self.completed += 1;
        }
    }

    /// Ends all packets, for a device that can no longer look at them (O-10), and
    /// starts again at slot 0. Returns how many there were.
    pub(super) fn reclaim(&mut self, pools: &mut Pools) -> usize {
        let aborted = self.ring.len();
        while let Some(packet) = self.ring.pop() {
            pools.give(packet);
        }
        self.ring.rewind();
        aborted
    }
}

/// Where a packet lies, if it is one that the device can send as it is.
fn sendable(packet: &Packet, pools: &Pools) -> Option<LocalRegion> {
    if !packet.is_private() || packet.meta.checksum == Checksum::Partial {
        return None;
    }
    let linear = packet.linear.as_ref()?;
    let region = linear.region(&pools.buffers)?;
    (SHORTEST..=LONGEST).contains(&region.len()).then_some(region)
}
