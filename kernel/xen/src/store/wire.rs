//! Messages as xenstored speaks them: a header of four words and a payload of at
//! most 4096 bytes, beyond which xenstored drops the connection (L-13).

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::Error;
use super::ring::{BadIndex, Rings};
use crate::SharedPage;
use crate::bindings::{XENSTORE_PAYLOAD_MAX, XENSTORE_REL_PATH_MAX};

const HEADER: usize = 16;

/// A request, ready to be sent but for its id.
#[derive(Debug)]
pub(super) struct Request {
    /// `XS_*`.
    pub(super) kind: u32,
    /// The transaction it belongs to; zero for none.
    pub(super) transaction: u32,
    pub(super) payload: Vec<u8>,
}

impl Request {
    /// A request whose payload is `parts`, each ended by a NUL.
    pub(super) fn new(kind: u32, transaction: u32, parts: &[&str]) -> Self {
        let mut payload = Vec::new();
        for part in parts {
            payload.extend_from_slice(part.as_bytes());
            payload.push(0);
        }
        Self { kind, transaction, payload }
    }

    /// The request with raw bytes after its strings.
    pub(super) fn with_value(mut self, value: &[u8]) -> Self {
        self.payload.extend_from_slice(value);
        self
    }

    /// The request on the wire.
    pub(super) fn encode(&self, id: u32) -> Vec<u8> {
        let words = [self.kind, id, self.transaction, self.payload.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Whether `path`, and `value` after it, can be sent: they fit a message and cannot
/// be taken for other strings. What else makes a good path is for xenstored to say.
pub(super) fn check(path: &str, value: &[u8]) -> Result<(), Error> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::Invalid);
    }
    let fits = path.len() + 1 + value.len() <= XENSTORE_PAYLOAD_MAX as usize;
    if fits && path.len() <= XENSTORE_REL_PATH_MAX as usize { Ok(()) } else { Err(Error::TooLong) }
}

/// A message from xenstored.
#[derive(Debug)]
pub(super) struct Message {
    /// `XS_*`.
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) payload: Vec<u8>,
}

impl Message {
    /// The payload's first `N` strings, where it has as many.
    pub(super) fn strings<const N: usize>(&self) -> Option<[String; N]> {
        let mut parts = self.payload.split(|&byte| byte == 0);
        let mut strings = [const { String::new() }; N];
        for string in &mut strings {
            *string = core::str::from_utf8(parts.next()?).ok()?.to_owned();
        }
        // A NUL ends each string, so that something, if only nothing, follows the last.
        parts.next()?;
        Some(strings)
    }
}

/// Why what arrived is not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadStream {
    Index,
    Length(u32),
}

impl From<BadIndex> for BadStream {
    fn from(_: BadIndex) -> Self {
        Self::Index
    }
}

/// A message as far as it has arrived.
#[derive(Default)]
pub(super) struct Receiver {
    header: [u8; HEADER],
    payload: Vec<u8>,
    /// Bytes of header and payload that have arrived.
    arrived: usize,
}

impl Receiver {
    /// Takes bytes from the ring; returns the message once it is whole. After an
    /// error the stream has lost its message boundaries.
    pub(super) fn receive(
        &mut self,
        rings: &mut Rings,
        page: &SharedPage,
    ) -> Result<Option<Message>, BadStream> {
        if self.arrived < HEADER {
            self.arrived += rings.receive(page, &mut self.header[self.arrived..])?;
            if self.arrived < HEADER {
                return Ok(None);
            }
            let length = self.word(3);
            if length > XENSTORE_PAYLOAD_MAX {
                return Err(BadStream::Length(length));
            }
            self.payload.resize(length as usize, 0);
        }
        let payload_arrived = self.arrived - HEADER;
        self.arrived += rings.receive(page, &mut self.payload[payload_arrived..])?;
        if self.arrived < HEADER + self.payload.len() {
            return Ok(None);
        }
        self.arrived = 0;
        let payload = core::mem::take(&mut self.payload);
        Ok(Some(Message { kind: self.word(0), id: self.word(1), payload }))
    }

    fn word(&self, index: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.header[4 * index..4 * index + 4]);
        u32::from_ne_bytes(bytes)
    }
}
