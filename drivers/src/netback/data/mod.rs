//! The data path of a vif: from ring slots to packets and back.

mod chain;
mod common;
mod credit;
mod rx;
mod tx;
mod vif;

pub use chain::Violation;
pub use credit::Credit;
pub use rx::{MAX_HEADROOM, RxCounters, STALL_TIMEOUT};
pub use tx::{TxCounters, is_short};
pub use vif::{AttachError, Vif, VifCounters, patience};
