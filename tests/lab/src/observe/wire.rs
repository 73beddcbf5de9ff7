//! The capture of the NIC's wire, and whether each frame in it is right.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use etherparse::{IpNumber, NetSlice, SlicedPacket};

/// The shortest Ethernet frame without its check sequence. A NIC pads shorter
/// contents to it; an emulated one may leave that out.
const SHORTEST: usize = 60;

/// The longest one: a 1500 byte packet.
const LONGEST: usize = 1514;

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

/// One frame of a capture.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes ", self.bytes.len())?;
        self.bytes.iter().take(100).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Frame {
    /// Who sent it, if it is long enough to tell.
    pub fn source(&self) -> Option<Mac> {
        Some(Mac(self.bytes.get(6..12)?.try_into().ok()?))
    }

    /// Fails unless lengths and checksums of Ethernet, ARP, IP, TCP, UDP, ICMP
    /// and IGMP are right.
    pub fn check(&self) -> Result<()> {
        let frame = self.bytes.as_slice();
        if frame.len() > LONGEST {
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
fn ones_complement(parts: &[&[u8]]) -> u16 {
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

/// A capture that is still being written.
pub struct Capture {
    path: PathBuf,
    read: u64,
}

/// A file header with microseconds, this machine's byte order and Ethernet frames,
/// as the emulator writes it.
const MAGIC: u32 = 0xA1B2_C3D4;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

impl Capture {
    /// Follows the capture at `path` from its beginning.
    pub fn follow(path: PathBuf) -> Capture {
        Capture { path, read: 0 }
    }

    /// The frames that were added since the last call.
    pub fn new_frames(&mut self) -> Result<Vec<Frame>> {
        let mut file =
            File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        if self.read == 0 {
            let Some((header, records)) = rest.split_at_checked(FILE_HEADER) else {
                return Ok(Vec::new());
            };
            if header[..4] != MAGIC.to_le_bytes() {
                bail!("{} is not a capture", self.path.display());
            }
            self.read += FILE_HEADER as u64;
            rest = records;
        }
        let mut frames = Vec::new();
        while let Some((frame, after)) = split_record(rest)? {
            self.read += (rest.len() - after.len()) as u64;
            rest = after;
            frames.push(frame);
        }
        Ok(frames)
    }
}

/// The first record and what follows it, unless it is not complete yet.
fn split_record(bytes: &[u8]) -> Result<Option<(Frame, &[u8])>> {
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else { return Ok(None) };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let (captured, length) = (word(8), word(12));
    if captured != length {
        bail!("a frame of {length} bytes was cut to {captured}");
    }
    let record = rest.split_at_checked(captured as usize);
    Ok(record.map(|(bytes, rest)| (Frame { bytes: bytes.to_vec() }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn padded(mut bytes: Vec<u8>) -> Frame {
        bytes.resize(bytes.len().max(SHORTEST), 0);
        Frame { bytes }
    }

    fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 1], [10, 0, 2, 2], 64)
    }

    fn ipv6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64)
    }

    /// One frame of each kind with an odd and an even payload.
    fn frames() -> Vec<Frame> {
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
            frame.check().unwrap();
            assert_eq!(frame.source(), Some(Mac([2; 6])));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_packet_is_noticed() {
        for frame in frames() {
            let v6 = frame.bytes[12] == 0x86;
            // The Ethernet header and IPv6's traffic class, flow label and hop
            // limit are under no checksum, nor is padding.
            let end = frame.bytes.len() - if frame.bytes.len() == SHORTEST { 20 } else { 0 };
            for at in (14..end).filter(|at| !v6 || !matches!(at - 14, 0..=3 | 7)) {
                let mut broken = frame.clone();
                broken.bytes[at] ^= 0x10;
                // What then is another protocol cannot be checked.
                let protocol = if v6 { 20 } else { 23 };
                assert!(broken.check().is_err() || at == protocol, "byte {at} of {frame:?}");
            }
        }
    }

    #[test]
    fn lengths_must_fit() {
        let frame = &frames()[6];
        assert!(Frame { bytes: frame.bytes[..frame.bytes.len() - 1].to_vec() }.check().is_err());
        assert!(Frame { bytes: [&frame.bytes[..], &[0]].concat() }.check().is_err());
        assert!(Frame { bytes: vec![0; 13] }.check().is_err());
        let short = &frames()[1];
        assert!(Frame { bytes: short.bytes[..59].to_vec() }.check().is_err());
        let content = 14 + 20 + 8 + 3;
        Frame { bytes: short.bytes[..content].to_vec() }.check().unwrap();
        assert!(Frame { bytes: short.bytes[..content - 1].to_vec() }.check().is_err());
        assert!(Frame { bytes: vec![0xFF; 1515] }.check().is_err());
    }

    #[test]
    fn udp_over_ipv4_may_leave_its_checksum_out() {
        let mut frame = frames()[1].clone();
        frame.bytes[40..42].fill(0);
        frame.check().unwrap();
        let mut frame = frames()[3].clone();
        frame.bytes[60..62].fill(0);
        assert!(frame.check().is_err());
    }

    #[test]
    fn a_capture_is_read_as_it_grows() {
        let path = std::env::temp_dir().join(format!("lab-capture-{}", std::process::id()));
        let frame = frames().remove(0);
        let mut record = vec![0; 8];
        for _ in 0..2 {
            record.extend((frame.bytes.len() as u32).to_le_bytes());
        }
        record.extend(&frame.bytes);
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.resize(FILE_HEADER, 0);
        file.extend(&record);
        file.extend(&record[..30]);
        std::fs::write(&path, &file).unwrap();
        let mut capture = Capture::follow(path.clone());
        assert_eq!(capture.new_frames().unwrap(), std::slice::from_ref(&frame));
        assert_eq!(capture.new_frames().unwrap(), []);
        file.extend(&record[30..]);
        std::fs::write(&path, &file).unwrap();
        assert_eq!(capture.new_frames().unwrap(), [frame]);
        std::fs::remove_file(path).unwrap();
    }
}
