//! Internet checksums (RFC 1071).
//!
//! Sums are made in the processor's own byte order: the one's complement sum of
//! words read with their bytes swapped is the swapped sum, so what is written back
//! the same way is right on the wire.

use core::iter;

use super::headers::{DEVICE_IP, HeaderError, Protocol, Transport};

/// Finishes the partial checksum of a whole frame in our memory
/// ([`Checksum::Partial`](super::Checksum::Partial), NETBACK-SPEC P-14).
///
/// The sum that the frontend left in the field is not trusted but made anew.
///
/// # Errors
/// Where the frame holds no whole TCP segment or UDP datagram; it is left as it
/// was.
pub fn finish(frame: &mut [u8]) -> Result<(), HeaderError> {
    let (field, checksum) = make(frame, iter::empty(), frame.len())?;
    // Parsed against the frame's own length, so the field is inside.
    frame[field..field + 2].copy_from_slice(&checksum);
    Ok(())
}

/// Makes the checksum of a frame of `len` bytes, `headers` and then what is in `rest`:
/// where the field is, among the headers, and what belongs there. What is there counts
/// for nothing.
///
/// # Errors
/// Where the frame holds no whole TCP segment or UDP datagram.
pub fn make<'a>(
    headers: &'a [u8],
    rest: impl Iterator<Item = &'a [u8]>,
    len: usize,
) -> Result<(usize, [u8; 2]), HeaderError> {
    let transport = find(headers, len)?;
    let field = transport.checksum();
    let there = u16::from_ne_bytes([headers[field], headers[field + 1]]);
    // One's complement: what is added with its bits turned over is taken away.
    let start = add(pseudo_header(&transport, headers), u64::from(!there));
    let (mut total, mut at) = (start, 0);
    for piece in iter::once(headers).chain(rest) {
        let (begin, end) =
            (transport.range.start.max(at), transport.range.end.min(at + piece.len()));
        if begin < end {
            let part = fold(sum(0, &piece[begin - at..end - at]));
            let odd = (begin - transport.range.start) % 2 == 1;
            total = add(total, u64::from(if odd { part.swap_bytes() } else { part }));
        }
        at += piece.len();
    }
    let checksum = match (!fold(total), transport.protocol) {
        // A zero would say that there is no checksum (RFC 768).
        (0, Protocol::Udp) => u16::MAX,
        (checksum, _) => checksum,
    };
    Ok((field, checksum.to_ne_bytes()))
}

/// The Internet checksum of `bytes`.
pub(super) fn of(bytes: &[u8]) -> [u8; 2] {
    (!fold(sum(0, bytes))).to_ne_bytes()
}

/// The pseudo-header's sum for a transport header and payload of `len` bytes.
pub(super) fn seed(addresses: &[u8], protocol: Protocol, len: usize) -> [u8; 2] {
    fold(pseudo_header_of(addresses, protocol, len)).to_ne_bytes()
}

/// How a device makes a partial checksum: it adds up what lies from `start` to the
/// frame's end, the field itself included, and puts the complement into the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insertion {
    /// Where the transport header begins.
    pub start: u8,
    /// Where the two bytes of the checksum begin.
    pub field: u8,
    /// Whose checksum it is: the zero of one is not that of the other (RFC 768).
    pub protocol: Protocol,
    /// What the field has to hold before: the pseudo-header's sum.
    pub seed: [u8; 2],
}

/// Finds how a device makes the partial checksum of a frame of `len` bytes that begins
/// with `headers`; `None` where it cannot, and [`finish`] has to, if that can: the
/// transport header is not all among `headers`, the field is beyond the 256 bytes that
/// devices reach, there are more tags than they see through, or padding follows, which does
/// not count.
pub fn locate(headers: &[u8], len: usize) -> Option<Insertion> {
    let transport = find(headers, len).ok()?;
    if transport.range.end != len || transport.ip.start > DEVICE_IP {
        return None;
    }
    Some(Insertion {
        start: transport.range.start.try_into().ok()?,
        field: transport.checksum().try_into().ok()?,
        protocol: transport.protocol,
        seed: fold(pseudo_header(&transport, headers)).to_ne_bytes(),
    })
}

/// The segment or datagram with a checksum that can be made.
fn find(headers: &[u8], len: usize) -> Result<Transport, HeaderError> {
    let transport = Transport::parse(headers, len)?;
    if transport.ip.routed { Err(HeaderError::Routed) } else { Ok(transport) }
}

/// The pseudo-header's sum, from the headers it was parsed from.
fn pseudo_header(transport: &Transport, headers: &[u8]) -> u64 {
    let addresses = &headers[transport.ip.addresses()];
    pseudo_header_of(addresses, transport.protocol, transport.range.len())
}

/// The same for another length of transport header and payload.
fn pseudo_header_of(addresses: &[u8], protocol: Protocol, len: usize) -> u64 {
    let (len, protocol) = (len as u16, u16::from(protocol.number()));
    sum(u64::from(len.to_be()) + u64::from(protocol.to_be()), addresses)
}

/// Adds `bytes`, the first of them at an even place, to a sum of 64-bit words.
fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut total = start;
    for block in blocks {
        // One chain of additions with carry, in which only the last carry is left
        // to be brought round.
        let mut carry = false;
        for word in block.as_chunks::<8>().0 {
            (total, carry) = total.carrying_add(u64::from_ne_bytes(*word), carry);
        }
        total = add(total, u64::from(carry));
    }
    for word in rest.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        total = add(total, u64::from_ne_bytes(padded));
    }
    total
}

/// One's complement addition: the carry comes back in at the bottom.
const fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// A sum of 64-bit words as one of 16-bit words. Zero only if all of them were.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as it is written, a byte at a time.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for (place, byte) in bytes.iter().enumerate() {
            total += u32::from(*byte) << if place % 2 == 0 { 8 } else { 0 };
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// A frame with its checksum right, by an implementation that is not ours.
    fn frame(v6: bool, tags: usize, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        macro_rules! rest {
            ($builder:expr) => {{
                let mut frame = Vec::new();
                let ip = if v6 {
                    $builder.ipv6([0xfe; 16], [0x20; 16], 64)
                } else {
                    $builder.ipv4([10, 0, 0, 1], [192, 168, 200, 255], 64)
                };
                if tcp {
                    let tcp = ip.tcp(4000, 80, 0xdead_beef, 29_200).ack(7);
                    let tcp = tcp.options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
                    tcp.write(&mut frame, payload).unwrap();
                } else {
                    ip.udp(53, 5353).write(&mut frame, payload).unwrap();
                }
                frame
            }};
        }
        match tags {
            0 => rest!(builder),
            1 => rest!(builder.single_vlan(7.try_into().unwrap())),
            _ => rest!(builder.double_vlan(7.try_into().unwrap(), 9.try_into().unwrap())),
        }
    }

    fn checksum_at(frame: &[u8]) -> usize {
        Transport::parse(frame, frame.len()).unwrap().checksum()
    }

    #[test]
    fn a_known_vector() {
        // RFC 1071, section 3: the sum is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn a_datagram_whose_checksum_is_zero_says_so_with_ones() {
        let base = frame(false, 0, false, &[0, 0]);
        let at = checksum_at(&base);
        let mut zero = base.clone();
        // The complement of a checksum, added to the data, makes the sum all ones.
        let (checksum, len) = ([base[at], base[at + 1]], base.len());
        zero[len - 2..].copy_from_slice(&checksum);
        finish(&mut zero).unwrap();
        assert_eq!(zero[at..at + 2], [0xff, 0xff]);

        let base = frame(false, 0, true, &[0, 0]);
        let at = checksum_at(&base);
        let mut zero = base.clone();
        let (checksum, len) = ([base[at], base[at + 1]], base.len());
        zero[len - 2..].copy_from_slice(&checksum);
        finish(&mut zero).unwrap();
        assert_eq!(zero[at..at + 2], [0, 0], "zero means zero in TCP");
    }

    /// What a device does (RFC 1071, a byte at a time).
    fn insert(frame: &mut [u8], insertion: Insertion) {
        let Insertion { start, field, protocol, .. } = insertion;
        let sum = slow(&frame[usize::from(start)..]);
        let checksum = match (!sum, protocol) {
            (0, Protocol::Udp) => u16::MAX,
            (checksum, _) => checksum,
        };
        frame[usize::from(field)..][..2].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn what_a_device_cannot_make_is_not_located() {
        let whole = frame(false, 0, true, b"payload");
        let (len, headers) = (whole.len(), whole.len() - 7);
        let found = locate(&whole, len).expect("all of it is there");
        assert_eq!(locate(&whole[..headers], len), Some(found), "the payload may be elsewhere");
        assert_eq!(locate(&whole[..headers - 1], len), None, "the header may not");
        let mut padded = whole.clone();
        padded.resize(len + 1, 0);
        assert_eq!(locate(&padded, len + 1), None);
        let mut tagged = whole.clone();
        for (tags, located) in [(1, true), (2, true), (3, false)] {
            tagged.splice(12..12, [0x81, 0, 0, 7]);
            assert_eq!(locate(&tagged, tagged.len()).is_some(), located, "{tags} tags");
            assert!(finish(&mut tagged.clone()).is_ok());
        }
        // Behind so many bytes of destination options (RFC 8200, section 4.6).
        let behind = |options: &[usize]| {
            let mut frame = frame(true, 0, false, b"payload");
            for len in options {
                let mut extension = vec![0; *len];
                extension[..2].copy_from_slice(&[frame[20], (len / 8 - 1) as u8]);
                frame[20] = 60;
                frame.splice(54..54, extension);
            }
            let len = frame.len() as u16 - 54;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            locate(&frame, frame.len()).map(|found| (found.start, found.field))
        };
        assert_eq!(behind(&[64, 64, 64]), Some((246, 252)));
        assert_eq!(behind(&[64, 64, 64, 8]), None, "the field begins at byte 260");
    }

    #[test]
    fn padding_behind_the_packet_does_not_count() {
        let whole = frame(false, 0, false, b"odd");
        let mut padded = whole.clone();
        padded.resize(60, 0xaa);
        let at = checksum_at(&whole);
        padded[at..at + 2].fill(0x55);
        finish(&mut padded).unwrap();
        assert_eq!(padded[..whole.len()], whole);
    }

    #[test]
    fn what_has_no_such_checksum_is_refused_and_left_alone() {
        let udp = frame(false, 1, false, &[1; 40]);
        let v6 = frame(true, 0, true, &[1; 40]);
        let changed = |frame: &[u8], at: usize, bytes: &[u8]| {
            let mut frame = frame.to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        // An extension header in front of the TCP header.
        let extended = |kind: u8, extension: [u8; 8]| {
            let mut frame = v6.clone();
            frame[20] = kind;
            frame.splice(54..54, extension);
            let len = frame.len() as u16 - 54;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            frame
        };
        for (frame, error) in [
            (changed(&udp, 16, &[0x08, 0x06]), HeaderError::NotIp(0x0806)),
            (changed(&udp, 27, &[1]), HeaderError::Protocol(1)),
            (changed(&v6, 20, &[58]), HeaderError::Protocol(58)),
            (changed(&udp, 24, &[0x20, 0]), HeaderError::Fragment),
            (changed(&udp, 24, &[0, 1]), HeaderError::Fragment),
            (extended(44, [6, 0, 0, 1, 0, 0, 0, 1]), HeaderError::Fragment),
            (extended(43, [6, 0, 4, 1, 0, 0, 0, 0]), HeaderError::Routed),
            (udp[..41].to_vec(), HeaderError::IpLength(86, 41)),
            (changed(&udp, 42, &[0, 49]), HeaderError::UdpLength(49)),
            (changed(&udp, 42, &[0, 7]), HeaderError::UdpLength(7)),
            (changed(&v6, 66, &[0x40]), HeaderError::TcpHeaderLength(16)),
            (changed(&v6, 18, &[0, 24]), HeaderError::TcpHeaderLength(32)),
        ] {
            let mut after = frame.clone();
            assert_eq!(finish(&mut after), Err(error));
            assert_eq!(after, frame);
        }
        let mut fine = extended(60, [6, 0, 1, 4, 0, 0, 0, 0]);
        finish(&mut fine).unwrap();
        assert_eq!(fine[62..], v6[54..], "options do not count");
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_slow_way(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), slow(&bytes).to_be_bytes());
        }

        #[test]
        fn sums_of_ones_carry(len in 0usize..4096) {
            let bytes = vec![0xff; len];
            prop_assert_eq!(fold(sum(u64::MAX, &bytes)).to_ne_bytes(), {
                let mut all = vec![0xff; 8];
                all.extend(bytes);
                slow(&all).to_be_bytes()
            });
        }

        #[test]
        fn finished_frames_are_as_others_make_them(
            v6: bool,
            tags in 0usize..3,
            tcp: bool,
            field: [u8; 2],
            payload in prop::collection::vec(any::<u8>(), 0..1400),
        ) {
            let right = frame(v6, tags, tcp, &payload);
            let mut blank = right.clone();
            let at = checksum_at(&right);
            blank[at..at + 2].copy_from_slice(&field);
            let mut inserted = blank.clone();
            finish(&mut blank).unwrap();
            prop_assert_eq!(&blank, &right);
            // A device makes the same.
            let insertion = locate(&inserted, inserted.len()).unwrap();
            inserted[at..at + 2].copy_from_slice(&insertion.seed);
            insert(&mut inserted, insertion);
            prop_assert_eq!(inserted, right);
        }

        #[test]
        fn no_bytes_make_it_panic(
            v6: bool,
            tags in 0usize..3,
            tcp: bool,
            cut in 0usize..120,
            changes in prop::collection::vec((0usize..100, any::<u8>()), 0..8),
        ) {
            let mut frame = frame(v6, tags, tcp, &[7; 30]);
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            let len = frame.len();
            frame.truncate(cut.max(1));
            let _ = locate(&frame, len);
            let _ = finish(&mut frame);
        }
    }
}
