//! Two guests that keep the rules, and notice if anybody else does not.

use std::time::Duration;

use worlds::{Id, Level, Manners, Outgoing, Received, Uplink, World, frames, journal};
use xen::PAGE_SIZE;

/// A station on the wire.
pub const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// One thousandth of a second.
pub const MILLISECOND: Duration = Duration::from_millis(1);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// The most that a line of the log has.
const LINE: usize = 900;
/// Lines that are told whatever happens.
const LINES: usize = 60;

/// Packets of more than one page.
pub const MTU: (&str, &str) = ("mtu", "9000");
/// How long packets are, in turn: copied and mapped, of one page and of more.
const LENS: [usize; 8] = [60, 1400, 14, 700, 5000, 200, 1514, 9014];

/// The two guests.
pub struct Pair {
    a: Id,
    b: Id,
    number: usize,
}

impl Pair {
    /// These guests, connected.
    pub fn attach<U: Uplink>(world: &mut World<U>, guests: [usize; 2]) -> Self {
        let [a, b] = guests.map(|guest| {
            let id = world.attach_with(guest, Manners::default(), &[MTU]);
            assert!(world.is_connected(id), "{:?}", world.error(id));
            id
        });
        // The bridge knows where that station is.
        world.wire.inject(frames::plain(world[a].mac(), OUTSIDE, 60, 0));
        world.settle();
        world[a].received.clear();
        Self { a, b, number: 0 }
    }

    /// Both.
    pub fn both(&self) -> [Id; 2] {
        [self.a, self.b]
    }

    /// Each sends the other a packet, which arrives unchanged and at once. What else they
    /// received since this was last asked, and not from each other.
    ///
    /// # Panics
    /// If a packet does not.
    pub fn exchange<U: Uplink>(&mut self, world: &mut World<U>) -> Vec<Received> {
        let mut others = Vec::new();
        for (from, to) in [(self.a, self.b), (self.b, self.a)] {
            self.number += 1;
            let len = LENS[self.number % LENS.len()];
            let [mac, peer] = [from, to].map(|id| world[id].mac());
            let frame = frames::plain(peer, mac, len, self.number as u64);
            let start = world.now();
            world[from].send(&self.cut(&frame));
            world.settle();
            world[from].answers.clear();
            let mut received = std::mem::take(&mut world[to].received);
            // To a station that the bridge does not know any more.
            let begins = |packet: &Received, to: [u8; 6], from: [u8; 6]| {
                packet.bytes.starts_with([to, from].as_flattened())
            };
            received.retain(|packet| !begins(packet, OUTSIDE, mac));
            let received = received.into_iter();
            let (ours, theirs): (Vec<_>, Vec<_>) =
                received.partition(|packet| begins(packet, peer, mac));
            let [packet] = &ours[..] else { panic!("{} packets for one", ours.len()) };
            assert!(packet.bytes == frame && packet.failed == 0, "{len} bytes changed");
            assert!(packet.at.since(start) <= MILLISECOND, "late");
            others.extend(theirs);
        }
        others
    }

    /// A frame in one piece a page, or with its header split.
    fn cut(&self, frame: &[u8]) -> Outgoing {
        let head = 40;
        if self.number.is_multiple_of(3) && (head + 1..PAGE_SIZE).contains(&frame.len()) {
            let rest = (frame.len() - head) as u16;
            return Outgoing::cut(frame, vec![(9, head as u16), (PAGE_SIZE as u16 - rest, rest)]);
        }
        Outgoing::whole(frame)
    }

    /// Sees that one of them reaches the wire, and the wire it.
    ///
    /// # Panics
    /// If it does not.
    pub fn reach_wire<U: Uplink>(&mut self, world: &mut World<U>) {
        for id in self.both() {
            world.wire.take_frames();
            world[id].received.clear();
            self.number += 1;
            // From the wire first: then the bridge knows where that station is.
            let back = frames::plain(world[id].mac(), OUTSIDE, 700, self.number as u64);
            world.wire.inject(back.clone());
            world.settle();
            let arrived = world[id].received.drain(..).any(|packet| packet.bytes == back);
            assert!(arrived, "nothing from the wire");
            let out = frames::plain(OUTSIDE, world[id].mac(), 1400, self.number as u64);
            world[id].send(&Outgoing::whole(&out));
            world.settle();
            assert!(world.wire.take_frames().contains(&out), "nothing to the wire");
            world[id].answers.clear();
        }
    }

    /// Everything that they sent is answered.
    ///
    /// # Panics
    /// If it is not.
    pub fn check_answered<U: Uplink>(&self, world: &World<U>) {
        let unanswered = self.both().map(|id| world[id].unanswered());
        assert_eq!(unanswered, [0, 0], "waiting for responses");
    }
}

/// Checks that what is logged is fit for a console, and bounded by what was done.
///
/// # Panics
/// If it is not.
pub fn check_log(deeds: usize) {
    let lines = journal(Level::Info, "");
    assert!(lines.len() <= LINES + 10 * deeds, "{} lines of {deeds} deeds", lines.len());
    for line in lines {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        assert!(line.len() < LINE, "{line}");
    }
}
