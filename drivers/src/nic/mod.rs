//! NICs: what the domain asks of one, and what their drivers share.
//!
//! A NIC is a switch's port towards the wire. Its driver lends memory to the device
//! and takes it back; what the device says in between is checked like anything else
//! that comes from outside. Nothing here waits: [`Nic::watchdog`] takes one step.

mod buffers;
pub mod e1000e;
mod ring;

use core::fmt;

use kernel::Pools;
use kernel::packet::{Batch, ETHERNET_HEADER, MacAddress, VLAN_TAG};
use kernel::switch::{Port, Versions};
use xen::Instant;

pub use buffers::{BufferProvider, PoolBuffers, Window};

/// The largest IP packet that a NIC sends and receives: of a jumbo frame.
pub const MTU: u16 = 9000;

/// The longest frame that a NIC sends and receives, without its checksum: that with one VLAN
/// tag.
pub const LONGEST: u16 = MTU + ETHERNET_HEADER as u16 + VLAN_TAG as u16;

/// A driver. Sending is [`Port::transmit`]; it takes packets all of which the device
/// can read ([`Pools::dma_regions`]) and whose checksum is made or can be made by it,
/// and drops others, counted. While it is not [`Status::Running`] or has no
/// [`link`](Self::link), it takes none.
pub trait Nic: Port {
    /// Starts to bring the device up; [`watchdog`](Self::watchdog) goes on with it.
    fn start(&mut self, now: Instant);

    /// Starts to take the device down. Once [`Status::Stopped`], every buffer is
    /// back where it came from.
    fn stop(&mut self, now: Instant);

    /// Takes the next step of bringing the device up or down, and while it runs,
    /// once in a while, looks whether it still does. Cheap enough for every pass of
    /// the loop; needed without pause while [`Status::Changing`], and otherwise at
    /// [`deadline`](Self::deadline).
    fn watchdog(&mut self, pools: &mut Pools, now: Instant) -> Status;

    /// When the watchdog has something to do; `None` when never.
    fn deadline(&self) -> Option<Instant>;

    /// Moves received packets into `batch`, as many as fit. Returns whether more
    /// may be waiting.
    fn receive(&mut self, batch: &mut Batch, pools: &mut Pools) -> bool;

    /// Ends packets that have been sent.
    fn reap(&mut self, pools: &mut Pools);

    /// Takes note, in the loop, that an interrupt message came. The message may be
    /// one too many.
    fn acknowledge(&mut self, cause: Cause);

    /// Lets the device interrupt again. Afterwards receive and reap once more
    /// before sleeping: what came in between need not interrupt. Until the next
    /// message is acknowledged, whatever is sent will interrupt once it is done.
    fn rearm(&mut self);

    /// Whether the device must be looked at without being asked to, since its
    /// interrupts do not come, or have not been seen to.
    fn is_polled(&self) -> bool;

    /// The device's own address; all zeros before it first ran.
    fn mac(&self) -> MacAddress;

    /// Over which version of IP the device cuts TCP segments
    /// ([`PortConfig::segmentation`](kernel::switch::PortConfig::segmentation)).
    fn segmentation(&self) -> Versions;

    /// The link, as last seen.
    fn link(&self) -> Link;

    /// What was counted since the start.
    fn statistics(&self) -> Statistics;
}

/// What an interrupt message is about; message `n` of a driver is of cause `n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Packets received or sent.
    Queues,
    /// The link, mostly.
    Other,
}

/// How a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Down, nothing lent to it.
    Stopped,
    /// On its way up or down.
    Changing,
    /// Up.
    Running,
    /// Given up for now, to be tried again in a while.
    Failed(Fault),
}

/// Why a device does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its registers or its configuration space read ones.
    Gone,
    /// A reset does not finish.
    Reset,
    /// Its Command register does not take a change.
    Command,
    /// It has no address of its own.
    NoAddress,
    /// There are not enough receive buffers.
    NoBuffers,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "it does not answer",
            Self::Reset => "its reset does not finish",
            Self::Command => "its Command register does not take a change",
            Self::NoAddress => "it has no Ethernet address",
            Self::NoBuffers => "there are not enough receive buffers for it",
        })
    }
}

impl core::error::Error for Fault {}

/// A link's state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Link {
    /// No partner.
    #[default]
    Down,
    /// A partner.
    Up {
        /// Megabits per second.
        speed: u32,
        /// Whether both sides can send at once.
        full_duplex: bool,
    },
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => write!(f, "down"),
            Self::Up { speed, full_duplex } => {
                write!(f, "{speed} Mbit/s {} duplex", if *full_duplex { "full" } else { "half" })
            }
        }
    }
}

/// What a driver counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Packets received and handed on.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Those of them whose TCP or UDP checksum the device found right.
    pub received_checksums: u64,
    /// Those of them whose TCP or UDP checksum, or that of whose IP header, is wrong.
    pub receive_bad_checksums: u64,
    /// Received frames that the device marked as broken.
    pub receive_errors: u64,
    /// Frames that cannot be, by their descriptors: too long, too short, or in pieces that
    /// do not make one.
    pub receive_malformed: u64,
    /// Received frames dropped for want of a buffer or a packet.
    pub receive_no_buffer: u64,
    /// Packets sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Those of them whose checksum the device made.
    pub sent_checksums: u64,
    /// Those of these that the device cut into segments.
    pub sent_to_be_cut: u64,
    /// Packets refused: of a wrong length, out of the device's reach, with a checksum
    /// that the device cannot make.
    pub send_refused: u64,
    /// Packets whose sending a reset cut short.
    pub send_aborted: u64,
    /// Interrupt messages.
    pub interrupts: u64,
    /// Resets, the first included.
    pub resets: u64,
    /// Resets because a packet was not sent in time.
    pub stalls: u64,
    /// How often the link went down while the device ran.
    pub links_lost: u64,
    /// Resets because the link went down before all packets were sent.
    pub flushes: u64,
    /// Resets because Xen had taken bus mastering away: ten faults in the IOMMU
    /// (NETBACK-SPEC H-13).
    pub mastering_lost: u64,
    /// What the device itself counts.
    pub device: DeviceStatistics,
}

/// What a device counts at the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceStatistics {
    /// Good frames received.
    pub received: u64,
    /// Good frames sent.
    pub sent: u64,
    /// Frames missed for want of a descriptor or of room inside.
    pub missed: u64,
    /// Frames with a wrong checksum.
    pub checksum_errors: u64,
    /// Frames of a wrong length: fragments, undersized, oversized, jabber.
    pub length_errors: u64,
    /// Frames with other errors at the wire.
    pub other_errors: u64,
}
