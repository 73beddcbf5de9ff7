//! Guests that break the rules, beside guests that keep them. Whatever the one does,
//! the others' packets arrive at the very same moments as if it did nothing, it is
//! told what it did wrong, and once it is gone nothing of it is left.

use std::sync::OnceLock;
use std::time::Duration;

use worlds::{Id, Level, Manners, Outgoing, Received, World, frames, journal};
use xen::DomainId;
use xen::fake::{Grant, Kind, Operation, When};
use xen::netif::{ExtraFlags, ExtraInfo, RxRequest, Status, TxFlags, TxRequest, TxSlot};
use xen::ring::Word;

const MILLISECOND: Duration = Duration::from_millis(1);
const MORE: TxFlags = TxFlags::MORE_DATA;
const NONE: TxFlags = TxFlags::empty();

/// Slots by their flags and sizes.
type Slots = &'static [(TxFlags, u16)];

/// What an attack leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The vif is served no more; XenStore and the log say so, in these words.
    Disabled(&'static str),
    /// Whatever happens happens to the attacker, who is served on.
    Harmless,
}
use Outcome::{Disabled, Harmless};

/// Two honest guests exchange packets, and send some to the third, who after a while
/// does `act`. What each of the two got from the other.
fn among_others(world: &mut World, act: impl FnOnce(&mut World, Id)) -> (Id, [Vec<Received>; 2]) {
    let [evil, a, b] = world.connected();
    let mut act = Some(act);
    for round in 0..20 {
        for (from, to) in [(a, b), (b, a), (a, evil)] {
            for n in 0..3 {
                let len = 60 + 30 * round + 400 * n;
                let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
                world[from].queue(&Outgoing::cut(&frame, vec![(0, 40), (5, len as u16 - 40)]));
            }
            world[from].kick();
        }
        if round == 5 {
            world[evil].hands_off = true;
            act.take().expect("one attack")(world, evil);
        }
        world.pass(10 * MILLISECOND);
    }
    let stranger = world[evil].mac();
    let received = [a, b].map(|id| {
        let received = world[id].received.iter();
        let (failed, whole): (Vec<_>, Vec<_>) = received.partition(|packet| packet.failed > 0);
        // Not for anything of the guest's own: some page of a sender's was not there.
        let vif = world[id].vif();
        let mut vifs = world.network.vifs().filter(|(id, _)| id.frontend == vif.frontend);
        let (_, counters) = vifs.next().expect("it is served");
        assert_eq!((counters.rx.failed, counters.rx.unreadable), (0, failed.len() as u64));
        let honest = |packet: &&Received| packet.bytes[6..12] != stranger;
        whole.into_iter().filter(honest).cloned().collect()
    });
    (evil, received)
}

/// Has the attacker do `act`, once, beside two honest guests.
fn attack(name: &str, outcome: Outcome, act: impl Fn(&mut World, Id)) {
    static CALM: OnceLock<[Vec<Received>; 2]> = OnceLock::new();
    let expected = CALM.get_or_init(|| {
        let mut world = World::new();
        let (_, received) = among_others(&mut world, |_, _| ());
        assert_eq!(received.each_ref().map(Vec::len), [60, 60]);
        world.end();
        received
    });
    let mut world = World::new();
    let (evil, received) = among_others(&mut world, act);
    assert!(received == *expected, "{name}: others were affected");
    let error = world.error(evil);
    let lines = journal(Level::Warn, "");
    match outcome {
        Disabled(words) => {
            let error = error.unwrap_or_else(|| panic!("{name}: no error"));
            assert!(error.contains(words), "{name}: {error}");
            assert_eq!(world.own(evil, "carrier").as_deref(), Some("0"), "{name}");
            assert_eq!(lines.len(), 1, "{name}: {lines:?}");
            assert!(lines[0].contains("vif10.0") && lines[0].contains(words), "{name}: {lines:?}");
        }
        Harmless => {
            assert_eq!((error, lines), (None, Vec::<String>::new()), "{name}");
            assert_eq!(world.own(evil, "carrier").as_deref(), Some("1"), "{name}");
            let before = world.network.vifs().next().expect("the first").1.tx.packets;
            still_sends(&mut world, evil);
            let after = world.network.vifs().next().expect("the first").1.tx.packets;
            assert_eq!(after - before, 1, "{name}: it is served on");
        }
    }
    world.end();
}

/// Writes a good request behind what was written before, and raises the event.
fn still_sends(world: &mut World, evil: Id) {
    let frame = frames::plain(frames::BROADCAST, world[evil].mac(), 100, 1);
    let id = world[evil].lend(&frame, 0);
    let reference = world[evil].reference(id);
    let rings = &world[evil].rings;
    let producer = rings.tx.word(Word::RequestProducer);
    rings.tx.write(producer, &TxRequest::new(reference.0, 0, NONE, id, 100).into());
    rings.tx.set_word(Word::RequestProducer, producer.wrapping_add(1));
    let (guest, port) = (world[evil].guest.clone(), rings.port);
    guest.notify(port);
    world.settle();
}

/// Shows these slots, and raises the event whether it is wanted or not.
fn show(world: &mut World, evil: Id, slots: &[TxSlot]) {
    slots.iter().for_each(|slot| world[evil].push(*slot));
    world[evil].kick();
    knock(world, evil);
}

fn knock(world: &World, evil: Id) {
    world[evil].guest.notify(world[evil].rings.port);
}

/// A page with a frame to everybody, and its reference.
fn page(world: &mut World, evil: Id) -> u32 {
    let frame = frames::plain(frames::BROADCAST, world[evil].mac(), 1000, 1);
    let id = world[evil].lend(&frame, 0);
    world[evil].reference(id).0
}

fn request(gref: u32, offset: u16, flags: TxFlags, size: u16) -> TxSlot {
    TxRequest::new(gref, offset, flags, 7, size).into()
}

fn extra(kind: u8, flags: ExtraFlags) -> TxSlot {
    ExtraInfo::new(kind, flags, [0xff; 6]).into()
}

/// F-1, S-1: indices that cannot be.
#[test]
fn f1_ring_indices_jump() {
    for by in [257, 1 << 31, 0u32.wrapping_sub(1), 0u32.wrapping_sub(300)] {
        attack(
            &format!("transmit producer by {by:#x}"),
            Disabled("producer index"),
            |world, evil| {
                let tx = &world[evil].rings.tx;
                tx.set_word(Word::RequestProducer, tx.word(Word::RequestProducer).wrapping_add(by));
                knock(world, evil);
            },
        );
    }
    // Fifteen requests were filled and refilled before; the receive ring is looked at
    // when those offered at first are used up.
    for by in [257, 1 << 31] {
        attack(
            &format!("receive producer by {by:#x}"),
            Disabled("producer index"),
            |world, evil| {
                let rx = &world[evil].rings.rx;
                rx.set_word(Word::RequestProducer, rx.word(Word::RequestProducer).wrapping_add(by));
                exhaust(world, evil);
            },
        );
    }
}

/// Sends the attacker so many packets that its offered pages are used up.
fn exhaust(world: &mut World, evil: Id) {
    let sender = world.attach(4);
    let frame = frames::plain(world[evil].mac(), world[sender].mac(), 100, 1);
    for _ in 0..256 {
        world[sender].queue(&Outgoing::whole(&frame));
    }
    world[sender].kick();
    world.settle();
}

/// F-1: an index that moves while a batch is worked on.
#[test]
fn f1_the_producer_jumps_in_the_middle_of_a_batch() {
    attack("mid-batch", Disabled("producer index"), |world, evil| {
        let gref = page(world, evil);
        let tx_page = world[evil].guest.page(world[evil].rings.tx_page.0);
        let spoil = When::Chosen(Box::new(move |_| {
            tx_page.store(0, 0x7777_7777);
            false
        }));
        world.xen.fail(Kind::Copy, spoil, 1);
        show(world, evil, &[request(gref, 0, NONE, 1000)]);
        world.settle();
        world.xen.clear_faults();
    });
}

/// F-1: words that are ours to write are never read back.
#[test]
fn f1_response_indices_are_scribbled_over() {
    for value in [0, 1, u32::MAX, 0x8000_0000] {
        attack(&format!("responses {value:#x}"), Harmless, |world, evil| {
            let rings = &world[evil].rings;
            for word in [Word::ResponseProducer, Word::ResponseEvent, Word::RequestEvent] {
                rings.tx.set_word(word, value);
                rings.rx.set_word(word, value);
            }
            knock(world, evil);
        });
    }
}

/// F-2: bytes that are not in the page.
#[test]
fn f2_slots_cross_their_pages() {
    for (offset, size) in [(4095, 2), (65_535, 1), (1, 4096), (0, 65_535), (4083, 14)] {
        attack(&format!("{size} at {offset}"), Disabled("crosses its page"), |world, evil| {
            let gref = page(world, evil);
            show(world, evil, &[request(gref, offset, NONE, size)]);
        });
    }
    for (offset, size) in [(4095, 2), (65_535, 0), (65_535, 65_535), (4097, 0)] {
        attack(
            &format!("later {size} at {offset}"),
            Disabled("crosses its page"),
            |world, evil| {
                let gref = page(world, evil);
                let first = request(gref, 0, MORE, 1000);
                show(world, evil, &[first, request(gref, offset, NONE, size)]);
            },
        );
    }
    attack("derived first piece", Disabled("crosses its page"), |world, evil| {
        let gref = page(world, evil);
        let first = request(gref, 4000, MORE, 300);
        show(world, evil, &[first, request(gref, 0, NONE, 200)]);
    });
}

/// F-2: sizes that make no packet are refused, and no more.
#[test]
fn f2_sizes_that_do_not_add_up() {
    let cases: [(&str, Slots); 8] = [
        ("nothing", &[(NONE, 0)]),
        ("a byte short of a header", &[(NONE, 13)]),
        ("all in the second slot", &[(MORE, 100), (NONE, 100)]),
        ("too little in the first slot", &[(MORE, 100), (NONE, 87)]),
        ("more than there is", &[(MORE, 100), (NONE, 101)]),
        ("much more than there is", &[(MORE, 100), (MORE, 4096), (NONE, 4096)]),
        ("a total of nothing", &[(MORE, 0), (NONE, 1)]),
        (
            "more than 64 KiB",
            &[
                (MORE, 65_535),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (MORE, 4096),
                (NONE, 4096),
            ],
        ),
    ];
    for (name, slots) in cases {
        attack(name, Harmless, |world, evil| {
            let gref = page(world, evil);
            let slots: Vec<_> = slots.iter().map(|s| request(gref, 0, s.0, s.1)).collect();
            refused(world, evil, &slots);
        });
    }
}

/// Shows slots, and sees them all answered with an error.
fn refused(world: &mut World, evil: Id, slots: &[TxSlot]) {
    let sent = world.network.vifs().next().expect("the first").1.tx;
    show(world, evil, slots);
    world.settle();
    for _ in slots {
        let response = world[evil].rings.tx.take().expect("a response a slot");
        assert_eq!((response.id, response.status), (7, Status::Error as i16));
    }
    assert_eq!(world[evil].rings.tx.take(), None);
    let now = world.network.vifs().next().expect("the first").1.tx;
    assert_eq!((now.packets, now.refused), (sent.packets, sent.refused + 1));
}

/// F-3, P-9: a few slots too many are refused; more are no mistake.
#[test]
fn f3_too_many_slots() {
    let slots = |gref, further: usize| -> Vec<_> {
        let mut slots = vec![request(gref, 0, MORE, 1000)];
        slots.extend((1..further).map(|_| request(gref, 0, MORE, 1)));
        slots.push(request(gref, 0, NONE, 1));
        slots
    };
    for further in [19, 20] {
        attack(&format!("{further} further slots"), Harmless, |world, evil| {
            let gref = page(world, evil);
            refused(world, evil, &slots(gref, further));
        });
    }
    for further in [21, 22, 200] {
        attack(&format!("{further} further slots"), Disabled("20 slots"), |world, evil| {
            let gref = page(world, evil);
            show(world, evil, &slots(gref, further));
        });
    }
}

/// F-3: a request that has no end.
#[test]
fn f3_chains_end_early() {
    let more = ExtraFlags::MORE;
    let cases: [(&str, Slots, Option<ExtraFlags>); 4] = [
        ("no second slot", &[(MORE, 1000)], None),
        ("no third slot", &[(MORE, 1000), (MORE, 100)], None),
        ("no extra info", &[(TxFlags::EXTRA_INFO, 1000)], None),
        ("no second extra info", &[(TxFlags::EXTRA_INFO, 1000)], Some(more)),
    ];
    for (name, slots, info) in cases {
        attack(name, Disabled("goes on beyond"), |world, evil| {
            let gref = page(world, evil);
            let mut slots: Vec<_> = slots.iter().map(|s| request(gref, 0, s.0, s.1)).collect();
            slots.extend(info.map(|flags| extra(4, flags)));
            show(world, evil, &slots);
        });
    }
    attack("extra info to the ring's end", Disabled("goes on beyond"), |world, evil| {
        let gref = page(world, evil);
        let mut slots = vec![request(gref, 0, TxFlags::EXTRA_INFO, 1000)];
        slots.resize(256 - 15, extra(4, more));
        show(world, evil, &slots);
    });
}

/// F-3, P-11: extra info that nobody defined.
#[test]
fn f3_unknown_extras() {
    for kind in [0, 6, 255] {
        attack(&format!("type {kind}"), Disabled("unknown type"), |world, evil| {
            let gref = page(world, evil);
            let first = request(gref, 0, TxFlags::EXTRA_INFO, 1000);
            show(world, evil, &[first, extra(kind, ExtraFlags::empty())]);
        });
    }
}

/// F-6: a page that cannot be read fails its slot (P-15), and the packet goes
/// nowhere.
#[test]
fn f6_grants_that_are_none() {
    type Make = fn(&mut World, Id) -> u32;
    let cases: [(&str, Make); 6] = [
        ("zero", |_, _| 0),
        ("huge", |_, _| u32::MAX),
        ("free", |_, _| 400),
        ("another domain's", |world, evil| {
            let frame = world[evil].guest.add_page();
            world[evil].guest.grant_to(DomainId(1), frame, Grant::Writable).0
        }),
        ("revoked", |world, evil| {
            let gref = page(world, evil);
            world[evil].guest.revoke(xen::grant::GrantRef(gref));
            gref
        }),
        ("no page", |world, evil| {
            let frame = world[evil].guest.add_page();
            let gref = world[evil].guest.grant(frame, Grant::ReadOnly).0;
            world[evil].guest.balloon_out(frame);
            gref
        }),
    ];
    for (name, make) in cases {
        attack(name, Harmless, |world, evil| {
            let (good, bad) = (page(world, evil), make(world, evil));
            let id = |id: u16, gref, flags, size| TxRequest::new(gref, 0, flags, id, size).into();
            // Among the headers.
            show(
                world,
                evil,
                &[id(1, good, MORE, 1000), id(2, bad, MORE, 936), id(3, good, NONE, 50)],
            );
            world.settle();
            let mut answers: Vec<_> = (0..3)
                .map(|_| {
                    let answer = world[evil].rings.tx.take().expect("a response a slot");
                    (answer.id, answer.status)
                })
                .collect();
            answers.sort();
            let (okay, error) = (Status::Okay as i16, Status::Error as i16);
            assert_eq!(answers, [(1, okay), (2, error), (3, okay)], "{name}");
            let counters = world.network.vifs().next().expect("the first").1.tx;
            assert_eq!((counters.packets, counters.unreadable), (0, 1), "{name}");
            assert!(world.wire.take_frames().is_empty(), "{name}");
        });
        attack(name, Harmless, |world, evil| {
            let (good, bad) = (page(world, evil), make(world, evil));
            // Behind the headers: found when it is copied on.
            show(world, evil, &[request(good, 0, MORE, 1000), request(bad, 0, NONE, 500)]);
            world.settle();
            assert!(world.wire.take_frames().is_empty(), "{name}");
        });
    }
}

/// S-15, P-15: a slot that cannot be read is told apart from an empty one before it.
#[test]
fn s15_empty_slots_do_not_hide_which_one_failed() {
    let mut world = World::new();
    let [evil, b] = world.connected();
    world[evil].hands_off = true;
    let gref = page(&mut world, evil);
    let slot = |id, gref, flags, size| TxRequest::new(gref, 0, flags, id, size).into();
    let slots =
        [slot(1, gref, MORE, 120), slot(2, 0, MORE, 0), slot(3, 0, MORE, 30), slot(4, 0, NONE, 0)];
    show(&mut world, evil, &slots);
    world.settle();
    let mut answers: Vec<_> = std::iter::from_fn(|| world[evil].rings.tx.take()).collect();
    answers.sort_by_key(|answer| answer.id);
    let answers: Vec<_> = answers.iter().map(|answer| (answer.id, answer.status)).collect();
    assert_eq!(answers, [(1, 0), (2, 0), (3, Status::Error as i16), (4, 0)]);
    assert_eq!(world[b].received, []);
    world.end();
}

/// F-6, F-7: the same page and the same id in all slots is nobody's business.
#[test]
fn f6_the_same_grant_everywhere() {
    attack("same grant, same id", Harmless, |world, evil| {
        let gref = page(world, evil);
        let slots = vec![request(gref, 0, NONE, 1000); 256 - 15];
        show(world, evil, &slots);
        world.settle();
        for _ in slots {
            let response = world[evil].rings.tx.take().expect("a response a slot");
            assert_eq!((response.id, response.status), (7, 0));
        }
        assert_eq!(world.wire.take_frames().len(), 256 - 15);
    });
}

/// F-6: pages offered to be filled that are not the guest's to offer.
#[test]
fn f6_receive_grants_that_are_none() {
    attack("receive grants", Harmless, |world, evil| {
        exhaust(world, evil);
        let guest = world[evil].guest.clone();
        let read_only = guest.grant(guest.add_page(), Grant::ReadOnly).0;
        let foreign = guest.grant_to(DomainId(1), guest.add_page(), Grant::Writable).0;
        let table = guest.add_page();
        guest.make_page_table(table);
        let table = guest.grant(table, Grant::Writable).0;
        // As a frame of MMIO: there is no RAM.
        let hole = guest.add_page();
        guest.balloon_out(hole);
        let hole = guest.grant(hole, Grant::Writable).0;
        while world[evil].rings.rx.take().is_some() {}
        let grants = [0, u32::MAX, 444, read_only, foreign, table, hole];
        for gref in grants.into_iter().cycle().take(256) {
            let request = RxRequest { id: 3, pad: 0, gref };
            world[evil].rings.rx.push(request).expect("room");
        }
        world[evil].rings.rx.publish();
        knock(world, evil);
        world.settle();
        exhaust(world, evil);
        let mut statuses = Vec::new();
        while let Some(response) = world[evil].rings.rx.take() {
            statuses.push(response.status);
        }
        assert_eq!(statuses, [Status::Error as i16; 256]);
    });
}

/// F-8, S-2: the rings' pages go away under us. We keep what we map.
#[test]
fn f8_ring_pages_are_torn_away() {
    attack("revoked", Harmless, |world, evil| {
        let rings = &world[evil].rings;
        for (_, reference) in [rings.tx_page, rings.rx_page] {
            world[evil].guest.revoke(reference);
        }
        knock(world, evil);
    });
    // What the guest sees at the frames is another page now: what it writes does not
    // reach us, and what we write does not reach it.
    attack("revoked and replaced", Harmless, |world, evil| {
        let (frame, reference) = world[evil].rings.rx_page;
        world[evil].guest.revoke(reference);
        world[evil].guest.replace_page(frame);
        knock(world, evil);
    });
}

/// F-8: the event channel is closed from the other side.
#[test]
fn f8_the_event_channel_is_closed() {
    let mut world = World::new();
    let [evil, a] = world.connected();
    world[evil].hands_off = true;
    world[evil].guest.close_port(world[evil].rings.port);
    let frame = frames::plain(world[evil].mac(), world[a].mac(), 100, 1);
    world[a].send(&Outgoing::whole(&frame));
    world.pass(10 * MILLISECOND);
    assert_eq!(world[a].unanswered(), 0);
    world.check_at_rest();
    world.end();
}

/// S-3: what a slot says is read once. A change after that changes nothing.
#[test]
fn s3_slots_change_after_they_were_read() {
    let mut world = World::new();
    let [evil, b] = world.connected();
    let frame = frames::plain(world[b].mac(), world[evil].mac(), 1400, 9);
    let place = world[evil].rings.tx.word(Word::RequestProducer) % 256;
    let ids = world[evil].queue(&Outgoing::cut(&frame, vec![(0, 600), (9, 800)]));
    let tx_page = world[evil].guest.page(world[evil].rings.tx_page.0);
    world.xen.fail(
        Kind::Copy,
        When::Chosen(Box::new(move |_| {
            for slot in [place, (place + 1) % 256] {
                tx_page.write_bytes(64 + 12 * slot as usize, &[0xff; 12]);
            }
            false
        })),
        1,
    );
    world[evil].kick();
    world.settle();
    assert!(world[b].received[0].bytes == frame);
    let answers: Vec<_> = world[evil].answers.iter().map(|answer| answer.id).collect();
    assert!(ids.iter().all(|id| answers.contains(id)), "ids as they were read");
    world.xen.clear_faults();
    world.end();
}

/// O-6, T-10: a page changes while its packet is on its way. The headers that were
/// looked at are those that arrive; the payload is the sender's own affair.
#[test]
fn t10_pages_change_after_they_were_sent() {
    let mut world = World::new();
    let [evil, b, c] = world.connected();
    let frame = frames::plain(world[b].mac(), world[evil].mac(), 1000, 9);
    let other = frames::plain(world[c].mac(), world[b].mac(), 1000, 10);
    let guest = world[evil].guest.clone();
    let page = guest.add_page();
    guest.page(page).write_bytes(0, &frame);
    let gref = guest.grant(page, Grant::ReadOnly);
    let seen = guest.page(page);
    let changed = other.clone();
    world.xen.fail(
        Kind::Copy,
        When::Chosen(Box::new(move |operation| {
            // When the first bytes go on to the receiver.
            if matches!(operation, Operation::Copy { from: None, .. }) {
                seen.write_bytes(0, &changed);
            }
            false
        })),
        1,
    );
    world[evil].hands_off = true;
    show(&mut world, evil, &[request(gref.0, 0, NONE, 1000)]);
    world.settle();
    assert_eq!(world[c].received, []);
    assert!(world[b].received[0].bytes == [&frame[..128], &other[128..]].concat());
    world.xen.clear_faults();
    world.end();
}

/// A guest that keeps its ring full of requests that are refused: each pass takes as
/// many as of any others, and the rest of the world has its turn.
#[test]
fn refused_requests_are_taken_in_batches() {
    let mut world = World::new();
    let [evil, a, b] = world.connected();
    world[evil].hands_off = true;
    let slots = vec![request(1, 0, NONE, 5); 256];
    slots.iter().for_each(|slot| world[evil].push(*slot));
    world[evil].kick();
    let frame = frames::plain(world[b].mac(), world[a].mac(), 100, 1);
    world[a].send(&Outgoing::whole(&frame));
    assert!(world.step());
    let answered = |world: &mut World| std::iter::from_fn(|| world[evil].rings.tx.take()).count();
    assert_eq!(answered(&mut world), 64, "a batch");
    let (_, counters) = world.network.vifs().nth(1).expect("the second");
    assert_eq!(counters.tx.packets, 1, "and the other's turn");
    world.settle();
    assert_eq!(answered(&mut world), 192);
    world.end();
}

/// Events in plenty are one event: the turn is that of one batch, and nothing piles up
/// (S-7).
#[test]
fn s7_many_events_are_one() {
    let mut world = World::new();
    let evil = world.attach(0);
    world[evil].hands_off = true;
    for _ in 0..256 {
        world[evil].push(request(1, 0, NONE, 5));
    }
    world[evil].rings.tx.publish();
    let port = world.xen.audit().ports[0].port;
    for _ in 0..1000 {
        world.network.event(port);
    }
    knock(&world, evil);
    assert!(world.step());
    assert_eq!(std::iter::from_fn(|| world[evil].rings.tx.take()).count(), 64);
    world.settle();
    world.end();
}

/// P-16: a frontend that broke its rings is not served any more, in neither direction
/// and by no event; what waited for it goes home at once.
#[test]
fn p16_nothing_is_done_for_a_disabled_vif() {
    let mut world = World::new();
    let a = world.attach(0);
    let evil = world.attach_with(1, Manners { offers: 0, ..Manners::default() }, &[]);
    let stalled = world.attach_with(2, Manners { offers: 0, ..Manners::default() }, &[]);
    world[evil].hands_off = true;
    let long = |world: &World, from: Id, to: Id| {
        Outgoing::whole(&frames::plain(world[to].mac(), world[from].mac(), 1000, 1))
    };
    // A page of its own is out, and one of another's waits for it.
    let [out, to_evil] = [(evil, stalled), (a, evil)].map(|(from, to)| long(&world, from, to));
    world[evil].send(&out);
    world[a].send(&to_evil);
    world.settle();
    assert_eq!(world[a].unanswered(), 1);
    let rx = &world[evil].rings.rx;
    rx.set_word(Word::RequestProducer, rx.word(Word::RequestProducer).wrapping_add(1000));
    knock(&world, evil);
    world.settle();
    assert!(world.error(evil).is_some());
    assert_eq!(world[a].unanswered(), 0);
    // Its ring is as good as new; nobody looks at it any more.
    let counts = world.xen.counts();
    let rx = &world[evil].rings.rx;
    rx.set_word(Word::RequestProducer, rx.word(Word::ResponseProducer));
    world[evil].offer(5);
    world[a].send(&to_evil);
    world.settle();
    assert_eq!(world[evil].rings.rx.take(), None);
    let now = world.xen.counts() - counts;
    assert_eq!((now.copies, now.notifies), (1, 1), "the sender's headers, and its answer");
    // And it is not told that its page came home.
    world[stalled].offer(1);
    world.settle();
    assert_eq!((world.xen.counts() - counts).notifies, 2, "only the receiver is");
    world.end();
}

/// F-7: a guest that never reads its responses and never refills.
#[test]
fn f7_responses_nobody_reads() {
    attack("full rings", Harmless, |world, evil| {
        let gref = page(world, evil);
        for _ in 0..100 {
            let free = world[evil].rings.tx.free();
            let slots = vec![request(gref, 0, NONE, 1000); free as usize];
            show(world, evil, &slots);
            world.settle();
            while world[evil].rings.tx.take().is_some() {}
        }
        exhaust(world, evil);
        exhaust(world, evil);
    });
}

/// F-8: rings and ports that cannot be; the vif is closed, with the reason in
/// XenStore, and can be taken away.
#[test]
fn f8_rings_that_cannot_be_attached() {
    type Spoil = fn(&mut World, Id);
    let cases: [(&str, Spoil); 14] = [
        ("tx-ring-ref: producer index", |world, evil| {
            world[evil].rings.tx.set_word(Word::RequestProducer, 5);
        }),
        ("rx-ring-ref: producer index", |world, evil| {
            let start = world[evil].rings.rx.word(Word::ResponseProducer);
            world[evil].rings.rx.set_word(Word::ResponseProducer, start.wrapping_sub(1));
        }),
        ("mapping tx-ring-ref: bad grant reference", |world, evil| {
            world[evil].set_key("tx-ring-ref", "4294967295");
        }),
        ("mapping tx-ring-ref: general error", |world, evil| {
            world[evil].set_key("tx-ring-ref", "0");
        }),
        ("mapping rx-ring-ref: general error", |world, evil| {
            world[evil].set_key("rx-ring-ref", "0");
        }),
        ("mapping tx-ring-ref: general error", |world, evil| {
            let guest = world[evil].guest.clone();
            guest.regrant(world[evil].rings.tx_page.1, guest.add_page(), Grant::ReadOnly);
        }),
        ("mapping rx-ring-ref: general error", |world, evil| {
            world[evil].guest.revoke(world[evil].rings.rx_page.1);
        }),
        ("mapping rx-ring-ref: bad page", |world, evil| {
            world[evil].guest.balloon_out(world[evil].rings.rx_page.0);
        }),
        ("rx-ring-ref contradicts tx-ring-ref", |world, evil| {
            let tx = world[evil].rings.tx_page.1.0.to_string();
            world[evil].set_key("rx-ring-ref", &tx);
        }),
        ("binding event-channel", |world, evil| world[evil].set_key("event-channel", "77")),
        ("binding event-channel", |world, evil| {
            world[evil].set_key("event-channel", "4294967295");
        }),
        ("binding event-channel", |world, evil| {
            let port = world[evil].guest.open_port_for(DomainId(1)).0.to_string();
            world[evil].set_key("event-channel", &port);
        }),
        ("binding event-channel", |world, evil| {
            world[evil].guest.close_port(world[evil].rings.port);
        }),
        ("binding event-channel", |world, evil| {
            // Bound already, to the other vif.
            let port = world[0].rings.port.0.to_string();
            world[evil].set_key("event-channel", &port);
        }),
    ];
    let mut world = World::new();
    let [a, b] = world.connected();
    for (words, spoil) in cases {
        let evil = world.add(0, Manners { start: 1000, ..Manners::default() }, &[]);
        spoil(&mut world, evil);
        let lines = journal(Level::Warn, "").len();
        world.settle();
        let error = world.error(evil).unwrap_or_else(|| panic!("{words}: no error"));
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!(world.own(evil, "hotplug-status").as_deref(), Some("error"));
        assert_eq!(world.own(evil, "hotplug-error"), Some(error));
        assert_eq!(world.own(evil, "state").as_deref(), Some("6"), "{words}");
        assert_eq!(journal(Level::Warn, "").len(), lines + 1, "{words}");
        world.check_at_rest();
        assert_eq!(world.detach(evil), Ok(()));
        let frame = frames::plain(world[b].mac(), world[a].mac(), 100, 1);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    }
    world.end();
}

/// F-8: both rings in one page, by two grants. We write over our own responses; they
/// are the guest's anyway.
#[test]
fn f8_both_rings_in_one_page() {
    let mut world = World::new();
    let evil = world.add(0, Manners { start: 0, ..Manners::default() }, &[]);
    let guest = world[evil].guest.clone();
    let twin = guest.grant(world[evil].rings.tx_page.0, Grant::Writable);
    world[evil].set_key("rx-ring-ref", &twin.0.to_string());
    world[evil].hands_off = true;
    world.settle();
    assert!(world.is_connected(evil));
    let a = world.attach(1);
    for n in 0..20 {
        let frame = frames::plain(world[evil].mac(), world[a].mac(), 100, n);
        world[a].send(&Outgoing::whole(&frame));
        world[evil].kick();
        knock(&world, evil);
        world.pass(MILLISECOND);
    }
    world.pass(200 * MILLISECOND);
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// F-9: values that no frontend writes.
#[test]
fn f9_garbage_in_every_key() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let long = "7".repeat(2000);
    let values = ["", "abc", "-1", "4294967296", "0x10", " 1", "1 ", "1.0", "1\n", "ж", &long];
    let keys = [
        "tx-ring-ref",
        "rx-ring-ref",
        "event-channel",
        "request-rx-copy",
        "multi-queue-num-queues",
        "feature-rx-notify",
        "feature-sg",
        "feature-no-csum-offload",
        "feature-ipv6-csum-offload",
    ];
    for key in keys {
        for value in values {
            let evil = world.add(0, Manners::default(), &[]);
            world[evil].set_key(key, value);
            world.settle();
            let error = world.error(evil).unwrap_or_else(|| panic!("{key}={value:?}: no error"));
            assert!(error.contains(key), "{key}={value:?}: {error}");
            assert_eq!(world.own(evil, "state").as_deref(), Some("6"), "{key}={value:?}");
            world.check_at_rest();
            assert_eq!(world.detach(evil), Ok(()), "{key}={value:?}");
        }
    }
    let frame = frames::plain(world[b].mac(), world[a].mac(), 100, 1);
    world[a].send(&Outgoing::whole(&frame));
    world.settle();
    assert_eq!(world[b].received.len(), 1);
    world.end();
}

/// F-9: a state that changes a thousand times.
#[test]
fn f9_state_flips() {
    let mut world = World::new();
    let [a, b] = world.connected();
    let evil = world.attach(2);
    world[evil].hands_off = true;
    let path = format!("{}/state", world[evil].vif().frontend_dir());
    let states = ["4", "6", "1", "7", "x", "", "5", "2", "0", "4", "1", "3", "8", "99"];
    for n in 0..1000 {
        let state = states[n * 7 % states.len()];
        let guest = world[evil].vif().frontend;
        world.store.act(guest).write(&path, state).expect("its own");
        if n % 3 == 0 {
            world.pass(MILLISECOND);
        }
        if n % 50 == 0 {
            let frame = frames::plain(world[b].mac(), world[a].mac(), 100, n as u64);
            world[a].send(&Outgoing::whole(&frame));
            world.settle();
            assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
        }
    }
    assert!(journal(Level::Warn, "").len() < 20);
    world.end();
}

/// S-10: the vif is disabled, then its guest destroyed.
#[test]
fn s10_a_disabled_vif_is_destroyed() {
    for kill in [false, true] {
        let mut world = World::new();
        let [evil, a] = world.connected();
        world[evil].hands_off = true;
        let gref = page(&mut world, evil);
        show(&mut world, evil, &[request(gref, 0, NONE, 1000), request(gref, 4095, NONE, 1000)]);
        world.settle();
        assert_eq!(world[a].received.len(), 1, "what came before is good");
        assert!(world.error(evil).is_some());
        // Whatever else it does is not looked at.
        let counts = world.xen.counts();
        show(&mut world, evil, &[request(gref, 0, NONE, 1000)]);
        world.settle();
        assert_eq!(world.xen.counts(), counts);
        assert_eq!(if kill { world.kill(evil) } else { world.destroy(evil) }, Ok(()));
        world.end();
    }
}

/// The fault is told as soon as it is found, though nothing else happens.
#[test]
fn a_fault_is_told_at_once() {
    let mut world = World::new();
    let evil = world.attach(0);
    world[evil].hands_off = true;
    let turns = world.turns;
    show(&mut world, evil, &[request(1, 4095, NONE, 1000)]);
    world.settle();
    assert!(world.error(evil).is_some());
    assert!(world.turns - turns < 10);
    world.end();
}
