//! Lent pages: who lent which, who holds it, and when it goes home.
//!
//! One record per request slot of a transmit ring: the page a guest lends from its
//! request to our response. Its states, and the only edges between them:
//!
//! ```text
//! free → held(n) → responding → free
//!         ↓   ↑ (the map failed)   ↑
//!        mapping → mapped → unmapping → quarantined
//! ```
//!
//! Whoever looks at the page owns a [`Hold`], whether it is mapped or not; the last
//! one released makes the response due, after the unmap where the page was mapped
//! (NETBACK-SPEC O-2, O-3). A page whose unmap failed is quarantined: there is no
//! response, and its frame is never used again. A queue's records form a shard, which
//! outlives the queue until the last hold is back; by then its generation is stale
//! and nothing is answered (O-13).
//!
//! Where the domain has several vCPUs, each has a tracker, and pages that one holds and
//! another looks at are lent once more, by the one to the other (`link`).
//!
//! [`choice`] decides which pages are mapped for a device, and which packets copied.

pub mod choice;
mod mapping;
mod page;
mod shard;
#[cfg(test)]
mod tests;
mod tracker;

pub use page::Page;
pub use tracker::{Census, Claim, Counters, Hold, Response, ShardId, Tracker};
