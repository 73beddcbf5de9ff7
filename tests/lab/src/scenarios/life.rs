//! Causeway's own life: late, replaced, rebooted, shut down, crashed.

use anyhow::{Context, Result};

use super::measure::ping;
use crate::config::{DRIVER_DOMAIN, Door, GuestKind};
use crate::wire_peer;
use crate::world::{READY, World};

/// The toolstack waits for a backend for 10 s, so a guest may be created while the
/// driver domain is still starting.
pub(super) fn early_guest(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    world.clear()?;
    let console = world.lab().driver_domain_paused(Door::Firmware)?;
    let dom0 = world.dom0().clone();
    let unpause = dom0.start("sleep 4; xl unpause driver-domain", 30)?;
    world.adopt_driver_domain(console.clone());
    let a = world.peer("a", GuestKind::Pv)?;
    unpause.wait()?;
    console.wait(&["causeway", "ready"], READY)?;
    let round_trip = ping(&a.agent, wire_peer::IP, 5)?;
    Ok(format!("created 4 s before Causeway ran, round trip {round_trip:.2} ms"))
}

/// A destroyed driver domain takes its vifs with it; its successor has another
/// domain id, so the toolstack must attach the guests again.
pub(super) fn restart(world: &mut World) -> Result<String> {
    let (a, b) = world.pair()?;
    world.destroy(DRIVER_DOMAIN)?;
    world.wait_gone("driver-domain", 30)?;
    world.forget_driver_domain();
    world.driver_domain()?;
    for peer in [&a, &b] {
        world.unplug(peer)?;
        world.plug(peer)?;
    }
    let round_trip = ping(&a.agent, b.ip, 20)?;
    Ok(format!("detached and attached again, round trip {round_trip:.2} ms"))
}

pub(super) fn reboot(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    let console = world.driver_domain()?;
    let mark = console.len();
    let before = world.xl("domid driver-domain", 20)?;
    world.xl("reboot driver-domain", 30)?;
    console
        .wait_from(mark, READY, |line| line.contains("causeway") && line.contains("ready"))
        .context("after xl reboot")?;
    let after = world.xl("domid driver-domain", 20)?;
    world.clear()?;
    Ok(format!("domain {before} became {after}"))
}

pub(super) fn shutdown(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    world.pair()?;
    world.xl("shutdown -w driver-domain", 60)?;
    world.wait_gone("driver-domain", 30)?;
    world.forget_driver_domain();
    // The backends closed in order, so the frontends did too: state 6.
    let state = "xenstore-read /local/domain/$(xl domid a)/device/vif/0/state";
    let closed = format!("until [ \"$({state})\" = 6 ]; do sleep 0.1; done");
    world.dom0().run(&closed, 30).context("a's frontend closes")?;
    world.clear()?;
    Ok("gone, and the guests' vifs are closed".into())
}

/// The toolstack's way to ask for a crash.
pub(super) fn panic(world: &mut World) -> Result<String> {
    world.needs_causeway()?;
    world.clear()?;
    let console = world.driver_domain()?;
    world.xl("sysrq driver-domain c", 20)?;
    let line = console.wait(&["panic"], READY)?;
    // Of the flags in the fifth column, c is for crashed.
    let crashed = "until xl list driver-domain | awk 'END { exit $5 !~ /c/ }'; do sleep 0.1; done";
    world.dom0().run(crashed, 30).context("xl shows the crash")?;
    world.clear()?;
    Ok(format!("xl shows the crash; the console: {line}"))
}
