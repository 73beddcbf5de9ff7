//! What a run is judged by, seen from outside of Causeway: the wire, Xen's own
//! counts, Xen's log.

pub mod snapshot;
pub mod wire;
pub mod xen_log;
