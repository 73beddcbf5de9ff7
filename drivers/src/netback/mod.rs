//! The backend half of guests' network interfaces.

mod backend;
pub mod data;
mod host;
mod keys;
pub mod state;
mod vif;

use core::fmt;

use xen::DomainId;

pub use backend::{Backend, MAX_VIFS};
pub use host::{Carrier, Progress, Urgency, VifHost};
pub use keys::{BridgeName, ConnectRequest, ControlRing, Frontend, KeyError, MAX_QUEUES};
pub use keys::{Options, Problem, QueueKeys, QueueRings, Rate, RemotePorts, VifConfig};

/// Which vif: a guest, and its number among the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VifId {
    /// The guest.
    pub frontend: DomainId,
    /// The device's number in the guest.
    pub handle: u32,
}

impl fmt::Display for VifId {
    /// As Linux names a backend's interface, and so the toolstack's documents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vif{}.{}", self.frontend.0, self.handle)
    }
}
