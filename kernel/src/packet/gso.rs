//! TCP segmentation that is left to be done (NETBACK-SPEC P-12, P-21).
//!
//! A guest may hand over a TCP segment of up to 64 KiB and say how long those on the
//! wire are to be. It goes on like that to whoever can do the segmentation by itself;
//! for all others it is done here, each segment with headers of its own and its part of
//! the same payload. A device gets a prototype of all segments' headers to do it with.

use super::checksum;
use super::headers::{DEVICE_IP, HeaderError, Protocol, Transport, Version};

/// Where an IPv4 header has its length, its identification and its checksum.
pub(super) const V4_LENGTH: usize = 2;
pub(super) const V4_IDENTIFICATION: usize = 4;
pub(super) const V4_CHECKSUM: usize = 10;
/// Where an IPv6 header has the length of what follows its own 40 bytes.
pub(super) const V6_LENGTH: usize = 4;
pub(super) const V6_HEADER: usize = 40;
/// Where a TCP header has its sequence number, its flags and its checksum.
pub(super) const SEQUENCE: usize = 4;
pub(super) const FLAGS: usize = 13;
pub(super) const CHECKSUM: usize = 16;
/// Flags that only the last segment has, and one that only the first has (RFC 3168,
/// section 6.1.2).
pub(super) const FIN_PSH: u8 = 1 << 0 | 1 << 3;
const CWR: u8 = 1 << 7;
/// Flags of packets that are no part of a stream of data.
const SYN_RST_URG: u8 = 1 << 1 | 1 << 2 | 1 << 5;

/// How a TCP segment is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// The version of IP it is sent over.
    pub version: Version,
    /// The most bytes of payload in a segment.
    pub mss: u16,
    /// Where its IP header begins.
    pub ip: u16,
    /// Where its TCP header begins.
    pub tcp: u16,
    /// How long its headers are, all of which lie in our memory.
    pub headers: u16,
    /// Whether the first of its segments, and no other, is to say that the sender's
    /// congestion window was reduced (RFC 3168, section 6.1.2).
    pub reduced: bool,
}

/// Why a packet cannot be cut as it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoError {
    /// Its headers are not those of a TCP segment, or not all there.
    Headers(HeaderError),
    /// It is another version of IP than the request says, or not TCP.
    Protocol,
    /// Its headers and its frame disagree about where it ends.
    Padded,
    /// It is one that no stream has in the midst of its data.
    Flags,
    /// The segments would be shorter than [`Gso::MIN_MSS`], or more than
    /// [`Gso::MAX_SEGMENTS`].
    Mss,
}

impl Gso {
    /// The shortest segments: what the shortest IPv4 packet that every link carries
    /// (RFC 791) holds behind its headers.
    pub const MIN_MSS: u16 = 28;
    /// The most segments: those of the longest packet at IPv4's default segment size
    /// (RFC 9293, section 3.7.1), 536 bytes.
    pub const MAX_SEGMENTS: usize = 128;
    /// The longest headers that a device makes others of: an 82574's memory for them (its
    /// datasheet, section 7.3.6.2).
    pub const MAX_DEVICE_HEADERS: u16 = 240;

    /// Looks whether a frame of `len` bytes that begins with `headers` can be cut into
    /// segments of `mss` bytes. `None` where one segment holds all of it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(
        headers: &[u8],
        len: usize,
        version: Version,
        mss: u16,
    ) -> Result<Option<Self>, GsoError> {
        let transport = Transport::parse(headers, len).map_err(GsoError::Headers)?;
        if transport.ip.version != version || transport.protocol != Protocol::Tcp {
            return Err(GsoError::Protocol);
        }
        if transport.ip.routed {
            return Err(GsoError::Headers(HeaderError::Routed));
        }
        if transport.range.end != len {
            return Err(GsoError::Padded);
        }
        if headers[transport.range.start + FLAGS] & SYN_RST_URG != 0 {
            return Err(GsoError::Flags);
        }
        let reduced = headers[transport.range.start + FLAGS] & CWR != 0;
        let (ip, tcp) = (transport.ip.start, transport.range.start);
        let headers = tcp + transport.header_len;
        let payload = len - headers;
        if mss < Self::MIN_MSS || payload.div_ceil(usize::from(mss)) > Self::MAX_SEGMENTS {
            return Err(GsoError::Mss);
        }
        let cut = payload > usize::from(mss);
        let [ip, tcp, headers] = [ip, tcp, headers].map(|at| at as u16);
        Ok(cut.then_some(Self { version, mss, ip, tcp, headers, reduced }))
    }

    /// Whether a device can cut it: one that gives all segments the flags of the packet,
    /// but for those of the last, and sees through two tags.
    pub const fn suits_a_device(&self) -> bool {
        self.headers <= Self::MAX_DEVICE_HEADERS && self.ip <= DEVICE_IP as u16 && !self.reduced
    }

    /// The same of a packet with so many bytes more before its IP header.
    pub(crate) const fn behind(self, more: i16) -> Self {
        let Self { ip, tcp, headers, .. } = self;
        Self {
            ip: ip.wrapping_add_signed(more),
            tcp: tcp.wrapping_add_signed(more),
            headers: headers.wrapping_add_signed(more),
            ..self
        }
    }

    /// How long the longest of the segments is, headers included.
    pub fn longest(&self) -> usize {
        usize::from(self.headers) + usize::from(self.mss)
    }
}

/// Where a device finds what it changes in the prototype of all segments' headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prototype {
    /// Where the IP header begins.
    pub ip: u8,
    /// Where the TCP header begins: the end of IPv4's.
    pub tcp: u8,
    /// Where the TCP checksum is.
    pub checksum: u8,
    /// Where the IPv4 checksum is; `None` over IPv6.
    pub ip_checksum: Option<u8>,
    /// How much payload there is in all.
    pub payload: u32,
}

/// The segments of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    gso: Gso,
    /// How long the packet is.
    len: usize,
}

impl Segments {
    /// Those of a packet of `len` bytes that is to be cut so.
    pub const fn new(gso: Gso, len: usize) -> Self {
        Self { gso, len }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        (self.len - usize::from(self.gso.headers)).div_ceil(usize::from(self.gso.mss))
    }

    /// How long the headers of each are.
    pub fn headers(&self) -> usize {
        self.gso.headers.into()
    }

    /// Which bytes of the packet are the payload of the segment `number`.
    pub fn payload(&self, number: usize) -> core::ops::Range<usize> {
        let (headers, mss) = (usize::from(self.gso.headers), usize::from(self.gso.mss));
        let start = headers + number * mss;
        start.min(self.len)..(start + mss).min(self.len)
    }

    /// Makes the packet's headers what a device makes those of all segments of: lengths and
    /// the IPv4 checksum are zero, and the TCP checksum is the sum of the pseudo-header
    /// without a length. `None` where the device cannot find its way in them.
    pub fn prototype(&self, headers: &mut [u8]) -> Option<Prototype> {
        let Self { gso, len } = *self;
        let (ip, tcp) = (usize::from(gso.ip), usize::from(gso.tcp));
        let ip_checksum = match gso.version {
            Version::V4 => {
                put16(headers, ip + V4_LENGTH, 0);
                put16(headers, ip + V4_CHECKSUM, 0);
                Some((ip + V4_CHECKSUM).try_into().ok()?)
            }
            Version::V6 => {
                put16(headers, ip + V6_LENGTH, 0);
                None
            }
        };
        self.seed(headers, 0);
        Some(Prototype {
            ip: ip.try_into().ok()?,
            tcp: tcp.try_into().ok()?,
            checksum: (tcp + CHECKSUM).try_into().ok()?,
            ip_checksum,
            payload: (len - usize::from(gso.headers)) as u32,
        })
    }

    /// Makes a copy of the packet's headers those of the segment `number`, whose checksum
    /// is still to be made: the field holds the pseudo-header's sum.
    pub fn edit(&self, headers: &mut [u8], number: usize) {
        let payload = self.payload(number);
        let (ip, tcp) = (usize::from(self.gso.ip), usize::from(self.gso.tcp));
        let transport_len = usize::from(self.gso.headers) - tcp + payload.len();
        match self.gso.version {
            Version::V4 => {
                let id = be16(headers, ip + V4_IDENTIFICATION).wrapping_add(number as u16);
                put16(headers, ip + V4_LENGTH, (tcp - ip + transport_len) as u16);
                put16(headers, ip + V4_IDENTIFICATION, id);
                put16(headers, ip + V4_CHECKSUM, 0);
                let sum = checksum::of(&headers[ip..tcp]);
                headers[ip + V4_CHECKSUM..][..2].copy_from_slice(&sum);
            }
            Version::V6 => {
                let len = tcp - ip - V6_HEADER + transport_len;
                put16(headers, ip + V6_LENGTH, len as u16);
            }
        }
        let sequence = &mut headers[tcp + SEQUENCE..][..4];
        let first = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
        let behind = (payload.start - usize::from(self.gso.headers)) as u32;
        sequence.copy_from_slice(&first.wrapping_add(behind).to_be_bytes());
        let flags = &mut headers[tcp + FLAGS];
        if payload.end != self.len {
            *flags &= !FIN_PSH;
        }
        if number > 0 {
            *flags &= !CWR;
        }
        self.seed(headers, transport_len);
    }

    /// Puts the pseudo-header's sum into the checksum's field, for a TCP header and payload
    /// of `len` bytes.
    fn seed(&self, headers: &mut [u8], len: usize) {
        let Gso { version, ip, tcp, .. } = self.gso;
        let addresses = version.addresses(ip.into());
        let seed = checksum::seed(&headers[addresses], Protocol::Tcp, len);
        headers[usize::from(tcp) + CHECKSUM..][..2].copy_from_slice(&seed);
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    /// A frame of a TCP segment, by an implementation that is not ours.
    fn frame(v6: bool, tagged: bool, options: usize, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        macro_rules! rest {
            ($builder:expr) => {{
                let ip = match v6 {
                    true => $builder.ipv6([0xfe; 16], [0x20; 16], 64),
                    false => $builder.ipv4([10, 0, 0, 1], [192, 168, 200, 255], 64),
                };
                let tcp = ip.tcp(4000, 80, u32::MAX - 700, 29_200).ack(7).psh().fin().cwr();
                let tcp = tcp.options_raw(&vec![1; options * 4]).unwrap();
                tcp.write(&mut frame, payload).unwrap();
            }};
        }
        match tagged {
            false => rest!(builder),
            true => rest!(builder.single_vlan(7.try_into().unwrap())),
        }
        frame
    }

    fn tcp<'a>(packet: &SlicedPacket<'a>) -> TcpSlice<'a> {
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn version(v6: bool) -> Version {
        if v6 { Version::V6 } else { Version::V4 }
    }

    proptest! {
        /// Segments are what another implementation takes for TCP segments of the same
        /// stream, with all sums right.
        #[test]
        fn segments_are_a_stream(
            v6: bool,
            tagged: bool,
            options in 0..10usize,
            mss in Gso::MIN_MSS..1500,
            payload in prop::collection::vec(any::<u8>(), 1..3500),
        ) {
            let whole = frame(v6, tagged, options, &payload);
            let headers = &whole[..whole.len() - payload.len()];
            let gso = Gso::check(headers, whole.len(), version(v6), mss).unwrap();
            prop_assert_eq!(gso.is_some(), payload.len() > usize::from(mss));
            let Some(gso) = gso else { return Ok(()) };
            prop_assert_eq!(usize::from(gso.headers), headers.len());
            let segments = Segments::new(gso, whole.len());
            let parsed = SlicedPacket::from_ethernet(&whole).unwrap();
            let first = tcp(&parsed);
            let mut together: Vec<u8> = Vec::new();
            for number in 0..segments.count() {
                let mut segment = headers.to_vec();
                segments.edit(&mut segment, number);
                segment.extend(&whole[segments.payload(number)]);
                prop_assert!(segment.len() <= gso.longest());
                let last = number + 1 == segments.count();
                prop_assert!(last || segment.len() == gso.longest(), "as long as may be");
                // What a device would make of it from the pseudo-header's sum.
                let insertion = checksum::locate(&segment, segment.len()).unwrap();
                let field = usize::from(insertion.field);
                prop_assert_eq!(&segment[field..field + 2], &insertion.seed[..]);
                checksum::finish(&mut segment).unwrap();
                let parsed = SlicedPacket::from_ethernet(&segment).unwrap();
                let own = tcp(&parsed);
                match &parsed.net {
                    Some(NetSlice::Ipv4(ip)) => {
                        let header = ip.header();
                        prop_assert_eq!(header.identification(), number as u16);
                        let sum = header.to_header().calc_header_checksum();
                        prop_assert_eq!(header.header_checksum(), sum);
                        prop_assert_eq!(own.calc_checksum_ipv4(header.source(), header.destination()).unwrap(), own.checksum());
                    }
                    Some(NetSlice::Ipv6(ip)) => {
                        let header = ip.header();
                        prop_assert_eq!(own.calc_checksum_ipv6(header.source(), header.destination()).unwrap(), own.checksum());
                    }
                    other => panic!("{other:?}"),
                }
                let behind = (number * usize::from(mss)) as u32;
                prop_assert_eq!(own.sequence_number(), first.sequence_number().wrapping_add(behind));
                prop_assert_eq!((own.fin(), own.psh(), own.cwr()), (last, last, number == 0));
                prop_assert_eq!((own.ack(), own.options()), (true, first.options()));
                together.extend(own.payload());
            }
            prop_assert_eq!(together, payload);
        }

        /// Whatever a device makes of the prototype, it finds all there that it needs, and
        /// nothing that depends on a segment's length.
        #[test]
        fn a_prototype_is_the_segments_without_lengths(
            v6: bool,
            tagged: bool,
            options in 0..10usize,
            payload in 1500..3500usize,
        ) {
            let whole = frame(v6, tagged, options, &vec![7; payload]);
            let len = whole.len();
            let mut headers = whole[..len - payload].to_vec();
            let gso = Gso::check(&headers, len, version(v6), 1000).unwrap().unwrap();
            prop_assert!(gso.reduced && !gso.suits_a_device(), "CWR is of the first only");
            let segments = Segments::new(gso, len);
            let mut last = headers.clone();
            let number = segments.count() - 1;
            segments.edit(&mut last, number);
            let found = segments.prototype(&mut headers).unwrap();
            prop_assert_eq!(found.payload as usize, payload);
            let [ip, tcp, sum] = [found.ip, found.tcp, found.checksum].map(usize::from);
            prop_assert_eq!((ip, sum), (if tagged { 18 } else { 14 }, tcp + 16));
            prop_assert_eq!(tcp, ip + if v6 { 40 } else { 20 });
            // What the device does (7.3.6.2): lengths, identification, sequence, flags, sums.
            let payload = segments.payload(number);
            let tcp_len = headers.len() - tcp + payload.len();
            let mut made = headers.clone();
            match found.ip_checksum {
                Some(at) => {
                    prop_assert_eq!((usize::from(at), be16(&made, ip + 2)), (ip + 10, 0));
                    put16(&mut made, ip + 2, (tcp - ip + tcp_len) as u16);
                    put16(&mut made, ip + 4, number as u16);
                    let sum = checksum::of(&made[ip..tcp]);
                    made[ip + 10..ip + 12].copy_from_slice(&sum);
                }
                None => {
                    prop_assert!(v6 && be16(&made, ip + 4) == 0);
                    put16(&mut made, ip + 4, tcp_len as u16);
                }
            }
            let sequence = (u32::MAX - 700).wrapping_add(number as u32 * 1000);
            made[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
            made[tcp + 13] &= !CWR;
            let seed = u32::from(be16(&made, sum)) + tcp_len as u32;
            put16(&mut made, sum, (seed + (seed >> 16)) as u16);
            prop_assert_eq!(made, last);
        }

        #[test]
        fn no_bytes_make_it_panic(
            v6: bool,
            cut in 0usize..120,
            mss: u16,
            changes in prop::collection::vec((0usize..100, any::<u8>()), 0..8),
        ) {
            let mut frame = frame(v6, true, 3, &[7; 300]);
            for (at, byte) in changes {
                frame[at] = byte;
            }
            let len = frame.len();
            frame.truncate(cut);
            for version in [Version::V4, Version::V6] {
                if let Ok(Some(gso)) = Gso::check(&frame, len, version, mss) {
                    let segments = Segments::new(gso, len);
                    prop_assert!((2..=Gso::MAX_SEGMENTS).contains(&segments.count()));
                    for number in 0..segments.count() {
                        segments.edit(&mut frame.clone(), number);
                    }
                    segments.prototype(&mut frame.clone());
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let whole = frame(false, false, 0, &[1; 5000]);
        let check = |frame: &[u8], version, mss| Gso::check(frame, frame.len(), version, mss);
        let changed = |at: usize, byte: u8| {
            let mut frame = whole.clone();
            frame[at] = byte;
            check(&frame, Version::V4, 1448)
        };
        assert!(matches!(check(&whole, Version::V4, 1448), Ok(Some(_))));
        assert_eq!(check(&whole, Version::V6, 1448), Err(GsoError::Protocol), "F-4");
        assert_eq!(changed(23, 17), Err(GsoError::Headers(HeaderError::UdpLength(0xffff))));
        assert_eq!(check(&whole, Version::V4, Gso::MIN_MSS - 1), Err(GsoError::Mss));
        assert_eq!(check(&whole, Version::V4, 39), Err(GsoError::Mss), "129 segments");
        assert!(check(&whole, Version::V4, 40).is_ok(), "125 segments");
        assert_eq!(changed(46, 0x40), Err(GsoError::Headers(HeaderError::TcpHeaderLength(16))));
        assert_eq!(changed(14, 0x44), Err(GsoError::Headers(HeaderError::Ipv4HeaderLength(16))));
        assert_eq!(changed(20, 0x20), Err(GsoError::Headers(HeaderError::Fragment)));
        for flag in [1 << 1, 1 << 2, 1 << 5] {
            assert_eq!(changed(47, flag), Err(GsoError::Flags));
        }
        let mut padded = whole.clone();
        padded.push(0);
        assert_eq!(check(&padded, Version::V4, 1448), Err(GsoError::Padded));
        let headers = HeaderError::Truncated("TCP header");
        let short = Gso::check(&whole[..50], whole.len(), Version::V4, 1448);
        assert_eq!(short, Err(GsoError::Headers(headers)));
        let empty = frame(false, false, 0, &[]);
        assert_eq!(check(&empty, Version::V4, 1448), Ok(None), "nothing to be cut");
    }
}
