//! What slots say: bytes outside of pages, sizes that do not add up, chains without an
//! end, extra info that nobody defined, headers of which nothing is true (F-2 to F-5).

use anyhow::{Context, Result};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest, TxSlot};

use super::{Attack, Outcome, attack};
use crate::agent::netfront::devices::Access;
use crate::agent::netfront::{Front, frame};

const MORE: TxFlags = TxFlags::MORE_DATA;
const EXTRA: TxFlags = TxFlags::EXTRA_INFO;
const NONE: TxFlags = TxFlags::empty();

const SERVED: Outcome = Outcome::Served;
const CROSSES: Outcome = Outcome::Broken("crosses its page");
const LONG: Outcome = Outcome::Broken("20 slots");
const ENDLESS: Outcome = Outcome::Broken("goes on beyond");
const UNKNOWN: Outcome = Outcome::Broken("unknown type");

/// Types of extra info.
const GSO: u8 = 1;
pub(super) const ADD: u8 = 2;
pub(super) const REMOVE: u8 = 3;
const HASH: u8 = 4;
const XDP: u8 = 5;

/// Slots by their flags, offsets and sizes.
type Slots<'a> = &'a [(TxFlags, u16, u16)];

pub(super) const ATTACKS: &[Attack] = &[
    attack("f2-page-crossed", CROSSES, |front| show(front, &[(NONE, 4095, 2)])),
    attack("f2-offset-65535", CROSSES, |front| show(front, &[(NONE, 65_535, 1)])),
    attack("f2-size-65535", CROSSES, |front| show(front, &[(NONE, 0, 65_535)])),
    attack("f2-later-page-crossed", CROSSES, |front| {
        show(front, &[(MORE, 0, 1000), (NONE, 4095, 2)])
    }),
    attack("f2-derived-page-crossed", CROSSES, |front| {
        show(front, &[(MORE, 4000, 300), (NONE, 0, 200)])
    }),
    attack("f2-sizes", SERVED, sizes),
    attack("f3-19-slots", SERVED, |front| {
        front.answered(&chain(front, 18), |status| status == Status::Okay as i16)
    }),
    attack("f3-20-slots", SERVED, |front| front.refused(&chain(front, 19))),
    attack("f3-21-slots", SERVED, |front| front.refused(&chain(front, 20))),
    attack("f3-22-slots", LONG, |front| front.show(&chain(front, 21))),
    attack("f3-255-slots", LONG, |front| front.show(&chain(front, 254))),
    attack("f3-beyond-producer", ENDLESS, |front| show(front, &[(MORE, 0, 1000), (MORE, 0, 1)])),
    attack("f3-extra-beyond-producer", ENDLESS, |front| show(front, &[(EXTRA, 0, 60)])),
    attack("f3-extras-all-round", ENDLESS, |front| extras(front, &[(HASH, 255)])),
    attack("f3-extra-type-0", UNKNOWN, |front| extras(front, &[(0, 1)])),
    attack("f3-extra-type-255", UNKNOWN, |front| extras(front, &[(255, 1)])),
    attack("f3-extras-answered", SERVED, extras_answered),
    attack("f5-headers", SERVED, headers),
];

fn slot(front: &Front, (flags, offset, size): (TxFlags, u16, u16)) -> TxSlot {
    TxRequest::new(front.page(), offset, flags, 7, size).into()
}

fn slots(front: &Front, slots: Slots<'_>) -> Vec<TxSlot> {
    slots.iter().map(|part| slot(front, *part)).collect()
}

fn show(front: &Front, parts: Slots<'_>) -> Result<()> {
    front.show(&slots(front, parts))
}

/// A packet with so many slots behind the first.
fn chain(front: &Front, further: usize) -> Vec<TxSlot> {
    let mut parts = vec![(MORE, 0, 1000)];
    parts.extend(vec![(MORE, 100, 1); further]);
    parts[further].0 = NONE;
    slots(front, &parts)
}

/// Packets of sizes that cannot be.
fn sizes(front: &mut Front) -> Result<()> {
    let mut wraps = vec![(MORE, 0, 65_535)];
    wraps.extend([(MORE, 0, 4096); 16]);
    wraps.push((NONE, 0, 4096));
    let cases: [Slots<'_>; 7] = [
        &[(NONE, 0, 0)],
        &[(NONE, 0, 13)],
        &[(MORE, 0, 100), (NONE, 0, 100)],
        &[(MORE, 0, 100), (NONE, 0, 87)],
        &[(MORE, 0, 100), (NONE, 0, 101)],
        &[(MORE, 0, 0), (NONE, 0, 1)],
        &wraps,
    ];
    cases.into_iter().try_for_each(|case| front.refused(&slots(front, case)))
}

/// Extra info that can be, of a type that may be none.
fn extra(kind: u8, flags: ExtraFlags) -> TxSlot {
    ExtraInfo::new(kind, flags, [1; 6]).into()
}

/// A packet with these types of extra info, each so many times.
fn with_extras(front: &Front, kinds: &[(u8, usize)]) -> Vec<TxSlot> {
    let mut slots = vec![slot(front, (EXTRA, 0, 60))];
    for (kind, count) in kinds {
        slots.extend(vec![extra(*kind, ExtraFlags::MORE); *count]);
    }
    slots
}

/// Extra info that says that more follows, and shows no more.
fn extras(front: &Front, kinds: &[(u8, usize)]) -> Result<()> {
    front.show(&with_extras(front, kinds))
}

/// Those that mean something, twice the same, those that no packet to be sent has (P-11), and
/// segmentation of what is no segment.
fn extras_answered(front: &mut Front) -> Result<()> {
    let cases = [
        (Status::Okay, &[(HASH, 1)][..]),
        (Status::Okay, &[(ADD, 1)]),
        (Status::Okay, &[(REMOVE, 1)]),
        (Status::Okay, &[(REMOVE, 1), (ADD, 1)]),
        (Status::Error, &[(GSO, 1)]),
        (Status::Error, &[(XDP, 1)]),
        (Status::Error, &[(HASH, 2)]),
        (Status::Error, &[(GSO, 2)]),
        (Status::Error, &[(ADD, 2)]),
        (Status::Error, &[(REMOVE, 2)]),
        (Status::Error, &[(HASH, 200)]),
    ];
    for (first, kinds) in cases {
        let mut slots = with_extras(front, kinds);
        slots.pop();
        let (last, _) = kinds[kinds.len() - 1];
        slots.push(extra(last, ExtraFlags::empty()));
        let mut wanted = vec![Status::Null; slots.len()];
        wanted[0] = first;
        front.answered_by(&slots, &wanted).with_context(|| format!("extra info {kinds:?}"))?;
    }
    Ok(())
}

/// Checksums to be made where there are none, in headers that lie about their lengths.
fn headers(front: &mut Front) -> Result<()> {
    let ipv4 = |first: u8, protocol: u8| {
        let mut header = vec![0x08, 0x00, first, 0, 0, 100, 0, 0, 0, 0, 64, protocol];
        header.extend([0; 2 + 8 + 20]);
        header
    };
    let ipv6 = |next: u8, length: u8| {
        let mut header = vec![0x86, 0xDD, 0x60, 0, 0, 0, 0, length, next, 64];
        header.extend([0xFE; 32 + 40]);
        header
    };
    let contents = [
        vec![0x08, 0x06, 0, 1, 8, 0, 6, 4],
        ipv4(0x45, 1),
        ipv4(0x45, 6),
        ipv4(0x4F, 17),
        ipv4(0x41, 6),
        ipv4(0x65, 17),
        ipv6(0, 255),
        ipv6(43, 0),
        ipv6(6, 8),
        vec![0x81, 0x00, 0, 5, 0x08, 0x00, 0x45],
        vec![0x81, 0x00, 0, 5, 0x81, 0x00, 0, 5, 0x81, 0x00],
        vec![0x00, 0x10],
    ];
    let page = front.grants.page(front.domain, Access::Read)?;
    for content in contents {
        let mut bytes = frame(front.victim, front.own, 120);
        bytes[12..12 + content.len()].copy_from_slice(&content);
        page.shared().write_bytes(0, &bytes);
        for flags in [TxFlags::CSUM_BLANK, TxFlags::DATA_VALIDATED, NONE] {
            for size in [14, 15, 34, 40, 60, 120] {
                front.show(&[TxRequest::new(page.reference, 0, flags, 7, size).into()])?;
            }
            front.settle()?;
        }
    }
    Ok(())
}
