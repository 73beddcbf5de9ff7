//! What comes from the wire.

use super::Seed;
use crate::frame::{Edit, Frame, Value};
use crate::wire::{Deed, Setup};

/// The guests by their numbers as stations, and what follows them.
const A: u8 = 0;
const B: u8 = 1;
const THIRD: u8 = 2;
const EVERYBODY: u8 = 3;
const OUTSIDE: u8 = 4;
const NOBODY: u8 = 6;
const MANY: u8 = 7;
const CARD: u8 = 8;
const PAUSE: u8 = 10;
const NEAREST: u8 = 11;

/// A third guest that can do all, and offers few pages.
pub fn setup() -> Setup {
    Setup { mode: 1, emulated: false, manners: 0xff, offers: 40 }
}

fn arrive(frame: Frame) -> Deed {
    Deed::Arrive { frame, times: 0 }
}

fn send(frame: Frame, flags: u8) -> Deed {
    Deed::Send { frame, flags, split: 60 }
}

fn plain(to: u8, from: u8, len: u16) -> Frame {
    Frame::Plain { to, from, len }
}

fn typed(to: u8, from: u8, kind: u16, body: &[u8]) -> Frame {
    Frame::Typed { to, from, kind, body: body.to_vec(), len: 200 }
}

fn transport(to: u8, from: u8, form: u8, edits: &[(u8, u8)], cut: u16) -> Frame {
    let edits = edits.iter().map(|(at, by)| Edit { at: *at, by: *by }).collect();
    Frame::Transport { to, from, form, len: 600, edits, cut }
}

/// A switch that says who it is, as which port.
fn switch(port: &[u8], seconds: u8) -> Frame {
    let value = |kind, bytes: &[u8]| Value { kind, longer: 0, bytes: bytes.to_vec() };
    let values = vec![
        value(1, b"\x04\x00\x1b\x21\x00\x00\x01"),
        value(2, &[b"\x05", port].concat()),
        value(3, &[0, seconds]),
        value(5, b"sw1"),
        value(0, b""),
    ];
    Frame::Lldp { to: NEAREST, from: OUTSIDE, values, tail: vec![] }
}

pub fn seeds() -> Vec<Seed<Deed>> {
    let wait = |time| Deed::Wait { time };
    let lldp = |values, tail: &[u8]| {
        arrive(Frame::Lldp { to: NEAREST, from: OUTSIDE, values, tail: tail.to_vec() })
    };
    let value = |kind, longer, bytes: &[u8]| Value { kind, longer, bytes: bytes.to_vec() };
    vec![
        (
            "honest",
            vec![
                arrive(plain(A, OUTSIDE, 1000)),
                arrive(plain(EVERYBODY, OUTSIDE, 60)),
                send(plain(OUTSIDE, THIRD, 1400), 0),
                send(plain(EVERYBODY, THIRD, 1400), 0),
                send(transport(OUTSIDE, THIRD, 6, &[], 0), 1),
                arrive(transport(THIRD, OUTSIDE, 3, &[], 0)),
            ],
        ),
        (
            "lengths",
            [14, 15, 59, 60, 1514, 1518, 1519, 2048]
                .map(|len| arrive(plain(A, OUTSIDE, len)))
                .to_vec(),
        ),
        (
            "runts",
            (0..14).map(|len| arrive(Frame::Raw { bytes: vec![0xff; len], len: 0 })).collect(),
        ),
        (
            "zeros",
            vec![
                arrive(Frame::Raw { bytes: vec![], len: 60 }),
                arrive(Frame::Raw { bytes: vec![], len: 1518 }),
            ],
        ),
        (
            "floods",
            vec![
                Deed::Arrive { frame: plain(THIRD, OUTSIDE, 1500), times: 63 },
                wait(200),
                Deed::Offer { count: 99 },
            ],
        ),
        (
            "floods-everybody",
            vec![Deed::Arrive { frame: plain(EVERYBODY, OUTSIDE, 60), times: 63 }; 4],
        ),
        ("many-stations", (128..192).map(|from| arrive(plain(EVERYBODY, from, 60))).collect()),
        (
            "f10-forged-senders",
            [A, B, THIRD, EVERYBODY, NOBODY, MANY, CARD]
                .map(|from| arrive(plain(EVERYBODY, from, 100)))
                .to_vec(),
        ),
        (
            "f10-a-guest-forges",
            [A, B, OUTSIDE, EVERYBODY, NOBODY, CARD]
                .map(|from| send(plain(EVERYBODY, from, 100), 0))
                .to_vec(),
        ),
        (
            "stations-move",
            vec![
                send(plain(EVERYBODY, 5, 100), 0),
                arrive(plain(EVERYBODY, 5, 100)),
                send(plain(5, THIRD, 100), 0),
                send(plain(EVERYBODY, OUTSIDE, 100), 0),
            ],
        ),
        ("multicast", vec![arrive(plain(MANY, OUTSIDE, 300)), send(plain(MANY, THIRD, 300), 0)]),
        (
            "transports",
            (0..32).map(|form| arrive(transport(THIRD, OUTSIDE, form, &[], 0))).collect(),
        ),
        (
            "f5-checksums-to-make",
            (0..32).map(|form| send(transport(OUTSIDE, THIRD, form | 4, &[], 0), 1)).collect(),
        ),
        (
            "f5-checksums-that-cannot-be",
            [(14, 0x0f), (16, 0xff), (20, 0x20), (23, 7), (46, 0xf0), (12, 0x80)]
                .into_iter()
                .flat_map(|edit| {
                    [6, 7].map(|form| send(transport(EVERYBODY, THIRD, form, &[edit], 0), 1))
                })
                .collect(),
        ),
        (
            "f5-truncated",
            [1, 590, 600, 610, 620, 630]
                .map(|cut| send(transport(EVERYBODY, THIRD, 6, &[], cut), 1))
                .to_vec(),
        ),
        (
            "f5-extension-headers",
            [0, 43, 44, 51, 60]
                .map(|next| send(transport(OUTSIDE, THIRD, 7, &[(20, 6 ^ next), (54, 1)], 0), 1))
                .to_vec(),
        ),
        (
            "tags",
            vec![
                arrive(typed(A, OUTSIDE, 0x8100, &[0, 5, 8, 0, 0x45])),
                arrive(typed(A, OUTSIDE, 0x88a8, &[0, 5, 0x81, 0, 0, 7, 0x81, 0])),
                send(
                    Frame::Typed {
                        to: OUTSIDE,
                        from: THIRD,
                        kind: 0x8100,
                        body: vec![0, 5],
                        len: 1519,
                    },
                    0,
                ),
                send(
                    Frame::Typed {
                        to: OUTSIDE,
                        from: THIRD,
                        kind: 0x8100,
                        body: vec![0, 5, 0x81, 0],
                        len: 1522,
                    },
                    0,
                ),
            ],
        ),
        (
            "neighbour",
            vec![
                arrive(switch(b"Gi1/0/7", 120)),
                wait(2000),
                arrive(switch(b"Gi1/0/8", 1)),
                wait(2999),
                arrive(switch(b"Gi1/0/8", 0)),
            ],
        ),
        ("neighbours", (b'a'..b'a' + 20).map(|port| arrive(switch(&[port; 40], 9))).collect()),
        ("neighbour-unprintable", vec![arrive(switch(b"\x00\x1b[2J\xff\n", 9))]),
        (
            "neighbour-values",
            vec![
                lldp(vec![value(1, 0, &[])], &[]),
                lldp(vec![value(1, 0, &[4]), value(2, 200, &[5])], &[]),
                lldp(
                    vec![
                        value(1, 0, &[5, 1, 10, 0, 0, 1]),
                        value(2, 0, &[3, 1, 2, 3, 4, 5, 6]),
                        value(3, 0, &[9]),
                    ],
                    &[0, 0],
                ),
                lldp(vec![value(127, 0, &[9; 60]); 8], &[1]),
                lldp(vec![], &[2]),
            ],
        ),
        (
            "control-from-the-wire",
            [0x0026, 0x8808, 0x8809, 0x888e, 0x88cc, 0x1234]
                .into_iter()
                .flat_map(|kind| {
                    [9, PAUSE, NEAREST].map(|to| arrive(typed(to, OUTSIDE, kind, &[1, 1])))
                })
                .collect(),
        ),
        (
            "control-from-a-guest",
            [0x0026, 0x8808, 0x8809, 0x888e, 0x88cc, 0x1234]
                .into_iter()
                .flat_map(|kind| {
                    [9, PAUSE, NEAREST].map(|to| send(typed(to, THIRD, kind, &[0x42, 0x42, 3]), 0))
                })
                .collect(),
        ),
        (
            "link-goes",
            vec![
                Deed::Pull { time: 300 },
                send(plain(OUTSIDE, THIRD, 1400), 0),
                Deed::Pull { time: 1400 },
            ],
        ),
        (
            "t4-stalls",
            vec![
                Deed::Stall { time: 90 },
                Deed::Stall { time: 1400 },
                send(plain(OUTSIDE, THIRD, 1400), 0),
            ],
        ),
        (
            "t5-does-not-receive",
            vec![
                Deed::Arrive { frame: plain(THIRD, OUTSIDE, 1500), times: 60 },
                wait(2999),
                wait(2999),
                wait(2999),
                wait(2999),
                arrive(plain(THIRD, OUTSIDE, 100)),
                Deed::Offer { count: 200 },
                arrive(plain(THIRD, OUTSIDE, 100)),
            ],
        ),
    ]
}
