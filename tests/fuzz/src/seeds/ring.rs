//! What frontends write into their rings.

use super::Seed;
use crate::frame::{Edit, Frame};
use crate::ring::{Deed, Setup, Slot};

/// Flags of a request (P-7).
const BLANK: u8 = 1;
const MORE: u8 = 4;
const EXTRA: u8 = 8;
/// The guests by their numbers as stations, and what follows them.
const A: u8 = 1;
const EVIL: u8 = 0;
const EVERYBODY: u8 = 3;
const OUTSIDE: u8 = 4;

/// Everything mapped, for a device; a frontend that can do all.
pub fn setup() -> Setup {
    Setup { mode: 1, holding: 0, manners: 0xff, offers: 32, start: u32::MAX - 20 }
}

fn request(page: u8, flags: u8, offset: u16, size: u16) -> Slot {
    Slot::Request { page, flags, offset, size, id: 7 }
}

fn extra(kind: u8, flags: u8, low: u16) -> Slot {
    Slot::Extra { kind, flags, low, high: 0 }
}

fn send(slots: Vec<Slot>) -> Deed {
    Deed::Send { slots }
}

fn plain(page: u8, to: u8, len: u16) -> Deed {
    Deed::Fill { page, at: 0, frame: Frame::Plain { to, from: EVIL, len } }
}

/// Extra info of GSO behind the first slot.
fn gso(size: u16, kind: u8) -> Vec<Slot> {
    let info = Slot::Extra { kind: 1, flags: 0, low: size, high: u32::from(kind) };
    vec![request(0, BLANK | EXTRA | MORE, 0, 3000), info, request(1, 0, 0, 1000)]
}

fn transport(form: u8, edits: Vec<Edit>, cut: u16) -> Deed {
    let frame = Frame::Transport { to: OUTSIDE, from: EVIL, form, len: 400, edits, cut };
    Deed::Fill { page: 0, at: 0, frame }
}

fn wait(time: u16) -> Deed {
    Deed::Wait { time }
}

pub fn seeds() -> Vec<Seed<Deed>> {
    let add = |word, by| Deed::Add { word, by };
    let one = |size| send(vec![request(0, 0, 0, size)]);
    let further = |count: usize| {
        let mut slots = vec![request(0, MORE, 0, 1000)];
        slots.extend((0..count).map(|_| request(1, MORE, 0, 1)));
        slots.push(request(1, 0, 0, 1));
        slots
    };
    let traffic = |count, len| Deed::Traffic { count, len, blank: false };
    vec![
        (
            "honest",
            vec![
                plain(0, A, 1000),
                plain(1, OUTSIDE, 1400),
                send(vec![
                    request(0, 0, 0, 1000),
                    request(1, MORE, 0, 1400),
                    request(2, 0, 9, 400),
                ]),
                Deed::Offer { pages: vec![1, 3, 5, 7] },
                traffic(3, 1000),
                Deed::Traffic { count: 3, len: 500, blank: true },
                Deed::Inward { count: 4, len: 300 },
                Deed::Outward { count: 4, len: 1300 },
                wait(50),
            ],
        ),
        ("f1-producer-jumps", vec![add(0, 257), one(100), add(0, 1 << 31)]),
        ("f1-producer-goes-back", vec![one(100), add(0, u32::MAX)]),
        ("f1-receive-producer", vec![add(4, 300), traffic(40, 100), wait(200)]),
        (
            "f1-producer-in-the-middle",
            vec![Deed::Meanwhile { page: 8, at: 0, bytes: vec![0x77; 4] }, one(1000)],
        ),
        (
            "f1-responses-scribbled",
            vec![add(1, 5), add(2, 9), add(3, 1 << 31), add(6, 3), add(7, 8), one(700)],
        ),
        ("f2-crosses-its-page", vec![send(vec![request(0, 0, 4095, 2)])]),
        (
            "f2-later-slot-crosses",
            vec![send(vec![request(0, MORE, 0, 1000), request(1, 0, 65_535, 0)])],
        ),
        (
            "f2-derived-piece-crosses",
            vec![send(vec![request(0, MORE, 4000, 300), request(1, 0, 0, 200)])],
        ),
        (
            "f2-sizes",
            vec![
                one(0),
                one(13),
                send(vec![request(0, MORE, 0, 100), request(1, 0, 0, 101)]),
                send(vec![request(0, MORE, 0, 100), request(1, 0, 0, 100)]),
                send(vec![request(0, MORE, 0, 100), request(1, MORE, 0, 0), request(9, 0, 0, 0)]),
            ],
        ),
        (
            "f2-beyond-64-kib",
            vec![send(
                std::iter::once(request(0, MORE, 0, 65_535))
                    .chain((0..16).map(|_| request(1, MORE, 0, 4096)))
                    .chain([request(1, 0, 0, 4096)])
                    .collect(),
            )],
        ),
        ("f3-slots-refused", vec![send(further(18)), send(further(19)), one(500)]),
        ("f3-slots-fatal", vec![send(further(20)), one(500)]),
        ("f3-chain-has-no-end", vec![send(vec![request(0, MORE, 0, 1000)])]),
        (
            "f3-extras-have-no-end",
            vec![send(vec![request(0, EXTRA, 0, 1000), extra(4, 1, 0), extra(4, 1, 0)])],
        ),
        ("f3-unknown-extra", vec![send(vec![request(0, EXTRA, 0, 1000), extra(77, 0, 0)])]),
        (
            "f3-duplicate-extras",
            vec![send(vec![request(0, EXTRA, 0, 1000), extra(4, 1, 0), extra(4, 0, 0)])],
        ),
        (
            "f3-multicast-and-xdp",
            vec![
                send(vec![request(0, EXTRA, 0, 1000), extra(2, 0, 9)]),
                send(vec![request(0, EXTRA | MORE, 0, 1000), extra(3, 0, 9), request(1, 0, 0, 50)]),
                send(vec![request(0, EXTRA, 0, 1000), extra(5, 0, 9)]),
            ],
        ),
        ("f4-gso", [gso(1448, 1), gso(1448, 2), gso(1, 1)].map(send).to_vec()),
        ("f4-gso-size-0", vec![send(gso(0, 1))]),
        ("f4-gso-type-3", vec![send(gso(1448, 3))]),
        (
            "f5-checksums",
            (0..16)
                .flat_map(|form| {
                    let blank = send(vec![request(0, BLANK, 0, 400)]);
                    [transport(form | 4, vec![], 0), blank]
                })
                .collect(),
        ),
        (
            "f5-checksums-of-nothing",
            [(23, 7), (14, 3), (20, 0x20), (47, 0xf0)]
                .into_iter()
                .flat_map(|(at, by)| {
                    let blank = send(vec![request(0, BLANK, 0, 400)]);
                    [transport(6, vec![Edit { at, by }], 30), blank]
                })
                .collect(),
        ),
        (
            "f6-grants-that-are-none",
            (8..13)
                .map(|page| send(vec![request(0, MORE, 0, 1000), request(page, 0, 0, 500)]))
                .chain([traffic(40, 100), Deed::Offer { pages: vec![0, 8, 9, 10, 2] }])
                .chain([traffic(5, 100), wait(200)])
                .collect(),
        ),
        (
            "f6-grants-that-end",
            (0..7)
                .flat_map(|how| {
                    [Deed::Grant { page: how, how }, send(vec![request(how, 0, 0, 800)])]
                })
                .collect(),
        ),
        (
            "f6-revoked-at-the-nic",
            vec![
                plain(0, OUTSIDE, 1400),
                Deed::Hold { descriptors: 64 },
                one(1400),
                Deed::Grant { page: 0, how: 0 },
                Deed::Grant { page: 0, how: 3 },
                wait(150),
                Deed::Complete { count: 9 },
            ],
        ),
        ("f7-same-ids", vec![send((0..60).map(|_| request(0, 0, 0, 1000)).collect()); 4]),
        ("f7-never-refills", vec![traffic(60, 1500), wait(120), traffic(60, 60), wait(999)]),
        (
            "f8-revoked-rings",
            vec![
                Deed::Tear { page: 0, how: 0 },
                Deed::Tear { page: 1, how: 0 },
                one(100),
                traffic(9, 100),
            ],
        ),
        (
            "f8-replaced-rings",
            vec![
                Deed::Tear { page: 1, how: 1 },
                Deed::Tear { page: 0, how: 3 },
                one(100),
                traffic(9, 100),
                Deed::Restart,
            ],
        ),
        ("f8-closed-port", vec![Deed::Close, traffic(9, 100), Deed::Notify { times: 3 }, wait(9)]),
        (
            "f9-states",
            (0..12)
                .chain([4, 5, 4, 6, 1, 4, 1, 6, 1, 4])
                .map(|state| Deed::State { state })
                .collect(),
        ),
        (
            "f10-forged-senders",
            [A, 2, EVERYBODY, 6]
                .into_iter()
                .flat_map(|from| {
                    let frame = Frame::Plain { to: EVERYBODY, from, len: 900 };
                    [Deed::Fill { page: 0, at: 0, frame }, one(900)]
                })
                .collect(),
        ),
        (
            "f12-dies-with-pages-out",
            vec![
                plain(0, OUTSIDE, 1400),
                Deed::Hold { descriptors: 64 },
                one(1400),
                one(1400),
                traffic(9, 1400),
                Deed::Die,
                plain(0, A, 1400),
                one(1400),
            ],
        ),
        (
            "f12-restarts-with-pages-out",
            vec![
                plain(0, OUTSIDE, 1400),
                Deed::Hold { descriptors: 64 },
                one(1400),
                Deed::Restart,
                one(1400),
                Deed::Complete { count: 1 },
                Deed::Stall,
                Deed::Outward { count: 3, len: 1200 },
                Deed::Flow,
            ],
        ),
        (
            "s3-slots-change",
            vec![
                plain(0, A, 1400),
                Deed::Meanwhile { page: 8, at: 64, bytes: vec![0xff; 60] },
                send(vec![request(0, MORE, 0, 1400), request(1, 0, 3, 400)]),
            ],
        ),
        (
            "t10-pages-change",
            vec![
                plain(0, A, 1400),
                Deed::Meanwhile { page: 0, at: 0, bytes: vec![0xff; 60] },
                one(1400),
                plain(0, OUTSIDE, 1400),
                Deed::Hold { descriptors: 9 },
                one(1400),
                Deed::Fill { page: 0, at: 0, frame: Frame::Raw { bytes: vec![1; 9], len: 2048 } },
                Deed::Complete { count: 9 },
            ],
        ),
    ]
}
