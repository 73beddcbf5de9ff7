//! Which of its queues a guest gets a packet by.
//!
//! While the guest does not say, that is a matter of our own hash of the packet's flow.
//! By its control ring it can choose the hash, and the queue for each value of it (P-25).

use kernel::packet::flow::{Hash, HashKind, Seed, TOEPLITZ_KEY, Toeplitz};
use xen::netif::{ControlStatus, HashAlgorithm};

/// The most entries of the table of queues.
pub(super) const MAX_MAPPING: usize = 128;

/// How a guest's packets are spread over its queues.
#[derive(Debug)]
pub(super) struct Steering {
    /// How many queues there are: one at least.
    queues: u32,
    seed: Seed,
    algorithm: HashAlgorithm,
    toeplitz: Toeplitz,
    mapping: [u8; MAX_MAPPING],
    /// How many entries of the table are in use; without any, the hash itself says which
    /// queue.
    size: usize,
}

impl Steering {
    pub(super) fn new(queues: usize, seed: Seed) -> Self {
        Self {
            queues: queues.max(1) as u32,
            seed,
            algorithm: HashAlgorithm::None,
            toeplitz: Toeplitz { key: [0; TOEPLITZ_KEY], flags: 0 },
            mapping: [0; MAX_MAPPING],
            size: 0,
        }
    }

    /// Whether the guest chose a hash, of which it is to be told.
    pub(super) fn hashes(&self) -> bool {
        self.algorithm == HashAlgorithm::Toeplitz && self.toeplitz.flags != 0
    }

    /// The queue for a packet of `len` bytes that begins with `bytes`, and the hash to be
    /// told. What the guest's hash cannot be made of is as if it were zero.
    pub(super) fn steer(&self, bytes: &[u8], len: usize) -> (u8, Option<Hash>) {
        if !self.hashes() {
            let share = u64::from(self.seed.hash(bytes, len)) * u64::from(self.queues);
            return ((share >> 32) as u8, None);
        }
        let hash = self.toeplitz.hash(bytes, len);
        let value = hash.map_or(0, |hash| hash.value);
        let queue = match self.mapping.get(..self.size) {
            Some(table @ [_, ..]) => table[value as usize % table.len()],
            _ => (value % self.queues) as u8,
        };
        (queue, hash)
    }

    pub(super) fn set_algorithm(&mut self, algorithm: u32) -> Result<u32, ControlStatus> {
        let known = [HashAlgorithm::None, HashAlgorithm::Toeplitz];
        let found = known.into_iter().find(|known| u32::from(*known as u8) == algorithm);
        self.algorithm = found.ok_or(ControlStatus::InvalidParameter)?;
        Ok(0)
    }

    /// The kinds of hash that there are.
    pub(super) fn kinds(&self) -> Result<u32, ControlStatus> {
        match self.algorithm {
            HashAlgorithm::None => Err(ControlStatus::NotSupported),
            HashAlgorithm::Toeplitz => Ok(HashKind::ALL),
        }
    }

    pub(super) fn set_flags(&mut self, flags: u32) -> Result<u32, ControlStatus> {
        if flags & !self.kinds()? != 0 {
            return Err(ControlStatus::InvalidParameter);
        }
        self.toeplitz.flags = flags;
        Ok(0)
    }

    /// How many bytes a key of `len` has.
    pub(super) fn key_len(len: u32) -> Result<usize, ControlStatus> {
        let len = usize::try_from(len).ok().filter(|len| *len <= TOEPLITZ_KEY);
        len.ok_or(ControlStatus::BufferOverflow)
    }

    /// Takes a key; what it lacks is zero.
    pub(super) fn set_key(&mut self, key: &[u8]) {
        self.toeplitz.key = [0; TOEPLITZ_KEY];
        self.toeplitz.key.iter_mut().zip(key).for_each(|(ours, its)| *ours = *its);
    }

    /// Starts a new table, of so many entries that are all zero.
    pub(super) fn set_mapping_size(&mut self, size: u32) -> Result<u32, ControlStatus> {
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_MAPPING);
        self.size = size.ok_or(ControlStatus::InvalidParameter)?;
        self.mapping = [0; MAX_MAPPING];
        Ok(0)
    }

    /// Where in the table `len` entries from `offset` on are (XSA-270).
    pub(super) fn mapping_range(
        &self,
        len: u32,
        offset: u32,
    ) -> Result<core::ops::Range<usize>, ControlStatus> {
        let end = offset.checked_add(len).ok_or(ControlStatus::InvalidParameter)?;
        let (start, end) = (offset as usize, end as usize);
        match end {
            _ if end > MAX_MAPPING => Err(ControlStatus::BufferOverflow),
            _ if end > self.size => Err(ControlStatus::InvalidParameter),
            _ => Ok(start..end),
        }
    }

    /// Takes the queues of some entries, each a 32-bit number: all of them, or none where
    /// one is no queue (S-5). `entries` is a copy that nobody else can change.
    pub(super) fn set_mapping(
        &mut self,
        range: core::ops::Range<usize>,
        entries: &[u8],
    ) -> Result<u32, ControlStatus> {
        let queues = entries.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry));
        if queues.clone().any(|queue| queue >= self.queues) {
            return Err(ControlStatus::InvalidParameter);
        }
        let Some(table) = self.mapping.get_mut(range) else {
            return Err(ControlStatus::InvalidParameter);
        };
        table.iter_mut().zip(queues).for_each(|(ours, queue)| *ours = queue as u8);
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = Seed::new([3, 5]);

    /// A frame of a flow that its last Ethernet address tells.
    fn frame(flow: u8) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[11] = flow;
        frame
    }

    fn queue(steering: &Steering, flow: u8) -> u8 {
        steering.steer(&frame(flow), 60).0
    }

    #[test]
    fn our_own_hash_uses_all_queues() {
        for queues in 1..=8 {
            let steering = Steering::new(queues, SEED);
            let mut used: Vec<_> = (0..=255).map(|flow| queue(&steering, flow)).collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used, (0..queues as u8).collect::<Vec<_>>());
            assert_eq!(steering.steer(&frame(1), 60).1, None);
        }
    }

    #[test]
    fn what_has_no_hash_is_as_if_it_were_zero() {
        let mut steering = Steering::new(4, SEED);
        assert_eq!(steering.set_algorithm(1), Ok(0));
        assert!(!steering.hashes(), "of nothing");
        assert_eq!(steering.set_flags(HashKind::ALL), Ok(0));
        assert_eq!(queue(&steering, 7), 0);
        assert_eq!(steering.set_mapping_size(2), Ok(0));
        assert_eq!(steering.set_mapping(0..1, &3u32.to_le_bytes()), Ok(0));
        assert_eq!(steering.steer(&frame(7), 60), (3, None));
    }

    /// S-5: where the arithmetic could go wrong.
    #[test]
    fn ranges_of_a_table() {
        let mut steering = Steering::new(4, SEED);
        assert_eq!(steering.set_mapping_size(64), Ok(0));
        assert_eq!(steering.mapping_range(64, 0), Ok(0..64));
        assert_eq!(steering.mapping_range(0, 64), Ok(64..64));
        let (invalid, overflow) = (ControlStatus::InvalidParameter, ControlStatus::BufferOverflow);
        for (len, offset, status) in [
            (1, 64, invalid),
            (65, 0, invalid),
            (u32::MAX, 1, invalid),
            (1, u32::MAX, invalid),
            (1 << 31, 1 << 31, invalid),
            (129, 0, overflow),
            (0, 129, overflow),
            (u32::MAX, 0, overflow),
        ] {
            assert_eq!(steering.mapping_range(len, offset), Err(status), "{len} from {offset}");
        }
        assert_eq!(steering.set_mapping_size(129), Err(invalid));
        assert_eq!(steering.mapping_range(64, 0), Ok(0..64), "as it was");
    }

    proptest! {
        /// Whatever was asked for, a packet's queue is one of those there are.
        #[test]
        fn no_request_leads_beyond_the_queues(
            queues in 1..9usize,
            requests in prop::collection::vec(
                (0..5u8, prop_oneof![0..130u32, any::<u32>()], prop_oneof![0..130u32, any::<u32>()],
                 prop::collection::vec(prop_oneof![4 => 0..9u32, 1 => any::<u32>()], 0..130)),
                0..30,
            ),
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut steering = Steering::new(queues, SEED);
            for (kind, first, second, entries) in requests {
                let bytes: Vec<_> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                let _ = match kind {
                    0 => steering.set_algorithm(first % 3),
                    1 => steering.set_flags(first % 18),
                    2 => steering.set_mapping_size(first),
                    3 => {
                        let len = bytes.len().min(TOEPLITZ_KEY);
                        steering.set_key(&bytes[..len]);
                        Ok(0)
                    }
                    _ => steering.mapping_range(entries.len() as u32, second)
                        .and_then(|range| steering.set_mapping(range, &bytes)),
                };
                let (queue, _) = steering.steer(&bytes, bytes.len());
                prop_assert!(usize::from(queue) < queues);
            }
            let (queue, _) = steering.steer(&bytes, bytes.len());
            prop_assert!(usize::from(queue) < queues);
        }
    }
}
