//! What guests leave to others, and what they get whole.

use anyhow::{Context, Result, bail};

use super::measure::{transfer, transfer_between};
use crate::observe::wire::LONGEST;
use crate::wire_peer;
use crate::world::{Peer, World};

const MIB: u64 = 16;

/// TCP segments that are still to be cut go uncut from one guest to the other, and cut onto
/// the wire, where every frame is looked at.
pub(super) fn gso(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let mut figures = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        // What is captured is to be what came: nothing that the guest put together itself.
        to.agent.run("ethtool -K eth0 gro off", 10)?;
        let (largest, with) = largest_segment(from, to)?;
        to.agent.run("ethtool -K eth0 gro on", 10)?;
        if largest <= LONGEST {
            bail!("the longest packet that {} got is of {largest} bytes", to.agent.name());
        }
        from.agent.run("ethtool -K eth0 tso off gso off", 10)?;
        let without = transfer_between(&from.agent, &to.agent, to.ip, MIB)?.mbit_per_second();
        from.agent.run("ethtool -K eth0 tso on gso on", 10)?;
        figures.push(format!(
            "to {} in packets of up to {largest} bytes, {with:.0} Mbit/s, against {without:.0} of \
             an Ethernet's",
            to.agent.name()
        ));
    }
    let out = transfer(&a.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let back = transfer(&a.agent, "get", wire_peer::SERVER, MIB)?.mbit_per_second();
    figures.push(format!("to the wire {out:.0} Mbit/s, from it {back:.0}"));
    Ok(figures.join("; "))
}

/// How long the longest TCP segment is that arrives during a transfer, and the transfer's
/// Mbit/s.
fn largest_segment(from: &Peer, to: &Peer) -> Result<(usize, f64)> {
    let filter = format!("src {} and tcp and greater {}", from.ip, LONGEST + 1);
    let command = format!("exec tcpdump -Z root -nn -q -l -s 96 -i eth0 '{filter}' 2>&1");
    let mut capture = to.agent.start(&command, 300)?;
    capture.wait_line("listening on")?;
    let rate = transfer_between(&from.agent, &to.agent, to.ip, MIB)?.mbit_per_second();
    capture.kill()?;
    let captured = capture.wait()?.stdout;
    let lengths = captured.lines().filter_map(|line| line.rsplit_once(" tcp ")?.1.parse().ok());
    Ok((lengths.max().with_context(|| format!("tcpdump printed {captured}"))?, rate))
}
