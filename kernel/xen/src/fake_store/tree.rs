//! Nodes, permissions and transactions.
//!
//! Every operation runs in a [`Transaction`], a lone one in its own: what it read
//! is remembered with its generation, what it writes is laid over the tree, and
//! a commit fails where something read has changed since.

use std::collections::BTreeMap;

use crate::DomainId;

/// What one domain may do with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Nothing (`n`).
    None,
    /// Read (`r`).
    Read,
    /// Write (`w`).
    Write,
    /// Both (`b`).
    Both,
}

impl Access {
    fn covers(self, wanted: Self) -> bool {
        self == Self::Both || self == wanted
    }
}

/// A node's permissions: the first entry names the owner and what domains without
/// an entry may do; the others are by domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permissions(pub Vec<(DomainId, Access)>);

impl Permissions {
    /// `owner` alone.
    pub fn owned(owner: DomainId) -> Self {
        Self(vec![(owner, Access::None)])
    }

    /// The same, and `reader` may read.
    pub fn readable_by(mut self, reader: DomainId) -> Self {
        self.0.push((reader, Access::Read));
        self
    }

    fn owner(&self) -> DomainId {
        self.0[0].0
    }

    fn allow(&self, who: DomainId, wanted: Access) -> bool {
        if who == DomainId::ZERO || who == self.owner() {
            return true;
        }
        let entry = self.0[1..].iter().find(|(domain, _)| *domain == who);
        entry.map_or(self.0[0].1, |(_, access)| *access).covers(wanted)
    }
}

#[derive(Clone)]
struct Node {
    value: Vec<u8>,
    permissions: Permissions,
    generation: u64,
}

/// A committed change that watches are told of.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) path: String,
    /// Only watches of exactly this path hear of it: it went with something above.
    pub(super) exact: bool,
    /// Who may know.
    readers: [Option<Permissions>; 2],
}

impl Change {
    pub(super) fn visible_to(&self, who: DomainId) -> bool {
        self.readers.iter().flatten().any(|permissions| permissions.allow(who, Access::Read))
    }
}

/// Limits on what a domain other than the control domain may have (L-9).
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Nodes it owns.
    pub nodes: usize,
    /// Watches.
    pub watches: usize,
    /// Open transactions.
    pub transactions: usize,
    /// Bytes of one value.
    pub node_size: usize,
    /// Messages to it that it has not taken.
    pub outstanding: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { nodes: 1000, watches: 128, transactions: 10, node_size: 2048, outstanding: 20 }
    }
}

/// The nodes.
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
    pub(super) quotas: Quotas,
}

/// An operation's view of the tree, and what it changed in it.
#[derive(Default)]
pub(super) struct Transaction {
    seen: BTreeMap<String, u64>,
    written: BTreeMap<String, Option<Node>>,
    changes: Vec<Change>,
    /// A step ran into a quota: nothing of this may be committed.
    failed: bool,
}

/// A refusal, by xenstored's name for it.
pub(super) type Errno = &'static str;

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            value: Vec::new(),
            permissions: Permissions::owned(DomainId::ZERO),
            generation: 1,
        };
        let nodes = BTreeMap::from([("/".to_string(), root)]);
        Self { nodes, generation: 1, quotas: Quotas::default() }
    }

    /// Every path with its value and permissions, for comparisons.
    pub(super) fn dump(&self) -> Vec<String> {
        let line = |(path, node): (&String, &Node)| {
            let value = String::from_utf8_lossy(&node.value);
            let owner = node.permissions.owner();
            format!("{path} = {value:?} ({owner})")
        };
        self.nodes.iter().map(line).collect()
    }

    pub(super) fn owned_by(&self, domain: DomainId) -> usize {
        self.nodes.values().filter(|node| node.permissions.owner() == domain).count()
    }

    /// Removes all that `domain` owns, as its death does.
    pub(super) fn forget(&mut self, domain: DomainId) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(path) = self
            .nodes
            .iter()
            .find(|(_, node)| node.permissions.owner() == domain)
            .map(|(path, _)| path.clone())
        {
            let mut transaction = Transaction::default();
            if transaction.remove(self, DomainId::ZERO, &path).is_ok() {
                changes.extend(self.commit(transaction).unwrap_or_default());
            }
        }
        changes
    }

    /// Makes a transaction's writes the tree's.
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<Vec<Change>, Errno> {
        if transaction.failed {
            return Err("ENOMEM");
        }
        let current = |path: &String| self.nodes.get(path).map_or(0, |node| node.generation);
        if transaction.seen.iter().any(|(path, generation)| current(path) != *generation) {
            return Err("EAGAIN");
        }
        for (path, node) in transaction.written {
            self.generation += 1;
            match node {
                Some(node) => {
                    self.nodes.insert(path, Node { generation: self.generation, ..node });
                }
                None => {
                    self.nodes.remove(&path);
                }
            }
        }
        Ok(transaction.changes)
    }
}

impl Transaction {
    pub(super) fn read(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
    ) -> Result<Vec<u8>, Errno> {
        Ok(self.permitted(tree, who, path, Access::Read)?.value)
    }

    pub(super) fn permissions(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
    ) -> Result<Permissions, Errno> {
        Ok(self.permitted(tree, who, path, Access::Read)?.permissions)
    }

    pub(super) fn directory(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
    ) -> Result<Vec<String>, Errno> {
        self.permitted(tree, who, path, Access::Read)?;
        Ok(self.children(tree, path))
    }

    pub(super) fn write(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
        value: &[u8],
    ) -> Result<(), Errno> {
        if who != DomainId::ZERO && value.len() > tree.quotas.node_size {
            return self.fail("ENOSPC");
        }
        match self.permitted(tree, who, path, Access::Write) {
            Ok(node) => self.put(path, Node { value: value.to_vec(), ..node }),
            Err("ENOENT") => self.create(tree, who, path, value)?,
            Err(errno) => return Err(errno),
        }
        self.change(tree, path, false, None);
        Ok(())
    }

    pub(super) fn mkdir(&mut self, tree: &Tree, who: DomainId, path: &str) -> Result<(), Errno> {
        match self.permitted(tree, who, path, Access::Write) {
            Ok(_) => Ok(()),
            Err("ENOENT") => {
                self.create(tree, who, path, &[])?;
                self.change(tree, path, false, None);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn remove(&mut self, tree: &Tree, who: DomainId, path: &str) -> Result<(), Errno> {
        match self.permitted(tree, who, path, Access::Write) {
            Ok(_) => {}
            Err("ENOENT") if self.node(tree, &parent(path)).is_some() => return Ok(()),
            Err(errno) => return Err(errno),
        }
        if path == "/" {
            return Err("EINVAL");
        }
        for below in self.subtree(tree, path) {
            self.change(tree, &below, below != path, None);
            self.node(tree, &below);
            self.written.insert(below, None);
        }
        // The parent's list of children is part of the parent.
        if let Some(node) = self.node(tree, &parent(path)) {
            self.put(&parent(path), node);
        }
        Ok(())
    }

    pub(super) fn set_permissions(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), Errno> {
        let node = self.permitted(tree, who, path, Access::Write)?;
        if who != DomainId::ZERO && node.permissions.owner() != who {
            return Err("EACCES");
        }
        if who != DomainId::ZERO && permissions.owner() != who {
            return Err("EPERM");
        }
        let before = node.permissions.clone();
        self.put(path, Node { permissions, ..node });
        self.change(tree, path, false, Some(before));
        Ok(())
    }

    /// The node as this transaction sees it; remembered as seen.
    fn node(&mut self, tree: &Tree, path: &str) -> Option<Node> {
        if let Some(written) = self.written.get(path) {
            return written.clone();
        }
        let node = tree.nodes.get(path).cloned();
        let generation = node.as_ref().map_or(0, |node| node.generation);
        self.seen.entry(path.to_string()).or_insert(generation);
        node
    }

    /// The node, where `who` may have it; an error tells nothing of a node whose
    /// nearest existing parent is closed to `who`.
    fn permitted(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
        wanted: Access,
    ) -> Result<Node, Errno> {
        let errno = match self.node(tree, path) {
            Some(node) if node.permissions.allow(who, wanted) => return Ok(node),
            Some(_) => "EACCES",
            None => "ENOENT",
        };
        let mut above = path.to_string();
        while above != "/" {
            above = parent(&above);
            if let Some(node) = self.node(tree, &above) {
                return Err(if node.permissions.allow(who, wanted) { errno } else { "EACCES" });
            }
        }
        Err(errno)
    }

    fn create(
        &mut self,
        tree: &Tree,
        who: DomainId,
        path: &str,
        value: &[u8],
    ) -> Result<(), Errno> {
        let above = parent(path);
        if self.node(tree, &above).is_none() {
            self.create(tree, who, &above, &[])?;
        }
        let Some(directory) = self.node(tree, &above) else { return Err("ENOENT") };
        let mut permissions = directory.permissions.clone();
        if who != DomainId::ZERO {
            permissions.0[0].0 = who;
            if self.owned(tree, who) >= tree.quotas.nodes {
                return self.fail("ENOSPC");
            }
        }
        self.put(&above, directory);
        self.put(path, Node { value: value.to_vec(), permissions, generation: 0 });
        Ok(())
    }

    fn put(&mut self, path: &str, node: Node) {
        self.written.insert(path.to_string(), Some(node));
    }

    fn fail(&mut self, errno: Errno) -> Result<(), Errno> {
        self.failed = true;
        Err(errno)
    }

    fn change(&mut self, tree: &Tree, path: &str, exact: bool, before: Option<Permissions>) {
        let node = self.node(tree, path).map(|node| node.permissions);
        let directory = self.node(tree, &parent(path)).map(|node| node.permissions);
        let readers = [node, before.or(directory)];
        self.changes.push(Change { path: path.to_string(), exact, readers });
    }

    fn owned(&self, tree: &Tree, who: DomainId) -> usize {
        let added = self.written.values().flatten();
        let owned = |node: &&Node| node.permissions.owner() == who;
        let kept = tree.nodes.iter().filter(|(path, _)| !self.written.contains_key(*path));
        kept.map(|(_, node)| node).filter(owned).count() + added.filter(owned).count()
    }

    fn subtree(&self, tree: &Tree, root: &str) -> Vec<String> {
        let inside = |path: &&String| is_at_or_below(path, root);
        let mut paths: Vec<String> = tree.nodes.keys().filter(inside).cloned().collect();
        paths.extend(self.written.keys().filter(inside).cloned());
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| self.written.get(path).is_none_or(Option::is_some));
        // Children before parents, as xenstored walks them.
        paths.reverse();
        paths
    }

    fn children(&self, tree: &Tree, root: &str) -> Vec<String> {
        let child = |path: String| (path != root && parent(&path) == root).then_some(path);
        let name = |path: String| path.rsplit('/').next().unwrap_or_default().to_string();
        let mut names: Vec<_> =
            self.subtree(tree, root).into_iter().filter_map(child).map(name).collect();
        names.sort_unstable();
        names
    }
}

pub(super) fn is_at_or_below(path: &str, root: &str) -> bool {
    root == "/"
        || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".to_string(),
        Some((above, _)) => above.to_string(),
    }
}
