//! The domains beside us.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::events::Channels;
use super::grants::GrantTable;
use super::memory::{PageMemory, View};
use crate::DomainId;

/// A page of a guest's memory, at one of its frames.
#[derive(Debug)]
pub(super) struct GuestPage {
    pub(super) page: Arc<PageMemory>,
    /// What the guest itself sees there.
    pub(super) view: Arc<View>,
    /// It is of a type that excludes writing, such as a page table.
    pub(super) never_writable: bool,
}

impl Hash for GuestPage {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // What the guest sees there is the page.
        (&self.page, self.never_writable).hash(hasher);
    }
}

/// A domain.
#[derive(Hash, Debug)]
pub(super) struct Domain {
    pub(super) frames: BTreeMap<u64, GuestPage>,
    pub(super) next_frame: u64,
    pub(super) grants: GrantTable,
    pub(super) channels: Channels,
    alive: bool,
}

/// All domains that exist: the living, and the dead whose pages we still map.
#[derive(Default, Hash, Debug)]
pub(super) struct Domains(BTreeMap<DomainId, Domain>);

impl Domains {
    pub(super) fn create(&mut self, id: DomainId) {
        let domain = Domain {
            frames: BTreeMap::new(),
            next_frame: 0,
            grants: GrantTable::new(),
            channels: Channels::default(),
            alive: true,
        };
        assert!(self.0.insert(id, domain).is_none(), "{id} exists");
    }

    pub(super) fn exists(&self, id: DomainId) -> bool {
        self.0.contains_key(&id)
    }

    pub(super) fn alive(&mut self, id: DomainId) -> Option<&mut Domain> {
        self.0.get_mut(&id).filter(|domain| domain.alive)
    }

    /// A domain that a mapping of ours keeps.
    pub(super) fn pinned(&mut self, id: DomainId) -> &mut Domain {
        self.0.get_mut(&id).expect("a mapping keeps its domain")
    }

    /// Ends a domain; what we map of it keeps it as a zombie.
    pub(super) fn kill(&mut self, id: DomainId) {
        let domain = self.alive(id).expect("a domain dies once");
        domain.alive = false;
        domain.frames.clear();
        domain.grants.clear_all();
        domain.channels = Channels::default();
        self.bury(id);
    }

    /// Lets a dead domain go once nothing keeps it.
    pub(super) fn bury(&mut self, id: DomainId) {
        let gone = |domain: &Domain| !domain.alive && !domain.grants.any_in_use();
        if self.0.get(&id).is_some_and(gone) {
            self.0.remove(&id);
        }
    }

    /// The dead that we keep from going.
    pub(super) fn zombies(&self) -> Vec<DomainId> {
        let dead = self.0.iter().filter(|(_, domain)| !domain.alive);
        dead.map(|(id, _)| *id).collect()
    }
}
