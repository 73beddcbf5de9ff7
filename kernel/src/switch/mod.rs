//! Which port a packet goes to.

mod port;
mod queue;

pub use port::{Holding, Port};
pub use queue::PortQueue;
