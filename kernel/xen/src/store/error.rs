//! What can become of a request.

use core::fmt;

/// Why a request failed. xenstored sends errors as names; those it is known to send
/// have a variant, others keep their name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// `ENOENT`: no such node.
    NotFound,
    /// `EACCES`: not ours to read or write, or under a directory that is not.
    Denied,
    /// `EAGAIN`: a transaction met other writers, as often as it was tried.
    Again,
    /// `EINVAL`: not a path, or not a request.
    Invalid,
    /// `EEXIST`: there already.
    Exists,
    /// `ENOSPC`: a quota on nodes, their size or transactions is used up.
    NoSpace,
    /// `EQUOTA`: a quota is used up (the OCaml xenstored's name for it).
    Quota,
    /// `E2BIG`: the quota on watches is used up, or the answer exceeds a message.
    TooBig,
    /// `ENOMEM`: xenstored is out of memory, or a quota on it is used up.
    NoMemory,
    /// `ENOSYS`: xenstored does not know the request.
    NotSupported,
    /// `EPERM`: reserved to the control domain.
    NotPermitted,
    /// `EIO`: xenstored's own trouble.
    Io,
    /// An error by another name, cut to 16 bytes.
    Other(heapless::String<16>),
    /// A transaction's [`expect`](super::Transaction::expect) did not hold, so it
    /// was given up.
    Guard,
    /// The request exceeds what a message may carry, or an answer what the caller
    /// would take.
    TooLong,
    /// xenstored answered something else.
    Protocol,
    /// The connection was lost before the answer came.
    Lost,
}

const NAMES: [(&str, Error); 12] = [
    ("ENOENT", Error::NotFound),
    ("EACCES", Error::Denied),
    ("EAGAIN", Error::Again),
    ("EINVAL", Error::Invalid),
    ("EEXIST", Error::Exists),
    ("ENOSPC", Error::NoSpace),
    ("EQUOTA", Error::Quota),
    ("E2BIG", Error::TooBig),
    ("ENOMEM", Error::NoMemory),
    ("ENOSYS", Error::NotSupported),
    ("EPERM", Error::NotPermitted),
    ("EIO", Error::Io),
];

impl Error {
    /// Reads the payload of an `XS_ERROR`.
    pub(super) fn parse(payload: &[u8]) -> Self {
        let name = payload.split(|&byte| byte == 0).next().unwrap_or_default();
        if let Some((_, error)) = NAMES.iter().find(|(known, _)| known.as_bytes() == name) {
            return error.clone();
        }
        let printable = |byte: &&u8| byte.is_ascii_graphic();
        Self::Other(name.iter().filter(printable).take(16).map(|&byte| char::from(byte)).collect())
    }

    /// Whether the node is not there as far as we may know: what a guest's removal
    /// of it, or the toolstack's of its parents, looks like (L-4).
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound | Self::Denied)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such node",
            Self::Denied => "permission denied",
            Self::Again => "transaction met other writers too often",
            Self::Invalid => "invalid path or request",
            Self::Exists => "exists already",
            Self::NoSpace => "quota on nodes, node size or transactions used up",
            Self::Quota => "quota used up",
            Self::TooBig => "quota on watches used up or answer too big",
            Self::NoMemory => "out of memory or quota on memory used up",
            Self::NotSupported => "not supported by xenstored",
            Self::NotPermitted => "not permitted",
            Self::Io => "input/output error in xenstored",
            Self::Other(name) => return write!(f, "xenstored says {name}"),
            Self::Guard => "a node changed meanwhile",
            Self::TooLong => "too long for a message",
            Self::Protocol => "unexpected answer",
            Self::Lost => "connection to xenstored lost",
        })
    }
}
