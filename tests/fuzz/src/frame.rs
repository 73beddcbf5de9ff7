//! Frames, well made and not.

use drivers::fake::MAC;
use worlds::frames;

use crate::coding::{coded, pick};
use crate::pair::OUTSIDE;

/// The most bytes of a frame: more than a NIC takes.
const MOST: u16 = 2048;

coded! {
    /// A frame.
    pub enum Frame {
        /// Of a kind that nobody looks into.
        Plain { to: u8, from: u8, len: u16 },
        /// Bytes as they are, and zeros up to a length.
        Raw { bytes: Vec<u8>, len: u16 },
        /// A header and what begins the rest, which goes on with zeros up to a length.
        Typed { to: u8, from: u8, kind: u16, body: Vec<u8>, len: u16 },
        /// A TCP segment or UDP datagram with bytes changed in it, and its end cut off.
        Transport { to: u8, from: u8, form: u8, len: u16, edits: Vec<Edit>, cut: u16 },
        /// What the other end of a cable says of itself.
        Lldp { to: u8, from: u8, values: Vec<Value>, tail: Vec<u8> },
    }

    /// A byte that is changed.
    pub struct Edit {
        /// Where.
        pub at: u8,
        /// What by.
        pub by: u8,
    }

    /// An LLDP value.
    pub struct Value {
        /// Its kind.
        pub kind: u8,
        /// What is said of its length beyond the truth.
        pub longer: u8,
        /// It.
        pub bytes: Vec<u8>,
    }
}

/// Who is meant by a number: the guests, and who is on the wire or cannot be.
fn station(guests: &[[u8; 6]], number: u8) -> [u8; 6] {
    const OTHERS: [[u8; 6]; 9] = [
        frames::BROADCAST,
        OUTSIDE,
        [2, 0, 0, 0, 0, 0x78],
        [0; 6],
        [0x33, 0x33, 0, 0, 0, 1],
        MAC,
        // For bridges (IEEE 802.1Q, table 8-1).
        [1, 0x80, 0xc2, 0, 0, 0],
        [1, 0x80, 0xc2, 0, 0, 1],
        [1, 0x80, 0xc2, 0, 0, 0x0e],
    ];
    match guests.get(usize::from(number)) {
        Some(guest) => *guest,
        // Many, so that a table of addresses can be filled.
        None if number >= 128 => [2, 0, 0, 0, 1, number],
        None => pick(&OTHERS, number - guests.len() as u8),
    }
}

impl Frame {
    /// Its bytes, among these guests.
    pub fn build(&self, guests: &[[u8; 6]]) -> Vec<u8> {
        let header = |to: &u8, from: &u8, kind: u16| {
            let [to, from] = [to, from].map(|number| station(guests, *number));
            [&to[..], &from, &kind.to_be_bytes()].concat()
        };
        match self {
            Self::Plain { to, from, len } => {
                let [to, from] = [to, from].map(|number| station(guests, *number));
                let len = usize::from((*len).clamp(14, MOST));
                frames::plain(to, from, len, len as u64)
            }
            Self::Raw { bytes, len } => filled(bytes.clone(), *len),
            Self::Typed { to, from, kind, body, len } => {
                filled([header(to, from, *kind), body.clone()].concat(), *len)
            }
            Self::Transport { to, from, form, len, edits, cut } => {
                let [to, from] = [to, from].map(|number| station(guests, *number));
                let [v6, tcp, blank] = [1, 2, 4].map(|bit| form & bit != 0);
                let payload = vec![*form; usize::from(len % MOST)];
                let mut frame = frames::transport(to, from, v6, tcp, &payload);
                if blank {
                    frame = frames::blank(frame, v6, tcp);
                }
                for _ in 0..form >> 3 & 3 {
                    frame.splice(12..12, [0x81, 0, 0, *form]);
                }
                for Edit { at, by } in edits {
                    let at = usize::from(*at) % frame.len();
                    frame[at] ^= by;
                }
                frame.truncate(frame.len().saturating_sub(usize::from(*cut)));
                frame
            }
            Self::Lldp { to, from, values, tail } => {
                let mut frame = header(to, from, 0x88cc);
                for Value { kind, longer, bytes } in values {
                    let len = bytes.len() as u16 + u16::from(*longer);
                    frame.extend((u16::from(*kind) << 9 | len).to_be_bytes());
                    frame.extend(bytes);
                }
                frame.extend(tail);
                frame
            }
        }
    }
}

fn filled(mut bytes: Vec<u8>, len: u16) -> Vec<u8> {
    let len = bytes.len().max(usize::from(len % (MOST + 1)));
    bytes.resize(len, 0);
    bytes
}
