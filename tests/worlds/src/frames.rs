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
