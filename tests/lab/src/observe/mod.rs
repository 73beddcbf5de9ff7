//! What a run is judged by: the wire, Xen's own counts and Xen's log, all seen from
//! outside of Causeway, and its own counters, which have to agree with them.

pub mod counters;
pub mod snapshot;
pub mod wire;
pub mod xen_log;
