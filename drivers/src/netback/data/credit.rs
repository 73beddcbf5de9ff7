//! How much a guest may send (P-26).
//!
//! A vif with `rate=` has credit: so many bytes with each interval, counted from when it
//! connected first. Each request costs what its first slot says that the packet is long,
//! whatever becomes of it, and is not taken from the ring before there is enough. As with
//! Linux, credit that is not used adds up to [`MIN_BURST`] at least, so that the longest
//! packet passes in time, however little an interval brings; and a vif begins with that of
//! one interval.

use core::time::Duration;

use xen::Instant;

use crate::netback::Rate;

/// What may be saved up at least: more than any packet is long.
const MIN_BURST: u64 = 128 << 10;

const _: () = assert!(MIN_BURST > u16::MAX as u64);

/// What a vif may send now, and when there is more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit {
    rate: Rate,
    bytes: u64,
    /// When the last interval ended whose bytes are counted.
    counted: Instant,
}

impl Credit {
    /// What a vif has that connects now. What it had `before`, when it was connected last,
    /// still counts: connecting anew does not pay.
    pub fn new(rate: Rate, before: Option<Self>, now: Instant) -> Self {
        let fresh = Self { rate, bytes: rate.bytes, counted: now };
        match before.filter(|before| before.rate == rate) {
            Some(mut before) => {
                before.add(now);
                if before.bytes < rate.bytes { before } else { fresh }
            }
            None => fresh,
        }
    }

    /// Whether a vif that connects now has no less than one that never was.
    pub fn is_fresh(mut self, now: Instant) -> bool {
        self.add(now);
        self.bytes >= self.rate.bytes
    }

    /// Spends the credit for a packet of `len` bytes. Where there is not enough, says when
    /// there will be.
    pub(super) fn spend(&mut self, len: u16, now: Instant) -> Result<(), Instant> {
        let len = u64::from(len);
        self.add(now);
        match self.bytes.checked_sub(len) {
            Some(rest) => {
                self.bytes = rest;
                Ok(())
            }
            None => {
                let intervals = (len - self.bytes).div_ceil(self.rate.bytes);
                Err(self.counted + self.interval() * intervals as u32)
            }
        }
    }

    /// Adds what the intervals brought that have ended since this was last done.
    fn add(&mut self, now: Instant) {
        let interval = self.interval().as_nanos() as u64;
        let intervals = now.0.saturating_sub(self.counted.0) / interval;
        let earned = self.rate.bytes.saturating_mul(intervals);
        let burst = self.rate.bytes.max(MIN_BURST);
        self.bytes = self.bytes.saturating_add(earned).min(burst);
        self.counted.0 += interval * intervals;
    }

    /// Fits in nanoseconds, as it does in microseconds.
    fn interval(&self) -> Duration {
        Duration::from_micros(self.rate.interval.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);
    const START: Instant = Instant(7_000_000_123);

    fn credit(bytes: u64, interval: u32) -> Credit {
        Credit::new(Rate { bytes, interval }, None, START)
    }

    #[test]
    fn an_interval_brings_its_bytes_at_its_end() {
        let mut credit = credit(1500, 10);
        assert_eq!(credit.spend(1000, START), Ok(()));
        assert_eq!(credit.spend(500, START), Ok(()), "to the last byte");
        let next = START + 10 * MICROSECOND;
        assert_eq!(credit.spend(1, START), Err(next));
        assert_eq!(credit.spend(1501, START), Err(next + 10 * MICROSECOND));
        assert_eq!(credit.spend(1, next - Duration::from_nanos(1)), Err(next));
        assert_eq!(credit.spend(1500, next), Ok(()));
        // Late or not, intervals follow each other without a gap.
        let late = next + 15 * MICROSECOND;
        assert_eq!(credit.spend(1500, late), Ok(()));
        assert_eq!(credit.spend(1500, late), Err(next + 20 * MICROSECOND));
    }

    #[test]
    fn what_is_saved_up_has_a_bound() {
        let year = Duration::from_secs(366 * 24 * 3600);
        for (bytes, burst) in [(1, MIN_BURST), (1000, MIN_BURST), (1 << 20, 1 << 20)] {
            let mut credit = credit(bytes, 1);
            let mut sent = 0;
            while credit.spend(512, START + year).is_ok() {
                sent += 512;
            }
            assert_eq!(sent, burst);
        }
        let mut most = credit(u64::MAX, u32::MAX);
        assert_eq!(most.spend(u16::MAX, START), Ok(()));
        assert_eq!(most.spend(u16::MAX, Instant(u64::MAX)), Ok(()));
    }

    #[test]
    fn the_longest_packet_passes_at_the_lowest_rate() {
        let mut slowest = credit(1, u32::MAX);
        let when = START + Duration::from_micros(u32::MAX.into()) * 65_534;
        assert_eq!(slowest.spend(u16::MAX, START), Err(when));
        assert_eq!(slowest.spend(u16::MAX, when), Ok(()));
    }

    #[test]
    fn connecting_anew_does_not_pay() {
        let rate = Rate { bytes: 1000, interval: 10 };
        let mut spent = credit(1000, 10);
        spent.spend(900, START).unwrap();
        let now = START + 9 * MICROSECOND;
        assert!(!spent.is_fresh(now));
        let mut again = Credit::new(rate, Some(spent), now);
        assert_eq!(again.spend(101, now), Err(START + 10 * MICROSECOND));
        assert_eq!(again.spend(100, now), Ok(()));
        // Nor does waiting give more than to one that never was.
        let now = START + 1000 * MICROSECOND;
        assert!(spent.is_fresh(now));
        assert_eq!(Credit::new(rate, Some(spent), now), Credit::new(rate, None, now));
        let other = Rate { bytes: 2000, ..rate };
        assert_eq!(Credit::new(other, Some(spent), START), Credit::new(other, None, START));
    }

    proptest! {
        /// No more passes than the intervals brought; and what has to wait may go when it was
        /// said, and not a nanosecond before.
        #[test]
        fn never_more_than_the_rate(
            bytes in 1u64..200_000,
            interval in 1u32..100_000,
            packets in prop::collection::vec((any::<u16>(), 0u64..200_000_000), 1..60),
        ) {
            let mut credit = credit(bytes, interval);
            let (mut now, mut sent) = (START, 0);
            for (len, pause) in packets {
                now = Instant(now.0 + pause);
                if let Err(when) = credit.spend(len, now) {
                    prop_assert!(when > now);
                    let before = Instant(when.0 - 1);
                    prop_assert_eq!(credit.spend(len, before), Err(when));
                    prop_assert_eq!(credit.spend(len, when), Ok(()));
                    now = when;
                }
                sent += u64::from(len);
                let intervals = now.since(START).as_nanos() as u64 / (u64::from(interval) * 1000);
                prop_assert!(sent <= bytes + bytes * intervals);
            }
        }
    }
}
