//! The NIC of a world: its driver is the domain's, the rest is the test's.

use drivers::nic::{Cause, Nic};
use kernel::DmaRegion;
use xen::fake::FakeXen;

/// A device, and the wire behind it; its clones are the same.
pub trait Uplink: Clone {
    /// The device's driver.
    type Nic: Nic;
    /// How many large buffers a device has to receive into, until it is stopped.
    const KEEPS: usize;
    /// How often a second the driver looks at a device with which nothing happens.
    const LOOKS: usize;

    /// A device in this machine.
    fn new(xen: &FakeXen) -> Self;

    /// Its driver, of which there is one.
    fn driver(&self, xen: &FakeXen) -> Self::Nic;

    /// Whether the device interrupts.
    fn interrupts(&self) -> bool;

    /// Takes what it interrupts for.
    fn take_interrupts(&self) -> Vec<Cause>;

    /// A frame arrives.
    fn inject(&self, frame: Vec<u8>);

    /// Takes what was sent.
    fn take_frames(&self) -> Vec<Vec<u8>>;

    /// Has the device keep what it is given until [`complete`](Self::complete).
    fn pause(&self);

    /// The regions of each packet that it has not sent.
    fn held(&self) -> Vec<Vec<DmaRegion>>;

    /// It sends the oldest packet. Whether there was one.
    fn complete(&self) -> bool;
}
