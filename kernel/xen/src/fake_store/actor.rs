//! A domain's hand in the store, past any page.

use super::tree::{Transaction, Tree};
use super::{Permissions, Xenstored, absolute};
use crate::DomainId;

/// Does operations as one domain, with its rights, at once.
pub struct Actor<'a> {
    pub(super) store: &'a mut Xenstored,
    pub(super) who: DomainId,
}

impl Actor<'_> {
    /// A node's value as text; the error is xenstored's name for it.
    pub fn read(&mut self, path: &str) -> Result<String, &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        let value = self.store.run(who, 0, |view, tree| view.read(tree, who, &path))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// A node's children.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        self.store.run(who, 0, |view, tree| view.directory(tree, who, &path))
    }

    /// A node's permissions.
    pub fn permissions(&mut self, path: &str) -> Result<Permissions, &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        self.store.run(who, 0, |view, tree| view.permissions(tree, who, &path))
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<(), &'static str> {
        self.together(&[(path, value.as_ref())])
    }

    /// Writes nodes in one transaction.
    pub fn together(&mut self, writes: &[(&str, &[u8])]) -> Result<(), &'static str> {
        let who = self.who;
        self.store.run(who, 0, |view, tree| {
            writes
                .iter()
                .try_for_each(|(path, value)| view.write(tree, who, &absolute(who, path)?, value))
        })
    }

    /// Makes a node.
    pub fn mkdir(&mut self, path: &str) -> Result<(), &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        self.store.run(who, 0, |view, tree| view.mkdir(tree, who, &path))
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<(), &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        self.store.run(who, 0, |view, tree| view.remove(tree, who, &path))
    }

    /// Replaces a node's permissions.
    pub fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), &'static str> {
        let (who, path) = (self.who, absolute(self.who, path)?);
        self.store.run(who, 0, |view, tree| view.set_permissions(tree, who, &path, permissions))
    }

    /// Several operations in one transaction, each with the control's eyes.
    pub(super) fn transaction(
        &mut self,
        operation: impl FnOnce(&mut Steps<'_>) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let who = self.who;
        self.store.run(who, 0, |view, tree| operation(&mut Steps { view, tree, who }))
    }
}

/// The steps of a transaction that an [`Actor`] runs.
pub(super) struct Steps<'a> {
    view: &'a mut Transaction,
    tree: &'a Tree,
    who: DomainId,
}

impl Steps<'_> {
    pub(super) fn read(&mut self, path: &str) -> Result<Vec<u8>, &'static str> {
        self.view.read(self.tree, self.who, path)
    }

    pub(super) fn directory(&mut self, path: &str) -> Result<Vec<String>, &'static str> {
        self.view.directory(self.tree, self.who, path)
    }

    pub(super) fn write(&mut self, path: &str, value: &str) -> Result<(), &'static str> {
        self.view.write(self.tree, self.who, path, value.as_bytes())
    }

    /// Writes a node and gives it permissions.
    pub(super) fn make(
        &mut self,
        path: &str,
        value: &str,
        permissions: &Permissions,
    ) -> Result<(), &'static str> {
        self.write(path, value)?;
        self.view.set_permissions(self.tree, self.who, path, permissions.clone())
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<(), &'static str> {
        self.view.remove(self.tree, self.who, path)
    }
}
