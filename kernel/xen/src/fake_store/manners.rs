//! How xenstored treats those who talk to it.

use core::time::Duration;

use super::tree::Errno;
use super::wire::{message, word};

/// xenstored's manners; those of an honest one by default.
#[derive(Default)]
pub struct Manners {
    /// What each request takes. It does one at a time of each domain's.
    pub pace: Duration,
    /// It takes nothing and sends nothing.
    pub dead: bool,
    /// Every so-many-th request is answered with this error instead of being done.
    pub refuses: Option<(usize, &'static str)>,
    /// What is sent in place of each message.
    pub lies: Option<Lies>,
}

/// Makes of a message what is sent in its place.
pub type Lies = Box<dyn FnMut(Message) -> Vec<Message>>;

/// A message to a domain.
#[derive(Clone, Debug)]
pub struct Message {
    /// `XS_*`.
    pub kind: u32,
    /// Of the request that it answers.
    pub id: u32,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Manners {
    /// The error for the n-th request, if it is to have one.
    pub(super) fn refuse(&self, n: usize) -> Option<Errno> {
        self.refuses.and_then(|(every, errno)| n.is_multiple_of(every).then_some(errno))
    }

    /// What is sent for a message.
    pub(super) fn tell(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(lies) = &mut self.lies else { return vec![bytes] };
        let (kind, id, payload) = (word(&bytes, 0), word(&bytes, 1), bytes[16..].to_vec());
        let told = lies(Message { kind, id, payload }).into_iter();
        told.map(|Message { kind, id, payload }| message(kind, id, 0, &payload)).collect()
    }
}
