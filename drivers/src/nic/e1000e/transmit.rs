//! Sending: a ring of descriptors (7.2), one for each region of memory that a packet
//! lies in. Pages at adjacent frames that a packet goes through are one region; to QEMU's
//! device each is told of by a descriptor of its own.
//!
//! Where the device makes a packet's checksum, or cuts it, its descriptors are of the
//! extended format (7.2.10.3), and a context descriptor (7.2.10.2) before them says how
//! ([`offload`](super::offload)). The device keeps the last context, and waits for all
//! packets before it when it gets another (7.2.6), so it only gets one that differs.
//! Packets that need none have legacy descriptors (7.2.10.1).
//!
//! A packet moves into the ring whole, with the pages it borrows, and leaves it whole:
//! once the device has written back the last of its descriptors, or after a reset
//! (NETBACK-SPEC O-10).

use alloc::boxed::Box;
use core::iter;

use kernel::defect::{self, Defect};
use kernel::memory::{Buffers, DmaPage};
use kernel::packet::{Checksum, ETHERNET_HEADER, MAX_FRAGMENTS, Packet, checksum};
use kernel::switch::{PortQueue, Traffic};
use kernel::{DmaRegion, Pools};
use xen::{Instant, PAGE_SIZE};

use super::SLOTS;
use super::offload::Offload;
use crate::nic::ring::Ring;
use crate::nic::{LONGEST, Statistics};

const DESCRIPTOR: usize = 16;
/// The status, in the upper half of a descriptor's second word.
const STATUS: usize = 12;
const DD: u32 = 1 << 0;
/// In the second word, which begins with the length in all formats: the command.
const EOP: u64 = 1 << 24;
const IFCS: u64 = 1 << 25;
const RS: u64 = 1 << 27;

/// The shortest frame of an Ethernet, without its checksum.
const SHORTEST: usize = 60;
/// The shortest frame that the device pads (10.2.6.1, PSP): less than 17 bytes is
/// less than it can send.
const SHORTEST_PADDED: usize = 17;

/// The most that a descriptor tells of: less than a legacy one can (7.2.10.1.2), and less
/// than there is room for inside the device.
const LONGEST_PIECE: u32 = 8 << 10;
/// Beyond all memory.
const NO_BOUNDARY: u64 = 1 << 63;

/// The most descriptors that a packet takes: a context, and one for each region, since none
/// of the pieces it lies in is longer than a page or in two.
const MOST: usize = 2 + MAX_FRAGMENTS;

pub(super) type Descriptor = [u64; 2];

/// A packet that the device has.
struct Sending {
    packet: Box<Packet>,
    since: Instant,
}

/// What the device is told of a packet.
struct Orders {
    /// The context, where the device has another.
    context: Option<Descriptor>,
    data: heapless::Vec<Descriptor, { 1 + MAX_FRAGMENTS }>,
}

/// The transmit queue.
pub(super) struct Transmitter {
    page: DmaPage,
    ring: Ring<Sending, SLOTS>,
    /// The context descriptor that the device got last.
    context: Option<Descriptor>,
    /// No descriptor's memory crosses a multiple of this.
    boundary: u64,
}

impl Transmitter {
    /// QEMU's device needs what a descriptor tells of in one piece, and behind the IOMMU
    /// only a page is sure to be one; where it is not, that device loses the packet.
    pub(super) fn new(page: DmaPage, emulated: bool) -> Self {
        // So every packet fits an empty ring.
        const { assert!(MOST < SLOTS) };
        let boundary = if emulated { PAGE_SIZE as u64 } else { NO_BOUNDARY };
        Self { page, ring: Ring::new(), context: None, boundary }
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

    /// How many regions it takes now, even if each is a packet with a context of its
    /// own.
    pub(super) fn room(&self) -> usize {
        self.ring.room() / 2
    }

    /// Gives the device packets from `queue`, as many as there is room for; it sees
    /// them once it is told the tail. What it cannot send is dropped; what it can is
    /// returned.
    pub(super) fn transmit(
        &mut self,
        queue: &mut PortQueue,
        pools: &mut Pools,
        now: Instant,
        counters: &mut Statistics,
    ) -> Traffic {
        let mut sent = Traffic::default();
        while queue.front().is_some_and(|packet| most(packet) <= self.ring.room()) {
            let Some(mut packet) = queue.pop() else { break };
            let len = packet.len();
            pad(&mut packet, &mut pools.buffers);
            let offloaded = packet.meta.checksum == Checksum::Partial;
            let cut = packet.meta.gso.is_some();
            match self.send(packet, pools, now) {
                Ok(()) => {
                    sent.add(1, len);
                    counters.sent_checksums += u64::from(offloaded);
                    counters.sent_to_be_cut += u64::from(cut);
                }
                Err(packet) => {
                    counters.send_refused += 1;
                    pools.give(packet);
                }
            }
        }
        counters.sent += sent.packets;
        counters.sent_bytes += sent.bytes;
        sent
    }

    /// Gives the device a packet, or hands back one that it cannot send.
    fn send(
        &mut self,
        mut packet: Box<Packet>,
        pools: &mut Pools,
        now: Instant,
    ) -> Result<(), Box<Packet>> {
        let Some(orders) = self.orders(&mut packet, pools) else { return Err(packet) };
        let Orders { context, data } = orders;
        let count = usize::from(context.is_some()) + data.len();
        let first = match self.ring.push(Sending { packet, since: now }, count) {
            Ok(first) => first,
            Err(sending) => return Err(sending.packet),
        };
        for (place, descriptor) in context.iter().chain(&data).enumerate() {
            self.page.page.write((first + place) % SLOTS * DESCRIPTOR, descriptor);
        }
        self.context = context.or(self.context);
        Ok(())
    }

    /// What to tell the device of `packet`, if it is one that it can send.
    fn orders(&self, packet: &mut Packet, pools: &mut Pools) -> Option<Orders> {
        let regions = pools.dma_regions(packet)?;
        let len = packet.len();
        let frame = packet.meta.gso.map_or(len, |gso| gso.longest());
        if len < SHORTEST_PADDED || frame > LONGEST.into() {
            return None;
        }
        let offload = match packet.meta.checksum {
            Checksum::Partial => Some(Offload::of(packet, &mut pools.buffers)?),
            Checksum::Unknown | Checksum::Validated => None,
        };
        let options = offload.as_ref().map_or(0, |offload| offload.options);
        let fresh = |offload: &Offload| offload.is_once() || self.context != Some(offload.context);
        let context = offload.filter(fresh).map(|offload| offload.context);
        let mut orders = Orders { context, data: heapless::Vec::new() };
        let pieces = regions.iter().flat_map(|region| pieces(region, self.boundary));
        for DmaRegion { address, len } in pieces {
            orders.data.push([address, options | u64::from(len)]).ok()?;
        }
        let [_, last] = orders.data.last_mut()?;
        *last |= EOP | IFCS | RS;
        Some(orders)
    }

    /// Ends the packets that the device says it has sent.
    pub(super) fn reap(&mut self, pools: &mut Pools) {
        // At most all that are in the ring, whatever the device says.
        while let Some((last, _)) = self.ring.oldest() {
            let done = self.page.page.load(last * DESCRIPTOR + STATUS) & DD != 0;
            if !done && !defect::is(Defect::EndsPacketsAtOnce) {
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
        // A reset device has none.
        self.context = None;
        aborted
    }
}

/// Fills a short frame up with zeros where it is in memory that nobody else looks at.
/// Others are left to the device, which makes no difference on the wire. Padding does
/// not count in a checksum, so that is made before.
fn pad(packet: &mut Packet, buffers: &mut Buffers) {
    let len = packet.len();
    if !packet.fragments.is_empty() || !(ETHERNET_HEADER..SHORTEST).contains(&len) {
        return;
    }
    let Some(linear) = packet.linear.as_mut() else { return };
    let start = usize::from(linear.offset);
    let cell = buffers.bytes_mut(&mut linear.buffer);
    let Some(frame) = cell.and_then(|cell| cell.get_mut(start..start + SHORTEST)) else { return };
    let (bytes, padding) = frame.split_at_mut(len);
    if packet.meta.checksum == Checksum::Partial {
        if checksum::finish(bytes).is_err() {
            return;
        }
        packet.meta.checksum = Checksum::Validated;
    }
    padding.fill(0);
    linear.len = SHORTEST as u16;
}

/// A region in pieces of which each is not too long and does not cross a multiple of
/// `boundary`, with nothing of an empty one, which may only stand between packets
/// (7.2.10.1).
fn pieces(region: &DmaRegion, boundary: u64) -> impl Iterator<Item = DmaRegion> + use<> {
    let DmaRegion { mut address, len: mut left } = *region;
    iter::from_fn(move || {
        let here = boundary - address % boundary;
        let here = u32::try_from(here).unwrap_or(u32::MAX);
        let len = left.min(here).min(LONGEST_PIECE);
        let piece = (len > 0).then_some(DmaRegion { address, len });
        address += u64::from(len);
        left -= len;
        piece
    })
}

/// The most descriptors that `packet` takes: one fewer where the device has its
/// context.
fn most(packet: &Packet) -> usize {
    let context = packet.meta.checksum == Checksum::Partial;
    usize::from(context) + 1 + packet.fragments.len()
}
