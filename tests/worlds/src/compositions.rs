//! Packets as a guest's network stack has them, and the slots that its driver makes of
//! them.
//!
//! A stack has a packet in pieces that know nothing of a ring: a head, and fragments
//! that lie anywhere in runs of pages. A driver has to cut them where pages end, and a
//! piece that crosses one by a byte costs a slot more. Here are the pieces at which
//! drivers and backends went wrong, and both sides' rules for them: what Linux's driver
//! makes of a packet, and what comes of slots that nobody thought about.

use std::iter;

use xen::PAGE_SIZE;

/// The most slots in which Linux's driver sends a packet (P-9).
pub const LINUX_SLOTS: usize = 18;
/// The most fragments that Linux's stack has of a packet.
pub const LINUX_FRAGMENTS: usize = 17;
/// The most slots that a packet of Linux's takes where it is not copied together: a
/// fragment of three pages has 4098 bytes at least, so that 64 KiB have 15 of them, and
/// the head and the last two fragments lie in two pages each.
pub const WORST: usize = 51;

/// The most bytes that a first slot can tell of (P-8).
const MOST_BYTES: usize = 65_535;
/// What the first slot must hold.
const ETHERNET_HEADER: usize = 14;
/// Where in fresh memory Linux's stack lets a packet begin: behind `NET_SKB_PAD`.
const FRESH: usize = 64;

/// By slot, where in its page the bytes begin, and how many they are.
pub type Slots = Vec<(u16, u16)>;

/// A piece of a packet, in pages that lie one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Where in the first of them it begins.
    pub offset: usize,
    /// How many bytes it has.
    pub len: usize,
}

impl Part {
    /// Begins with the last byte of a page.
    pub const fn from_last_byte(len: usize) -> Self {
        Self { offset: PAGE_SIZE - 1, len }
    }

    /// Ends with the first byte of a page.
    ///
    /// # Panics
    /// If it is longer than two pages and a byte.
    pub const fn to_first_byte(len: usize) -> Self {
        Self { offset: (2 * PAGE_SIZE + 1 - len) % PAGE_SIZE, len }
    }

    /// How many pages it touches.
    fn pages(&self) -> usize {
        (self.offset % PAGE_SIZE + self.len).div_ceil(PAGE_SIZE)
    }

    /// A slot for each page; one that is empty for an empty part.
    fn slots(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (mut offset, mut left) = (self.offset % PAGE_SIZE, self.len);
        (0..self.pages().max(1)).map(move |_| {
            let slot = (offset, left.min(PAGE_SIZE - offset));
            (offset, left) = (0, left - slot.1);
            (slot.0 as u16, slot.1 as u16)
        })
    }
}

/// A packet as a stack has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Composition {
    /// Its headers, and what else lies with them.
    pub head: Part,
    /// The rest.
    pub fragments: Vec<Part>,
}

impl Composition {
    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.parts().map(|part| part.len).sum()
    }

    /// All parts cut where their pages end, and no more thought about it.
    pub fn slots(&self) -> Slots {
        self.parts().flat_map(Part::slots).collect()
    }

    /// What Linux makes of it (`xennet_start_xmit`): a packet of too many slots, or
    /// whose first would be short of a header, is copied together; one that is too long
    /// for a first slot to tell is not sent. It has no slots without a byte.
    pub fn as_linux_sends(&self) -> Option<Slots> {
        if self.size() > MOST_BYTES {
            return None;
        }
        let first_page = PAGE_SIZE - self.head.offset % PAGE_SIZE;
        let pages = self.parts().map(Part::pages).sum::<usize>();
        if pages > LINUX_SLOTS || first_page < ETHERNET_HEADER {
            let whole = Part { offset: FRESH, len: self.size() };
            return Some(whole.slots().collect());
        }
        Some(self.slots().into_iter().filter(|(_, len)| *len > 0).collect())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        iter::once(&self.head).chain(&self.fragments)
    }
}

/// What comes of slots that a guest shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// They are a packet.
    Packet,
    /// All of them are answered with an error.
    Refused,
    /// The vif is served no more.
    Fatal,
}

impl Fate {
    /// By how many there are, and whether they add up (P-8, P-9).
    pub fn of(slots: &[(u16, u16)]) -> Self {
        let size: usize = slots.iter().map(|(_, len)| usize::from(*len)).sum();
        match slots {
            _ if slots.len() > 21 => Self::Fatal,
            _ if slots.len() > 19 || size > MOST_BYTES => Self::Refused,
            [(_, first), ..] if usize::from(*first) >= ETHERNET_HEADER => Self::Packet,
            _ => Self::Refused,
        }
    }
}

/// `size` bytes in a head and so many fragments as evenly as can be, at places all over
/// their pages. None where there is not a byte for each.
pub fn spread(size: usize, fragments: usize) -> Option<Composition> {
    let behind = size.checked_sub(ETHERNET_HEADER)?;
    let even = behind.checked_div(fragments).map_or(0, |even| even.min(size / (1 + fragments)));
    // A prime apart, so that they come by every place.
    let part = |place, len| Part { offset: (size + 1031 * place) % PAGE_SIZE, len };
    (fragments == 0 || even > 0).then(|| Composition {
        head: part(0, size - fragments * even),
        fragments: (1..=fragments).map(|place| part(place, even)).collect(),
    })
}

/// Every part crosses the end of a page by one byte, before it or behind it.
pub fn crossings() -> impl Iterator<Item = Composition> {
    let heads =
        [Part { offset: FRESH, len: 54 }, Part::to_first_byte(54), Part::from_last_byte(54)];
    let lens = [2, 3, 80, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, PAGE_SIZE + 2];
    let crossing: [fn(usize) -> Part; 2] = [Part::from_last_byte, Part::to_first_byte];
    let fragments = crossing.into_iter().flat_map(move |part| lens.map(part));
    fragments.flat_map(move |part| {
        (0..=LINUX_FRAGMENTS).flat_map(move |count| {
            heads.map(|head| Composition { head, fragments: vec![part; count] })
        })
    })
}

/// Exactly so many slots, of as many parts as there may be.
///
/// # Panics
/// If there are none, or more than in the [worst](WORST) case.
pub fn of_slots(slots: usize) -> Composition {
    assert!((1..=WORST).contains(&slots), "{slots} slots");
    let fragments = LINUX_FRAGMENTS.min(slots - 1);
    // Every part crosses one page's end before any of the fragments crosses a second.
    let ends = slots - 1 - fragments;
    let once = ends.min(1 + fragments);
    let twice = ends - once;
    let fragment = |place| match () {
        () if place <= twice => Part::from_last_byte(PAGE_SIZE + 2),
        () if place < once => Part::from_last_byte(60),
        () => Part { offset: 0, len: 60 },
    };
    Composition {
        head: if once > 0 { Part::to_first_byte(54) } else { Part { offset: FRESH, len: 54 } },
        fragments: (1..=fragments).map(fragment).collect(),
    }
}

/// Fragments of one byte, up to as many as there may be slots: with every total up to
/// beyond what is copied whole, and before the rest of a packet, so that the end of
/// what is copied of its headers falls on each of them (S-13, S-14, T-9).
pub fn crumbs() -> impl Iterator<Item = Composition> {
    let crumb = |place| Part { offset: place % 2 * (PAGE_SIZE - 1), len: 1 };
    let composition = move |head, crumbs, rest: Option<usize>| Composition {
        head: Part { offset: PAGE_SIZE - head, len: head },
        fragments: (0..crumbs).map(crumb).chain(rest.map(|len| Part { offset: 5, len })).collect(),
    };
    let totals = (0..=LINUX_SLOTS).flat_map(move |crumbs| {
        (ETHERNET_HEADER + crumbs..=200).map(move |total| composition(total - crumbs, crumbs, None))
    });
    let before_the_rest = (0..LINUX_SLOTS).flat_map(move |crumbs| {
        let heads = [14].into_iter().chain(108..=130);
        heads.map(move |head| composition(head, crumbs, Some(900)))
    });
    totals.chain(before_the_rest)
}

/// Parts without a byte, at every place behind the first, and at all of them (S-15).
pub fn hollow(base: &Composition) -> impl Iterator<Item = Composition> + use<> {
    let base = base.clone();
    let empty = |place: usize| Part { offset: [0, 3, PAGE_SIZE - 1][place % 3], len: 0 };
    let everywhere = Composition {
        head: base.head,
        fragments: iter::once(empty(0))
            .chain(base.fragments.iter().enumerate().flat_map(|(n, part)| [*part, empty(1 + n)]))
            .collect(),
    };
    let places = (0..=base.fragments.len()).flat_map(move |place| {
        let base = base.clone();
        [1, 3].into_iter().map(move |count| {
            let mut hollow = base.clone();
            hollow.fragments.splice(place..place, (0..count).map(|n| empty(place + n)));
            hollow
        })
    });
    places.chain([everywhere])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(head: Part, fragment: Part) -> Composition {
        Composition { head, fragments: vec![fragment] }
    }

    #[test]
    fn parts_are_cut_where_pages_end() {
        let head = Part { offset: PAGE_SIZE + 10, len: 20 };
        let slots = |part| two(head, part).slots().split_off(1);
        assert_eq!(slots(Part::from_last_byte(2)), [(4095, 1), (0, 1)]);
        assert_eq!(slots(Part::from_last_byte(4098)), [(4095, 1), (0, 4096), (0, 1)]);
        assert_eq!(slots(Part::to_first_byte(81)), [(4016, 80), (0, 1)]);
        assert_eq!(slots(Part::to_first_byte(4097)), [(0, 4096), (0, 1)]);
        assert_eq!(slots(Part { offset: 100, len: 3996 }), [(100, 3996)]);
        assert_eq!(slots(Part { offset: 4095, len: 0 }), [(4095, 0)]);
        assert_eq!(two(head, head).slots(), [(10, 20), (10, 20)]);
    }

    #[test]
    fn every_number_of_slots_up_to_the_worst_is_made() {
        for slots in 1..=WORST {
            let composition = of_slots(slots);
            assert_eq!(composition.slots().len(), slots);
            assert!(composition.fragments.len() <= LINUX_FRAGMENTS);
            assert!(composition.size() <= MOST_BYTES, "one that Linux has");
        }
    }

    #[test]
    fn linux_copies_together_what_takes_too_many_slots() {
        let whole = |len| Some(Part { offset: FRESH, len }.slots().collect::<Slots>());
        let sent = |slots| of_slots(slots).as_linux_sends();
        assert_eq!(sent(18), Some(of_slots(18).slots()));
        assert_eq!(sent(19), whole(of_slots(19).size()));
        assert_eq!(sent(WORST).map(|slots| slots.len()), Some(16));
        // Too little of the header in the first page.
        let rest = Part { offset: 0, len: 100 };
        let head = |offset| two(Part { offset, len: 54 }, rest).as_linux_sends();
        assert_eq!(head(4082), Some(vec![(4082, 14), (0, 40), (0, 100)]));
        assert_eq!(head(4083), whole(154));
        // Without its empty parts.
        let empty = Part { offset: 7, len: 0 };
        assert_eq!(two(rest, empty).as_linux_sends(), Some(vec![(0, 100)]));
        // More than a first slot can tell.
        let long = Part::from_last_byte(PAGE_SIZE + 2);
        let too_long = Composition { head: rest, fragments: vec![long; LINUX_FRAGMENTS] };
        assert_eq!((too_long.slots().len(), too_long.as_linux_sends()), (1 + WORST, None));
    }

    #[test]
    fn families_have_what_they_are_for() {
        let spread = |size, fragments| {
            spread(size, fragments).map(|made| (made.size(), made.fragments.len()))
        };
        assert_eq!(spread(14, 0), Some((14, 0)));
        assert_eq!(spread(30, 17), None);
        assert_eq!(spread(31, 17), Some((31, 17)));
        assert_eq!(spread(65_531, 17), Some((65_531, 17)));
        let crossed = |part: &Part| part.pages() > 1;
        assert!(crossings().all(|made| made.fragments.iter().all(crossed)));
        assert!(crumbs().any(|made| made.slots().len() == 19));
        let base = of_slots(5);
        for made in hollow(&base) {
            assert_eq!(made.size(), base.size());
            assert!(made.slots().iter().any(|(_, len)| *len == 0));
        }
        assert_eq!(hollow(&base).count(), 2 * 5 + 1);
    }
}
