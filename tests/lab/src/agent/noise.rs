//! Bytes and numbers without a pattern, the same ones for a seed.

/// The noise of a seed.
pub struct Noise(u64);

impl Noise {
    /// Starts the noise of `seed`.
    pub fn new(seed: u64) -> Noise {
        // The generator's one bad state is zero; small seeds differ in few bits.
        Noise(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).max(1))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        // The low bits are the generator's weaker ones.
        ((self.bits() >> 16) % end as u64) as usize
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            word.copy_from_slice(&self.bits().to_le_bytes()[..word.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_noise_and_another_seed_another() {
        let noise = |seed| {
            let mut bytes = [0; 100];
            Noise::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(noise(1), noise(1));
        assert_ne!(noise(1), noise(2));
        assert_ne!(noise(u64::MAX), [0; 100]);
        assert_ne!(noise(1)[..50], noise(1)[50..]);
    }

    #[test]
    fn all_numbers_below_the_end_come() {
        let mut noise = Noise::new(7);
        let mut seen = [0; 5];
        (0..500).for_each(|_| seen[noise.below(5)] += 1);
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
