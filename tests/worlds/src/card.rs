//! A card: the driver that the image has, on its device in software.

use std::rc::Rc;

use drivers::fake::{Bar, Device, Model, QUEUES};
use drivers::nic::e1000e::E1000e;
use drivers::nic::{Cause, PoolBuffers};
use kernel::DmaRegion;
use kernel::memory::DmaPages;
use xen::fake::FakeXen;

use crate::uplink::Uplink;
use crate::world::ram;

/// An 82574 with its wire.
#[derive(Clone)]
pub struct Card {
    /// The device.
    pub device: Rc<Device>,
}

impl Card {
    /// QEMU's device: a descriptor tells it of no more than a page, and a message masks
    /// its cause.
    pub fn emulated(xen: &FakeXen) -> Self {
        let model = Model::nic();
        model.set(0x2c, 0x8086);
        let device = Device::new(model, xen.clone());
        device.faults.masks_itself.set(true);
        Self { device }
    }
}

impl Uplink for Card {
    type Nic = E1000e<Bar, Rc<Device>, PoolBuffers>;
    // All slots of its ring but one (7.1.4).
    const KEEPS: usize = 255;
    const LOOKS: usize = 1;

    fn new(xen: &FakeXen) -> Self {
        Self { device: Device::new(Model::nic(), xen.clone()) }
    }

    fn driver(&self, xen: &FakeXen) -> Self::Nic {
        let mut pages = DmaPages::new(ram(xen, 2));
        let rings = std::array::from_fn(|_| pages.take().expect("one of two"));
        self.device.driver(rings, true, PoolBuffers)
    }

    fn interrupts(&self) -> bool {
        !self.device.messages.borrow().is_empty()
    }

    fn take_interrupts(&self) -> Vec<Cause> {
        let cause = |vector| if vector == QUEUES { Cause::Queues } else { Cause::Other };
        self.device.messages.take().into_iter().map(cause).collect()
    }

    fn inject(&self, frame: Vec<u8>) {
        assert!(self.device.arrive(&frame), "the device has a buffer");
    }

    fn take_frames(&self) -> Vec<Vec<u8>> {
        self.device.wire.take()
    }

    fn pause(&self) {
        self.device.faults.stalled.set(true);
    }

    fn held(&self) -> Vec<Vec<DmaRegion>> {
        self.device.unsent()
    }

    fn complete(&self) -> bool {
        let sent = self.device.wire.borrow().len();
        self.device.send_one();
        self.device.wire.borrow().len() > sent
    }
}
