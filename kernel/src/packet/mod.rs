//! A packet on its way through the domain.

mod aggregate;
pub mod checksum;
pub mod flow;
mod gso;
mod headers;
mod mac;

use alloc::boxed::Box;

use xen::LocalRegion;

use crate::memory::{Buffer, Buffers};
use crate::pages::{Hold, ShardId};

pub use aggregate::aggregate;
pub use gso::{Gso, GsoError, Prototype, Segments};
pub use headers::{
    Addresses, ETHERNET_HEADER, Ethernet, HeaderError, Ip, Protocol, Transport, VLAN_TAG, Version,
};
pub use mac::{MacAddress, MalformedMac};

/// The most fragments of lent pages that a packet has: one per slot of a request, the
/// first and 18 more (P-9).
pub const MAX_LENT_FRAGMENTS: usize = 19;
/// The most that the longest packet (P-8) has in buffers of ours.
pub const MAX_OWN_FRAGMENTS: usize = 32;
/// The most of any kind: where headers get a buffer of their own, what was behind them in
/// theirs is one more.
pub const MAX_FRAGMENTS: usize = MAX_OWN_FRAGMENTS + 1;

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
    /// The state of the transport checksum; [`Checksum::Partial`] where segmentation is
    /// left to be done.
    pub checksum: Checksum,
    /// The segmentation that is left to be done.
    pub gso: Option<Gso>,
    /// Whether it came from outside, by whatever vCPU's uplink.
    pub outside: bool,
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

/// Where a fragment's bytes are.
#[derive(Debug)]
pub enum Bytes {
    /// In a page that a guest lends, by our part in holding it. Never written by us (O-5).
    Lent(Hold),
    /// In a buffer of ours.
    Own(Buffer),
}

/// A piece of a packet's payload.
#[derive(Debug)]
pub struct Fragment {
    /// Where its bytes are.
    pub bytes: Bytes,
    /// Where in the page, or in the buffer, they begin.
    pub offset: u16,
    /// How many; they do not leave it.
    pub len: u16,
}

impl Fragment {
    /// Bytes of a lent page.
    pub const fn lent(hold: Hold, offset: u16, len: u16) -> Self {
        Self { bytes: Bytes::Lent(hold), offset, len }
    }

    /// Bytes of a buffer of ours.
    pub const fn own(buffer: Buffer, offset: u16, len: u16) -> Self {
        Self { bytes: Bytes::Own(buffer), offset, len }
    }

    /// Our part in holding the page, where it is a lent one.
    pub const fn hold(&self) -> Option<&Hold> {
        match &self.bytes {
            Bytes::Lent(hold) => Some(hold),
            Bytes::Own(_) => None,
        }
    }

    /// The buffer, where it is one of ours.
    pub const fn buffer(&self) -> Option<&Buffer> {
        match &self.bytes {
            Bytes::Lent(_) => None,
            Bytes::Own(buffer) => Some(buffer),
        }
    }

    /// The bytes, where they are ours.
    pub fn bytes<'a>(&self, buffers: &'a Buffers) -> &'a [u8] {
        let start = usize::from(self.offset);
        let cell = self.buffer().map_or(&[][..], |buffer| buffers.bytes(buffer));
        cell.get(start..start + usize::from(self.len)).unwrap_or(&[])
    }

    /// Where the bytes lie in RAM, where that is ours.
    pub fn region(&self, buffers: &Buffers) -> Option<LocalRegion> {
        let start = usize::from(self.offset);
        buffers.region(self.buffer()?, start..start + usize::from(self.len))
    }
}

/// A packet: headers in our memory (validated there and sent from there, O-6),
/// then the rest of the payload: what stayed in lent pages, or in more memory of ours.
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

    /// Whether nobody else looks at the bytes in our memory, so that they can be changed.
    pub fn owns_headers(&mut self, buffers: &mut Buffers) -> bool {
        let linear = self.linear.as_mut();
        linear.is_some_and(|linear| buffers.bytes_mut(&mut linear.buffer).is_some())
    }

    /// Sees that the pseudo-header's sum is in the field of a checksum that is still to be
    /// made; `false` where there is no such field that a device can be told of, or it is not
    /// to be changed. Frontends put the sum there, but it is not for them to say; where it is
    /// right already, others may look at the same bytes.
    pub fn seed_checksum(&mut self, buffers: &mut Buffers) -> bool {
        let Some(insertion) = checksum::locate(self.headers(buffers), self.len()) else {
            return false;
        };
        let Some(linear) = self.linear.as_mut() else { return false };
        let field = usize::from(linear.offset) + usize::from(insertion.field);
        let field = field..field + 2;
        if buffers.bytes(&linear.buffer).get(field.clone()) == Some(&insertion.seed) {
            return true;
        }
        let cell = buffers.bytes_mut(&mut linear.buffer);
        let Some(bytes) = cell.and_then(|cell| cell.get_mut(field)) else { return false };
        bytes.copy_from_slice(&insertion.seed);
        true
    }

    /// The whole packet's length in bytes.
    pub fn len(&self) -> usize {
        let rest = self.fragments.iter().map(|fragment| usize::from(fragment.len));
        self.linear.as_ref().map_or(0, |linear| usize::from(linear.len)) + rest.sum::<usize>()
    }

    /// How many bytes of it are in lent pages.
    pub fn lent(&self) -> usize {
        let lent = self.fragments.iter().filter(|fragment| fragment.hold().is_some());
        lent.map(|fragment| usize::from(fragment.len)).sum()
    }

    /// The lent pages that it borrows, one for each fragment in one.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> + Clone {
        self.fragments.iter().filter_map(Fragment::hold)
    }

    /// The buffers of ours that it lies in.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        let headers = self.linear.iter().map(|linear| &linear.buffer);
        headers.chain(self.fragments.iter().filter_map(Fragment::buffer))
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the packet lies whole in our memory, so that it can be kept for as
    /// long as one likes.
    pub fn is_private(&self) -> bool {
        self.holds().next().is_none()
    }

    /// The queue whose pages it borrows, where it borrows any.
    pub fn lender(&self) -> Option<ShardId> {
        self.holds().next().map(Hold::lender)
    }
}

/// The most packets in one batch.
pub const BATCH: usize = 64;

/// Packets that go one way together. Full when [`BATCH`] are in it.
pub type Batch = heapless::Deque<Box<Packet>, BATCH>;
