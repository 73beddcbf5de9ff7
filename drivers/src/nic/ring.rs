//! A ring of descriptors, as the driver sees it: which slots are the device's, and
//! what was given to it with them.

use alloc::boxed::Box;

/// A ring of `N` slots, `N` a power of two. Moving a thing in gives it to the
/// device, with as many slots as it takes; it comes out in the same order, and
/// whole. One slot stays free, since to the device a tail equal to the head means
/// an empty ring.
#[derive(Debug)]
pub(super) struct Ring<T, const N: usize> {
    /// A thing stands in the last of its slots.
    slots: Box<[Option<T>]>,
    oldest: usize,
    used: usize,
}

impl<T, const N: usize> Ring<T, N> {
    /// An empty ring; allocates all of it.
    pub(super) fn new() -> Self {
        const { assert!(N.is_power_of_two() && N > 1) };
        Self { slots: (0..N).map(|_| None).collect(), oldest: 0, used: 0 }
    }

    /// Gives `thing` to the device with the next `count` slots. Returns the first
    /// of them, or the thing if so many are not free, or none was asked for.
    pub(super) fn push(&mut self, thing: T, count: usize) -> Result<usize, T> {
        if count == 0 || count > self.room() {
            return Err(thing);
        }
        let first = self.tail();
        self.slots[(first + count - 1) % N] = Some(thing);
        self.used += count;
        Ok(first)
    }

    /// Takes the oldest thing back, and its slots.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut thing = None;
        while self.used > 0 && thing.is_none() {
            thing = self.slots[self.oldest].take();
            self.oldest = (self.oldest + 1) % N;
            self.used -= 1;
        }
        thing
    }

    /// The oldest thing and the last of its slots.
    pub(super) fn oldest(&self) -> Option<(usize, &T)> {
        self.iter().next()
    }

    /// The slot after the newest thing: the tail register's value.
    pub(super) fn tail(&self) -> usize {
        (self.oldest + self.used) % N
    }

    /// How many slots are free to be given to the device.
    pub(super) fn room(&self) -> usize {
        N - 1 - self.used
    }

    /// Moves everything so that the oldest thing begins in slot 0, where a device
    /// begins after a reset.
    pub(super) fn rewind(&mut self) {
        self.slots.rotate_left(self.oldest);
        self.oldest = 0;
    }

    /// The things, oldest first, each with the last of its slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let slots = (0..self.used).map(|place| (self.oldest + place) % N);
        slots.filter_map(|slot| Some((slot, self.slots[slot].as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 8;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_and_whole(
            steps in prop::collection::vec((0..5u8, 0..SLOTS + 2), 0..200),
        ) {
            let mut ring = Ring::<usize, SLOTS>::new();
            // Things, with how many slots each takes.
            let mut model = VecDeque::new();
            for (thing, (step, count)) in steps.into_iter().enumerate() {
                let used: usize = model.iter().map(|(_, count)| count).sum();
                match step {
                    0..=1 => {
                        let tail = ring.tail();
                        let fits = (1..=SLOTS - 1 - used).contains(&count);
                        prop_assert_eq!(ring.push(thing, count), if fits { Ok(tail) } else { Err(thing) });
                        if fits {
                            model.push_back((thing, count));
                        }
                    }
                    2..=3 => {
                        let expected = model.pop_front().map(|(thing, _)| thing);
                        prop_assert_eq!(ring.pop(), expected);
                    }
                    _ => {
                        let before = ring.tail();
                        ring.rewind();
                        let used: usize = model.iter().map(|(_, count)| count).sum();
                        prop_assert_eq!(ring.tail(), used, "from slot 0, not {}", before);
                    }
                }
                let used: usize = model.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(ring.room(), SLOTS - 1 - used);
                let begin = ring.tail() + SLOTS - used;
                let mut ends = begin;
                let expected = model.iter().map(|(thing, count)| {
                    ends += count;
                    ((ends - 1) % SLOTS, thing)
                });
                prop_assert!(ring.iter().eq(expected));
                prop_assert!(ring.oldest() == ring.iter().next());
                prop_assert_eq!(ring.tail() == begin % SLOTS, model.is_empty(), "full looks like empty");
            }
        }
    }
}
