//! Frames to send.

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
