//! What is shown on real Xen, each thing by a name.

mod churn;
mod demo;
mod doors;
mod guests;
mod hostile;
mod lent;
mod life;
mod measure;
mod multicast;
mod offloads;
mod outside;
mod streams;
mod vcpus;
mod wire;

use std::time::Duration;

use anyhow::Result;

use crate::world::World;

pub use demo::DEMO;

/// One thing to be shown.
pub struct Scenario {
    /// How it is called on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Whether it runs when none is named.
    pub by_default: bool,
    /// How long it may take on a slow and busy machine, its boot included.
    pub limit: Duration,
    /// Whether it wants a boot that nothing else ran in, and leaves none behind.
    pub alone: bool,
    /// Shows it; returns its figures.
    pub run: fn(&mut World) -> Result<String>,
}

const USUAL_LIMIT: Duration = Duration::from_secs(900);
const LONG_LIMIT: Duration = Duration::from_secs(3600);

const fn scenario(
    name: &'static str,
    about: &'static str,
    run: fn(&mut World) -> Result<String>,
) -> Scenario {
    Scenario { name, about, by_default: true, limit: USUAL_LIMIT, alone: false, run }
}

/// The same with more time.
const fn long(scenario: Scenario) -> Scenario {
    Scenario { limit: LONG_LIMIT, ..scenario }
}

/// The same where there is time for it.
const fn for_soak(scenario: Scenario) -> Scenario {
    Scenario { by_default: false, ..long(scenario) }
}

/// All of them, in the order they run: those that need little first, those that
/// end domains last.
pub const ALL: &[Scenario] = &[
    scenario("pvh-door", "Causeway starts as a PVH kernel", doors::pvh),
    scenario("firmware-door", "Causeway starts as firmware and finds its NIC", doors::firmware),
    scenario("ping", "two guests reach each other", guests::ping),
    scenario("tcp", "TCP between two guests, each way", guests::tcp),
    scenario("udp", "UDP between two guests, each way", guests::udp),
    scenario("hash", "64 MiB between two guests arrive intact, each way", guests::hash),
    scenario("gso", "TCP segments are cut for the wire, and not between guests", offloads::gso),
    scenario("jumbo", "packets of 9000 bytes between guests and on the wire", offloads::jumbo),
    scenario("rate", "rate= limits what a guest sends", offloads::rate),
    scenario("queues", "frontends of four queues use all four", offloads::queues),
    scenario("pktgen", "every packet size in any number of fragments arrives", guests::pktgen),
    scenario("outside", "a guest reaches the outside through the NIC", outside::guest),
    scenario("wire", "garbage on the wire and a peer that stalls do no harm", wire::wire),
    scenario("dom0", "dom0 has its network through a vif", outside::dom0),
    scenario("internal", "an internal network leaks nothing", outside::internal),
    long(scenario("reattach", "vifs come and go under traffic, nothing is left", churn::reattach)),
    long(scenario("destroy", "guests die under traffic, nothing is left", churn::destroy)),
    scenario("save", "a guest is saved in mid-transfer, restored, and goes on", churn::save),
    long(scenario("hostile", "a guest that breaks all rules harms nobody else", hostile::hostile)),
    scenario("multicast", "a guest gets the groups that it asks for", multicast::multicast),
    scenario("paused", "a guest that is paused for a minute disturbs nobody", lent::paused),
    scenario("map", "guests' pages reach the wire mapped or copied", lent::map),
    scenario("mastering", "the NIC may not read memory any more, in mid-transfer", lent::mastering),
    scenario("destroyed", "a guest dies with pages at the NIC", lent::destroyed),
    scenario("vcpus", "two vCPUs share the guests", vcpus::vcpus),
    scenario("uplink", "extra= names the bridge that has the NIC", outside::uplink),
    scenario("early-guest", "a guest is created before Causeway is ready", life::early_guest),
    scenario("restart", "Causeway is replaced while guests run", life::restart),
    scenario("reboot", "xl reboot", life::reboot),
    scenario("shutdown", "xl shutdown", life::shutdown),
    scenario("panic", "a panic is told and crashes the domain", life::panic),
    Scenario {
        alone: true,
        ..scenario("pvh-guest", "a PVH guest reaches a PV guest", guests::pvh_guest)
    },
    for_soak(scenario("soak", "1 GiB between two guests arrives intact", guests::soak)),
    for_soak(scenario("reattach-often", "vifs come and go 200 times", churn::reattach_often)),
    for_soak(scenario("destroy-often", "guests die 40 times", churn::destroy_often)),
    for_soak(scenario("crowd", "as many guests as fit reach each other", churn::crowd)),
];
