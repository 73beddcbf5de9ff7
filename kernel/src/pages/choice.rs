//! Copy or map: which way a packet's lent pages reach a device.
//!
//! Copying costs by the byte; mapping costs by the page, twice, and what a map and
//! an unmap cost differs from host to host by more than the copy does: a flush of
//! the domain's page tables and of the IOMMU's each time (NETBACK-SPEC H-8). So by
//! default this host's own batches are timed, copies by the size of the packet, maps
//! and unmaps by the page, and the cheaper way is kept; the other is tried again
//! now and then. Only batches count of which every operation succeeded: what Xen
//! refuses, which a guest can have it do, it may refuse at once.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use xen::Instant;

/// How many batches are timed before the figure counts.
const TRIALS: u8 = 8;
/// After how long without one a figure is made anew.
const STALE: Duration = Duration::from_secs(10);
/// A sample that is larger than the figure so many times was disturbed.
const DISTURBED: u64 = 4;
/// What a copy takes beside its bytes, in bytes: about that, on any host.
const OVERHEAD: usize = 1024;
/// Packets are told apart by the power of two that their lent bytes reach, up to
/// 64 KiB.
const SIZES: usize = 17;

/// What `map=` says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// The cheaper way.
    #[default]
    Auto,
    /// All pages are mapped that can be.
    Always,
    /// None.
    Never,
}

/// The text is none of `auto`, `always` and `never`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(UnknownMode),
        }
    }
}

/// Why a packet for a device was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// By `map=never`.
    Never,
    /// Copying is cheaper.
    Cheaper,
    /// To see what copying costs.
    Trial,
    /// Its checksum had to be made by us.
    Checksum,
    /// The device had no room for its pages.
    Room,
    /// No frame was left for its pages, or its lender had its share.
    Frames,
    /// Xen did not map one of its pages, or of its lender's not long ago.
    Failed,
}

impl Reason {
    /// All reasons, in their order.
    pub const ALL: [Self; 7] = [
        Self::Never,
        Self::Cheaper,
        Self::Trial,
        Self::Checksum,
        Self::Room,
        Self::Frames,
        Self::Failed,
    ];

    /// The reason's name, as counters are shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Cheaper => "cheaper",
            Self::Trial => "trial",
            Self::Checksum => "checksum",
            Self::Room => "no-room",
            Self::Frames => "no-frames",
            Self::Failed => "failed",
        }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Its bytes are copied.
    Copy(Reason),
    /// Its pages are mapped.
    Map,
}

/// What something costs: the least of the samples, which creeps up where none is as
/// low any more.
#[derive(Clone, Copy, Default, Debug)]
struct Cost {
    nanos: u64,
    samples: u8,
    at: Instant,
}

impl Cost {
    fn add(&mut self, nanos: u64, now: Instant) {
        if self.samples == 0 || nanos < self.nanos {
            self.nanos = nanos;
        } else {
            let sample = nanos.min(self.nanos.saturating_mul(DISTURBED));
            self.nanos += (sample - self.nanos) / 16;
        }
        self.samples = self.samples.saturating_add(1);
        self.at = now;
    }

    /// The figure, while it counts. One that is stale is forgotten.
    fn get(&mut self, now: Instant) -> Option<u64> {
        if now.since(self.at) >= STALE {
            self.samples = 0;
        }
        (self.samples >= TRIALS).then_some(self.nanos)
    }
}

/// What the choice knows and counts.
#[derive(Debug)]
pub struct Choice {
    mode: Mode,
    copies: [Cost; SIZES],
    map: Cost,
    unmap: Cost,
    mapped: u64,
    copied: [u64; Reason::ALL.len()],
}

impl Choice {
    /// A choice that knows nothing yet.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            copies: [Cost::default(); SIZES],
            map: Cost::default(),
            unmap: Cost::default(),
            mapped: 0,
            copied: [0; Reason::ALL.len()],
        }
    }

    /// The way of a packet of which `len` bytes are in `pages` lent pages. By default
    /// those of a lender of whom Xen `refused` to map a page are copied for a while:
    /// whatever the reason was, it is likely to be one still, and each attempt costs a
    /// hypercall beside the copy's.
    pub fn way(&mut self, len: usize, pages: usize, refused: Option<Instant>, now: Instant) -> Way {
        match self.mode {
            Mode::Always => return Way::Map,
            Mode::Never => return Way::Copy(Reason::Never),
            Mode::Auto if refused.is_some_and(|at| now.since(at) < STALE) => {
                return Way::Copy(Reason::Failed);
            }
            Mode::Auto => {}
        }
        let (Some(map), Some(unmap)) = (self.map.get(now), self.unmap.get(now)) else {
            return Way::Map;
        };
        match self.copies[size(len)].get(now) {
            None => Way::Copy(Reason::Trial),
            Some(copy) if copy <= (map + unmap) * pages as u64 => Way::Copy(Reason::Cheaper),
            Some(_) => Way::Map,
        }
    }

    /// Counts a packet by the way it went.
    pub const fn count(&mut self, way: Way) {
        match way {
            Way::Map => self.mapped += 1,
            Way::Copy(reason) => self.copied[reason as usize] += 1,
        }
    }

    /// Takes note of how long it took to copy packets of which so many bytes each were
    /// in lent pages. Where they are of several sizes, each is taken to have had its
    /// share of the time: what comes together may never come alone.
    pub fn copies_took(
        &mut self,
        lens: impl Iterator<Item = usize> + Clone,
        time: Duration,
        now: Instant,
    ) {
        let weight = |len| (len + OVERHEAD) as u64;
        let all: u64 = lens.clone().map(weight).sum();
        let mut by_size = [(0, 0); SIZES];
        for len in lens {
            let (weights, packets) = &mut by_size[size(len)];
            *weights += weight(len);
            *packets += 1;
        }
        let nanos = time.as_nanos() as u64;
        for (cost, (weights, packets)) in self.copies.iter_mut().zip(by_size) {
            if packets > 0 {
                cost.add(nanos.saturating_mul(weights) / (all * packets), now);
            }
        }
    }

    /// Takes note of how long it took to map `pages`.
    pub fn maps_took(&mut self, pages: usize, time: Duration, now: Instant) {
        self.map.add(each(time, pages), now);
    }

    /// Takes note of how long it took to unmap `pages`.
    pub fn unmaps_took(&mut self, pages: usize, time: Duration, now: Instant) {
        self.unmap.add(each(time, pages), now);
    }

    /// How many packets went to a device from their lenders' pages.
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// How many were copied, by reason; those that were.
    pub fn copied(&self) -> impl Iterator<Item = (Reason, u64)> + use<> {
        Reason::ALL.into_iter().zip(self.copied).filter(|(_, count)| *count > 0)
    }
}

/// What was measured on this host: nanoseconds for a page's map and unmap, and for a
/// packet's copy by the most bytes it may have.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a page's map {} ns, unmap {} ns; copies", self.map.nanos, self.unmap.nanos)?;
        let known = (0..).zip(&self.copies).filter(|(_, cost)| cost.nanos > 0);
        for (size, cost) in known {
            write!(f, ", up to {} bytes {} ns", 1u32 << size, cost.nanos)?;
        }
        Ok(())
    }
}

fn size(len: usize) -> usize {
    (len.max(1).next_power_of_two().ilog2() as usize).min(SIZES - 1)
}

fn each(time: Duration, count: usize) -> u64 {
    time.as_nanos() as u64 / count.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A host on which a page's map and unmap take `page` nanoseconds each and a byte's
    /// copy one; the ways that so many packets of 1000 bytes in `pages` pages go.
    fn ways(
        choice: &mut Choice,
        page: u64,
        pages: usize,
        now: &mut Instant,
        count: usize,
    ) -> Vec<Way> {
        let mut way = |_| {
            let way = choice.way(1000, pages, None, *now);
            *now = *now + MILLISECOND;
            let took = Duration::from_nanos(page * pages as u64);
            match way {
                Way::Map => {
                    choice.maps_took(pages, took, *now);
                    choice.unmaps_took(pages, took, *now);
                }
                Way::Copy(_) => {
                    choice.copies_took([1000].into_iter(), Duration::from_nanos(1000), *now);
                }
            }
            way
        };
        (0..count).map(&mut way).collect()
    }

    fn trials() -> Vec<Way> {
        let trials = usize::from(TRIALS);
        [vec![Way::Map; trials], vec![Way::Copy(Reason::Trial); trials]].concat()
    }

    #[test]
    fn the_cheaper_way_is_kept_by_size() {
        let mut now = Instant(1 << 40);
        for (page, pages, kept) in [
            (499, 1, Way::Map),
            (500, 1, Way::Copy(Reason::Cheaper)),
            (249, 2, Way::Map),
            (250, 2, Way::Copy(Reason::Cheaper)),
        ] {
            let mut choice = Choice::new(Mode::Auto);
            let first = ways(&mut choice, page, pages, &mut now, 16);
            assert_eq!(first, trials(), "both ways are tried");
            let rest = ways(&mut choice, page, pages, &mut now, 100);
            assert_eq!(rest, vec![kept; 100], "a page takes {page} ns");
            // Another size has its own figure.
            assert_eq!(choice.way(2000, pages, None, now), Way::Copy(Reason::Trial));
            assert_ne!(choice.way(1024, pages, None, now), Way::Copy(Reason::Trial));
        }
    }

    #[test]
    fn the_other_way_is_tried_again_now_and_then() {
        let mut now = Instant(1 << 40);
        let mut choice = Choice::new(Mode::Auto);
        ways(&mut choice, 2000, 1, &mut now, 16);
        let second = ways(&mut choice, 2000, 1, &mut now, 10_000);
        let maps = second.iter().filter(|way| **way == Way::Map).count();
        assert_eq!(maps, usize::from(TRIALS), "once in ten seconds");
        // The host has changed: mapping is cheap.
        let third = ways(&mut choice, 20, 1, &mut now, 20_000);
        assert_eq!(third.last(), Some(&Way::Map));
    }

    /// On a host where a copy takes half a nanosecond for each of 1000 bytes and its own,
    /// and a page's map and unmap as much as a copy of 1000, for half a minute.
    #[test]
    fn sizes_that_only_come_together_are_told_apart() {
        let mut now = Instant(1 << 40);
        let mut choice = Choice::new(Mode::Auto);
        let mut trials = 0;
        for _ in 0..30_000 {
            let ways = [700, 1400].map(|len| (len, choice.way(len, 1, None, now)));
            let copied = ways.iter().filter(|(_, way)| *way != Way::Map).map(|(len, _)| *len);
            let took = copied.clone().map(|len| Duration::from_nanos(500 + len as u64 / 2)).sum();
            choice.copies_took(copied, took, now);
            let mapped = ways.iter().filter(|(_, way)| *way == Way::Map).count();
            if mapped > 0 {
                choice.maps_took(mapped, Duration::from_nanos(500) * mapped as u32, now);
                choice.unmaps_took(mapped, Duration::from_nanos(500) * mapped as u32, now);
            }
            let decided = [Way::Copy(Reason::Cheaper), Way::Map];
            trials += usize::from(ways.map(|(_, way)| way) != decided);
            now = now + MILLISECOND;
        }
        assert_eq!(trials, usize::from(TRIALS) * 4, "of maps, then of copies; of 1400 bytes again");
    }

    #[test]
    fn a_lender_whose_page_was_not_mapped_is_spared_a_while() {
        let now = Instant(1 << 40);
        let mut auto = Choice::new(Mode::Auto);
        let mut always = Choice::new(Mode::Always);
        for (since, way) in [
            (Duration::ZERO, Way::Copy(Reason::Failed)),
            (STALE - MILLISECOND, Way::Copy(Reason::Failed)),
            (STALE, Way::Map),
        ] {
            assert_eq!(auto.way(1000, 1, Some(now), now + since), way);
            assert_eq!(always.way(1000, 1, Some(now), now + since), Way::Map);
        }
        assert_eq!(auto.way(1000, 1, None, now), Way::Map, "another lender");
    }

    #[test]
    fn a_disturbed_sample_changes_little() {
        let mut cost = Cost::default();
        let now = Instant(1 << 40);
        for _ in 0..TRIALS {
            cost.add(100, now);
        }
        cost.add(1_000_000_000, now);
        assert!(cost.get(now).is_some_and(|nanos| nanos < 120));
        for _ in 0..200 {
            cost.add(200, now);
        }
        assert!(cost.get(now).is_some_and(|nanos| nanos > 180), "it follows in time");
        cost.add(90, now);
        assert_eq!(cost.get(now), Some(90));
    }

    #[test]
    fn the_operator_can_force_either() {
        let now = Instant(1 << 40);
        assert_eq!("auto".parse(), Ok(Mode::Auto));
        assert_eq!("Always".parse::<Mode>(), Err(UnknownMode));
        let mut always = Choice::new("always".parse().expect("a mode"));
        let mut never = Choice::new("never".parse().expect("a mode"));
        for _ in 0..100 {
            assert_eq!(always.way(1, 1, None, now), Way::Map);
            assert_eq!(never.way(60_000, 1, None, now), Way::Copy(Reason::Never));
        }
    }

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut choice = Choice::new(Mode::Auto);
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(place, reason as usize);
            choice.count(Way::Copy(reason));
            assert_eq!(choice.copied().last(), Some((reason, 1)));
            let same = Reason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1);
        }
    }
}
