//! Causeway with two vCPUs: guests of one, of the other, and of both.

use anyhow::{Context, Result, bail};

use super::measure::{iperf, ping, transfer, transfer_between};
use crate::config::GuestKind;
use crate::wire_peer;
use crate::world::World;

const MIB: u64 = 16;

pub(super) fn vcpus(world: &mut World) -> Result<String> {
    world.causeway_of(2)?;
    // A vif of one queue is where the fewest are: these two are apart.
    let (a, b) = world.pair()?;
    let [q, r] = ["q", "r"].map(|name| world.peer(name, GuestKind::PvFourQueues));
    let (q, r) = (q?, r?);
    let round_trip = ping(&a.agent, b.ip, 20)?;
    let mut rates = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a), (&a, &q), (&q, &b)] {
        rates.push(transfer_between(&from.agent, &to.agent, to.ip, MIB)?.mbit_per_second());
    }
    // One of them is where the NIC is not.
    for guest in [&a, &b] {
        for what in ["put", "get"] {
            let server = wire_peer::SERVER;
            rates.push(transfer(&guest.agent, what, server, MIB)?.mbit_per_second());
        }
    }
    let spread = iperf(&q.agent, &r.agent, r.ip, "-P 16")?.mbit_per_second;

    let counters = world.counters()?;
    let apart = |port| {
        let [from, to] = ["from it", "to it"].map(|way| counters.get(port, way).unwrap_or(0));
        if from == 0 || to == 0 { bail!("nothing went by {port}") } else { Ok(from + to) }
    };
    let crossed = apart("xenbr0 vcpu1")?;
    apart("xenbr0 vcpu0")?;
    let mut shares = Vec::new();
    for (peer, way) in [(&q, "tx"), (&r, "rx")] {
        let vif = format!("vif{}.0", world.domain_id(peer.agent.name())?);
        for queue in 0..4 {
            let packets = counters.get(&format!("{vif} queue {queue}"), way);
            shares.push(
                packets
                    .filter(|packets| *packets > 0)
                    .with_context(|| format!("{vif} does not use queue {queue} for {way}"))?,
            );
        }
    }
    // Nothing is lent any more on either of them.
    let lent = counters.lines("lent pages").collect::<Vec<_>>();
    let at_rest = |line: &&str| line.contains(" out 0, holds 0, mapped 0, quarantined 0,");
    if lent.len() != 2 || !lent.iter().all(at_rest) {
        bail!("not at rest: {lent:?}");
    }
    for name in ["q", "r"] {
        world.forget(name);
        world.destroy(name)?;
    }
    world.wait_gone("[qr] ", 30)?;
    let rates: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    Ok(format!(
        "round trip from one to the other {round_trip:.2} ms; {MIB} MiB each at {} Mbit/s; \
         {crossed} packets crossed; 16 streams of four queues at {spread:.0} Mbit/s",
        rates.join(", ")
    ))
}
