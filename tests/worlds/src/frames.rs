//! Frames to send.

use etherparse::PacketBuilder;

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame of `len` bytes with a content that `seed` determines, of a kind that
/// nobody looks into.
///
/// # Panics
/// If it would be shorter than its header.
pub fn plain(to: [u8; 6], from: [u8; 6], len: usize, seed: u64) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
    assert!(len >= frame.len(), "a frame has a header");
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    while frame.len() < len {
        // xorshift64: no two places of a frame look alike for long.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        let rest = (len - frame.len()).min(bytes.len());
        frame.extend_from_slice(&bytes[..rest]);
    }
    frame
}

/// What the flow of a frame is told by: its addresses, and the ports behind an IP header
/// without options.
pub fn flow(frame: &[u8]) -> u64 {
    let more = match frame.get(12..14) {
        Some([8, 0]) => 26..38,
        Some([0x86, 0xdd]) => 22..58,
        _ => 0..0,
    };
    let bytes = frame.iter().take(12).chain(frame.get(more).unwrap_or(&[]));
    // FNV-1a, and what its upper half knows for the lower one.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32
}

/// A UDP datagram over IPv4, with its checksum, or with that of its pseudo-header in
/// its place, as a frontend leaves it to others (NETBACK-SPEC P-14).
///
/// # Panics
/// If it does not fit an IPv4 packet.
pub fn datagram(to: [u8; 6], from: [u8; 6], payload: &[u8], finished: bool) -> Vec<u8> {
    let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to).ipv4(source, destination, 9).udp(7, 9);
    builder.write(&mut frame, payload).expect("it fits");
    if !finished {
        let words = [source, destination].concat();
        let words = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let (udp, header) = (17, 8);
        let sum = words.sum::<u32>() + udp + header + payload.len() as u32;
        let folded = (sum & 0xffff) + (sum >> 16);
        frame[40..42].copy_from_slice(&(folded as u16).to_be_bytes());
    }
    frame
}

/// A datagram of a flow that its source port tells, of `len` bytes after the headers; it
/// begins with its number.
///
/// # Panics
/// If it has no room for that.
pub fn numbered(to: [u8; 6], from: [u8; 6], port: u16, number: u32, len: usize) -> Vec<u8> {
    let mut payload = vec![port as u8; len];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
    builder.udp(port, 9).write(&mut frame, &payload).expect("it fits");
    frame
}

/// The flow and the number of a datagram that [`numbered`] made.
///
/// # Panics
/// If it is none.
pub fn number(frame: &[u8]) -> (u16, u32) {
    let number = frame[42..46].try_into().expect("four bytes");
    (u16::from_be_bytes([frame[34], frame[35]]), u32::from_be_bytes(number))
}

/// A TCP segment over IPv4 between these addresses and ports.
///
/// # Panics
/// If it does not fit an IPv4 packet.
pub fn segment(
    to: [u8; 6],
    from: [u8; 6],
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to).ipv4(source.0, destination.0, 64);
    let builder = builder.tcp(source.1, destination.1, 7, 9);
    builder.write(&mut frame, payload).expect("it fits");
    frame
}

/// A TCP segment or UDP datagram over either IP, its checksums right.
///
/// # Panics
/// If it does not fit an IP packet.
pub fn transport(to: [u8; 6], from: [u8; 6], v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to);
    let ip = if v6 {
        builder.ipv6([0xfd; 16], [0xfe; 16], 64)
    } else {
        builder.ipv4([10, 0, 0, 1], [10, 9, 8, 7], 64)
    };
    let written = if tcp {
        ip.tcp(1000, 80, 7, 9).ack(3).write(&mut frame, payload)
    } else {
        ip.udp(53, 5353).write(&mut frame, payload)
    };
    written.expect("it fits");
    frame
}

/// The same frame with its transport checksum still to be made, and anything in the field.
pub fn blank(mut frame: Vec<u8>, v6: bool, tcp: bool) -> Vec<u8> {
    let at = if v6 { 54 } else { 34 } + if tcp { 16 } else { 6 };
    frame[at..at + 2].copy_from_slice(&[0xab, 0xcd]);
    frame
}

/// A TCP segment with the sum of its pseudo-header in place of its checksum, as a frontend
/// leaves it to others.
pub fn seeded(mut frame: Vec<u8>, v6: bool) -> Vec<u8> {
    let (addresses, tcp) = if v6 { (22..54, 54) } else { (26..34, 34) };
    let len = (frame.len() - tcp) as u32;
    let words = frame[addresses].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>() + 6 + len;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[tcp + 16..tcp + 18].copy_from_slice(&(folded as u16).to_be_bytes());
    frame
}
