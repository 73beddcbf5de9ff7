//! A guest whose frontend breaks the rules beside two honest ones that exchange data.
//! What becomes of these, of Causeway and of Xen's counts is what it may not change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use super::churn::SETTLE;
use super::guests::dropped;
use super::lent::at_rest;
use super::measure::transfer_between;
use super::streams::Stream;
use crate::agent::hostile::{Attack, ENDLESS, PLAYED, attacks};
use crate::client::{Agent, Running};
use crate::config::{DRIVER_DOMAIN, GuestKind};
use crate::observe::counters::Counters;
use crate::observe::snapshot::Snapshot;
use crate::observe::wire::Mac;
use crate::world::{Peer, World};

/// What is transferred at once.
const MIB: u64 = 8;

/// How often, before the attacks begin.
const CALM: usize = 3;

/// How long an attack may take.
const SECONDS: u32 = 120;

const NAME: &str = "h";
const MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 4, 0]);
/// Nobody has it; what is sent there comes to the attacker's vif.
const IP: &str = "10.0.2.140";

/// What Causeway may write to its log at once of each matter, and then in a second; of
/// the attacker's vif, and of what guests send.
const LINES_AT_ONCE: u64 = 8;
const LINES_A_SECOND: u64 = 1;
const MATTERS: u64 = 2;

pub(super) fn hostile(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    let console = world.driver_domain()?;
    let (a, b) = world.pair()?;
    world.allow_on_the_wire(MAC);
    let snapshot = Snapshot::take(world.lab())?;
    let before = Before::take(world, [&a, &b])?;

    let calm = (0..CALM).map(|_| rate(&a, &b)).collect::<Result<Vec<_>>>()?;
    println!("        undisturbed {}", rates(&calm));
    let attacker = Attacker::start(world, b.mac)?;
    let stream = Stream::start(&a, &b)?;
    let (mark, start) = (console.len(), Instant::now());
    let (mut lines, mut seconds) = (0, 0);
    let disturbed = beside(&a, &b, || {
        play_all(world, &attacker, &b)?;
        lines = console.since(mark).lines().count() as u64;
        seconds = start.elapsed().as_secs();
        Ok(())
    })?;
    let stream = stream.end()?;
    attacker.end(world)?;

    let bound = MATTERS * (LINES_AT_ONCE + (seconds + 1) * LINES_A_SECOND);
    if lines > bound {
        bail!("Causeway's console has {lines} lines more, which may be {bound}");
    }
    let counted = before.compare(world, [&a, &b])?;
    if stream.lost() > counted {
        bail!("{} datagrams are lost, of which {counted} are counted", stream.lost());
    }
    snapshot.wait_equal(world.lab(), SETTLE)?;
    Ok(format!(
        "{} attacks in {seconds} s; undisturbed {}, disturbed {}, all intact, ratio {:.2}; beside \
         it {stream}; {lines} lines on the console; Xen's counts as before",
        attacks().count(),
        rates(&calm),
        rates(&disturbed),
        mean(&disturbed) / mean(&calm)
    ))
}

/// Starts a guest whose kernel does not drive the vif that it is given: a program may.
pub(super) fn driverless(world: &World, name: &str, mac: Mac) -> Result<Agent> {
    let agent = world.lab().guest(name, GuestKind::Pv, &[])?;
    agent.run("rmmod xen-netfront && modprobe xen-gntalloc && modprobe xen-evtchn", 20)?;
    world.attach(name, mac, "xenbr0")?;
    Ok(agent)
}

/// The guest that breaks the rules.
struct Attacker {
    agent: Agent,
    /// Where Causeway tells its errors.
    errors: String,
    /// The address of another guest.
    victim: Mac,
}

impl Attacker {
    fn start(world: &World, victim: Mac) -> Result<Attacker> {
        let agent = driverless(world, NAME, MAC)?;
        let (ours, theirs) = (world.domain_id(DRIVER_DOMAIN)?, world.domain_id(NAME)?);
        let errors = format!("/local/domain/{ours}/error/backend/vif/{theirs}/0/error");
        Ok(Attacker { agent, errors, victim })
    }

    /// Begins an attack and waits until it had its outcome.
    fn begin(&self, attack: &str) -> Result<Running> {
        let command = format!("exec lab-agent hostile {attack} {}", self.victim);
        let mut attacking = self.agent.start(&command, SECONDS)?;
        attacking.wait_line(PLAYED)?;
        Ok(attacking)
    }

    /// Makes an attack that has the outcome it must have, and where that is an error, one
    /// that the toolstack sees. Afterwards the vif is closed; the next attack connects it
    /// again.
    fn play(&self, world: &World, attack: &Attack) -> Result<()> {
        let attacking = self.begin(attack.name)?;
        // What is told of it stays until the vif is connected again.
        attacking.close_stdin()?;
        if let Some(words) = attack.outcome.error() {
            let error = world.dom0().run(&format!("xenstore-read {}", self.errors), 20)?;
            if !error.contains(words) {
                bail!("the error is {error:?} where it should have {words:?}");
            }
        }
        let ended = attacking.wait()?;
        if !ended.exit.success() {
            bail!("{:?}: {}", ended.exit, ended.stderr);
        }
        Ok(())
    }

    /// The guest is destroyed while it floods its vif.
    fn end(self, world: &World) -> Result<()> {
        let _flood = self.begin(ENDLESS)?;
        world.destroy(NAME)?;
        world.wait_gone(&format!("{NAME} "), 60)
    }
}

/// One transfer's rate; its content is compared at both ends.
fn rate(a: &Peer, b: &Peer) -> Result<f64> {
    Ok(transfer_between(&a.agent, &b.agent, b.ip, MIB)?.mbit_per_second())
}

/// Transfers between the two for as long as `act` takes, and their rates.
fn beside(a: &Peer, b: &Peer, act: impl FnOnce() -> Result<()>) -> Result<Vec<f64>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let transfers = scope.spawn(|| {
            let mut rates = Vec::new();
            while !over.load(Ordering::Relaxed) {
                rates.push(rate(a, b).context("beside the attacks")?);
            }
            Ok(rates)
        });
        let acted = act();
        over.store(true, Ordering::Relaxed);
        let rates = transfers.join().map_err(|_| anyhow!("the transfers' thread"))?;
        acted.and(rates)
    })
}

/// Makes all attacks. Meanwhile the other guest sends to the attacker, who may have to
/// get packets for some of them.
fn play_all(world: &World, attacker: &Attacker, b: &Peer) -> Result<()> {
    b.agent.run(&format!("arp -s {IP} {MAC}"), 10)?;
    let pings = b.agent.start(&format!("exec ping -q -i 0.02 -s 1000 {IP}"), 3600)?;
    let start = Instant::now();
    for attack in attacks() {
        attacker.play(world, attack).with_context(|| attack.name)?;
        println!(
            "        {:6.1} s {} {:?}",
            start.elapsed().as_secs_f32(),
            attack.name,
            attack.outcome
        );
    }
    pings.kill()?;
    pings.wait()?;
    b.agent.run(&format!("arp -d {IP}"), 10).map(drop)
}

/// What Causeway had before, with both guests at rest.
struct Before {
    dropped: u64,
    free: Vec<Option<u64>>,
}

impl Before {
    fn take(world: &World, guests: [&Peer; 2]) -> Result<Before> {
        let counters = at_rest(world, &guests)?;
        Ok(Before { dropped: all_dropped(world, guests)?, free: free(&counters) })
    }

    /// Fails unless Causeway has again all that it had, and has answered for every page.
    /// Returns how many packets for the guests, or of theirs, it says that it has dropped.
    fn compare(&self, world: &World, guests: [&Peer; 2]) -> Result<u64> {
        let counters = at_rest(world, &guests)?;
        let pages = |name| counters.get("lent pages", name).context(name);
        let (claimed, responded) = (pages("claimed")?, pages("responded")?);
        if claimed != responded + pages("abandoned")? {
            bail!("not all pages have come home: {:?}", counters.line("lent pages"));
        }
        let free = free(&counters);
        if free != self.free {
            bail!("of {:?} there is left {free:?}", self.free);
        }
        Ok(all_dropped(world, guests)? - self.dropped)
    }
}

/// How many packets and frames of the window there are to be had.
fn free(counters: &Counters) -> Vec<Option<u64>> {
    ["packets", "frames"].map(|name| counters.get("free", name)).into()
}

fn all_dropped(world: &World, guests: [&Peer; 2]) -> Result<u64> {
    let counts = guests.map(|guest| dropped(world, guest));
    counts.into_iter().map(|count| Ok(count?.unwrap_or(0))).sum()
}

fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len() as f64
}

fn rates(rates: &[f64]) -> String {
    format!("{:.0} Mbit/s ({} times {MIB} MiB)", mean(rates), rates.len())
}
