//! Entries of a vif's rings (netif.h; NETBACK-SPEC P-2, P-7, P-11, P-17).
//!
//! TX and RX are the frontend's: a transmit request is what a guest sends.

use core::mem::offset_of;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bindings::*;

bitflags! {
    /// Flags of a transmit request's first slot; later ones have `MORE_DATA` only.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TxFlags: u16 {
        /// The transport checksum is still to be made.
        const CSUM_BLANK = NETTXF_csum_blank as u16;
        /// The sender vouches for the data.
        const DATA_VALIDATED = NETTXF_data_validated as u16;
        /// Another data slot follows.
        const MORE_DATA = NETTXF_more_data as u16;
        /// An extra-info slot follows.
        const EXTRA_INFO = NETTXF_extra_info as u16;
    }

    /// Flags of a receive response. Not the same bits as [`TxFlags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RxFlags: u16 {
        /// The data was validated on its way.
        const DATA_VALIDATED = NETRXF_data_validated as u16;
        /// The transport checksum is still to be made.
        const CSUM_BLANK = NETRXF_csum_blank as u16;
        /// Another slot of the same packet follows.
        const MORE_DATA = NETRXF_more_data as u16;
        /// An extra-info slot follows.
        const EXTRA_INFO = NETRXF_extra_info as u16;
    }

    /// Flags of an extra-info slot.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExtraFlags: u8 {
        /// Another extra-info slot follows.
        const MORE = XEN_NETIF_EXTRA_FLAG_MORE as u8;
    }
}

/// A request's outcome (`XEN_NETIF_RSP_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i16)]
pub enum Status {
    /// It was accepted.
    Okay = 0,
    /// It was an extra-info slot, which has no outcome.
    Null = 1,
    /// It was refused.
    Error = -1,
    /// It was dropped.
    Dropped = -2,
}

/// A slot of the transmit ring as it was copied out: a request or extra info, as
/// the slot before it says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TxSlot([u8; 12]);

impl TxSlot {
    /// The slot as a request.
    pub fn request(self) -> TxRequest {
        zerocopy::transmute!(self.0)
    }

    /// The slot as extra info, which is shorter.
    pub fn extra(self) -> ExtraInfo {
        let [kind, flags, data @ ..] = self.0;
        let [a, b, c, d, e, f, ..] = data;
        ExtraInfo { kind, flags, data: [a, b, c, d, e, f] }
    }
}

impl From<TxRequest> for TxSlot {
    fn from(request: TxRequest) -> Self {
        Self(zerocopy::transmute!(request))
    }
}

impl From<ExtraInfo> for TxSlot {
    fn from(extra: ExtraInfo) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(extra.as_bytes());
        Self(bytes)
    }
}

/// A transmit request: bytes of a page that the guest lends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TxRequest {
    /// The page.
    pub gref: u32,
    /// Where in the page the bytes begin.
    pub offset: u16,
    flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// How many bytes; in a first slot, the whole packet's.
    pub size: u16,
}

impl TxRequest {
    /// A request.
    pub fn new(gref: u32, offset: u16, flags: TxFlags, id: u16, size: u16) -> Self {
        Self { gref, offset, flags: flags.bits(), id, size }
    }

    /// The flags that have a meaning.
    pub fn flags(&self) -> TxFlags {
        TxFlags::from_bits_truncate(self.flags)
    }
}

/// The answer to a transmit request.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TxResponse {
    /// The request's.
    pub id: u16,
    /// A [`Status`].
    pub status: i16,
}

/// A receive request: a page that the guest offers to be filled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Unused.
    pub pad: u16,
    /// The page.
    pub gref: u32,
}

/// The answer to a receive request.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RxResponse {
    /// The request's.
    pub id: u16,
    /// Where in the page the bytes begin.
    pub offset: u16,
    flags: u16,
    /// How many bytes, or a negative [`Status`].
    pub status: i16,
}

impl RxResponse {
    /// A response.
    pub fn new(id: u16, offset: u16, flags: RxFlags, status: i16) -> Self {
        Self { id, offset, flags: flags.bits(), status }
    }

    /// The flags that have a meaning.
    pub fn flags(&self) -> RxFlags {
        RxFlags::from_bits_truncate(self.flags)
    }

    /// The response as extra info, which it is where the one before it says so.
    pub fn extra(self) -> ExtraInfo {
        zerocopy::transmute!(self)
    }
}

impl From<ExtraInfo> for RxResponse {
    /// Extra info as it stands in a slot of the receive ring.
    fn from(extra: ExtraInfo) -> Self {
        zerocopy::transmute!(extra)
    }
}

/// Extra info beside a packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExtraInfo {
    /// An [`ExtraType`], if such a type exists.
    pub kind: u8,
    flags: u8,
    /// What it says, by its type.
    pub data: [u8; 6],
}

impl ExtraInfo {
    /// Extra info.
    pub fn new(kind: u8, flags: ExtraFlags, data: [u8; 6]) -> Self {
        Self { kind, flags: flags.bits(), data }
    }

    /// The same, with more behind it.
    pub fn set_more(&mut self) {
        self.flags |= ExtraFlags::MORE.bits();
    }

    /// Segmentation into so many bytes of payload each, of a kind that should be a
    /// [`GsoType`]'s.
    pub fn gso(kind: u8, size: u16) -> Self {
        let [low, high] = size.to_le_bytes();
        let data = [low, high, kind, 0, 0, 0];
        Self::new(XEN_NETIF_EXTRA_TYPE_GSO as u8, ExtraFlags::empty(), data)
    }

    /// What it says if it is of [`ExtraType::Gso`].
    pub fn segmentation(&self) -> Segmentation {
        let [low, high, kind, ..] = self.data;
        Segmentation { size: u16::from_le_bytes([low, high]), kind }
    }

    /// How many bytes are free before a packet's in its pages, for XDP (P-23).
    pub fn xdp(headroom: u16) -> Self {
        let [low, high] = headroom.to_le_bytes();
        Self::new(XDP as u8, ExtraFlags::empty(), [low, high, 0, 0, 0, 0])
    }

    /// A packet's hash of this type (the number of a `XEN_NETIF_CTRL_HASH_TYPE_*` flag).
    pub fn hash(kind: u8, algorithm: HashAlgorithm, value: u32) -> Self {
        let [a, b, c, d] = value.to_le_bytes();
        let data = [kind, algorithm as u8, a, b, c, d];
        Self::new(XEN_NETIF_EXTRA_TYPE_HASH as u8, ExtraFlags::empty(), data)
    }

    /// The flags that have a meaning.
    pub fn flags(&self) -> ExtraFlags {
        ExtraFlags::from_bits_truncate(self.flags)
    }

    /// Its type; `None` where there is no such type.
    pub fn extra_type(&self) -> Option<ExtraType> {
        Some(match u32::from(self.kind) {
            XEN_NETIF_EXTRA_TYPE_GSO => ExtraType::Gso,
            XEN_NETIF_EXTRA_TYPE_MCAST_ADD => ExtraType::McastAdd,
            XEN_NETIF_EXTRA_TYPE_MCAST_DEL => ExtraType::McastDel,
            XEN_NETIF_EXTRA_TYPE_HASH => ExtraType::Hash,
            XDP => ExtraType::Xdp,
            _ => return None,
        })
    }
}

/// What Linux's header adds to Xen's list of extra types (P-11).
const XDP: u32 = 5;

/// What extra info is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtraType {
    /// Segmentation left to be done.
    Gso,
    /// A multicast address to receive.
    McastAdd,
    /// A multicast address to receive no longer.
    McastDel,
    /// The flow's hash.
    Hash,
    /// Headroom for XDP.
    Xdp,
}

/// Segmentation left to be done, as extra info says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// The most bytes of payload in a segment.
    pub size: u16,
    /// A [`GsoType`], if such a type exists.
    pub kind: u8,
}

/// What is to be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoType {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

impl GsoType {
    /// The type of this number; `None` where there is no such type.
    pub fn new(number: u8) -> Option<Self> {
        match u32::from(number) {
            XEN_NETIF_GSO_TYPE_TCPV4 => Some(Self::TcpV4),
            XEN_NETIF_GSO_TYPE_TCPV6 => Some(Self::TcpV6),
            _ => None,
        }
    }

    /// The type's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::TcpV4 => XEN_NETIF_GSO_TYPE_TCPV4 as u8,
            Self::TcpV6 => XEN_NETIF_GSO_TYPE_TCPV6 as u8,
        }
    }
}

/// What a control request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlType {
    /// Which kinds of hash there are.
    GetHashFlags,
    /// Which kinds of hash are to be made.
    SetHashFlags,
    /// The hash's key, in a page of the frontend's.
    SetHashKey,
    /// How many entries the table of queues may have.
    GetHashMappingSize,
    /// How many entries the table of queues has.
    SetHashMappingSize,
    /// The queues of some of its entries, in a page of the frontend's.
    SetHashMapping,
    /// The hash's algorithm, or none.
    SetHashAlgorithm,
}

/// How a control request ended (`XEN_NETIF_CTRL_STATUS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ControlStatus {
    /// It was done.
    Success = XEN_NETIF_CTRL_STATUS_SUCCESS,
    /// There is no such request, or not now.
    NotSupported = XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
    /// What it says cannot be.
    InvalidParameter = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
    /// It says more than there is room for.
    BufferOverflow = XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW,
}

/// A request of the control ring (P-25).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ControlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// A [`ControlType`], if there is such a type; echoed as well.
    pub kind: u16,
    /// Its parameters, by its type.
    pub data: [u32; 3],
}

impl ControlRequest {
    /// Its type; `None` where there is none that is known here. Static grants are not.
    pub fn control_type(&self) -> Option<ControlType> {
        Some(match u32::from(self.kind) {
            XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS => ControlType::GetHashFlags,
            XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS => ControlType::SetHashFlags,
            XEN_NETIF_CTRL_TYPE_SET_HASH_KEY => ControlType::SetHashKey,
            XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE => ControlType::GetHashMappingSize,
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE => ControlType::SetHashMappingSize,
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING => ControlType::SetHashMapping,
            XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM => ControlType::SetHashAlgorithm,
            _ => return None,
        })
    }
}

/// The answer to a control request.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ControlResponse {
    /// The request's.
    pub id: u16,
    /// The request's.
    pub kind: u16,
    /// A [`ControlStatus`].
    pub status: u32,
    /// What was asked for, by the type.
    pub data: u32,
}

/// A hash algorithm of netif.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HashAlgorithm {
    /// No hash, and the backend chooses the queue.
    None = XEN_NETIF_CTRL_HASH_ALGORITHM_NONE as u8,
    /// Toeplitz's.
    Toeplitz = XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ as u8,
}

/// Pins entries to the layouts that were generated from Xen's header.
macro_rules! same_layout {
    ($($ours:ident = $xen:ident { $($field:ident = $its:ident),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$ours>() == size_of::<$xen>());
            $(assert!(offset_of!($ours, $field) == offset_of!($xen, $its));)*
        };)*
    };
}

same_layout! {
    TxSlot = netif_tx_request {}
    TxRequest = netif_tx_request {
        gref = gref, offset = offset, flags = flags, id = id, size = size,
    }
    TxResponse = netif_tx_response { id = id, status = status }
    RxRequest = netif_rx_request { id = id, pad = pad, gref = gref }
    RxResponse = netif_rx_response { id = id, offset = offset, flags = flags, status = status }
    ExtraInfo = netif_extra_info { kind = type_, flags = flags, data = u }
    ControlRequest = xen_netif_ctrl_request { id = id, kind = type_, data = data }
    ControlResponse = xen_netif_ctrl_response {
        id = id, kind = type_, status = status, data = data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bytes_that_frontends_write() {
        let flags = TxFlags::CSUM_BLANK | TxFlags::MORE_DATA;
        let request = TxRequest::new(0x0403_0201, 0x0605, flags, 0x0a09, 0x0c0b);
        let bytes = [1, 2, 3, 4, 5, 6, 5, 0, 9, 10, 11, 12];
        assert_eq!(TxSlot::from(request).as_bytes(), bytes);
        assert_eq!(TxSlot(bytes).request(), request);
        let response = TxResponse { id: 0x0201, status: Status::Dropped as i16 };
        assert_eq!(response.as_bytes(), [1, 2, 0xfe, 0xff]);
        let request = RxRequest { id: 0x0201, pad: 0, gref: 0x0807_0605 };
        assert_eq!(request.as_bytes(), [1, 2, 0, 0, 5, 6, 7, 8]);
        let flags = RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED;
        let response = RxResponse::new(0x0201, 0x0403, flags, 0x0605);
        assert_eq!(response.as_bytes(), [1, 2, 3, 4, 3, 0, 5, 6]);
        let statuses = [Status::Okay, Status::Null, Status::Error, Status::Dropped];
        assert_eq!(statuses.map(|status| status as i16), [0, 1, -1, -2]);
        let extra = ExtraInfo::new(1, ExtraFlags::MORE, [3, 4, 5, 6, 7, 8]);
        assert_eq!(TxSlot::from(extra).as_bytes(), [1, 1, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
        assert_eq!(TxSlot::from(extra).extra(), extra);
        assert_eq!(RxResponse::from(extra).as_bytes(), [1, 1, 3, 4, 5, 6, 7, 8]);
        assert_eq!(RxResponse::from(extra).extra(), extra);
        assert_eq!(ExtraInfo::xdp(0x0201).as_bytes(), [5, 0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(ExtraInfo::gso(2, 0x0605).as_bytes(), [1, 0, 5, 6, 2, 0, 0, 0]);
        let mut extra = ExtraInfo::hash(3, HashAlgorithm::Toeplitz, 0x0807_0605);
        extra.set_more();
        assert_eq!(extra.as_bytes(), [4, 1, 3, 1, 5, 6, 7, 8]);
        let request =
            ControlRequest { id: 0x0201, kind: 0x0403, data: [0x0807_0605, 9, 0x0d00_0000] };
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0, 13];
        assert_eq!(request.as_bytes(), bytes);
        let response = ControlResponse { id: 0x0201, kind: 0x0403, status: 3, data: 0x0807_0605 };
        assert_eq!(response.as_bytes(), [1, 2, 3, 4, 3, 0, 0, 0, 5, 6, 7, 8]);
    }

    /// P-25: seven types are known, and those of static grants are not.
    #[test]
    fn control_types() {
        let types: std::vec::Vec<_> = (0..12)
            .chain([0x100, 0xffff])
            .map(|kind| ControlRequest { id: 0, kind, data: [0; 3] }.control_type())
            .collect();
        let known = [
            ControlType::GetHashFlags,
            ControlType::SetHashFlags,
            ControlType::SetHashKey,
            ControlType::GetHashMappingSize,
            ControlType::SetHashMappingSize,
            ControlType::SetHashMapping,
            ControlType::SetHashAlgorithm,
        ];
        assert_eq!(types[1..8], known.map(Some));
        assert_eq!(types[0], None);
        assert!(types[8..].iter().all(Option::is_none));
        let statuses = [
            ControlStatus::Success,
            ControlStatus::NotSupported,
            ControlStatus::InvalidParameter,
            ControlStatus::BufferOverflow,
        ];
        assert_eq!(statuses.map(|status| status as u32), [0, 1, 2, 3]);
    }

    #[test]
    fn unknown_flags_mean_nothing_and_unknown_types_are_told() {
        let request = TxRequest { flags: 0xfff0, ..TxRequest::new(0, 0, TxFlags::empty(), 0, 0) };
        assert_eq!(request.flags(), TxFlags::empty());
        let types = [0, 1, 2, 3, 4, 5, 6, 255]
            .map(|kind| ExtraInfo::new(kind, ExtraFlags::empty(), [0; 6]).extra_type());
        let known = [
            ExtraType::Gso,
            ExtraType::McastAdd,
            ExtraType::McastDel,
            ExtraType::Hash,
            ExtraType::Xdp,
        ];
        assert_eq!(types[1..6], known.map(Some));
        assert_eq!([types[0], types[6], types[7]], [None; 3]);
    }
}
