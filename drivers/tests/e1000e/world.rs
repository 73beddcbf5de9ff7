//! A driver, a device, and what packets are made of.

use std::rc::Rc;
use std::time::Duration;

use drivers::fake::{Bar, Device, Model, QUEUES};
use drivers::nic::e1000e::E1000e;
use drivers::nic::{BufferProvider, Cause, Nic, PoolBuffers, Status};
use drivers::pci::Command;
use kernel::memory::{Buffers, DmaPages, Ram, Size, Window};
use kernel::packet::{Batch, Checksum, Fragment, Linear, Packet};
use kernel::pages::choice::Mode;
use kernel::pages::{Claim, Page, ShardId};
use kernel::switch::{MAX_WAIT, Port, PortQueue, QueueLimits, Traffic};
use kernel::{Limits, Pools};
use xen::fake::{FakeXen, Grant, Guest};
use xen::grant::GrantRef;
use xen::{DomainId, Hypervisor, Instant, PAGE_SIZE};

/// Pages of two large buffers each: enough for the ring, and some.
pub const BUFFERS: usize = 400;
pub const RING: usize = 255;
/// Places for lent pages.
const FRAMES: usize = 1024;
/// Who lends pages.
const GUEST: DomainId = DomainId(2);

pub struct World<B: BufferProvider = PoolBuffers> {
    pub device: Rc<Device>,
    pub nic: E1000e<Bar, Rc<Device>, B>,
    pub pools: Pools,
    pub queue: PortQueue,
    xen: FakeXen,
    lent: Lent,
    pub now: Instant,
    /// Free buffers and packets before the driver had any.
    pub at_rest: (usize, usize),
}

impl World {
    /// A driver and a device that have not met.
    pub fn new() -> Self {
        Self::with(BUFFERS, true)
    }

    pub fn with(buffers: usize, interrupts: bool) -> Self {
        Self::of(Model::nic(), buffers, interrupts, PoolBuffers)
    }

    /// With QEMU's device.
    pub fn emulated() -> Self {
        let model = Model::nic();
        model.set(0x2c, 0x8086);
        let mut world = Self::of(model, BUFFERS, true, PoolBuffers);
        assert_eq!(world.start(), Status::Running);
        world
    }

    /// The same, running, its interrupts found to work.
    pub fn running() -> Self {
        let mut world = Self::new();
        assert_eq!(world.start(), Status::Running);
        world.interrupts();
        assert!(!world.nic.is_polled());
        world
    }
}

impl<B: BufferProvider> World<B> {
    pub fn of(model: Model, buffers: usize, interrupts: bool, provider: B) -> Self {
        let xen = FakeXen::new(DomainId(1));
        // Not at zero, so that no time is by chance.
        xen.advance(Duration::from_nanos(1));
        let [small, large, rings] = [1, buffers, 2].map(|pages| ram(&xen, pages));
        let device = Device::new(model, xen.clone());
        let mut pages = DmaPages::new(rings);
        let rings = [pages.take().unwrap(), pages.take().unwrap()];
        let nic = device.driver(rings, interrupts, provider);
        let limits = Limits { packets: 600, copies: 1, map: Mode::Always };
        let window = Window::of(xen.foreign_frames(FRAMES));
        let mut pools = Pools::new(Buffers::new(small, large), window, limits);
        let lent = Lent::new(&xen, &mut pools);
        let at_rest = (pools.buffers.free(Size::Large), pools.idle());
        Self {
            device,
            nic,
            pools,
            lent,
            queue: PortQueue::new(QueueLimits { packets: 600, bytes: 1 << 20, wait: MAX_WAIT }),
            now: xen.now(),
            xen,
            at_rest,
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.xen.advance(time);
        self.now = self.xen.now();
    }

    pub fn watchdog(&mut self) -> Status {
        let status = self.nic.watchdog(&mut self.pools, self.now);
        self.guard();
        status
    }

    pub fn start(&mut self) -> Status {
        self.nic.start(self.now);
        self.settle()
    }

    /// Lets the driver change until it has changed; asserts that it does in time.
    pub fn settle(&mut self) -> Status {
        let begun = self.now;
        loop {
            let status = self.watchdog();
            if status != Status::Changing {
                return status;
            }
            assert!(self.now.since(begun) < Duration::from_millis(500), "it hangs");
            self.pass(Duration::from_micros(100));
        }
    }

    /// Does what the loop does, for so long: what the driver asks for when it asks
    /// for it, and interrupts.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.interrupts();
            let next = match self.watchdog() {
                Status::Changing => self.now + Duration::from_micros(100),
                _ => self.nic.deadline().unwrap_or(end),
            };
            self.pass(next.min(end).since(self.now));
        }
        self.watchdog();
    }

    /// Two surveys' time.
    pub fn survey(&mut self) -> Status {
        self.watchdog();
        self.pass(Duration::from_millis(1100));
        self.watchdog()
    }

    /// Does what the loop does with interrupts; returns the vectors that came.
    pub fn interrupts(&mut self) -> Vec<u8> {
        let messages = self.device.messages.take();
        for &vector in &messages {
            let cause = if vector == QUEUES { Cause::Queues } else { Cause::Other };
            self.nic.acknowledge(cause);
        }
        messages
    }

    /// Receives all there is and returns the frames.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        self.receive_with_checksums().into_iter().map(|(frame, _)| frame).collect()
    }

    /// The same, each with what is known of its checksum.
    pub fn receive_with_checksums(&mut self) -> Vec<(Vec<u8>, Checksum)> {
        let mut frames = Vec::new();
        loop {
            let mut batch = Batch::new();
            let more = self.nic.receive(&mut batch, &mut self.pools);
            while let Some(packet) = batch.pop_front() {
                let buffers = &self.pools.buffers;
                let rest = packet.fragments.iter().map(|fragment| fragment.bytes(buffers));
                let bytes = std::iter::once(packet.headers(buffers)).chain(rest);
                let bytes = bytes.flatten().copied().collect();
                frames.push((bytes, packet.meta.checksum));
                self.pools.give(packet);
            }
            if !more {
                self.guard();
                return frames;
            }
        }
    }

    /// Queues a frame to be sent.
    pub fn offer(&mut self, frame: &[u8]) {
        self.offer_as(frame, Checksum::Unknown);
    }

    pub fn offer_as(&mut self, frame: &[u8], checksum: Checksum) {
        self.offer_pieces(&[frame], checksum);
    }

    /// Queues a packet whose first piece is in our memory and every other in a page
    /// that a guest lends, mapped for the device.
    pub fn offer_pieces(&mut self, pieces: &[&[u8]], checksum: Checksum) {
        let packet = self.packet(pieces, checksum);
        self.offer_packet(packet);
    }

    /// Queues a packet, mapped for the device.
    pub fn offer_packet(&mut self, packet: Box<Packet>) {
        assert!(self.pools.map(&packet), "room to map");
        self.pools.run_maps(&self.xen);
        self.queue.push(packet, self.now).unwrap();
    }

    /// The same packet, not mapped and not queued.
    pub fn packet(&mut self, pieces: &[&[u8]], checksum: Checksum) -> Box<Packet> {
        let (first, payload) = pieces.split_first().unwrap();
        let mut packet = self.pools.take().unwrap();
        let mut buffer = self.pools.buffers.take(Size::Large).unwrap();
        let bytes = self.pools.buffers.bytes_mut(&mut buffer).unwrap();
        bytes[10..10 + first.len()].copy_from_slice(first);
        packet.linear = Some(Linear { buffer, offset: 10, len: first.len() as u16 });
        packet.meta.checksum = checksum;
        for bytes in payload {
            let fragment = self.lent.lend(bytes, &mut self.pools);
            packet.fragments.push(fragment).unwrap();
        }
        packet
    }

    /// Has the guest lay pieces so that two are one region to the device.
    pub fn set_adjacent(&mut self, adjacent: bool) {
        self.lent.adjacent = adjacent;
    }

    /// How many pages can still be lent and mapped.
    pub fn room_to_lend(&self) -> usize {
        (self.pools.window.room() / 2).saturating_sub(self.lent())
    }

    /// How many pages the guest lends.
    pub fn lent(&self) -> usize {
        self.pools.tracker.counters().outstanding() as usize
    }

    pub fn transmit(&mut self) -> Traffic {
        self.guard();
        let sent = self.nic.transmit(&mut self.queue, &mut self.pools, self.now);
        self.guard();
        sent
    }

    pub fn reap(&mut self) {
        self.nic.reap(&mut self.pools);
        self.guard();
    }

    /// Sends home what nobody uses, and keeps the device out of there.
    fn guard(&mut self) {
        self.pools.run_unmaps(&self.xen);
        self.lent.answer(&mut self.pools);
        let mut free = Vec::new();
        for size in [Size::Small, Size::Large] {
            free.extend(std::iter::from_fn(|| self.pools.buffers.take(size)));
        }
        let buffers = &self.pools.buffers;
        let ranges = free.iter().map(|buffer| {
            let region = buffers.region(buffer, 0..buffer.size().bytes()).unwrap();
            region.dma_address()..region.dma_address() + u64::from(region.len())
        });
        self.device.keep_out(ranges);
        free.into_iter().rev().for_each(|buffer| self.pools.buffers.give(buffer));
    }

    pub fn free(&self) -> (usize, usize) {
        (self.pools.buffers.free(Size::Large), self.pools.idle())
    }

    /// Stops the driver and asserts that it keeps nothing.
    pub fn finish(mut self) {
        while let Some(packet) = self.queue.pop() {
            self.pools.give(packet);
        }
        self.nic.stop(self.now);
        assert_eq!(self.settle(), Status::Stopped);
        assert_eq!(self.free(), self.at_rest);
        assert_eq!(self.lent(), 0);
        assert!(self.xen.audit().is_clean());
        let command = self.device.config.function().command();
        assert!(!command.contains(Command::BUS_MASTER));
    }
}

/// RAM of the domain, of which not all bytes are zero.
fn ram(xen: &FakeXen, pages: usize) -> Ram {
    let (base, first) = xen.ram(pages);
    let address = first.number() * PAGE_SIZE as u64;
    xen.device_write(address, &vec![0xa5; pages * PAGE_SIZE]).unwrap();
    // SAFETY: fresh pages, which live as long as the hypervisor does.
    unsafe { Ram::new(base, first, pages) }
}

/// A guest that lends pages.
struct Lent {
    guest: Guest,
    shard: ShardId,
    /// By request, the page it lends.
    grants: Vec<Option<GrantRef>>,
    adjacent: bool,
}

impl Lent {
    fn new(xen: &FakeXen, pools: &mut Pools) -> Self {
        let guest = xen.create_domain(GUEST);
        let shard = pools.tracker.open(guest.id(), FRAMES as u16).unwrap();
        Self { guest, shard, grants: vec![None; FRAMES], adjacent: false }
    }

    fn lend(&mut self, bytes: &[u8], pools: &mut Pools) -> Fragment {
        let id = self.grants.iter().position(Option::is_none).unwrap();
        // Two pages are one region where the first's bytes reach its end, the second's
        // begin it, and their frames are adjacent.
        let offset = match (self.adjacent, id.is_multiple_of(2)) {
            (false, _) => 7,
            (true, true) => PAGE_SIZE - bytes.len(),
            (true, false) => 0,
        };
        let page = self.guest.add_page();
        self.guest.page(page).write_bytes(offset, bytes);
        let reference = self.guest.grant(page, Grant::ReadOnly);
        self.grants[id] = Some(reference);
        let page = Page::Granted(GUEST, reference);
        let claim = Claim { page, id: id as u16, extras: 0, since: Instant(0) };
        let hold = pools.tracker.claim(self.shard, claim).unwrap();
        Fragment::lent(hold, offset as u16, bytes.len() as u16)
    }

    /// Takes the pages that came home: each once, and nobody looks at it any more.
    fn answer(&mut self, pools: &mut Pools) {
        while let Some(response) = pools.tracker.next_response(self.shard) {
            let reference = self.grants[usize::from(response.id)].take().expect("lent");
            assert!(self.guest.end_grant(reference), "answered while it is mapped");
        }
    }
}

pub fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| (place + number * 7) as u8).collect()
}
