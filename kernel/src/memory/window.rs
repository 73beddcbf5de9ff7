//! Frame numbers in holes at which pages of others can be put.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use xen::{ForeignFrame, PAGE_SIZE};

/// Of how many frames one stays for a page that is mapped for long: a ring.
const RESERVE: usize = 8;

/// The free foreign frames.
#[derive(Debug)]
pub struct Window {
    /// In the order of their numbers; `None` where a page is.
    frames: Box<[Option<ForeignFrame>]>,
    /// The number of the first.
    first: u64,
    free: usize,
    quarantined: usize,
    /// Where the next run is looked for first.
    next: usize,
}

impl Window {
    /// Takes a range of addresses as frames.
    ///
    /// # Safety
    /// The range is a hole, page-aligned, mapped 1:1 for good, and nobody else
    /// has frames of it.
    pub unsafe fn new(range: Range<u64>) -> Self {
        let page = PAGE_SIZE as u64;
        let numbers = range.start / page..range.end / page;
        // SAFETY: the caller's contract; each number is taken once.
        Self::of(numbers.map(|number| unsafe { ForeignFrame::new(number) }).collect())
    }

    /// A window of given frames, whose numbers follow each other.
    pub fn of(frames: Vec<ForeignFrame>) -> Self {
        let first = frames.first().map_or(0, ForeignFrame::number);
        let free = frames.len();
        let frames = frames.into_iter().map(Some).collect();
        Self { frames, first, free, quarantined: 0, next: 0 }
    }

    /// Cuts the window into so many of equal size, but for the last, which has the rest.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let Self { frames, first, .. } = self;
        let mut frames = frames.into_vec();
        let len = frames.len() / parts.max(1);
        let cut = |part: usize| {
            let frames = frames.split_off(part * len).into_boxed_slice();
            let free = frames.iter().flatten().count();
            Self { frames, first: first + (part * len) as u64, free, quarantined: 0, next: 0 }
        };
        let mut windows: Vec<_> = (0..parts).rev().map(cut).collect();
        windows.reverse();
        windows
    }

    /// Takes a frame for a page that stays for long; `None` when there is none left.
    pub fn take(&mut self) -> Option<ForeignFrame> {
        // From the end, so that runs are found in one piece.
        let frame = self.frames.iter_mut().rev().find_map(Option::take)?;
        self.free -= 1;
        Some(frame)
    }

    /// Takes `len` frames whose numbers follow each other, for pages that come and
    /// go; `None` where there is no such run.
    pub fn take_run(&mut self, len: usize) -> Option<impl Iterator<Item = ForeignFrame>> {
        let start = if len <= self.room() { self.find_run(len)? } else { return None };
        self.next = start + len;
        let Self { frames, free, .. } = self;
        let run = frames[start..start + len].iter_mut().filter_map(Option::take);
        Some(run.inspect(|_| *free -= 1))
    }

    /// How many frames are left for pages that come and go.
    pub fn room(&self) -> usize {
        self.free.saturating_sub(self.frames.len() / RESERVE)
    }

    /// Gives a frame back, once Xen confirmed that nothing is mapped there (O-14).
    pub fn give(&mut self, frame: ForeignFrame) {
        let place = frame.number().wrapping_sub(self.first) as usize;
        // Frames come from `of` alone.
        if let Some(place) = self.frames.get_mut(place) {
            *place = Some(frame);
            self.free += 1;
        }
    }

    /// Keeps a frame out of use for ever: something may still be mapped there.
    pub fn quarantine(&mut self, frame: ForeignFrame) {
        self.quarantined += 1;
        log::error!("frame {:#x} cannot be unmapped and is out of use", frame.number());
    }

    /// How many frames are out of use.
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Where a run of `len` free frames begins, looking round once.
    fn find_run(&self, len: usize) -> Option<usize> {
        let find = |range: Range<usize>| {
            let mut start = range.start;
            while start + len <= range.end {
                match self.frames[start..start + len].iter().rposition(Option::is_none) {
                    None => return Some(start),
                    Some(taken) => start += taken + 1,
                }
            }
            None
        };
        let end = self.frames.len();
        let wrapped = (self.next + len).min(end);
        find(self.next.min(end)..end).or_else(|| find(0..wrapped))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A window of `count` frames, the first of number 100.
    pub(crate) fn window(count: u64) -> Window {
        // SAFETY: tests map nothing, and each number is taken once.
        Window::of((100..100 + count).map(|number| unsafe { ForeignFrame::new(number) }).collect())
    }

    fn numbers(run: impl Iterator<Item = ForeignFrame>) -> Vec<u64> {
        run.map(|frame| frame.number()).collect()
    }

    #[test]
    fn a_window_is_cut_in_parts() {
        let mut whole = window(16);
        whole.take().expect("a frame");
        let mut parts = whole.split(3);
        assert_eq!(parts.iter().map(Window::free).collect::<Vec<_>>(), [5, 5, 5]);
        let runs: Vec<_> =
            parts.iter_mut().map(|part| part.take_run(4).unwrap().collect()).collect();
        let first = |run: &Vec<ForeignFrame>| run[0].number();
        assert_eq!(runs.iter().map(first).collect::<Vec<_>>(), [100, 105, 110]);
        for (part, run) in parts.iter_mut().zip(runs) {
            run.into_iter().for_each(|frame| part.give(frame));
            assert_eq!(part.free(), 5);
        }
    }

    #[test]
    fn some_frames_stay_for_rings() {
        let mut window = window(16);
        assert_eq!(window.room(), 14);
        assert!(window.take_run(15).is_none());
        let run: Vec<_> = window.take_run(14).expect("room").collect();
        assert!(window.take_run(1).is_none());
        let rings = [window.take().expect("a frame"), window.take().expect("a frame")];
        assert_eq!(rings.each_ref().map(ForeignFrame::number), [115, 114]);
        assert!(window.take().is_none());
        rings.into_iter().chain(run).for_each(|frame| window.give(frame));
        assert_eq!((window.free(), window.room()), (16, 14));
    }

    #[test]
    fn a_quarantined_frame_is_never_taken_again() {
        let mut window = window(2);
        let frame = window.take().expect("a frame");
        window.quarantine(frame);
        assert_eq!((window.free(), window.quarantined()), (1, 1));
        assert_eq!(window.take().map(|frame| frame.number()), Some(100));
        assert!(window.take().is_none());
    }

    #[test]
    fn a_gap_too_small_is_passed_over() {
        let mut window = window(10);
        let mut taken: Vec<_> = window.take_run(8).expect("room").collect();
        // 100, 101 and 103 to 106 come back.
        for place in [6, 5, 4, 3, 1, 0] {
            window.give(taken.remove(place));
        }
        assert_eq!(numbers(window.take_run(4).expect("a run")), [103, 104, 105, 106]);
        assert_eq!(numbers(window.take_run(2).expect("a run")), [108, 109]);
        assert_eq!(numbers(window.take_run(1).expect("a run")), [100]);
    }

    proptest! {
        /// Runs have adjacent frames that nobody else has, and are found where there
        /// are any.
        #[test]
        fn runs(steps in prop::collection::vec((1..6usize, any::<bool>()), 0..60)) {
            let mut window = window(32);
            let mut held = Vec::<Vec<ForeignFrame>>::new();
            for (number, give) in steps {
                if give {
                    if !held.is_empty() {
                        let run = held.remove(number % held.len());
                        run.into_iter().for_each(|frame| window.give(frame));
                    }
                } else if let Some(run) = window.take_run(number).map(Iterator::collect::<Vec<_>>) {
                    prop_assert_eq!(run.len(), number);
                    prop_assert!(run.is_sorted_by(|a, b| a.number() + 1 == b.number()));
                    held.push(run);
                } else {
                    let taken: Vec<_> = held.iter().flatten().map(ForeignFrame::number).collect();
                    let free: Vec<_> = (100..132).map(|number| !taken.contains(&number)).collect();
                    let exists = free.windows(number).any(|run| run.iter().all(|free| *free));
                    prop_assert!(!exists || window.room() < number);
                }
                let taken: usize = held.iter().map(Vec::len).sum();
                prop_assert_eq!(window.free(), 32 - taken);
            }
        }
    }
}
