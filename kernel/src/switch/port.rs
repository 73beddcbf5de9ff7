//! What a switch has ports to: guests' vifs and the NIC, behind one trait, so that
//! the switch never names a driver.

use core::time::Duration;

use xen::Instant;

use super::PortQueue;
use crate::Pools;

/// How long a port may look at a guest's page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holding {
    /// It never does: it takes packets that lie in our memory only.
    Private,
    /// At most so long, by a mechanism the port names where it says so.
    AtMost(Duration),
}

/// The far side of a switch's port.
pub trait Port {
    /// Sends from the front of `queue` what can be sent now, in order, and leaves
    /// the rest. Packets that end here go back to `pools`.
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant);

    /// How long the port may hold lent pages.
    fn holding(&self) -> Holding;
}
