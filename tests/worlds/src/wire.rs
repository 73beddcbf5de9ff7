//! A NIC whose wire is a list.
//!
//! Its device reads packets as a real one does: by DMA address, through the domain's
//! physical map, when it sends them and not when it is given them. A page that is
//! gone by then is a fault, one that changed is seen in what was sent.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use drivers::nic::{Cause, Link, Nic, Statistics, Status};
use kernel::memory::Size;
use kernel::packet::{Batch, Checksum, Linear, MacAddress, Packet};
use kernel::switch::{Holding, Port, PortQueue, Traffic, Versions};
use kernel::{DmaRegion, DmaRegions, HEADROOM, Pools};
use xen::fake::FakeXen;
use xen::{Hypervisor, Instant};

use crate::uplink::Uplink;

/// For how long the NIC says it may hold a page.
const HOLDS: Duration = Duration::from_secs(4);
/// Descriptors of a ring in which nobody wants for room.
const ROOMY: usize = 255;

/// The wire, and the test's hand on the NIC; clones are the same.
#[derive(Clone, Debug)]
pub struct Wire(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    xen: FakeXen,
    holding: Holding,
    phase: Phase,
    /// Whether the cable has another end.
    link: bool,
    pace: Pace,
    /// By descriptor, what the device has not sent yet, the oldest first.
    ring: VecDeque<DmaRegions>,
    /// Packets sent that the driver has not looked for.
    done: usize,
    sent: Vec<(Instant, Vec<u8>)>,
    arriving: VecDeque<Vec<u8>>,
    armed: bool,
    interrupt: bool,
    /// Whether the driver is to find that the device does not get on.
    stalled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Stopped,
    Starting,
    Running,
    Resetting,
    Stopping,
}

/// When the device sends what it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// At once, and takes so many packets more.
    AtOnce(usize),
    /// When it is told to, from a ring of so many descriptors, one for each region of
    /// a packet.
    ByHand(usize),
}

impl Wire {
    /// A wire, and the NIC at its end, which holds guests' pages in this way.
    pub fn new(xen: FakeXen, holding: Holding) -> Self {
        Self(Rc::new(RefCell::new(State {
            xen,
            holding,
            phase: Phase::Stopped,
            link: true,
            pace: Pace::AtOnce(usize::MAX),
            ring: VecDeque::new(),
            done: 0,
            sent: Vec::new(),
            arriving: VecDeque::new(),
            armed: false,
            interrupt: false,
            stalled: false,
        })))
    }

    /// A frame arrives.
    pub fn inject(&self, frame: Vec<u8>) {
        let mut state = self.state();
        state.arriving.push_back(frame);
        state.raise();
    }

    /// Takes what was sent, with when.
    pub fn take(&self) -> Vec<(Instant, Vec<u8>)> {
        std::mem::take(&mut self.state().sent)
    }

    /// Takes what was sent.
    pub fn take_frames(&self) -> Vec<Vec<u8>> {
        self.take().into_iter().map(|(_, frame)| frame).collect()
    }

    /// Has the NIC take only so many frames more, which it sends at once.
    pub fn set_room(&self, frames: usize) {
        let mut state = self.state();
        state.pace = Pace::AtOnce(frames);
        state.raise();
    }

    /// Has the device keep what it is given in a ring of so many descriptors, until
    /// [`complete`](Self::complete).
    pub fn hold(&self, descriptors: usize) {
        self.state().pace = Pace::ByHand(descriptors);
    }

    /// The regions of each packet that the device still has to send.
    pub fn held(&self) -> Vec<DmaRegions> {
        self.state().ring.iter().cloned().collect()
    }

    /// The device sends the oldest of the packets it has, and says so. Whether there
    /// was one.
    ///
    /// # Panics
    /// If a part of it is not there any more.
    pub fn complete(&self) -> bool {
        let mut state = self.state();
        let sends = state.send();
        if sends {
            state.raise();
        }
        sends
    }

    /// Plugs the cable in, or pulls it out; the device says so.
    pub fn set_link(&self, link: bool) {
        let mut state = self.state();
        state.link = link;
        state.interrupt = true;
    }

    /// Has the driver find, the next time it looks, that the device does not get on. It
    /// resets it; until that is done the device goes on.
    pub fn stall(&self) {
        self.state().stalled = true;
    }

    pub(crate) fn nic(&self) -> ScriptedNic {
        ScriptedNic { wire: self.clone(), lent: VecDeque::new() }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }
}

impl Uplink for Wire {
    type Nic = ScriptedNic;
    const KEEPS: usize = 0;
    const LOOKS: usize = 0;

    fn new(xen: &FakeXen) -> Self {
        Self::new(xen.clone(), Holding::Mapped(HOLDS))
    }

    fn driver(&self, _: &FakeXen) -> ScriptedNic {
        self.nic()
    }

    fn interrupts(&self) -> bool {
        self.state().interrupt
    }

    fn take_interrupts(&self) -> Vec<Cause> {
        let interrupts = std::mem::take(&mut self.state().interrupt);
        interrupts.then_some(Cause::Queues).into_iter().collect()
    }

    fn inject(&self, frame: Vec<u8>) {
        self.inject(frame);
    }

    fn take_frames(&self) -> Vec<Vec<u8>> {
        self.take_frames()
    }

    fn pause(&self) {
        self.hold(ROOMY);
    }

    fn held(&self) -> Vec<Vec<DmaRegion>> {
        self.held().into_iter().map(|regions| regions.into_iter().collect()).collect()
    }

    fn complete(&self) -> bool {
        self.complete()
    }
}

impl State {
    fn raise(&mut self) {
        self.interrupt |= std::mem::take(&mut self.armed);
    }

    /// The device: reads the oldest packet where it lies now.
    fn send(&mut self) -> bool {
        let Some(regions) = self.ring.pop_front() else { return false };
        let mut frame = Vec::new();
        for region in regions {
            let start = frame.len();
            frame.resize(start + region.len as usize, 0);
            let read = self.xen.device_read(region.address, &mut frame[start..]);
            read.expect("the device reads what is not there any more (O-10)");
        }
        self.sent.push((self.xen.now(), frame));
        self.done += 1;
        true
    }

    /// Whether packets are sent.
    fn sends(&self) -> bool {
        self.phase == Phase::Running && self.link
    }

    /// How many descriptors are free.
    fn room(&self, lent: &VecDeque<Lent>) -> usize {
        match self.pace {
            _ if !self.sends() => 0,
            Pace::AtOnce(0) => 0,
            Pace::AtOnce(_) => usize::MAX,
            Pace::ByHand(descriptors) => {
                let used = lent.iter().map(|lent| lent.descriptors).sum();
                descriptors.saturating_sub(used)
            }
        }
    }
}

/// A packet that the device was given.
#[derive(Debug)]
struct Lent {
    packet: Box<Packet>,
    descriptors: usize,
}

/// The driver's side of the wire.
#[derive(Debug)]
pub struct ScriptedNic {
    wire: Wire,
    lent: VecDeque<Lent>,
}

impl ScriptedNic {
    /// Ends all packets, for a device that has forgotten them (O-10).
    fn reclaim(&mut self, pools: &mut Pools) {
        let mut state = self.wire.state();
        state.ring.clear();
        state.done = 0;
        self.lent.drain(..).for_each(|lent| pools.give(lent.packet));
    }
}

impl Port for ScriptedNic {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, _: Instant) -> Traffic {
        self.reap(pools);
        let mut sent = Traffic::default();
        let mut state = self.wire.state();
        if !state.sends() {
            assert!(queue.is_empty(), "packets for a NIC without a carrier");
            return sent;
        }
        while let Some(packet) = queue.front() {
            let regions = pools.dma_regions(packet).expect("a packet that the device reaches");
            let descriptors = regions.len();
            if descriptors > state.room(&self.lent) {
                break;
            }
            let packet = queue.pop().expect("the front");
            assert_ne!(packet.meta.checksum, Checksum::Partial, "checksums are made before");
            state.ring.push_back(regions);
            sent.add(1, packet.len());
            self.lent.push_back(Lent { packet, descriptors });
            if let Pace::AtOnce(room) = &mut state.pace {
                *room -= 1;
                state.send();
            }
        }
        drop(state);
        self.reap(pools);
        sent
    }

    fn holding(&self) -> Holding {
        self.wire.state().holding
    }

    fn room(&self) -> usize {
        self.wire.state().room(&self.lent)
    }

    fn partial_checksums(&self) -> Versions {
        Versions::NONE
    }
}

impl Nic for ScriptedNic {
    fn start(&mut self, _: Instant) {
        self.wire.state().phase = Phase::Starting;
    }

    fn stop(&mut self, _: Instant) {
        self.wire.state().phase = Phase::Stopping;
    }

    fn watchdog(&mut self, pools: &mut Pools, _: Instant) -> Status {
        let phase = self.wire.state().phase;
        let next = match phase {
            Phase::Running if std::mem::take(&mut self.wire.state().stalled) => Phase::Resetting,
            Phase::Starting | Phase::Resetting => Phase::Running,
            Phase::Stopping => Phase::Stopped,
            Phase::Running | Phase::Stopped => phase,
        };
        // The end of a reset, or of the device.
        if phase != next && next != Phase::Resetting {
            self.reclaim(pools);
            self.wire.state().armed = next == Phase::Running;
        }
        self.wire.state().phase = next;
        match next {
            Phase::Stopped => Status::Stopped,
            Phase::Running => Status::Running,
            Phase::Starting | Phase::Resetting | Phase::Stopping => Status::Changing,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn receive(&mut self, batch: &mut Batch, pools: &mut Pools) -> bool {
        let mut state = self.wire.state();
        while !batch.is_full()
            && let Some(frame) = state.arriving.pop_front()
        {
            let packet = pools.take().zip(pools.buffers.take(Size::Large));
            let Some((mut packet, mut buffer)) = packet else { panic!("a world with more room") };
            let cell = pools.buffers.bytes_mut(&mut buffer).expect("a buffer of its own");
            let start = usize::from(HEADROOM);
            cell[start..start + frame.len()].copy_from_slice(&frame);
            packet.linear = Some(Linear { buffer, offset: HEADROOM, len: frame.len() as u16 });
            assert!(batch.push_back(packet).is_ok(), "not full");
        }
        !state.arriving.is_empty()
    }

    fn reap(&mut self, pools: &mut Pools) {
        let done = std::mem::take(&mut self.wire.state().done);
        self.lent.drain(..done).for_each(|lent| pools.give(lent.packet));
    }

    fn acknowledge(&mut self, _: Cause) {}

    fn rearm(&mut self) {
        self.wire.state().armed = true;
    }

    fn is_polled(&self) -> bool {
        false
    }

    fn mac(&self) -> MacAddress {
        MacAddress::new([0x02, 0, 0, 0, 0, 0x01])
    }

    fn segmentation(&self) -> Versions {
        Versions::NONE
    }

    fn link(&self) -> Link {
        match self.wire.state().sends() {
            true => Link::Up { speed: 1000, full_duplex: true },
            false => Link::Down,
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}
