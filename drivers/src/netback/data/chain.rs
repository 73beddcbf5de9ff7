//! From ring slots to one transmit request: a chain of a first slot, extra-info
//! slots, and further data slots (NETBACK-SPEC P-7 to P-13).
//!
//! Parsing is a pure step over slots that were copied out of the ring. It tells
//! apart what a frontend may get wrong (the request is refused and answered with an
//! error) and what no frontend does (a [`Violation`]: the vif is given up).

use core::fmt;

use heapless::Vec;
use xen::PAGE_SIZE;
use xen::netif::{ExtraFlags, ExtraType, TxFlags, TxRequest, TxSlot};
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
    /// More requests than the ring can hold are unanswered.
    TooManyRequests,
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
            Self::TooManyRequests => write!(f, "more requests than the ring holds"),
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

/// One transmit request.
#[derive(Debug)]
pub(super) struct Chain {
    /// Its data slots; the first's size is that of its own piece.
    pub(super) slots: Vec<TxRequest, { 1 + FATAL_FURTHER }>,
    /// How many extra-info slots it has.
    pub(super) extras: u8,
    /// The packet's length in bytes.
    pub(super) len: u16,
    /// Whether it is refused.
    pub(super) refusal: Option<Refusal>,
}

impl Chain {
    /// Takes the slots of one request from `take`, which has none left at the
    /// producer index. All slots of a refused request are taken as well.
    pub(super) fn parse(mut take: impl FnMut() -> Option<TxSlot>) -> Result<Self, Violation> {
        let first = take().ok_or(Violation::EndsEarly)?.request();
        let len = first.size;
        let mut chain = Self { slots: Vec::new(), extras: 0, len, refusal: None };
        if first.flags().contains(TxFlags::EXTRA_INFO) {
            chain.take_extras(&mut take)?;
        }
        let mut more = first.flags().contains(TxFlags::MORE_DATA);
        // There is room for as many as the loop below lets in.
        let _ = chain.slots.push(first);
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

    /// Extras follow the first slot. None of their features is offered, so a
    /// request with one is refused; only a hash is information that may be ignored.
    fn take_extras(&mut self, take: &mut impl FnMut() -> Option<TxSlot>) -> Result<(), Violation> {
        loop {
            let extra = take().ok_or(Violation::EndsEarly)?.extra();
            self.extras = self.extras.saturating_add(1);
            match extra.extra_type() {
                Some(ExtraType::Hash) => {}
                Some(_) => self.refuse(Refusal::Extra),
                None => return Err(Violation::UnknownExtra(extra.kind)),
            }
            if !extra.flags().contains(ExtraFlags::MORE) {
                return Ok(());
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

fn check_page(slot: &TxRequest) -> Result<(), Violation> {
    let (offset, size) = (slot.offset, slot.size);
    if usize::from(offset) + usize::from(size) > PAGE_SIZE {
        return Err(Violation::CrossesPage { offset, size });
    }
    Ok(())
}
