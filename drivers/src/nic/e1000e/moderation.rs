//! How often the queues interrupt (7.4.4): as soon as something happens where little does,
//! and no more often than is of use where much does.

use core::time::Duration;

use xen::Instant;

use crate::nic::Statistics;

/// For how long a load is measured before anything is changed for it: so often may the
/// device be told.
const WINDOW: Duration = Duration::from_millis(1);

/// How urgent an interrupt is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Pace {
    /// Few packets, each of which somebody may wait for.
    Prompt,
    /// Many packets.
    Steady,
    /// As many bytes as there can be.
    Bulk,
}

impl Pace {
    /// The least time between two interrupts, in EITR's 256 ns (10.2.4): 10, 50 and 125 µs.
    pub(super) const fn interval(self) -> u32 {
        match self {
            Self::Prompt => 39,
            Self::Steady => 195,
            Self::Bulk => 488,
        }
    }

    /// The pace for a load. It changes once that is beyond what begins a pace, and back where
    /// it is below half of that: so a load about there changes nothing.
    fn next(self, load: Load) -> Self {
        self.clamp(Self::of(load), Self::of(load.doubled()))
    }

    fn of(load: Load) -> Self {
        match load {
            Load { bytes: 60_000_000.., .. } | Load { packets: 120_000.., .. } => Self::Bulk,
            Load { packets: 20_000.., .. } => Self::Steady,
            _ => Self::Prompt,
        }
    }
}

/// What passes in a second, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    packets: u64,
    bytes: u64,
}

impl Load {
    fn doubled(self) -> Self {
        let Self { packets, bytes } = self;
        Self { packets: packets.saturating_mul(2), bytes: bytes.saturating_mul(2) }
    }
}

/// The pace of a device, by what it did lately.
#[derive(Debug)]
pub(super) struct Moderation {
    pace: Pace,
    since: Instant,
    packets: u64,
    bytes: u64,
}

impl Moderation {
    /// As after a reset.
    pub(super) fn new(counters: &Statistics, now: Instant) -> Self {
        let (packets, bytes) = passed(counters);
        Self { pace: Pace::Prompt, since: now, packets, bytes }
    }

    /// The pace it goes at.
    pub(super) const fn pace(&self) -> Pace {
        self.pace
    }

    /// Looks at what passed since the last look, if that is long enough ago. Returns the pace
    /// where it is another than before.
    pub(super) fn look(&mut self, counters: &Statistics, now: Instant) -> Option<Pace> {
        let time = now.since(self.since);
        if time < WINDOW {
            return None;
        }
        let (packets, bytes) = passed(counters);
        let a_second = |count: u64| {
            (u128::from(count) * 1_000_000_000 / time.as_nanos()).try_into().unwrap_or(u64::MAX)
        };
        let load = Load {
            packets: a_second(packets.saturating_sub(self.packets)),
            bytes: a_second(bytes.saturating_sub(self.bytes)),
        };
        let pace = self.pace.next(load);
        let changed = pace != self.pace;
        *self = Self { pace, since: now, packets, bytes };
        changed.then_some(pace)
    }
}

/// Packets and bytes so far.
const fn passed(counters: &Statistics) -> (u64, u64) {
    (counters.received + counters.sent, counters.received_bytes + counters.sent_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACES: [Pace; 3] = [Pace::Prompt, Pace::Steady, Pace::Bulk];

    #[test]
    fn who_waits_is_told_at_once_and_bulk_in_turns() {
        let load = |packets, len| Load { packets, bytes: packets * len };
        for pace in PACES {
            assert_eq!(pace.next(load(0, 0)), Pace::Prompt);
            assert_eq!(pace.next(load(5000, 100)), Pace::Prompt, "questions and answers");
            assert_eq!(pace.next(load(50_000, 300)), Pace::Steady);
            assert_eq!(pace.next(load(81_000, 1500)), Pace::Bulk, "a full gigabit");
            assert_eq!(pace.next(load(1900, 65_000)), Pace::Bulk, "that the device cuts");
            assert_eq!(pace.next(load(1_400_000, 60)), Pace::Bulk);
        }
        let times = PACES.map(|pace| 1_000_000_000 / (pace.interval() * 256));
        assert!(times.is_sorted_by(|one, next| one > next));
        assert!((8_000..20_000).contains(&times[2]) && times[0] > 90_000, "{times:?}");
    }

    /// What begins a pace and what ends it are far apart.
    #[test]
    fn a_load_about_the_limit_changes_nothing() {
        let load = |packets, bytes| Load { packets, bytes };
        for (low, high, limit) in [
            (Pace::Prompt, Pace::Steady, load(20_000, 0)),
            (Pace::Steady, Pace::Bulk, load(120_000, 0)),
            (Pace::Steady, Pace::Bulk, load(30_000, 60_000_000)),
        ] {
            let part = |tenths: u64| load(limit.packets * tenths / 10, limit.bytes * tenths / 10);
            assert_eq!([low.next(part(9)), low.next(limit)], [low, high]);
            assert_eq!([high.next(part(9)), high.next(part(5))], [high; 2]);
            assert!(high.next(part(4)) < high);
        }
    }

    proptest! {
        /// More never makes it more prompt, and a load that stays changes it once.
        #[test]
        fn a_load_has_a_pace(packets in 0..300_000u64, len in 0..70_000u64, more in 0..100_000u64) {
            let load = Load { packets, bytes: packets * len };
            let larger = Load { packets: packets + more, bytes: (packets + more) * len };
            for pace in PACES {
                let next = pace.next(load);
                prop_assert_eq!(next.next(load), next);
                prop_assert!(pace.next(larger) >= next);
            }
        }

        /// Nothing changes faster than it is measured, whatever is counted.
        #[test]
        fn it_is_measured_before_it_changes(
            steps in prop::collection::vec((0..3_000_000u64, any::<u32>(), any::<u64>()), 0..50),
        ) {
            let mut counters = Statistics::default();
            let mut now = Instant(7);
            let mut moderation = Moderation::new(&counters, now);
            let mut changed: Option<Instant> = None;
            for (time, packets, bytes) in steps {
                now = now + Duration::from_nanos(time);
                counters.received = packets.into();
                counters.sent_bytes = bytes;
                if moderation.look(&counters, now).is_some() {
                    prop_assert!(changed.is_none_or(|at| now.since(at) >= WINDOW));
                    changed = Some(now);
                }
            }
        }
    }
}
