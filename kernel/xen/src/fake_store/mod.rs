//! An in-memory xenstored, for tests of what talks to one.
//!
//! Domains connect through a page and are served in xenstored's own protocol,
//! with its permissions, quotas, transaction conflicts and watches; the test
//! itself acts for any domain through [`Xenstored::act`]. [`Toolstack`] and
//! [`Netfront`] play libxl and a guest's network driver. Knobs make it slow,
//! forgetful of its [`Manners`], or plainly broken.

mod actor;
mod manners;
mod netfront;
mod toolstack;
mod tree;
mod wire;

use std::collections::{BTreeMap, VecDeque};

pub use actor::Actor;
pub use manners::{Lies, Manners, Message};
pub use netfront::Netfront;
pub use toolstack::{Detach, DetachError, Toolstack, VifPaths};
pub use tree::{Access, Permissions, Quotas};
use tree::{Change, Errno, Transaction, Tree, is_at_or_below};

use crate::bindings::*;
use crate::{DomainId, Instant, SharedPage};
use wire::{Parsed, RingPage, message, word};

const RING: u32 = XENSTORE_RING_SIZE;
const REQ_CONS: usize = core::mem::offset_of!(xenstore_domain_interface, req_cons);
const REQ_PROD: usize = core::mem::offset_of!(xenstore_domain_interface, req_prod);
const RSP_CONS: usize = core::mem::offset_of!(xenstore_domain_interface, rsp_cons);
const RSP_PROD: usize = core::mem::offset_of!(xenstore_domain_interface, rsp_prod);
const FEATURES: usize = core::mem::offset_of!(xenstore_domain_interface, server_features);
const CONNECTION: usize = core::mem::offset_of!(xenstore_domain_interface, connection);
const RSP: usize = core::mem::offset_of!(xenstore_domain_interface, rsp);

/// Answers requests with an error instead of doing them.
struct Injection {
    kind: u32,
    path: String,
    errno: &'static str,
    times: usize,
}

/// xenstored.
pub struct Xenstored {
    tree: Tree,
    connections: BTreeMap<DomainId, Connection>,
    injections: Vec<Injection>,
    /// How many commits fail with `EAGAIN` before one is looked at.
    pub conflicts: usize,
    /// How many bytes at most go each way per [`serve`](Self::serve).
    pub chunk: Option<u32>,
    /// Answers are made but not sent.
    pub hold: bool,
    /// How it treats those who talk to it.
    pub manners: Manners,
    /// Requests done so far, by `XS_*`.
    pub served: BTreeMap<u32, usize>,
    now: Instant,
}

struct Connection {
    ring: RingPage,
    page: SharedPage,
    arrived: Vec<u8>,
    /// When the request that has arrived is done.
    due: Option<Instant>,
    answers: VecDeque<Vec<u8>>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    dropped: bool,
}

struct Watch {
    path: String,
    token: String,
    relative: bool,
}

impl Default for Xenstored {
    fn default() -> Self {
        Self::new()
    }
}

impl Xenstored {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            connections: BTreeMap::new(),
            injections: Vec::new(),
            conflicts: 0,
            chunk: None,
            hold: false,
            manners: Manners::default(),
            served: BTreeMap::new(),
            now: Instant::default(),
        }
    }

    /// The limits on domains other than the control domain.
    pub fn quotas(&mut self) -> &mut Quotas {
        &mut self.tree.quotas
    }

    /// Makes a domain's home as libxl does.
    pub fn create_domain(&mut self, domain: DomainId) {
        let home = home(domain);
        let zero = || Permissions::owned(DomainId::ZERO).readable_by(domain);
        let own = || Permissions::owned(domain);
        let mut make = |path: String, permissions: Permissions| {
            let mut zero = self.act(DomainId::ZERO);
            zero.mkdir(&path).expect("dom0 makes what it wants");
            zero.set_permissions(&path, permissions).expect("dom0 may");
        };
        make(home.clone(), zero());
        for name in ["device", "control"] {
            make(format!("{home}/{name}"), zero());
        }
        for name in ["control/shutdown", "control/feature-poweroff", "control/feature-reboot"] {
            make(format!("{home}/{name}"), own());
        }
        for name in ["data", "error", "feature"] {
            make(format!("{home}/{name}"), own());
        }
    }

    /// Ends a domain: its connection, and every node it owns.
    pub fn destroy_domain(&mut self, domain: DomainId) {
        self.connections.remove(&domain);
        let changes = self.tree.forget(domain);
        self.announce(&changes);
        let _ = self.act(DomainId::ZERO).remove(&home(domain));
    }

    /// Connects a domain through a page whose indices start anywhere; returns the
    /// domain's side of the page.
    pub fn connect(&mut self, domain: DomainId, start: u32) -> SharedPage {
        let page = RingPage::new();
        let ours = page.end();
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            ours.store(index, start);
        }
        let connection = Connection {
            ring: page,
            page: ours,
            arrived: Vec::new(),
            due: None,
            answers: VecDeque::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            dropped: false,
        };
        self.connections.insert(domain, connection);
        page.end()
    }

    /// One more end of a connected domain's page, to look at it or to spoil it.
    pub fn page(&mut self, domain: DomainId) -> SharedPage {
        self.connection(domain).ring.end()
    }

    /// Acts as a domain, past any page.
    pub fn act(&mut self, who: DomainId) -> Actor<'_> {
        Actor { store: self, who }
    }

    /// Answers the next `times` requests of a kind (`XS_*`) on paths that end in
    /// `path` with an error.
    pub fn inject(&mut self, kind: u32, path: &str, errno: &'static str, times: usize) {
        self.injections.push(Injection { kind, path: path.to_string(), errno, times });
    }

    /// Forgets what was injected and not used up.
    pub fn clear_injections(&mut self) {
        self.injections.clear();
    }

    /// Sends a domain bytes that no request asked for.
    pub fn send_raw(&mut self, domain: DomainId, bytes: &[u8]) {
        self.connection(domain).answers.push_back(bytes.to_vec());
    }

    /// Sends a domain a message that no request asked for.
    pub fn send_message(&mut self, domain: DomainId, kind: u32, id: u32, payload: &[u8]) {
        self.connection(domain).answers.push_back(message(kind, id, 0, payload));
    }

    /// Puts a domain's response producer out by `by`.
    pub fn break_index(&mut self, domain: DomainId, by: u32) {
        let page = &self.connection(domain).page;
        page.store(RSP_PROD, page.load(RSP_PROD).wrapping_add(by));
    }

    /// Lets a domain ask for a new connection, as only some xenstoreds do.
    pub fn offer_reconnection(&mut self, domain: DomainId) {
        self.connection(domain).page.store(FEATURES, XENSTORE_SERVER_FEATURE_RECONNECTION);
    }

    /// Whether a domain broke the protocol, and is no longer served.
    pub fn dropped(&self, domain: DomainId) -> bool {
        self.connections.get(&domain).is_some_and(|connection| connection.dropped)
    }

    /// How many watches a domain has.
    pub fn watches(&self, domain: DomainId) -> usize {
        self.connections.get(&domain).map_or(0, |connection| connection.watches.len())
    }

    /// How many transactions a domain has open.
    pub fn transactions(&self, domain: DomainId) -> usize {
        self.connections.get(&domain).map_or(0, |connection| connection.transactions.len())
    }

    /// How many nodes a domain owns.
    pub fn nodes(&self, domain: DomainId) -> usize {
        self.tree.owned_by(domain)
    }

    /// Every node with its value and owner, for comparisons.
    pub fn dump(&self) -> Vec<String> {
        self.tree.dump()
    }

    /// Serves every connection for as long as there is anything to do; with
    /// [`chunk`](Self::chunk) set, that many bytes each way. Returns whether
    /// anything moved.
    pub fn serve(&mut self) -> bool {
        if self.manners.dead {
            return false;
        }
        let domains: Vec<DomainId> = self.connections.keys().copied().collect();
        let mut moved = false;
        for domain in domains {
            moved |= self.reconnect(domain);
            loop {
                let received = self.receive(domain);
                let answered = self.send(domain);
                moved |= received | answered;
                if !(received || answered) || self.chunk.is_some() {
                    break;
                }
            }
        }
        moved
    }

    /// The same, when it is this late.
    pub fn serve_at(&mut self, now: Instant) -> bool {
        self.now = now;
        self.serve()
    }

    /// When it will have done what it is about, if it takes its time.
    pub fn deadline(&self) -> Option<Instant> {
        let due = self.connections.values().filter_map(|connection| connection.due);
        due.min().filter(|due| !self.manners.dead && *due > self.now)
    }

    fn connection(&mut self, domain: DomainId) -> &mut Connection {
        self.connections.get_mut(&domain).expect("the test connected the domain")
    }

    fn reconnect(&mut self, domain: DomainId) -> bool {
        let connection = self.connection(domain);
        let page = &connection.page;
        if page.load(CONNECTION) != XENSTORE_RECONNECT {
            return false;
        }
        connection.arrived.clear();
        connection.due = None;
        connection.answers.clear();
        connection.watches.clear();
        connection.transactions.clear();
        connection.dropped = false;
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            page.store(index, 0);
        }
        page.store(CONNECTION, XENSTORE_CONNECTED);
        true
    }

    /// Takes bytes and does what requests they complete.
    fn receive(&mut self, domain: DomainId) -> bool {
        let limit = self.chunk.unwrap_or(RING);
        let outstanding = self.tree.quotas.outstanding;
        let (now, pace) = (self.now, self.manners.pace);
        let connection = self.connection(domain);
        let page = &connection.page;
        if connection.dropped || connection.answers.len() >= outstanding {
            return false;
        }
        let cons = page.load(REQ_CONS);
        let available = page.load(REQ_PROD).wrapping_sub(cons);
        if available > RING {
            connection.dropped = true;
            return false;
        }
        // As xenstored: a header, then its payload, never beyond the one message.
        let wanted = match connection.arrived.len() {
            have @ 0..16 => 16 - have,
            have => 16 + word(&connection.arrived, 3) as usize - have,
        };
        let count = available.min(limit).min(wanted as u32);
        for index in 0..count {
            let mut byte = [0];
            page.read_bytes((cons.wrapping_add(index) % RING) as usize, &mut byte);
            connection.arrived.push(byte[0]);
        }
        page.store(REQ_CONS, cons.wrapping_add(count));
        if connection.arrived.len() < 16 {
            return count > 0;
        }
        let length = word(&connection.arrived, 3);
        if length > XENSTORE_PAYLOAD_MAX {
            connection.dropped = true;
            return false;
        }
        if connection.arrived.len() == 16 + length as usize {
            if now < *connection.due.get_or_insert(now + pace) {
                return count > 0;
            }
            connection.due = None;
            let arrived = std::mem::take(&mut connection.arrived);
            self.answer(domain, &arrived);
            return true;
        }
        count > 0
    }

    /// Puts answers into the ring.
    fn send(&mut self, domain: DomainId) -> bool {
        if self.hold {
            return false;
        }
        let limit = self.chunk.unwrap_or(RING);
        let connection = self.connection(domain);
        let page = &connection.page;
        let prod = page.load(RSP_PROD);
        let used = prod.wrapping_sub(page.load(RSP_CONS));
        if used > RING {
            return false;
        }
        let mut room = (RING - used).min(limit);
        let mut sent = 0;
        while let Some(answer) = connection.answers.front_mut() {
            let count = room.min(answer.len() as u32);
            for byte in answer.drain(..count as usize) {
                page.write_bytes(RSP + (prod.wrapping_add(sent) % RING) as usize, &[byte]);
                sent += 1;
            }
            room -= count;
            if !answer.is_empty() {
                break;
            }
            connection.answers.pop_front();
        }
        page.store(RSP_PROD, prod.wrapping_add(sent));
        sent > 0
    }

    /// Does one request and queues its answer.
    fn answer(&mut self, domain: DomainId, bytes: &[u8]) {
        let (kind, id, transaction) = (word(bytes, 0), word(bytes, 1), word(bytes, 2));
        *self.served.entry(kind).or_default() += 1;
        let mut request = Parsed::new(kind, transaction, &bytes[16..]);
        let refused = self.manners.refuse(self.served.values().sum());
        let result = match self.injected(&request).or(refused) {
            Some(errno) => {
                // However it ends, a transaction is over.
                if kind == XS_TRANSACTION_END {
                    self.connection(domain).transactions.remove(&transaction);
                }
                Err(errno)
            }
            None => self.perform(domain, &mut request),
        };
        let done = result.is_ok();
        let answer = match result {
            Ok(payload) => message(kind, id, transaction, &payload),
            Err(errno) => message(XS_ERROR, id, transaction, format!("{errno}\0").as_bytes()),
        };
        let Some(connection) = self.connections.get_mut(&domain) else { return };
        connection.answers.extend(self.manners.tell(answer));
        if kind == XS_WATCH
            && let Some(watch) = connection.watches.last().filter(|_| done)
        {
            let event = watch.event(&watch.path, domain);
            connection.answers.extend(self.manners.tell(event));
        }
    }

    fn injected(&mut self, request: &Parsed) -> Option<&'static str> {
        let injection = self.injections.iter_mut().find(|injection| {
            injection.times > 0
                && injection.kind == request.kind
                && request.path.ends_with(&injection.path)
        })?;
        injection.times -= 1;
        Some(injection.errno)
    }

    fn perform(&mut self, who: DomainId, request: &mut Parsed) -> Result<Vec<u8>, Errno> {
        let ok = |()| b"OK\0".to_vec();
        let path = || absolute(who, &request.path);
        match request.kind {
            XS_WATCH => self.watch(who, request).map(ok),
            XS_UNWATCH => self.unwatch(who, request).map(ok),
            XS_RESET_WATCHES => {
                let connection = self.connection(who);
                connection.watches.clear();
                connection.transactions.clear();
                Ok(ok(()))
            }
            XS_TRANSACTION_START => {
                let most = self.tree.quotas.transactions;
                let connection = self.connection(who);
                if request.transaction != 0 {
                    return Err("EBUSY");
                }
                if connection.transactions.len() > most {
                    return Err("ENOSPC");
                }
                let id = connection.next_transaction;
                connection.next_transaction += 1;
                connection.transactions.insert(id, Transaction::default());
                Ok(format!("{id}\0").into_bytes())
            }
            XS_TRANSACTION_END => {
                let number = request.transaction;
                let transaction =
                    self.connection(who).transactions.remove(&number).ok_or("ENOENT")?;
                match request.path.as_str() {
                    "T" if self.conflicts > 0 => {
                        self.conflicts -= 1;
                        Err("EAGAIN")
                    }
                    "T" => {
                        let changes = self.tree.commit(transaction)?;
                        self.announce(&changes);
                        Ok(ok(()))
                    }
                    "F" => Ok(ok(())),
                    _ => Err("EINVAL"),
                }
            }
            XS_READ => {
                let path = path()?;
                self.run(who, request.transaction, |view, tree| view.read(tree, who, &path))
            }
            XS_DIRECTORY => {
                let path = path()?;
                self.run(who, request.transaction, |view, tree| {
                    let names = view.directory(tree, who, &path)?;
                    Ok(names
                        .into_iter()
                        .flat_map(|name| format!("{name}\0").into_bytes())
                        .collect())
                })
            }
            XS_WRITE => {
                let (path, value) = (path()?, std::mem::take(&mut request.rest));
                self.run(who, request.transaction, |view, tree| {
                    view.write(tree, who, &path, &value)
                })
                .map(ok)
            }
            XS_MKDIR => {
                let path = path()?;
                self.run(who, request.transaction, |view, tree| view.mkdir(tree, who, &path))
                    .map(ok)
            }
            XS_RM => {
                let path = path()?;
                self.run(who, request.transaction, |view, tree| view.remove(tree, who, &path))
                    .map(ok)
            }
            _ => Err("ENOSYS"),
        }
    }

    /// Runs an operation in the transaction it names, or in one of its own.
    fn run<T>(
        &mut self,
        who: DomainId,
        number: u32,
        operation: impl FnOnce(&mut Transaction, &Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if number != 0 {
            let connection = self.connections.get_mut(&who).ok_or("ENOENT")?;
            let view = connection.transactions.get_mut(&number).ok_or("ENOENT")?;
            return operation(view, &self.tree);
        }
        let mut view = Transaction::default();
        let result = operation(&mut view, &self.tree)?;
        let changes = self.tree.commit(view)?;
        self.announce(&changes);
        Ok(result)
    }

    fn announce(&mut self, changes: &[Change]) {
        for change in changes {
            for (domain, connection) in &mut self.connections {
                if !change.visible_to(*domain) {
                    continue;
                }
                for watch in &connection.watches {
                    let hit = if change.exact {
                        change.path == watch.path
                    } else {
                        is_at_or_below(&change.path, &watch.path)
                    };
                    if hit {
                        let event = watch.event(&change.path, *domain);
                        connection.answers.extend(self.manners.tell(event));
                    }
                }
            }
        }
    }

    fn watch(&mut self, who: DomainId, request: &Parsed) -> Result<(), Errno> {
        let most = self.tree.quotas.watches;
        let path = absolute(who, &request.path)?;
        let token = request.token()?;
        let watches = &mut self.connection(who).watches;
        if watches.iter().any(|watch| watch.path == path && watch.token == token) {
            return Err("EEXIST");
        }
        if watches.len() >= most {
            return Err("E2BIG");
        }
        watches.push(Watch { path, token, relative: !request.path.starts_with('/') });
        Ok(())
    }

    fn unwatch(&mut self, who: DomainId, request: &Parsed) -> Result<(), Errno> {
        let path = absolute(who, &request.path)?;
        let token = request.token()?;
        let watches = &mut self.connection(who).watches;
        let place = watches.iter().position(|watch| watch.path == path && watch.token == token);
        watches.remove(place.ok_or("ENOENT")?);
        Ok(())
    }
}

impl Watch {
    fn event(&self, changed: &str, owner: DomainId) -> Vec<u8> {
        let relative = changed.strip_prefix(&home(owner)).and_then(|rest| rest.strip_prefix('/'));
        let path = if self.relative { relative.unwrap_or(changed) } else { changed };
        message(XS_WATCH_EVENT, 0, 0, format!("{path}\0{}\0", self.token).as_bytes())
    }
}

/// A domain's home.
fn home(domain: DomainId) -> String {
    format!("/local/domain/{}", domain.0)
}

/// The path that `who` means, if xenstored takes it for one.
fn absolute(who: DomainId, path: &str) -> Result<String, Errno> {
    let relative = !path.starts_with('/');
    let path = if relative { format!("{}/{path}", home(who)) } else { path.to_string() };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    let shape = path == "/" || (!path.ends_with('/') && !path.contains("//"));
    if shape && path.bytes().all(good) && path.len() <= XENSTORE_ABS_PATH_MAX as usize {
        Ok(path)
    } else {
        Err("EINVAL")
    }
}
