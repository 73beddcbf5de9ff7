//! The seam between Causeway and the hypervisor.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

use crate::event::{EventPort, RemotePort};
use crate::grant::{GrantCopy, GrantMap, GrantUnmap};
use crate::{DomainId, ForeignFrame, SharedPage};

/// What Causeway asks of the hypervisor while it runs. Always a generic
/// parameter, so that on the packet path a call is a call.
pub trait Hypervisor: Clone {
    /// Runs a batch of copies; each says for itself what became of it.
    ///
    /// # Safety
    /// Local operands are memory that the caller owns, and no reference to any
    /// byte of it is alive during the call.
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]);

    /// Maps a batch of granted pages; each says for itself what became of it.
    fn grant_map(&self, batch: &mut [GrantMap]);

    /// Unmaps a batch; each says for itself what became of it.
    fn grant_unmap(&self, batch: &mut [GrantUnmap]);

    /// The page at a frame, to be read and written from here. Without a mapping
    /// reads return ones and writes go nowhere (NETBACK-SPEC H-10).
    fn page(&self, frame: &ForeignFrame) -> SharedPage;

    /// Binds a port of ours to one that `domain` opened for us, unmasked. Raises
    /// one spurious event (H-14).
    fn bind_interdomain(&self, domain: DomainId, remote: RemotePort) -> Result<EventPort, Errno>;

    /// Closes a port of ours.
    fn close(&self, port: EventPort) -> Result<(), Errno>;

    /// Raises the event at a port's other end.
    fn notify(&self, port: EventPort);

    /// The time since the host started. It can step back by little where the host
    /// recalibrates; differences saturate.
    fn now(&self) -> Instant;
}

/// An error number of the hypervisor's, positive (`XEN_E*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub u32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

/// A moment, in nanoseconds since the host started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// The time from `earlier` until now; zero where `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
