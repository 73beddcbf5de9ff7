//! What stands in XenStore: rings and ports that are none, values that no frontend
//! writes, states that change without end (F-8 to F-10).

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Attack, Outcome, attack};
use crate::agent::netfront::devices::Access;
use crate::agent::netfront::{Front, node};

const SERVED: Outcome = Outcome::Served;
const NO_TX_RING: Outcome = Outcome::Refused("mapping tx-ring-ref");
const NO_PORT: Outcome = Outcome::Refused("binding event-channel");

/// How long states change.
const FLIPS: Duration = Duration::from_secs(1);

pub(super) const ATTACKS: &[Attack] = &[
    attack("f8-one-ring", Outcome::Refused("rx-ring-ref contradicts tx-ring-ref"), |front| {
        let tx = front.tx.page.reference;
        offer(front, "rx-ring-ref", &tx.to_string())
    }),
    attack("f8-ring-of-none", NO_TX_RING, |front| offer(front, "tx-ring-ref", "4294967295")),
    attack("f8-ring-of-dom0", NO_TX_RING, |front| {
        let grant = front.grants.grant(0, Access::Write)?;
        offer(front, "tx-ring-ref", &grant.reference.to_string())
    }),
    attack("f8-ring-read-only", Outcome::Refused("mapping rx-ring-ref"), |front| {
        let grant = front.grants.grant(front.domain, Access::Read)?;
        offer(front, "rx-ring-ref", &grant.reference.to_string())
    }),
    attack("f8-port-of-none", NO_PORT, |front| offer(front, "event-channel", "4294967295")),
    attack("f8-port-of-dom0", NO_PORT, |front| {
        let port = front.events.offer(0)?;
        offer(front, "event-channel", &port.to_string())
    }),
    // The first of a guest's ports is bound to xenstored.
    attack("f8-port-in-use", NO_PORT, |front| offer(front, "event-channel", "1")),
    attack("f8-port-closed", NO_PORT, |front| {
        front.events.close(front.port)?;
        front.publish(&front.keys())
    }),
    attack("f8-port-closed-later", Outcome::Ended, closes_port),
    attack("f9-empty", Outcome::Refused("tx-ring-ref"), |front| offer(front, "tx-ring-ref", "")),
    attack("f9-word", Outcome::Refused("rx-ring-ref"), |front| offer(front, "rx-ring-ref", "abc")),
    attack("f9-negative", Outcome::Refused("event-channel"), |front| {
        offer(front, "event-channel", "-1")
    }),
    attack("f9-overflow", Outcome::Refused("tx-ring-ref"), |front| {
        offer(front, "tx-ring-ref", "4294967296")
    }),
    attack("f9-hexadecimal", Outcome::Refused("event-channel"), |front| {
        offer(front, "event-channel", "0x10")
    }),
    attack("f9-nul", Outcome::Refused("feature-sg"), |front| offer(front, "feature-sg", "1\0")),
    attack("f9-utf8", Outcome::Refused("rx-ring-ref"), |front| offer(front, "rx-ring-ref", "жы")),
    attack("f9-long", Outcome::Refused("feature-rx-notify"), long),
    attack("f9-no-copy", Outcome::Refused("request-rx-copy"), |front| {
        offer(front, "request-rx-copy", "0")
    }),
    attack("f9-queues-later", SERVED, |front| {
        front.store.write(&node("multi-queue-num-queues"), b"4")
    }),
    attack("f9-state-garbage", SERVED, state_garbage),
    attack("f9-state-removed", Outcome::Ended, |front| {
        front.store.remove(&node("state"))?;
        front.backend_is(&["6"]).map(drop)
    }),
    attack("f9-state-unreadable", Outcome::Ended, unreadable),
    attack("f9-state-flips", Outcome::Ended, flips),
    attack("f10-mac", SERVED, macs),
];

/// Connects with one key of its own.
pub(super) fn offer(front: &mut Front, key: &str, value: &str) -> Result<()> {
    front.publish(&front.keys().with(key, value))
}

fn closes_port(front: &mut Front) -> Result<()> {
    front.events.close(front.port)?;
    // What is shown now nobody hears of.
    front.tx.show([front.good(); 100]);
    Ok(())
}

/// The longest value that xenstored takes, up to 2048 bytes.
fn long(front: &mut Front) -> Result<()> {
    let mut value = "7".repeat(2048);
    while !front.store.try_write(&node("feature-rx-notify"), value.as_bytes())? {
        value.truncate(value.len() - 32);
    }
    offer(front, "feature-rx-notify", &value)
}

/// A state that is none says nothing.
fn state_garbage(front: &mut Front) -> Result<()> {
    let long = "4".repeat(1500);
    for state in ["", "abc", "-1", "4294967296", "4294967300", "04", "4\0", "ж", &long] {
        front.set_state(state)?;
    }
    front.set_state("4")
}

/// A node that its backend may not read is as one that is gone.
fn unreadable(front: &mut Front) -> Result<()> {
    let state = node("state");
    let own = own_domain(front)?;
    front.store.set_permissions(&state, &[&format!("n{own}")])?;
    front.backend_is(&["6"])?;
    front.store.set_permissions(&state, &[&format!("n{own}"), &format!("r{}", front.domain)])
}

fn own_domain(front: &mut Front) -> Result<u16> {
    Ok(front.store.read("domid")?.parse()?)
}

/// States as fast as XenStore takes them.
fn flips(front: &mut Front) -> Result<()> {
    let states = ["4", "6", "1", "7", "x", "", "5", "2", "0", "4", "1", "3", "8", "99"];
    let until = Instant::now() + FLIPS;
    let mut count = 0;
    while Instant::now() < until {
        front.set_state(states[count * 5 % states.len()])?;
        count += 1;
    }
    println!("{count} states");
    Ok(())
}

/// The frontend's copy of its address is its own affair.
fn macs(front: &mut Front) -> Result<()> {
    let node = node("mac");
    let own = front.store.read(&node)?;
    for mac in ["00:16:3e", "01:00:5e:00:00:01", "00:16:3e:00:00:00"] {
        front.store.write(&node, mac.as_bytes())?;
        front.close()?;
        front.start()?;
        front.connect()?;
        front.served()?;
    }
    front.store.write(&node, own.as_bytes())
}
