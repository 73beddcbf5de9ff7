//! A guest's network driver: honest, and watchful that the backend is. What one
//! that is not does goes past it, through [`Rings`] and [`Guest`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use drivers::netback::{ControlRing, Frontend, Options, QueueKeys, QueueRings, RemotePorts};
use xen::event::RemotePort;
use xen::fake::{Grant, Guest, GuestFrame};
use xen::fake_store::{Netfront, VifPaths, Xenstored};
use xen::grant::GrantRef;
use xen::netif::{
    ControlRequest, ControlResponse, ExtraFlags, ExtraInfo, ExtraType, GsoType, RxFlags, RxRequest,
    RxResponse, Segmentation, Status, TxFlags, TxRequest, TxResponse, TxSlot,
};
use xen::ring::{CTRL_RING_SIZE, FrontRing, RX_RING_SIZE, TX_RING_SIZE};
use xen::{Instant, PAGE_SIZE};

/// The most slots that Linux takes of one packet (P-18).
const MAX_RX_SLOTS: usize = 18;
/// What a page holds before the backend writes it, as a fresh one does.
const BLANK: u8 = 0;
/// What a page holds once it is back: whoever still looks at it is found out.
pub(crate) const REUSED: u8 = 0xa5;
/// How many bytes behind a packet are looked at.
const MARGIN: usize = 64;
/// A reference that no guest has granted.
const NO_GRANT: u32 = 0xffff_fff0;

/// What a frontend says of itself, and how it behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// feature-sg.
    pub scatter_gather: bool,
    /// feature-rx-notify, and it does.
    pub rx_notify: bool,
    /// It takes IPv4 packets without a checksum (feature-no-csum-offload, inverted).
    pub ipv4_checksum: bool,
    /// The same for IPv6.
    pub ipv6_checksum: bool,
    /// It takes TCP segments that are still to be cut, over IPv4 and over IPv6.
    pub gso: [bool; 2],
    /// How many pages it offers to be filled.
    pub offers: u32,
    /// Whether it offers a new page for each one filled.
    pub refills: bool,
    /// How much headroom it asks for when it connects.
    pub xdp_headroom: u32,
    /// Where the rings' indices start.
    pub start: u32,
    /// How many queues it has.
    pub queues: usize,
    /// Whether each ring has an event channel of its own.
    pub split: bool,
    /// Whether it has a control ring.
    pub control: bool,
    /// By which queue it sends a packet.
    pub spread: Spread,
}

/// How a frontend spreads what it sends over its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// By flow, so that each keeps its order.
    ByFlow,
    /// To one queue after the other.
    InTurn,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            scatter_gather: true,
            rx_notify: true,
            ipv4_checksum: true,
            ipv6_checksum: true,
            gso: [true; 2],
            offers: RX_RING_SIZE,
            refills: true,
            xdp_headroom: 0,
            // So that every world sees them wrap.
            start: u32::MAX - 100,
            queues: 1,
            split: false,
            control: false,
            spread: Spread::ByFlow,
        }
    }
}

/// A packet to be sent, and how.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// By slot, where in its page the bytes begin, and how many they are.
    pub pieces: Vec<(u16, u16)>,
    /// The first slot's flags, but for what follows from the rest.
    pub flags: TxFlags,
    /// What stands between the first slot and the others.
    pub extras: Vec<ExtraInfo>,
}

impl Outgoing {
    /// A packet in as few slots as it takes.
    pub fn whole(bytes: &[u8]) -> Self {
        let pieces = bytes.chunks(PAGE_SIZE).map(|piece| (0, piece.len() as u16)).collect();
        Self::cut(bytes, pieces)
    }

    /// A packet in these pieces.
    ///
    /// # Panics
    /// If they are not the packet, or leave their pages.
    pub fn cut(bytes: &[u8], pieces: Vec<(u16, u16)>) -> Self {
        let sum: usize = pieces.iter().map(|(_, len)| usize::from(*len)).sum();
        assert_eq!(sum, bytes.len(), "the pieces are the packet");
        let inside = |(offset, len): &(u16, u16)| offset + len <= PAGE_SIZE as u16;
        assert!(pieces.iter().all(inside), "the pieces are in pages");
        Self { bytes: bytes.to_vec(), pieces, flags: TxFlags::empty(), extras: Vec::new() }
    }

    /// With these flags.
    #[must_use]
    pub fn with_flags(mut self, flags: TxFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With this extra info.
    #[must_use]
    pub fn with_extras(mut self, extras: &[ExtraInfo]) -> Self {
        self.extras = extras.to_vec();
        self
    }
}

/// A packet that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// When.
    pub at: Instant,
    /// What.
    pub bytes: Vec<u8>,
    /// The first slot's flags, but for `MORE_DATA`.
    pub flags: RxFlags,
    /// How it is still to be cut: the number of the kind, and how long the segments are.
    pub gso: Option<Segmentation>,
    /// In how many slots, those of extra info aside.
    pub slots: usize,
    /// How many bytes were left free before it in each page.
    pub headroom: u16,
    /// How many of them the backend failed to fill.
    pub failed: usize,
    /// By which queue.
    pub queue: usize,
    /// The hash that it was told of.
    pub hash: Option<ToldHash>,
}

/// A packet's hash, as the backend tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToldHash {
    /// Of what.
    pub kind: u8,
    /// By which algorithm.
    pub algorithm: u8,
    /// The hash.
    pub value: u32,
}

/// A response to something sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxAnswer {
    /// The request's id.
    pub id: u16,
    /// Its status.
    pub status: i16,
}

/// Both rings of a queue, and the event channel.
#[derive(Debug)]
pub struct Rings {
    /// What the guest sends.
    pub tx: FrontRing<TxSlot, TxResponse, TX_RING_SIZE>,
    /// What the guest receives.
    pub rx: FrontRing<RxRequest, RxResponse, RX_RING_SIZE>,
    /// The event channel; that of the transmit ring, where each has one.
    pub port: RemotePort,
    /// The receive ring's, where each has one.
    pub rx_port: Option<RemotePort>,
    /// The transmit ring's page.
    pub tx_page: (GuestFrame, GrantRef),
    /// The receive ring's page.
    pub rx_page: (GuestFrame, GrantRef),
}

impl Rings {
    fn new(guest: &Guest, start: u32, split: bool) -> Self {
        let (tx_page, rx_page) = (granted(guest), granted(guest));
        Self {
            tx: FrontRing::starting_at(guest.page(tx_page.0), start),
            rx: FrontRing::starting_at(guest.page(rx_page.0), start),
            port: guest.open_port(),
            rx_port: split.then(|| guest.open_port()),
            tx_page,
            rx_page,
        }
    }

    /// Where the backend raises an event once there is something to receive.
    pub fn receive_port(&self) -> RemotePort {
        self.rx_port.unwrap_or(self.port)
    }

    fn ports(&self) -> impl Iterator<Item = RemotePort> + use<> {
        [Some(self.port), self.rx_port].into_iter().flatten()
    }
}

/// The control ring, and its event channel.
#[derive(Debug)]
pub struct ControlRings {
    /// The ring.
    pub ring: FrontRing<ControlRequest, ControlResponse, CTRL_RING_SIZE>,
    /// The event channel.
    pub port: RemotePort,
    /// The ring's page.
    pub page: (GuestFrame, GrantRef),
}

impl ControlRings {
    fn new(guest: &Guest, start: u32) -> Self {
        let page = granted(guest);
        let ring = FrontRing::starting_at(guest.page(page.0), start);
        Self { ring, port: guest.open_port(), page }
    }
}

/// A page that we may write.
fn granted(guest: &Guest) -> (GuestFrame, GrantRef) {
    let frame = guest.add_page();
    (frame, guest.grant(frame, Grant::Writable))
}

/// A page that is lent: offered to be read or filled.
#[derive(Debug)]
struct Lent {
    frame: GuestFrame,
    /// None where the slot has no byte, and names no page.
    reference: Option<GrantRef>,
}

#[derive(Default, Debug)]
struct Assembly {
    bytes: Vec<u8>,
    flags: Option<RxFlags>,
    gso: Option<Segmentation>,
    slots: usize,
    failed: usize,
    /// How many bytes the slot before has, if it did not fail.
    last: Option<usize>,
    headroom: u16,
    hash: Option<ToldHash>,
    /// The first slot, while what follows is its extra info.
    first: Option<(RxResponse, Lent)>,
}

/// What a queue receives.
#[derive(Default, Debug)]
struct Receiving {
    offered: VecDeque<(u16, Lent)>,
    assembly: Assembly,
}

/// A guest's network driver.
pub struct Front {
    /// The guest.
    pub guest: Guest,
    /// Its part in XenStore.
    pub xenbus: Netfront,
    /// How it behaves.
    pub manners: Manners,
    /// The rings of its first queue.
    pub rings: Rings,
    /// Those of the others.
    pub others: Vec<Rings>,
    /// Its control ring.
    pub control: Option<ControlRings>,
    /// How its control requests were answered.
    pub control_answers: Vec<ControlResponse>,
    /// What arrived.
    pub received: Vec<Received>,
    /// How what was sent was answered, extra info's responses left out.
    pub answers: Vec<TxAnswer>,
    /// How often the backend raised an event.
    pub events: usize,
    /// It looks at neither events nor rings: somebody else plays with them.
    pub hands_off: bool,
    /// It asks for no events, and has none.
    pub polls: bool,
    /// It leaves pages that come back as they are.
    pub keeps: bool,
    /// A queue for which it offers no new pages.
    pub neglected: Option<usize>,
    /// Its device is gone.
    pub gone: bool,
    sent: BTreeMap<u16, Lent>,
    /// How many slots of extra info have no response yet.
    extras: usize,
    receiving: Vec<Receiving>,
    pages: Vec<GuestFrame>,
    next_id: u16,
    /// The queue that is next, where they are used in turn.
    turn: usize,
}

impl fmt::Debug for Front {
    /// What decides what it does next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rings, others, sent, extras, receiving, next_id, .. } = self;
        f.debug_struct("Front")
            .field("rings", rings)
            .field("others", others)
            .field("sent", sent)
            .field("extras", extras)
            .field("receiving", receiving)
            .field("next_id", next_id)
            .finish_non_exhaustive()
    }
}

impl Front {
    /// The driver of a device in `guest`.
    pub fn new(guest: Guest, vif: VifPaths, manners: Manners) -> Self {
        let rings = || Rings::new(&guest, manners.start, manners.split);
        let mut front = Self {
            rings: rings(),
            others: (1..manners.queues).map(|_| rings()).collect(),
            control: manners.control.then(|| ControlRings::new(&guest, manners.start)),
            control_answers: Vec::new(),
            guest,
            xenbus: Netfront::new(vif),
            manners,
            received: Vec::new(),
            answers: Vec::new(),
            events: 0,
            hands_off: false,
            polls: false,
            keeps: false,
            neglected: None,
            gone: false,
            sent: BTreeMap::new(),
            extras: 0,
            receiving: Vec::new(),
            pages: Vec::new(),
            next_id: 0,
            turn: 0,
        };
        front.open();
        front
    }

    /// Tells of its rings, and offers pages on all of them.
    fn open(&mut self) {
        self.write_keys();
        self.receiving = self.queues().map(|_| Receiving::default()).collect();
        (0..self.receiving.len()).for_each(|queue| self.offer_to(queue, self.manners.offers));
    }

    /// The rings of all its queues.
    pub fn queues(&self) -> impl Iterator<Item = &Rings> + Clone {
        std::iter::once(&self.rings).chain(&self.others)
    }

    /// The rings of one of its queues.
    pub fn rings_of(&mut self, queue: usize) -> &mut Rings {
        if queue == 0 { &mut self.rings } else { &mut self.others[queue - 1] }
    }

    /// Its vif.
    pub fn vif(&self) -> VifPaths {
        self.xenbus.vif
    }

    /// Its address, as the toolstack configures it.
    pub fn mac(&self) -> [u8; 6] {
        let vif = self.vif();
        [0, 0x16, 0x3e, 0, vif.frontend.0 as u8, vif.devid as u8]
    }

    fn write_keys(&mut self) {
        let Manners { scatter_gather, rx_notify, ipv4_checksum, ipv6_checksum, gso, .. } =
            self.manners;
        let mut keys = Vec::new();
        let queues = self.queues().count();
        if queues > 1 {
            keys.push(("multi-queue-num-queues", queues as u32));
        }
        for (rings, names) in self.queues().zip(QueueKeys::of(queues)) {
            keys.push((names.tx_ring, rings.tx_page.1.0));
            keys.push((names.rx_ring, rings.rx_page.1.0));
            match rings.rx_port {
                Some(rx) => keys.extend([(names.tx_port, rings.port.0), (names.rx_port, rx.0)]),
                None => keys.push((names.port, rings.port.0)),
            }
        }
        if let Some(control) = &self.control {
            keys.push(("ctrl-ring-ref", control.page.1.0));
            keys.push(("event-channel-ctrl", control.port.0));
        }
        keys.extend([
            ("feature-sg", scatter_gather.into()),
            ("feature-rx-notify", rx_notify.into()),
            ("feature-no-csum-offload", (!ipv4_checksum).into()),
            ("feature-ipv6-csum-offload", ipv6_checksum.into()),
            ("feature-gso-tcpv4", gso[0].into()),
            ("feature-gso-tcpv6", gso[1].into()),
            ("xdp-headroom", self.manners.xdp_headroom),
        ]);
        // What stands there by default is not its own.
        let rings = ["tx-ring-ref", "rx-ring-ref", "event-channel"];
        self.xenbus.keys.retain(|(name, _)| !rings.contains(&name.as_str()));
        for (name, value) in keys {
            self.set_key(name, &value.to_string());
        }
    }

    /// Has it write another value for a key when it connects.
    pub fn set_key(&mut self, name: &str, value: &str) {
        self.xenbus.keys.retain(|(known, _)| known != name);
        self.xenbus.keys.push((name.to_string(), value.to_string()));
    }

    /// Sends a packet; the ids of its slots.
    pub fn send(&mut self, packet: &Outgoing) -> Vec<u16> {
        let ids = self.queue(packet);
        self.kick();
        ids
    }

    /// Writes a packet's requests; the ids of its slots.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn queue(&mut self, packet: &Outgoing) -> Vec<u16> {
        let queue = self.choose(&packet.bytes);
        self.queue_to(queue, packet)
    }

    /// The queue for a packet.
    fn choose(&mut self, bytes: &[u8]) -> usize {
        let key = match self.manners.spread {
            Spread::ByFlow => crate::frames::flow(bytes),
            Spread::InTurn => {
                self.turn += 1;
                self.turn as u64
            }
        };
        key as usize % self.queues().count()
    }

    /// Writes a packet's requests into the ring of a queue; the ids of its slots.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn queue_to(&mut self, queue: usize, packet: &Outgoing) -> Vec<u16> {
        let mut ids = Vec::new();
        let mut rest = &packet.bytes[..];
        for (index, &(offset, len)) in packet.pieces.iter().enumerate() {
            let (bytes, behind) = rest.split_at(usize::from(len));
            rest = behind;
            let mut flags = if index == 0 { packet.flags } else { TxFlags::empty() };
            flags.set(TxFlags::MORE_DATA, index + 1 < packet.pieces.len());
            flags.set(TxFlags::EXTRA_INFO, index == 0 && !packet.extras.is_empty());
            let size = if index == 0 { packet.bytes.len() as u16 } else { len };
            let id = self.lend(bytes, offset);
            let reference = self.sent[&id].reference.map_or(NO_GRANT, |reference| reference.0);
            self.push_to(queue, TxRequest::new(reference, offset, flags, id, size).into());
            if index == 0 {
                packet.extras.iter().for_each(|extra| self.push_to(queue, (*extra).into()));
                self.extras += packet.extras.len();
            }
            ids.push(id);
        }
        ids
    }

    /// Grants a page with `bytes` at `offset` for a slot; the slot's id. Read-only,
    /// as Linux does (H-10).
    pub fn lend(&mut self, bytes: &[u8], offset: u16) -> u16 {
        let frame = self.page();
        self.guest.page(frame).write_bytes(offset.into(), bytes);
        let granted = !bytes.is_empty();
        let reference = granted.then(|| self.guest.grant(frame, Grant::ReadOnly));
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        assert!(self.sent.insert(id, Lent { frame, reference }).is_none(), "ids come round");
        id
    }

    /// What stands for the page of a slot.
    pub fn reference(&self, id: u16) -> GrantRef {
        self.sent[&id].reference.expect("a slot with bytes")
    }

    /// The page of a slot that has no response yet.
    pub fn lent_page(&self, id: u16) -> GuestFrame {
        self.sent[&id].frame
    }

    /// Forgets what it has lent, as a guest does that starts anew: the grants stay.
    pub(crate) fn forget_lent(&mut self) {
        self.sent.clear();
    }

    /// Writes a request as it stands into the ring of the first queue.
    pub fn push(&mut self, slot: TxSlot) {
        self.push_to(0, slot);
    }

    fn push_to(&mut self, queue: usize, slot: TxSlot) {
        self.rings_of(queue).tx.push(slot).expect("room in the ring");
    }

    /// Takes note of so many slots of extra info among what was written as it stands.
    pub fn expect_nulls(&mut self, extras: usize) {
        self.extras += extras;
    }

    /// Shows the backend what was written, and raises the events that it wants.
    pub fn kick(&mut self) {
        for rings in std::iter::once(&mut self.rings).chain(&mut self.others) {
            if rings.tx.publish() {
                self.guest.notify(rings.port);
            }
        }
    }

    /// Asks for something by the control ring.
    ///
    /// # Panics
    /// If it has none, or that is full.
    pub fn ask(&mut self, kind: u32, data: [u32; 3]) {
        let control = self.control.as_mut().expect("a control ring");
        self.next_id = self.next_id.wrapping_add(1);
        let request = ControlRequest { id: self.next_id, kind: kind as u16, data };
        control.ring.push(request).expect("room in the ring");
        if control.ring.publish() {
            self.guest.notify(control.port);
        }
    }

    /// What the store tells the backend of it.
    pub fn frontend(&self) -> Frontend {
        let Manners { rx_notify, scatter_gather, ipv4_checksum, ipv6_checksum, gso, .. } =
            self.manners;
        let names = QueueKeys::of(self.queues().count());
        let rings = self.queues().zip(names).map(|(rings, keys)| QueueRings {
            keys,
            tx_ring: rings.tx_page.1,
            rx_ring: rings.rx_page.1,
            ports: match rings.rx_port {
                Some(rx) => RemotePorts::Split { tx: rings.port, rx },
                None => RemotePorts::Shared(rings.port),
            },
        });
        let control = self.control.as_ref();
        let control =
            control.map(|control| ControlRing { ring: control.page.1, port: control.port });
        Frontend {
            queues: rings.collect(),
            control,
            rx_notify,
            scatter_gather,
            ipv4_checksum,
            ipv6_checksum,
            gso_v4: gso[0],
            gso_v6: gso[1],
            options: Options { xdp_headroom: self.manners.xdp_headroom, ..Options::default() },
        }
    }

    /// The slots with a page that have no response yet, by their ids, the oldest first.
    pub fn lent(&self) -> impl Iterator<Item = u16> {
        self.sent.iter().filter(|(_, lent)| lent.reference.is_some()).map(|(id, _)| *id)
    }

    /// Slots sent that have no response yet.
    pub fn unanswered(&self) -> usize {
        self.sent.len() + self.extras
    }

    /// Offers `count` more pages to be filled, on the first queue.
    pub fn offer(&mut self, count: u32) {
        self.offer_to(0, count);
    }

    /// The same, on any queue.
    pub fn offer_to(&mut self, queue: usize, count: u32) {
        for _ in 0..count {
            let frame = self.page();
            let reference = self.guest.grant(frame, Grant::Writable);
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            let request = RxRequest { id, pad: 0, gref: reference.0 };
            self.rings_of(queue).rx.push(request).expect("room in the ring");
            let lent = Lent { frame, reference: Some(reference) };
            self.receiving[queue].offered.push_back((id, lent));
        }
        if self.rings_of(queue).rx.publish() && self.manners.rx_notify {
            let port = self.rings_of(queue).receive_port();
            self.guest.notify(port);
        }
    }

    /// What stands for the `n`-th of the pages offered and not filled yet.
    pub fn offered(&self, n: usize) -> GrantRef {
        self.receiving[0].offered[n].1.reference.expect("a page")
    }

    /// Does what the store and the backend's events ask for. Returns whether there
    /// was anything.
    pub(crate) fn poll(&mut self, store: &mut Xenstored, now: Instant) -> bool {
        if self.gone {
            return false;
        }
        let moved = self.xenbus.poll(store);
        if self.hands_off {
            return moved;
        }
        self.attend(now) || moved
    }

    /// Does what the backend's events ask for. Returns whether there were any.
    pub fn attend(&mut self, now: Instant) -> bool {
        let control = self.control.iter().map(|control| control.port);
        let ports = self.queues().flat_map(Rings::ports).chain(control);
        let events: usize = ports.map(|port| self.guest.take_events(port)).sum();
        self.events += events;
        if events > 0 && !self.polls {
            self.service(now);
        }
        events > 0
    }

    /// Takes all responses.
    pub fn service(&mut self, now: Instant) {
        (0..self.receiving.len()).for_each(|queue| self.service_queue(queue, now));
        let Some(control) = &mut self.control else { return };
        loop {
            self.control_answers.extend(std::iter::from_fn(|| control.ring.take()));
            if self.polls || !control.ring.rearm() {
                break;
            }
        }
    }

    /// Takes the responses of one queue.
    pub fn service_queue(&mut self, queue: usize, now: Instant) {
        loop {
            while let Some(response) = self.rings_of(queue).tx.take() {
                self.answered(response);
            }
            if self.polls || !self.rings_of(queue).tx.rearm() {
                break;
            }
        }
        loop {
            let mut taken = 0;
            while let Some(response) = self.rings_of(queue).rx.take() {
                taken += 1;
                self.taken(queue, response, now);
            }
            if self.manners.refills && self.neglected != Some(queue) {
                self.offer_to(queue, taken);
            }
            if self.polls || !self.rings_of(queue).rx.rearm() {
                break;
            }
        }
    }

    fn answered(&mut self, TxResponse { id, status }: TxResponse) {
        if status == Status::Null as i16 {
            assert!(self.extras > 0, "a NULL for each extra info (P-15)");
            self.extras -= 1;
            return;
        }
        let Some(lent) = self.sent.remove(&id) else { panic!("a second response to {id} (P-15)") };
        self.take_back(lent);
        self.answers.push(TxAnswer { id, status });
    }

    /// Takes a slot of a receive ring: a response, or extra info of the first one.
    fn taken(&mut self, queue: usize, response: RxResponse, now: Instant) {
        let Receiving { offered, assembly } = &mut self.receiving[queue];
        let (id, lent) = offered.pop_front().expect("a response to a request");
        let Some(first) = assembly.first.take() else {
            assert_eq!(response.id, id, "responses occupy their requests' slots (P-17)");
            if response.flags().contains(RxFlags::EXTRA_INFO) {
                assembly.first = Some((response, lent));
                return;
            }
            return self.filled(queue, response, lent, now);
        };
        let extra = response.extra();
        self.told(queue, &extra);
        let mut page = vec![0; PAGE_SIZE];
        self.guest.page(lent.frame).read_bytes(0, &mut page);
        assert!(page.iter().all(|byte| *byte == BLANK), "written to for extra info");
        self.take_back(lent);
        if extra.flags().contains(ExtraFlags::MORE) {
            self.receiving[queue].assembly.first = Some(first);
        } else {
            self.filled(queue, first.0, first.1, now);
        }
    }

    /// Checks what extra info says, each once (P-11, P-21, P-23, P-25).
    fn told(&mut self, queue: usize, extra: &ExtraInfo) {
        let assembly = &mut self.receiving[queue].assembly;
        match extra.extra_type() {
            Some(ExtraType::Gso) => {
                let gso = extra.segmentation();
                let kind = GsoType::new(gso.kind).expect("a kind that there is");
                assert!(self.manners.gso[kind as usize], "a kind that it takes (P-21)");
                assert!(gso.size > 0, "segments with bytes");
                assert_eq!(assembly.gso.replace(gso), None, "once");
            }
            Some(ExtraType::Hash) => {
                assert!(self.control.is_some(), "what it asked for");
                let [kind, algorithm, value @ ..] = extra.data;
                let told = ToldHash { kind, algorithm, value: u32::from_le_bytes(value) };
                assert_eq!(assembly.hash.replace(told), None, "once");
            }
            Some(ExtraType::Xdp) => {
                let [low, high, 0, 0, 0, 0] = extra.data else { panic!("{extra:?}") };
                assert_eq!(assembly.headroom, 0, "once");
                assembly.headroom = u16::from_le_bytes([low, high]);
                assert_ne!(assembly.headroom, 0, "nothing to tell");
            }
            _ => panic!("{extra:?}"),
        }
    }

    /// Checks what netfront relies on (P-17 to P-20, P-23).
    fn filled(&mut self, queue: usize, response: RxResponse, lent: Lent, now: Instant) {
        let mut flags = response.flags();
        let more = flags.contains(RxFlags::MORE_DATA);
        flags.remove(RxFlags::MORE_DATA | RxFlags::EXTRA_INFO);
        let assembly = &mut self.receiving[queue].assembly;
        let headroom = usize::from(assembly.headroom);
        assembly.slots += 1;
        if assembly.flags.is_none() {
            let known = RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED;
            assert!(known.contains(flags), "{flags:?}");
            assembly.flags = Some(flags);
        } else {
            assert_eq!(flags, RxFlags::empty(), "only the first slot has flags");
        }
        match usize::try_from(response.status) {
            Ok(len) => {
                assert_eq!(usize::from(response.offset), headroom, "as the extra info says");
                assert!(headroom + len <= PAGE_SIZE, "{len} bytes in a page (P-18)");
                assert!(len > 0, "an empty slot");
                let both = assembly.last.replace(len).map(|last| last + len);
                let apart = both.is_none_or(|both| both > PAGE_SIZE - headroom);
                assert!(apart, "{both:?} bytes in two pages (P-19)");
                let mut before = vec![0; PAGE_SIZE.min(headroom + len + MARGIN)];
                self.guest.page(lent.frame).read_bytes(0, &mut before);
                let mut bytes = before.split_off(headroom);
                assert!(before.iter().all(|byte| *byte == BLANK), "written before the packet");
                let behind = bytes.split_off(len);
                assert!(behind.iter().all(|byte| *byte == BLANK), "written behind the packet");
                assembly.bytes.extend(bytes);
            }
            Err(_) => {
                assert_eq!(response.status, Status::Error as i16);
                assembly.failed += 1;
                assembly.last = None;
            }
        }
        if !more {
            let Assembly { bytes, flags, gso, slots, failed, headroom, hash, .. } =
                std::mem::take(assembly);
            assert!(slots <= MAX_RX_SLOTS, "{slots} slots (P-18)");
            assert!(self.manners.scatter_gather || slots == 1, "no feature-sg");
            let flags = flags.unwrap_or(RxFlags::empty());
            assert!(gso.is_none() || flags.contains(RxFlags::CSUM_BLANK), "as P-21 has it");
            self.received.push(Received {
                at: now,
                bytes,
                flags,
                gso,
                slots,
                headroom,
                failed,
                queue,
                hash,
            });
        }
        self.take_back(lent);
    }

    /// A page comes back: nobody may look at it any more.
    fn take_back(&mut self, lent: Lent) {
        if let Some(reference) = lent.reference {
            assert!(self.guest.end_grant(reference), "answered, but still in use (O-2)");
        }
        if !self.keeps {
            self.guest.page(lent.frame).write(0, &[REUSED; PAGE_SIZE]);
        }
        self.pages.push(lent.frame);
    }

    fn page(&mut self) -> GuestFrame {
        let Some(used) = self.pages.pop() else { return self.guest.add_page() };
        self.guest.page(used).write(0, &[BLANK; PAGE_SIZE]);
        used
    }

    /// Takes back all pages and closes the event channel, as a driver does once the
    /// backend is in Closing.
    ///
    /// # Panics
    /// If the backend still uses any of it.
    pub(crate) fn close(&mut self) {
        assert_eq!(self.take_back_all(), [], "a ring is still mapped");
        self.close_ports();
    }

    fn close_ports(&self) {
        let control = self.control.iter().map(|control| control.port);
        let ports = self.queues().flat_map(Rings::ports).chain(control);
        ports.for_each(|port| self.guest.close_port(port));
    }

    /// The same of a backend that could not wait: what it still uses stays lent for
    /// good. The grants of that.
    pub(crate) fn close_forced(&mut self) -> Vec<GrantRef> {
        let sent = std::mem::take(&mut self.sent);
        let (used, unused): (BTreeMap<_, _>, BTreeMap<_, _>) =
            sent.into_iter().partition(|(_, lent)| {
                lent.reference.is_some_and(|reference| self.guest.is_in_use(reference))
            });
        self.sent = unused;
        let kept = used.into_values().filter_map(|lent| lent.reference);
        let kept = kept.chain(self.take_back_all()).collect();
        self.close_ports();
        kept
    }

    /// Takes back all pages. The grants of rings that are still mapped.
    fn take_back_all(&mut self) -> Vec<GrantRef> {
        let lent = std::mem::take(&mut self.sent).into_values();
        let receiving = std::mem::take(&mut self.receiving).into_iter();
        let offered = receiving.flat_map(|receiving| receiving.offered).map(|(_, lent)| lent);
        lent.chain(offered).collect::<Vec<_>>().into_iter().for_each(|lent| self.take_back(lent));
        self.extras = 0;
        let mut kept = Vec::new();
        let rings = self.queues().flat_map(|rings| [rings.tx_page, rings.rx_page]);
        let control = self.control.iter().map(|control| control.page);
        for (frame, reference) in rings.chain(control) {
            if self.guest.end_grant(reference) {
                self.guest.balloon_out(frame);
            } else {
                kept.push(reference);
            }
        }
        kept
    }

    /// Makes new rings, as a driver does that starts again.
    pub(crate) fn reopen(&mut self) {
        let Manners { start, split, queues, control, .. } = self.manners;
        let rings = || Rings::new(&self.guest, start, split);
        let (first, others) = (rings(), (1..queues).map(|_| rings()).collect());
        let control = control.then(|| ControlRings::new(&self.guest, start));
        (self.rings, self.others, self.control) = (first, others, control);
        self.open();
    }
}
