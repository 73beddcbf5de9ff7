//! Frames of any bytes from the wire, through a card and the switch to guests, and from a
//! guest to all of them.

use kernel::pages::choice::Mode;
use worlds::{Card, Id, Manners, Outgoing, World, frames};
use xen::netif::TxFlags;

use crate::coding::{Script, coded, decode, pick};
use crate::frame::Frame;
use crate::pair::{MILLISECOND, OUTSIDE, Pair, SECOND, check_log};

coded! {
    /// What there is.
    pub struct Setup {
        /// What is mapped.
        pub mode: u8,
        /// Whether the card is QEMU's.
        pub emulated: bool,
        /// What the third guest's frontend can do.
        pub manners: u8,
        /// How many pages it offers at first.
        pub offers: u8,
    }

    /// What comes.
    pub enum Deed {
        /// A frame arrives, as often as it is said.
        Arrive { frame: Frame, times: u8 },
        /// The third guest sends a frame, with flags.
        Send { frame: Frame, flags: u8, split: u8 },
        /// The third guest offers pages.
        Offer { count: u8 },
        /// The cable is pulled for a while.
        Pull { time: u16 },
        /// The card sends nothing for a while.
        Stall { time: u16 },
        /// Time passes.
        Wait { time: u16 },
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
        scene.check();
    }
    scene.end(deeds.len());
}

struct Scene {
    world: World<Card>,
    pair: Pair,
    /// The third guest, which takes what it is given.
    third: Id,
    macs: [[u8; 6]; 3],
    /// All that was sent to others, by the wire or the third guest.
    sent: Vec<Vec<u8>>,
}

impl Scene {
    fn new(setup: &Setup) -> Self {
        let mode = pick(&[Mode::Auto, Mode::Always, Mode::Never], setup.mode);
        let card = if setup.emulated { Card::emulated } else { <Card as worlds::Uplink>::new };
        let mut world = World::around(card, mode);
        world.pass(SECOND / 10);
        let pair = Pair::attach(&mut world, [0, 1]);
        let can = |bit: u8| setup.manners & bit != 0;
        let manners = Manners {
            scatter_gather: can(1),
            rx_notify: can(2),
            ipv4_checksum: can(4),
            ipv6_checksum: can(8),
            refills: can(16),
            offers: setup.offers.into(),
            ..Manners::default()
        };
        let third = world.attach_with(2, manners, &[]);
        let [a, b] = pair.both();
        let macs = [a, b, third].map(|id| world[id].mac());
        Self { world, pair, third, macs, sent: Vec::new() }
    }

    fn act(&mut self, deed: &Deed) {
        let device = self.world.wire.device.clone();
        match deed {
            Deed::Arrive { frame, times } => {
                let frame = frame.build(&self.macs);
                for _ in 0..=times % 64 {
                    // One that is too long it does not take.
                    let _ = device.arrive(&frame);
                }
                self.world.settle();
                self.sent.push(frame);
            }
            Deed::Send { frame, flags, split } => {
                let frame = frame.build(&self.macs);
                self.send(frame, *flags, *split);
            }
            Deed::Offer { count } => {
                let third = &mut self.world[self.third];
                let count = u32::from(*count).min(third.rings.rx.free());
                third.offer(count);
            }
            Deed::Pull { time } => {
                device.set_link(false);
                self.pause(time % 1500);
                device.set_link(true);
                self.world.pass(5 * SECOND);
            }
            Deed::Stall { time } => {
                device.faults.stalled.set(true);
                self.pause(time % 1500);
                device.faults.stalled.set(false);
                device.kick();
            }
            Deed::Wait { time } => self.world.pass(u32::from(time % 3000) * MILLISECOND),
        }
    }

    /// Time passes, in which the honest guests send as well.
    fn pause(&mut self, time: u16) {
        for id in self.pair.both() {
            let frame = frames::plain(OUTSIDE, self.world[id].mac(), 1400, time.into());
            self.world[id].send(&Outgoing::whole(&frame));
        }
        self.world.pass(u32::from(time) * MILLISECOND);
    }

    fn send(&mut self, frame: Vec<u8>, flags: u8, split: u8) {
        let third = &mut self.world[self.third];
        let head = usize::from(split).max(14).min(frame.len());
        let packet = match frame.len() - head {
            0 => Outgoing::whole(&frame),
            rest => Outgoing::cut(&frame, vec![(5, head as u16), (100, rest as u16)]),
        };
        let flags = TxFlags::from_bits_retain(flags.into())
            & (TxFlags::CSUM_BLANK | TxFlags::DATA_VALIDATED);
        if third.rings.tx.free() > 2 && !frame.is_empty() {
            third.send(&packet.with_flags(flags));
            self.world.settle();
            self.sent.push(frame);
        }
    }

    /// The honest guests reach each other and the wire, and what else they receive was
    /// sent.
    fn check(&mut self) {
        let others = self.pair.exchange(&mut self.world);
        for packet in others {
            let from = packet.bytes.get(6..12);
            assert!(!self.macs[..2].iter().any(|mac| from == Some(mac)), "a forged sender");
            let same = |sent: &Vec<u8>| {
                let differing = sent.iter().zip(&packet.bytes).filter(|(sent, got)| sent != got);
                // A checksum that was left to others may have been made.
                sent.len() == packet.bytes.len() && differing.count() <= 2
            };
            assert!(self.sent.iter().any(same), "nobody sent it: {:?}", packet.bytes);
        }
        self.pair.reach_wire(&mut self.world);
        self.world[self.third].received.clear();
        self.world[self.third].answers.clear();
        self.sent.clear();
    }

    fn end(mut self, deeds: usize) {
        self.world.pass(SECOND);
        self.pair.check_answered(&self.world);
        check_log(deeds);
        self.world.end();
    }
}
