//! The XenStore client: a state machine that the event loop polls. Nothing waits.
//!
//! A caller asks ([`Store::read`], [`Store::transaction`], …), keeps the
//! [`RequestId`] and finds it again in an [`Event`]. Watches arrive as events too;
//! they are handed out straight from the ring and never queued, so that a storm of
//! them costs this domain a ring's kilobyte and the caller one mark per thing
//! watched (S-8).
//!
//! Paths that do not begin with `/` are relative to our own `/local/domain/N`, in
//! events as well.
//!
//! ```text
//!             caller: read, write, transaction …        event
//!                           ▼                             ▲
//!     operations, at most 32, in order ──requests──▶ at most 8 in flight
//!                           ▼                             ▲
//!                  req ring, 1 KiB   ◀─ xenstored ─▶   rsp ring, 1 KiB
//! ```
//!
//! xenstored allows a domain 20 requests outstanding and 10 transactions (L-9); the
//! client has 8 and 1. It begins each connection with `XS_RESET_WATCHES` (L-13) and
//! says [`Event::Ready`] when that is answered: the moment to set up watches, and
//! after a loss to do so again.

mod error;
mod event;
mod operation;
mod ring;
mod transaction;
mod wire;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

pub use error::Error;
pub use event::{Busy, Event, Fault, Reply, RequestId};
pub use operation::READ_MANY_VALUE_MAX;
pub use transaction::{TRANSACTION_TRIES, Transaction};

use crate::SharedPage;
use crate::bindings::{
    XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION, XS_DIRECTORY, XS_ERROR, XS_MKDIR, XS_READ,
    XS_RESET_WATCHES, XS_RM, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE,
    xenstore_domain_interface as interface,
};
use operation::{Operation, Progress, ReadMany};
use ring::Rings;
use transaction::Running;
use wire::{BadStream, Receiver, Request};

/// How many requests xenstored is given at once, of the 20 it allows (L-9).
const IN_FLIGHT: usize = 8;
/// How many operations wait for their completion to be fetched.
const OPERATIONS: usize = 32;
/// How many answers to nothing we asked are put down to whoever had the ring
/// before us; more is a broken peer.
const STRAYS: u32 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Reconnecting,
    Down,
}

/// A request that xenstored has not answered.
struct InFlight {
    wire: u32,
    operation: RequestId,
    part: usize,
}

/// The client. See the module's documentation.
pub struct Store {
    page: SharedPage,
    rings: Rings,
    link: Link,
    receiver: Receiver,
    /// The request that is being written to the ring, and how much of it is there.
    outgoing: Vec<u8>,
    written: usize,
    operations: VecDeque<(RequestId, Operation)>,
    in_flight: heapless::Vec<InFlight, IN_FLIGHT>,
    finished: VecDeque<Event>,
    last_id: u64,
    last_wire: u32,
    /// The operation that resets the watches; its answer is [`Event::Ready`].
    reset: RequestId,
    strays: u32,
    /// xenstored has not been told of what we moved.
    moved: bool,
}

impl Store {
    /// A client on the page of `HVM_PARAM_STORE_PFN`, with the rings' indices as
    /// they stand.
    pub fn new(page: SharedPage) -> Self {
        let rings = Rings::attach(&page);
        let mut store = Self {
            page,
            rings,
            link: Link::Up,
            receiver: Receiver::default(),
            outgoing: Vec::new(),
            written: 0,
            operations: VecDeque::new(),
            in_flight: heapless::Vec::new(),
            finished: VecDeque::new(),
            last_id: 0,
            last_wire: 0,
            reset: RequestId(0),
            strays: 0,
            moved: false,
        };
        if store.reconnecting() {
            store.link = Link::Reconnecting;
        } else {
            store.connect();
        }
        store
    }

    /// Reads a node: [`Reply::Value`].
    pub fn read(&mut self, path: &str) -> Result<RequestId, Busy> {
        self.single(path, Request::new(XS_READ, 0, &[path]))
    }

    /// Reads nodes, each with its own outcome: [`Reply::Values`]. A value above
    /// [`READ_MANY_VALUE_MAX`] bytes is [`Error::TooLong`].
    pub fn read_many(&mut self, paths: Vec<String>) -> Result<RequestId, Busy> {
        let checked = paths.iter().try_for_each(|path| wire::check(path, &[]));
        if paths.is_empty() {
            return self.finish(Ok(Reply::Values(Vec::new())));
        }
        self.submit(checked, || Operation::ReadMany(ReadMany::new(paths)))
    }

    /// Lists a node's children: [`Reply::Names`].
    pub fn directory(&mut self, path: &str) -> Result<RequestId, Busy> {
        self.single(path, Request::new(XS_DIRECTORY, 0, &[path]))
    }

    /// Writes a node, making it and its parents where missing: [`Reply::Done`].
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<RequestId, Busy> {
        self.submit(wire::check(path, value), || {
            Operation::single(Request::new(XS_WRITE, 0, &[path]).with_value(value))
        })
    }

    /// Makes a node, empty, where there is none: [`Reply::Done`].
    pub fn mkdir(&mut self, path: &str) -> Result<RequestId, Busy> {
        self.single(path, Request::new(XS_MKDIR, 0, &[path]))
    }

    /// Removes a node and all below it: [`Reply::Done`].
    pub fn remove(&mut self, path: &str) -> Result<RequestId, Busy> {
        self.single(path, Request::new(XS_RM, 0, &[path]))
    }

    /// Asks for an [`Event::Watch`] with `token` now, and whenever something at or
    /// below `path` changes: [`Reply::Done`].
    pub fn watch(&mut self, path: &str, token: &str) -> Result<RequestId, Busy> {
        self.watching(XS_WATCH, path, token)
    }

    /// Ends a watch: [`Reply::Done`]. Events of it may still be on their way.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<RequestId, Busy> {
        self.watching(XS_UNWATCH, path, token)
    }

    /// Runs a transaction, again where others interfere, at most
    /// [`TRANSACTION_TRIES`] times: [`Reply::Done`]. One runs at a time.
    pub fn transaction(&mut self, transaction: Transaction) -> Result<RequestId, Busy> {
        let checked = transaction.check();
        self.submit(checked, || Operation::Transaction(Running::new(transaction)))
    }

    /// How many more operations are taken now.
    pub fn room(&self) -> usize {
        OPERATIONS.saturating_sub(self.operations.len() + self.finished.len())
    }

    /// Moves bytes both ways and returns the next event, if there is one. To be
    /// called until there is none when the port fires and after requests were
    /// made; a caller that stops earlier comes back without waiting for the port.
    /// `notify` raises the event at xenstored's end.
    pub fn poll(&mut self, mut notify: impl FnMut()) -> Option<Event> {
        loop {
            if let Some(event) = self.finished.pop_front() {
                return Some(event);
            }
            if self.link == Link::Reconnecting && !self.reconnecting() {
                self.rings = Rings::attach(&self.page);
                self.connect();
            }
            if self.link == Link::Up {
                match self.transfer() {
                    Ok(Some(event)) => return Some(event),
                    Ok(None) => {}
                    Err(fault) => {
                        self.fail(fault);
                        continue;
                    }
                }
            }
            if core::mem::take(&mut self.moved) {
                notify();
            }
            return None;
        }
    }

    fn single(&mut self, path: &str, request: Request) -> Result<RequestId, Busy> {
        self.submit(wire::check(path, &[]), || Operation::single(request))
    }

    fn watching(&mut self, kind: u32, path: &str, token: &str) -> Result<RequestId, Busy> {
        let checked = wire::check(path, &[]).and(wire::check(token, path.as_bytes()));
        self.submit(checked, || Operation::single(Request::new(kind, 0, &[path, token])))
    }

    fn submit(
        &mut self,
        checked: Result<(), Error>,
        operation: impl FnOnce() -> Operation,
    ) -> Result<RequestId, Busy> {
        if let Err(error) = checked {
            return self.finish(Err(error));
        }
        if self.room() == 0 {
            return Err(Busy);
        }
        let id = self.next_id();
        if self.link == Link::Down {
            self.finished.push_back(Event::Reply { id, result: Err(Error::Lost) });
        } else {
            self.operations.push_back((id, operation()));
        }
        Ok(id)
    }

    /// An operation whose outcome is known before it begins.
    fn finish(&mut self, result: Result<Reply, Error>) -> Result<RequestId, Busy> {
        if self.room() == 0 {
            return Err(Busy);
        }
        let id = self.next_id();
        self.finished.push_back(Event::Reply { id, result });
        Ok(id)
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// Begins a connection: nothing is set up at xenstored's end.
    fn connect(&mut self) {
        self.link = Link::Up;
        self.strays = 0;
        self.reset = self.next_id();
        let request = Request::new(XS_RESET_WATCHES, 0, &[""]);
        self.operations.push_front((self.reset, Operation::single(request)));
    }

    /// Sends what fits and receives until there is an event.
    fn transfer(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            self.send()?;
            if self.offers(XENSTORE_SERVER_FEATURE_ERROR) {
                let code = self.page.load(offset_of!(interface, error));
                if code != 0 {
                    return Err(Fault::Closed(code));
                }
            }
            let Some(message) = self.receiver.receive(&mut self.rings, &self.page)? else {
                return Ok(None);
            };
            self.moved = true;
            let event = match message.kind {
                XS_WATCH_EVENT => match message.strings() {
                    Some([path, token]) => Some(Event::Watch { path, token }),
                    None => self.stray()?,
                },
                kind => self.answer(kind, message.id, message.payload)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn send(&mut self) -> Result<(), Fault> {
        loop {
            let sent = self.rings.send(&self.page, &self.outgoing[self.written..]);
            let sent = sent.map_err(BadStream::from)?;
            self.moved |= sent > 0;
            self.written += sent;
            if self.written < self.outgoing.len() || self.in_flight.is_full() {
                return Ok(());
            }
            let Some((operation, part, request)) = self.next_request() else { return Ok(()) };
            self.last_wire = self.last_wire.wrapping_add(1);
            self.outgoing = request.encode(self.last_wire);
            self.written = 0;
            // Cannot fail: that it is not full was asked above.
            let _ = self.in_flight.push(InFlight { wire: self.last_wire, operation, part });
        }
    }

    /// The first request that an operation has ready, in the operations' order;
    /// transactions one after the other.
    fn next_request(&mut self) -> Option<(RequestId, usize, Request)> {
        let mut transaction_runs = false;
        for (id, operation) in &mut self.operations {
            if matches!(operation, Operation::Transaction(_)) {
                if transaction_runs {
                    continue;
                }
                transaction_runs = true;
            }
            if let Some((part, request)) = operation.next() {
                return Some((*id, part, request));
            }
        }
        None
    }

    /// Takes an answer to where it belongs.
    fn answer(&mut self, kind: u32, wire: u32, payload: Vec<u8>) -> Result<Option<Event>, Fault> {
        let Some(place) = self.in_flight.iter().position(|request| request.wire == wire) else {
            return self.stray();
        };
        let InFlight { operation: id, part, .. } = self.in_flight.swap_remove(place);
        let Some(place) = self.operations.iter().position(|(other, _)| *other == id) else {
            return self.stray();
        };
        let operation = &mut self.operations[place].1;
        let answer = match kind {
            XS_ERROR => Err(Error::parse(&payload)),
            kind if kind == operation.kind(part) => Ok(payload),
            _ => Err(Error::Protocol),
        };
        let Progress::Done(result) = operation.answer(part, answer) else { return Ok(None) };
        self.operations.remove(place);
        if id == self.reset {
            return Ok(Some(Event::Ready));
        }
        Ok(Some(Event::Reply { id, result }))
    }

    /// A message that nobody waits for.
    fn stray(&mut self) -> Result<Option<Event>, Fault> {
        self.strays += 1;
        if self.strays > STRAYS { Err(Fault::Strays) } else { Ok(None) }
    }

    /// The stream can no longer be followed: ends everything under way, and asks
    /// for a new connection where xenstored offers that.
    fn fail(&mut self, fault: Fault) {
        self.receiver = Receiver::default();
        self.outgoing.clear();
        self.written = 0;
        self.in_flight.clear();
        self.finished.push_back(Event::Lost(fault));
        for (id, _) in core::mem::take(&mut self.operations) {
            if id != self.reset {
                self.finished.push_back(Event::Reply { id, result: Err(Error::Lost) });
            }
        }
        self.link = Link::Down;
        if self.offers(XENSTORE_SERVER_FEATURE_RECONNECTION) {
            self.page.store(offset_of!(interface, connection), XENSTORE_RECONNECT);
            self.link = Link::Reconnecting;
            self.moved = true;
        }
    }

    fn reconnecting(&self) -> bool {
        self.offers(XENSTORE_SERVER_FEATURE_RECONNECTION)
            && self.page.load(offset_of!(interface, connection)) != XENSTORE_CONNECTED
    }

    fn offers(&self, feature: u32) -> bool {
        self.page.load(offset_of!(interface, server_features)) & feature != 0
    }
}

#[cfg(test)]
mod tests;
