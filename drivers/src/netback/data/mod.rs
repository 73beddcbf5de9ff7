//! The data path of a vif: from ring slots to packets and back.

mod chain;
mod control;
mod queue;
mod rx;
mod steering;
mod tx;
mod vif;

pub use chain::Violation;
pub use rx::{RxCounters, STALL_TIMEOUT};
pub use tx::{TxCounters, is_short};
pub use vif::{AttachError, QueueStatus, Signal, Vif, VifCounters, patience};
