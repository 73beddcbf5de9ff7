//! Deliberate defects: the explorer sees each that can show in a small world, by the
//! shortest history that there is.

use std::panic::{self, AssertUnwindSafe};

use kernel::defect::{self, Defect};
use kernel::switch::Holding;
use worlds::explorer::explore;
use worlds::small::{End, Plot, SmallWorld, To, Who};
use xen::fake::Kind;

/// How a defect breaks a rule in a world, if it does.
fn violation(defect: Defect, plot: &Plot) -> Option<String> {
    let explored = panic::catch_unwind(AssertUnwindSafe(|| {
        explore(|| {
            defect::set(Some(defect));
            SmallWorld::new(plot)
        })
    }));
    defect::set(None);
    explored.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn each_that_can_show_is_seen() {
    let calm = Plot::default();
    let private = Plot { holding: Holding::Private, ..Plot::default() };
    let packets = vec![(To::Stranger, vec![100, 500]), (To::All, vec![300, 400])];
    let pulled = Plot { packets, ..Plot::default() };
    let edited = Plot { edits: 1, ..Plot::default() };
    let refused = Plot { refusals: (vec![Kind::Unmap], 1), ..Plot::default() };
    let twice = vec![(To::B, vec![500]), (To::B, vec![600])];
    let ends = vec![(Who::A, End::Close)];
    let closed = Plot { ends, returns: true, ..Plot::default() };
    let reused = Plot { packets: twice, ..closed.clone() };
    let worlds = [
        (Defect::AnswersWithTheRecordsNumber, &calm),
        (Defect::AnswersBeforeUnmap, &calm),
        (Defect::AnswersTwice, &calm),
        (Defect::ReleasesTwice, &calm),
        (Defect::LosesARelease, &calm),
        (Defect::ClonesWithoutHold, &calm),
        (Defect::LendsToTheUnbounded, &private),
        (Defect::MapsWritable, &calm),
        (Defect::SendsHeadersFromThePage, &edited),
        (Defect::JoinsRegionsAcrossGaps, &calm),
        (Defect::NothingExpires, &calm),
        (Defect::DetachesAtOnce, &reused),
        (Defect::ReopensTooEarly, &closed),
        (Defect::ReusesQuarantinedFrames, &refused),
        (Defect::AnswersQuarantinedPages, &refused),
        (Defect::CopiesAStrangersGrant, &calm),
        (Defect::ForgetsAbandonedPages, &reused),
        (Defect::ForgetsExtras, &calm),
        (Defect::PullEatsTheFirstPage, &pulled),
        (Defect::CompletesWithTheNextPacket, &calm),
    ];
    // What they say when they see one is expected.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let seen = worlds.map(|(defect, plot)| (defect, violation(defect, plot)));
    panic::set_hook(hook);
    for (defect, violation) in &seen {
        println!("{defect:?}: {}", violation.as_deref().unwrap_or("not seen"));
    }
    let missed: Vec<_> = seen.iter().filter(|seen| seen.1.is_none()).collect();
    assert!(missed.is_empty(), "not seen: {missed:?}");
}
