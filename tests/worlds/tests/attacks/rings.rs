//! F-7, F-8, S-2, S-10: rings and event channels that are torn away, mixed up and misused.

use worlds::{Id, Level, Manners, Outgoing, World, frames, journal};
use xen::DomainId;
use xen::fake::Grant;
use xen::ring::Word;

use crate::harness::{
    Disabled, Harmless, MILLISECOND, NONE, Setup, Told, attack, exhaust, knock, page, request, show,
};

/// F-7: a guest that never reads its responses and never refills.
#[test]
fn f_07_responses_nobody_reads() {
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

/// F-8, S-2: the rings' pages go away under us. We keep what we map.
#[test]
fn f_08_ring_pages_are_torn_away() {
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
fn f_08_the_event_channel_is_closed() {
    attack("port closed", Told(0), |world, evil| {
        world[evil].guest.close_port(world[evil].rings.port);
        let sender = world.attach(1);
        let frame = frames::plain(world[evil].mac(), world[sender].mac(), 100, 1);
        world[sender].send(&Outgoing::whole(&frame));
        world.pass(10 * MILLISECOND);
        assert_eq!(world[sender].unanswered(), 0);
        world.check_at_rest();
    });
}

/// F-8: rings and ports that cannot be; the vif is closed, with the reason in
/// XenStore, and can be taken away.
#[test]
fn f_08_rings_that_cannot_be_attached() {
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
    let setup = Setup { interval: 100 * MILLISECOND, ..Setup::default() };
    setup.attack("rings", Told(cases.len()), |world, _| {
        for (words, spoil) in cases {
            let evil = world.add(0, Manners { start: 1000, ..Manners::default() }, &[]);
            spoil(world, evil);
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
        }
    });
}

/// F-8: both rings in one page, by two grants. We write over our own responses; they
/// are the guest's anyway.
#[test]
fn f_08_both_rings_in_one_page() {
    attack("one page", Told(1), |world, _| {
        let evil = world.add(0, Manners { start: 0, ..Manners::default() }, &[]);
        let guest = world[evil].guest.clone();
        let twin = guest.grant(world[evil].rings.tx_page.0, Grant::Writable);
        world[evil].set_key("rx-ring-ref", &twin.0.to_string());
        world[evil].hands_off = true;
        world.settle();
        assert!(world.is_connected(evil));
        let sender = world.attach(1);
        for n in 0..20 {
            let frame = frames::plain(world[evil].mac(), world[sender].mac(), 100, n);
            world[sender].send(&Outgoing::whole(&frame));
            world[evil].kick();
            knock(world, evil);
            world.pass(MILLISECOND);
        }
        world.pass(200 * MILLISECOND);
        assert_eq!(world[sender].unanswered(), 0);
    });
}

/// S-2 (XSA-90): a vif is given up in the middle of a batch, with good requests before and
/// behind the bad one, and traffic in both directions. What came before is served; then
/// nothing is, and the guest can be rid of it.
#[test]
fn s_02_malformed_amid_traffic() {
    attack("amid traffic", Disabled("crosses its page"), |world, evil| {
        let other = world.attach(1);
        let gref = page(world, evil);
        let good = request(gref, 0, NONE, 1000);
        let mut slots = vec![good; 40];
        slots[20] = request(gref, 4095, NONE, 1000);
        let frame = frames::plain(world[evil].mac(), world[other].mac(), 1000, 1);
        for _ in 0..100 {
            world[other].queue(&Outgoing::whole(&frame));
        }
        world[other].kick();
        show(world, evil, &slots);
        world.settle();
        assert_eq!(world[other].received.len(), 20, "what came before is good");
        assert_eq!(world[other].unanswered(), 0, "what was for it is dropped");
        let copies = world.xen.counts().copies;
        show(world, evil, &[good; 40]);
        world.settle();
        assert_eq!(world.xen.counts().copies, copies, "it is not looked at any more (P-16)");
        assert_eq!(world[other].received.len(), 20);
    });
}

/// S-10 (XSA-374): the vif is disabled, then its guest destroyed.
#[test]
fn s_10_a_disabled_vif_is_destroyed() {
    for kill in [false, true] {
        attack("disabled", Told(1), |world, evil| {
            let gref = page(world, evil);
            let other = world.attach(1);
            let bad = [request(gref, 0, NONE, 1000), request(gref, 4095, NONE, 1000)];
            show(world, evil, &bad);
            world.settle();
            assert_eq!(world[other].received.len(), 1, "what came before is good");
            assert!(world.error(evil).is_some());
            // Whatever else it does is not looked at.
            let counts = world.xen.counts();
            show(world, evil, &[request(gref, 0, NONE, 1000)]);
            world.settle();
            assert_eq!(world.xen.counts(), counts);
            assert_eq!(if kill { world.kill(evil) } else { world.destroy(evil) }, Ok(()));
        });
    }
}
