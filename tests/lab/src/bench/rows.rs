//! What is measured of a side.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use super::accounting::{Accounting, traced};
use crate::agent::flood::{Flood, SILENCE};
use crate::agent::round_trip::RoundTrips;
use crate::agent::trace::Trace;
use crate::agent::transfer::Transferred;
use crate::client::{Agent, Running};
use crate::config::DRIVER_DOMAIN;
use crate::wire_peer;
use crate::world::{Peer, World};

/// How long each kind of traffic lasts.
pub(super) const TRAFFIC: Duration = Duration::from_secs(4);

/// The same while Xen writes down every exit.
const TRACED_TRAFFIC: Duration = Duration::from_secs(2);

/// How long a guest may take for some seconds of traffic.
const LIMIT: u32 = 90;

const SERVER_PORT: u16 = 7000;
const ROUND_TRIP_PORT: u16 = 7200;
const FLOOD_PORT: u16 = 9;

/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;

/// The shortest frame: with its checksum, which the generator does not count, 64 bytes.
const SHORTEST: usize = 60;

/// Datagrams of 1400 bytes.
const LONG: usize = HEADERS + 1400;

/// One row of the report.
pub(super) struct Row {
    pub(super) key: &'static str,
    /// In a plot.
    pub(super) short: &'static str,
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) target: Target,
}

/// What Causeway wants to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// At least so many times as much as Linux in the same mode; better, so many.
    Times(f64, f64),
    /// At most so many times as much; better, so many.
    AtMostTimes(f64, f64),
    /// At most this, whatever Linux takes; better, this.
    AtMost(f64, f64),
    /// It is only told.
    None,
}

const CPU: Target = Target::AtMostTimes(0.5, 0.2);

/// All rows, in the report's order.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("tcp1", "one stream", "guest to guest, TCP, one stream", "Mbit/s", Target::Times(2.0, 4.0)),
    row("tcp8", "eight streams", "guest to guest, TCP, eight streams", "Mbit/s", Target::Times(2.0, 4.0)),
    row("out", "guest to wire", "guest to wire, TCP", "Mbit/s", Target::Times(1.5, 3.0)),
    row("in", "wire to guest", "wire to guest, TCP", "Mbit/s", Target::Times(1.5, 3.0)),
    row("udp64", "frames of 64 B", "guest to guest, UDP in frames of 64 B, received", "packets/s", Target::Times(2.0, 4.0)),
    row("udp1400", "1400 B", "guest to guest, UDP of 1400 B, received", "packets/s", Target::None),
    row("rr", "", "guest to guest, requests and responses, TCP", "/s", Target::None),
    row("rr-median", "median", "their round trip, median", "µs", Target::AtMostTimes(0.7, 0.4)),
    row("rr-p99", "99th percentile", "their round trip, 99th percentile", "µs", Target::None),
    row("tcp1-cpu", "guest to guest", "driver domain's CPU, guest to guest, TCP", "s/GiB", CPU),
    row("out-cpu", "guest to wire", "driver domain's CPU, guest to wire, TCP", "s/GiB", CPU),
    row("in-cpu", "wire to guest", "driver domain's CPU, wire to guest, TCP", "s/GiB", CPU),
    row("udp64-cpu", "", "driver domain's CPU, UDP in frames of 64 B", "s/million packets", CPU),
    row("tcp1-busy", "", "driver domain's CPU busy, TCP, one stream", "%", Target::None),
    row("udp64-busy", "", "driver domain's CPU busy, UDP in frames of 64 B", "%", Target::None),
    row("udp64-xen", "", "of its time, in Xen, UDP in frames of 64 B", "%", Target::None),
    row("udp64-exits", "", "exits, UDP in frames of 64 B", "/packet", Target::None),
    row("udp64-hypercalls", "", "hypercalls, UDP in frames of 64 B", "/packet", Target::None),
    row("udp64-notifications", "", "notifications, UDP in frames of 64 B", "/packet", Target::None),
    row("tcp1-xen", "", "of its time, in Xen, TCP, one stream", "%", Target::None),
    row("tcp1-exits", "", "exits, TCP, one stream", "/packet", Target::None),
    row("tcp1-hypercalls", "", "hypercalls, TCP, one stream", "/packet", Target::None),
    row("tcp1-notifications", "", "notifications, TCP, one stream", "/packet", Target::None),
    row("vif", "entry to vif", "kernel entry to first vif in InitWait", "s", Target::AtMostTimes(0.1, 0.02)),
    row("entry", "create to entry", "`xl create` to kernel entry", "s", Target::None),
    row("memory", "", "memory that suffices", "MiB", Target::AtMost(16.0, 12.0)),
    row("device-model", "", "device model's resident memory in dom0", "MiB", Target::None),
    row("image", "", "image", "KiB", Target::AtMost(1024.0, 512.0)),
];

const fn row(
    key: &'static str,
    short: &'static str,
    name: &'static str,
    unit: &'static str,
    target: Target,
) -> Row {
    Row { key, short, name, unit, target }
}

/// Takes a figure under a key.
pub(super) type Take<'a> = &'a mut dyn FnMut(&str, f64);

/// Two guests with a driver domain, all started.
pub(super) struct Bench<'a> {
    pub(super) world: &'a World,
    pub(super) accounting: &'a Accounting,
    pub(super) a: Peer,
    pub(super) b: Peer,
    domain: u16,
}

impl Bench<'_> {
    pub(super) fn new<'a>(
        world: &'a World,
        accounting: &'a Accounting,
        a: Peer,
        b: Peer,
    ) -> Result<Bench<'a>> {
        let domain = world.domain_id(DRIVER_DOMAIN)?;
        Ok(Bench { world, accounting, a, b, domain })
    }

    /// All that is measured while packets pass.
    pub(super) fn traffic(&self, take: Take) -> Result<()> {
        let server = serve(&self.b.agent)?;
        for (key, streams) in [("tcp1", 1), ("tcp8", 8)] {
            let between = || bulk(&self.a.agent, "send", self.b.ip, SERVER_PORT, streams, TRAFFIC);
            self.tcp(key, take, between)?;
        }
        for (key, way) in [("out", "send"), ("in", "receive")] {
            wire(key, take, |take| self.tcp(key, take, || to_wire(&self.a.agent, way)))?;
        }
        for (key, frame) in [("udp64", SHORTEST), ("udp1400", LONG)] {
            let (flood, cpu, time) = self.charged(|| self.flood(frame, TRAFFIC))?;
            take(key, flood.per_second());
            take(&format!("{key}-cpu"), cpu * 1e6 / flood.packets as f64);
            // The receiver makes sure that nothing more comes, and nobody is busy then.
            take(&format!("{key}-busy"), busy_percent(cpu, time.saturating_sub(SILENCE)));
        }
        let (trips, cpu, _) = self.charged(|| self.round_trips())?;
        take("rr", trips.count as f64 / trips.time.as_secs_f64());
        take("rr-median", trips.median.as_secs_f64() * 1e6);
        take("rr-p99", trips.p99.as_secs_f64() * 1e6);
        take("rr-cpu", cpu * 1e6 / trips.count as f64);

        self.trace("udp64", take, || self.flood(SHORTEST, TRACED_TRAFFIC))?;
        self.trace("tcp1", take, || {
            bulk(&self.a.agent, "send", self.b.ip, SERVER_PORT, 1, TRACED_TRAFFIC)
        })?;
        drop(server);
        Ok(())
    }

    fn tcp(
        &self,
        key: &str,
        take: Take,
        transfer: impl FnOnce() -> Result<Transferred>,
    ) -> Result<()> {
        let (moved, cpu, time) = self.charged(transfer)?;
        take(key, moved.mbit_per_second());
        take(&format!("{key}-cpu"), cpu * f64::from(1 << 30) / moved.bytes as f64);
        take(&format!("{key}-busy"), busy_percent(cpu, time));
        Ok(())
    }

    /// What the driver domain's processor is charged for something, in seconds, and how
    /// long that took.
    fn charged<T>(&self, happens: impl FnOnce() -> Result<T>) -> Result<(T, f64, Duration)> {
        let before = self.accounting.cpu_seconds(self.domain)?;
        let start = Instant::now();
        let result = happens()?;
        let time = start.elapsed();
        Ok((result, self.accounting.cpu_seconds(self.domain)? - before, time))
    }

    /// Linux's packet generator at full speed, and what arrives of it.
    fn flood(&self, frame: usize, time: Duration) -> Result<Flood> {
        let count = format!("exec lab-agent flood-count {FLOOD_PORT} eth0");
        let mut receiver = self.b.agent.start(&count, LIMIT)?;
        receiver.wait_line("listening")?;
        let (ip, mac, seconds) = (self.b.ip, self.b.mac, time.as_secs());
        self.a.agent.output(
            &format!(
                "modprobe pktgen && cd /proc/net/pktgen\n\
                 echo rem_device_all > kpktgend_0 && echo add_device eth0 > kpktgend_0\n\
                 for setting in 'count 0' 'delay 0' 'pkt_size {frame}' 'dst {ip}' \
                     'dst_mac {mac}' 'udp_dst_min {FLOOD_PORT}' 'udp_dst_max {FLOOD_PORT}'; do\n\
                     echo \"$setting\" > eth0 || exit 1\n\
                 done\n\
                 timeout -s INT {seconds} sh -c 'echo start > pgctrl'"
            ),
            LIMIT,
        )?;
        last_line(receiver)?.parse()
    }

    fn round_trips(&self) -> Result<RoundTrips> {
        let serve = format!("exec lab-agent round-trip-serve {ROUND_TRIP_PORT}");
        let mut server = self.b.agent.start(&serve, LIMIT)?;
        server.wait_line("listening")?;
        let (ip, ms) = (self.b.ip, TRAFFIC.as_millis());
        let ask = format!("lab-agent round-trip {ip}:{ROUND_TRIP_PORT} {ms}");
        self.a.agent.run(&ask, LIMIT)?.parse()
    }

    /// Ways into Xen, for each packet that the guests received.
    fn trace<T>(&self, key: &str, take: Take, happens: impl FnOnce() -> Result<T>) -> Result<()> {
        let before = self.received()?;
        let (_, trace) = traced(self.world.dom0(), happens)?;
        let packets = (self.received()? - before) as f64;
        let mut per_packet = |what: &str, count: u64| {
            take(&format!("{key}-{what}"), count as f64 / packets);
        };
        per_packet("exits", trace.exits);
        per_packet("hypercalls", trace.hypercalls());
        per_packet("notifications", trace.notifications());
        per_packet("lost-records", trace.lost);
        details(&trace, &mut per_packet);
        let all = (trace.inside + trace.outside.values().sum::<u64>()) as f64;
        if trace.inside > 0 {
            take(&format!("{key}-xen"), 100.0 * (all - trace.inside as f64) / all);
        }
        for (why, cycles) in &trace.outside {
            take(&format!("{key}-xen-{why:x}"), 100.0 * *cycles as f64 / all);
        }
        Ok(())
    }

    /// Packets that both guests received until now.
    fn received(&self) -> Result<u64> {
        let mut sum = 0;
        for peer in [&self.a, &self.b] {
            let count = peer.agent.run("cat /sys/class/net/eth0/statistics/rx_packets", 20)?;
            sum += count.trim().parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// For whoever wants to know what the exits were; not shown in the report.
fn details(trace: &Trace, take: &mut impl FnMut(&str, u64)) {
    for (reason, count) in &trace.reasons {
        take(&format!("exit-{reason:x}"), *count);
    }
    for (number, count) in &trace.hypercalls {
        take(&format!("hypercall-{number}"), *count);
    }
}

fn busy_percent(cpu: f64, time: Duration) -> f64 {
    100.0 * cpu / time.as_secs_f64()
}

/// Serves transfers in a guest for as long as the result lives.
fn serve(agent: &Agent) -> Result<Running> {
    let command = format!("exec lab-agent transfer-serve 0.0.0.0:{SERVER_PORT}");
    let mut server = agent.start(&command, u32::MAX)?;
    server.wait_line("listening")?;
    Ok(server)
}

fn bulk(
    from: &Agent,
    way: &str,
    ip: Ipv4Addr,
    port: u16,
    streams: u32,
    time: Duration,
) -> Result<Transferred> {
    let ms = time.as_millis();
    from.run(&format!("lab-agent bulk-{way} {ip}:{port} {streams} {ms}"), LIMIT)?.parse()
}

/// TCP between a guest and the peer on the wire.
pub(super) fn to_wire(guest: &Agent, way: &str) -> Result<Transferred> {
    let (ip, port) = (*wire_peer::SERVER.ip(), wire_peer::SERVER.port());
    bulk(guest, way, ip, port, 1, TRAFFIC)
}

/// Beside what happens on the wire, how busy its peer was: the share of one of the host's
/// processors that this process took, whose main work then is the peer.
pub(super) fn wire(key: &str, take: Take, happens: impl FnOnce(Take) -> Result<()>) -> Result<()> {
    let cpu = || clock_gettime(ClockId::ProcessCPUTime);
    let (before, start) = (cpu(), Instant::now());
    happens(take)?;
    let (after, time) = (cpu(), start.elapsed());
    let seconds =
        (after.tv_sec - before.tv_sec) as f64 + (after.tv_nsec - before.tv_nsec) as f64 / 1e9;
    take(&format!("{key}-peer-busy"), busy_percent(seconds, time));
    Ok(())
}

/// What a command said last.
fn last_line(running: Running) -> Result<String> {
    let output = running.wait()?;
    let line = output.stdout.lines().next_back().map(str::to_owned);
    line.with_context(|| format!("it said nothing but {}", output.stderr))
}

/// Whether packets pass between guests and to the wire, briefly.
pub(super) fn suffices(a: &Peer, b: &Peer) -> Result<()> {
    let server = serve(&b.agent)?;
    let brief = Duration::from_secs(1);
    bulk(&a.agent, "send", b.ip, SERVER_PORT, 8, brief)?;
    let (ip, port) = (*wire_peer::SERVER.ip(), wire_peer::SERVER.port());
    for way in ["send", "receive"] {
        bulk(&a.agent, way, ip, port, 4, brief)?;
    }
    drop(server);
    Ok(())
}
