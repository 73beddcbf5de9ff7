//! One turn of the domain's loop: what the image does between two sleeps, and the
//! host worlds as well.

use xen::Instant;
use xen::hypercall::Shutdown;

use crate::control::Control;
use crate::netback::VifHost;

/// What passes packets, be it on one vCPU or on several.
pub trait DataPlane: VifHost {
    /// Does one pass over all that is ready. Says whether there is more to do at once, here
    /// or by the control plane.
    fn poll(&mut self, now: Instant) -> bool;

    /// When [`poll`](Self::poll) has to be called next, whatever happens.
    fn next_deadline(&self) -> Option<Instant>;

    /// Whether something has to be looked at without pause.
    fn is_polled(&self) -> bool;
}

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
pub fn turn(
    control: &mut Control,
    network: &mut impl DataPlane,
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
