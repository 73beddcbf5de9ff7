//! vCPUs beside the first: each passes the packets of its network, and does nothing else.

use alloc::boxed::Box;
use core::ptr::{self, NonNull};

use drivers::fabric;
use drivers::turn::DataPlane;
use kernel::arch::{apic, cpu, interrupts, paging};
use kernel::events;
use kernel::memory::Ram;
use xen::hypercall::{self, Start, Xen};
use xen::{Errno, Hypervisor};

use crate::bring_up;
use crate::nic::Driver;
use crate::rest::Rest;

/// Pages of a stack, and the one that ends it.
pub const STACK: usize = 16 + 1;

/// A vCPU's network, for good.
pub type Shared = &'static fabric::Shared<Xen, Driver>;

/// All that such a vCPU has.
pub struct Secondary {
    /// The hypervisor, as it reaches it.
    pub xen: Xen,
    /// Its network.
    pub network: Shared,
    /// Where it rests.
    pub rest: Rest,
}

impl Secondary {
    /// Has the vCPU begin, on a stack of [`STACK`] pages.
    pub fn start(self, stack: Ram) -> Result<(), Errno> {
        let (bottom, top) = stack.into_addresses();
        paging::unmap(bottom as u64);
        let vcpu = self.xen.vcpu();
        let argument = Box::into_raw(Box::new(self)).expose_provenance();
        let control = cpu::control_registers();
        // SAFETY: the stack is the vCPU's alone, and so is what the argument points to.
        unsafe { hypercall::start_vcpu(vcpu, Start { entry, argument, stack: top, control }) }
    }

    fn run(mut self) -> ! {
        cpu::enable_interrupts();
        loop {
            let (more, deadline) = {
                let mut network = self.network.lock();
                events::take_ports(self.xen.vcpu(), |port| {
                    if !self.rest.event(port) {
                        network.event(port);
                    }
                });
                let now = self.xen.now();
                let more = network.poll(now);
                let deadline = network.next_deadline();
                (more || deadline.is_some_and(|deadline| deadline <= now), deadline)
            };
            if !more {
                self.rest.until(deadline);
            }
        }
    }
}

/// Where the vCPU begins, with the address of what [`Secondary::start`] gave it.
extern "C" fn entry(argument: usize) -> ! {
    let argument = NonNull::new(ptr::with_exposed_provenance_mut::<Secondary>(argument));
    let Some(secondary) = argument else { panic!("a vCPU without anything") };
    // SAFETY: from `into_raw`, and nobody else's.
    let secondary = unsafe { *Box::from_raw(secondary.as_ptr()) };
    let vcpu = secondary.xen.vcpu();
    cpu::enable_write_back();
    // SAFETY: once, with interrupts off.
    unsafe { interrupts::load_on(vcpu) };
    apic::enable(interrupts::SPURIOUS_VECTOR);
    match bring_up::take_upcalls(vcpu) {
        Ok(()) => secondary.run(),
        Err(error) => panic!("vcpu{vcpu}: {error}"),
    }
}
