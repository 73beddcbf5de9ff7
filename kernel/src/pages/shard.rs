//! The records of one transmit queue.

use alloc::vec::Vec;
use core::{fmt, mem};

use xen::grant::{GrantHandle, GrantRef};
use xen::{DomainId, ForeignFrame, Instant};

use super::page::Page;
use super::tracker::Claim;
use crate::defect::{self, Defect};

/// No record: the end of a list.
pub(super) const NONE: u16 = u16::MAX;

/// A page in its place.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) frame: ForeignFrame,
    pub(super) handle: GrantHandle,
}

/// Where a record is on its way.
#[derive(Debug)]
pub(super) enum State {
    Free,
    Held,
    /// Held, and to be mapped by the batch that is being collected.
    Mapping(ForeignFrame),
    /// Held and mapped.
    Mapped(Mapping),
    /// Held no more, and to be unmapped by the next batch.
    Unmapping(Mapping),
    Responding,
    Quarantined,
}

/// A page lent.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) claim: Claim,
    pub(super) status: i16,
    pub(super) holds: u16,
    pub(super) state: State,
    next: u16,
}

impl Record {
    const fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }
}

/// What becomes of a page that nobody holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Its response is due.
    Due,
    /// The queue is gone: its record is free again.
    Abandoned,
    /// It is about to be mapped; what follows, follows then.
    Mapping,
    /// It has to be unmapped first.
    Unmap,
}

/// A queue's records.
pub(super) struct Shard {
    pub(super) generation: u32,
    /// The place of its lender in the tracker.
    pub(super) lender: usize,
    pub(super) open: bool,
    /// Whether it stands in the tracker's list of shards with news.
    pub(super) listed: bool,
    records: Vec<Record>,
    /// Head of the list of free records.
    free: u16,
    /// First and last of the records whose response is due, oldest first.
    due: (u16, u16),
    /// Records in any state but free.
    used: u16,
    /// Records that are quarantined.
    pub(super) quarantined: u16,
    /// When Xen last refused to map a page of the lender's.
    pub(super) refused: Option<Instant>,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("generation", &self.generation)
            .field("open", &self.open)
            .field("listed", &self.listed)
            .field("records", &InUse(&self.records))
            .field("due", &self.due)
            .field("quarantined", &self.quarantined)
            .finish_non_exhaustive()
    }
}

/// The records in use, by their slots: a ring has many, and most are free.
struct InUse<'a>(&'a [Record]);

impl fmt::Debug for InUse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_use = self.0.iter().enumerate().filter(|(_, record)| !record.is_free());
        f.debug_map().entries(in_use).finish()
    }
}

impl Shard {
    pub(super) const fn new() -> Self {
        Self {
            generation: 0,
            lender: 0,
            open: false,
            listed: false,
            records: Vec::new(),
            free: NONE,
            due: (NONE, NONE),
            used: 0,
            quarantined: 0,
            refused: None,
        }
    }

    /// Whether another queue can have it.
    pub(super) fn is_idle(&self) -> bool {
        !self.open && (self.used == 0 || defect::is(Defect::ReopensTooEarly))
    }

    pub(super) fn reopen(&mut self, lender: usize, slots: u16) {
        self.generation = self.generation.wrapping_add(1);
        self.lender = lender;
        self.open = true;
        self.refused = None;
        self.records.clear();
        self.records.extend((1..=slots).map(|next| Record {
            claim: Claim {
                page: Page::Granted(DomainId::SELF, GrantRef(0)),
                id: 0,
                extras: 0,
                since: Instant(0),
            },
            status: 0,
            holds: 0,
            state: State::Free,
            next: if next == slots { NONE } else { next },
        }));
        self.free = if slots == 0 { NONE } else { 0 };
    }

    /// Ends what waits for nothing but its response; how many pages that were.
    pub(super) fn close(&mut self) -> u16 {
        self.open = false;
        let mut abandoned = 0;
        while let Some(slot) = self.pop_due() {
            self.free(slot);
            abandoned += 1;
        }
        // Their frames stay out of use; the records need not.
        for slot in 0..self.records.len() as u16 {
            if matches!(self.record(slot).state, State::Quarantined) {
                self.quarantined -= 1;
                self.free(slot);
            }
        }
        abandoned
    }

    pub(super) fn claim(&mut self, claim: Claim) -> Option<u16> {
        let slot = self.free;
        let record = self.records.get_mut(usize::from(slot))?;
        self.free = record.next;
        *record = Record { claim, status: 0, holds: 1, state: State::Held, next: NONE };
        self.used += 1;
        Some(slot)
    }

    pub(super) fn record(&self, slot: u16) -> &Record {
        // Slots come from `claim`.
        &self.records[usize::from(slot)]
    }

    pub(super) fn record_mut(&mut self, slot: u16) -> &mut Record {
        &mut self.records[usize::from(slot)]
    }

    /// Takes note that a page's unmap failed. Nobody serves such a queue any more; a
    /// record of one that is gone is free at once.
    pub(super) fn quarantine(&mut self, slot: u16) {
        if self.open {
            self.record_mut(slot).state = State::Quarantined;
            self.quarantined += 1;
        } else {
            self.free(slot);
        }
    }

    /// The records in use.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| !record.is_free())
    }

    /// Pages that are held, or wait for their unmap or their response.
    pub(super) const fn outstanding(&self) -> u16 {
        self.used - self.quarantined
    }

    /// Goes on with a page that nobody holds any more.
    pub(super) fn finish(&mut self, slot: u16) -> End {
        let record = self.record_mut(slot);
        match mem::replace(&mut record.state, State::Responding) {
            State::Mapped(mapping) if !defect::is(Defect::AnswersBeforeUnmap) => {
                record.state = State::Unmapping(mapping);
                End::Unmap
            }
            mapping @ State::Mapping(_) => {
                record.state = mapping;
                End::Mapping
            }
            _ if self.open => {
                self.push_due(slot);
                End::Due
            }
            _ => {
                self.free(slot);
                End::Abandoned
            }
        }
    }

    fn free(&mut self, slot: u16) {
        let free = mem::replace(&mut self.free, slot);
        let record = self.record_mut(slot);
        record.state = State::Free;
        record.next = free;
        self.used -= 1;
    }

    fn push_due(&mut self, slot: u16) {
        let record = self.record_mut(slot);
        record.next = NONE;
        match self.due.1 {
            NONE => self.due = (slot, slot),
            last => {
                self.record_mut(last).next = slot;
                self.due.1 = slot;
            }
        }
    }

    fn pop_due(&mut self) -> Option<u16> {
        let slot = self.due.0;
        let next = self.records.get(usize::from(slot))?.next;
        self.due = if next == NONE { (NONE, NONE) } else { (next, self.due.1) };
        Some(slot)
    }

    /// The oldest page whose response is due; its record is free.
    pub(super) fn respond(&mut self) -> Option<(Claim, i16)> {
        let slot = self.pop_due()?;
        let Record { mut claim, status, .. } = *self.record(slot);
        if defect::is(Defect::AnswersWithTheRecordsNumber) {
            claim.id = slot;
        }
        self.free(slot);
        Some((claim, status))
    }
}
