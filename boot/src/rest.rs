//! What a vCPU has for when there is nothing to do: its timer, and the bell by which others
//! wake it.

use alloc::sync::Arc;

use kernel::arch::cpu;
use kernel::events;
use kernel::link::Bell;
use xen::event::EventPort;
use xen::hypercall::{self, Xen};
use xen::{Errno, Instant};

/// Where a vCPU rests.
pub struct Rest {
    xen: Xen,
    bell: Arc<Bell>,
    timer: EventPort,
    /// When the timer is set to.
    set_to: Option<Instant>,
}

impl Rest {
    /// Binds the events of a vCPU that wake it.
    pub fn new(xen: Xen) -> Result<Self, Errno> {
        let (timer, ipi) = (xen.bind_timer()?, xen.bind_ipi()?);
        for port in [timer, ipi] {
            hypercall::unmask(port)?;
        }
        Ok(Self { xen, bell: Arc::new(Bell::new(ipi)), timer, set_to: None })
    }

    /// The vCPU's bell.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Takes note of an event; whether it was the timer's.
    pub fn event(&mut self, port: EventPort) -> bool {
        let timer = port == self.timer;
        if timer {
            self.set_to = None;
        }
        timer
    }

    /// Sleeps until something happens, at the latest at `deadline`.
    pub fn until(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.set_to.is_none_or(|set_to| deadline < set_to)
        {
            // A moment in the past raises the event at once.
            match self.xen.set_timer(deadline) {
                Ok(()) => self.set_to = Some(deadline),
                Err(error) => log::error!("timer: {error}"),
            }
        }
        cpu::sleep_unless(|| events::any(self.xen.vcpu()) || !self.bell.may_sleep());
        self.bell.awake();
    }
}
