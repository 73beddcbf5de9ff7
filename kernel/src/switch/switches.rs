//! The switches of the domain, by the name that a vif's `bridge=` gives.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use xen::{Hypervisor, Instant};

use super::Switch;
use super::bridge::{PinError, Seed};
use super::counters::Counters;
use super::groups::Groups;
use super::port::{JoinError, PortConfig, PortId, Ports, Versions};
use super::slow::{Punted, SlowPath};
use crate::Pools;
use crate::packet::{Batch, MacAddress, flow};

/// A bridge's name: what Linux takes for an interface's, so that what works with
/// another backend works here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BridgeName(heapless::String<{ Self::MAX }>);

impl BridgeName {
    /// The most characters.
    pub const MAX: usize = 15;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no bridge's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// There is nothing in it.
    Empty,
    /// It has more than [`BridgeName::MAX`] bytes.
    TooLong,
    /// It has spaces, slashes, or characters that are not printable ASCII.
    Character,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a bridge's name is empty"),
            Self::TooLong => {
                write!(f, "a bridge's name has more than {} characters", BridgeName::MAX)
            }
            Self::Character => {
                f.write_str("a bridge's name has a space, a slash or no printable ASCII")
            }
        }
    }
}

impl FromStr for BridgeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
            return Err(BadName::Character);
        }
        text.try_into().map(Self).map_err(|_| BadName::TooLong)
    }
}

/// How large the domain's switches are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How many switches.
    pub switches: u16,
    /// How many ports each.
    pub ports: u16,
    /// How many addresses each knows, rounded up to a power of two. Twice as many
    /// as there should be leave hardly one out.
    pub addresses: usize,
}

/// All switches. One exists for as long as it has ports.
#[derive(Debug)]
pub struct Switches {
    /// Never shrinks: a switch without ports waits for its next name, so that what
    /// it allocated serves again and its ports' names stay used up.
    switches: Vec<(BridgeName, Switch)>,
    limits: Limits,
    seed: Seed,
    slow: SlowPath,
    strays: u64,
}

impl Switches {
    /// No switches yet. `seed` has to be what no peer can guess.
    pub fn new(limits: Limits, seed: Seed) -> Self {
        Self { switches: Vec::new(), limits, seed, slow: SlowPath::new(), strays: 0 }
    }

    /// Adds a port to the switch `name`, which is made if it is not there.
    /// Allocates.
    pub fn join(&mut self, name: &BridgeName, config: PortConfig) -> Result<PortId, JoinError> {
        let known = self.switches.iter().position(|(known, _)| known == name);
        let free = || self.switches.iter().position(|(_, switch)| switch.is_empty());
        let index = match known.or_else(free) {
            Some(index) => index,
            None => {
                let number = self.switches.len() as u16;
                if number >= self.limits.switches {
                    return Err(JoinError::Switches);
                }
                let switch = Switch::new(number, &self.limits, self.seed);
                self.switches.push((name.clone(), switch));
                usize::from(number)
            }
        };
        let (known, switch) = &mut self.switches[index];
        known.clone_from(name);
        switch.add(config)
    }

    /// Has an address belong to a port which leads to the port of another vCPU that has it
    /// as its own ([`PortConfig::address`]).
    ///
    /// # Errors
    /// Where it belongs to another port, or cannot be known.
    pub fn pin(&mut self, port: PortId, address: MacAddress) -> Result<(), PinError> {
        self.switch_mut(port).map_or(Ok(()), |switch| switch.pin(port, address))
    }

    /// Ends what [`pin`](Self::pin) did.
    pub fn unpin(&mut self, port: PortId, address: MacAddress) {
        if let Some(switch) = self.switch_mut(port) {
            switch.unpin(port, address);
        }
    }

    /// Removes a port: what waits for it goes back to `pools`, its addresses are
    /// forgotten. What it counted; `None` if there is no such port.
    pub fn leave(&mut self, port: PortId, pools: &mut Pools) -> Option<Counters> {
        self.switch_mut(port)?.remove(port, pools)
    }

    /// Empties `batch`, which came from the port `from`, into the queues of the
    /// ports it goes to. Sends nothing yet.
    pub fn forward(&mut self, from: PortId, batch: &mut Batch, pools: &mut Pools, now: Instant) {
        let switch = self.switches.get_mut(usize::from(from.switch)).map(|(_, switch)| switch);
        match switch.and_then(|switch| switch.index(from).map(|index| (switch, index))) {
            Some((switch, index)) => switch.forward(index, batch, pools, &mut self.slow, now),
            None => {
                while let Some(packet) = batch.pop_front() {
                    self.strays += 1;
                    pools.give(packet);
                }
            }
        }
    }

    /// How many packets came from ports that were not there any more.
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// Has all ports send that got something or were woken. Packets reach them as
    /// they take them; copies that this needs are made by one hypercall a switch, and
    /// then by one for the slow path.
    pub fn flush<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        now: Instant,
        ports: &mut impl Ports,
    ) {
        for (_, switch) in &mut self.switches {
            switch.flush(hypervisor, pools, now, ports);
        }
        self.slow.settle(hypervisor, pools);
    }

    /// What the tables left to somebody else, of all switches.
    pub const fn slow_path(&self) -> &SlowPath {
        &self.slow
    }

    /// The next packet of the slow path. Those since the last [`flush`](Self::flush)
    /// are not ready.
    pub fn next_punted(&mut self) -> Option<Punted> {
        self.slow.next()
    }

    /// The port that alone may send from an address, on the switch of the port `near`.
    pub fn owner(&self, near: PortId, address: MacAddress) -> Option<PortId> {
        let (_, switch) = self.switches.get(usize::from(near.switch))?;
        switch.bridge.owner(address).map(|index| switch.id(index))
    }

    /// Takes note that a port may be able to send again: the next
    /// [`flush`](Self::flush) asks it, if something waits for it.
    pub fn wake(&mut self, port: PortId) {
        if let Some(switch) = self.switch_mut(port) {
            switch.wake(port);
        }
    }

    /// Takes note whether what is behind a port takes packets at all. Where it does
    /// not, none waits for it: what does is dropped, and what comes is.
    pub fn set_carrier(&mut self, port: PortId, carrier: bool, pools: &mut Pools) {
        if let Some(switch) = self.switch_mut(port) {
            switch.set_carrier(port, carrier, pools);
        }
    }

    /// Takes note whether on another vCPU, where the port leads, some port of the switch has
    /// VLANs configured, so that all ports here have VLANs as well.
    pub fn set_vlans(&mut self, port: PortId, has_vlans: bool) {
        if let Some(switch) = self.switch_mut(port) {
            switch.set_vlans(port, has_vlans);
        }
    }

    /// Has a port get multicast of these groups alone, broadcast aside; `None` for all of
    /// it. Allocates where it got all of it before, and else not.
    pub fn set_filter(&mut self, port: PortId, groups: Option<&Groups>) {
        if let Some(switch) = self.switch_mut(port) {
            switch.set_filter(port, groups);
        }
    }

    /// Takes note of which TCP segments a port takes uncut from now on, as
    /// [`PortConfig::segmentation`] says it of the start. What waits for it stays as it is.
    pub fn set_segmentation(&mut self, port: PortId, segmentation: Versions) {
        if let Some(switch) = self.switch_mut(port) {
            switch.set_segmentation(port, segmentation);
        }
    }

    /// Ends the waiting that lasted for too long: packets that borrow pages are copied
    /// after [`MAX_WAIT`](super::MAX_WAIT), so that the pages go home; all are dropped
    /// when their queue's own time is over. The next [`flush`](Self::flush) asks the
    /// ports concerned. To be called once a pass: it looks at the queues only when
    /// something may be due, and makes all copies by one hypercall a switch.
    pub fn expire<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools, now: Instant) {
        for (_, switch) in &mut self.switches {
            switch.expire(hypervisor, pools, now);
        }
    }

    /// When [`expire`](Self::expire) has to be called next. Nothing may have
    /// expired by then, but nothing does before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.switches.iter().filter_map(|(_, switch)| switch.deadline).min()
    }

    /// What packets' flows are hashed with, to be spread over a port's lanes.
    pub const fn flow_seed(&self) -> flow::Seed {
        flow::Seed::new(self.seed)
    }

    /// The switches that have ports, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&BridgeName, &Switch)> {
        let in_use = self.switches.iter().filter(|(_, switch)| !switch.is_empty());
        in_use.map(|(name, switch)| (name, switch))
    }

    fn switch_mut(&mut self, port: PortId) -> Option<&mut Switch> {
        self.switches.get_mut(usize::from(port.switch)).map(|(_, switch)| switch)
    }
}
