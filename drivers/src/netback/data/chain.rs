//! From ring slots to one transmit request: a chain of a first slot, extra-info
//! slots, and further data slots (NETBACK-SPEC P-7 to P-13).
//!
//! Parsing is a pure step over slots that were copied out of the ring. It tells
//! apart what a frontend may get wrong (the request is refused and answered with an
//! error) and what no frontend does (a [`Violation`]: the vif is given up).

use core::fmt;

use heapless::Vec;
use kernel::packet::{MacAddress, Version};
use xen::PAGE_SIZE;
use xen::netif::{
    ExtraFlags, ExtraInfo, ExtraType, GsoType, Segmentation, TxFlags, TxRequest, TxSlot,
};
use xen::ring::RingError;

/// Slots after the first that a request may have (P-9).
const MAX_FURTHER: usize = 18;
/// Slots after the first beyond which a frontend is broken; up to here its request
/// is merely dropped (P-9, Linux's `fatal_skb_slots`).
const FATAL_FURTHER: usize = 20;
/// Bytes of an Ethernet header: what the first slot must hold at least.
const ETHERNET_HEADER: u16 = 14;

/// The most data slots of a request that is not refused.
pub(super) const MAX_SLOTS: usize = 1 + MAX_FURTHER;

/// How a frontend broke the protocol beyond repair (P-16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The ring's indices are impossible.
    Ring(RingError),
    /// A slot's bytes leave its page.
    CrossesPage {
        /// Where in the page they begin.
        offset: u16,
        /// How many they are.
        size: u16,
    },
    /// A request goes on beyond what was produced.
    EndsEarly,
    /// A request has too many slots.
    TooManySlots,
    /// An extra-info slot of a type that does not exist.
    UnknownExtra(u8),
    /// Segmentation of a kind that does not exist, or into segments without a byte.
    Segmentation {
        /// The kind.
        kind: u8,
        /// How long the segments are to be.
        size: u16,
    },
    /// More requests than the ring can hold are unanswered.
    TooManyRequests,
    /// A page lent could not be unmapped, so that its request cannot be answered. Not
    /// the frontend's doing, but the end of the vif all the same.
    Quarantined,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => write!(f, "{error}"),
            Self::CrossesPage { offset, size } => {
                write!(f, "a slot of {size} bytes at offset {offset} crosses its page")
            }
            Self::EndsEarly => write!(f, "a request goes on beyond the ring's producer index"),
            Self::TooManySlots => write!(f, "a request of more than {FATAL_FURTHER} slots"),
            Self::UnknownExtra(kind) => write!(f, "extra info of unknown type {kind}"),
            Self::Segmentation { kind, size } => {
                write!(f, "segmentation of unknown type {kind} into segments of {size} bytes")
            }
            Self::TooManyRequests => write!(f, "more requests than the ring holds"),
            Self::Quarantined => write!(f, "a page lent cannot be unmapped"),
        }
    }
}

/// Why a request is refused; it is answered with an error and harms nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// More slots than advertised.
    TooManySlots,
    /// The slots hold more bytes than the packet, or the first fewer than an
    /// Ethernet header.
    Size,
    /// An extra of a feature that was not offered, or one that came twice.
    Extra,
}

/// A change of the multicast groups that a guest wants frames of (P-13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GroupChange {
    /// Frames of this one as well.
    Add(MacAddress),
    /// No more of this one.
    Remove(MacAddress),
}

/// One transmit request.
#[derive(Debug)]
pub(super) struct Chain {
    /// Its data slots; the first's size is that of its own piece.
    pub(super) slots: Vec<TxRequest, { 1 + FATAL_FURTHER }>,
    /// How many extra-info slots it has.
    pub(super) extras: u8,
    /// The packet's length in bytes.
    pub(super) len: u16,
    /// The segmentation that is left to be done: over which version of IP, into how many
    /// bytes of payload each.
    pub(super) gso: Option<(Version, u16)>,
    /// What it changes of the guest's groups. Then it has one slot, and that means nothing.
    pub(super) change: Option<GroupChange>,
    /// Whether it is refused.
    pub(super) refusal: Option<Refusal>,
}

impl Chain {
    /// Takes the slots of one request from `take`, which has none left at the
    /// producer index. All slots of a refused request are taken as well.
    pub(super) fn parse(mut take: impl FnMut() -> Option<TxSlot>) -> Result<Self, Violation> {
        let first = take().ok_or(Violation::EndsEarly)?.request();
        let len = first.size;
        let mut chain =
            Self { slots: Vec::new(), extras: 0, len, gso: None, change: None, refusal: None };
        if first.flags().contains(TxFlags::EXTRA_INFO) {
            chain.take_extras(&mut take)?;
        }
        let mut more = first.flags().contains(TxFlags::MORE_DATA);
        // There is room for as many as the loop below lets in.
        let _ = chain.slots.push(first);
        if chain.change.is_some() {
            // No packet, whatever the slot says of one: with Linux, a slot that follows is
            // the next request.
            return Ok(chain);
        }
        let mut rest = 0u32;
        while more {
            if chain.slots.len() > FATAL_FURTHER {
                return Err(Violation::TooManySlots);
            }
            let slot = take().ok_or(Violation::EndsEarly)?.request();
            check_page(&slot)?;
            rest += u32::from(slot.size);
            more = slot.flags().contains(TxFlags::MORE_DATA);
            let _ = chain.slots.push(slot);
        }
        if chain.slots.len() > MAX_SLOTS {
            chain.refuse(Refusal::TooManySlots);
        }
        match u16::try_from(rest).ok().and_then(|rest| len.checked_sub(rest)) {
            Some(own) => {
                let first = &mut chain.slots[0];
                first.size = own;
                check_page(first)?;
                if own < ETHERNET_HEADER {
                    chain.refuse(Refusal::Size);
                }
            }
            None => chain.refuse(Refusal::Size),
        }
        Ok(chain)
    }

    /// Extras follow the first slot. One of a feature that is not offered has the request
    /// refused, and so have two of a type (P-11); a hash is information that may be ignored.
    /// Where there are changes of both kinds, the addition is the one that is made, as with
    /// Linux.
    fn take_extras(&mut self, take: &mut impl FnMut() -> Option<TxSlot>) -> Result<(), Violation> {
        let mut hashed = false;
        let (mut added, mut removed) = (None, None);
        loop {
            let extra = take().ok_or(Violation::EndsEarly)?.extra();
            self.extras = self.extras.saturating_add(1);
            match extra.extra_type() {
                Some(ExtraType::Hash) if !hashed => hashed = true,
                Some(ExtraType::Gso) if self.gso.is_none() => self.gso = Some(gso(&extra)?),
                Some(ExtraType::McastAdd) if added.is_none() => {
                    added = Some(GroupChange::Add(MacAddress::new(extra.data)));
                }
                Some(ExtraType::McastDel) if removed.is_none() => {
                    removed = Some(GroupChange::Remove(MacAddress::new(extra.data)));
                }
                Some(_) => self.refuse(Refusal::Extra),
                None => return Err(Violation::UnknownExtra(extra.kind)),
            }
            if !extra.flags().contains(ExtraFlags::MORE) {
                self.change = added.or(removed);
                return Ok(());
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

/// What an extra of the segmentation type says (P-12).
fn gso(extra: &ExtraInfo) -> Result<(Version, u16), Violation> {
    let Segmentation { size, kind } = extra.segmentation();
    match (GsoType::new(kind), size) {
        (None, _) | (_, 0) => Err(Violation::Segmentation { kind, size }),
        (Some(GsoType::TcpV4), size) => Ok((Version::V4, size)),
        (Some(GsoType::TcpV6), size) => Ok((Version::V6, size)),
    }
}

fn check_page(slot: &TxRequest) -> Result<(), Violation> {
    let (offset, size) = (slot.offset, slot.size);
    if usize::from(offset) + usize::from(size) > PAGE_SIZE {
        return Err(Violation::CrossesPage { offset, size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use proptest::prelude::*;

    const MORE: TxFlags = TxFlags::MORE_DATA;
    const LAST: TxFlags = TxFlags::empty();

    fn slot(flags: TxFlags, offset: u16, size: u16) -> TxSlot {
        TxRequest::new(8, offset, flags, 3, size).into()
    }

    fn extra(kind: u8, flags: ExtraFlags) -> TxSlot {
        ExtraInfo::new(kind, flags, [0; 6]).into()
    }

    /// What becomes of the slots, and how many of them were taken.
    fn parse(slots: &[TxSlot]) -> (Result<Chain, Violation>, usize) {
        let mut left = slots.iter().copied();
        let chain = Chain::parse(|| left.next());
        (chain, slots.len() - left.len())
    }

    /// The refusal of a request of these slots, all of which belong to it.
    fn refusal(slots: &[TxSlot]) -> Option<Refusal> {
        let (chain, taken) = parse(slots);
        assert_eq!(taken, slots.len(), "a refused request's slots are taken as well");
        chain.expect("no violation").refusal
    }

    fn violation(slots: &[TxSlot]) -> Option<Violation> {
        parse(slots).0.err()
    }

    #[test]
    fn the_first_slot_says_how_long_the_packet_is() {
        let slots = [slot(MORE, 5, 1000), slot(MORE, 0, 300), slot(LAST, 4, 100)];
        let (chain, taken) = parse(&slots);
        let chain = chain.expect("a request");
        assert_eq!((chain.len, chain.extras, chain.refusal, taken), (1000, 0, None, 3));
        let sizes: vec::Vec<_> = chain.slots.iter().map(|slot| slot.size).collect();
        assert_eq!(sizes, [600, 300, 100], "P-8");
        let (chain, taken) = parse(&[slot(LAST, 0, 60), slot(LAST, 0, 70)]);
        assert_eq!((chain.expect("a request").len, taken), (60, 1), "one at a time");
    }

    #[test]
    fn extra_info_stands_behind_the_first_slot() {
        let first = slot(MORE | TxFlags::EXTRA_INFO, 0, 100);
        let more = ExtraFlags::MORE;
        let (chain, taken) = parse(&[first, extra(4, ExtraFlags::empty()), slot(LAST, 0, 50)]);
        let chain = chain.expect("a request");
        assert_eq!((chain.extras, chain.slots.len(), chain.refusal, taken), (1, 2, None, 3));
        let twice = [first, extra(4, more), extra(4, ExtraFlags::empty()), slot(LAST, 0, 50)];
        assert_eq!(refusal(&twice), Some(Refusal::Extra), "P-11");
        // Later slots' flags mean nothing but that there are more (P-7).
        let odd = slot(TxFlags::all() - MORE, 0, 50);
        assert_eq!(refusal(&[slot(MORE, 0, 100), odd]), None);
        let info = extra(5, ExtraFlags::empty());
        assert_eq!(refusal(&[first, info, slot(LAST, 0, 50)]), Some(Refusal::Extra));
        for kind in [0, 6, 255] {
            let info = extra(kind, ExtraFlags::empty());
            assert_eq!(violation(&[first, info]), Some(Violation::UnknownExtra(kind)), "P-11");
        }
    }

    /// P-13: a request that changes groups is one slot and its extras, whatever they say
    /// beside (F-3).
    #[test]
    fn a_change_of_groups_is_no_packet() {
        let group = |kind, flags, last| ExtraInfo::new(kind, flags, [1, 0, 0x5e, 0, 0, last]);
        let address = |last| MacAddress::new([1, 0, 0x5e, 0, 0, last]);
        let (more, end) = (ExtraFlags::MORE, ExtraFlags::empty());
        let (add, remove) = (GroupChange::Add(address(7)), GroupChange::Remove(address(9)));
        let cases: [(&[ExtraInfo], _); 6] = [
            (&[group(2, end, 7)], Ok(add)),
            (&[group(3, end, 9)], Ok(remove)),
            (&[group(4, more, 0), group(2, end, 7)], Ok(add)),
            (&[group(3, more, 9), group(2, end, 7)], Ok(add)),
            (&[group(2, more, 7), group(2, end, 7)], Err(Refusal::Extra)),
            (&[group(3, more, 9), group(5, end, 7)], Err(Refusal::Extra)),
        ];
        for (extras, expected) in cases {
            // Even what would break off the vif or is too short for a packet.
            for (flags, offset, size) in [(LAST, 0, 0), (LAST, 4095, 60_000), (MORE, 0, 100)] {
                let mut slots = vec![slot(flags | TxFlags::EXTRA_INFO, offset, size)];
                slots.extend(extras.iter().map(|extra| TxSlot::from(*extra)));
                let own = slots.len();
                slots.push(slot(LAST, 0, 60));
                let (chain, taken) = parse(&slots);
                let chain = chain.expect("no violation");
                assert_eq!((taken, usize::from(chain.extras) + 1), (own, own));
                let found = chain.refusal.map_or(chain.change.ok_or(Refusal::Size), Err);
                assert_eq!(found, expected, "{extras:?}");
            }
        }
        let unfinished = [slot(TxFlags::EXTRA_INFO, 0, 0), group(2, more, 7).into()];
        assert_eq!(violation(&unfinished), Some(Violation::EndsEarly));
    }

    #[test]
    fn segmentation_has_a_kind_and_a_size() {
        let first = slot(TxFlags::EXTRA_INFO, 0, 100);
        let gso = |kind, size| TxSlot::from(ExtraInfo::gso(kind, size));
        let asked = |kind, size| parse(&[first, gso(kind, size)]).0.map(|chain| chain.gso);
        assert_eq!(asked(1, 1448), Ok(Some((Version::V4, 1448))), "P-12");
        assert_eq!(asked(2, 65_535), Ok(Some((Version::V6, 65_535))));
        for (kind, size) in [(0, 1448), (3, 1448), (255, 1448), (1, 0), (2, 0)] {
            assert_eq!(asked(kind, size), Err(Violation::Segmentation { kind, size }));
        }
        let mut more = ExtraInfo::gso(1, 1448);
        more.set_more();
        let both = TxSlot::from(more);
        assert_eq!(refusal(&[first, both, gso(1, 1448)]), Some(Refusal::Extra), "P-11");
        assert_eq!(refusal(&[first, both, extra(4, ExtraFlags::empty())]), None);
    }

    #[test]
    fn a_chain_as_long_as_the_ring_is_counted() {
        let mut slots = vec![slot(TxFlags::EXTRA_INFO, 0, 100)];
        slots.resize(255, extra(4, ExtraFlags::MORE));
        slots.push(extra(4, ExtraFlags::empty()));
        assert_eq!(parse(&slots).0.expect("a request").extras, 255);
    }

    #[test]
    fn limits_on_slots() {
        let slots = |further| {
            let mut slots = vec![slot(MORE, 0, 1000); further];
            slots.iter_mut().skip(1).for_each(|later| *later = slot(MORE, 0, 1));
            slots.push(slot(LAST, 0, 1));
            slots
        };
        assert_eq!(refusal(&slots(18)), None, "P-9");
        assert_eq!(refusal(&slots(19)), Some(Refusal::TooManySlots));
        assert_eq!(refusal(&slots(20)), Some(Refusal::TooManySlots));
        assert_eq!(violation(&slots(21)), Some(Violation::TooManySlots));
        assert_eq!(violation(&slots(21)[..21]), Some(Violation::TooManySlots), "told early");
    }

    #[test]
    fn sizes_and_pages() {
        let crosses = |offset, size| Some(Violation::CrossesPage { offset, size });
        assert_eq!(refusal(&[slot(LAST, 4082, 14)]), None);
        assert_eq!(violation(&[slot(LAST, 4083, 14)]), crosses(4083, 14));
        assert_eq!(violation(&[slot(LAST, 65_535, 65_535)]), crosses(65_535, 65_535));
        assert_eq!(refusal(&[slot(LAST, 0, 13)]), Some(Refusal::Size));
        assert_eq!(violation(&[slot(MORE, 4000, 300), slot(LAST, 0, 203)]), crosses(4000, 97));
        assert_eq!(refusal(&[slot(MORE, 4000, 300), slot(LAST, 0, 204)]), None);
        assert_eq!(violation(&[slot(MORE, 0, 300), slot(LAST, 4096, 1)]), crosses(4096, 1));
        assert_eq!(refusal(&[slot(MORE, 0, 300), slot(LAST, 4096, 0)]), None, "no byte");
        for rest in [287, 300, 301, 4096] {
            let slots = [slot(MORE, 0, 300), slot(LAST, 0, rest)];
            assert_eq!(refusal(&slots), Some(Refusal::Size), "{rest}");
        }
        // A sum that would wrap round to a size that fits.
        let mut wraps = vec![slot(MORE, 0, 100)];
        wraps.extend([slot(MORE, 0, 4096); 15]);
        wraps.extend([slot(MORE, 0, 4095), slot(LAST, 0, 50)]);
        assert_eq!(refusal(&wraps), Some(Refusal::Size));
    }

    proptest! {
        /// Whatever is in the ring: nothing is taken twice or left out, and what is not
        /// refused adds up.
        #[test]
        fn any_slots(
            raw in prop::collection::vec((any::<u32>(), 0..5000u16, 0..16u16, 0..5000u16), 0..40),
        ) {
            let slots: vec::Vec<_> = raw
                .into_iter()
                .map(|(gref, offset, flags, size)| {
                    let flags = TxFlags::from_bits_truncate(flags);
                    TxSlot::from(TxRequest::new(gref, offset, flags, 1, size))
                })
                .collect();
            let (chain, taken) = parse(&slots);
            if let Ok(chain) = chain {
                prop_assert_eq!(taken, chain.slots.len() + usize::from(chain.extras));
                if chain.refusal.is_none() && chain.change.is_none() {
                    let sum: usize = chain.slots.iter().map(|slot| usize::from(slot.size)).sum();
                    prop_assert_eq!(sum, usize::from(chain.len));
                    prop_assert!(chain.slots[0].size >= ETHERNET_HEADER);
                    prop_assert!(chain.slots.len() <= MAX_SLOTS);
                    for slot in &chain.slots {
                        prop_assert!(usize::from(slot.offset) + usize::from(slot.size) <= PAGE_SIZE);
                    }
                }
            }
        }
    }
}
