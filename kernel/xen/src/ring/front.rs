//! The frontend's end of a ring, for tests of ours: an honest one, which watches
//! that we are, and the words of the page for one that is not.

use core::marker::PhantomData;
use core::sync::atomic::{Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{BackRing, REQUEST_EVENT, REQUEST_PRODUCER, RESPONSE_EVENT, RESPONSE_PRODUCER};
use crate::SharedPage;

/// An index in a ring's page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// Requests up to here are there.
    RequestProducer,
    /// The backend wants an event for the request before this.
    RequestEvent,
    /// Responses up to here are there.
    ResponseProducer,
    /// The frontend wants an event for the response before this.
    ResponseEvent,
}

impl Word {
    fn offset(self) -> usize {
        match self {
            Self::RequestProducer => REQUEST_PRODUCER,
            Self::RequestEvent => REQUEST_EVENT,
            Self::ResponseProducer => RESPONSE_PRODUCER,
            Self::ResponseEvent => RESPONSE_EVENT,
        }
    }
}

/// A ring of `SIZE` slots, as its frontend has it.
#[derive(Debug)]
pub struct FrontRing<Request, Response, const SIZE: u32> {
    page: SharedPage,
    /// Requests up to here are written.
    produced: u32,
    /// Requests up to here are published.
    published: u32,
    /// Responses up to here are taken.
    consumed: u32,
    types: PhantomData<(Request, Response)>,
}

impl<Request, Response, const SIZE: u32> FrontRing<Request, Response, SIZE>
where
    Request: FromBytes + IntoBytes + Immutable,
    Response: FromBytes + IntoBytes + Immutable,
{
    /// Makes an empty ring in `page`.
    pub fn new(page: SharedPage) -> Self {
        Self::starting_at(page, 0)
    }

    /// Makes an empty ring in `page` whose indices start at `index`.
    pub fn starting_at(page: SharedPage, index: u32) -> Self {
        page.store(REQUEST_PRODUCER, index);
        page.store(REQUEST_EVENT, index.wrapping_add(1));
        page.store(RESPONSE_PRODUCER, index);
        page.store(RESPONSE_EVENT, index.wrapping_add(1));
        Self { page, produced: index, published: index, consumed: index, types: PhantomData }
    }

    /// The same ring, seen at another place.
    pub fn seen_at(&self, page: SharedPage) -> Self {
        Self { page, types: PhantomData, ..*self }
    }

    /// The responses that are there to be taken.
    pub fn responses(&self) -> impl Iterator<Item = Response> {
        let there = self.page.load(RESPONSE_PRODUCER).wrapping_sub(self.consumed);
        let asked = self.published.wrapping_sub(self.consumed);
        let there = (0..there.min(asked)).map(|n| self.consumed.wrapping_add(n));
        there.map(|index| self.page.read(Self::slot(index)))
    }

    /// How many requests fit.
    pub fn free(&self) -> u32 {
        SIZE - self.produced.wrapping_sub(self.consumed)
    }

    /// Writes a request, to be seen with the next [`publish`](Self::publish); gives
    /// it back where none fits.
    pub fn push(&mut self, request: Request) -> Result<(), Request> {
        if self.free() == 0 {
            return Err(request);
        }
        self.write(self.produced, &request);
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }

    /// Shows the backend the requests written, and says whether it asked to be
    /// notified of one of them.
    pub fn publish(&mut self) -> bool {
        let (new, old) = (self.produced, self.published);
        self.page.store(REQUEST_PRODUCER, new);
        self.published = new;
        fence(Ordering::SeqCst);
        let event = self.page.load(REQUEST_EVENT);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Takes the next response, and clears its slot: nobody may look at it any more.
    ///
    /// # Panics
    /// If there are more responses than requests: a frontend would give up on a
    /// backend that claims so (P-18).
    pub fn take(&mut self) -> Option<Response> {
        let there = self.page.load(RESPONSE_PRODUCER).wrapping_sub(self.consumed);
        let asked = self.published.wrapping_sub(self.consumed);
        assert!(there <= asked, "{there} responses to {asked} requests");
        if there == 0 {
            return None;
        }
        let slot = Self::slot(self.consumed);
        let response = self.page.read(slot);
        self.page.write(slot, &Response::new_zeroed());
        self.consumed = self.consumed.wrapping_add(1);
        Some(response)
    }

    /// Asks for an event with the next response, and says whether there is one
    /// already.
    pub fn rearm(&mut self) -> bool {
        self.page.store(RESPONSE_EVENT, self.consumed.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.page.load(RESPONSE_PRODUCER) != self.consumed
    }

    /// Reads an index.
    pub fn word(&self, word: Word) -> u32 {
        self.page.load(word.offset())
    }

    /// Writes an index, as no honest frontend does.
    pub fn set_word(&self, word: Word, value: u32) {
        self.page.store(word.offset(), value);
    }

    /// Writes the slot that `index` names, whoever's it is.
    pub fn write(&self, index: u32, request: &Request) {
        self.page.write(Self::slot(index), request);
    }

    fn slot(index: u32) -> usize {
        BackRing::<Request, Response, SIZE>::slot(index)
    }
}
