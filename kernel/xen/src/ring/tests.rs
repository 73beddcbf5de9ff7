use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::thread;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::DomainId;
use crate::fake::FakeXen;

/// Entries that say which they are.
type Back = BackRing<[u32; 3], u32, 256>;
type Front = FrontRing<[u32; 3], u32, 256>;

fn pages() -> [SharedPage; 2] {
    let guest = FakeXen::new(DomainId(1)).create_domain(DomainId(2));
    let frame = guest.add_page();
    [guest.page(frame), guest.page(frame)]
}

fn rings_at(index: u32) -> (Front, Back) {
    let [theirs, ours] = pages();
    let front = Front::starting_at(theirs, index);
    (front, Back::attach(ours).unwrap())
}

fn request(number: u32) -> [u32; 3] {
    [number, !number, number.rotate_left(16)]
}

fn push(front: &mut Front, numbers: impl IntoIterator<Item = u32>) -> bool {
    numbers.into_iter().for_each(|number| front.push(request(number)).unwrap());
    front.publish()
}

fn taken(back: &mut Back) -> Vec<u32> {
    core::iter::from_fn(|| back.take()).map(|[number, ..]| number).collect()
}

#[test]
fn slots_and_indices_are_where_frontends_have_them() {
    let [theirs, ours] = pages();
    theirs.store(0, 2);
    theirs.store(64, 0x11);
    theirs.store(64 + 12, 0x22);
    theirs.write(64 + 16, &[0x33_u32, 0x44]);
    let mut back = Back::attach(ours).unwrap();
    assert_eq!(back.requests(), Ok(2));
    assert_eq!(back.take(), Some([0x11, 0, 0]));
    assert_eq!(back.take(), Some([0x22, 0x33, 0x44]));
    assert_eq!(back.rearm(5), Ok(false));
    assert_eq!(theirs.load(4), 7);
    back.respond(0xaa);
    back.respond(0xbb);
    assert_eq!(theirs.load(8), 0, "not published");
    theirs.store(12, 2);
    assert!(back.publish());
    assert_eq!(theirs.load(8), 2);
    assert_eq!(theirs.read::<[u32; 4]>(64), [0xaa, 0, 0, 0xbb]);
    assert_eq!(theirs.read::<[u32; 2]>(64 + 16), [0x33, 0x44], "a short response is short");
}

#[test]
fn entries_of_each_ring_fit_its_page() {
    let [theirs, ours] = pages();
    theirs.store(0, 256);
    theirs.write(64 + 255 * 8, &[7_u32, 8]);
    let mut rx = BackRing::<[u32; 2], [u32; 2], 256>::attach(ours).unwrap();
    assert_eq!(core::iter::from_fn(|| rx.take()).last(), Some([7, 8]));
    let [theirs, ours] = pages();
    theirs.store(0, 128);
    theirs.write(64 + 127 * 16, &[1_u32, 2, 3, 4]);
    let mut control = BackRing::<[u32; 4], [u32; 3], 128>::attach(ours).unwrap();
    assert_eq!(core::iter::from_fn(|| control.take()).last(), Some([1, 2, 3, 4]));
    let [theirs, ours] = pages();
    theirs.store(0, 2);
    theirs.store(64 + 8, 9);
    let mut longer = BackRing::<u32, [u32; 2], 256>::attach(ours).unwrap();
    assert_eq!(core::iter::from_fn(|| longer.take()).last(), Some(9), "slots fit the longer one");
}

#[test]
fn a_ring_goes_on_where_its_response_producer_stands() {
    let (mut front, back) = rings_at(77);
    let start = back.indices();
    assert_eq!(start.request_consumer, 77);
    assert_eq!((start.response_producer, start.response_published), (77, 77));
    assert!(push(&mut front, 0..3));
    drop(back);
    let [_, ours] = pages();
    ours.store(RESPONSE_PRODUCER, 77);
    ours.store(REQUEST_PRODUCER, 80);
    let mut back = Back::attach(ours).unwrap();
    assert_eq!(back.requests(), Ok(3), "what waited is seen at once");
}

#[test]
fn a_ring_that_claims_more_than_it_holds_is_not_taken() {
    for (producer, start, valid) in [
        (256, 0, true),
        (257, 0, false),
        (0, 1, false),
        (1 << 31, 0, false),
        (255, u32::MAX, true),
        (256, u32::MAX, false),
    ] {
        let [theirs, ours] = pages();
        theirs.store(RESPONSE_PRODUCER, start);
        theirs.store(REQUEST_PRODUCER, producer);
        let outstanding = u32::wrapping_sub(producer, start);
        let expected = RingError::Overflow { producer, outstanding };
        match Back::attach(ours) {
            Ok(_) => assert!(valid, "{producer} from {start}"),
            Err(error) => assert_eq!((error, valid), (expected, false)),
        }
    }
}

#[test]
fn only_what_was_seen_is_taken_and_the_producer_is_read_once_for_it() {
    let (mut front, mut back) = rings_at(0);
    push(&mut front, 0..2);
    assert_eq!(back.take(), None, "not looked yet");
    assert_eq!(back.requests(), Ok(2));
    push(&mut front, 2..4);
    assert_eq!(back.requests(), Ok(2), "those seen come first");
    assert_eq!(taken(&mut back), [0, 1]);
    assert_eq!(back.requests(), Ok(2));
    front.set_word(Word::RequestProducer, 1000);
    assert_eq!(taken(&mut back), [2, 3], "what was seen was there");
    assert!(back.requests().is_err());
}

#[test]
fn a_slot_is_read_once() {
    let (mut front, mut back) = rings_at(0);
    push(&mut front, [1, 2]);
    assert_eq!(back.requests(), Ok(2));
    let first = back.take();
    front.write(0, &request(9));
    front.write(1, &request(8));
    assert_eq!(first, Some(request(1)), "a copy of ours");
    assert_eq!(back.take(), Some(request(8)), "not looked at before");
}

#[test]
fn jumps_of_the_producer_are_refused() {
    let attempt = |producer: u32| {
        let (mut front, mut back) = rings_at(0);
        push(&mut front, 0..10);
        assert_eq!(back.requests(), Ok(10));
        taken(&mut back);
        (0..4).for_each(|number| back.respond(number));
        front.set_word(Word::RequestProducer, producer);
        let before = back.indices();
        let result = back.requests();
        assert!(result.is_ok() || back.indices() == before, "a refusal changes nothing");
        assert_eq!(back.rearm(1), result.map(|requests| requests > 0));
        result
    };
    assert_eq!(attempt(10), Ok(0));
    assert_eq!(attempt(260), Ok(250), "256 without a response");
    for producer in [261, 267, 10 + (1 << 31), 9, 4, 3, 0, u32::MAX] {
        let outstanding = producer.wrapping_sub(4);
        assert_eq!(attempt(producer), Err(RingError::Overflow { producer, outstanding }));
    }
}

#[test]
fn responses_are_as_many_as_requests() {
    let (mut front, mut back) = rings_at(u32::MAX - 100);
    push(&mut front, 0..256);
    assert_eq!(front.push(request(0)), Err(request(0)), "full");
    assert_eq!(back.requests(), Ok(256));
    back.respond(1);
    assert_eq!(back.indices().response_producer, u32::MAX - 100, "nothing is taken yet");
    back.take();
    back.respond(1);
    back.respond(2);
    back.publish();
    assert_eq!(front.take(), Some(1));
    assert_eq!(front.take(), None);
    assert_eq!(taken(&mut back), (1..256).collect::<Vec<_>>(), "no request was overwritten");
}

#[test]
fn what_the_frontend_makes_of_our_indices_does_not_matter() {
    let (mut front, mut back) = rings_at(0);
    push(&mut front, 0..3);
    back.requests().unwrap();
    taken(&mut back);
    back.respond(7);
    front.set_word(Word::ResponseProducer, 200);
    front.set_word(Word::RequestEvent, 200);
    back.publish();
    assert_eq!(front.word(Word::ResponseProducer), 1);
    assert_eq!(front.take(), Some(7));
    assert_eq!(back.rearm(1), Ok(false));
    assert_eq!(front.word(Word::RequestEvent), 4);
}

#[test]
fn a_publication_of_nothing_notifies_nobody() {
    let (mut front, mut back) = rings_at(0);
    push(&mut front, [0]);
    back.requests().unwrap();
    back.take();
    front.set_word(Word::ResponseProducer, 5);
    assert!(!back.publish());
    assert_eq!(front.word(Word::ResponseProducer), 5, "not even written");
    back.respond(0);
    assert!(back.publish());
    assert!(!back.publish(), "told once");
}

#[test]
fn an_event_is_raised_for_the_response_asked_for_and_no_other() {
    for start in (0..=8).map(|by| 0_u32.wrapping_sub(by)) {
        let near = (0..128_u32).map(|n| (n % 4, n / 4 % 4, n / 16));
        for (before, now, event) in near.chain([(2, 2, 1 << 31), (2, 2, u32::MAX)]) {
            let (mut front, mut back) = rings_at(start);
            push(&mut front, 0..8);
            back.requests().unwrap();
            taken(&mut back);
            (0..before).for_each(|number| back.respond(number));
            back.publish();
            front.set_word(Word::ResponseEvent, start.wrapping_add(event));
            (0..now).for_each(|number| back.respond(number));
            let asked = event > before && event <= before + now;
            assert_eq!(back.publish(), asked, "{start:#x}: {before} and {now}, {event}");
        }
    }
}

#[test]
fn a_backend_that_wants_several_is_told_when_they_are_there() {
    let (mut front, mut back) = rings_at(u32::MAX - 2);
    assert_eq!(back.rearm(4), Ok(false));
    assert!(!push(&mut front, 0..3));
    assert_eq!(back.rearm(4), Ok(false), "three are not four");
    assert!(push(&mut front, 3..4));
    assert_eq!(back.rearm(4), Ok(true));
    assert_eq!(back.requests(), Ok(4));
    assert!(!push(&mut front, 4..5), "told once");
}

/// Brings two threads together as closely as can be.
struct Meeting {
    calls: AtomicU32,
    start: Instant,
    /// When the next round begins, in nanoseconds from the start.
    begin: AtomicU64,
}

impl Meeting {
    fn new() -> Self {
        Self { calls: AtomicU32::new(0), start: Instant::now(), begin: AtomicU64::new(0) }
    }

    /// Waits until both have called it for the `round`-th time, and returns to both
    /// at once, but for `later` nanoseconds.
    fn meet(&self, round: u32, later: u32) {
        self.begin.fetch_max(self.now() + 500, Ordering::AcqRel);
        self.calls.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.calls.load(Ordering::Acquire) < 2 * round {
            spins += 1;
            if spins.is_multiple_of(256) {
                thread::yield_now();
            }
        }
        let begin = self.begin.load(Ordering::Acquire) + u64::from(later);
        while self.now() < begin {}
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// Each end publishes while the other goes to sleep: at least one must notice the
/// other, which takes a full barrier on both sides (P-4, P-5).
#[test]
fn who_goes_to_sleep_while_the_other_publishes_is_told_or_sees_it() {
    const ROUNDS: u32 = 20_000;
    #[repr(align(4096))]
    struct Page(#[expect(dead_code, reason = "only its address is used")] [u8; PAGE_SIZE]);
    let base: NonNull<u8> = NonNull::from(Box::leak(Box::new(Page([0; PAGE_SIZE])))).cast();
    // SAFETY: the page is leaked, and nobody references it.
    let [theirs, ours] = [base; 2].map(|base| unsafe { SharedPage::new(base) });
    let (mut front, mut back) = (Front::new(theirs), Back::attach(ours).unwrap());
    let meeting = Meeting::new();
    let lost = thread::scope(|scope| {
        let frontend = scope.spawn(|| {
            let mut noticed = Vec::new();
            for round in 0..ROUNDS {
                let _ = front.push(request(round));
                meeting.meet(4 * round + 1, round % 64);
                let told = front.publish();
                meeting.meet(4 * round + 2, 0);
                meeting.meet(4 * round + 3, round % 64);
                let there = front.rearm();
                meeting.meet(4 * round + 4, 0);
                front.take();
                noticed.push([told, there]);
            }
            noticed
        });
        let mut noticed = Vec::new();
        for round in 0..ROUNDS {
            meeting.meet(4 * round + 1, round / 64 % 64);
            let there = back.rearm(1) == Ok(true);
            meeting.meet(4 * round + 2, 0);
            let _ = back.requests();
            back.take();
            back.respond(round);
            meeting.meet(4 * round + 3, round / 64 % 64);
            let told = back.publish();
            meeting.meet(4 * round + 4, 0);
            noticed.push([there, told]);
        }
        let frontend = frontend.join().expect("it cannot panic");
        let pairs = frontend.into_iter().zip(noticed);
        let lost = |i: usize| pairs.clone().filter(|(front, back)| !front[i] && !back[i]).count();
        [lost(0), lost(1)]
    });
    assert_eq!(lost, [0, 0], "of {ROUNDS} wake-ups each way");
}

proptest! {
    /// Any exchange carries every request once and in order, answers each once, and
    /// nobody who waits misses what he waits for.
    #[test]
    fn exchanges_lose_and_repeat_nothing(
        start in prop_oneof![Just(0_u32), u32::MAX - 600..=u32::MAX, any::<u32>()],
        steps in prop::collection::vec((0..5_u8, 1..300_u32), 1..200),
    ) {
        let (mut front, mut back) = rings_at(start);
        let (mut sent, mut seen, mut answered, mut got) = (0_u32, 0, 0, 0);
        // How many requests the backend waits for, and whether it was told.
        let mut waits: Option<u32> = None;
        for (what, amount) in steps {
            match what {
                0 => {
                    let room = amount.min(front.free());
                    let told = push(&mut front, sent..sent + room);
                    sent += room;
                    if let Some(wanted) = waits {
                        prop_assert!(told || sent - seen < wanted, "a wake-up was lost");
                        waits = waits.filter(|_| !told);
                    }
                }
                1 => {
                    let there = back.requests().unwrap();
                    for _ in 0..amount.min(there) {
                        prop_assert_eq!(back.take(), Some(request(seen)));
                        seen += 1;
                    }
                    waits = None;
                }
                2 => {
                    for _ in 0..amount.min(seen - answered) {
                        back.respond(answered);
                        answered += 1;
                    }
                    back.publish();
                }
                3 => {
                    for _ in 0..amount {
                        let Some(response) = front.take() else { break };
                        prop_assert_eq!(response, got);
                        got += 1;
                    }
                }
                _ => {
                    let there = back.rearm(amount).unwrap();
                    prop_assert_eq!(there, sent - seen >= amount);
                    waits = (!there).then_some(amount);
                }
            }
            prop_assert!(got <= answered && answered <= seen && seen <= sent);
            prop_assert!(sent - got <= 256);
        }
    }

    /// Whatever the page says, what is taken is bounded by the ring's size.
    #[test]
    fn no_page_makes_us_take_more_than_a_ring(
        start in any::<u32>(),
        producers in prop::collection::vec(
            prop_oneof![any::<u32>(), (0..600_u32).prop_map(|by| by)], 1..20),
    ) {
        let (front, mut back) = rings_at(start);
        for producer in producers {
            front.set_word(Word::RequestProducer, start.wrapping_add(producer));
            let Ok(requests) = back.requests() else { continue };
            prop_assert!(requests <= 256);
            prop_assert_eq!(taken(&mut back).len() as u32, requests);
            let Indices { request_consumer, response_producer, .. } = back.indices();
            prop_assert!(request_consumer.wrapping_sub(response_producer) <= 256);
        }
    }
}
