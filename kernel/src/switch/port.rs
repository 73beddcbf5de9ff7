//! What a switch has ports to: guests' vifs and the NIC, behind one trait, so that
//! the switch never names a driver.

use alloc::boxed::Box;
use core::fmt;
use core::time::Duration;

use xen::Instant;

use super::PortQueue;
use super::bridge::PinError;
use super::counters::Traffic;
use super::queue::QueueLimits;
use super::vlan::Vlans;
use crate::Pools;
use crate::memory::Buffers;
use crate::packet::{Gso, MacAddress, Packet, Version};

/// Names a port of a switch. No two ports have had the same name since the start,
/// and that of a removed one names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId {
    pub(super) switch: u16,
    pub(super) index: u16,
    pub(super) generation: u32,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.switch, self.index, self.generation)
    }
}

/// What a port is, for as long as it exists, but for what
/// [`Switches::set_segmentation`](super::Switches::set_segmentation) changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The address that only this port may send from: a guest's configured `mac`.
    pub address: Option<MacAddress>,
    /// How many other addresses can be learnt behind it.
    pub addresses: u16,
    /// What it leads to.
    pub kind: PortKind,
    /// The most bytes behind the Ethernet header, VLAN tags aside.
    pub mtu: u16,
    /// How many VLAN tags may come on top; none is looked for behind three.
    pub tags: usize,
    /// Over which version of IP it takes TCP segments that are still to be cut
    /// ([`Gso`]), with their checksum still to be made; an uplink, for its device, those that
    /// [suit one](Gso::suits_a_device). For others the switch cuts them.
    pub segmentation: Versions,
    /// The VLANs it takes part in, where that is configured. If it is for one port of a
    /// switch, all others have VLANs as well: the uplink and links all of them, and any other
    /// VLAN 1.
    pub vlans: Option<Box<Vlans>>,
    /// By which vCPUs' links it gets what goes to all ports. A guest whose queues are spread
    /// over several vCPUs has a port on each, and gets such a frame by one of them.
    pub floods: Vcpus,
    /// How much may wait for it.
    pub queue: QueueLimits,
}

impl PortConfig {
    /// Whether a frame for all ports that came by the link of a vCPU is for this one as well.
    pub(super) const fn is_reached(&self, vcpu: Vcpu) -> bool {
        self.kind.link().is_none() && self.floods.contains(vcpu)
    }

    /// Whether the port takes a TCP segment that is still to be cut.
    pub const fn takes(&self, gso: &Gso) -> bool {
        self.segmentation.over(gso.version)
            && (!matches!(self.kind, PortKind::Uplink) || gso.suits_a_device())
    }
}

/// What a port leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A guest.
    Guest,
    /// Outside, where a station may turn up at any time.
    Uplink,
    /// The switch of the same name on another vCPU, which has ports of its own. What comes
    /// from there was looked at there, and goes to no third one.
    Link(Vcpu),
}

impl PortKind {
    /// The vCPU that it is a link to.
    pub(super) const fn link(self) -> Option<Vcpu> {
        match self {
            Self::Link(vcpu) => Some(vcpu),
            Self::Guest | Self::Uplink => None,
        }
    }
}

/// The number of a vCPU, below [`Vcpus::MOST`].
pub type Vcpu = u8;

/// A set of vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vcpus(u32);

impl Vcpus {
    /// How many vCPUs there can be.
    pub const MOST: usize = 32;
    /// None.
    pub const NONE: Self = Self(0);
    /// All there can be.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether one of them is in it.
    pub const fn contains(self, vcpu: Vcpu) -> bool {
        self.0 & 1 << vcpu != 0
    }

    /// It and one more.
    #[must_use]
    pub const fn with(self, vcpu: Vcpu) -> Self {
        Self(self.0 | 1 << vcpu)
    }

    /// All others.
    #[must_use]
    pub const fn others(self) -> Self {
        Self(!self.0)
    }

    /// Those in it, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Vcpu> {
        (0..Self::MOST as Vcpu).filter(move |vcpu| self.contains(*vcpu))
    }
}

/// Why a switch did not take a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// The switch has all the ports it can have.
    Ports,
    /// There are all the switches there can be.
    Switches,
    /// The port's address cannot be its own.
    Address(PinError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports => f.write_str("the bridge has no port left"),
            Self::Switches => f.write_str("no more bridges can be made"),
            Self::Address(error) => error.fmt(f),
        }
    }
}

/// How a port looks at a guest's page, and for how long at most, by a mechanism that
/// the port names where it says so (NETBACK-SPEC O-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holding {
    /// It never does: it takes packets that lie in our memory only.
    Private,
    /// It copies from where the page is granted.
    Granted(Duration),
    /// A device reads it, where it is mapped.
    Mapped(Duration),
}

/// Versions of IP over which something is done: packets taken with their checksum still to
/// be made ([`Checksum::Partial`](crate::packet::Checksum::Partial)), or still to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Versions {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Versions {
    /// None: the switch does it itself.
    pub const NONE: Self = Self { v4: false, v6: false };
    /// Both.
    pub const ALL: Self = Self { v4: true, v6: true };

    /// Whether it is done over this one.
    pub const fn over(self, version: Version) -> bool {
        match version {
            Version::V4 => self.v4,
            Version::V6 => self.v6,
        }
    }
}

/// The far side of a switch's port.
///
/// The switch calls [`transmit`](Self::transmit) with nothing in the queue that
/// the port does not take: what [`holding`](Self::holding) and
/// [`partial_checksums`](Self::partial_checksums) say must not change while the
/// port is part of a switch.
pub trait Port {
    /// Sends from the front of `queue` what can be sent now, in order, and leaves
    /// the rest. Packets that end here go back to `pools`. Returns what was sent: what
    /// else left the queue could not be.
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant) -> Traffic;

    /// How the port holds lent pages, and for how long.
    fn holding(&self) -> Holding;

    /// How many regions of memory ([`Pools::dma_regions`]) the device behind the port
    /// takes at once now. Of no meaning where nothing is [`Holding::Mapped`].
    fn room(&self) -> usize {
        0
    }

    /// How many lanes lead to the far side, at most [`MAX_LANES`](super::MAX_LANES). What
    /// waits for one that does not get on holds up nothing in the others: the port takes
    /// from the queue [by lane](PortQueue::lane), and each has its share of that.
    fn lanes(&self) -> u8 {
        1
    }

    /// Whether the port is to be asked for each packet's lane: a port of one lane has no
    /// need of that, but may have a use for it.
    fn steers(&self) -> bool {
        self.lanes() > 1
    }

    /// The lane of a packet, asked once, when it is new in the queue; `None` where nothing
    /// gets on there, so that it is dropped. What the port wants to know of the packet
    /// later it notes in its [`Meta`](crate::packet::Meta).
    fn steer(&self, _packet: &mut Packet, _buffers: &Buffers) -> Option<u8> {
        Some(0)
    }

    /// Which packets it takes without a finished checksum. One that does not hold
    /// pages as [`Holding::Granted`] has a device make it, and gets only those in which
    /// the device finds its way ([`checksum::locate`](crate::packet::checksum::locate)),
    /// with the pseudo-header's sum in the field. Where they are still to be cut
    /// ([`PortConfig::segmentation`]), nobody else looks at their headers, which are for the
    /// port to make a device's [`Prototype`](crate::packet::Prototype) of.
    fn partial_checksums(&self) -> Versions;
}

/// Where the switch finds what is behind its ports.
pub trait Ports {
    /// What is behind a port; `None` while nothing is, so that its packets wait
    /// until they expire.
    fn port(&mut self, id: PortId) -> Option<&mut dyn Port>;
}
