//! A packet on its way through the domain.

pub mod checksum;
pub mod flow;
mod headers;
mod mac;

use alloc::boxed::Box;

use xen::LocalRegion;

use crate::memory::{Buffer, Buffers};
use crate::pages::{Hold, ShardId};

pub use headers::{
    Addresses, ETHERNET_HEADER, Ethernet, HeaderError, Ip, Protocol, Transport, VLAN_TAG, Version,
};
pub use mac::{MacAddress, MalformedMac};

/// The most fragments a packet has: one per slot of a request, the first and 18
/// more (P-9).
pub const MAX_FRAGMENTS: usize = 19;

/// What is known of a packet's transport checksum (P-14).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Checksum {
    /// There, and nobody vouches for it.
    #[default]
    Unknown,
    /// There and found right.
    Validated,
    /// Still to be made: the field holds the pseudo-header's sum. Never verified;
    /// made before the wire or a peer that does not take it.
    Partial,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Meta {
    /// The state of the transport checksum.
    pub checksum: Checksum,
    /// The hash of its flow that the guest it is for asked to be told.
    pub hash: Option<flow::Hash>,
}

/// Bytes of our own memory.
#[derive(Debug)]
pub struct Linear {
    /// The cell they are in.
    pub buffer: Buffer,
    /// Where in the cell they begin.
    pub offset: u16,
    /// How many.
    pub len: u16,
}

impl Linear {
    /// The bytes.
    pub fn bytes<'a>(&self, buffers: &'a Buffers) -> &'a [u8] {
        let start = usize::from(self.offset);
        buffers.bytes(&self.buffer).get(start..start + usize::from(self.len)).unwrap_or(&[])
    }

    /// Where they lie in RAM.
    pub fn region(&self, buffers: &Buffers) -> Option<LocalRegion> {
        let start = usize::from(self.offset);
        buffers.region(&self.buffer, start..start + usize::from(self.len))
    }
}

/// Bytes of a page that a guest lends. Never written by us (O-5).
#[derive(Debug)]
pub struct Fragment {
    /// Our part in holding the page.
    pub hold: Hold,
    /// Where in the page they begin.
    pub offset: u16,
    /// How many; they do not leave the page.
    pub len: u16,
}

impl Fragment {
    /// Our part in holding the page.
    pub const fn hold(&self) -> &Hold {
        &self.hold
    }
}

/// A packet: headers in our memory (validated there and sent from there, O-6),
/// then what of the payload stayed in lent pages.
///
/// Packets come from and return to [`Pools`](crate::Pools); they are not cloned
/// but shared there, hold by hold.
#[derive(Default, Debug)]
pub struct Packet {
    /// The first bytes, all headers among them.
    pub linear: Option<Linear>,
    /// The rest, in order.
    pub fragments: heapless::Vec<Fragment, MAX_FRAGMENTS>,
    /// What else is known.
    pub meta: Meta,
}

impl Packet {
    /// The bytes in our memory: at least the headers that decide a packet's way.
    pub fn headers<'a>(&self, buffers: &'a Buffers) -> &'a [u8] {
        self.linear.as_ref().map_or(&[], |linear| linear.bytes(buffers))
    }

    /// The whole packet's length in bytes.
    pub fn len(&self) -> usize {
        self.linear.as_ref().map_or(0, |linear| usize::from(linear.len)) + self.lent()
    }

    /// How many bytes of it are in lent pages.
    pub fn lent(&self) -> usize {
        self.fragments.iter().map(|fragment| usize::from(fragment.len)).sum()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the packet lies whole in our memory, so that it can be kept for as
    /// long as one likes.
    pub fn is_private(&self) -> bool {
        self.fragments.is_empty()
    }

    /// The queue whose pages it borrows, where it borrows any.
    pub fn lender(&self) -> Option<ShardId> {
        self.fragments.first().map(|fragment| fragment.hold.lender())
    }
}

/// The most packets in one batch.
pub const BATCH: usize = 64;

/// Packets that go one way together. Full when [`BATCH`] are in it.
pub type Batch = heapless::Deque<Box<Packet>, BATCH>;
