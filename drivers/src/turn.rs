//! One turn of the domain's loop: what the image does between two sleeps, and the
//! host worlds as well.

use xen::hypercall::Shutdown;
use xen::{Hypervisor, Instant};

use crate::control::Control;
use crate::network::Network;
use crate::nic::Nic;

/// What follows a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Another turn, at once.
    Again,
    /// Sleep until something happens, at the latest until then.
    Sleep(Option<Instant>),
    /// The end of the domain: all vifs are closed, or past waiting for.
    End(Shutdown),
}

/// Does one pass over all that is ready, once events and interrupts are noted.
/// `notify` raises the event at xenstored's end.
pub fn turn<H: Hypervisor, N: Nic>(
    control: &mut Control,
    network: &mut Network<H, N>,
    now: Instant,
    notify: impl FnMut(),
) -> Next {
    let outlook = control.poll(network, now, notify);
    if let Some(reason) = outlook.shutdown {
        return Next::End(reason);
    }
    let more = network.poll(now);
    let deadline = outlook.deadline.into_iter().chain(network.next_deadline()).min();
    let due = deadline.is_some_and(|deadline| deadline <= now);
    if more || due || network.is_polled() { Next::Again } else { Next::Sleep(deadline) }
}
