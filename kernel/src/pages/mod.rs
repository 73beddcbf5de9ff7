//! Lent pages: which guest lent them, who holds them, when they go home.

mod tracker;

pub use tracker::{Claim, Counters, Hold, Response, ShardId, Tracker};
