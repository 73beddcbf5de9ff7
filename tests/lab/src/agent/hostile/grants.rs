//! References that are none, are others', are taken back or are all the same, and
//! requests that nobody reads the answers to (F-6, F-7).

use anyhow::{Result, bail};
use xen::netif::{RxRequest, Status, TxFlags, TxRequest, TxSlot};

use super::{Attack, Outcome, attack};
use crate::agent::netfront::devices::Access;
use crate::agent::netfront::{Front, frame};

const SERVED: Outcome = Outcome::Served;

const MORE: TxFlags = TxFlags::MORE_DATA;
const NONE: TxFlags = TxFlags::empty();

pub(super) const ATTACKS: &[Attack] = &[
    attack("f6-tx-references", SERVED, tx_references),
    attack("f6-later-tx-references", SERVED, later_tx_references),
    attack("f6-rx-references", SERVED, rx_references),
    attack("f6-one-reference", SERVED, one_reference),
    attack("f6-freed-on-the-way", SERVED, freed_on_the_way),
    attack("f7-answers-unread", SERVED, answers_unread),
    attack("f7-never-refilled", SERVED, |front| front.backend_says("carrier", &["0"]).map(drop)),
];

/// References that nobody may read by.
pub(super) fn bad(front: &Front) -> Result<Vec<u32>> {
    let freed = front.grants.grant(front.domain, Access::Write)?;
    front.grants.free(freed)?;
    let others = front.grants.grant(0, Access::Write)?;
    Ok(vec![0, 1, 60_000, u32::MAX, freed.reference, others.reference])
}

fn tx_references(front: &mut Front) -> Result<()> {
    for reference in bad(front)? {
        let slot = TxRequest::new(reference, 0, NONE, 7, 60).into();
        front.refused(&[slot])?;
    }
    Ok(())
}

/// Behind the headers, where they are found when the packet is copied on to the victim.
fn later_tx_references(front: &mut Front) -> Result<()> {
    for reference in bad(front)? {
        front.show(&to_victim(front, reference))?;
        front.settle()?;
    }
    Ok(())
}

/// A packet to the victim whose second page is this one.
fn to_victim(front: &Front, reference: u32) -> [TxSlot; 2] {
    let first = TxRequest::new(front.page(), 0, MORE, 7, 1400);
    [first.into(), TxRequest::new(reference, 0, NONE, 8, 1000).into()]
}

/// Pages that nobody may write to.
fn rx_references(front: &mut Front) -> Result<()> {
    let mut references = bad(front)?;
    references.push(front.grants.grant(front.domain, Access::Read)?.reference);
    let first = front.rx.produced();
    let count = references.len() as u32;
    front.rx.show(references.into_iter().map(|gref| RxRequest { id: 3, pad: 0, gref }));
    front.knock()?;
    front.wait("all offers used", |front| front.rx.answered() == first.wrapping_add(count))?;
    for index in (0..count).map(|n| first.wrapping_add(n)) {
        let response = front.rx.response(index);
        if response.status != Status::Error as i16 {
            bail!("the {index}th offer is answered by {response:?}");
        }
    }
    Ok(())
}

/// The same page and the same id in all slots.
fn one_reference(front: &mut Front) -> Result<()> {
    front.answered(&[front.good(); 256], |status| status == Status::Okay as i16)
}

/// Pages are taken back while the packets that they are in are on their way.
fn freed_on_the_way(front: &mut Front) -> Result<()> {
    for _ in 0..20 {
        let grants = (0..16).map(|_| front.grants.grant(front.domain, Access::Read));
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        let slots: Vec<_> =
            grants.iter().flat_map(|grant| to_victim(front, grant.reference)).collect();
        front.show(&slots)?;
        grants.into_iter().try_for_each(|grant| front.grants.free(grant))?;
        front.settle()?;
    }
    Ok(())
}

/// Many times what the ring holds, with ids that say nothing, and no answer is looked at.
fn answers_unread(front: &mut Front) -> Result<()> {
    let page = front.grants.page(front.domain, Access::Read)?;
    page.shared().write_bytes(0, &frame(front.victim, front.own, 60));
    for id in 0..1000 {
        front.wait("room", |front| front.tx.room() > 0)?;
        front.show(&[TxRequest::new(page.reference, 0, NONE, id % 2, 60).into()])?;
    }
    front.settle()
}
