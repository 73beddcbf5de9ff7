//! What happens while the domain is at work, whenever it calls the hypervisor: a guest
//! looks at its ring, and what it is answered it uses at once; and Xen refuses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use xen::fake::{FakeXen, Kind, Operation, When};
use xen::grant::GrantRef;
use xen::netif::{TxResponse, TxSlot};
use xen::ring::{FrontRing, TX_RING_SIZE};
use xen::{DomainId, PAGE_SIZE, SharedPage};

use crate::front::{Front, REUSED};

/// `GNTST_general_error`.
const REFUSED: i16 = -1;

/// What a guest knows of its own ring while the domain is at work.
struct Eye {
    domain: DomainId,
    ring: FrontRing<TxSlot, TxResponse, TX_RING_SIZE>,
    /// The pages it lends, by their slots' ids.
    lent: BTreeMap<u16, (GrantRef, SharedPage)>,
}

#[derive(Default)]
struct State {
    eye: Option<Eye>,
    /// What Xen refuses next.
    refuses: Option<Kind>,
    /// What it refused to unmap.
    kept: Vec<(DomainId, GrantRef)>,
}

/// What happens whenever the domain calls the hypervisor.
#[derive(Clone, Default)]
pub(super) struct Meanwhile(Rc<RefCell<State>>);

impl Meanwhile {
    pub(super) fn new(xen: &FakeXen) -> Self {
        let meanwhile = Self::default();
        for kind in [Kind::Copy, Kind::Map, Kind::Unmap] {
            let state = meanwhile.0.clone();
            let chosen = move |operation: &Operation| {
                let mut state = state.borrow_mut();
                state.eye.iter().for_each(|eye| eye.look(operation));
                // A ring that is not mapped is a vif that is not connected.
                if let Operation::Map { domain, reference } = operation
                    && !state.eye.iter().any(|eye| eye.lends(*domain, *reference))
                {
                    return false;
                }
                let refused = state.refuses.take_if(|refused| *refused == kind).is_some();
                if let Operation::Unmap { grant: Some(grant), .. } = operation
                    && refused
                {
                    state.kept.push(*grant);
                }
                refused
            };
            xen.fail(kind, When::Chosen(Box::new(chosen)), REFUSED);
        }
        meanwhile
    }

    /// The guest of `front` looks at its ring, as it is now.
    pub(super) fn watch(&self, front: &Front) {
        let page = |id| (front.reference(id), front.guest.page(front.lent_page(id)));
        self.0.borrow_mut().eye = Some(Eye {
            domain: front.guest.id(),
            ring: front.rings.tx.seen_at(front.guest.page(front.rings.tx_page.0)),
            lent: front.lent().map(|id| (id, page(id))).collect(),
        });
    }

    /// Nobody looks any more.
    pub(super) fn look_away(&self) {
        self.0.borrow_mut().eye = None;
    }

    /// Xen refuses the next operation of a kind.
    pub(super) fn refuse(&self, kind: Kind) {
        self.0.borrow_mut().refuses = Some(kind);
    }

    /// What it has still to refuse.
    pub(super) fn refuses(&self) -> Option<Kind> {
        self.0.borrow().refuses
    }

    /// The grants of the pages that stay mapped for good.
    pub(super) fn kept(&self) -> Vec<(DomainId, GrantRef)> {
        self.0.borrow().kept.clone()
    }
}

impl Eye {
    fn lends(&self, domain: DomainId, reference: GrantRef) -> bool {
        self.domain == domain && self.lent.values().any(|(lent, _)| *lent == reference)
    }

    fn look(&self, operation: &Operation) {
        for TxResponse { id, .. } in self.ring.responses() {
            let Some((reference, page)) = self.lent.get(&id) else { continue };
            if let Operation::Unmap { grant: Some(grant), .. } = operation {
                let answered = (self.domain, *reference);
                assert_ne!(*grant, answered, "answered before it is unmapped (O-2)");
            }
            page.write(0, &[REUSED; PAGE_SIZE]);
        }
    }
}
