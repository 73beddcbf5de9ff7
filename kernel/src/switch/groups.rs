//! The multicast groups whose frames a port wants, where it does not want all.

use crate::packet::MacAddress;

/// Groups, as a frontend names them (NETBACK-SPEC P-13).
#[derive(Clone, Default, Debug)]
pub struct Groups(heapless::Vec<MacAddress, { Self::MAX }>);

/// There are [`Groups::MAX`] groups already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyGroups;

impl Groups {
    /// The most groups: as many as with Linux.
    pub const MAX: usize = 64;

    /// Adds a group. One that is added twice has to be removed twice, as with Linux.
    pub fn add(&mut self, group: MacAddress) -> Result<(), TooManyGroups> {
        self.0.push(group).map_err(|_| TooManyGroups)
    }

    /// Removes a group, if it is there.
    pub fn remove(&mut self, group: MacAddress) {
        if let Some(place) = self.0.iter().position(|known| *known == group) {
            self.0.swap_remove(place);
        }
    }

    /// Whether a group is among them.
    pub fn contains(&self, group: MacAddress) -> bool {
        self.0.contains(&group)
    }
}
