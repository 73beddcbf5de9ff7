//! A guest that does whatever comes to its mind, beside two that do not.

use std::time::Duration;

use proptest::prelude::*;
use worlds::trials::trials;
use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::fake::Grant;
use xen::grant::GrantRef;
use xen::netif::{RxRequest, TxFlags, TxRequest};
use xen::ring::Word;

/// What the guest does.
#[derive(Clone, Debug)]
enum Deed {
    /// Writes slots and shows them: flags, offset, size, and which page.
    Send(Vec<(u16, u16, u16, u8)>),
    /// Offers pages.
    Offer(Vec<u8>),
    /// Adds to one of the eight indices.
    Scribble(u8, u32),
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
    prop_oneof![
        6 => prop::collection::vec(slot, 1..40).prop_map(Deed::Send),
        2 => prop::collection::vec(0..8u8, 1..40).prop_map(Deed::Offer),
        1 => (0..8u8, prop_oneof![Just(1), Just(u32::MAX), any::<u32>()])
            .prop_map(|(word, by)| Deed::Scribble(word, by)),
        2 => any::<u8>().prop_map(Deed::Notify),
        1 => (0..8u8, 0..3u8).prop_map(|(page, how)| Deed::Spoil(page, how)),
        1 => "[0-9]{0,2}".prop_map(Deed::State),
        1 => Just(Deed::Restart),
        2 => (0..200u64).prop_map(Deed::Wait),
    ]
}

struct Chaos {
    world: World,
    evil: Id,
    pages: Vec<GrantRef>,
}

impl Chaos {
    fn new() -> Self {
        let mut world = World::new();
        let evil = world.attach_with(0, Manners { start: 0, ..Manners::default() }, &[]);
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
            Deed::Send(slots) => {
                let rings = &world[evil].rings;
                let mut producer = rings.tx.word(Word::RequestProducer);
                for (flags, offset, size, page) in slots {
                    let flags = TxFlags::from_bits_truncate(flags);
                    let gref = pages[usize::from(page)].0;
                    let slot = TxRequest::new(gref, offset, flags, producer as u16, size);
                    rings.tx.write(producer, &slot.into());
                    producer = producer.wrapping_add(1);
                }
                rings.tx.set_word(Word::RequestProducer, producer);
                world[evil].guest.notify(world[evil].rings.port);
            }
            Deed::Offer(offered) => {
                let rings = &world[evil].rings;
                let mut producer = rings.rx.word(Word::RequestProducer);
                for page in offered {
                    let gref = pages[usize::from(page)].0;
                    rings.rx.write(producer, &RxRequest { id: page.into(), pad: 0, gref });
                    producer = producer.wrapping_add(1);
                }
                rings.rx.set_word(Word::RequestProducer, producer);
                world[evil].guest.notify(world[evil].rings.port);
            }
            Deed::Scribble(word, by) => {
                let words = [
                    Word::RequestProducer,
                    Word::RequestEvent,
                    Word::ResponseProducer,
                    Word::ResponseEvent,
                ];
                let (which, rings) = (words[usize::from(word % 4)], &world[evil].rings);
                if word < 4 {
                    rings.tx.set_word(which, rings.tx.word(which).wrapping_add(by));
                } else {
                    rings.rx.set_word(which, rings.rx.word(which).wrapping_add(by));
                }
            }
            Deed::Notify(times) => {
                for _ in 0..times {
                    world[evil].guest.notify(world[evil].rings.port);
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
