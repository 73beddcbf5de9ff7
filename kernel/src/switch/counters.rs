//! What a switch counts: every packet that came, and what became of it.

use alloc::boxed::Box;
use core::ops::{AddAssign, Index};

use crate::Pools;
use crate::packet::Packet;

/// Why a packet was dropped, or a clone of it never made. The first group is
/// counted at the port it came from, the second at the port it was to go to, or at
/// the slow path, which takes some of the first ([`PuntReason`](super::PuntReason)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// The source address does not name one station.
    BadSource,
    /// The source address belongs to another port.
    Forged,
    /// The destination address is one that bridges do not forward.
    Reserved,
    /// The destination is behind the port it came from.
    SamePort,
    /// There is no other port.
    Nowhere,

    /// The port, be it that it came from or was to go to, is not in the frame's VLAN; or
    /// without its VLAN's tag it would leave with another one.
    Vlan,
    /// Multicast of a group that the guest behind the port has not asked for, while it
    /// wants no other. Not a loss.
    Filtered,
    /// The guest behind the port does not take packets, or the wire is not connected.
    NoCarrier,
    /// Longer than the port's MTU.
    TooLong,
    /// The port's queue was full, or held more packets or buffers than were left.
    QueueFull,
    /// No packet, buffer or page reference was left to share or copy it with.
    Exhausted,
    /// It had to be copied for the slow path and does not fit a buffer.
    TooLongToCopy,
    /// The lender's page could not be copied from.
    CopyFailed,
    /// The checksum had to be made, and there is none in such a packet.
    NoChecksum,
    /// The port took it and could not send it.
    Undelivered,
    /// It waited for the port for too long.
    Expired,
    /// The port was removed.
    Removed,
}

impl DropReason {
    /// All reasons, in their order.
    pub const ALL: [Self; 18] = [
        Self::Runt,
        Self::BadSource,
        Self::Forged,
        Self::Reserved,
        Self::SamePort,
        Self::Nowhere,
        Self::Vlan,
        Self::Filtered,
        Self::NoCarrier,
        Self::TooLong,
        Self::QueueFull,
        Self::Exhausted,
        Self::TooLongToCopy,
        Self::CopyFailed,
        Self::NoChecksum,
        Self::Undelivered,
        Self::Expired,
        Self::Removed,
    ];

    /// The reason's name, as counters are shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::BadSource => "bad-source",
            Self::Forged => "forged",
            Self::Reserved => "reserved",
            Self::SamePort => "same-port",
            Self::Nowhere => "nowhere",
            Self::Vlan => "vlan",
            Self::Filtered => "filtered",
            Self::NoCarrier => "no-carrier",
            Self::TooLong => "too-long",
            Self::QueueFull => "queue-full",
            Self::Exhausted => "exhausted",
            Self::TooLongToCopy => "too-long-to-copy",
            Self::CopyFailed => "copy-failed",
            Self::NoChecksum => "no-checksum",
            Self::Undelivered => "undelivered",
            Self::Expired => "expired",
            Self::Removed => "removed",
        }
    }
}

/// Packets and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// How many packets.
    pub packets: u64,
    /// How many bytes, Ethernet headers included.
    pub bytes: u64,
}

impl Traffic {
    /// Adds packets and their bytes.
    pub const fn add(&mut self, packets: usize, bytes: usize) {
        self.packets += packets as u64;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, Self { packets, bytes }: Self) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// What a port counts, and the slow path as if it were one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// What came from the port.
    pub received: Traffic,
    /// What the port sent.
    pub sent: Traffic,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts and ends a packet: the only way one is dropped.
    pub(super) fn discard(&mut self, reason: DropReason, packet: Box<Packet>, pools: &mut Pools) {
        self.count(reason);
        pools.give(packet);
    }

    /// Counts a packet that was never made.
    pub(super) const fn count(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Counts what a port took from its queue, of which it sent some.
    pub(super) fn took(&mut self, packets: u64, sent: Traffic) {
        self.sent += sent;
        self.dropped[DropReason::Undelivered as usize] += packets.saturating_sub(sent.packets);
    }

    /// The drops by reason, those that happened.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + use<> {
        DropReason::ALL.into_iter().zip(self.dropped).filter(|(_, count)| *count > 0)
    }
}

impl Index<DropReason> for Counters {
    type Output = u64;

    fn index(&self, reason: DropReason) -> &u64 {
        &self.dropped[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut counters = Counters::default();
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(place, reason as usize);
            counters.count(reason);
            assert_eq!(counters[reason], 1);
            let same = DropReason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1);
        }
        assert_eq!(counters.drops().count(), DropReason::ALL.len());
    }
}
