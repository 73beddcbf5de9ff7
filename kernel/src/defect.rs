//! Deliberate defects: each breaks one rule of the house, in a build with the feature
//! `defects` and while it is switched on, so that tests can show that they would see
//! it. In any other build there are none, at no cost.

macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A rule that is broken.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Defect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

defects! {
    /// A request is answered with the number of its record (O-1).
    AnswersWithTheRecordsNumber,
    /// A mapped page is answered when its last holder lets go, and stays mapped (O-2).
    AnswersBeforeUnmap,
    /// A request is answered twice (O-2).
    AnswersTwice,
    /// A release counts for two (O-3).
    ReleasesTwice,
    /// A release of a page with other holders is lost (O-3).
    LosesARelease,
    /// A clone does not count as a holder (O-4).
    ClonesWithoutHold,
    /// A port without a bound gets lent pages (O-4).
    LendsToTheUnbounded,
    /// What waits on the slow path keeps its pages (O-4).
    LendsToTheSlowPath,
    /// Headers that somebody else looks at are changed (O-5).
    WritesSharedHeaders,
    /// A page is mapped writable (O-5).
    MapsWritable,
    /// Only the Ethernet header is sent from our copy, the rest of what was looked at
    /// from the guest's page (O-6).
    SendsHeadersFromThePage,
    /// Regions are joined although there is a gap between them (O-7).
    JoinsRegionsAcrossGaps,
    /// Packets wait for a port for ever (O-8).
    NothingExpires,
    /// A source may have any number of pages in a queue (O-8).
    LendsWithoutLimit,
    /// A lender may have all frames (O-9).
    MapsWithoutShare,
    /// A NIC's packets end when they are given to it (O-10).
    EndsPacketsAtOnce,
    /// A release allocates (O-11).
    AllocatesOnRelease,
    /// A vif is gone before its pages are back (O-12).
    DetachesAtOnce,
    /// A queue's shard is opened anew while old pages are out (O-13).
    ReopensTooEarly,
    /// A frame whose page could not be unmapped is used again (O-14).
    ReusesQuarantinedFrames,
    /// A page that could not be unmapped is answered (T-12).
    AnswersQuarantinedPages,
    /// A page is copied by another domain's grant (O-15).
    CopiesAStrangersGrant,
    /// Pages of a queue that is gone are not counted (O-16).
    ForgetsAbandonedPages,
    /// A page that could not be read is answered as if it had been (P-15).
    AnswersFailuresWithOkay,
    /// Extra info is not answered (P-15).
    ForgetsExtras,
    /// A header pull ends the first page's hold, whatever is left in the page.
    PullEatsTheFirstPage,
    /// What the NIC has sent is looked for only when there is more to send.
    CompletesWithTheNextPacket,
}

#[cfg(feature = "defects")]
mod switch {
    use std::cell::Cell;
    use std::thread_local;

    use super::Defect;

    thread_local! {
        static ON: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Switches a defect on for this thread, or all off.
    pub fn set(defect: Option<Defect>) {
        ON.set(defect);
    }

    /// Whether a defect is on.
    pub fn is(defect: Defect) -> bool {
        ON.get() == Some(defect)
    }
}

#[cfg(not(feature = "defects"))]
mod switch {
    use super::Defect;

    /// Whether a defect is on: never in this build.
    pub const fn is(_: Defect) -> bool {
        false
    }
}

pub use switch::*;
