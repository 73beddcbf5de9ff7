//! A guest that does whatever comes to its mind, beside two that do not.

use std::time::Duration;

use proptest::prelude::*;
use worlds::trials::trials;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::fake::Grant;
use xen::grant::GrantRef;
use xen::netif::{ControlRequest, RxRequest, TxFlags, TxRequest};
use xen::ring::Word;

/// What the guest does.
#[derive(Clone, Debug)]
enum Deed {
    /// Writes slots of a queue and shows them: flags, offset, size, and which page.
    Send(usize, Vec<(u16, u16, u16, u8)>),
    /// Offers pages on a queue.
    Offer(usize, Vec<u8>),
    /// Adds to one of the eight indices of a queue.
    Scribble(usize, u8, u32),
    /// Asks for something by the control ring: what, of which page, and what else.
    Ask(u16, u8, [u32; 2]),
    /// Adds to one of the control ring's indices.
    ScribbleControl(u8, u32),
    /// Raises events.
    Notify(u8),
    /// Revokes a page's grant, makes it read-only, or takes the page away.
    Spoil(u8, u8),
    /// Writes its state.
    State(String),
    /// Its driver starts again.
    Restart,
    /// Time passes.
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let offset = prop_oneof![4 => Just(0), 2 => 0..4096u16, 1 => any::<u16>()];
    let size = prop_oneof![4 => 14..1500u16, 2 => 0..200u16, 1 => any::<u16>()];
    let slot = (0..16u16, offset, size, 0..8u8);
    let by = prop_oneof![Just(1), Just(u32::MAX), any::<u32>()];
    let number = prop_oneof![4 => 0..150u32, 1 => any::<u32>()];
    let numbers = [number.clone(), number];
    let queue = 0..QUEUES;
    prop_oneof![
        6 => (queue.clone(), prop::collection::vec(slot, 1..40))
            .prop_map(|(queue, slots)| Deed::Send(queue, slots)),
        2 => (queue.clone(), prop::collection::vec(0..8u8, 1..40))
            .prop_map(|(queue, pages)| Deed::Offer(queue, pages)),
        1 => (queue, 0..8u8, by.clone())
            .prop_map(|(queue, word, by)| Deed::Scribble(queue, word, by)),
        3 => (0..12u16, 0..8u8, numbers).prop_map(|(kind, page, data)| Deed::Ask(kind, page, data)),
        1 => (0..4u8, by).prop_map(|(word, by)| Deed::ScribbleControl(word, by)),
        2 => any::<u8>().prop_map(Deed::Notify),
        1 => (0..8u8, 0..3u8).prop_map(|(page, how)| Deed::Spoil(page, how)),
        1 => "[0-9]{0,2}".prop_map(Deed::State),
        1 => Just(Deed::Restart),
        2 => (0..200u64).prop_map(Deed::Wait),
    ]
}

/// The indices of a ring.
const WORDS: [Word; 4] =
    [Word::RequestProducer, Word::RequestEvent, Word::ResponseProducer, Word::ResponseEvent];
/// How many queues it has.
const QUEUES: usize = 3;

struct Chaos {
    world: World,
    evil: Id,
    pages: Vec<GrantRef>,
}

impl Chaos {
    fn new() -> Self {
        let mut world = World::new();
        let manners = Manners { start: 0, queues: QUEUES, control: true, ..Manners::default() };
        let evil = world.attach_with(0, manners, &[]);
        let guest = world[evil].guest.clone();
        let frame = frames::plain(frames::BROADCAST, world[evil].mac(), 4096, 1);
        let page = |grant| {
            let page = guest.add_page();
            guest.page(page).write_bytes(0, &frame);
            guest.grant(page, grant)
        };
        let pages = (0..8).map(|n| page([Grant::ReadOnly, Grant::Writable][n % 2])).collect();
        world[evil].hands_off = true;
        Self { world, evil, pages }
    }

    fn act(&mut self, deed: Deed) {
        let Self { world, evil, pages } = self;
        let evil = *evil;
        match deed {
            Deed::Send(queue, slots) => {
                let rings = world[evil].rings_of(queue);
                let mut producer = rings.tx.word(Word::RequestProducer);
                for (flags, offset, size, page) in slots {
                    let flags = TxFlags::from_bits_truncate(flags);
                    let gref = pages[usize::from(page)].0;
                    let slot = TxRequest::new(gref, offset, flags, producer as u16, size);
                    rings.tx.write(producer, &slot.into());
                    producer = producer.wrapping_add(1);
                }
                rings.tx.set_word(Word::RequestProducer, producer);
                let port = rings.port;
                world[evil].guest.notify(port);
            }
            Deed::Offer(queue, offered) => {
                let rings = world[evil].rings_of(queue);
                let mut producer = rings.rx.word(Word::RequestProducer);
                for page in offered {
                    let gref = pages[usize::from(page)].0;
                    rings.rx.write(producer, &RxRequest { id: page.into(), pad: 0, gref });
                    producer = producer.wrapping_add(1);
                }
                rings.rx.set_word(Word::RequestProducer, producer);
                let port = rings.port;
                world[evil].guest.notify(port);
            }
            Deed::Ask(kind, page, [second, third]) => {
                let control = world[evil].control.as_ref().expect("a control ring");
                // Keys and tables are in pages; whatever else is set is a number.
                let first = match kind {
                    3 | 6 => pages[usize::from(page)].0,
                    _ => second,
                };
                let data = [first, second, third];
                let producer = control.ring.word(Word::RequestProducer);
                control.ring.write(producer, &ControlRequest { id: 7, kind, data });
                control.ring.set_word(Word::RequestProducer, producer.wrapping_add(1));
                world[evil].guest.notify(control.port);
            }
            Deed::ScribbleControl(word, by) => {
                let control = world[evil].control.as_ref().expect("a control ring");
                let which = WORDS[usize::from(word)];
                control.ring.set_word(which, control.ring.word(which).wrapping_add(by));
            }
            Deed::Scribble(queue, word, by) => {
                let which = WORDS[usize::from(word % 4)];
                let rings = world[evil].rings_of(queue);
                if word < 4 {
                    rings.tx.set_word(which, rings.tx.word(which).wrapping_add(by));
                } else {
                    rings.rx.set_word(which, rings.rx.word(which).wrapping_add(by));
                }
            }
            Deed::Notify(times) => {
                for rings in world[evil].queues() {
                    (0..times).for_each(|_| world[evil].guest.notify(rings.port));
                }
            }
            Deed::Spoil(page, how) => {
                let (guest, page) = (world[evil].guest.clone(), pages[usize::from(page)]);
                match how {
                    0 => guest.revoke(page),
                    1 => guest.regrant(page, guest.add_page(), Grant::ReadOnly),
                    _ => {
                        let gone = guest.add_page();
                        guest.regrant(page, gone, Grant::Writable);
                        guest.balloon_out(gone);
                    }
                }
            }
            Deed::State(state) => world.set_front(evil, &state),
            Deed::Restart => {
                let path = format!("{}/state", world[evil].vif().backend_dir());
                if world.store.act(xen::DomainId::ZERO).read(&path).as_deref() == Ok("4") {
                    world.restart(evil);
                    world[evil].hands_off = true;
                }
            }
            Deed::Wait(time) => world.pass(Duration::from_millis(time)),
        }
    }
}

proptest! {
    #![proptest_config(trials(48))]

    #[test]
    fn others_do_not_notice(deeds in prop::collection::vec(deed(), 1..30)) {
        let mut chaos = Chaos::new();
        let [a, b] = [1, 2].map(|guest| chaos.world.attach(guest));
        for (n, deed) in deeds.into_iter().enumerate() {
            chaos.act(deed);
            let world = &mut chaos.world;
            let [to_b, to_evil] = [b, chaos.evil]
                .map(|to| frames::plain(world[to].mac(), world[a].mac(), 1000, n as u64));
            let before = world.now();
            world[a].send(&Outgoing::whole(&to_b));
            world[a].send(&Outgoing::whole(&to_evil));
            world.settle();
            let arrived = world[b].received.drain(..).find(|packet| packet.bytes == to_b);
            prop_assert_eq!(arrived.map(|packet| packet.at), Some(before));
        }
        chaos.world.pass(Duration::from_millis(100));
        prop_assert_eq!(chaos.world[a].unanswered(), 0);
        prop_assert!(journal(Level::Warn, "").len() < 40);
        chaos.world.end();
    }
}
