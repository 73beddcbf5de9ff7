//! The page tracker.

use alloc::vec::Vec;
use core::mem;

use xen::grant::{GrantMap, GrantUnmap};
use xen::{DomainId, Instant};

use super::mapping::BATCH;
use super::page::Page;
use super::shard::{End, NONE, Record, Shard, State};
use crate::defect::{self, Defect};
use crate::leak;

/// A transmit queue's records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShardId {
    pub(super) index: u16,
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

    pub(super) const fn place(&self) -> Place {
        Place { shard: self.shard.index, slot: self.slot }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        leak::note("a hold on a lent page");
    }
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) shard: u16,
    pub(super) slot: u16,
}

/// What a request says of the page it lends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The page, as its lender names it.
    pub page: Page,
    /// The request's id, only ever echoed.
    pub id: u16,
    /// How many extra-info slots came with the request, to be answered beside it
    /// (P-15).
    pub extras: u8,
    /// When the request was taken.
    pub since: Instant,
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

/// What the tracker counts, over all queues since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Pages lent to us.
    pub claimed: u64,
    /// Pages given back by a response.
    pub responded: u64,
    /// Pages whose queue went away before a response.
    pub abandoned: u64,
    /// Pages that could not be unmapped.
    pub quarantined: u64,
    /// Holds alive.
    pub holds: u64,
    /// Pages mapped now.
    pub mapped: u64,
    /// Pages ever mapped.
    pub maps: u64,
}

impl Counters {
    /// Pages lent that are still with us: by the identity of O-16 as many as there
    /// are records in use, and none at rest.
    pub const fn outstanding(&self) -> u64 {
        self.claimed - self.responded - self.abandoned - self.quarantined
    }
}

/// What the records say, each looked at. At any time it is what the counters say of the
/// same things: the identity of O-16.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// Queues that lend, or have lent what is not back yet.
    pub queues: usize,
    /// Pages that are with us.
    pub records: u64,
    /// Holds on them.
    pub holds: u64,
    /// Those that are mapped.
    pub mapped: u64,
    /// Since when the page has been with us that has been so longest.
    pub oldest: Option<Instant>,
}

/// A guest that lends pages, by however many queues.
#[derive(Debug)]
struct Lender {
    domain: DomainId,
    /// How many of its pages are mapped, or about to be, or still are.
    mapped: usize,
}

/// All lent pages.
#[derive(Debug)]
pub struct Tracker {
    shards: Vec<Shard>,
    /// At most as many as there are shards, each of which names its own by its place.
    lenders: Vec<Lender>,
    /// Shards with news, each at most once, by their index.
    news: Vec<u16>,
    /// Pages to be mapped by the next batch, and its operations.
    pub(super) mapping: Vec<Place>,
    pub(super) maps: Vec<GrantMap>,
    /// Pages to be unmapped, and the operations of a batch.
    pub(super) unmapping: Vec<Place>,
    pub(super) unmaps: Vec<GrantUnmap>,
    pub(super) counters: Counters,
}

impl Tracker {
    /// No pages, and room for so many to be mapped at once: as many as there are frames, so
    /// that no release allocates (O-11).
    pub fn new(frames: usize) -> Self {
        Self {
            shards: Vec::new(),
            lenders: Vec::new(),
            news: Vec::new(),
            mapping: Vec::with_capacity(BATCH),
            maps: Vec::with_capacity(BATCH),
            unmapping: Vec::with_capacity(frames),
            unmaps: Vec::with_capacity(BATCH),
            counters: Counters::default(),
        }
    }

    /// Opens a shard of `slots` records for pages that `domain` lends, or answers for. Allocates;
    /// `None` where there are 65,535 shards or more slots than fit.
    pub fn open(&mut self, domain: DomainId, slots: u16) -> Option<ShardId> {
        if slots == NONE {
            return None;
        }
        let index = match self.shards.iter().position(Shard::is_idle) {
            Some(index) => index,
            None => {
                self.shards.push(Shard::new());
                self.shards.len() - 1
            }
        };
        let id = u16::try_from(index).ok()?;
        let lender = self.lender(domain);
        let shard = &mut self.shards[index];
        shard.reopen(lender, slots);
        let generation = shard.generation;
        // Room for all of them at once (O-11).
        self.news.reserve(self.shards.len() - self.news.len());
        Some(ShardId { index: id, generation })
    }

    /// The place of a lender, which is new where no queue of its is open or has pages out.
    fn lender(&mut self, domain: DomainId) -> usize {
        if let Some(known) = self.lenders.iter().position(|lender| lender.domain == domain) {
            return known;
        }
        let in_use = |place: usize| {
            self.shards.iter().any(|shard| !shard.is_idle() && shard.lender == place)
        };
        let lender = Lender { domain, mapped: 0 };
        if let Some(place) = (0..self.lenders.len()).find(|place| !in_use(*place)) {
            self.lenders[place] = lender;
            return place;
        }
        self.lenders.push(lender);
        self.lenders.len() - 1
    }

    /// How many lenders are known.
    #[cfg(test)]
    pub(super) fn lenders(&self) -> usize {
        self.lenders.len()
    }

    /// Closes a shard: what is lent stays held until it is released, and is not
    /// answered any more.
    pub fn close(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get_mut(usize::from(id.index)) else { return };
        if shard.open && shard.generation == id.generation {
            let abandoned = u64::from(shard.close());
            if !defect::is(Defect::ForgetsAbandonedPages) {
                self.counters.abandoned += abandoned;
            }
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
        let holds = &mut self.record_mut(hold.place()).holds;
        *holds = holds.checked_add(u16::from(!defect::is(Defect::ClonesWithoutHold)))?;
        self.counters.holds += 1;
        Some(Hold { shard: hold.shard, slot: hold.slot })
    }

    /// Sets what the request will be answered with.
    pub fn set_status(&mut self, hold: &Hold, status: i16) {
        if !defect::is(Defect::AnswersFailuresWithOkay) {
            self.record_mut(hold.place()).status = status;
        }
    }

    /// Ends a hold. The last one sends the page home.
    pub fn release(&mut self, hold: Hold) {
        let place = hold.place();
        mem::forget(hold);
        self.counters.holds -= 1;
        let record = self.record_mut(place);
        if record.holds > 1 && defect::is(Defect::LosesARelease) {
            return;
        }
        record.holds -= if defect::is(Defect::ReleasesTwice) { record.holds.min(2) } else { 1 };
        if record.holds == 0 {
            self.finish(place);
        }
    }

    /// The page that is held.
    pub fn page(&self, hold: &Hold) -> Page {
        match self.record(hold.place()).claim.page {
            Page::Granted(domain, reference) if defect::is(Defect::CopiesAStrangersGrant) => {
                Page::Granted(DomainId(domain.0 + 1), reference)
            }
            page => page,
        }
    }

    /// A shard with responses due or a page quarantined, told once until there is
    /// more.
    pub fn next_news(&mut self) -> Option<ShardId> {
        let index = self.news.pop()?;
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
        let (Claim { id, extras, .. }, status) = shard.respond()?;
        self.counters.responded += 1;
        Some(Response { id, status, extras })
    }

    /// How many pages of a queue are held, or wait for their unmap or their response.
    pub fn outstanding(&self, id: ShardId) -> u16 {
        self.shard(id).map_or(0, Shard::outstanding)
    }

    /// How many pages of a queue are quarantined.
    pub fn quarantined(&self, id: ShardId) -> u16 {
        self.shard(id).map_or(0, |shard| shard.quarantined)
    }

    /// Looks at all records.
    pub fn census(&self) -> Census {
        let queues = self.shards.iter().filter(|shard| !shard.is_idle()).count();
        let mut census = Census { queues, ..Census::default() };
        for record in self.shards.iter().flat_map(Shard::records) {
            match record.state {
                State::Free | State::Quarantined => continue,
                State::Mapped(_) | State::Unmapping(_) => census.mapped += 1,
                State::Held | State::Mapping(_) | State::Responding => {}
            }
            census.records += 1;
            census.holds += u64::from(record.holds);
            let since = census.oldest.into_iter().chain([record.claim.since]);
            census.oldest = since.min();
        }
        census
    }

    /// The counters.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Goes on with a page that nobody holds.
    pub(super) fn finish(&mut self, place: Place) {
        if defect::is(Defect::AllocatesOnRelease) {
            core::hint::black_box(alloc::boxed::Box::new(place));
        }
        match self.shard_mut(place).finish(place.slot) {
            End::Mapping => {}
            End::Unmap => self.unmapping.push(place),
            End::Abandoned if defect::is(Defect::ForgetsAbandonedPages) => {}
            End::Abandoned => self.counters.abandoned += 1,
            End::Due => self.tell(place),
        }
    }

    /// Lists a page's shard as one with news.
    pub(super) fn tell(&mut self, place: Place) {
        let shard = self.shard_mut(place);
        if !mem::replace(&mut shard.listed, true) {
            self.news.push(place.shard);
        }
    }

    fn shard(&self, id: ShardId) -> Option<&Shard> {
        let shard = self.shards.get(usize::from(id.index))?;
        (shard.generation == id.generation).then_some(shard)
    }

    // A hold, or a place in one of the lists, keeps its record from being freed, and
    // its shard from being opened anew, so both are there.

    pub(super) fn shard_mut(&mut self, place: Place) -> &mut Shard {
        &mut self.shards[usize::from(place.shard)]
    }

    pub(super) fn shard_of(&self, place: Place) -> &Shard {
        &self.shards[usize::from(place.shard)]
    }

    /// How many pages of the lender of a page are mapped.
    pub(super) fn mapped(&self, place: Place) -> usize {
        self.lenders[self.shard_of(place).lender].mapped
    }

    pub(super) fn mapped_mut(&mut self, place: Place) -> &mut usize {
        let lender = self.shard_of(place).lender;
        &mut self.lenders[lender].mapped
    }

    pub(super) fn record(&self, place: Place) -> &Record {
        self.shard_of(place).record(place.slot)
    }

    pub(super) fn record_mut(&mut self, place: Place) -> &mut Record {
        self.shard_mut(place).record_mut(place.slot)
    }
}
