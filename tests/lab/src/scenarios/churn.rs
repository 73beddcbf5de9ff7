//! Vifs that come and go while others carry traffic. What is left over is counted
//! by Xen and the toolstack, not by Causeway.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::stream::{Report, Sent};
use crate::client::Running;
use crate::config::GuestKind;
use crate::observe::snapshot::Snapshot;
use crate::observe::wire::Mac;
use crate::world::{Peer, World, bring_up, gone};

const TIMES: u32 = 20;

/// How long Xen and the toolstack may take to clean up.
const SETTLE: Duration = Duration::from_secs(30);

/// The guest's second vif that comes and goes.
const MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 3, 0]);
const IP: &str = "192.168.8.3";

pub(super) fn reattach(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let c = world.peer("c", GuestKind::Pv)?;
    world.allow_on_the_wire(MAC);
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    b.agent.run("ip addr add 192.168.8.2/24 dev eth0", 10)?;
    for _ in 0..TIMES {
        world.attach("c", MAC, "xenbr0")?;
        bring_up(&c.agent, "eth1", IP)?;
        let mut traffic = c.agent.start("exec ping -A -s 1400 192.168.8.2", 120)?;
        traffic.wait_line("seq=5")?;
        world.detach("c", 1)?;
        gone(&c.agent, "eth1")?;
    }
    b.agent.run("ip addr del 192.168.8.2/24 dev eth0", 10)?;
    let stream = stream.end()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{TIMES} times, Xen's counts as before, beside it {stream}"))
}

pub(super) fn destroy(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    // The toolstack's first guest of a kind may leave things for the next.
    let before = Snapshot::take(world.lab())?;
    let stream = Stream::start(&a, &b)?;
    for _ in 0..TIMES {
        let d = world.peer("d", GuestKind::Pv)?;
        let mut traffic = d.agent.start(&format!("exec ping -A -s 1400 {}", b.ip), 120)?;
        traffic.wait_line("seq=5")?;
        world.forget("d");
        world.xl("destroy d", 60)?;
        world.wait_gone("d ", 30)?;
    }
    let stream = stream.end()?;
    before.wait_equal(world.lab(), SETTLE)?;
    Ok(format!("{TIMES} times, Xen's counts as before, beside it {stream}"))
}

/// A numbered stream from one guest to another.
struct Stream {
    sender: Running,
    receiver: Running,
}

impl Stream {
    const PORT: u16 = 7100;
    const INTERVAL_MS: u32 = 20;

    /// A silence that is longer than the sender's own by this is an interruption,
    /// even on a slow machine.
    const INTERRUPTION: Duration = Duration::from_secs(2);

    fn start(from: &Peer, to: &Peer) -> Result<Stream> {
        let seconds = 1800;
        let command = format!("exec lab-agent stream-receive {}", Self::PORT);
        let mut receiver = to.agent.start(&command, seconds)?;
        receiver.wait_line("listening")?;
        let address = format!("{}:{}", to.ip, Self::PORT);
        let command = format!("exec lab-agent stream-send {address} {}", Self::INTERVAL_MS);
        Ok(Stream { sender: from.agent.start(&command, seconds)?, receiver })
    }

    /// Ends it; fails if it ever stopped. Returns what it saw.
    fn end(self) -> Result<String> {
        self.sender.close_stdin()?;
        let sent: Sent = self.sender.wait()?.stdout.trim().parse()?;
        let report: Report = self.receiver.wait()?.stdout.trim().parse()?;
        let lost = sent.count - report.received;
        let gap = Duration::from_micros(report.longest_gap_us);
        let senders = Duration::from_micros(sent.longest_gap_us);
        let figures = format!(
            "{} datagrams, {lost} lost, longest gap {} ms (the sender's {} ms)",
            sent.count,
            gap.as_millis(),
            senders.as_millis()
        );
        if gap > senders + Self::INTERRUPTION || lost * 100 > sent.count || report.repeated > 0 {
            bail!("the stream between others was disturbed: {figures}, {report}");
        }
        Ok(figures)
    }
}
