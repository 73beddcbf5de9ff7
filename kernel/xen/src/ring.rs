//! Shared rings, the backend's end (ring.h; NETBACK-SPEC P-1 to P-6).
//!
//! One page holds four indices and a power of two of slots; an index counts for
//! ever and its low bits name a slot. The page is the frontend's to scribble on, so
//! each index is read once where it is needed, each slot is copied out once, and
//! what we published ourselves is remembered here and never read back.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{PAGE_SIZE, SharedPage};

#[cfg(any(test, feature = "fake"))]
mod front;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "fake"))]
pub use front::{FrontRing, Word};

/// Slots of a transmit ring.
pub const TX_RING_SIZE: u32 = 256;
/// Slots of a receive ring.
pub const RX_RING_SIZE: u32 = 256;
/// Slots of a control ring.
pub const CTRL_RING_SIZE: u32 = 128;

/// Where the indices are, and the first slot (ring.h, `DEFINE_RING_TYPES`).
const REQUEST_PRODUCER: usize = 0;
const REQUEST_EVENT: usize = 4;
const RESPONSE_PRODUCER: usize = 8;
const RESPONSE_EVENT: usize = 12;
const SLOTS: usize = 64;

/// How a frontend made its ring unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingError {
    /// More requests are outstanding than the ring has slots.
    Overflow {
        /// The producer index found.
        producer: u32,
        /// The requests that have no response, if one believes it.
        outstanding: u32,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Overflow { producer, outstanding } = self;
        write!(f, "producer index {producer:#x} claims {outstanding} outstanding requests")
    }
}

/// Our own indices: all there is to know of a ring beside its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indices {
    /// Requests up to here are consumed.
    pub request_consumer: u32,
    /// Requests up to here may be consumed: the producer index last read.
    pub request_limit: u32,
    /// Responses up to here are written.
    pub response_producer: u32,
    /// Responses up to here are published.
    pub response_published: u32,
}

/// A ring of `SIZE` slots, from which we take requests and to which we put
/// responses.
#[derive(Debug)]
pub struct BackRing<Request, Response, const SIZE: u32> {
    page: SharedPage,
    indices: Indices,
    types: PhantomData<(Request, Response)>,
}

impl<Request, Response, const SIZE: u32> BackRing<Request, Response, SIZE>
where
    Request: FromBytes + IntoBytes,
    Response: IntoBytes + Immutable,
{
    const SLOT: usize = {
        let (request, response) = (size_of::<Request>(), size_of::<Response>());
        let size = if request > response { request } else { response };
        assert!(SIZE.is_power_of_two() && SLOTS + SIZE as usize * size <= PAGE_SIZE);
        size
    };

    /// Takes over the ring in `page`: requests and responses go on where its
    /// response producer stands (P-6).
    pub fn attach(page: SharedPage) -> Result<Self, RingError> {
        let start = page.load(RESPONSE_PRODUCER);
        let indices = Indices {
            request_consumer: start,
            request_limit: start,
            response_producer: start,
            response_published: start,
        };
        let mut ring = Self { page, indices, types: PhantomData };
        ring.requests()?;
        Ok(ring)
    }

    /// Our indices.
    pub fn indices(&self) -> Indices {
        self.indices
    }

    /// How many requests there are to take. Reads the producer's index when those
    /// seen before are all taken, and only then (P-3).
    pub fn requests(&mut self) -> Result<u32, RingError> {
        let Indices { request_consumer, request_limit, .. } = self.indices;
        match request_limit.wrapping_sub(request_consumer) {
            0 => self.look(),
            seen => Ok(seen),
        }
    }

    /// Reads the producer's index. What is outstanding is counted from the last
    /// response, so that a frontend cannot overwrite slots that were not answered.
    fn look(&mut self) -> Result<u32, RingError> {
        let producer = self.page.load(REQUEST_PRODUCER);
        let outstanding = producer.wrapping_sub(self.indices.response_producer);
        let taken = self.indices.request_consumer.wrapping_sub(self.indices.response_producer);
        if outstanding > SIZE || outstanding < taken {
            return Err(RingError::Overflow { producer, outstanding });
        }
        self.indices.request_limit = producer;
        Ok(producer.wrapping_sub(self.indices.request_consumer))
    }

    /// Takes the next of the requests that [`requests`](Self::requests) saw.
    pub fn take(&mut self) -> Option<Request> {
        if self.indices.request_consumer == self.indices.request_limit {
            return None;
        }
        let request = self.page.read(Self::slot(self.indices.request_consumer));
        self.indices.request_consumer = self.indices.request_consumer.wrapping_add(1);
        Some(request)
    }

    /// Writes the next response; the frontend sees it with the next
    /// [`publish`](Self::publish). There is one for each request taken: one more
    /// is not written, since it would overwrite a request.
    pub fn respond(&mut self, response: Response) {
        let Indices { request_consumer, response_producer, .. } = self.indices;
        if response_producer == request_consumer {
            return;
        }
        self.page.write(Self::slot(response_producer), &response);
        self.indices.response_producer = response_producer.wrapping_add(1);
    }

    /// Shows the frontend the responses written, and says whether it asked to be
    /// notified of one of them (P-4).
    pub fn publish(&mut self) -> bool {
        let Indices { response_producer: new, response_published: old, .. } = self.indices;
        if new == old {
            return false;
        }
        self.page.store(RESPONSE_PRODUCER, new);
        self.indices.response_published = new;
        // The frontend must see the index before we read whether it cares.
        fence(Ordering::SeqCst);
        let event = self.page.load(RESPONSE_EVENT);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Asks for an event once `wanted` requests are there to take, and looks again:
    /// says whether they are there already, in which case no event may come (P-5).
    pub fn rearm(&mut self, wanted: u32) -> Result<bool, RingError> {
        let event = self.indices.request_consumer.wrapping_add(wanted);
        self.page.store(REQUEST_EVENT, event);
        // The frontend must see the event index before we look for requests.
        fence(Ordering::SeqCst);
        Ok(self.look()? >= wanted)
    }

    fn slot(index: u32) -> usize {
        SLOTS + (index % SIZE) as usize * Self::SLOT
    }
}
