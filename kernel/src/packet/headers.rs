//! Where a frame's headers are.
//!
//! Everything here works on the bytes that lie in our own memory: they are the
//! ones that are sent, so what was validated is what arrives (NETBACK-SPEC O-6).
//! Nothing is copied; the results are offsets from the start of the frame.

use core::fmt;
use core::ops::Range;

use super::MacAddress;

/// The smallest frame: an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// The most VLAN tags that are looked through: a guest's own, a service and a customer tag, and
/// that of the VLAN it is in.
const MAX_TAGS: usize = 3;
/// Where the IP header begins at most for a device to find it: behind two of them.
pub(super) const DEVICE_IP: usize = ETHERNET_HEADER + 2 * VLAN_TAG;
/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;

/// The most IPv6 extension headers that are walked over. Each kind belongs into a
/// packet once, destination options twice (RFC 8200, section 4.1).
const MAX_EXTENSIONS: usize = 6;

mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const CUSTOMER_TAG: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const SERVICE_TAG: u16 = 0x88a8;
}

mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
}

/// Why a frame has no header of the kind that was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// The named header is not all there.
    Truncated(&'static str),
    /// The ethertype is not that of an IP packet.
    NotIp(u16),
    /// The version in the IP header is not the ethertype's.
    Version(u8),
    /// The IPv4 header's length, in bytes, is below 20.
    Ipv4HeaderLength(usize),
    /// The IP packet would end before its headers do, or behind its frame: where
    /// it would, and where the frame ends.
    IpLength(usize, usize),
    /// More IPv6 extension headers than are walked over.
    Extensions,
    /// A fragment, which holds only a part of what follows the IP header.
    Fragment,
    /// An IPv6 routing header with segments left: the final destination is not
    /// the one in the IP header.
    Routed,
    /// The IP protocol is neither TCP nor UDP.
    Protocol(u8),
    /// The TCP header's length, in bytes, is below 20 or beyond its packet.
    TcpHeaderLength(usize),
    /// The UDP length is below 8 or beyond its packet.
    UdpLength(usize),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(header) => write!(f, "truncated {header}"),
            Self::NotIp(ethertype) => write!(f, "not an IP packet (ethertype {ethertype:#06x})"),
            Self::Version(version) => write!(f, "IP version {version} under another's ethertype"),
            Self::Ipv4HeaderLength(len) => write!(f, "IPv4 header of {len} bytes"),
            Self::IpLength(end, frame) => {
                write!(f, "IP packet ending at byte {end} of a frame of {frame}")
            }
            Self::Extensions => write!(f, "more than {MAX_EXTENSIONS} IPv6 extension headers"),
            Self::Fragment => f.write_str("a fragment"),
            Self::Routed => f.write_str("an IPv6 routing header with segments left"),
            Self::Protocol(protocol) => write!(f, "IP protocol {protocol}, not TCP or UDP"),
            Self::TcpHeaderLength(len) => write!(f, "TCP header of {len} bytes"),
            Self::UdpLength(len) => write!(f, "UDP length {len}"),
        }
    }
}

/// The two addresses of an Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
}

impl Addresses {
    /// The addresses of a frame; `None` if it is shorter than an Ethernet header.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, u, v, w, x, y, z, _, _] = frame.first_chunk::<ETHERNET_HEADER>()?;
        Some(Self {
            destination: MacAddress::new([a, b, c, d, e, f]),
            source: MacAddress::new([u, v, w, x, y, z]),
        })
    }
}

/// What an Ethernet header, and up to three VLAN tags after it, say of the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// What the payload is.
    pub ethertype: u16,
    /// Where the payload begins: behind the tags.
    pub payload: usize,
}

impl Ethernet {
    /// Looks through the tags of a frame that begins with `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut payload = ETHERNET_HEADER;
        let mut ethertype = be16(bytes, payload - 2, "Ethernet header")?;
        for _ in 0..MAX_TAGS {
            if !matches!(ethertype, ethertype::CUSTOMER_TAG | ethertype::SERVICE_TAG) {
                break;
            }
            payload += VLAN_TAG;
            ethertype = be16(bytes, payload - 2, "VLAN tag")?;
        }
        Ok(Self { ethertype, payload })
    }

    /// Which version of IP the payload is, if it is any.
    pub const fn ip(&self) -> Option<Version> {
        match self.ethertype {
            ethertype::IPV4 => Some(Version::V4),
            ethertype::IPV6 => Some(Version::V6),
            _ => None,
        }
    }
}

/// A version of the Internet protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Version {
    /// Where the source and the destination address lie, one behind the other, of a header
    /// that begins at `start`.
    pub(super) const fn addresses(self, start: usize) -> Range<usize> {
        let (at, len) = match self {
            Self::V4 => (12, 8),
            Self::V6 => (8, 32),
        };
        start + at..start + at + len
    }
}

/// An IP packet's header, and where what it carries lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Which version.
    pub version: Version,
    /// Where the header begins.
    pub start: usize,
    /// What the payload is: behind the extension headers.
    pub protocol: u8,
    /// Where the payload lies by the header's own length, inside the frame but
    /// maybe beyond the bytes in our memory. What follows in the frame is padding.
    pub payload: Range<usize>,
    /// Whether the payload is a part of a fragmented one.
    pub fragment: bool,
    /// Whether the packet has other destinations before its final one.
    pub routed: bool,
}

impl Ip {
    /// Finds the IP header of a frame of `len` bytes that begins with `bytes`.
    pub fn parse(bytes: &[u8], len: usize) -> Result<Self, HeaderError> {
        let ethernet = Ethernet::parse(bytes)?;
        match ethernet.ip() {
            Some(Version::V4) => Self::parse_v4(bytes, ethernet.payload, len),
            Some(Version::V6) => Self::parse_v6(bytes, ethernet.payload, len),
            None => Err(HeaderError::NotIp(ethernet.ethertype)),
        }
    }

    /// Where the source and the destination address lie, one behind the other.
    pub fn addresses(&self) -> Range<usize> {
        self.version.addresses(self.start)
    }

    fn parse_v4(bytes: &[u8], start: usize, len: usize) -> Result<Self, HeaderError> {
        const HEADER: usize = 20;
        const MORE_FRAGMENTS: u16 = 0x2000;
        const FRAGMENT_OFFSET: u16 = 0x1fff;
        let header: &[u8; HEADER] = take(bytes, start, "IPv4 header")?;
        expect_version(header[0], 4)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        if header_len < HEADER {
            return Err(HeaderError::Ipv4HeaderLength(header_len));
        }
        let payload = start + header_len;
        if payload > bytes.len() {
            return Err(HeaderError::Truncated("IPv4 options"));
        }
        let end = start + usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        Ok(Self {
            version: Version::V4,
            start,
            protocol: header[9],
            payload: checked_payload(payload, end, len)?,
            fragment: fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            routed: false,
        })
    }

    fn parse_v6(bytes: &[u8], start: usize, len: usize) -> Result<Self, HeaderError> {
        const HEADER: usize = 40;
        let header: &[u8; HEADER] = take(bytes, start, "IPv6 header")?;
        expect_version(header[0], 6)?;
        let payload = start + HEADER;
        let end = payload + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut ip = Self {
            version: Version::V6,
            start,
            protocol: header[6],
            payload: checked_payload(payload, end, len)?,
            fragment: false,
            routed: false,
        };
        for _ in 0..MAX_EXTENSIONS {
            if !ip.skip_extension(bytes)? {
                return Ok(ip);
            }
        }
        if ip.skip_extension(bytes)? { Err(HeaderError::Extensions) } else { Ok(ip) }
    }

    /// Moves the payload's start behind one extension header; whether there was
    /// one to be looked behind.
    fn skip_extension(&mut self, bytes: &[u8]) -> Result<bool, HeaderError> {
        const MORE_FRAGMENTS_OR_OFFSET: u16 = 0xfff9;
        if self.fragment || !is_extension(self.protocol) {
            return Ok(false);
        }
        let at = self.payload.start;
        let header: &[u8; 8] = take(bytes, at, "IPv6 extension header")?;
        let len = match self.protocol {
            protocol::FRAGMENT => {
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                self.fragment = fragment & MORE_FRAGMENTS_OR_OFFSET != 0;
                8
            }
            protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            kind => {
                self.routed |= kind == protocol::ROUTING && header[3] != 0;
                (usize::from(header[1]) + 1) * 8
            }
        };
        self.protocol = header[0];
        self.payload = checked_payload(at + len, self.payload.end, self.payload.end)?;
        Ok(true)
    }
}

/// Which transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// A whole TCP segment or UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// The packet it is in.
    pub ip: Ip,
    /// Which protocol.
    pub protocol: Protocol,
    /// Where it lies by its own and the packet's length, inside the frame but
    /// maybe beyond the bytes in our memory.
    pub range: Range<usize>,
    /// How long its header is, all of which is in our memory.
    pub header_len: usize,
}

impl Transport {
    /// Finds the transport header of a frame of `len` bytes that begins with
    /// `bytes`.
    pub fn parse(bytes: &[u8], len: usize) -> Result<Self, HeaderError> {
        let ip = Ip::parse(bytes, len)?;
        if ip.fragment {
            return Err(HeaderError::Fragment);
        }
        match ip.protocol {
            protocol::TCP => Self::parse_tcp(bytes, ip),
            protocol::UDP => Self::parse_udp(bytes, ip),
            other => Err(HeaderError::Protocol(other)),
        }
    }

    /// Where the two bytes of the checksum begin.
    pub const fn checksum(&self) -> usize {
        self.range.start
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            }
    }

    fn parse_tcp(bytes: &[u8], ip: Ip) -> Result<Self, HeaderError> {
        const HEADER: usize = 20;
        let range = ip.payload.clone();
        let header: &[u8; HEADER] = take(bytes, range.start, "TCP header")?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < HEADER || header_len > range.len() {
            return Err(HeaderError::TcpHeaderLength(header_len));
        }
        if range.start + header_len > bytes.len() {
            return Err(HeaderError::Truncated("TCP options"));
        }
        Ok(Self { ip, protocol: Protocol::Tcp, range, header_len })
    }

    fn parse_udp(bytes: &[u8], ip: Ip) -> Result<Self, HeaderError> {
        const HEADER: usize = 8;
        let start = ip.payload.start;
        let header: &[u8; HEADER] = take(bytes, start, "UDP header")?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if len < HEADER || len > ip.payload.len() {
            return Err(HeaderError::UdpLength(len));
        }
        Ok(Self { ip, protocol: Protocol::Udp, range: start..start + len, header_len: HEADER })
    }
}

const fn is_extension(protocol: u8) -> bool {
    use protocol::{AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

fn expect_version(first: u8, version: u8) -> Result<(), HeaderError> {
    if first >> 4 == version { Ok(()) } else { Err(HeaderError::Version(first >> 4)) }
}

/// The payload from `start` to `end` of a frame of `len` bytes.
fn checked_payload(start: usize, end: usize, len: usize) -> Result<Range<usize>, HeaderError> {
    if start <= end && end <= len { Ok(start..end) } else { Err(HeaderError::IpLength(end, len)) }
}

fn take<'a, const N: usize>(
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
) -> Result<&'a [u8; N], HeaderError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(HeaderError::Truncated(what))
}

fn be16(bytes: &[u8], at: usize, what: &'static str) -> Result<u16, HeaderError> {
    take(bytes, at, what).map(|field| u16::from_be_bytes(*field))
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxSlicedPacket, PacketBuilder, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn tcp4() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut frame, &[9; 10])
            .unwrap();
        frame
    }

    fn udp6(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6([1; 16], [2; 16], 64)
            .udp(1, 2)
            .write(&mut frame, &vec![9; payload])
            .unwrap();
        frame
    }

    /// `frame` with the extension headers `extensions` in front of its transport
    /// header, each a kind and its bytes, whose first says what follows.
    fn extended(mut frame: Vec<u8>, extensions: &[(u8, [u8; 8])]) -> Vec<u8> {
        for (kind, mut bytes) in extensions.iter().rev().copied() {
            bytes[0] = frame[20];
            frame[20] = kind;
            frame.splice(54..54, bytes);
        }
        let len = frame.len() as u16 - 54;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame
    }

    fn tagged(mut frame: Vec<u8>, tags: &[u16]) -> Vec<u8> {
        for tag in tags.iter().rev() {
            let [a, b] = tag.to_be_bytes();
            frame.splice(12..12, [a, b, 0, 1]);
        }
        frame
    }

    #[test]
    fn addresses_need_a_whole_ethernet_header() {
        let frame = tcp4();
        let addresses = Addresses::parse(&frame).unwrap();
        assert_eq!(addresses.source, MacAddress::new([2, 0, 0, 0, 0, 1]));
        assert_eq!(addresses.destination, MacAddress::new([2, 0, 0, 0, 0, 2]));
        assert_eq!(Addresses::parse(&frame[..13]), None);
        assert!(Addresses::parse(&frame[..14]).is_some());
    }

    #[test]
    fn three_tags_are_looked_through() {
        let tags = [0x8100, 0x88a8, 0x8100];
        for (tags, start) in (0..=3).map(|count| (&tags[3 - count..], 34 + 4 * count)) {
            let frame = tagged(tcp4(), tags);
            let transport = Transport::parse(&frame, frame.len()).unwrap();
            assert_eq!(transport.range, start..start + 30);
            assert_eq!(transport.checksum(), start + 16);
            assert_eq!(transport.ip.addresses(), start - 8..start);
        }
        let frame = tagged(tcp4(), &[0x8100, 0x88a8, 0x8100, 0x8100]);
        assert_eq!(Ip::parse(&frame, frame.len()), Err(HeaderError::NotIp(0x8100)));
        assert_eq!(Ethernet::parse(&frame[..13]), Err(HeaderError::Truncated("Ethernet header")));
        assert_eq!(Ethernet::parse(&frame[..17]), Err(HeaderError::Truncated("VLAN tag")));
    }

    #[test]
    fn the_payload_may_lie_beyond_our_bytes_but_not_beyond_the_frame() {
        let frame = udp6(100);
        let transport = Transport::parse(&frame[..62], frame.len()).unwrap();
        assert_eq!(transport.range, 54..162);
        assert_eq!(transport.header_len, 8);
        assert_eq!(
            Transport::parse(&frame[..62], frame.len() - 1),
            Err(HeaderError::IpLength(162, 161))
        );
        assert_eq!(
            Transport::parse(&frame[..61], frame.len()),
            Err(HeaderError::Truncated("UDP header"))
        );
    }

    #[test]
    fn ipv4_headers_that_lie() {
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = tcp4();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            Transport::parse(&frame, frame.len())
        };
        assert!(with(14, &[0x45]).is_ok());
        assert_eq!(with(14, &[0x65]), Err(HeaderError::Version(6)));
        assert_eq!(with(14, &[0x44]), Err(HeaderError::Ipv4HeaderLength(16)));
        assert_eq!(with(14, &[0x4f]), Err(HeaderError::Truncated("IPv4 options")));
        assert_eq!(with(16, &[0, 19]), Err(HeaderError::IpLength(33, 64)));
        assert_eq!(with(16, &[0, 51]), Err(HeaderError::IpLength(65, 64)));
        assert_eq!(with(20, &[0x40, 0]).map(|_| ()), Ok(()), "don't fragment");
        assert_eq!(with(20, &[0x20, 0]), Err(HeaderError::Fragment));
        assert_eq!(with(20, &[0x1f, 0xff]), Err(HeaderError::Fragment));
        assert_eq!(with(23, &[1]), Err(HeaderError::Protocol(1)));
        assert_eq!(with(46, &[0x40]), Err(HeaderError::TcpHeaderLength(16)));
        assert_eq!(with(46, &[0x80]), Err(HeaderError::TcpHeaderLength(32)));
        let options = {
            let mut frame = tcp4();
            frame[46] = 0x70;
            Transport::parse(&frame[..61], frame.len())
        };
        assert_eq!(options, Err(HeaderError::Truncated("TCP options")));
        let mut frame = tcp4();
        frame[14] = 0x46;
        assert_eq!(
            Ip::parse(&frame[..37], frame.len()),
            Err(HeaderError::Truncated("IPv4 options"))
        );
    }

    #[test]
    fn extension_headers_are_walked_over_and_counted() {
        let options = (60, [0, 0, 1, 4, 0, 0, 0, 0]);
        let many = [options; MAX_EXTENSIONS + 1];
        let frame = extended(udp6(4), &many[..MAX_EXTENSIONS]);
        let transport = Transport::parse(&frame, frame.len()).unwrap();
        assert_eq!(transport.range.start, 54 + 8 * MAX_EXTENSIONS);
        let frame = extended(udp6(4), &many);
        assert_eq!(Ip::parse(&frame, frame.len()), Err(HeaderError::Extensions));

        let long = extended(udp6(4), &[(0, [0, 1, 1, 4, 0, 0, 0, 0])]);
        let ip = Ip::parse(&long, long.len()).unwrap();
        assert_eq!((ip.protocol, ip.payload.start), (17, 70), "16 bytes");
        let beyond = extended(udp6(4), &[(0, [0, 2, 1, 4, 0, 0, 0, 0])]);
        assert_eq!(
            Ip::parse(&beyond, beyond.len()),
            Err(HeaderError::IpLength(74, 74)),
            "an extension header that is longer than the packet"
        );
        let authentication = extended(udp6(4), &[(51, [0, 1, 0, 0, 0, 0, 0, 1])]);
        let ip = Ip::parse(&authentication, authentication.len()).unwrap();
        assert_eq!(ip.payload.start, 66, "counted in words of four bytes");
        assert_eq!(
            Ip::parse(&long[..60], long.len()),
            Err(HeaderError::Truncated("IPv6 extension header"))
        );
    }

    #[test]
    fn fragments_and_routes_are_told() {
        let fragment = |field: [u8; 2]| {
            let [a, b] = field;
            let frame = extended(udp6(4), &[(44, [0, 0, a, b, 0, 0, 0, 9]), (60, [0; 8])]);
            Ip::parse(&frame, frame.len()).unwrap()
        };
        assert!(!fragment([0, 0]).fragment, "an atomic one");
        assert_eq!(fragment([0, 0]).protocol, 17);
        assert!(fragment([0, 1]).fragment, "more to come");
        assert!(fragment([0, 8]).fragment);
        assert_eq!(fragment([0, 8]).protocol, 60, "what follows is no header");
        let routed = |left: u8| {
            let frame = extended(udp6(4), &[(43, [0, 0, 4, left, 0, 0, 0, 0])]);
            Ip::parse(&frame, frame.len()).unwrap().routed
        };
        assert!(routed(1));
        assert!(!routed(0));
    }

    proptest! {
        #[test]
        fn others_find_the_same(
            v6: bool,
            tags in prop::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8]), 0..3),
            changes in prop::collection::vec((14usize..70, any::<u8>()), 0..4),
            cut in 14usize..160,
        ) {
            let frame = if v6 { udp6(20) } else { tcp4() };
            let mut frame = tagged(frame, &tags);
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            let bytes = &frame[..cut.min(frame.len())];
            if let Ok(transport) = Transport::parse(bytes, frame.len()) {
                prop_assert!(transport.range.start + transport.header_len <= bytes.len());
                prop_assert!(transport.range.end <= frame.len());
                let theirs = LaxSlicedPacket::from_ethernet(&frame).unwrap();
                let header = match theirs.transport {
                    Some(TransportSlice::Tcp(tcp)) => tcp.slice().as_ptr(),
                    Some(TransportSlice::Udp(udp)) => udp.slice().as_ptr(),
                    _ => panic!("no transport header"),
                };
                let at = header as usize - frame.as_ptr() as usize;
                prop_assert_eq!(at, transport.range.start);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..128),
            ethertype in prop::sample::select(vec![0x0800u16, 0x86dd]),
            len in 0usize..200,
        ) {
            let mut bytes = bytes;
            if let Some(field) = bytes.get_mut(12..15) {
                let version = if ethertype == 0x0800 { 0x45 } else { 0x60 };
                field.copy_from_slice(&[(ethertype >> 8) as u8, ethertype as u8, version]);
            }
            let _ = Transport::parse(&bytes, len);
        }
    }
}
