//! Faults to order, and counts of what was asked.

use std::ops::Sub;

use crate::DomainId;
use crate::event::{EventPort, RemotePort};
use crate::grant::{GrantHandle, GrantRef};

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A grant copy.
    Copy,
    /// A grant map.
    Map,
    /// A grant unmap: the mapping stays.
    Unmap,
    /// Binding an event channel.
    Bind,
    /// Closing an event channel: it stays open.
    Close,
    /// Raising an event: nobody hears of it, and we do not hear of that.
    Notify,
}

/// An operation that is about to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A copy between grants, or where there is none our own memory.
    Copy {
        /// From where.
        from: Option<(DomainId, GrantRef)>,
        /// To where.
        to: Option<(DomainId, GrantRef)>,
        /// How many bytes.
        len: u16,
    },
    /// A map.
    Map {
        /// Whose page.
        domain: DomainId,
        /// By which grant.
        reference: GrantRef,
    },
    /// An unmap.
    Unmap {
        /// What.
        handle: GrantHandle,
        /// Whose page that is, and by which grant, where something is mapped.
        grant: Option<(DomainId, GrantRef)>,
    },
    /// A bind.
    Bind {
        /// Whose port.
        domain: DomainId,
        /// Which.
        remote: RemotePort,
    },
    /// A close.
    Close {
        /// What.
        port: EventPort,
    },
    /// An event raised.
    Notify {
        /// At whose other end.
        port: EventPort,
    },
}

impl Operation {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Copy { .. } => Kind::Copy,
            Self::Map { .. } => Kind::Map,
            Self::Unmap { .. } => Kind::Unmap,
            Self::Bind { .. } => Kind::Bind,
            Self::Close { .. } => Kind::Close,
            Self::Notify { .. } => Kind::Notify,
        }
    }
}

/// Which operations of a kind fail, counted from the order on.
pub enum When {
    /// The n-th, the next being the first.
    Nth(u64),
    /// Every n-th.
    Every(u64),
    /// The next so many.
    Next(u64),
    /// Those chosen. The choice may look at guests' pages, but not call the
    /// hypervisor.
    Chosen(Box<dyn FnMut(&Operation) -> bool>),
}

struct Fault {
    kind: Kind,
    when: When,
    status: i16,
    seen: u64,
}

impl Fault {
    fn strikes(&mut self, operation: &Operation) -> bool {
        if self.kind != operation.kind() {
            return false;
        }
        self.seen += 1;
        match &mut self.when {
            When::Nth(n) => self.seen == *n,
            When::Every(n) => self.seen.is_multiple_of(*n),
            When::Next(n) => self.seen <= *n,
            When::Chosen(chosen) => chosen(operation),
        }
    }
}

/// The faults on order.
#[derive(Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    pub(super) fn order(&mut self, kind: Kind, when: When, status: i16) {
        assert!(status != 0, "zero is success");
        self.faults.push(Fault { kind, when, status, seen: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// The status that an operation is to fail with; the first order wins, but all
    /// count.
    pub(super) fn strike(&mut self, operation: &Operation) -> Option<i16> {
        let struck = self.faults.iter_mut().filter_map(|fault| {
            let strikes = fault.strikes(operation);
            strikes.then_some(fault.status)
        });
        struck.fold(None, |first, status| first.or(Some(status)))
    }
}

/// How often the hypervisor was asked for what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Hypercalls to copy.
    pub copy_calls: u64,
    /// Copies in them.
    pub copies: u64,
    /// Hypercalls to map.
    pub map_calls: u64,
    /// Maps in them.
    pub maps: u64,
    /// Hypercalls to unmap.
    pub unmap_calls: u64,
    /// Unmaps in them.
    pub unmaps: u64,
    /// Event channels bound, or tried to.
    pub binds: u64,
    /// Event channels closed, or tried to.
    pub closes: u64,
    /// Events raised.
    pub notifies: u64,
    /// Faults that struck.
    pub faults: u64,
}

impl Sub for Counts {
    type Output = Self;

    /// What was asked since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            copy_calls: self.copy_calls - earlier.copy_calls,
            copies: self.copies - earlier.copies,
            map_calls: self.map_calls - earlier.map_calls,
            maps: self.maps - earlier.maps,
            unmap_calls: self.unmap_calls - earlier.unmap_calls,
            unmaps: self.unmaps - earlier.unmaps,
            binds: self.binds - earlier.binds,
            closes: self.closes - earlier.closes,
            notifies: self.notifies - earlier.notifies,
            faults: self.faults - earlier.faults,
        }
    }
}
