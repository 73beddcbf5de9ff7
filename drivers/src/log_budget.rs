//! A bound on what a peer has us write to the log.

use core::time::Duration;

use xen::Instant;

/// How many lines may be written to the log at once, and how long it takes until
/// another may: it is often the guest or the wire that causes them.
const LOG_BURST: u32 = 8;
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What may still be written to the log of one matter.
#[derive(Default, Debug)]
pub(crate) struct LogBudget {
    spent: u32,
    since: Instant,
}

impl LogBudget {
    /// Whether a line may be written now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let earned = now.since(self.since).as_secs() / LOG_INTERVAL.as_secs();
        if earned > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            self.since = now;
        }
        let may = self.spent < LOG_BURST;
        self.spent += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_budget() {
        let mut budget = LogBudget::default();
        let mut now = Instant(5_000_000_000);
        let lines = |budget: &mut LogBudget, now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(lines(&mut budget, now), LOG_BURST as usize);
        now = now + LOG_INTERVAL - Duration::from_nanos(1);
        assert_eq!(lines(&mut budget, now), 0);
        now = now + Duration::from_nanos(1);
        assert_eq!(lines(&mut budget, now), 1);
        now = now + Duration::from_secs(1_000_000);
        assert_eq!(lines(&mut budget, now), LOG_BURST as usize);
    }
}
