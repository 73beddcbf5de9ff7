//! A NIC whose wire is a list.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use drivers::nic::{Cause, Link, Nic, Statistics, Status};
use kernel::memory::Size;
use kernel::packet::{Batch, Checksum, Linear, MacAddress};
use kernel::switch::{Holding, PartialChecksums, Port, PortQueue};
use kernel::{HEADROOM, Pools};
use xen::Instant;

/// The wire, and the test's hand on the NIC; clones are the same.
#[derive(Clone, Default)]
pub struct Wire(Rc<RefCell<State>>);

struct State {
    sent: Vec<(Instant, Vec<u8>)>,
    arriving: VecDeque<Vec<u8>>,
    armed: bool,
    interrupt: bool,
    /// How many frames it still takes.
    room: usize,
    status: Status,
}

impl Default for State {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            arriving: VecDeque::new(),
            armed: false,
            interrupt: false,
            room: usize::MAX,
            status: Status::Stopped,
        }
    }
}

impl Wire {
    /// A frame arrives.
    pub fn inject(&self, frame: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        state.arriving.push_back(frame);
        state.interrupt |= std::mem::take(&mut state.armed);
    }

    /// Takes what was sent, with when.
    pub fn take(&self) -> Vec<(Instant, Vec<u8>)> {
        std::mem::take(&mut self.0.borrow_mut().sent)
    }

    /// Takes what was sent.
    pub fn take_frames(&self) -> Vec<Vec<u8>> {
        self.take().into_iter().map(|(_, frame)| frame).collect()
    }

    /// Has the NIC take only so many frames more.
    pub fn set_room(&self, frames: usize) {
        let mut state = self.0.borrow_mut();
        state.room = frames;
        state.interrupt |= std::mem::take(&mut state.armed);
    }

    pub(crate) fn nic(&self) -> ScriptedNic {
        ScriptedNic(self.clone())
    }

    pub(crate) fn take_interrupt(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().interrupt)
    }

    pub(crate) fn interrupts(&self) -> bool {
        self.0.borrow().interrupt
    }
}

/// The driver's side of the wire.
pub struct ScriptedNic(Wire);

impl Port for ScriptedNic {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant) {
        let mut state = self.0.0.borrow_mut();
        while state.room > 0
            && let Some(packet) = queue.pop()
        {
            state.room -= 1;
            assert!(packet.is_private(), "a NIC gets copies");
            assert_ne!(packet.meta.checksum, Checksum::Partial, "checksums are made before");
            state.sent.push((now, packet.headers(&pools.buffers).to_vec()));
            pools.give(packet);
        }
    }

    fn holding(&self) -> Holding {
        Holding::Private
    }

    fn partial_checksums(&self) -> PartialChecksums {
        PartialChecksums::NONE
    }
}

impl Nic for ScriptedNic {
    fn start(&mut self, _: Instant) {
        self.0.0.borrow_mut().status = Status::Changing;
    }

    fn stop(&mut self, _: Instant) {
        self.0.0.borrow_mut().status = Status::Stopped;
    }

    fn watchdog(&mut self, _: &mut Pools, _: Instant) -> Status {
        let mut state = self.0.0.borrow_mut();
        if state.status == Status::Changing {
            state.status = Status::Running;
            state.armed = true;
        }
        state.status
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn receive(&mut self, batch: &mut Batch, pools: &mut Pools) -> bool {
        let mut state = self.0.0.borrow_mut();
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

    fn reap(&mut self, _: &mut Pools) {}

    fn acknowledge(&mut self, _: Cause) {}

    fn rearm(&mut self) {
        self.0.0.borrow_mut().armed = true;
    }

    fn is_polled(&self) -> bool {
        false
    }

    fn mac(&self) -> MacAddress {
        MacAddress::new([0x02, 0, 0, 0, 0, 0x01])
    }

    fn link(&self) -> Link {
        Link::Up { speed: 1000, full_duplex: true }
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}
