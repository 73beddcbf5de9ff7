//! The page tracker.
//!
//! One record per request slot of a transmit ring: the page a guest lends from
//! its request to our response. A record's states and their only edges:
//!
//! ```text
//! free → held(n) → responding → free
//! ```
//!
//! Whoever looks at the page owns a [`Hold`]; the last one released makes the
//! response due (NETBACK-SPEC O-2, O-3). A queue's records form a shard, which
//! outlives the queue until the last hold is back; by then its generation is
//! stale and nothing is answered (O-13).

use alloc::vec::Vec;
use core::mem;

use xen::DomainId;
use xen::grant::{GrantRef, GrantRegion};

use crate::leak;

/// No record: the end of a list.
const NONE: u16 = u16::MAX;

/// A transmit queue's records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShardId {
    index: u16,
    generation: u32,
}

/// One counted holder of a lent page. Ends only by [`Tracker::release`].
#[must_use = "a hold ends by Tracker::release"]
#[derive(Debug)]
pub struct Hold {
    shard: ShardId,
    slot: u16,
}

impl Hold {
    /// The queue whose guest lent the page.
    pub const fn lender(&self) -> ShardId {
        self.shard
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        leak::note("a hold on a lent page");
    }
}

/// What a request says of the page it lends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The page, as the guest names it.
    pub reference: GrantRef,
    /// The request's id, only ever echoed.
    pub id: u16,
    /// How many extra-info slots came with the request, to be answered beside it
    /// (P-15).
    pub extras: u8,
}

/// A response that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// The request's id.
    pub id: u16,
    /// The request's status (`XEN_NETIF_RSP_*`).
    pub status: i16,
    /// How many extra-info slots to answer beside it.
    pub extras: u8,
}

/// What the tracker counts, over all queues since the start. At rest `claimed`
/// equals `responded` plus `abandoned` (O-16).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Pages lent to us.
    pub claimed: u64,
    /// Pages given back by a response.
    pub responded: u64,
    /// Pages whose queue went away before a response.
    pub abandoned: u64,
    /// Holds alive.
    pub holds: u64,
}

impl Counters {
    /// Pages lent and neither given back nor abandoned.
    pub const fn outstanding(&self) -> u64 {
        self.claimed - self.responded - self.abandoned
    }
}

/// All lent pages.
#[derive(Default, Debug)]
pub struct Tracker {
    shards: Vec<Shard>,
    /// Shards with responses due, each at most once, by their index.
    due: Vec<u16>,
    counters: Counters,
}

#[derive(Debug)]
struct Shard {
    generation: u32,
    domain: DomainId,
    open: bool,
    /// Whether it stands in the tracker's list of shards with responses due.
    listed: bool,
    records: Vec<Record>,
    /// Head of the list of free records.
    free: u16,
    /// First and last of the records whose response is due, oldest first.
    due: (u16, u16),
    /// Records in any state but free.
    used: u16,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    reference: GrantRef,
    id: u16,
    status: i16,
    holds: u16,
    next: u16,
    extras: u8,
}

impl Tracker {
    /// Opens a shard of `slots` records for pages that `domain` lends. Allocates;
    /// `None` where there are 65,535 shards or more slots than fit.
    pub fn open(&mut self, domain: DomainId, slots: u16) -> Option<ShardId> {
        if slots == NONE {
            return None;
        }
        let index = match self.shards.iter().position(|shard| !shard.open && shard.used == 0) {
            Some(index) => index,
            None => {
                self.shards.push(Shard::new());
                self.due.reserve(self.shards.len() - self.due.len());
                self.shards.len() - 1
            }
        };
        let id = u16::try_from(index).ok()?;
        let shard = &mut self.shards[index];
        shard.reopen(domain, slots);
        Some(ShardId { index: id, generation: shard.generation })
    }

    /// Closes a shard: what is lent stays held until it is released, and is not
    /// answered any more.
    pub fn close(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get_mut(usize::from(id.index)) else { return };
        if !shard.open || shard.generation != id.generation {
            return;
        }
        shard.open = false;
        while let Some(slot) = shard.pop_due() {
            shard.free(slot);
            self.counters.abandoned += 1;
        }
    }

    /// Records a lent page, with one hold on it. `None` when all of the queue's
    /// records are in use.
    pub fn claim(&mut self, id: ShardId, claim: Claim) -> Option<Hold> {
        let shard = self.shards.get_mut(usize::from(id.index))?;
        if !shard.open || shard.generation != id.generation {
            return None;
        }
        let slot = shard.claim(claim)?;
        self.counters.claimed += 1;
        self.counters.holds += 1;
        Some(Hold { shard: id, slot })
    }

    /// One more holder of the same page. `None` when it has too many.
    pub fn share(&mut self, hold: &Hold) -> Option<Hold> {
        let holds = &mut self.record_mut(hold).holds;
        *holds = holds.checked_add(1)?;
        self.counters.holds += 1;
        Some(Hold { shard: hold.shard, slot: hold.slot })
    }

    /// Sets what the request will be answered with.
    pub fn set_status(&mut self, hold: &Hold, status: i16) {
        self.record_mut(hold).status = status;
    }

    /// Ends a hold. The last one makes the response due.
    pub fn release(&mut self, hold: Hold) {
        let Hold { shard: id, slot } = hold;
        mem::forget(hold);
        self.counters.holds -= 1;
        let shard = &mut self.shards[usize::from(id.index)];
        let record = &mut shard.records[usize::from(slot)];
        record.holds -= 1;
        if record.holds > 0 {
            return;
        }
        if !shard.open {
            shard.free(slot);
            self.counters.abandoned += 1;
            return;
        }
        shard.push_due(slot);
        if !mem::replace(&mut shard.listed, true) {
            self.due.push(id.index);
        }
    }

    /// Where the bytes from `offset` of a held page are.
    pub fn region(&self, hold: &Hold, offset: u16) -> GrantRegion {
        let shard = &self.shards[usize::from(hold.shard.index)];
        let reference = shard.records[usize::from(hold.slot)].reference;
        GrantRegion { domain: shard.domain, reference, offset }
    }

    /// A shard with responses due, each told once until more become due.
    pub fn next_due(&mut self) -> Option<ShardId> {
        let index = self.due.pop()?;
        let shard = &mut self.shards[usize::from(index)];
        shard.listed = false;
        // Of the queue that has the shard now: it may have been listed by another.
        Some(ShardId { index, generation: shard.generation })
    }

    /// The next response due on a queue; its record is free again.
    pub fn next_response(&mut self, id: ShardId) -> Option<Response> {
        let shard = self.shards.get_mut(usize::from(id.index))?;
        if shard.generation != id.generation {
            return None;
        }
        let slot = shard.pop_due()?;
        let Record { id, status, extras, .. } = shard.records[usize::from(slot)];
        shard.free(slot);
        self.counters.responded += 1;
        Some(Response { id, status, extras })
    }

    /// How many pages of a queue are held or wait for their response.
    pub fn outstanding(&self, id: ShardId) -> u16 {
        match self.shards.get(usize::from(id.index)) {
            Some(shard) if shard.generation == id.generation => shard.used,
            _ => 0,
        }
    }

    /// The counters.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn record_mut(&mut self, hold: &Hold) -> &mut Record {
        // A hold keeps its record from being freed, and its shard from being
        // opened anew, so both are there.
        &mut self.shards[usize::from(hold.shard.index)].records[usize::from(hold.slot)]
    }
}

impl Shard {
    const fn new() -> Self {
        Self {
            generation: 0,
            domain: DomainId::SELF,
            open: false,
            listed: false,
            records: Vec::new(),
            free: NONE,
            due: (NONE, NONE),
            used: 0,
        }
    }

    fn reopen(&mut self, domain: DomainId, slots: u16) {
        self.generation = self.generation.wrapping_add(1);
        self.domain = domain;
        self.open = true;
        self.records.clear();
        self.records.extend((1..=slots).map(|next| Record {
            reference: GrantRef(0),
            id: 0,
            status: 0,
            holds: 0,
            next: if next == slots { NONE } else { next },
            extras: 0,
        }));
        self.free = if slots == 0 { NONE } else { 0 };
    }

    fn claim(&mut self, claim: Claim) -> Option<u16> {
        let slot = self.free;
        let record = self.records.get_mut(usize::from(slot))?;
        self.free = record.next;
        let Claim { reference, id, extras } = claim;
        *record = Record { reference, id, extras, status: 0, holds: 1, next: NONE };
        self.used += 1;
        Some(slot)
    }

    fn free(&mut self, slot: u16) {
        self.records[usize::from(slot)].next = self.free;
        self.free = slot;
        self.used -= 1;
    }

    fn push_due(&mut self, slot: u16) {
        self.records[usize::from(slot)].next = NONE;
        match self.due.1 {
            NONE => self.due = (slot, slot),
            last => {
                self.records[usize::from(last)].next = slot;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> (Tracker, ShardId) {
        let mut tracker = Tracker::default();
        let shard = tracker.open(DomainId(3), 4).unwrap();
        (tracker, shard)
    }

    fn claim(id: u16) -> Claim {
        Claim { reference: GrantRef(100 + u32::from(id)), id, extras: 0 }
    }

    #[test]
    fn the_last_release_makes_exactly_one_response_due() {
        let (mut tracker, shard) = tracker();
        let hold = tracker.claim(shard, claim(7)).unwrap();
        let other = tracker.share(&hold).unwrap();
        tracker.release(hold);
        assert_eq!(tracker.next_due(), None);
        assert_eq!(tracker.next_response(shard), None);
        tracker.set_status(&other, -1);
        tracker.release(other);
        assert_eq!(tracker.next_due(), Some(shard));
        assert_eq!(tracker.next_response(shard), Some(Response { id: 7, status: -1, extras: 0 }));
        assert_eq!(tracker.next_response(shard), None);
        assert_eq!(tracker.next_due(), None);
        assert_eq!(tracker.counters().outstanding(), 0);
    }

    #[test]
    fn responses_come_in_the_order_of_release() {
        let (mut tracker, shard) = tracker();
        let holds: Vec<_> = (0..4).map(|id| tracker.claim(shard, claim(id)).unwrap()).collect();
        assert!(tracker.claim(shard, claim(4)).is_none(), "four records");
        for hold in holds.into_iter().rev() {
            tracker.release(hold);
        }
        let ids: Vec<_> =
            core::iter::from_fn(|| tracker.next_response(shard)).map(|r| r.id).collect();
        assert_eq!(ids, [3, 2, 1, 0]);
        assert_eq!(tracker.outstanding(shard), 0);
        let again = tracker.claim(shard, claim(9)).unwrap();
        assert_eq!(tracker.region(&again, 5).reference, GrantRef(109));
        tracker.release(again);
    }

    #[test]
    fn a_closed_queue_is_never_answered_and_its_shard_waits_for_its_holds() {
        let (mut tracker, shard) = tracker();
        let late = tracker.claim(shard, claim(1)).unwrap();
        let due = tracker.claim(shard, claim(2)).unwrap();
        tracker.release(due);
        tracker.close(shard);
        assert_eq!(tracker.next_response(shard), None);
        let next = tracker.open(DomainId(4), 4).unwrap();
        assert_ne!(next.index, shard.index, "a hold is still out");
        tracker.release(late);
        // The old queue listed the shard; what its successor owes is told all the same.
        let successor = tracker.open(DomainId(6), 4).unwrap();
        assert_eq!(successor.index, shard.index);
        let hold = tracker.claim(successor, claim(3)).unwrap();
        tracker.release(hold);
        assert_eq!(tracker.next_due(), Some(successor));
        assert_eq!(tracker.next_response(successor).map(|response| response.id), Some(3));
        tracker.close(successor);
        assert_eq!(tracker.next_response(next), None);
        assert_eq!(tracker.counters().abandoned, 2);
        let reused = tracker.open(DomainId(5), 4).unwrap();
        assert_eq!(reused.index, shard.index);
        assert!(tracker.claim(shard, claim(1)).is_none(), "a stale generation lends nothing");
        assert_eq!(tracker.counters().outstanding(), 0);
    }
}
