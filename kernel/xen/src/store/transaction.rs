//! Transactions: written down in advance, run as a whole.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::operation::Progress;
use super::wire::{self, Request};
use super::{Error, Reply};
use crate::bindings::{XS_READ, XS_RM, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WRITE};

/// How often a transaction is tried before [`Error::Again`] is the answer.
pub const TRANSACTION_TRIES: u32 = 8;

/// Steps that happen all or not at all.
#[derive(Default, Debug)]
pub struct Transaction {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Expect { path: String, value: Vec<u8> },
    Write { path: String, value: Vec<u8> },
    Remove { path: String },
}

impl Transaction {
    /// No steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up with [`Error::Guard`] unless the node is there and holds `value`.
    /// With this a write cannot bring back a node that its owner removed.
    #[must_use]
    pub fn expect(self, path: &str, value: &[u8]) -> Self {
        self.with(Step::Expect { path: path.to_owned(), value: value.to_owned() })
    }

    /// Writes a node, making it and its parents where missing.
    #[must_use]
    pub fn write(self, path: &str, value: &[u8]) -> Self {
        self.with(Step::Write { path: path.to_owned(), value: value.to_owned() })
    }

    /// Removes a node and all below it; where there is none, that is as well.
    #[must_use]
    pub fn remove(self, path: &str) -> Self {
        self.with(Step::Remove { path: path.to_owned() })
    }

    fn with(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Expect { path, value } | Step::Write { path, value } => wire::check(path, value),
            Step::Remove { path } => wire::check(path, &[]),
        })
    }
}

impl Step {
    fn request(&self, transaction: u32) -> Request {
        match self {
            Self::Expect { path, .. } => Request::new(XS_READ, transaction, &[path]),
            Self::Write { path, value } => {
                Request::new(XS_WRITE, transaction, &[path]).with_value(value)
            }
            Self::Remove { path } => Request::new(XS_RM, transaction, &[path]),
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Self::Expect { .. } => XS_READ,
            Self::Write { .. } => XS_WRITE,
            Self::Remove { .. } => XS_RM,
        }
    }

    fn outcome(&self, answer: Result<Vec<u8>, Error>) -> Result<(), Error> {
        match (self, answer) {
            (Self::Expect { value, .. }, Ok(found)) if *value == found => Ok(()),
            (Self::Expect { .. }, Ok(_)) => Err(Error::Guard),
            (Self::Expect { .. }, Err(error)) if error.is_absence() => Err(Error::Guard),
            (Self::Remove { .. }, Err(Error::NotFound)) => Ok(()),
            (_, answer) => answer.map(|_| ()),
        }
    }
}

/// A transaction under way: start, all steps at once, end; the end commits where
/// every step succeeded and gives up otherwise, so that none stays open at
/// xenstored, which allows ten (L-9).
pub(super) struct Running {
    steps: Vec<Step>,
    tries: u32,
    phase: Phase,
}

enum Phase {
    Start { sent: bool },
    Steps { transaction: u32, sent: usize, answered: usize, outcome: Result<(), Error> },
    End { transaction: u32, sent: bool, outcome: Result<(), Error> },
}

const START: Phase = Phase::Start { sent: false };

impl Running {
    pub(super) fn new(transaction: Transaction) -> Self {
        Self { steps: transaction.steps, tries: 0, phase: START }
    }

    pub(super) fn next(&mut self) -> Option<(usize, Request)> {
        match &mut self.phase {
            Phase::Start { sent } if !*sent => {
                *sent = true;
                Some((0, Request::new(XS_TRANSACTION_START, 0, &[""])))
            }
            Phase::Steps { transaction, sent, outcome: Ok(()), .. } => {
                let part = *sent;
                let request = self.steps.get(part)?.request(*transaction);
                *sent += 1;
                Some((part, request))
            }
            Phase::End { transaction, sent, outcome } if !*sent => {
                *sent = true;
                let verdict = if outcome.is_ok() { "T" } else { "F" };
                Some((0, Request::new(XS_TRANSACTION_END, *transaction, &[verdict])))
            }
            _ => None,
        }
    }

    pub(super) fn kind(&self, part: usize) -> u32 {
        match &self.phase {
            Phase::Start { .. } => XS_TRANSACTION_START,
            Phase::Steps { .. } => self.steps.get(part).map_or(XS_READ, Step::kind),
            Phase::End { .. } => XS_TRANSACTION_END,
        }
    }

    pub(super) fn answer(&mut self, part: usize, answer: Result<Vec<u8>, Error>) -> Progress {
        match &mut self.phase {
            Phase::Start { .. } => match answer.and_then(|payload| number(&payload)) {
                Ok(transaction) => self.steps(transaction),
                Err(error) => self.finish(Err(error)),
            },
            Phase::Steps { transaction, sent, answered, outcome } => {
                *answered += 1;
                if let (Ok(()), Some(step)) = (&outcome, self.steps.get(part)) {
                    *outcome = step.outcome(answer);
                }
                let all_sent = *sent == self.steps.len() || outcome.is_err();
                if all_sent && *answered == *sent {
                    let outcome = core::mem::replace(outcome, Ok(()));
                    self.phase = Phase::End { transaction: *transaction, sent: false, outcome };
                }
                Progress::Wait
            }
            Phase::End { outcome, .. } => {
                let outcome = core::mem::replace(outcome, Ok(())).and(answer.map(|_| ()));
                self.finish(outcome)
            }
        }
    }

    fn steps(&mut self, transaction: u32) -> Progress {
        self.phase = if self.steps.is_empty() {
            Phase::End { transaction, sent: false, outcome: Ok(()) }
        } else {
            Phase::Steps { transaction, sent: 0, answered: 0, outcome: Ok(()) }
        };
        Progress::Wait
    }

    fn finish(&mut self, outcome: Result<(), Error>) -> Progress {
        self.tries += 1;
        if outcome == Err(Error::Again) && self.tries < TRANSACTION_TRIES {
            self.phase = START;
            return Progress::Wait;
        }
        Progress::Done(outcome.map(|()| Reply::Done))
    }
}

/// The id that starts a transaction: decimal, and not the zero that means none.
fn number(payload: &[u8]) -> Result<u32, Error> {
    let text = payload.strip_suffix(b"\0").unwrap_or(payload);
    match core::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(0) | None => Err(Error::Protocol),
        Some(id) => Ok(id),
    }
}
