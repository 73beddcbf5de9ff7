//! Indices that cannot be (F-1).

use std::thread;

use anyhow::Result;
use xen::ring::Word;

use super::{Attack, Outcome, attack};
use crate::agent::netfront::Front;

const BROKEN: Outcome = Outcome::Broken("producer index");

pub(super) const ATTACKS: &[Attack] = &[
    attack("f1-tx-producer-257", BROKEN, |front| tx_jumps(front, 257)),
    attack("f1-tx-producer-2g", BROKEN, |front| tx_jumps(front, 1 << 31)),
    attack("f1-tx-producer-back", BROKEN, |front| tx_jumps(front, u32::MAX)),
    attack("f1-rx-producer-257", BROKEN, |front| rx_jumps(front, 257)),
    attack("f1-rx-producer-2g", BROKEN, |front| rx_jumps(front, 1 << 31)),
    attack("f1-mid-batch", BROKEN, mid_batch),
    attack("f1-responses-0", Outcome::Served, |front| scribble(front, 0)),
    attack("f1-responses-2g", Outcome::Served, |front| scribble(front, 1 << 31)),
    attack("f1-responses-max", Outcome::Served, |front| scribble(front, u32::MAX)),
];

fn tx_jumps(front: &mut Front, by: u32) -> Result<()> {
    front.tx.set(Word::RequestProducer, front.tx.produced().wrapping_add(by));
    front.knock()
}

/// Nothing is offered, so that the ring is looked at for the next packet.
fn rx_jumps(front: &mut Front, by: u32) -> Result<()> {
    front.rx.set(Word::RequestProducer, front.rx.produced().wrapping_add(by));
    front.knock()
}

/// The index jumps while a full ring is worked on.
fn mid_batch(front: &mut Front) -> Result<()> {
    let start = front.tx.produced();
    front.show(&vec![front.good(); front.tx.room()])?;
    front.wait("the backend begins", |front| front.tx.answered() != start)?;
    front.tx.set(Word::RequestProducer, start.wrapping_add(0x7777_7777));
    front.knock()
}

/// What the backend writes is written over while it works, and afterwards.
fn scribble(front: &mut Front, value: u32) -> Result<()> {
    thread::scope(|scope| {
        let rings = [front.tx.page, front.rx.page].map(|page| page.shared());
        let scribbler = scope.spawn(move || {
            for _ in 0..10_000 {
                // All words but the producer of requests.
                for word in 1..4 {
                    rings.iter().for_each(|ring| ring.store(4 * word, value));
                }
            }
        });
        for _ in 0..8 {
            front.show(&[front.good(); 8])?;
        }
        // It does not panic.
        let _ = scribbler.join();
        // Whatever stands there now: the next answer puts it right.
        front.show(&[front.good()])
    })
}
