//! Several queues, each ring with an event channel of its own (P-24), where what one of
//! them is breaks what all are: counts that cannot be, keys that are missing, rings and
//! channels that are one (F-8, F-9).

use anyhow::{Result, ensure};
use xen::netif::{
    ControlRequest, ControlResponse, RxRequest, RxResponse, Status, TxResponse, TxSlot,
};
use xen::ring::{CTRL_RING_SIZE, Word};

use super::keys::offer;
use super::{Attack, Outcome, attack};
use crate::agent::netfront::devices::Access;
use crate::agent::netfront::{Front, Keys, Ring};

const COUNT: Outcome = Outcome::Refused("multi-queue-num-queues asks for what is not supported");

const COUNT_KEY: &str = "multi-queue-num-queues";

pub(super) const ATTACKS: &[Attack] = &[
    attack("f9-queues-0", COUNT, |front| offer(front, COUNT_KEY, "0")),
    attack("f9-queues-9", COUNT, |front| offer(front, COUNT_KEY, "9")),
    attack("f9-queues-65535", COUNT, |front| offer(front, COUNT_KEY, "65535")),
    attack("f9-queues-without-keys", Outcome::Refused("queue-0/tx-ring-ref is missing"), |front| {
        offer(front, COUNT_KEY, "2")
    }),
    attack("f9-queues-8-of-2", Outcome::Refused("queue-2/tx-ring-ref is missing"), |front| {
        refused(front, |_, keys| Ok(keys.with(COUNT_KEY, "8")))
    }),
    attack("f9-queues-half-a-queue", Outcome::Refused("queue-1/rx-ring-ref is missing"), |front| {
        refused(front, |_, keys| Ok(keys.without("queue-1/rx-ring-ref")))
    }),
    attack("f9-queues-half-split", Outcome::Refused("event-channel-rx is missing"), |front| {
        refused(front, |_, keys| Ok(keys.without("queue-0/event-channel-rx")))
    }),
    attack(
        "f8-queues-one-ring",
        Outcome::Refused("queue-1/tx-ring-ref contradicts queue-0/tx-ring-ref"),
        |front| {
            let first = front.tx.page.reference.to_string();
            refused(front, |_, keys| Ok(keys.with("queue-1/tx-ring-ref", first)))
        },
    ),
    attack("f8-queues-ring-of-none", Outcome::Refused("mapping queue-1/rx-ring-ref"), |front| {
        refused(front, |_, keys| Ok(keys.with("queue-1/rx-ring-ref", "4294967295")))
    }),
    attack("f8-queues-one-port", Outcome::Refused("binding queue-1/event-channel-tx"), |front| {
        let first = front.port.to_string();
        refused(front, |_, keys| Ok(keys.with("queue-1/event-channel-tx", first)))
    }),
    attack("f7-queues-one-flooded", Outcome::Served, one_flooded).unconnected(),
    attack("f1-queues-tx-producer", Outcome::Broken("producer index"), |front| {
        let wide = Wide::connect(front)?;
        wide.tx.set(Word::RequestProducer, wide.tx.produced().wrapping_add(257));
        front.knock()
    })
    .unconnected(),
];

/// What a frontend has beside the usual, of two queues and with a control ring.
pub(super) struct Wide {
    pub(super) tx: Ring<TxSlot, TxResponse>,
    rx: Ring<RxRequest, RxResponse>,
    pub(super) control: Ring<ControlRequest, ControlResponse, CTRL_RING_SIZE>,
}

impl Wide {
    /// Makes it, and the keys that tell of it.
    pub(super) fn new(front: &mut Front) -> Result<(Wide, Keys)> {
        let page = || front.grants.page(front.domain, Access::Write);
        let (tx, rx, control) = (Ring::new(page()?), Ring::new(page()?), Ring::new(page()?));
        let ports = (0..4).map(|_| front.events.offer(front.domain));
        front.further_ports = ports.collect::<Result<_, _>>()?;
        let ports = &front.further_ports;
        let keys = [
            (COUNT_KEY, 2),
            ("queue-0/tx-ring-ref", front.tx.page.reference),
            ("queue-0/rx-ring-ref", front.rx.page.reference),
            ("queue-0/event-channel-tx", front.port),
            ("queue-0/event-channel-rx", ports[0]),
            ("queue-1/tx-ring-ref", tx.page.reference),
            ("queue-1/rx-ring-ref", rx.page.reference),
            ("queue-1/event-channel-tx", ports[1]),
            ("queue-1/event-channel-rx", ports[2]),
            ("ctrl-ring-ref", control.page.reference),
            ("event-channel-ctrl", ports[3]),
        ];
        let with = |keys: Keys, (key, value): (&str, u32)| keys.with(key, value.to_string());
        let keys = keys.into_iter().fold(front.keys(), with);
        Ok((Wide { tx, rx, control }, keys))
    }

    /// Connects with it, and is served by both queues.
    pub(super) fn connect(front: &mut Front) -> Result<Wide> {
        let (wide, keys) = Wide::new(front)?;
        front.connect_with(&keys)?;
        front.takes_what_is_sent()?;
        wide.takes_what_is_sent(front)?;
        Ok(wide)
    }

    /// What the second queue is to send is taken.
    fn takes_what_is_sent(&self, front: &Front) -> Result<()> {
        self.tx.show([front.good()]);
        front.knock()?;
        front.wait("the second queue's requests answered", |_| {
            self.tx.answered() == self.tx.produced()
        })?;
        let last = self.tx.response(self.tx.produced().wrapping_sub(1));
        ensure!(last.status == Status::Okay as i16, "{last:?}");
        Ok(())
    }
}

/// Connects with the keys of several queues, changed.
pub(super) fn refused(
    front: &mut Front,
    change: impl FnOnce(&mut Front, Keys) -> Result<Keys>,
) -> Result<()> {
    let (_, keys) = Wide::new(front)?;
    let keys = change(front, keys)?;
    front.publish(&keys)
}

/// The second queue is full all the time, and nothing is ever offered by it; the first one
/// is served as well.
fn one_flooded(front: &mut Front) -> Result<()> {
    let wide = Wide::connect(front)?;
    for _ in 0..40 {
        wide.tx.show(vec![front.good(); wide.tx.room()]);
        front.takes_what_is_sent()?;
    }
    wide.takes_what_is_sent(front)?;
    ensure!(wide.rx.answered() == 0, "answers to what was never offered");
    Ok(())
}
