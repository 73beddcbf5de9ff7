//! A card that says what it wants, in descriptors, registers and interrupts, beside
//! guests that exchange packets and send to the wire.

use kernel::pages::choice::Mode;
use worlds::{Card, Outgoing, World, frames};

use crate::coding::{Script, coded, decode, pick};
use crate::pair::{MILLISECOND, OUTSIDE, Pair, SECOND, check_log};

/// Registers that the driver reads, but for CTRL, of which it sets single bits: STATUS,
/// EEC, EXTCNF_CTRL, ICR, RAL, RAH, and counters.
const REGISTERS: [u32; 13] = [
    0x08, 0x10, 0xf00, 0xc0, 0x5400, 0x5404, 0x4000, 0x400c, 0x4010, 0x4074, 0x4080, 0x40a4, 0x40b0,
];

/// What can be wrong with the device, but for messages that are lost: it would be polled,
/// and a world that polls never rests.
const FAULTS: [u8; 5] = [0, 1, 2, 4, 5];

coded! {
    /// What there is.
    pub struct Setup {
        /// What is mapped.
        pub mode: u8,
        /// Whether it is QEMU's device.
        pub emulated: bool,
    }

    /// What the device, or who is around it, does.
    pub enum Deed {
        /// It writes receive descriptors back.
        Lie { times: u8, status: u32, len: u16 },
        /// It writes to the status of a descriptor to send.
        Scribble { slot: u8, status: u8 },
        /// It says that everything is sent.
        ClaimSent,
        /// It says something else of a register than is there, or the truth again.
        Claim { register: u8, value: u32, truth: bool },
        /// Something is wrong with it, or right again.
        Fault { number: u8, is: bool },
        /// It sends one of the packets that it keeps.
        Send { count: u8 },
        /// It goes on.
        Kick,
        /// It interrupts.
        Interrupt { vectors: Vec<u8> },
        /// The cable is pulled or plugged in.
        Link { up: bool },
        /// Xen takes its bus mastering away.
        LoseMastering,
        /// It says that transactions are pending, or not.
        Pending { are: bool },
        /// Frames arrive.
        Arrive { count: u8, guest: u8, len: u16 },
        /// Guests send to the wire.
        Outward { guest: u8, count: u8, len: u16, pieces: u8 },
        /// Time passes.
        Wait { time: u16 },
    }
}

/// What is fuzzed.
pub type Input = Script<Setup, Deed>;

/// Does what an input says.
pub fn run(data: &[u8]) {
    let Some(Script { setup, deeds }) = decode::<Input>(data) else { return };
    let mode = pick(&[Mode::Auto, Mode::Always, Mode::Never], setup.mode);
    let card = if setup.emulated { Card::emulated } else { <Card as worlds::Uplink>::new };
    let mut world = World::around(card, mode);
    world.pass(SECOND / 10);
    let mut scene = Scene { pair: Pair::attach(&mut world, [0, 1]), world };
    for deed in &deeds {
        scene.act(deed);
        scene.pair.exchange(&mut scene.world);
    }
    scene.end(deeds.len());
}

struct Scene {
    world: World<Card>,
    pair: Pair,
}

impl Scene {
    fn act(&mut self, deed: &Deed) {
        let device = &self.world.wire.device;
        match *deed {
            Deed::Lie { times, status, len } => (0..=times).for_each(|_| device.lie(status, len)),
            Deed::Scribble { slot, status } => device.scribble(slot.into(), status),
            Deed::ClaimSent => device.claim_sent(),
            Deed::Claim { register, value, truth } => {
                device.claim(pick(&REGISTERS, register), (!truth).then_some(value));
            }
            Deed::Fault { number, is } => device.fault(pick(&FAULTS, number)).set(is),
            Deed::Send { count } => (0..count).for_each(|_| device.send_one()),
            Deed::Kick => device.kick(),
            Deed::Interrupt { ref vectors } => device.messages.borrow_mut().extend(vectors),
            Deed::Link { up } => device.set_link(up),
            Deed::LoseMastering => device.lose_mastering(),
            Deed::Pending { are } => device.config.set(0xa8, 0x2003 | u32::from(are) << 21),
            Deed::Arrive { count, guest, len } => {
                let to = self.world[pick(&self.pair.both(), guest)].mac();
                for number in 0..count {
                    let len = 14 + usize::from(len % 1600);
                    // What it has no room for is lost.
                    let _ = device.arrive(&frames::plain(to, OUTSIDE, len, number.into()));
                }
            }
            Deed::Outward { guest, count, len, pieces } => {
                self.outward(guest, count, 14 + len % 1500, pieces);
            }
            Deed::Wait { time } => self.world.pass(u32::from(time % 3000) * MILLISECOND),
        }
    }

    fn outward(&mut self, guest: u8, count: u8, len: u16, pieces: u8) {
        let from = pick(&self.pair.both(), guest);
        let front = &mut self.world[from];
        let first = (14 + u16::from(pieces)).min(len);
        for number in 0..count {
            let frame = frames::plain(OUTSIDE, front.mac(), len.into(), number.into());
            let cut = match (pieces, len - first) {
                (0, _) | (_, 0) => Outgoing::whole(&frame),
                (_, rest) => Outgoing::cut(&frame, vec![(9, first), (pieces.into(), rest)]),
            };
            // The exchange needs some.
            if front.rings.tx.free() > 16 {
                front.queue(&cut);
            }
        }
        front.kick();
    }

    /// One more reset, after which the device tells the truth and does its work.
    fn heal(&mut self) {
        let device = &self.world.wire.device;
        REGISTERS.iter().for_each(|register| device.claim(*register, None));
        FAULTS.iter().for_each(|number| device.fault(*number).set(false));
        device.config.set(0xa8, 0x2003);
        device.set_link(true);
        device.lose_mastering();
        self.world.pass(15 * SECOND);
        assert!(!self.world.wire.device.has_lied(), "it was reset");
    }

    fn end(mut self, deeds: usize) {
        self.heal();
        self.pair.check_answered(&self.world);
        self.world.check_at_rest();
        self.pair.reach_wire(&mut self.world);
        check_log(deeds);
        self.world.end();
    }
}
