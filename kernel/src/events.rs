//! What happened since the event loop of a vCPU last looked: event channels and device
//! vectors. Interrupt handlers mark, the loop takes, both on the vCPU itself.

use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;
use xen::event::{EventPort, Marks, OWNERS, Upcalls, VCPUS};

/// What a vCPU has.
struct Events {
    upcalls: Once<Upcalls>,
    ports: Marks,
    /// Device vectors that fired, a bit each.
    devices: AtomicU32,
}

static EVENTS: [Events; VCPUS as usize] =
    [const { Events { upcalls: Once::new(), ports: Marks::new(), devices: AtomicU32::new(0) } };
        VCPUS as usize];

/// Starts to take a vCPU's events from Xen. What came before is collected at once.
pub fn start(vcpu: u32, upcalls: Upcalls) {
    let events = &EVENTS[vcpu as usize];
    events.upcalls.call_once(|| upcalls).collect(&OWNERS, &events.ports);
}

/// Marks what Xen says is pending.
pub fn collect(vcpu: u32) {
    let events = &EVENTS[vcpu as usize];
    if let Some(upcalls) = events.upcalls.get() {
        upcalls.collect(&OWNERS, &events.ports);
    }
}

/// Marks a device's vector.
pub fn mark_device(vcpu: u32, number: u32) {
    EVENTS[vcpu as usize].devices.fetch_or(1 << number, Ordering::AcqRel);
}

/// Takes all marks of event channels.
pub fn take_ports(vcpu: u32, each: impl FnMut(EventPort)) {
    EVENTS[vcpu as usize].ports.take(each);
}

/// Takes all marks of device vectors, a bit each.
pub fn take_devices(vcpu: u32) -> u32 {
    EVENTS[vcpu as usize].devices.swap(0, Ordering::AcqRel)
}

/// Whether anything is marked or about to be. With interrupts off, the last look
/// before sleep: nothing that comes later can be missed.
pub fn any(vcpu: u32) -> bool {
    let events = &EVENTS[vcpu as usize];
    events.ports.any()
        || events.devices.load(Ordering::Acquire) != 0
        || events.upcalls.get().is_some_and(Upcalls::any)
}
