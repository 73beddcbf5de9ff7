//! Whether what is on the NIC's wire is right: each frame, and who sent it.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, anyhow, bail};
use etherparse::{IpNumber, NetSlice, SlicedPacket};

/// The shortest Ethernet frame without its check sequence. A NIC pads shorter
/// contents to it; an emulated one may leave that out.
const SHORTEST: usize = 60;

/// The longest one: a 1500 byte packet.
pub const LONGEST: usize = 1514;

/// The longest one of a network with jumbo frames: a 9000 byte packet.
pub const LONGEST_JUMBO: usize = 9014;

/// Two addresses and a type.
const ETHERNET_HEADER: usize = 14;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One frame as it is on the wire, without its check sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a>(pub &'a [u8]);

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes ", self.0.len())?;
        self.0.iter().take(100).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Frame<'_> {
    /// Who it is sent to, if it is long enough to tell.
    pub fn destination(&self) -> Option<Mac> {
        Some(Mac(self.0.get(..6)?.try_into().ok()?))
    }

    /// Who sent it, if it is long enough to tell.
    pub fn source(&self) -> Option<Mac> {
        Some(Mac(self.0.get(6..12)?.try_into().ok()?))
    }

    /// Fails unless lengths and checksums of Ethernet, ARP, IP, TCP, UDP, ICMP
    /// and IGMP are right.
    pub fn check(&self) -> Result<()> {
        self.check_up_to(LONGEST)
    }

    /// The same where frames may be so long.
    fn check_up_to(&self, longest: usize) -> Result<()> {
        let frame = self.0;
        if frame.len() > longest {
            bail!("{} bytes", frame.len());
        }
        let packet = SlicedPacket::from_ethernet(frame)?;
        let tags: usize = packet.link_exts.iter().map(|tag| tag.header_len()).sum();
        let content = match &packet.net {
            None => return Ok(()),
            Some(NetSlice::Arp(arp)) => arp.slice().len(),
            Some(NetSlice::Ipv4(ip)) => {
                let ip_header = ip.header();
                if ones_complement(&[ip_header.slice()]) != 0xFFFF {
                    bail!("IPv4 header checksum");
                }
                if !ip.is_payload_fragmented() {
                    let (source, destination) = (ip_header.source(), ip_header.destination());
                    let payload = ip.payload();
                    check_transport(payload.ip_number, payload.payload, &source, &destination)?;
                }
                usize::from(ip_header.total_len())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip_header = ip.header();
                if !ip.is_payload_fragmented() {
                    let (source, destination) = (ip_header.source(), ip_header.destination());
                    let payload = ip.payload();
                    check_transport(payload.ip_number, payload.payload, &source, &destination)?;
                }
                40 + usize::from(ip_header.payload_length())
            }
        };
        let expected = ETHERNET_HEADER + tags + content;
        if frame.len() != expected && frame.len() != expected.max(SHORTEST) {
            bail!("{} bytes, its content makes {expected}", frame.len());
        }
        Ok(())
    }
}

/// Checks the transport header of an unfragmented packet.
fn check_transport(
    protocol: IpNumber,
    payload: &[u8],
    source: &[u8],
    destination: &[u8],
) -> Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let pseudo_header = [0, 0, 0, protocol.0];
    let with_addresses: [&[u8]; 5] = [source, destination, &length, &pseudo_header, payload];
    let is_v4 = source.len() == 4;
    let (name, parts) = match protocol {
        IpNumber::TCP => ("TCP", &with_addresses[..]),
        // Over IPv4 a UDP sender may leave the checksum out.
        IpNumber::UDP if is_v4 && payload.get(6..8) == Some(&[0, 0]) => return Ok(()),
        IpNumber::UDP => ("UDP", &with_addresses[..]),
        IpNumber::IPV6_ICMP => ("ICMPv6", &with_addresses[..]),
        IpNumber::ICMP => ("ICMP", &with_addresses[4..]),
        IpNumber::IGMP => ("IGMP", &with_addresses[4..]),
        _ => return Ok(()),
    };
    if ones_complement(parts) != 0xFFFF {
        bail!("{name} checksum");
    }
    Ok(())
}

/// The Internet checksum's sum; all parts but the last have an even length. With
/// a right checksum among them it is 0xFFFF.
pub(crate) fn ones_complement(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// How many faults are told in words.
const FAULTS_TOLD: usize = 5;

/// Looks at every frame that comes by.
#[derive(Debug)]
pub struct Watch {
    senders: Option<BTreeSet<Mac>>,
    longest: usize,
    seen: Seen,
}

impl Default for Watch {
    fn default() -> Self {
        Self { senders: None, longest: LONGEST, seen: Seen::default() }
    }
}

/// What a watch saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that came by.
    pub frames: u64,
    /// How many of them are wrong.
    pub faults: u64,
    /// What is wrong with the first ones.
    pub first_faults: Vec<String>,
}

impl Watch {
    /// From now on nobody else may send; without this, anybody may.
    pub fn expect(&mut self, senders: BTreeSet<Mac>) {
        self.senders = Some(senders);
    }

    /// From now on frames may be so long.
    pub fn allow(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// Judges a frame.
    pub fn look(&mut self, frame: Frame) {
        let source = frame.source();
        self.seen.frames += 1;
        let known = |senders: &BTreeSet<Mac>| source.is_some_and(|mac| senders.contains(&mac));
        let verdict = match &self.senders {
            Some(senders) if !known(senders) => Err(anyhow!("from who must not send here")),
            _ => frame.check_up_to(self.longest),
        };
        if let Err(fault) = verdict {
            self.seen.faults += 1;
            if self.seen.first_faults.len() < FAULTS_TOLD {
                self.seen.first_faults.push(format!("{fault:#}: {frame:?}"));
            }
        }
    }

    /// What was seen since the last call.
    pub fn take(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }

    fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 1], [10, 0, 2, 2], 64)
    }

    fn ipv6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64)
    }

    /// One frame of each kind with an odd and an even payload.
    fn frames() -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for payload in [&[1, 2, 3][..], &[7; 900]] {
            for step in [ipv4, ipv6] {
                let mut bytes = Vec::new();
                step().tcp(1, 2, 3, 4).write(&mut bytes, payload).unwrap();
                frames.push(padded(std::mem::take(&mut bytes)));
                step().udp(1, 2).write(&mut bytes, payload).unwrap();
                frames.push(padded(bytes));
            }
            let mut bytes = Vec::new();
            ipv4().icmpv4_echo_request(1, 2).write(&mut bytes, payload).unwrap();
            frames.push(padded(std::mem::take(&mut bytes)));
            ipv6().icmpv6_echo_request(1, 2).write(&mut bytes, payload).unwrap();
            frames.push(padded(bytes));
        }
        frames
    }

    #[test]
    fn right_frames_pass() {
        for frame in frames() {
            Frame(&frame).check().unwrap();
            assert_eq!(Frame(&frame).source(), Some(Mac([2; 6])));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_packet_is_noticed() {
        for frame in frames() {
            let v6 = frame[12] == 0x86;
            // The Ethernet header and IPv6's traffic class, flow label and hop
            // limit are under no checksum, nor is padding.
            let end = frame.len() - if frame.len() == SHORTEST { 20 } else { 0 };
            for at in (14..end).filter(|at| !v6 || !matches!(at - 14, 0..=3 | 7)) {
                let mut broken = frame.clone();
                broken[at] ^= 0x10;
                // What then is another protocol cannot be checked.
                let protocol = if v6 { 20 } else { 23 };
                let verdict = Frame(&broken).check();
                assert!(verdict.is_err() || at == protocol, "byte {at} of {:?}", Frame(&broken));
            }
        }
    }

    #[test]
    fn lengths_must_fit() {
        let check = |frame: &[u8]| Frame(frame).check();
        let frame = &frames()[6];
        assert!(check(&frame[..frame.len() - 1]).is_err());
        assert!(check(&[&frame[..], &[0]].concat()).is_err());
        assert!(check(&[0; 13]).is_err());
        let short = &frames()[1];
        assert!(check(&short[..59]).is_err());
        let content = 14 + 20 + 8 + 3;
        check(&short[..content]).unwrap();
        assert!(check(&short[..content - 1]).is_err());
        assert!(check(&[0xFF; 1515]).is_err());
    }

    #[test]
    fn udp_over_ipv4_may_leave_its_checksum_out() {
        let mut frame = frames()[1].clone();
        frame[40..42].fill(0);
        Frame(&frame).check().unwrap();
        let mut frame = frames()[3].clone();
        frame[60..62].fill(0);
        assert!(Frame(&frame).check().is_err());
    }

    #[test]
    fn a_watch_counts_what_is_wrong_and_tells_the_first_ones() {
        let frame = frames().remove(0);
        let mut watch = Watch::default();
        watch.look(Frame(&frame));
        let mut broken = frame.clone();
        broken[50] ^= 1;
        (0..FAULTS_TOLD + 2).for_each(|_| watch.look(Frame(&broken)));
        let seen = watch.take();
        assert_eq!((seen.frames, seen.faults), (FAULTS_TOLD as u64 + 3, FAULTS_TOLD as u64 + 2));
        assert_eq!(seen.first_faults.len(), FAULTS_TOLD);
        assert!(seen.first_faults[0].starts_with("TCP checksum: 60 bytes 0404"), "{seen:?}");
        assert_eq!(watch.take(), Seen::default());
    }

    #[test]
    fn who_may_send_is_watched() {
        let frame = frames().remove(0);
        let mut watch = Watch::default();
        watch.expect(BTreeSet::from([Mac([2; 6])]));
        watch.look(Frame(&frame));
        assert_eq!(watch.take().faults, 0);
        watch.expect(BTreeSet::from([Mac([3; 6])]));
        watch.look(Frame(&frame));
        watch.look(Frame(&frame[..9]));
        assert_eq!(watch.take().faults, 2);
    }
}
