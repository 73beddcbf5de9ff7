//! Lent pages mapped read-only for a device that reads them, in batches.
//!
//! A page is mapped at most once, for whoever holds it, and unmapped when nobody
//! does (NETBACK-SPEC O-10, O-14). No lender has more pages mapped than there are
//! frames left: lenders whose packets do not get away settle at a share each, by however
//! many queues and vifs they lend.

use core::mem;

use heapless::Vec;
use xen::grant::{GrantError, GrantMap, GrantRef, GrantUnmap};
use xen::{DomainId, ForeignFrame, Hypervisor, Instant, LocalRegion};

use super::page::Page;
use super::shard::{Mapping, State};
use super::tracker::{Hold, Place, Tracker};
use crate::defect::{self, Defect};
use crate::memory::{self, Window};

/// The most operations in one hypercall.
pub(super) const BATCH: usize = 128;

impl Tracker {
    /// How many more pages the batch takes.
    pub fn map_room(&self) -> usize {
        BATCH - self.mapping()
    }

    /// Whether `holds` can be mapped within the budgets: the batch's, the window's and
    /// their lender's.
    pub fn can_map<'a>(&self, holds: impl Iterator<Item = &'a Hold>, window: &Window) -> bool {
        let (mut wanted, mut mapped) = (0, 0);
        for hold in holds {
            let place = hold.place();
            wanted += usize::from(self.to_map(place).is_some());
            mapped = self.mapped(place);
        }
        if defect::is(Defect::MapsWithoutShare) {
            mapped = 0;
        }
        wanted <= self.map_room() && mapped + wanted <= window.room()
    }

    /// Adds those of `holds` to the batch that are not mapped yet, at frames that
    /// follow each other where there are such. To be asked for first
    /// ([`can_map`](Self::can_map)); what finds no frame stays as it is.
    pub fn map<'a>(&mut self, holds: impl Iterator<Item = &'a Hold> + Clone, window: &mut Window) {
        let run = holds.clone().filter(|hold| self.to_map(hold.place()).is_some()).count();
        if let Some(mut frames) = window.take_run(run) {
            for place in holds.map(Hold::place) {
                if let Some(grant) = self.to_map(place)
                    && let Some(frame) = frames.next()
                {
                    self.start(place, grant, frame);
                }
            }
            return;
        }
        for place in holds.map(Hold::place) {
            if let Some(grant) = self.to_map(place)
                && let Some(frame) = window.take_run(1).and_then(|mut run| run.next())
            {
                self.start(place, grant, frame);
            }
        }
    }

    fn start(
        &mut self,
        place: Place,
        (domain, reference): (DomainId, GrantRef),
        frame: ForeignFrame,
    ) {
        let writable = defect::is(Defect::MapsWritable);
        self.maps.push(GrantMap::new(domain, reference, &frame, writable));
        self.mapping.push(place);
        self.record_mut(place).state = State::Mapping(frame);
        *self.mapped_mut(place) += 1;
    }

    /// The grant of a page that is not mapped. One of our own needs no map.
    fn to_map(&self, place: Place) -> Option<(DomainId, GrantRef)> {
        let record = self.record(place);
        match (&record.state, record.claim.page) {
            (State::Held, Page::Granted(domain, reference)) => Some((domain, reference)),
            _ => None,
        }
    }

    /// Maps the batch; whether all of it could be.
    pub fn run_maps<H: Hypervisor>(&mut self, hypervisor: &H, window: &mut Window) -> bool {
        memory::map(hypervisor, &mut self.maps);
        let mut succeeded = true;
        for number in 0..self.mapping.len() {
            let (place, outcome) = (self.mapping[number], self.maps[number].handle());
            let record = self.record_mut(place);
            match (mem::replace(&mut record.state, State::Held), outcome) {
                (State::Mapping(frame), Ok(handle)) => {
                    record.state = State::Mapped(Mapping { frame, handle });
                    self.counters.mapped += 1;
                    self.counters.maps += 1;
                }
                (State::Mapping(frame), Err(_)) => {
                    window.give(frame);
                    *self.mapped_mut(place) -= 1;
                    self.shard_mut(place).refused = Some(hypervisor.now());
                    succeeded = false;
                }
                (state, _) => record.state = state,
            }
            if self.record(place).holds == 0 {
                self.finish(place);
            }
        }
        self.mapping.clear();
        self.maps.clear();
        succeeded
    }

    /// When Xen last refused to map a page of the lender's.
    pub fn refused(&self, hold: &Hold) -> Option<Instant> {
        self.shard_of(hold.place()).refused
    }

    /// How many pages the batch maps.
    pub fn mapping(&self) -> usize {
        self.mapping.len()
    }

    /// How many pages wait to be unmapped.
    pub fn unmapping(&self) -> usize {
        self.unmapping.len()
    }

    /// Unmaps what nobody holds any more, and makes its responses due; whether all of it
    /// could be.
    pub fn run_unmaps<H: Hypervisor>(&mut self, hypervisor: &H, window: &mut Window) -> bool {
        let mut succeeded = true;
        while !self.unmapping.is_empty() {
            let mut places = Vec::<Place, BATCH>::new();
            while !places.is_full()
                && let Some(place) = self.unmapping.pop()
            {
                if let State::Unmapping(Mapping { frame, handle }) = &self.record(place).state {
                    let unmap = GrantUnmap::new(*handle, frame);
                    self.unmaps.push(unmap);
                    let _ = places.push(place);
                }
            }
            hypervisor.grant_unmap(&mut self.unmaps);
            for (number, place) in places.into_iter().enumerate() {
                let outcome = self.unmaps[number].status();
                succeeded &= outcome.is_ok();
                self.unmapped(place, outcome, window);
            }
            self.unmaps.clear();
        }
        succeeded
    }

    fn unmapped(&mut self, place: Place, outcome: Result<(), GrantError>, window: &mut Window) {
        let record = self.record_mut(place);
        let State::Unmapping(mapping) = mem::replace(&mut record.state, State::Held) else {
            return;
        };
        self.counters.mapped -= 1;
        *self.mapped_mut(place) -= 1;
        match outcome {
            Ok(()) => {
                window.give(mapping.frame);
                self.finish(place);
            }
            Err(_) if defect::is(Defect::AnswersQuarantinedPages) => {
                window.quarantine(mapping.frame);
                self.finish(place);
            }
            Err(_) => {
                if defect::is(Defect::ReusesQuarantinedFrames) {
                    window.give(mapping.frame);
                } else {
                    window.quarantine(mapping.frame);
                }
                self.counters.quarantined += 1;
                self.shard_mut(place).quarantine(place.slot);
                self.tell(place);
            }
        }
    }

    /// The address at which a device finds the bytes from `offset` of a held page;
    /// `None` while the page is a guest's and not mapped.
    pub fn dma_address(&self, hold: &Hold, offset: u16) -> Option<u64> {
        let record = self.record(hold.place());
        match (&record.state, record.claim.page) {
            (State::Mapped(mapping), _) => Some(mapping.frame.address() + u64::from(offset)),
            (_, Page::Own(frame)) => Some(LocalRegion::new(frame, offset.into(), 0)?.dma_address()),
            _ => None,
        }
    }
}
