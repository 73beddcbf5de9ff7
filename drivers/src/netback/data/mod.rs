//! The data path of a vif: from ring slots to packets and back.

mod chain;
mod rx;
mod tx;
mod vif;

pub use chain::Violation;
pub use rx::{RxCounters, STALL_TIMEOUT};
pub use tx::{TxCounters, is_short};
pub use vif::{AttachError, Vif, VifCounters, patience};
