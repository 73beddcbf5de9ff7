//! Reads what xentrace wrote: how often a processor came to Xen, why, and how long it
//! stayed.
//!
//! A record is a word with an event, its number of further words and whether a time
//! follows, then these; see Xen's public/trace.h.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Set in an event that carries 64-bit addresses.
const WIDE: u32 = 0x100;

/// Records of which Xen had no room for some.
const LOST_RECORDS: u32 = 0x0001_F001;

/// Xen goes back to a hardware-virtualised guest.
const HVM_ENTRY: u32 = 0x0008_1001;

/// An exit of a hardware-virtualised guest, on Intel's and on AMD's processors; the first
/// word is the processor's reason.
const HVM_EXITS: RangeInclusive<u32> = 0x0008_1002..=0x0008_1003;

/// The reason of an exit by which a guest waits, on Intel's and on AMD's processors.
const HVM_HALTS: [u32; 2] = [12, 0x78];

/// A hypercall of such a guest; the first word is its number.
const HVM_HYPERCALL: u32 = 0x0008_2012;

/// Marks a hypercall's number beside reasons of exits.
const HYPERCALL: u32 = 0x1_0000;

/// A hypercall of a paravirtual guest, or one of several in one; the lower bits of the
/// first word are its number.
const PV_HYPERCALL: u32 = 0x0020_100D;
const PV_SUBCALL: u32 = 0x0020_200E;
const NUMBER: u32 = 0x000F_FFFF;

/// The other ways from a paravirtual guest into Xen: traps, faults, emulated
/// instructions.
const PV_TRAPS: RangeInclusive<u32> = 0x0020_1003..=0x0020_100C;

/// `__HYPERVISOR_event_channel_op`: while packets pass these are notifications.
const EVENT_CHANNEL_OP: u32 = 32;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// How often the guest was left for Xen.
    pub exits: u64,
    /// Why, by the processor's number for a hardware-virtualised guest, by the event for a
    /// paravirtual one.
    pub reasons: BTreeMap<u32, u64>,
    /// Hypercalls by number.
    pub hypercalls: BTreeMap<u32, u64>,
    /// Records that Xen had no room for.
    pub lost: u64,
    /// Cycles that a hardware-virtualised guest ran.
    pub inside: u64,
    /// Cycles from its exits to its entries, but for those by which it waited: by reason, or
    /// by [`HYPERCALL`] and its number.
    pub outside: BTreeMap<u32, u64>,
}

/// Where a hardware-virtualised guest is, since which cycle, and why.
enum Since {
    Unknown,
    Inside(u64),
    Outside(u64, u32),
}

impl Trace {
    /// Counts what a file says.
    pub fn of(file: &[u8]) -> Result<Trace> {
        let mut words =
            file.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        let mut trace = Trace::default();
        let mut since = Since::Unknown;
        while let Some(header) = words.next() {
            let (event, extra, timed) = (header & 0x0FFF_FFFF, header >> 28 & 7, header >> 31 == 1);
            let mut cycles = 0;
            for half in 0..2 * u64::from(timed) {
                let word = words.next().context("a record without its time")?;
                cycles |= u64::from(word) << (32 * half);
            }
            let first = if extra > 0 { words.next() } else { None };
            for _ in 1..extra {
                words.next().context("a record without its end")?;
            }
            let first = first.unwrap_or_default();
            trace.count(event & !WIDE, event, first);
            trace.time(event & !WIDE, event, first, cycles, &mut since);
        }
        Ok(trace)
    }

    /// Takes the time from one record to the next, where both are of one guest's ways.
    fn time(&mut self, event: u32, exact: u32, first: u32, cycles: u64, since: &mut Since) {
        *since = match (event, &since) {
            (HVM_ENTRY, _) => {
                if let Since::Outside(left, why) = since {
                    *self.outside.entry(*why).or_default() += cycles.saturating_sub(*left);
                }
                Since::Inside(cycles)
            }
            (HVM_HYPERCALL, Since::Outside(left, _)) => Since::Outside(*left, HYPERCALL | first),
            (event, _) if HVM_EXITS.contains(&event) => {
                if let Since::Inside(entered) = since {
                    self.inside += cycles.saturating_sub(*entered);
                }
                match HVM_HALTS.contains(&first) {
                    true => Since::Unknown,
                    false => Since::Outside(cycles, first),
                }
            }
            _ if exact == LOST_RECORDS => Since::Unknown,
            _ => return,
        };
    }

    fn count(&mut self, event: u32, exact: u32, first: u32) {
        let mut exit = |reason| {
            self.exits += 1;
            *self.reasons.entry(reason).or_default() += 1;
        };
        let hypercall = match event {
            event if HVM_EXITS.contains(&event) => return exit(first),
            event if PV_TRAPS.contains(&event) => return exit(event),
            _ if exact == LOST_RECORDS => {
                self.lost += u64::from(first);
                return;
            }
            HVM_HYPERCALL => first,
            PV_HYPERCALL => {
                exit(event);
                first & NUMBER
            }
            PV_SUBCALL => first & NUMBER,
            _ => return,
        };
        *self.hypercalls.entry(hypercall).or_default() += 1;
    }

    /// All hypercalls.
    pub fn hypercalls(&self) -> u64 {
        self.hypercalls.values().sum()
    }

    /// Operations on event channels: while packets pass, notifications.
    pub fn notifications(&self) -> u64 {
        self.hypercalls.get(&EVENT_CHANNEL_OP).copied().unwrap_or(0)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<u32, u64>| {
            let pairs: Vec<String> = counts.iter().map(|(of, n)| format!("{of:x}={n}")).collect();
            pairs.join(",")
        };
        let Self { lost, inside, outside, reasons, hypercalls, .. } = self;
        let [outside, reasons, calls] = [outside, reasons, hypercalls].map(list);
        write!(
            f,
            "lost {lost} inside {inside} outside ={outside} exits ={reasons} hypercalls ={calls}"
        )
    }
}

impl FromStr for Trace {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Trace> {
        fn counts(text: &str) -> Result<BTreeMap<u32, u64>> {
            let pairs = text.trim_start_matches('=').split_terminator(',').map(|pair| {
                let (of, n) = pair.split_once('=').context("a count")?;
                Ok((u32::from_str_radix(of, 16)?, n.parse()?))
            });
            pairs.collect()
        }
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            #[rustfmt::skip]
            ["lost", lost, "inside", inside, "outside", outside, "exits", reasons, "hypercalls", calls] => {
                let reasons = counts(reasons)?;
                Ok(Trace {
                    exits: reasons.values().sum(),
                    reasons,
                    hypercalls: counts(calls)?,
                    lost: lost.parse()?,
                    inside: inside.parse()?,
                    outside: counts(outside)?,
                })
            }
            _ => bail!("not a report of a trace: {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: u32, timed: bool, extra: &[u32]) -> Vec<u8> {
        at([1, 2], event, timed, extra)
    }

    fn at(time: [u32; 2], event: u32, timed: bool, extra: &[u32]) -> Vec<u8> {
        let header = event | (extra.len() as u32) << 28 | u32::from(timed) << 31;
        let time: &[u32] = if timed { &time } else { &[] };
        [&[header], time, extra].concat().into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn ways_into_xen_are_counted_by_their_reason() {
        let file = [
            record(0x0001_F003, false, &[1, 4096]),
            record(HVM_EXITS.start() | WIDE, true, &[0x81, 7, 0]),
            record(HVM_HYPERCALL, false, &[32]),
            record(0x0008_1001, true, &[]),
            record(HVM_EXITS.end() | WIDE, true, &[0x60, 7, 0]),
            record(PV_HYPERCALL, true, &[0x0010_0014, 9]),
            record(PV_SUBCALL, false, &[0x20]),
            record(PV_TRAPS.start() | WIDE, true, &[1]),
            record(LOST_RECORDS, false, &[5, 0, 0, 0]),
        ]
        .concat();
        let trace = Trace::of(&file).unwrap();
        assert_eq!((trace.exits, trace.hypercalls(), trace.notifications()), (4, 3, 2));
        assert_eq!((trace.lost, trace.reasons[&0x60], trace.hypercalls[&0x14]), (5, 1, 1));
        assert_eq!(trace.to_string().parse::<Trace>().unwrap(), trace);
        let empty = Trace::default();
        assert_eq!(empty.to_string().parse::<Trace>().unwrap(), empty);
        assert!(Trace::of(&file[..file.len() - 4]).is_err());
    }

    #[test]
    fn the_guests_time_is_told_from_xens() {
        let (exit, halt) = ([0x81, 0, 0], [HVM_HALTS[1], 0, 0]);
        let file = [
            at([5, 0], *HVM_EXITS.end() | WIDE, true, &exit),
            at([u32::MAX, 0], HVM_ENTRY, true, &[]),
            at([9, 1], *HVM_EXITS.end() | WIDE, true, &halt),
            at([1000, 1], HVM_ENTRY, true, &[]),
            at([1003, 1], *HVM_EXITS.start(), true, &exit),
            at([1004, 1], HVM_HYPERCALL, true, &[32]),
            at([1010, 1], HVM_ENTRY, true, &[]),
            at([1100, 1], LOST_RECORDS, true, &[5, 0, 0, 0]),
            at([1200, 1], *HVM_EXITS.start(), true, &exit),
            at([1300, 1], LOST_RECORDS, true, &[5, 0, 0, 0]),
            at([1400, 1], HVM_ENTRY, true, &[]),
        ]
        .concat();
        let trace = Trace::of(&file).unwrap();
        let outside = [(0x81, u64::from(u32::MAX) - 5), (HYPERCALL | 32, 7)];
        assert_eq!((trace.inside, trace.outside.clone()), (10 + 3, outside.into()));
        assert_eq!(trace.to_string().parse::<Trace>().unwrap(), trace);
    }
}
