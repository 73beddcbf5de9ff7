//! Guests' pages on their way to the wire and to each other: mapped or copied, with
//! a guest that does not take what it gets, and with one that dies while the NIC has
//! its pages. Who still has what is counted by Xen as well as by Causeway.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::measure::{ping, transfer, transfer_between};
use super::streams::{InwardStream, OutwardStream, Stream};
use crate::client::Running;
use crate::config::{DRIVER_DOMAIN, GuestKind};
use crate::machine::NIC_ADDRESS;
use crate::observe::counters::Counters;
use crate::observe::snapshot::Snapshot;
use crate::wire_peer;
use crate::world::{Peer, World};

const MIB: u64 = 8;

/// How long what is on its way may take to come home.
const REST: Duration = Duration::from_secs(60);

/// A connected vif's rings: what Xen counts of a guest whose other pages are home.
const RINGS: usize = 2;

/// The three ways of `map=`: bulk TCP to the wire, intact, and nothing mapped once it
/// is over.
pub(super) fn map(world: &mut World) -> Result<String> {
    let mut figures = Vec::new();
    for mode in ["never", "auto", "always"] {
        world.causeway_with(&format!("map={mode}"))?;
        let a = world.peer("a", GuestKind::Pv)?;
        let rate = transfer(&a.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
        if mode == "auto" {
            every_size(&a)?;
        }
        let counters = at_rest(world, &[&a])?;
        let way = counters.line("to the wire").context("a line of the wire")?;
        let mapped = counters.get("to the wire", "mapped").context("packets mapped")?;
        let copied = |reason| counters.get("to the wire", reason).unwrap_or(0);
        // The device cuts them: none is longer (P-8).
        let packets = MIB * (1 << 20) / 65_535;
        let right = match mode {
            "never" => mapped == 0 && copied("copied never") >= packets,
            "auto" => mapped > 0 && copied("trial") > 0,
            // A NIC that is slow has no room for some of them.
            _ => mapped >= packets / 2 && copied("trial") + copied("cheaper") == 0,
        };
        if !right {
            bail!("map={mode}: {way}");
        }
        figures.push(format!("{mode} {rate:.0} Mbit/s ({way})"));
    }
    Ok(figures.join("; "))
}

/// Packets of all sizes for which copies are timed.
fn every_size(from: &Peer) -> Result<()> {
    for bytes in [300, 500, 900, 1400] {
        let command = format!("ping -A -q -c 40 -s {bytes} -W 5 {}", wire_peer::IP);
        from.agent.run(&command, 60)?;
    }
    Ok(())
}

/// Waits until no page is out. Then nothing is mapped, Xen counts no grant of these
/// guests' in use but their rings, and Causeway has taken every packet that they say
/// they sent. Returns the counters.
pub(super) fn at_rest(world: &World, guests: &[&Peer]) -> Result<Counters> {
    let until = Instant::now() + REST;
    loop {
        let counters = world.counters()?;
        let difference = difference(world, guests, &counters)?;
        if difference.is_empty() {
            return Ok(counters);
        }
        if Instant::now() > until {
            bail!("after {REST:?}: {}", difference.join(", "));
        }
    }
}

/// In what Causeway's counters, Xen's and the guests' differ.
fn difference(world: &World, guests: &[&Peer], counters: &Counters) -> Result<Vec<String>> {
    let mut difference = Vec::new();
    let mut expect = |what: String, expected: u64, found: Option<u64>| {
        if found != Some(expected) {
            difference.push(format!("{what}: {found:?} where it should be {expected}"));
        }
    };
    for name in ["out", "holds", "mapped", "quarantined", "in the records"] {
        expect(format!("pages {name}"), 0, counters.get("lent pages", name));
    }
    expect("leaked".into(), 0, counters.line("leaked").and_then(|count| count.parse().ok()));
    let snapshot = Snapshot::take(world.lab())?;
    let ours = world.domain_id(DRIVER_DOMAIN)?;
    for Peer { agent, .. } in guests {
        let (name, id) = (agent.name(), world.domain_id(agent.name())?);
        let grants = snapshot.grants(id, ours) as u64;
        expect(format!("{name}'s grants that Xen sees in use"), RINGS as u64, Some(grants));
        let sent = agent.run("cat /sys/class/net/eth0/statistics/tx_packets", 10)?;
        let taken = counters.get(&format!("vif{id}.0"), "tx");
        expect(format!("{name}'s packets"), sent.trim().parse()?, taken);
    }
    Ok(difference)
}

/// A guest is paused for a minute while others send to it, to each other and to the
/// wire. They do not notice; it loses its carrier and has it back.
pub(super) fn paused(world: &mut World) -> Result<String> {
    const PAUSE: Duration = Duration::from_secs(60);
    let (a, b) = world.pair()?;
    let c = world.peer("c", GuestKind::Pv)?;
    let (ours, id) = (world.domain_id(DRIVER_DOMAIN)?, world.domain_id("c")?);
    let carrier = format!("/local/domain/{ours}/backend/vif/{id}/0/carrier");
    let becomes = |value: u32, seconds| {
        let wait = format!("until [ $(xenstore-read {carrier}) = {value} ]; do sleep 0.2; done");
        world.dom0().run(&wait, seconds).with_context(|| format!("c's carrier becomes {value}"))
    };
    // It cannot answer who asks for its address.
    a.agent.run(&format!("arp -s {} {}", c.ip, c.mac), 10)?;
    let between = Stream::start(&a, &b)?;
    let outward = OutwardStream::start(&b)?;
    let inward = InwardStream::start(world.wire_peer(), &b)?;
    world.xl("pause c", 20)?;
    let paused = Instant::now();
    let flood = format!("exec ping -q -i 0.002 -s 1400 {}", c.ip);
    let flood = a.agent.start(&flood, 600)?;
    let mut transfers = 0;
    while paused.elapsed() < PAUSE {
        transfer_between(&a.agent, &b.agent, b.ip, MIB)?;
        transfer(&a.agent, "put", wire_peer::SERVER, MIB)?;
        transfers += 1;
    }
    becomes(0, 60)?;
    flood.kill()?;
    flood.wait()?;
    let streams = [
        between.end()?.undisturbed()?,
        outward.end(world.wire_peer())?.undisturbed()?,
        inward.end(world.wire_peer())?.undisturbed()?,
    ];
    // Nothing of a's is left in c's queue, although c is still paused.
    at_rest(world, &[&a, &b])?;
    let seconds = paused.elapsed().as_secs();
    world.xl("unpause c", 20)?;
    becomes(1, 60)?;
    a.agent.run(&format!("arp -d {}", c.ip), 10)?;
    let round_trip = ping(&a.agent, c.ip, 20)?;
    let [between, outward, inward] = streams;
    Ok(format!(
        "paused for {seconds} s, {transfers} times {MIB} MiB between others and to the wire, \
         beside it {between} between guests, {outward} out, {inward} in; \
         afterwards round trip {round_trip:.2} ms"
    ))
}

/// The NIC is kept from reading the pages it has, by what Xen does to a device after ten
/// faults of the IOMMU (NETBACK-SPEC H-13). While it stands still, Causeway and Xen agree
/// how many pages are mapped; then it is reset, they go home, and nothing is lost for good.
pub(super) fn mastering(world: &mut World) -> Result<String> {
    const ATTEMPTS: u32 = 20;
    world.causeway_with("map=always")?;
    let (a, transfer) = sender(world, "a")?;
    let mut agreed = 0;
    let mut times = 0;
    while agreed == 0 {
        if times == ATTEMPTS {
            bail!("Causeway and Xen do not agree in {ATTEMPTS} attempts");
        }
        times += 1;
        agreed = lose_mastering(world, |world| agreed_pages(world, "a"))?;
    }
    drop(transfer);
    let command = format!("exec lab-agent transfer-put {} {MIB}", wire_peer::SERVER);
    let transfer = a.agent.start(&command, 600)?;
    lose_mastering(world, |_| Ok(()))?;
    let transferred = transfer.wait()?;
    if !transferred.exit.success() {
        bail!("a transfer does not survive a reset of the NIC: {}", transferred.stderr);
    }
    times += 1;
    let counters = at_rest(world, &[&a])?;
    let noticed = counters.get("NIC", "bus mastering lost");
    if noticed != Some(times.into()) {
        bail!("taken away {times} times, and noticed: {noticed:?}");
    }
    Ok(format!(
        "taken away {times} times in mid-transfer, once with {agreed} pages mapped by Xen's count \
         and ours; all came home, and {MIB} MiB arrived intact"
    ))
}

/// Takes bus mastering away from the NIC, does something, and waits until Causeway has
/// noticed and the NIC is up again.
fn lose_mastering<T>(world: &World, meanwhile: impl FnOnce(&World) -> Result<T>) -> Result<T> {
    let lost = |counters: &Counters| counters.get("NIC", "bus mastering lost").unwrap_or(0);
    let before = lost(&world.counters()?);
    // The Command register with memory decoding and without interrupts of old.
    let config = format!("/sys/bus/pci/devices/0000:{NIC_ADDRESS}/config");
    let command = format!("printf '\\002\\004' | dd of={config} bs=1 seek=4 conv=notrunc");
    world.dom0().run(&command, 20)?;
    let found = meanwhile(world)?;
    let until = Instant::now() + REST;
    loop {
        let counters = world.counters()?;
        let is_up = counters.line("NIC").is_some_and(|line| line.starts_with("link 1000"));
        if is_up && lost(&counters) > before {
            return Ok(found);
        }
        if Instant::now() > until {
            bail!("after {REST:?} the NIC is not up again: {:?}", counters.line("NIC"));
        }
    }
}

/// How many pages of a guest's are mapped, if Causeway and Xen say the same; else 0, as
/// after the NIC's reset. Causeway stands still while Xen is asked, and goes on with what
/// it is asked.
fn agreed_pages(world: &World, guest: &str) -> Result<u64> {
    world.xl(&format!("pause {DRIVER_DOMAIN}"), 20)?;
    let snapshot = Snapshot::take(world.lab());
    let counters =
        world.counters_once(|| world.xl(&format!("unpause {DRIVER_DOMAIN}"), 20).map(drop))?;
    let mapped = counters.get("lent pages", "mapped").context("mapped")?;
    let (ours, id) = (world.domain_id(DRIVER_DOMAIN)?, world.domain_id(guest)?);
    let grants = snapshot?.grants(id, ours) as u64;
    Ok(if grants == mapped + RINGS as u64 { mapped } else { 0 })
}

/// A guest is destroyed while it sends to the wire from pages that are mapped for the
/// NIC, with Causeway running and with Causeway stopped in the middle of it.
pub(super) fn destroyed(world: &mut World) -> Result<String> {
    world.causeway_with("map=always")?;
    let b = world.peer("b", GuestKind::Pv)?;
    let (d, _transfer) = sender(world, "d")?;
    world.forget(d.agent.name());
    world.destroy("d")?;
    world.wait_gone("d ", 30)?;
    at_rest(world, &[&b])?;
    let pages = frozen(world)?;
    world.wait_gone("d ", 30)?;
    at_rest(world, &[&b])?;
    let rate = transfer(&b.agent, "put", wire_peer::SERVER, MIB)?.mbit_per_second();
    let counters = at_rest(world, &[&b])?;
    let maps = counters.get("lent pages", "maps").context("maps")?;
    Ok(format!(
        "in mid-transfer, and with {pages} pages mapped while Causeway stood still; no zombie, \
         {maps} maps all undone, another guest sends {rate:.0} Mbit/s"
    ))
}

/// A guest that sends to the wire, its pages being mapped for the NIC.
fn sender(world: &mut World, name: &str) -> Result<(Peer, Running)> {
    let maps = |world: &World| -> Result<u64> {
        world.counters()?.get("lent pages", "maps").context("maps")
    };
    let guest = world.peer(name, GuestKind::Pv)?;
    let before = maps(world)?;
    let command = format!("exec lab-agent transfer-put {} 4096", wire_peer::SERVER);
    let transfer = guest.agent.start(&command, 600)?;
    let until = Instant::now() + REST;
    while maps(world)? < before + 100 {
        if Instant::now() > until {
            bail!("nothing of what {name} sends is mapped");
        }
    }
    Ok((guest, transfer))
}

/// Destroys a guest some of whose pages are mapped while Causeway is paused. Xen keeps
/// what is left of the guest until Causeway goes on. Returns how many pages that were.
fn frozen(world: &mut World) -> Result<usize> {
    const ATTEMPTS: u32 = 50;
    let (d, _transfer) = sender(world, "d")?;
    let (ours, id) = (world.domain_id(DRIVER_DOMAIN)?, world.domain_id("d")?);
    let mut pages = 0;
    for _ in 0..ATTEMPTS {
        world.xl(&format!("pause {DRIVER_DOMAIN}"), 20)?;
        pages = Snapshot::take(world.lab())?.grants(id, ours).saturating_sub(RINGS);
        if pages > 0 {
            break;
        }
        world.xl(&format!("unpause {DRIVER_DOMAIN}"), 20)?;
    }
    if pages == 0 {
        bail!("in {ATTEMPTS} looks no page was mapped");
    }
    world.forget(d.agent.name());
    // The toolstack waits for a backend that does not answer, then goes on without it.
    world.destroy("d")?;
    let left = Snapshot::take(world.lab())?.grants(id, ours);
    if left < pages {
        bail!("{pages} pages were mapped; Xen gave up all but {left} while nobody unmapped any");
    }
    world.xl(&format!("unpause {DRIVER_DOMAIN}"), 20)?;
    Ok(pages)
}
