//! What tells one flow from another, as a number: packets of a flow have the same, so
//! that whoever sorts packets by it keeps the flow's order.
//!
//! Two hashes are made of the same bytes. [`Seed`] keys our own, which no peer can
//! guess; [`Toeplitz`] is what frontends know from NICs, keyed by them (netif.h, "Hash
//! algorithms"; Microsoft's RSS). Both look at headers in our memory alone, and any bytes
//! will do: what is no IP packet is told apart by its Ethernet addresses.

use core::ops::Range;

use super::{Ip, Protocol, Version};

/// Bytes of both Ethernet addresses, which lie at a frame's start.
const ETHERNET_ADDRESSES: Range<usize> = 0..12;
/// Bytes of a TCP or UDP header's two ports, which lie at its start.
const PORTS: usize = 4;

/// Where in a frame's headers the bytes lie that tell its flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The IP version and where the addresses are; `None` for other frames.
    ip: Option<(Version, Range<usize>)>,
    /// The two ports of a whole TCP segment or UDP datagram, where they are in our
    /// memory. Fragments have none, or the first of them would leave the others.
    ports: Option<(Protocol, Range<usize>)>,
}

impl Flow {
    /// The flow of a frame of `len` bytes that begins with `bytes`.
    pub fn parse(bytes: &[u8], len: usize) -> Self {
        let Ok(ip) = Ip::parse(bytes, len) else { return Self { ip: None, ports: None } };
        let protocol = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|protocol| !ip.fragment && protocol.number() == ip.protocol);
        let start = ip.payload.start;
        let ports = start..start + PORTS;
        let there = ports.end <= bytes.len().min(ip.payload.end);
        let ports = protocol.filter(|_| there).map(|protocol| (protocol, ports));
        Self { ip: Some((ip.version, ip.addresses())), ports }
    }
}

/// What our own hash is keyed with: random numbers, new at each boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed([u64; 2]);

impl Seed {
    /// A seed from random numbers. Others may be keyed with them as well: nothing of
    /// those can be told from what this makes of them.
    pub const fn new([one, other]: [u64; 2]) -> Self {
        Self([mix(one ^ 0x6c6f_7773), mix(other ^ 0x6661_6972)])
    }

    /// The hash of a frame of `len` bytes that begins with `bytes`. Each packet of a flow
    /// has its own; whether the answers have the same is nobody's business.
    pub fn hash(self, bytes: &[u8], len: usize) -> u32 {
        let Flow { ip, ports } = Flow::parse(bytes, len);
        let addresses = ip.map_or(ETHERNET_ADDRESSES, |(_, addresses)| addresses);
        let mut hash = self.0[0];
        for range in [Some(addresses), ports.map(|(_, ports)| ports)].into_iter().flatten() {
            let range = range.start..range.end.min(bytes.len());
            for chunk in bytes.get(range).unwrap_or(&[]).chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                hash = self.fold(hash ^ u64::from_le_bytes(word));
            }
        }
        mix(hash) as u32
    }

    const fn fold(self, word: u64) -> u64 {
        let product = word as u128 * (self.0[1] | 1) as u128;
        product as u64 ^ (product >> 64) as u64
    }
}

/// Each bit of the result depends on every bit of `x` (the last steps of SplitMix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// What a [`Toeplitz`] hash was made of: the number of its flag in netif.h
/// (`_XEN_NETIF_CTRL_HASH_TYPE_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HashKind {
    /// IPv4 addresses.
    V4 = 0,
    /// IPv4 addresses and TCP ports.
    V4Tcp = 1,
    /// IPv6 addresses.
    V6 = 2,
    /// IPv6 addresses and TCP ports.
    V6Tcp = 3,
}

impl HashKind {
    /// The kind's flag.
    pub const fn flag(self) -> u32 {
        1 << self as u32
    }

    /// The flags of all kinds.
    pub const ALL: u32 =
        Self::V4.flag() | Self::V4Tcp.flag() | Self::V6.flag() | Self::V6Tcp.flag();
}

/// A hash that whoever gets the packet is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash {
    /// What it was made of.
    pub kind: HashKind,
    /// The hash.
    pub value: u32,
}

/// The most bytes of a key: 32 for the hash itself and one for each bit that it is made
/// of, those of IPv6 with ports.
pub const TOEPLITZ_KEY: usize = 40;

/// The Toeplitz hash under a key, over what its flags choose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Toeplitz {
    /// The key; what was not given of it is zero.
    pub key: [u8; TOEPLITZ_KEY],
    /// The [`HashKind`]s to be used, by their flags.
    pub flags: u32,
}

impl Toeplitz {
    /// The hash of a frame of `len` bytes that begins with `bytes`, over as much as the
    /// flags allow; `None` where they allow nothing that is in it.
    pub fn hash(&self, bytes: &[u8], len: usize) -> Option<Hash> {
        let Flow { ip, ports } = Flow::parse(bytes, len);
        let (version, addresses) = ip?;
        let tcp = ports.filter(|(protocol, _)| *protocol == Protocol::Tcp).map(|(_, ports)| ports);
        let (whole, plain) = match version {
            Version::V4 => (HashKind::V4Tcp, HashKind::V4),
            Version::V6 => (HashKind::V6Tcp, HashKind::V6),
        };
        let chosen = |kind: HashKind| self.flags & kind.flag() != 0;
        let (kind, ports) = match tcp {
            Some(ports) if chosen(whole) => (whole, ports),
            _ if chosen(plain) => (plain, 0..0),
            _ => return None,
        };
        let data = |range: Range<usize>| bytes.get(range).unwrap_or(&[]).iter();
        let value = self.over(data(addresses).chain(data(ports)).copied());
        Some(Hash { kind, value })
    }

    /// Each bit that is set adds the 32 bits of the key that begin at its place.
    fn over(&self, data: impl Iterator<Item = u8>) -> u32 {
        let byte = |place: usize| self.key.get(place).copied().unwrap_or(0);
        let mut window = u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)]);
        let mut hash = 0;
        for (place, data) in data.enumerate() {
            let next = byte(place + 4);
            for bit in (0..8).rev() {
                hash ^= window & 0u32.wrapping_sub(u32::from(data >> bit & 1));
                window = window << 1 | u32::from(next >> bit & 1);
            }
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = Seed::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; TOEPLITZ_KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// By source, destination and their ports: the hash of the addresses alone, and with
    /// the ports, as published there.
    const PUBLISHED: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
        ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
        (
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            "fe80::200:f8ff:fe21:67cf",
            38024,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn segment(from: &str, source: u16, to: &str, destination: u16, tcp: bool) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 9),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 9),
            _ => unreachable!(),
        };
        let mut frame = Vec::new();
        let written = match tcp {
            true => ip.tcp(source, destination, 7, 9).write(&mut frame, &[1; 20]),
            false => ip.udp(source, destination).write(&mut frame, &[1; 20]),
        };
        written.unwrap();
        frame
    }

    fn toeplitz(frame: &[u8], flags: u32) -> Option<(HashKind, u32)> {
        let hash = Toeplitz { key: KEY, flags }.hash(frame, frame.len());
        hash.map(|Hash { kind, value }| (kind, value))
    }

    #[test]
    fn toeplitz_is_as_published() {
        for (from, source, to, destination, plain, whole) in PUBLISHED {
            let (v, v_tcp) = match from.contains(':') {
                false => (HashKind::V4, HashKind::V4Tcp),
                true => (HashKind::V6, HashKind::V6Tcp),
            };
            let tcp = segment(from, source, to, destination, true);
            assert_eq!(toeplitz(&tcp, HashKind::ALL), Some((v_tcp, whole)), "{from}");
            assert_eq!(toeplitz(&tcp, v_tcp.flag()), Some((v_tcp, whole)), "{from}");
            assert_eq!(toeplitz(&tcp, v.flag()), Some((v, plain)), "{from}");
            assert_eq!(toeplitz(&tcp, HashKind::ALL & !v.flag() & !v_tcp.flag()), None);
            // There is no kind for UDP.
            let udp = segment(from, source, to, destination, false);
            assert_eq!(toeplitz(&udp, HashKind::ALL), Some((v, plain)), "{from}");
            assert_eq!(toeplitz(&udp, v_tcp.flag()), None, "{from}");
        }
        let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
        assert_eq!(toeplitz(&arp, HashKind::ALL), None);
    }

    /// What a key lacks is zero (netif.h), and so is then what it decides.
    #[test]
    fn keys_that_are_short() {
        let (from, source, to, destination, _, whole) = PUBLISHED[0];
        let frame = segment(from, source, to, destination, true);
        let hash = |len: usize| {
            let mut key = [0; TOEPLITZ_KEY];
            key[..len].copy_from_slice(&KEY[..len]);
            let hash = Toeplitz { key, flags: HashKind::ALL }.hash(&frame, frame.len());
            hash.unwrap().value
        };
        assert_eq!(hash(0), 0);
        // 12 bytes are hashed, each bit with 32 of the key.
        assert_eq!(hash(16), whole);
        assert_ne!(hash(14), whole);
    }

    /// Both in one place: the ports are looked at where there are such, and only there.
    #[test]
    fn fragments_stay_with_their_first() {
        let frame = segment("10.0.0.1", 1000, "10.0.0.2", 80, false);
        let other = segment("10.0.0.1", 1001, "10.0.0.2", 80, false);
        let hash = |frame: &[u8]| SEED.hash(frame, frame.len());
        assert_ne!(hash(&frame), hash(&other), "ports tell flows apart");
        let fragment = |frame: &[u8], flags: [u8; 2]| {
            let mut frame = frame.to_vec();
            frame[20..22].copy_from_slice(&flags);
            hash(&frame)
        };
        let first = fragment(&frame, [0x20, 0]);
        assert_eq!(first, fragment(&frame, [0, 100]));
        assert_eq!(first, fragment(&other, [0x20, 50]), "whatever stands where ports would");
        assert_eq!(Flow::parse(&frame[..36], frame.len()).ports, None, "not in our memory");
    }

    #[test]
    fn others_are_told_apart_by_their_ethernet_addresses() {
        let frame = |last: u8, payload: u8| {
            let mut frame = [payload; 60];
            frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, last, 0x88, 0xb5]);
            SEED.hash(&frame, frame.len())
        };
        assert_eq!(frame(1, 1), frame(1, 2));
        assert_ne!(frame(1, 1), frame(2, 1));
    }

    /// Flows that differ in little are spread, under any seed.
    #[test]
    fn flows_are_spread() {
        for seed in 0..16 {
            let seed = Seed::new([seed, seed]);
            // By the hash's lower bits and by its upper ones.
            let mut lanes = [0; 16];
            for port in 1000..1800 {
                let frame = segment("10.0.0.1", port, "10.0.0.2", 80, true);
                let hash = seed.hash(&frame, frame.len());
                [hash % 8, 8 + hash / (1 << 29)].into_iter().for_each(|n| lanes[n as usize] += 1);
            }
            assert!(lanes.iter().all(|count| (60..=145).contains(count)), "{lanes:?}");
        }
        let frame = segment("10.0.0.1", 1000, "10.0.0.2", 80, true);
        let hashes = (0..100).map(|seed| Seed::new([seed, 7]).hash(&frame, frame.len()));
        assert_eq!(hashes.collect::<BTreeSet<_>>().len(), 100, "a seed's own");
    }

    proptest! {
        /// Any bytes have a hash, and what is behind the headers does not matter.
        #[test]
        fn any_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..140),
            kind in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [0x81, 0], [1, 2]]),
            len in 0..70_000usize,
        ) {
            if let Some(ethertype) = bytes.get_mut(12..14) {
                ethertype.copy_from_slice(&kind);
            }
            let len = len.max(bytes.len());
            let hash = SEED.hash(&bytes, len);
            prop_assert_eq!(hash, SEED.hash(&bytes.clone(), len));
            let hash = Toeplitz { key: KEY, flags: HashKind::ALL }.hash(&bytes, len);
            prop_assert!(hash.is_none() || matches!(kind, [8, 0] | [0x86, 0xdd] | [0x81, 0]));
        }
    }
}
