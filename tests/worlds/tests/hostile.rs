//! Guests that break the rules of the house, one rule at a time. The attack list is in
//! `attacks/`.

use worlds::{Id, Manners, Outgoing, World, frames};
use xen::fake::{Grant, Kind, Operation, When};
use xen::netif::{TxFlags, TxRequest, TxSlot};
use xen::ring::Word;

const NONE: TxFlags = TxFlags::empty();

/// Shows these slots, and raises the event whether it is wanted or not.
fn show(world: &mut World, evil: Id, slots: &[TxSlot]) {
    slots.iter().for_each(|slot| world[evil].push(*slot));
    world[evil].kick();
    knock(world, evil);
}

fn knock(world: &World, evil: Id) {
    world[evil].guest.notify(world[evil].rings.port);
}

fn request(gref: u32, offset: u16, flags: TxFlags, size: u16) -> TxSlot {
    TxRequest::new(gref, offset, flags, 7, size).into()
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
