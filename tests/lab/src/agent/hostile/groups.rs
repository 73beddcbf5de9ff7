//! Multicast groups: more than a vif may have, and dummies that say what no packet could
//! (P-13).

use anyhow::Result;
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest, TxSlot};

use super::slots::{ADD, REMOVE};
use super::{Attack, Outcome, attack};
use crate::agent::netfront::{Front, MULTICAST_CONTROL, node};

/// As many as with Linux.
const MOST: u8 = 64;

pub(super) const ATTACKS: &[Attack] = &[attack("p13-groups", Outcome::Served, groups)];

/// One more group than there may be, and one in its place.
fn groups(front: &mut Front) -> Result<()> {
    front.store.write(&node(MULTICAST_CONTROL), b"1")?;
    let adds = (0..=MOST).flat_map(|last| change(ADD, last));
    let mut wanted = [Status::Okay, Status::Null].repeat(MOST.into());
    wanted.extend([Status::Error, Status::Null]);
    front.answered_by(&adds.collect::<Vec<_>>(), &wanted)?;
    let changes = [(REMOVE, 200), (ADD, 100), (REMOVE, 0), (ADD, 100), (ADD, 101)];
    let changes: Vec<_> = changes.into_iter().flat_map(|(kind, last)| change(kind, last)).collect();
    let first = [Status::Okay, Status::Error, Status::Okay, Status::Okay, Status::Error];
    front.answered_by(&changes, &first.map(|first| [first, Status::Null]).concat())
}

/// A request that changes the groups, and is no packet whatever else it says.
fn change(kind: u8, last: u8) -> [TxSlot; 2] {
    let flags = TxFlags::EXTRA_INFO | TxFlags::MORE_DATA | TxFlags::CSUM_BLANK;
    let dummy = TxRequest::new(u32::MAX, u16::MAX, flags, 7, u16::MAX);
    let group = [0x01, 0x00, 0x5E, 0x7F, 0, last];
    [dummy.into(), ExtraInfo::new(kind, ExtraFlags::empty(), group).into()]
}
