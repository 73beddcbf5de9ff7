//! Sending: a ring of legacy descriptors (7.2.10.1), one for each region of memory
//! that a packet lies in.
//!
//! A packet moves into the ring whole, with the pages it borrows, and leaves it whole:
//! once the device has written back the last of its descriptors, or after a reset
//! (NETBACK-SPEC O-10).

use alloc::boxed::Box;

use kernel::memory::DmaPage;
use kernel::packet::{Checksum, MAX_FRAGMENTS, Packet};
use kernel::switch::PortQueue;
use kernel::{DmaRegions, Pools};
use xen::Instant;

use super::SLOTS;
use crate::nic::Statistics;
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
const SHORTEST: u32 = 17;
/// The longest frame of an Ethernet with one tag, without its checksum. One descriptor
/// holds more (7.2.10.1), so a region never needs two.
const LONGEST: u32 = 1518;

/// The most descriptors that a packet takes.
const MOST: usize = 1 + MAX_FRAGMENTS;

type Descriptors = heapless::Vec<[u64; 2], MOST>;

/// A packet that the device has.
struct Sending {
    packet: Box<Packet>,
    since: Instant,
}

/// The transmit queue.
pub(super) struct Transmitter {
    page: DmaPage,
    ring: Ring<Sending, SLOTS>,
}

impl Transmitter {
    pub(super) fn new(page: DmaPage) -> Self {
        // So every packet fits an empty ring.
        const { assert!(MOST < SLOTS) };
        Self { page, ring: Ring::new() }
    }

    /// The ring's address.
    pub(super) const fn base(&self) -> u64 {
        self.page.dma_address()
    }

    /// The tail register's value.
    pub(super) fn tail(&self) -> u32 {
        self.ring.tail() as u32
    }

    /// Since when the device has had the oldest packet that it has not sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.ring.oldest().map(|(_, sending)| sending.since)
    }

    /// How many regions it takes now.
    pub(super) fn room(&self) -> usize {
        self.ring.room()
    }

    /// Gives the device packets from `queue`, as many as there is room for; it sees
    /// them once it is told the tail. What it cannot send is dropped.
    pub(super) fn transmit(
        &mut self,
        queue: &mut PortQueue,
        pools: &mut Pools,
        now: Instant,
        counters: &mut Statistics,
    ) {
        while queue.front().is_some_and(|packet| most(packet) <= self.ring.room()) {
            let Some(packet) = queue.pop() else { break };
            match self.send(packet, pools, now) {
                Ok(len) => {
                    counters.sent += 1;
                    counters.sent_bytes += u64::from(len);
                }
                Err(packet) => {
                    counters.send_refused += 1;
                    pools.give(packet);
                }
            }
        }
    }

    /// Gives the device a packet and returns its length, or hands back one that
    /// cannot be sent.
    fn send(
        &mut self,
        packet: Box<Packet>,
        pools: &Pools,
        now: Instant,
    ) -> Result<u32, Box<Packet>> {
        let Some(regions) = sendable(&packet, pools) else { return Err(packet) };
        let descriptors = describe(&regions);
        let sending = Sending { packet, since: now };
        let first = match self.ring.push(sending, descriptors.len()) {
            Ok(first) => first,
            Err(sending) => return Err(sending.packet),
        };
        for (place, descriptor) in descriptors.iter().enumerate() {
            self.page.page.write((first + place) % SLOTS * DESCRIPTOR, descriptor);
        }
        Ok(len(&regions))
    }

    /// Ends the packets that the device says it has sent.
    pub(super) fn reap(&mut self, pools: &mut Pools) {
        // At most all that are in the ring, whatever the device says.
        while let Some((last, _)) = self.ring.oldest() {
            if self.page.page.load(last * DESCRIPTOR + STATUS) & DD == 0 {
                break;
            }
            let Some(sending) = self.ring.pop() else { break };
            pools.give(sending.packet);
        }
    }

    /// Ends all packets, for a device that can no longer look at them (O-10), and
    /// starts again at slot 0. Returns how many there were.
    pub(super) fn reclaim(&mut self, pools: &mut Pools) -> u64 {
        let mut aborted = 0;
        while let Some(sending) = self.ring.pop() {
            pools.give(sending.packet);
            aborted += 1;
        }
        self.ring.rewind();
        aborted
    }
}

/// The most descriptors that `packet` takes: fewer where its regions touch.
fn most(packet: &Packet) -> usize {
    1 + packet.fragments.len()
}

/// Where a packet lies, if it is one that the device can send as it is.
fn sendable(packet: &Packet, pools: &Pools) -> Option<DmaRegions> {
    if packet.meta.checksum == Checksum::Partial {
        return None;
    }
    let regions = pools.dma_regions(packet)?;
    (SHORTEST..=LONGEST).contains(&len(&regions)).then_some(regions)
}

fn len(regions: &DmaRegions) -> u32 {
    regions.iter().map(|region| region.len).sum()
}

/// A descriptor for each region. The last ends the packet, has the frame's checksum
/// added, and is written back.
fn describe(regions: &DmaRegions) -> Descriptors {
    // An empty one may only stand between packets (7.2.10.1).
    let filled = regions.iter().filter(|region| region.len > 0);
    let mut descriptors: Descriptors =
        filled.map(|region| [region.address, u64::from(region.len)]).collect();
    if let Some([_, command]) = descriptors.last_mut() {
        *command |= EOP | IFCS | RS;
    }
    descriptors
}
