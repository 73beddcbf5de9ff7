//! A guest that gets multicast of the groups alone that it names.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use super::hostile::driverless;
use crate::agent::multicast::{COUNT, Command, Counted, READY};
use crate::client::Running;
use crate::config::GuestKind;
use crate::observe::wire::Mac;
use crate::world::{Peer, World};

const NAME: &str = "m";
const MAC: Mac = Mac([0x00, 0x16, 0x3E, 0, 5, 0]);

/// Where the sender has a route to: its groups.
const NETWORK: &str = "239.1.1.0/24";

/// Everybody on the guests' network.
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);

/// One guest sends to two groups and then to everybody, again and again. Another one, with
/// a frontend that can name groups, which Linux' does not, gets what it wants each time, and
/// Causeway counts what it does not get.
pub(super) fn multicast(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    let sender = world.peer("b", GuestKind::Pv)?;
    sender.agent.run(&format!("ip route add {NETWORK} dev eth0"), 10)?;
    let agent = driverless(world, NAME, MAC)?;
    world.allow_on_the_wire(MAC);
    let port = format!("xenbr0 vif{}.0", world.domain_id(NAME)?);
    let filtered = |world: &World| {
        Ok::<_, anyhow::Error>(world.counters()?.get(&port, "filtered").unwrap_or(0))
    };

    let mut member =
        agent.start(&format!("exec lab-agent multicast-member {}", sender.mac), 300)?;
    member.wait_line(READY)?;
    let mut figures = Vec::new();
    for (name, command, wanted) in [
        ("of no group", None, [0, 0]),
        ("of the first", Some(Command::Join), [COUNT, 0]),
        ("of none again", Some(Command::Leave), [0, 0]),
        ("without control", Some(Command::WantAll), [COUNT, COUNT]),
    ] {
        if let Some(command) = command {
            tell(&mut member, command)?;
        }
        let before = filtered(world)?;
        let counted = count(&sender, &mut member).context(name)?;
        let filtered = filtered(world)? - before;
        let kept = wanted.iter().map(|wanted| COUNT - wanted).sum::<u64>();
        // Others may speak to groups of their own.
        if counted != Counted(wanted) || filtered < kept || kept == 0 && filtered > 0 {
            bail!("a member {name} {counted}, {filtered} filtered; it should get {wanted:?}");
        }
        figures.push(format!("{name} {counted}, {filtered} filtered"));
    }
    member.close_stdin()?;
    let ended = member.wait()?;
    if !ended.exit.success() {
        bail!("{:?}: {}", ended.exit, ended.stderr);
    }
    sender.agent.run(&format!("ip route del {NETWORK} dev eth0"), 10)?;
    world.destroy(NAME)?;
    world.wait_gone(&format!("{NAME} "), 60)?;
    Ok(format!("{COUNT} datagrams to each of two groups; a member {}", figures.join("; ")))
}

fn tell(member: &mut Running, command: Command) -> Result<()> {
    member.write(format!("{}\n", command.line()).as_bytes())?;
    member.wait_line(READY).map(drop)
}

/// Has the sender send, and the member count what it gets of it.
fn count(sender: &Peer, member: &mut Running) -> Result<Counted> {
    tell(member, Command::Count)?;
    sender.agent.run(&format!("exec lab-agent multicast-send {EVERYBODY}"), 30)?;
    member.wait_line("counted")?.parse()
}
