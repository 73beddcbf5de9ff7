//! Pages lent, held, mapped and sent home.

use xen::fake::{FakeXen, Grant, Guest, Kind, When};
use xen::grant::GrantRef;
use xen::{DomainId, Instant};

use super::*;
use crate::memory::Window;

fn tracker() -> (Tracker, ShardId) {
    let mut tracker = Tracker::new(64);
    let shard = tracker.open(DomainId(3), 4).unwrap();
    (tracker, shard)
}

fn claim(id: u16) -> Claim {
    let page = Page::Granted(GUEST, GrantRef(100 + u32::from(id)));
    Claim { page, id, extras: 0, since: Instant(0) }
}

#[test]
fn the_last_release_makes_exactly_one_response_due() {
    let (mut tracker, shard) = tracker();
    let hold = tracker.claim(shard, claim(7)).unwrap();
    let other = tracker.share(&hold).unwrap();
    tracker.release(hold);
    assert_eq!(tracker.next_news(), None);
    assert_eq!(tracker.next_response(shard), None);
    tracker.set_status(&other, -1);
    tracker.release(other);
    assert_eq!(tracker.next_news(), Some(shard));
    assert_eq!(tracker.next_response(shard), Some(Response { id: 7, status: -1, extras: 0 }));
    assert_eq!(tracker.next_response(shard), None);
    assert_eq!(tracker.next_news(), None);
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
    let ids: Vec<_> = core::iter::from_fn(|| tracker.next_response(shard)).map(|r| r.id).collect();
    assert_eq!(ids, [3, 2, 1, 0]);
    assert_eq!(tracker.outstanding(shard), 0);
    let again = tracker.claim(shard, claim(9)).unwrap();
    assert_eq!(tracker.page(&again).region(5).reference, GrantRef(109));
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
    assert_eq!(tracker.census().queues, 2);
    tracker.release(late);
    assert_eq!(tracker.census().queues, 1);
    // The old queue listed the shard; what its successor owes is told all the same.
    let successor = tracker.open(DomainId(6), 4).unwrap();
    assert_eq!(successor.index, shard.index);
    let hold = tracker.claim(successor, claim(3)).unwrap();
    tracker.release(hold);
    assert_eq!(tracker.next_news(), Some(successor));
    assert_eq!(tracker.next_response(successor).map(|response| response.id), Some(3));
    tracker.close(successor);
    assert_eq!(tracker.next_response(next), None);
    assert_eq!(tracker.counters().abandoned, 2);
    let reused = tracker.open(DomainId(5), 4).unwrap();
    assert_eq!(reused.index, shard.index);
    assert!(tracker.claim(shard, claim(1)).is_none(), "a stale generation lends nothing");
    assert_eq!(tracker.counters().outstanding(), 0);
}

/// A guest that lends, and a tracker with places for its pages.
struct Lending {
    xen: FakeXen,
    guest: Guest,
    tracker: Tracker,
    shard: ShardId,
    window: Window,
}

const GUEST: DomainId = DomainId(3);
const FRAMES: usize = 16;

impl Lending {
    fn new() -> Self {
        let xen = FakeXen::new(DomainId(1));
        let guest = xen.create_domain(GUEST);
        let mut tracker = Tracker::new(64);
        let shard = tracker.open(GUEST, 64).unwrap();
        let window = Window::of(xen.foreign_frames(FRAMES));
        Self { xen, guest, tracker, shard, window }
    }

    /// Lends a page, as Linux does: to be read.
    fn lend(&mut self, id: u16) -> (Hold, GrantRef) {
        let reference = self.guest.grant(self.guest.add_page(), Grant::ReadOnly);
        let claim = Claim { page: Page::Granted(GUEST, reference), ..claim(id) };
        (self.tracker.claim(self.shard, claim).unwrap(), reference)
    }

    /// Lends and maps so many pages at once.
    fn mapped(&mut self, pages: u16) -> Vec<Hold> {
        let holds: Vec<_> = (0..pages).map(|id| self.lend(id).0).collect();
        self.tracker.map(holds.iter(), &mut self.window);
        self.tracker.run_maps(&self.xen, &mut self.window);
        holds
    }

    fn unmap(&mut self) {
        self.tracker.run_unmaps(&self.xen, &mut self.window);
    }

    fn responses(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.tracker.next_response(self.shard)).map(|due| due.id).collect()
    }

    /// The identity of O-16, from what Xen says and what the records say.
    fn check(&self) {
        let counters @ Counters { mapped, quarantined, holds, .. } = self.tracker.counters();
        let census = self.tracker.census();
        let records = counters.outstanding();
        let Census { queues, oldest, .. } = census;
        assert_eq!(census, Census { queues, records, holds, mapped, oldest });
        let mappings = self.xen.audit().mappings.len();
        assert_eq!(mappings as u64, mapped + quarantined);
        assert_eq!(self.window.free() + mappings, FRAMES);
        assert_eq!(self.window.quarantined() as u64, quarantined);
    }
}

#[test]
fn o2_a_mapped_page_is_unmapped_before_it_is_answered() {
    let mut lending = Lending::new();
    let (hold, reference) = lending.lend(7);
    lending.tracker.map([&hold].into_iter(), &mut lending.window);
    assert_eq!(lending.tracker.dma_address(&hold, 5), None, "not yet");
    lending.tracker.run_maps(&lending.xen, &mut lending.window);
    let audit = lending.xen.audit();
    let [mapping] = &audit.mappings[..] else { panic!("{audit:?}") };
    assert_eq!((mapping.reference, mapping.writable), (reference, false));
    assert_eq!(lending.tracker.dma_address(&hold, 5), Some(mapping.frame * 4096 + 5));
    let clone = lending.tracker.share(&hold).unwrap();
    lending.tracker.release(hold);
    lending.unmap();
    lending.check();
    assert_eq!(lending.tracker.counters().mapped, 1, "the clone still looks");
    lending.tracker.release(clone);
    assert_eq!(lending.tracker.next_news(), None);
    assert_eq!(lending.responses(), [], "still mapped");
    lending.unmap();
    assert_eq!(lending.tracker.next_news(), Some(lending.shard));
    assert_eq!(lending.responses(), [7]);
    lending.check();
    assert!(lending.xen.audit().is_clean() && lending.guest.end_grant(reference));
}

#[test]
fn a_page_is_mapped_once_for_all_its_holders() {
    let mut lending = Lending::new();
    let (hold, _) = lending.lend(1);
    let clone = lending.tracker.share(&hold).unwrap();
    for _ in 0..2 {
        lending.tracker.map([&hold, &clone].into_iter(), &mut lending.window);
        lending.tracker.map([&clone].into_iter(), &mut lending.window);
        lending.tracker.run_maps(&lending.xen, &mut lending.window);
        assert_eq!(lending.tracker.counters().maps, 1);
        lending.check();
    }
    [hold, clone].into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.responses(), [1]);
    lending.check();
}

#[test]
fn pages_of_a_run_are_at_adjacent_frames_where_there_are_such() {
    let mut lending = Lending::new();
    let addresses = |lending: &Lending, holds: &[Hold]| -> Vec<u64> {
        holds.iter().map(|hold| lending.tracker.dma_address(hold, 0).unwrap() / 4096).collect()
    };
    let first = lending.mapped(3);
    let second = lending.mapped(4);
    for holds in [&first, &second] {
        assert!(addresses(&lending, holds).is_sorted_by(|a, b| a + 1 == *b));
    }
    // Then two gaps are left, of three frames and of four.
    first.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    let third = lending.mapped(5);
    let fourth = lending.mapped(5);
    assert!(addresses(&lending, &third).is_sorted_by(|a, b| a + 1 == *b));
    let fourth_at = addresses(&lending, &fourth);
    assert!(!fourth_at.is_sorted_by(|a, b| a + 1 == *b), "{fourth_at:?}");
    assert_eq!(lending.tracker.counters().mapped, 14);
    second.into_iter().chain(third).chain(fourth).for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.responses().len(), 17);
    lending.check();
}

#[test]
fn o9_no_lender_maps_more_than_is_left() {
    let mut lending = Lending::new();
    let holds: Vec<_> = (0..10).map(|id| lending.lend(id).0).collect();
    // Of 16 frames two stay for rings: seven may be mapped, and not all at once.
    let can = |lending: &Lending, range: std::ops::Range<usize>| {
        lending.tracker.can_map(holds[range].iter(), &lending.window)
    };
    assert!(can(&lending, 0..10));
    lending.tracker.map(holds[..7].iter(), &mut lending.window);
    assert!(!can(&lending, 7..8), "its share is used up");
    assert!(can(&lending, 0..7), "what is mapped already costs nothing");
    let second = lending.tracker.open(GUEST, 64).unwrap();
    let own = lending.tracker.claim(second, claim(0)).unwrap();
    assert!(!lending.tracker.can_map([&own].into_iter(), &lending.window), "by any queue");
    lending.tracker.release(own);
    let stranger = lending.tracker.open(DomainId(4), 64).unwrap();
    let other = lending.tracker.claim(stranger, claim(0)).unwrap();
    assert!(lending.tracker.can_map([&other].into_iter(), &lending.window), "another has its own");
    lending.tracker.run_maps(&lending.xen, &mut lending.window);
    lending.tracker.release(other);
    holds.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.responses().len(), 10);
    lending.check();
}

/// Guests come and go, and each has the share of a new one; what is known of them does not
/// grow with them.
#[test]
fn a_lender_is_known_for_as_long_as_it_lends() {
    let mut lending = Lending::new();
    let late = lending.mapped(7);
    for domain in 10..20 {
        let shard = lending.tracker.open(DomainId(domain), 64).unwrap();
        let hold = lending.tracker.claim(shard, claim(0)).unwrap();
        assert!(lending.tracker.can_map([&hold].into_iter(), &lending.window));
        assert_eq!(lending.tracker.lenders(), 2);
        lending.tracker.release(hold);
        lending.tracker.close(shard);
    }
    // Its queue is gone, and its pages are not back yet.
    lending.tracker.close(lending.shard);
    lending.shard = lending.tracker.open(GUEST, 64).unwrap();
    let hold = lending.lend(8).0;
    assert!(!lending.tracker.can_map([&hold].into_iter(), &lending.window));
    late.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert!(lending.tracker.can_map([&hold].into_iter(), &lending.window));
    lending.tracker.release(hold);
    assert_eq!(lending.responses(), [8]);
    lending.check();
}

#[test]
fn t13_a_page_that_xen_does_not_map_stays_held() {
    let mut lending = Lending::new();
    for status in [-13, -1, -3, 1, i16::MAX] {
        lending.xen.fail(Kind::Map, When::Nth(2), status);
        let holds = lending.mapped(3);
        lending.xen.clear_faults();
        let mapped = holds.iter().map(|hold| lending.tracker.dma_address(hold, 0).is_some());
        assert_eq!(mapped.collect::<Vec<_>>(), [true, false, true], "{status}");
        lending.check();
        holds.into_iter().for_each(|hold| lending.tracker.release(hold));
        lending.unmap();
        let mut answered = lending.responses();
        answered.sort();
        assert_eq!(answered, [0, 1, 2]);
        lending.check();
    }
}

#[test]
fn h5_a_page_that_is_paged_out_is_tried_again() {
    let mut lending = Lending::new();
    lending.xen.fail(Kind::Map, When::Next(3), -12);
    let holds = lending.mapped(1);
    assert!(lending.tracker.dma_address(&holds[0], 0).is_some());
    holds.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    lending.check();
}

#[test]
fn t12_a_page_that_cannot_be_unmapped_is_never_answered_and_its_frame_never_used() {
    let mut lending = Lending::new();
    let holds = lending.mapped(3);
    let stuck = lending.tracker.dma_address(&holds[1], 0).unwrap() / 4096;
    lending.xen.fail(Kind::Unmap, When::Nth(2), -4);
    holds.into_iter().rev().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.tracker.next_news(), Some(lending.shard));
    let mut answered = lending.responses();
    answered.sort();
    assert_eq!(answered, [0, 2]);
    let counters = lending.tracker.counters();
    assert_eq!((counters.quarantined, counters.mapped, counters.outstanding()), (1, 0, 0));
    assert_eq!(lending.tracker.quarantined(lending.shard), 1);
    assert_eq!(lending.tracker.outstanding(lending.shard), 0, "nobody waits for it");
    lending.check();
    // The rest goes on, at other frames.
    for _ in 0..4 {
        let holds = lending.mapped(6);
        let frames: Vec<_> =
            holds.iter().map(|hold| lending.tracker.dma_address(hold, 0)).collect();
        assert!(frames.iter().flatten().all(|address| address / 4096 != stuck), "{frames:?}");
        holds.into_iter().for_each(|hold| lending.tracker.release(hold));
        lending.unmap();
        lending.responses();
    }
    // Nor does the queue's successor wait for it.
    let index = lending.shard.index;
    lending.tracker.close(lending.shard);
    lending.shard = lending.tracker.open(GUEST, 64).unwrap();
    assert_eq!(lending.shard.index, index);
    assert_eq!(lending.tracker.quarantined(lending.shard), 0);
    lending.check();
}

#[test]
fn o13_a_mapped_page_of_a_queue_that_is_gone_is_unmapped_and_not_answered() {
    let mut lending = Lending::new();
    let holds = lending.mapped(2);
    let old = lending.shard;
    lending.tracker.close(old);
    lending.shard = lending.tracker.open(GUEST, 64).unwrap();
    assert_ne!(lending.shard.index, old.index);
    holds.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.tracker.next_news(), None);
    assert_eq!((lending.responses(), lending.tracker.next_response(old)), (vec![], None));
    assert_eq!(lending.tracker.counters().abandoned, 2);
    assert!(lending.xen.audit().is_clean());
    lending.check();
}

#[test]
fn a_page_released_while_it_is_being_mapped_is_unmapped_at_once() {
    let mut lending = Lending::new();
    let (hold, _) = lending.lend(5);
    lending.tracker.map([&hold].into_iter(), &mut lending.window);
    lending.tracker.release(hold);
    assert_eq!(lending.responses(), []);
    lending.tracker.run_maps(&lending.xen, &mut lending.window);
    assert_eq!(lending.responses(), []);
    lending.unmap();
    assert_eq!(lending.responses(), [5]);
    lending.check();
}

#[test]
fn more_pages_than_a_batch_are_unmapped_in_several() {
    let mut lending = Lending::new();
    let frames = 8 * mapping::BATCH;
    lending.window = Window::of(lending.xen.foreign_frames(frames));
    lending.shard = lending.tracker.open(GUEST, 512).unwrap();
    let mut holds = lending.mapped(128);
    holds.extend(lending.mapped(128));
    holds.extend(lending.mapped(20));
    let before = lending.xen.counts().unmap_calls;
    holds.into_iter().for_each(|hold| lending.tracker.release(hold));
    lending.unmap();
    assert_eq!(lending.xen.counts().unmap_calls - before, 3);
    assert_eq!(lending.responses().len(), 276);
    assert!(lending.xen.audit().is_clean());
}

#[test]
fn the_oldest_page_is_known() {
    let mut lending = Lending::new();
    assert_eq!(lending.tracker.census().oldest, None);
    let old = Claim { since: Instant(5), ..claim(1) };
    let old = lending.tracker.claim(lending.shard, old).unwrap();
    let new = Claim { since: Instant(9), ..claim(2) };
    let new = lending.tracker.claim(lending.shard, new).unwrap();
    assert_eq!(lending.tracker.census().oldest, Some(Instant(5)));
    lending.tracker.release(old);
    lending.responses();
    assert_eq!(lending.tracker.census().oldest, Some(Instant(9)));
    lending.tracker.release(new);
}
