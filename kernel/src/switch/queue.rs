//! Packets waiting for a port.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use xen::Instant;

use crate::packet::Packet;

/// A port's bounded queue, first in first out.
pub struct PortQueue {
    packets: VecDeque<(Instant, Box<Packet>)>,
    bytes: usize,
    limit: usize,
}

impl PortQueue {
    /// A queue of at most `limit` packets; allocates for all of them.
    pub fn new(limit: usize) -> Self {
        Self { packets: VecDeque::with_capacity(limit), bytes: 0, limit }
    }

    /// Adds a packet, or hands it back when the queue is full.
    pub fn push(&mut self, packet: Box<Packet>, now: Instant) -> Result<(), Box<Packet>> {
        if self.packets.len() == self.limit {
            return Err(packet);
        }
        self.bytes += packet.len();
        self.packets.push_back((now, packet));
        Ok(())
    }

    /// The packet at the front.
    pub fn front(&self) -> Option<&Packet> {
        self.packets.front().map(|(_, packet)| &**packet)
    }

    /// The packet at `index` from the front.
    pub fn get(&self, index: usize) -> Option<&Packet> {
        self.packets.get(index).map(|(_, packet)| &**packet)
    }

    /// Since when the packet at the front has waited.
    pub fn oldest(&self) -> Option<Instant> {
        self.packets.front().map(|(since, _)| *since)
    }

    /// Takes the packet at the front.
    pub fn pop(&mut self) -> Option<Box<Packet>> {
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
