//! A frontend that writes what it wants into its rings and pages, beside two that
//! exchange packets.

use std::time::Duration;

use kernel::pages::choice::Mode;
use kernel::switch::Holding;
use worlds::{GUESTS, Id, Manners, Outgoing, World, frames};
use xen::DomainId;
use xen::SharedPage;
use xen::fake::{Grant, Guest, GuestFrame, Kind, When};
use xen::grant::GrantRef;
use xen::netif::{ExtraFlags, ExtraInfo, RxRequest, TxFlags, TxRequest};
use xen::ring::Word;

use crate::coding::{Script, coded, decode, pick};
use crate::frame::Frame;
use crate::pair::{MILLISECOND, MTU, OUTSIDE, Pair, SECOND, check_log};

/// Pages that the guest plays with.
const PAGES: usize = 8;
/// Slots that an honest guest keeps free.
const SPARE: u32 = 16;
/// States that a frontend may write.
const STATES: [&str; 12] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "", "x"];

coded! {
    /// What there is.
    pub struct Setup {
        /// What is mapped.
        pub mode: u8,
        /// How the NIC holds pages.
        pub holding: u8,
        /// What the guest's frontend can do.
        pub manners: u8,
        /// How many pages it offers at first.
        pub offers: u8,
        /// Where its rings start.
        pub start: u32,
    }

    /// What the guest, or who is around it, does.
    pub enum Deed {
        /// It writes slots and shows them.
        Send { slots: Vec<Slot> },
        /// It offers pages to be filled.
        Offer { pages: Vec<u8> },
        /// It adds to an index of a ring.
        Add { word: u8, by: u32 },
        /// It raises events.
        Notify { times: u8 },
        /// It writes a frame into a page.
        Fill { page: u8, at: u16, frame: Frame },
        /// It changes what it grants.
        Grant { page: u8, how: u8 },
        /// It takes away a ring's page.
        Tear { page: u8, how: u8 },
        /// It closes its event channel.
        Close,
        /// With the next copy that is made, bytes change in a page.
        Meanwhile { page: u8, at: u16, bytes: Vec<u8> },
        /// It writes its state.
        State { state: u8 },
        /// Its driver starts again.
        Restart,
        /// It is destroyed, and comes back.
        Die,
        /// An honest guest sends it packets.
        Traffic { count: u8, len: u16, blank: bool },
        /// Packets for it come from the wire.
        Inward { count: u8, len: u16 },
        /// An honest guest sends to the wire.
        Outward { count: u8, len: u16 },
        /// The NIC keeps what it is given, in so many descriptors.
        Hold { descriptors: u8 },
        /// The NIC sends so many of the packets that it keeps.
        Complete { count: u8 },
        /// The NIC is found not to get on.
        Stall,
        /// The NIC sends everything at once again.
        Flow,
        /// Time passes.
        Wait { time: u16 },
    }

    /// A slot of the transmit ring.
    pub enum Slot {
        /// A request.
        Request { page: u8, flags: u8, offset: u16, size: u16, id: u8 },
        /// Extra info.
        Extra { kind: u8, flags: u8, low: u16, high: u32 },
    }
}

/// What is fuzzed.
pub type Input = Script<Setup, Deed>;

/// Does what an input says.
pub fn run(data: &[u8]) {
    let Some(Script { setup, deeds }) = decode::<Input>(data) else { return };
    let mut scene = Scene::new(&setup);
    for deed in &deeds {
        scene.act(deed);
        scene.world.settle();
        scene.check();
    }
    scene.end(deeds.len());
}

/// The guest, and what it plays with.
struct Evil {
    id: Id,
    pages: Vec<(GuestFrame, GrantRef)>,
}

impl Evil {
    fn attach(world: &mut World, setup: &Setup) -> Self {
        let can = |bit: u8| setup.manners & bit != 0;
        let manners = Manners {
            scatter_gather: can(1),
            rx_notify: can(2),
            ipv4_checksum: can(4),
            ipv6_checksum: can(8),
            offers: setup.offers.into(),
            start: setup.start,
            ..Manners::default()
        };
        let id = world.attach_with(0, manners, &[MTU]);
        world[id].hands_off = true;
        let frame = frames::plain(frames::BROADCAST, world[id].mac(), 4096, 1);
        let guest = world[id].guest.clone();
        let page = |number: usize| {
            let page = guest.add_page();
            guest.page(page).write_bytes(0, &frame);
            (page, guest.grant(page, [Grant::ReadOnly, Grant::Writable][number % 2]))
        };
        Self { id, pages: (0..PAGES).map(page).collect() }
    }
}

struct Scene<'a> {
    setup: &'a Setup,
    world: World,
    evil: Evil,
    pair: Pair,
    /// Whether the NIC sends at once.
    flows: bool,
}

impl<'a> Scene<'a> {
    fn new(setup: &'a Setup) -> Self {
        let mode = pick(&[Mode::Auto, Mode::Always, Mode::Never], setup.mode);
        let holds = Duration::from_secs(4);
        let holding = pick(&[Holding::Mapped(holds), Holding::Private], setup.holding);
        let mut world = World::with(holding, mode);
        let evil = Evil::attach(&mut world, setup);
        let pair = Pair::attach(&mut world, [1, 2]);
        Self { setup, world, evil, pair, flows: true }
    }

    fn guest(&self) -> Guest {
        self.world[self.evil.id].guest.clone()
    }

    fn notify(&self) {
        self.guest().notify(self.world[self.evil.id].rings.port);
    }

    /// What a number stands for as a grant: its pages', its rings', or nothing good.
    fn reference(&self, number: u8) -> u32 {
        let rings = &self.world[self.evil.id].rings;
        match self.evil.pages.get(usize::from(number)) {
            Some((_, reference)) => reference.0,
            None => pick(&[0, u32::MAX, 400, rings.tx_page.1.0, rings.rx_page.1.0], number),
        }
    }

    /// A page of its own, or of its rings.
    fn page(&self, number: u8) -> SharedPage {
        let rings = &self.world[self.evil.id].rings;
        let page = self.evil.pages.get(usize::from(number)).map(|(page, _)| *page);
        let ring = || pick(&[rings.tx_page.0, rings.rx_page.0], number);
        self.guest().page(page.unwrap_or_else(ring))
    }

    fn act(&mut self, deed: &Deed) {
        let world = &mut self.world;
        let evil = self.evil.id;
        match deed {
            Deed::Send { slots } => self.send(slots),
            Deed::Offer { pages } => self.offer(pages),
            Deed::Add { word, by } => self.add(*word, *by),
            Deed::Notify { times } => (0..*times).for_each(|_| self.notify()),
            Deed::Fill { page, at, frame } => {
                let guests = GUESTS.map(|guest| [0, 0x16, 0x3e, 0, guest.0 as u8, 0]);
                write(&self.page(*page), *at, &frame.build(&guests[..3]));
            }
            Deed::Grant { page, how } => self.grant(*page, *how),
            Deed::Tear { page, how } => {
                let rings = &world[evil].rings;
                let (frame, reference) = pick(&[rings.tx_page, rings.rx_page], *page);
                let guest = &world[evil].guest;
                match how % 4 {
                    0 => guest.revoke(reference),
                    1 => guest.replace_page(frame),
                    2 => guest.regrant(reference, guest.add_page(), Grant::ReadOnly),
                    _ => guest.balloon_out(frame),
                }
            }
            Deed::Close => world[evil].guest.close_port(world[evil].rings.port),
            Deed::Meanwhile { page, at, bytes } => {
                let (page, at) = (self.page(*page), *at);
                let mut bytes = Some(bytes.clone());
                let change = When::Chosen(Box::new(move |_| {
                    bytes.take().into_iter().for_each(|bytes| write(&page, at, &bytes));
                    false
                }));
                self.world.xen.fail(Kind::Copy, change, 1);
            }
            Deed::State { state } => world.set_front(evil, pick(&STATES, *state)),
            Deed::Restart => {
                if world.is_connected(evil) {
                    world.restart_with_pages_out(evil);
                    world[evil].hands_off = true;
                }
            }
            Deed::Die => {
                world.die(evil);
                self.flow();
                assert_eq!(self.world.bury(evil), Ok(()));
                self.evil = Evil::attach(&mut self.world, self.setup);
            }
            Deed::Traffic { count, len, blank } => {
                let to = world[evil].mac();
                self.honest(to, *count, *len, *blank);
            }
            Deed::Inward { count, len } => {
                let to = world[evil].mac();
                for number in 0..*count % 64 {
                    let len = 14 + usize::from(len % 1500);
                    world.wire.inject(frames::plain(to, OUTSIDE, len, number.into()));
                }
            }
            Deed::Outward { count, len } => self.honest(OUTSIDE, *count, *len % 1400, false),
            Deed::Hold { descriptors } => {
                self.flows = false;
                world.wire.hold(usize::from(*descriptors).max(4));
            }
            Deed::Complete { count } => {
                let _ = (0..*count).all(|_| world.wire.complete());
            }
            Deed::Stall => world.wire.stall(),
            Deed::Flow => self.flow(),
            Deed::Wait { time } => world.pass(u32::from(time % 1000) * MILLISECOND),
        }
    }

    fn send(&self, slots: &[Slot]) {
        let rings = &self.world[self.evil.id].rings;
        let mut producer = rings.tx.word(Word::RequestProducer);
        for slot in slots {
            let slot = match *slot {
                Slot::Request { page, flags, offset, size, id } => {
                    let flags = TxFlags::from_bits_retain(flags.into());
                    TxRequest::new(self.reference(page), offset, flags, id.into(), size).into()
                }
                Slot::Extra { kind, flags, low, high } => {
                    let ([a, b], [c, d, e, f]) = (low.to_le_bytes(), high.to_le_bytes());
                    let flags = ExtraFlags::from_bits_retain(flags);
                    ExtraInfo::new(kind, flags, [a, b, c, d, e, f]).into()
                }
            };
            rings.tx.write(producer, &slot);
            producer = producer.wrapping_add(1);
        }
        rings.tx.set_word(Word::RequestProducer, producer);
        self.notify();
    }

    fn offer(&self, pages: &[u8]) {
        let rings = &self.world[self.evil.id].rings;
        let mut producer = rings.rx.word(Word::RequestProducer);
        for page in pages {
            let gref = self.reference(*page);
            rings.rx.write(producer, &RxRequest { id: producer as u16, pad: 0, gref });
            producer = producer.wrapping_add(1);
        }
        rings.rx.set_word(Word::RequestProducer, producer);
        self.notify();
    }

    fn add(&self, word: u8, by: u32) {
        let words = [
            Word::RequestProducer,
            Word::RequestEvent,
            Word::ResponseProducer,
            Word::ResponseEvent,
        ];
        let (which, rings) = (pick(&words, word), &self.world[self.evil.id].rings);
        if word & 4 == 0 {
            rings.tx.set_word(which, rings.tx.word(which).wrapping_add(by));
        } else {
            rings.rx.set_word(which, rings.rx.word(which).wrapping_add(by));
        }
    }

    fn grant(&self, page: u8, how: u8) {
        let (guest, (frame, reference)) = (self.guest(), pick(&self.evil.pages, page));
        match how % 7 {
            0 => guest.revoke(reference),
            1 => guest.regrant(reference, guest.add_page(), Grant::ReadOnly),
            2 => guest.regrant(reference, frame, Grant::Writable),
            3 => guest.balloon_out(frame),
            4 => guest.replace_page(frame),
            5 => guest.make_page_table(frame),
            _ => drop(guest.grant_to(DomainId(1), frame, Grant::Writable)),
        }
    }

    /// The first honest guest sends packets, as far as its ring has room.
    fn honest(&mut self, to: [u8; 6], count: u8, len: u16, blank: bool) {
        let [from, _] = self.pair.both();
        let world = &mut self.world;
        let (len, mac) = (14 + usize::from(len % 9000), world[from].mac());
        for number in 0..count {
            let packet = if blank {
                let whole = frames::transport(to, mac, number % 2 == 0, true, &vec![number; len]);
                let blank = frames::blank(whole, number % 2 == 0, true);
                Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK)
            } else {
                Outgoing::whole(&frames::plain(to, mac, len, number.into()))
            };
            if world[from].rings.tx.free() >= SPARE + packet.pieces.len() as u32 {
                world[from].queue(&packet);
            }
        }
        world[from].kick();
    }

    /// The NIC sends everything at once.
    fn flow(&mut self) {
        while self.world.wire.complete() {}
        self.world.wire.set_room(usize::MAX);
        self.world.settle();
        self.world.wire.take_frames();
        self.flows = true;
    }

    /// The honest guests notice nothing.
    fn check(&mut self) {
        let honest = self.pair.both().map(|id| self.world[id].mac());
        let evil = self.world[self.evil.id].mac();
        for packet in self.pair.exchange(&mut self.world) {
            // But for what they sent while nobody knew where it was.
            let from = honest.iter().any(|mac| packet.bytes.get(6..12) == Some(mac));
            let forged = from && !packet.bytes.starts_with(&evil);
            assert!(!forged, "a packet from somebody else's address");
        }
        if self.flows {
            self.world.wire.take_frames();
        }
    }

    fn end(mut self, deeds: usize) {
        self.world.xen.clear_faults();
        self.flow();
        self.world.pass(SECOND / 5);
        self.pair.check_answered(&self.world);
        self.pair.reach_wire(&mut self.world);
        check_log(deeds);
        self.world.end();
    }
}

/// Writes what of the bytes is in the page.
fn write(page: &SharedPage, at: u16, bytes: &[u8]) {
    let at = usize::from(at) % xen::PAGE_SIZE;
    page.write_bytes(at, &bytes[..bytes.len().min(xen::PAGE_SIZE - at)]);
}
