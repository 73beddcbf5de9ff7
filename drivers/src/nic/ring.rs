//! A ring of descriptors, as the driver sees it: which slots are the device's, and
//! what was given to it with each.

use alloc::boxed::Box;

/// A ring of `N` slots, `N` a power of two. Moving a thing in gives it to the
/// device; it comes out in the same order. One slot stays free, since to the device
/// a tail equal to the head means an empty ring.
#[derive(Debug)]
pub(super) struct Ring<T, const N: usize> {
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

    /// Gives `thing` to the device. Returns the slot whose descriptor says so, or
    /// the thing if the ring is full.
    pub(super) fn push(&mut self, thing: T) -> Result<usize, T> {
        if self.is_full() {
            return Err(thing);
        }
        let slot = self.tail();
        self.slots[slot] = Some(thing);
        self.used += 1;
        Ok(slot)
    }

    /// Takes the oldest thing back.
    pub(super) fn pop(&mut self) -> Option<T> {
        let thing = self.slots[self.oldest].take()?;
        self.oldest = (self.oldest + 1) % N;
        self.used -= 1;
        Some(thing)
    }

    /// The slot of the oldest thing.
    pub(super) fn oldest(&self) -> Option<usize> {
        (self.used > 0).then_some(self.oldest)
    }

    /// The slot after the newest thing: the tail register's value.
    pub(super) fn tail(&self) -> usize {
        (self.oldest + self.used) % N
    }

    /// How many things are in it.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Whether there is room for no more.
    pub(super) fn is_full(&self) -> bool {
        self.used == N - 1
    }

    /// Moves everything so that the oldest thing is in slot 0, where a device
    /// begins after a reset.
    pub(super) fn rewind(&mut self) {
        self.slots.rotate_left(self.oldest);
        self.oldest = 0;
    }

    /// The things, oldest first, with their slots.
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

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in prop::collection::vec(0..5u8, 0..200)) {
            let mut ring = Ring::<u32, 8>::new();
            let mut model = VecDeque::new();
            let mut next = 0;
            for step in steps {
                match step {
                    0..=1 => {
                        let tail = ring.tail();
                        match ring.push(next) {
                            Ok(slot) => {
                                prop_assert_eq!(slot, tail);
                                model.push_back(next);
                            }
                            Err(thing) => {
                                prop_assert_eq!((thing, model.len()), (next, 7));
                            }
                        }
                        next += 1;
                    }
                    2..=3 => prop_assert_eq!(ring.pop(), model.pop_front()),
                    _ => {
                        ring.rewind();
                        prop_assert!(matches!(ring.oldest(), None | Some(0)));
                    }
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.oldest().is_some(), !model.is_empty());
                prop_assert!(ring.iter().map(|(_, thing)| thing).eq(&model));
                if let Some(oldest) = ring.oldest() {
                    prop_assert_eq!(ring.iter().next().unwrap().0, oldest);
                    prop_assert_ne!(ring.tail(), oldest, "full looks like empty");
                }
            }
        }
    }
}
