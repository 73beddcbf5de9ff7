//! What callers ask for, as small machines that turn into requests and take their
//! answers: one completion each, however many requests it takes.

use alloc::string::String;
use alloc::vec::Vec;

use super::transaction::Running;
use super::wire::Request;
use super::{Error, Reply};
use crate::bindings::{XS_DIRECTORY, XS_READ};

/// What [`Operation::answer`] makes of an answer.
pub(super) enum Progress {
    /// There is more to ask or to hear.
    Wait,
    /// That was all.
    Done(Result<Reply, Error>),
}

/// An operation on its way.
pub(super) enum Operation {
    /// One request, one answer.
    Single { request: Option<Request>, kind: u32 },
    /// Many reads.
    ReadMany(ReadMany),
    /// A transaction.
    Transaction(Running),
}

impl Operation {
    pub(super) fn single(request: Request) -> Self {
        Self::Single { kind: request.kind, request: Some(request) }
    }

    /// The next request to send, with the number its answer is to be reported
    /// under; `None` while there is none, for now or for good.
    pub(super) fn next(&mut self) -> Option<(usize, Request)> {
        match self {
            Self::Single { request, .. } => Some((0, request.take()?)),
            Self::ReadMany(reads) => reads.next(),
            Self::Transaction(running) => running.next(),
        }
    }

    /// Takes the answer to request number `part`: its kind's payload, or the error.
    pub(super) fn answer(&mut self, part: usize, answer: Result<Vec<u8>, Error>) -> Progress {
        match self {
            Self::Single { kind, .. } => {
                Progress::Done(answer.and_then(|payload| reply(*kind, payload)))
            }
            Self::ReadMany(reads) => reads.answer(part, answer),
            Self::Transaction(running) => running.answer(part, answer),
        }
    }

    /// The kind of the answer to request number `part`, if it is no error.
    pub(super) fn kind(&self, part: usize) -> u32 {
        match self {
            Self::Single { kind, .. } => *kind,
            Self::ReadMany(_) => XS_READ,
            Self::Transaction(running) => running.kind(part),
        }
    }
}

fn reply(kind: u32, payload: Vec<u8>) -> Result<Reply, Error> {
    Ok(match kind {
        XS_READ => Reply::Value(payload),
        XS_DIRECTORY => Reply::Names(names(&payload)?),
        _ => Reply::Done,
    })
}

fn names(payload: &[u8]) -> Result<Vec<String>, Error> {
    let text = core::str::from_utf8(payload).map_err(|_| Error::Protocol)?;
    Ok(text.split_terminator('\0').map(String::from).collect())
}

/// The longest value that [`Store::read_many`](super::Store::read_many) keeps.
pub const READ_MANY_VALUE_MAX: usize = 512;

/// Reads of several nodes, each with its own outcome.
pub(super) struct ReadMany {
    paths: Vec<String>,
    sent: usize,
    answered: usize,
    values: Vec<Result<Vec<u8>, Error>>,
}

impl ReadMany {
    pub(super) fn new(paths: Vec<String>) -> Self {
        let values = paths.iter().map(|_| Err(Error::Lost)).collect();
        Self { paths, sent: 0, answered: 0, values }
    }

    fn next(&mut self) -> Option<(usize, Request)> {
        let part = self.sent;
        let path = self.paths.get(part)?;
        self.sent += 1;
        Some((part, Request::new(XS_READ, 0, &[path])))
    }

    fn answer(&mut self, part: usize, answer: Result<Vec<u8>, Error>) -> Progress {
        if let Some(value) = self.values.get_mut(part) {
            *value = answer.and_then(|value| {
                if value.len() <= READ_MANY_VALUE_MAX { Ok(value) } else { Err(Error::TooLong) }
            });
        }
        self.answered += 1;
        if self.answered < self.paths.len() {
            return Progress::Wait;
        }
        Progress::Done(Ok(Reply::Values(core::mem::take(&mut self.values))))
    }
}
