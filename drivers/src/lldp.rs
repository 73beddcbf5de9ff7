//! LLDP: what the other end of a cable says of itself (IEEE 802.1AB).
//!
//! It says so unasked, every half a minute, to a group address that no bridge
//! forwards; anybody at the wire can. So of its bytes only a bounded part is kept,
//! and what is shown of them is printable.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use heapless::Vec;
use kernel::packet::{ETHERNET_HEADER, MacAddress};

/// The ethertype.
pub const ETHERTYPE: u16 = 0x88cc;
/// The group address that reaches the nearest bridge and nobody behind it, so that
/// who sends there is at the other end of the cable (section 7.1).
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

/// How many bytes of a name are kept. Interfaces' names are shorter, and most hosts'.
const TEXT: usize = 64;

/// Types of TLVs (section 8.4.1).
mod tlv {
    pub(super) const END: u8 = 0;
    pub(super) const CHASSIS_ID: u8 = 1;
    pub(super) const PORT_ID: u8 = 2;
    pub(super) const TIME_TO_LIVE: u8 = 3;
    pub(super) const SYSTEM_NAME: u8 = 5;
}

/// Subtypes of a chassis's and of a port's ID that are not text (sections 8.5.2.2 and
/// 8.5.3.2).
struct Subtypes {
    mac: u8,
    network: u8,
}

const CHASSIS: Subtypes = Subtypes { mac: 4, network: 5 };
const PORT: Subtypes = Subtypes { mac: 3, network: 4 };

/// What is at the other end of a cable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    chassis: Identifier,
    port: Identifier,
    name: Option<Text>,
}

impl Neighbour {
    /// Reads a frame: a neighbour, and for how long to believe it; for no time at all
    /// where it takes its leave. `None` where the frame is not a neighbour's, or lacks
    /// a part, has one twice or ends within one (section 9.2.7.7).
    pub fn parse(frame: &[u8]) -> Option<(Self, Duration)> {
        let (header, mut rest) = frame.split_first_chunk::<ETHERNET_HEADER>()?;
        if !header.starts_with(&NEAREST_BRIDGE) || !header.ends_with(&ETHERTYPE.to_be_bytes()) {
            return None;
        }
        let mut expect = |wanted| {
            let (kind, value) = take(&mut rest)?;
            (kind == wanted).then_some(value)
        };
        let chassis = Identifier::parse(expect(tlv::CHASSIS_ID)?, &CHASSIS)?;
        let port = Identifier::parse(expect(tlv::PORT_ID)?, &PORT)?;
        let seconds = *expect(tlv::TIME_TO_LIVE)?.first_chunk()?;
        let mut name = None;
        while !rest.is_empty() {
            match take(&mut rest)? {
                (tlv::END, _) => break,
                (tlv::CHASSIS_ID | tlv::PORT_ID | tlv::TIME_TO_LIVE, _) => return None,
                (tlv::SYSTEM_NAME, value) => name = name.or(Some(Text::from(value))),
                _ => {}
            }
        }
        let time = Duration::from_secs(u16::from_be_bytes(seconds).into());
        Some((Self { chassis, port, name }, time))
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chassis, port, name } = self;
        match name {
            Some(name) => write!(f, "port {port} of {name}, chassis {chassis}"),
            None => write!(f, "port {port} of chassis {chassis}"),
        }
    }
}

/// Takes the first TLV: seven bits of type, nine of length, and as many bytes.
fn take<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (header, behind) = rest.split_first_chunk()?;
    let header = u16::from_be_bytes(*header);
    let (value, behind) = behind.split_at_checked(usize::from(header & 0x1ff))?;
    *rest = behind;
    Some(((header >> 9) as u8, value))
}

/// What a chassis or a port is called.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Identifier {
    Mac(MacAddress),
    Ip(IpAddr),
    Text(Text),
}

impl Identifier {
    /// Reads a subtype and what follows. An address of no known form is shown as what
    /// it is, bytes.
    fn parse(value: &[u8], subtypes: &Subtypes) -> Option<Self> {
        /// Numbers of address families, of the IANA's.
        const IPV4: u8 = 1;
        const IPV6: u8 = 2;
        let (&subtype, id) = value.split_first()?;
        let address = if subtype == subtypes.mac {
            id.try_into().ok().map(|bytes| Self::Mac(MacAddress::new(bytes)))
        } else if subtype == subtypes.network {
            match *id {
                [IPV4, a, b, c, d] => Some(Self::Ip(Ipv4Addr::new(a, b, c, d).into())),
                [IPV6, ref address @ ..] => {
                    let bytes = <[u8; 16]>::try_from(address).ok();
                    bytes.map(|bytes| Self::Ip(Ipv6Addr::from(bytes).into()))
                }
                _ => None,
            }
        } else {
            None
        };
        (!id.is_empty()).then(|| address.unwrap_or_else(|| Self::Text(Text::from(id))))
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(address) => address.fmt(f),
            Self::Ip(address) => address.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Text, allegedly; what of it is not printable ASCII is shown as numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Text(Vec<u8, TEXT>);

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().take(TEXT).collect())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> std::vec::Vec<u8> {
        let header = u16::from(kind) << 9 | value.len() as u16;
        [&header.to_be_bytes()[..], value].concat()
    }

    fn frame(tlvs: &[(u8, &[u8])]) -> std::vec::Vec<u8> {
        let mut frame = [&NEAREST_BRIDGE[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xcc]].concat();
        tlvs.iter().for_each(|(kind, value)| frame.extend(tlv(*kind, value)));
        frame
    }

    fn shown(tlvs: &[(u8, &[u8])]) -> Option<(String, u64)> {
        let (neighbour, time) = Neighbour::parse(&frame(tlvs))?;
        Some((neighbour.to_string(), time.as_secs()))
    }

    const CHASSIS_ID: (u8, &[u8]) = (1, b"\x04\x00\x1b\x21\x00\x00\x01");
    const PORT_ID: (u8, &[u8]) = (2, b"\x05Gi1/0/7");
    const TTL: (u8, &[u8]) = (3, &[0, 120]);
    const END: (u8, &[u8]) = (0, &[]);

    #[test]
    fn a_switch_says_who_it_is() {
        let more = [(4, &b"to the rack"[..]), (5, b"sw1"), (6, b"A Switch"), (127, b"\0\x12\x0fx")];
        let all = [&[CHASSIS_ID, PORT_ID, TTL][..], &more, &[END, (1, b"padding")]].concat();
        let expected = "port \"Gi1/0/7\" of \"sw1\", chassis 00:1b:21:00:00:01";
        assert_eq!(shown(&all), Some((expected.into(), 120)));
        let expected = "port \"Gi1/0/7\" of chassis 00:1b:21:00:00:01";
        for least in [&[CHASSIS_ID, PORT_ID, TTL, END][..], &[CHASSIS_ID, PORT_ID, TTL]] {
            assert_eq!(shown(least), Some((expected.into(), 120)));
        }
        let twice = [CHASSIS_ID, PORT_ID, TTL, (5, b"first"), (5, b"second")];
        assert!(shown(&twice).unwrap().0.contains("\"first\""));
    }

    #[test]
    fn identifiers_are_shown_by_their_kind() {
        let cases: [(&[u8], &[u8], &str); 6] = [
            (b"\x07left", b"\x03\x02\0\0\0\0\x09", "port 02:00:00:00:00:09 of chassis \"left\""),
            (b"\x05\x01\x0a\0\0\x01", b"\x074", "port \"4\" of chassis 10.0.0.1"),
            (
                b"\x05\x02\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
                b"\x04\x01\x7f\0\0\x01",
                "port 127.0.0.1 of chassis fd00::1",
            ),
            // Neither of their kind's length.
            (b"\x04\x01\x02", b"\x04\x01\x02", "port \"\\x01\\x02\" of chassis \"\\x01\\x02\""),
            (b"\x05\x03abc", b"\x04\x02", "port \"\\x02\" of chassis \"\\x03abc\""),
            // Quotes and control characters stay inside.
            (
                b"\x06a\" \x1b[2J",
                b"\x01\n\xc3\xa9",
                r#"port "\n\xc3\xa9" of chassis "a\" \x1b[2J""#,
            ),
        ];
        for (chassis, port, expected) in cases {
            assert_eq!(shown(&[(1, chassis), (2, port), TTL]).unwrap().0, expected);
        }
    }

    #[test]
    fn long_names_are_cut() {
        let long = [&[7][..], &[b'x'; 255]].concat();
        let name = [b'y'; 511];
        let (shown, _) = shown(&[(1, &long), (2, &long), TTL, (5, &name)]).unwrap();
        let [x, y] = ["x", "y"].map(|letter| letter.repeat(TEXT));
        assert_eq!(shown, format!("port \"{x}\" of \"{y}\", chassis \"{x}\""));
    }

    #[test]
    fn what_lacks_a_part_or_ends_within_one_is_nothing() {
        let cases: [&[(u8, &[u8])]; 12] = [
            &[],
            &[END],
            &[CHASSIS_ID],
            &[CHASSIS_ID, PORT_ID],
            &[PORT_ID, CHASSIS_ID, TTL],
            &[CHASSIS_ID, PORT_ID, END],
            &[(1, b""), PORT_ID, TTL],
            &[CHASSIS_ID, (2, b"\x05"), TTL],
            &[CHASSIS_ID, PORT_ID, (3, &[1])],
            &[CHASSIS_ID, PORT_ID, TTL, CHASSIS_ID],
            &[CHASSIS_ID, PORT_ID, TTL, PORT_ID],
            &[CHASSIS_ID, PORT_ID, TTL, TTL, END],
        ];
        for tlvs in cases {
            assert_eq!(shown(tlvs), None, "{tlvs:?}");
        }
        let whole = frame(&[CHASSIS_ID, PORT_ID, TTL, (5, b"sw1")]);
        let boundary = whole.len() - tlv(5, b"sw1").len();
        for len in 0..whole.len() {
            assert_eq!(Neighbour::parse(&whole[..len]).is_some(), len == boundary, "{len} bytes");
        }
    }

    #[test]
    fn other_frames_are_no_neighbours() {
        let good = frame(&[CHASSIS_ID, PORT_ID, TTL, END]);
        assert!(Neighbour::parse(&good).is_some());
        for place in [0, 5, 12, 13] {
            let mut other = good.clone();
            other[place] ^= 1;
            assert_eq!(Neighbour::parse(&other), None, "byte {place}");
        }
    }

    proptest! {
        /// Whatever comes, it is refused or shown in few printable characters.
        #[test]
        fn any_tlvs_are_bounded_and_printable(
            head in prop::sample::subsequence(vec![CHASSIS_ID, PORT_ID, TTL], 0..=3),
            chassis in prop::collection::vec(any::<u8>(), 0..300),
            port in prop::collection::vec(any::<u8>(), 0..300),
            tail in prop::collection::vec((0u8..9, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..2000,
        ) {
            let ids = [(1, &chassis[..]), (2, &port[..]), TTL];
            for head in [&ids[..], &head] {
                let mut bytes = frame(head);
                bytes.extend(tail.iter().flat_map(|(kind, value)| tlv(*kind, value)));
                bytes.extend(&noise);
                bytes.truncate(cut);
                for bytes in [&bytes[..], &noise] {
                    if let Some((neighbour, _)) = Neighbour::parse(bytes) {
                        let shown = neighbour.to_string();
                        prop_assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                        prop_assert!(shown.len() < 3 * 4 * TEXT + 40, "{}", shown);
                    }
                }
            }
        }
    }
}
