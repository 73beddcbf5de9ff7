//! Between two vCPUs: packets that one has and the other sends on.
//!
//! Each vCPU has switches, pools and a page tracker of its own, and works on nothing of
//! another's. A packet for a port of another vCPU's goes there as a [`Parcel`]: a copy of its
//! headers, and where the rest of it lies. To the other side this one is a lender like any
//! guest: what it lends is claimed from the tracker there, held, copied from or mapped, and
//! answered, and only then the parcel comes back and the packet ends. So a packet's payload
//! is copied once, by whoever sends it on, and all that the two sides ever share of it is its
//! parcel, which one of them has at any time. A packet that has nothing but headers ends at
//! once.
//!
//! Both ways are queues of one writer and one reader, and neither side waits for the other.
//! What keeps the other's pages too long ends it after [`MAX_WAIT`], as for any port, by a
//! copy of its own.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::{fmt, iter};

use heapless::spsc::{Consumer, Producer, Queue};
use xen::event::EventPort;
use xen::{DomainId, Hypervisor, Instant};

use crate::memory::Size;
use crate::packet::{Batch, Bytes, Fragment, Linear, MAX_FRAGMENTS, Meta, Packet};
use crate::pages::{Claim, Page, Response, ShardId};
use crate::switch::{Holding, MAX_WAIT, Port, PortQueue, Traffic, Vcpus, Versions};
use crate::{HEADROOM, OWN_HEADERS, Pools};

/// How many packets are on their way in one direction at once.
const PARCELS: usize = 127;
/// A queue has a place less than its size, and takes all parcels there are.
const QUEUE: usize = PARCELS + 1;
/// How many pages one side lends the other at once: a few for each parcel, or many for some.
const PAGES: u16 = 1024;
/// Bits of a claim's id that name a piece; the others name the parcel.
const PIECE_BITS: u16 = 6;

const _: () = assert!(MAX_FRAGMENTS <= 1 << PIECE_BITS && PARCELS << PIECE_BITS <= 1 << 16);

/// Bytes of heap that a link takes at most, both sides together.
pub const HEAP: usize =
    2 * (PARCELS * (size_of::<Parcel>() + size_of::<Lent>() + 64) + PAGES as usize * 64);

/// How many vCPUs, every two of them linked, a heap of so many bytes carries: at least one.
/// Links take a quarter of it at most.
pub const fn carried(heap: usize) -> usize {
    let mut vcpus = 1;
    while vcpus < Vcpus::MOST && (vcpus + 1) * vcpus / 2 * HEAP <= heap / 4 {
        vcpus += 1;
    }
    vcpus
}

/// The bridge that a packet is on, as both sides of a link number it.
pub type BridgeNumber = u16;

/// Calls a vCPU that may sleep. Rung by others after they left something for it.
#[derive(Debug)]
pub struct Bell {
    rung: AtomicBool,
    asleep: AtomicBool,
    news: AtomicBool,
    port: EventPort,
}

impl Bell {
    /// The bell of a vCPU that the event of `port` wakes.
    pub const fn new(port: EventPort) -> Self {
        let [rung, asleep, news] = [const { AtomicBool::new(false) }; 3];
        Self { rung, asleep, news, port }
    }

    /// Tells the vCPU that something is there; wakes it, if it sleeps, by a notification.
    pub fn ring<H: Hypervisor>(&self, hypervisor: &H) {
        // Each side writes its own flag before it reads the other's, so that not both miss
        // the other.
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            hypervisor.notify(self.port);
        }
    }

    /// By the vCPU itself: whether it was rung since this was last asked.
    pub fn answer(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::SeqCst)
    }

    /// By the vCPU itself, before its last look at what there is to do: whether it may sleep.
    /// From then on it is woken.
    pub fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    /// By the vCPU itself, once it does not sleep.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Takes note that the vCPU has news for the control plane.
    pub fn tell(&self) {
        self.news.store(true, Ordering::SeqCst);
    }

    /// Whether there are such.
    pub fn has_news(&self) -> bool {
        self.news.load(Ordering::SeqCst)
    }

    /// The same, told once.
    pub fn take_news(&self) -> bool {
        self.has_news() && self.news.swap(false, Ordering::SeqCst)
    }
}

/// A packet on its way: one side's for good, on loan to the other until it comes back.
#[derive(Debug)]
struct Parcel {
    bridge: BridgeNumber,
    len: u8,
    headers: [u8; OWN_HEADERS],
    pieces: heapless::Vec<Piece, MAX_FRAGMENTS>,
    meta: Meta,
    /// What the pieces lie in.
    packet: Option<Box<Packet>>,
}

/// A part of a packet's payload.
#[derive(Debug)]
struct Piece {
    page: Page,
    offset: u16,
    len: u16,
    /// The fragment that it is; `None` for what is behind the headers in their buffer.
    fragment: Option<u8>,
    /// What became of it, as a request's status.
    status: i16,
}

impl Parcel {
    fn new() -> Self {
        Self {
            bridge: 0,
            len: 0,
            headers: [0; OWN_HEADERS],
            pieces: heapless::Vec::new(),
            meta: Meta::default(),
            packet: None,
        }
    }

    /// Takes up a packet, if it can.
    fn fill(&mut self, packet: Box<Packet>, pools: &mut Pools) -> Result<(), Box<Packet>> {
        match self.describe(&packet, pools) {
            Some(()) if self.pieces.is_empty() => pools.give(packet),
            Some(()) => self.packet = Some(packet),
            None => return Err(packet),
        }
        Ok(())
    }

    fn describe(&mut self, packet: &Packet, pools: &Pools) -> Option<()> {
        let bytes = packet.headers(&pools.buffers);
        let len = bytes.len().min(OWN_HEADERS);
        self.headers[..len].copy_from_slice(&bytes[..len]);
        self.len = len as u8;
        self.meta = packet.meta;
        self.pieces.clear();
        if bytes.len() > len {
            let Linear { buffer, offset, .. } = packet.linear.as_ref()?;
            let start = usize::from(*offset);
            let rest = pools.buffers.region(buffer, start + len..start + bytes.len())?;
            self.add(Page::Own(rest.frame()), rest.offset(), rest.len(), None)?;
        }
        for (number, fragment) in (0..).zip(&packet.fragments) {
            let (page, offset) = match &fragment.bytes {
                // Its page may hold all that is in the headers, and waits for the packet's end.
                _ if fragment.len == 0 => continue,
                Bytes::Lent(hold) => (pools.tracker.page(hold), fragment.offset),
                Bytes::Own(_) => {
                    let region = fragment.region(&pools.buffers)?;
                    (Page::Own(region.frame()), region.offset())
                }
            };
            self.add(page, offset, fragment.len, Some(number))?;
        }
        Some(())
    }

    fn add(&mut self, page: Page, offset: u16, len: u16, fragment: Option<u8>) -> Option<()> {
        self.pieces.push(Piece { page, offset, len, fragment, status: 0 }).ok()
    }

    /// Makes `packet` one of the same bytes: headers of its own, and the rest by claims on the
    /// pieces. `None` where a pool is used up; what was claimed until then is in the packet.
    fn unpack(
        &self,
        packet: &mut Packet,
        pools: &mut Pools,
        claim: impl Fn(Page, u16) -> (ShardId, Claim),
    ) -> Option<()> {
        let mut buffer = pools.buffers.take(Size::Small)?;
        let range = usize::from(HEADROOM)..usize::from(HEADROOM) + usize::from(self.len);
        let cell = pools.buffers.bytes_mut(&mut buffer);
        if let Some(cell) = cell.and_then(|cell| cell.get_mut(range)) {
            cell.copy_from_slice(&self.headers[..usize::from(self.len)]);
        }
        packet.linear = Some(Linear { buffer, offset: HEADROOM, len: self.len.into() });
        packet.meta = self.meta;
        for (number, piece) in (0..).zip(&self.pieces) {
            let (shard, claim) = claim(piece.page, number);
            let hold = pools.tracker.claim(shard, claim)?;
            let fragment = Fragment::lent(hold, piece.offset, piece.len);
            // A packet has room for as many fragments as a parcel for pieces.
            packet.fragments.push(fragment).map_err(|fragment| pools.end(fragment)).ok()?;
        }
        Some(())
    }

    /// Ends the packet, once the parcel is back.
    fn empty(&mut self, pools: &mut Pools) {
        let Some(packet) = self.packet.take() else { return };
        for piece in self.pieces.iter().filter(|piece| piece.status != 0) {
            let number = piece.fragment.map(usize::from);
            let fragment = number.and_then(|number| packet.fragments.get(number));
            if let Some(hold) = fragment.and_then(Fragment::hold) {
                pools.tracker.set_status(hold, piece.status);
            }
        }
        pools.give(packet);
    }
}

/// A parcel of the other side's whose pages are held here.
#[derive(Debug)]
struct Lent {
    parcel: Box<Parcel>,
    /// How many pieces are not answered yet.
    left: usize,
}

/// What a link counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkCounters {
    /// Packets that were handed over.
    pub sent: u64,
    /// Packets that came.
    pub received: u64,
    /// Packets that came and found no packet, buffer or record left here.
    pub exhausted: u64,
}

/// One vCPU's side of a link to another.
#[expect(clippy::vec_box, reason = "parcels move by pointer, between vCPUs")]
pub struct Link {
    peer: Arc<Bell>,
    /// Whether something was left for the peer since it was last called.
    call: bool,
    /// The bridge of the port that sends.
    bridge: BridgeNumber,
    idle: Vec<Box<Parcel>>,
    /// Our parcels, to the peer and back.
    out: Producer<'static, Box<Parcel>>,
    home: Consumer<'static, Box<Parcel>>,
    /// The peer's, to us and back.
    inbox: Consumer<'static, Box<Parcel>>,
    back: Producer<'static, Box<Parcel>>,
    /// What the peer lends.
    shard: ShardId,
    lent: Box<[Option<Lent>]>,
    /// Places in `lent` that are empty.
    free: Vec<u16>,
    counters: LinkCounters,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("idle", &self.idle.len())
            .field("lent", &self.lent.iter().flatten().count())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Links two vCPUs: the side of each, by its pools and its bell. Allocates, for good. `None`
/// where a tracker has no shard left.
pub fn link(
    (one, one_bell): (&mut Pools, Arc<Bell>),
    (other, other_bell): (&mut Pools, Arc<Bell>),
) -> Option<(Link, Link)> {
    let (to_other, from_one) = queue();
    let (to_one, from_other) = queue();
    let (back_to_one, home_to_one) = queue();
    let (back_to_other, home_to_other) = queue();
    Some((
        Link::new(one, other_bell, (to_other, home_to_one), (from_other, back_to_other))?,
        Link::new(other, one_bell, (to_one, home_to_other), (from_one, back_to_one))?,
    ))
}

type Ends = (Producer<'static, Box<Parcel>>, Consumer<'static, Box<Parcel>>);

fn queue() -> Ends {
    Box::leak(Box::new(Queue::<Box<Parcel>, QUEUE>::new())).split()
}

impl Link {
    fn new(
        pools: &mut Pools,
        peer: Arc<Bell>,
        (out, home): Ends,
        (inbox, back): (Consumer<'static, Box<Parcel>>, Producer<'static, Box<Parcel>>),
    ) -> Option<Self> {
        Some(Self {
            peer,
            call: false,
            bridge: 0,
            idle: iter::repeat_with(|| Box::new(Parcel::new())).take(PARCELS).collect(),
            out,
            home,
            inbox,
            back,
            shard: pools.tracker.open(DomainId::SELF, PAGES)?,
            lent: iter::repeat_with(|| None).take(PARCELS).collect(),
            free: (0..PARCELS as u16).collect(),
            counters: LinkCounters::default(),
        })
    }

    /// What the other side lends.
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// What was counted.
    pub const fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// The link as the port of a bridge.
    pub const fn port(&mut self, bridge: BridgeNumber) -> &mut dyn Port {
        self.bridge = bridge;
        self
    }

    /// Ends the packets that were sent on; whether there were such.
    pub fn collect(&mut self, pools: &mut Pools) -> bool {
        let before = self.idle.len();
        while let Some(mut parcel) = self.home.dequeue() {
            parcel.empty(pools);
            self.idle.push(parcel);
        }
        self.idle.len() > before
    }

    /// Takes packets of one bridge until `batch` is full; which bridge that is. `None` where
    /// nothing came.
    pub fn receive(
        &mut self,
        batch: &mut Batch,
        pools: &mut Pools,
        now: Instant,
    ) -> Option<BridgeNumber> {
        let bridge = self.inbox.peek()?.bridge;
        while !batch.is_full()
            && self.inbox.peek().is_some_and(|parcel| parcel.bridge == bridge)
            && let Some(parcel) = self.inbox.dequeue()
        {
            match self.unpack(parcel, pools, now) {
                Some(packet) => {
                    self.counters.received += 1;
                    // There is room, as just seen.
                    if let Err(packet) = batch.push_back(packet) {
                        pools.give(packet);
                    }
                }
                None => self.counters.exhausted += 1,
            }
        }
        Some(bridge)
    }

    /// A packet of ours of a parcel's bytes, which borrows all of them but the headers.
    fn unpack(
        &mut self,
        parcel: Box<Parcel>,
        pools: &mut Pools,
        now: Instant,
    ) -> Option<Box<Packet>> {
        // There are as many places as parcels.
        let (Some(place), packet) = (self.free.pop(), pools.take()) else { return None };
        let Some(mut packet) = packet else {
            self.free.push(place);
            self.give_back(parcel);
            return None;
        };
        let whole = parcel.unpack(&mut packet, pools, |page, number| {
            let id = place << PIECE_BITS | number;
            (self.shard, Claim { page, id, extras: 0, since: now })
        });
        let left = packet.fragments.len();
        if left == 0 {
            self.free.push(place);
            self.give_back(parcel);
        } else {
            self.lent[usize::from(place)] = Some(Lent { parcel, left });
        }
        if whole.is_none() {
            pools.give(packet);
            return None;
        }
        Some(packet)
    }

    /// Sends back the parcels of which nothing is held any more.
    pub fn complete(&mut self, pools: &mut Pools) {
        while let Some(Response { id, status, .. }) = pools.tracker.next_response(self.shard) {
            let (place, number) = (id >> PIECE_BITS, id & ((1 << PIECE_BITS) - 1));
            let Some(slot) = self.lent.get_mut(usize::from(place)) else { continue };
            let Some(lent) = slot else { continue };
            if let Some(piece) = lent.parcel.pieces.get_mut(usize::from(number)) {
                piece.status = status;
            }
            lent.left -= 1;
            if lent.left == 0
                && let Some(Lent { parcel, .. }) = slot.take()
            {
                self.free.push(place);
                self.give_back(parcel);
            }
        }
    }

    fn give_back(&mut self, parcel: Box<Parcel>) {
        self.call = true;
        // The queue takes all the parcels that the other side has.
        let _ = self.back.enqueue(parcel);
    }

    /// Calls the other side, if something was left for it.
    pub fn call<H: Hypervisor>(&mut self, hypervisor: &H) {
        if core::mem::take(&mut self.call) {
            self.peer.ring(hypervisor);
        }
    }
}

impl Port for Link {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, _: Instant) -> Traffic {
        let mut sent = Traffic::default();
        while let Some(mut parcel) = self.idle.pop() {
            let Some(packet) = queue.pop() else {
                self.idle.push(parcel);
                break;
            };
            let len = packet.len();
            parcel.bridge = self.bridge;
            match parcel.fill(packet, pools) {
                Ok(()) => {
                    sent.add(1, len);
                    self.call = true;
                    self.counters.sent += 1;
                    // The queue takes all the parcels that we have.
                    let _ = self.out.enqueue(parcel);
                }
                Err(packet) => {
                    pools.give(packet);
                    self.idle.push(parcel);
                }
            }
        }
        sent
    }

    fn holding(&self) -> Holding {
        Holding::Granted(MAX_WAIT)
    }

    fn partial_checksums(&self) -> Versions {
        Versions::ALL
    }
}

#[cfg(test)]
mod tests {
    use xen::fake::FakeXen;

    use super::*;

    #[test]
    fn a_heap_carries_so_many_vcpus() {
        assert_eq!([0, 4, 16, 64].map(|mib| carried(mib << 20)), [1, 2, 5, 9]);
        assert_eq!(carried(usize::MAX), Vcpus::MOST);
    }

    #[test]
    fn a_bell_that_is_rung_is_not_slept_over() {
        let xen = FakeXen::new(DomainId(1));
        let port = xen.bind_ipi();
        let bell = Bell::new(port);
        bell.ring(&xen);
        assert!(!bell.may_sleep(), "rung before");
        bell.awake();
        assert!(bell.answer() && !bell.answer(), "answered once");
        bell.ring(&xen);
        assert!(!xen.take_pending_at(port), "who is awake needs no event");
        assert!(bell.answer() && bell.may_sleep());
        bell.ring(&xen);
        assert!(xen.take_pending_at(port), "woken");
        bell.ring(&xen);
        assert!(!xen.take_pending_at(port), "once");
        bell.tell();
        assert!(bell.has_news() && bell.take_news() && !bell.has_news());
    }
}
