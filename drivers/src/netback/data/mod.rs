//! The data path of a vif: from ring slots to packets and back.

mod chain;
mod common;
mod control;
mod credit;
mod queue;
mod rx;
mod steering;
mod tx;
mod vif;

pub use chain::Violation;
pub use credit::Credit;
pub use rx::{MAX_HEADROOM, RxCounters, STALL_TIMEOUT};
pub use tx::{TxCounters, is_short};
pub use vif::{AttachError, QueueStatus, Signal, Vif, VifCounters, patience};
