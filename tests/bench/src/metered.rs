//! The hypervisor in software, at which our time stops.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xen::event::{EventPort, RemotePort};
use xen::fake::FakeXen;
use xen::grant::{GrantCopy, GrantMap, GrantUnmap};
use xen::{DomainId, Errno, ForeignFrame, Hypervisor, SharedPage};

use crate::marks::{NOBODY, mark};

/// Does what is not ours to do. Callgrind stops counting here, by the function's name.
#[inline(never)]
pub fn beyond<R>(vcpu: usize, work: impl FnOnce() -> R) -> R {
    mark(NOBODY);
    let done = work();
    mark(vcpu);
    done
}

/// A hypervisor whose work is not ours.
#[derive(Clone, Debug)]
pub struct Metered {
    xen: FakeXen,
    vcpu: usize,
    spent: Rc<Cell<Duration>>,
}

impl Metered {
    /// Around the hypervisor in software, as the first vCPU reaches it.
    pub fn new(xen: FakeXen) -> Self {
        Self { xen, vcpu: 0, spent: Rc::default() }
    }

    /// The same for another vCPU.
    #[must_use]
    pub fn of(&self, vcpu: usize) -> Self {
        Self { vcpu, ..self.clone() }
    }

    /// How long it has worked.
    pub fn spent(&self) -> Duration {
        self.spent.get()
    }

    fn timed<R>(&self, work: impl FnOnce(&FakeXen) -> R) -> R {
        beyond(self.vcpu, || {
            let start = Instant::now();
            let result = work(&self.xen);
            self.spent.set(self.spent.get() + start.elapsed());
            result
        })
    }
}

impl Hypervisor for Metered {
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) {
        self.timed(|xen| {
            // SAFETY: the caller's contract.
            unsafe { xen.grant_copy(batch) }
        });
    }

    fn grant_map(&self, batch: &mut [GrantMap]) {
        self.timed(|xen| xen.grant_map(batch));
    }

    fn grant_unmap(&self, batch: &mut [GrantUnmap]) {
        self.timed(|xen| xen.grant_unmap(batch));
    }

    fn page(&self, frame: &ForeignFrame) -> SharedPage {
        self.timed(|xen| xen.page(frame))
    }

    fn bind_interdomain(&self, domain: DomainId, remote: RemotePort) -> Result<EventPort, Errno> {
        self.timed(|xen| xen.bind_interdomain(domain, remote))
    }

    fn close(&self, port: EventPort) -> Result<(), Errno> {
        self.timed(|xen| xen.close(port))
    }

    fn notify(&self, port: EventPort) {
        self.timed(|xen| xen.notify(port));
    }

    fn now(&self) -> xen::Instant {
        self.timed(FakeXen::now)
    }
}
