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
