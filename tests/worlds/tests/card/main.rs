//! Guests, the switch, and the NIC driver of the image on its device.

mod aggregation;
mod bulk;
mod checksums;
mod hung;
mod jumbo;
mod liar;
mod link;
mod segments;

use std::time::Duration;

use drivers::nic::{Nic, Statistics, Status};
use kernel::pages::choice::Mode;
use kernel::switch::{Holding, Port};
use worlds::{Card, Id, Outgoing, Uplink, World, frames};
use xen::netif::TxFlags;

/// A station on the wire.
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type CardWorld = World<Card>;

/// A world in which everything is mapped that can be.
fn mapping() -> CardWorld {
    World::of(Mode::Always)
}

fn frame(world: &CardWorld, from: Id, to: [u8; 6], len: usize) -> Vec<u8> {
    frames::plain(to, world[from].mac(), len, len as u64)
}

fn send(world: &mut CardWorld, from: Id, to: [u8; 6], len: usize) {
    let frame = frame(world, from, to, len);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
}

/// Guests' pages that the device may read.
fn mapped(world: &CardWorld) -> u64 {
    world.network.pools().tracker.counters().mapped
}

fn statistics(world: &CardWorld) -> Statistics {
    world.network.nic().expect("a card").statistics()
}

fn status(world: &CardWorld) -> Status {
    world.network.uplink().expect("a card").0
}

/// For how long the driver says it may have a page.
fn bound(world: &CardWorld) -> Duration {
    match world.network.nic().expect("a card").holding() {
        Holding::Mapped(bound) => bound,
        holding => panic!("{holding:?}"),
    }
}

/// Whether guests reach each other, at once.
fn check_between(world: &mut CardWorld, from: Id, to: Id, len: usize) {
    let before = world.now();
    let frame = frame(world, from, world[to].mac(), len);
    world[from].send(&Outgoing::whole(&frame));
    world.settle();
    let arrived = world[to].received.drain(..).find(|packet| packet.bytes == frame);
    let at = arrived.expect("it arrives").at;
    // A turn takes time while the driver changes its device's state.
    assert!(at.since(before) <= MILLISECOND, "{:?} late", at.since(before));
}

/// Whether a guest reaches the wire, and the wire a guest.
fn check_wire(world: &mut CardWorld, id: Id) {
    world.wire.take_frames();
    world[id].received.clear();
    // From the wire first: then the bridge knows where that station is.
    for len in [60, 700, 1514] {
        let back = frames::plain(world[id].mac(), OUTSIDE, len, 5);
        world.wire.inject(back.clone());
        world.settle();
        assert_eq!(world[id].received.pop().expect("it arrives").bytes, back);
    }
    // The same context each time, of which a device that was reset knows nothing.
    let whole = frames::transport(OUTSIDE, world[id].mac(), true, true, &[3; 500]);
    let blank = Outgoing::whole(&frames::blank(whole.clone(), true, true));
    world[id].send(&blank.with_flags(TxFlags::CSUM_BLANK));
    for len in [60, 700, 1514] {
        send(world, id, OUTSIDE, len);
    }
    let plain = [60, 700, 1514].map(|len| frame(world, id, OUTSIDE, len));
    assert_eq!(world.wire.take_frames(), [&[whole][..], &plain].concat());
    assert_eq!(world[id].unanswered(), 0);
}

/// Numbers that a seed determines.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number less than `below`.
    fn roll(&mut self, below: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}
