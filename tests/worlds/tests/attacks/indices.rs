//! F-1, S-1: the indices of the rings.

use xen::fake::{Kind, Operation, When};
use xen::ring::Word;

use crate::harness::{Disabled, Harmless, NONE, attack, exhaust, knock, page, request, show};

/// F-1, S-1: indices that cannot be.
#[test]
fn f_01_s_01_req_prod_jumps() {
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
    // The receive ring is looked at again when those offered at first are used up.
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

/// F-1: an index that moves while a batch is worked on.
#[test]
fn f_01_req_prod_jumps_in_the_middle_of_a_batch() {
    attack("mid-batch", Disabled("producer index"), |world, evil| {
        let gref = page(world, evil);
        let tx_page = world[evil].guest.page(world[evil].rings.tx_page.0);
        let guest = world[evil].vif().frontend;
        let spoil = When::Chosen(Box::new(move |operation| {
            if matches!(operation, Operation::Copy { from: Some((from, _)), .. } if *from == guest)
            {
                tx_page.store(0, 0x7777_7777);
            }
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
fn f_01_response_indices_are_scribbled_over() {
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
