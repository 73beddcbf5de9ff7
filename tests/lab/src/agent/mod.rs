//! What runs inside dom0 and the guests: commands for the harness, and traffic
//! with a content that the other end can check.

pub mod noise;
pub mod pktgen;
pub mod protocol;
pub mod serve;
pub mod stream;
pub mod transfer;
