//! What a caller of the client hears.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::Error;
use super::wire::BadStream;

/// Which request an answer belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RequestId(pub(super) u64);

/// The client has as many operations under way as it takes. Ask again after an
/// event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// A request's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is done: writes, removals, watches, transactions.
    Done,
    /// To [`Store::read`](super::Store::read).
    Value(Vec<u8>),
    /// To [`Store::read_many`](super::Store::read_many), in the order of the paths.
    Values(Vec<Result<Vec<u8>, Error>>),
    /// To [`Store::directory`](super::Store::directory).
    Names(Vec<String>),
}

/// What [`Store::poll`](super::Store::poll) reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The connection stands, without watches: set them up.
    Ready,
    /// An operation came to its end.
    Reply {
        /// The operation.
        id: RequestId,
        /// What came of it.
        result: Result<Reply, Error>,
    },
    /// Something at or below a watched path changed.
    Watch {
        /// What changed, relative where the watch was.
        path: String,
        /// The watch's token.
        token: String,
    },
    /// The connection is lost with all watches; requests under way are answered
    /// [`Error::Lost`]. [`Event::Ready`] follows if xenstored lets us reconnect.
    Lost(Fault),
}

/// Why a connection was lost: xenstored broke the protocol (S-18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It published a ring index that cannot be.
    Index,
    /// It announced a message of this length, beyond 4096.
    Length(u32),
    /// It answered again and again what was not asked.
    Strays,
    /// It stopped serving us, with this code in the page's `error` field.
    Closed(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("impossible ring index"),
            Self::Length(length) => write!(f, "message of {length} bytes"),
            Self::Strays => f.write_str("answers to nothing that was asked"),
            Self::Closed(code) => write!(f, "closed by xenstored, error {code}"),
        }
    }
}

impl From<BadStream> for Fault {
    fn from(bad: BadStream) -> Self {
        match bad {
            BadStream::Index => Self::Index,
            BadStream::Length(length) => Self::Length(length),
        }
    }
}
