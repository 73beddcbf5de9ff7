//! What all queues of a vif have in common, however many there are.

use kernel::switch::{Groups, TooManyGroups};

use super::chain::GroupChange;
use super::credit::Credit;

/// What a vif's queues share.
#[derive(Default, Debug)]
pub(super) struct Common {
    /// What the guest may send, where that is limited (P-26).
    pub(super) credit: Option<Credit>,
    /// The groups that the guest has named; of meaning while it wants no others (P-13).
    groups: Groups,
    /// Whether it wants no others (request-multicast-control).
    filters: bool,
    /// Whether the switch does not know of a change yet.
    untold: bool,
}

impl Common {
    /// Changes the groups.
    pub(super) fn change(&mut self, change: GroupChange) -> Result<(), TooManyGroups> {
        self.untold |= self.filters;
        match change {
            GroupChange::Add(group) => self.groups.add(group),
            GroupChange::Remove(group) => {
                self.groups.remove(group);
                Ok(())
            }
        }
    }

    /// Takes note whether the guest wants multicast of its groups alone.
    pub(super) fn set_filters(&mut self, filters: bool) {
        self.untold |= self.filters != filters;
        self.filters = filters;
    }

    /// The groups that the guest wants multicast of, `None` for all, where that changed
    /// since this was asked last.
    pub(super) fn changed_filter(&mut self) -> Option<Option<&Groups>> {
        let changed = core::mem::take(&mut self.untold);
        changed.then_some(self.filters.then_some(&self.groups))
    }
}
