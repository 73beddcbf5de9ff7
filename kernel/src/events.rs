//! What happened since the event loop last looked: event channels and device
//! vectors. Interrupt handlers mark, the loop takes.

use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;
use xen::event::{EventPort, Marks, Upcalls};

static UPCALLS: Once<Upcalls> = Once::new();
static PORTS: Marks = Marks::new();
/// Device vectors that fired, a bit each.
static DEVICES: AtomicU32 = AtomicU32::new(0);

/// Starts to take events from Xen. What came before is collected at once.
pub fn start(upcalls: Upcalls) {
    UPCALLS.call_once(|| upcalls).collect(&PORTS);
}

/// Marks what Xen says is pending.
pub fn collect() {
    if let Some(upcalls) = UPCALLS.get() {
        upcalls.collect(&PORTS);
    }
}

/// Marks a device's vector.
pub fn mark_device(number: u32) {
    DEVICES.fetch_or(1 << number, Ordering::AcqRel);
}

/// Takes all marks of event channels.
pub fn take_ports(each: impl FnMut(EventPort)) {
    PORTS.take(each);
}

/// Takes all marks of device vectors, a bit each.
pub fn take_devices() -> u32 {
    DEVICES.swap(0, Ordering::AcqRel)
}

/// Whether anything is marked or about to be. With interrupts off, the last look
/// before sleep: nothing that comes later can be missed.
pub fn any() -> bool {
    PORTS.any() || DEVICES.load(Ordering::Acquire) != 0 || UPCALLS.get().is_some_and(Upcalls::any)
}
