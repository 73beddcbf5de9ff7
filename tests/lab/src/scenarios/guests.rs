//! Traffic between guests.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};

use super::measure::{iperf, ping as ping_between, transfer_between};
use crate::agent::pktgen::Report;
use crate::config::GuestKind;
use crate::world::{Backend, Peer, World};

const PINGS: u32 = 50;

/// What the slowest of machines passes between two guests.
const UDP_RATE: &str = "-u -b 10M -l 1400";

/// A tenth may get lost in the queues of guests that get no time to run.
const UDP_LOSS_PERCENT: f64 = 10.0;

/// A packet generator's frames, from the shortest to the longest.
const FRAME_SIZES: RangeInclusive<u32> = 60..=1514;

/// Up to one less than the slots that a packet may take.
const FRAGMENTS: RangeInclusive<u32> = 0..=17;

pub(super) fn ping(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let there = ping_between(&a.agent, b.ip, PINGS)?;
    let back = ping_between(&b.agent, a.ip, PINGS)?;
    Ok(format!("round trip {there:.2} ms from a, {back:.2} ms from b"))
}

pub(super) fn tcp(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let there = iperf(&a.agent, &b.agent, b.ip, "")?.mbit_per_second;
    let back = iperf(&b.agent, &a.agent, a.ip, "")?.mbit_per_second;
    Ok(format!("{there:.0} Mbit/s to b, {back:.0} Mbit/s to a"))
}

pub(super) fn udp(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let mut figures = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let found = iperf(&from.agent, &to.agent, to.ip, UDP_RATE)?;
        let lost = found.lost.unwrap_or(100.0);
        let figure = format!("{:.1} Mbit/s, {lost} % lost", found.mbit_per_second);
        if lost > UDP_LOSS_PERCENT {
            bail!("to {}: {figure}", to.agent.name());
        }
        figures.push(format!("to {} {figure}", to.agent.name()));
    }
    Ok(figures.join(", "))
}

pub(super) fn hash(world: &mut World) -> Result<String> {
    both_ways(world, 64)
}

pub(super) fn soak(world: &mut World) -> Result<String> {
    both_ways(world, 1024)
}

fn both_ways(world: &mut World, mib: u64) -> Result<String> {
    let (a, b) = world.pair()?;
    let there = transfer_between(&a.agent, &b.agent, b.ip, mib)?.mbit_per_second();
    let back = transfer_between(&b.agent, &a.agent, a.ip, mib)?.mbit_per_second();
    Ok(format!("{mib} MiB each way, {there:.0} Mbit/s to b, {back:.0} Mbit/s to a"))
}

pub(super) fn pktgen(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    let (mut sent, mut arrived) = (0, 0);
    let before = dropped(world, &b)?;
    for fragments in FRAGMENTS {
        // With a checksum to be made, and with none.
        let flags = if fragments % 2 == 0 { "UDPCSUM" } else { "!UDPCSUM" };
        let (count, report) = sweep(&a, &b, fragments, flags)?;
        sent += count;
        arrived += report.intact;
    }
    let lost = sent - arrived;
    let counted = dropped(world, &b)?.zip(before).map(|(after, before)| after - before);
    if counted.is_some_and(|counted| lost > counted) {
        bail!("{lost} packets are lost, of which {counted:?} are counted");
    }
    Ok(format!(
        "every size from 60 to 1514 bytes in 1 to 18 pieces; {arrived} of {sent} packets arrived, \
         none damaged"
    ))
}

/// How many packets for a guest are known to be dropped, by Causeway or by the guest where a
/// program of it did not get on; `None` where Linux is in Causeway's place.
pub(super) fn dropped(world: &World, to: &Peer) -> Result<Option<u64>> {
    if matches!(world.backend(), Backend::Linux(_)) {
        return Ok(None);
    }
    let counters = world.counters()?;
    let port = format!("xenbr0 vif{}.0", world.domain_id(to.agent.name())?);
    let reasons = ["no-carrier", "queue-full", "exhausted", "undelivered", "expired"];
    let ours: u64 = reasons.iter().map(|reason| counters.get(&port, reason).unwrap_or(0)).sum();
    let theirs = without_room(&to.agent.run("cat /proc/net/snmp", 20)?)
        .context("the guest does not say what its sockets had no room for")?;
    Ok(Some(ours + theirs))
}

/// How many datagrams found their socket full, or all sockets' memory used up, of what
/// /proc/net/snmp says: a line of names, and one of values.
fn without_room(snmp: &str) -> Option<u64> {
    let mut udp = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (udp.next()?, udp.next()?);
    let counts = || names.split_whitespace().zip(values.split_whitespace());
    let count = |of| counts().find(|(name, _)| *name == of)?.1.parse::<u64>().ok();
    Some(count("RcvbufErrors")? + count("MemErrors")?)
}

/// Packets of all sizes, in a number of fragments behind the headers. Queues are
/// bounded, so a burst may lose some while the receiver gets no time to run; each
/// size must arrive from one of a few bursts, and nothing but what was sent.
fn sweep(from: &Peer, to: &Peer, fragments: u32, flags: &str) -> Result<(u64, Report)> {
    const PORT: u16 = 9;
    const BURSTS: u64 = 8;
    const GAP_NS: u32 = 300_000;
    // Ethernet, IP, UDP and the generator's own header are never fragmented; each
    // fragment has at least one byte.
    let shortest = (*FRAME_SIZES.start()).max(14 + 20 + 8 + 16 + fragments);
    let longest = *FRAME_SIZES.end();
    let sizes = u64::from(longest - shortest + 1);
    let command = format!("exec lab-agent pktgen-receive {PORT} {shortest} {longest} {sizes}");
    let mut receiver = to.agent.start(&command, 600)?;
    receiver.wait_line("listening")?;
    let (ip, mac) = (&to.ip, to.mac);
    let script = format!(
        "modprobe pktgen && cd /proc/net/pktgen\n\
         echo rem_device_all > kpktgend_0 && echo add_device eth0 > kpktgend_0\n\
         for setting in 'count {sizes}' 'delay {GAP_NS}' 'frags {fragments}' 'flag {flags}' \
             'min_pkt_size {shortest}' 'max_pkt_size {longest}' \
             'dst {ip}' 'dst_mac {mac}' 'udp_dst_min {PORT}' 'udp_dst_max {PORT}'; do\n\
             echo \"$setting\" > eth0 || exit 1\n\
         done\n\
         echo start > pgctrl && cat eth0"
    );
    let mut bursts = 0;
    loop {
        let generator = from.agent.run(&script, 60)?;
        bursts += 1;
        let report: Report = receiver.wait_line("intact")?.parse()?;
        if report.damaged == 0 && report.sizes == sizes {
            return Ok((bursts * sizes, report));
        }
        if report.damaged > 0 || bursts == BURSTS {
            bail!(
                "{fragments} fragments, {flags}, {bursts} times: {report} of {sizes}\n{generator}"
            );
        }
    }
}

pub(super) fn pvh_guest(world: &mut World) -> Result<String> {
    let a = world.peer("a", GuestKind::Pv)?;
    let p = world.peer("p", GuestKind::Pvh)?;
    let round_trip = ping_between(&p.agent, a.ip, 10)?;
    let there = transfer_between(&p.agent, &a.agent, a.ip, 16)?.mbit_per_second();
    let back = transfer_between(&a.agent, &p.agent, p.ip, 16)?.mbit_per_second();
    Ok(format!("round trip {round_trip:.2} ms, 16 MiB each way, {there:.0} and {back:.0} Mbit/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_without_room_are_counted() {
        let snmp = "Tcp: InErrs\nTcp: 7\n\
                    Udp: InDatagrams RcvbufErrors InCsumErrors MemErrors\nUdp: 9 5 3 4\n\
                    UdpLite: InDatagrams RcvbufErrors MemErrors\nUdpLite: 1 2 6\n";
        assert_eq!(without_room(snmp), Some(9));
        assert_eq!(without_room("Udp: InDatagrams RcvbufErrors\nUdp: 9 5\n"), None);
    }
}
