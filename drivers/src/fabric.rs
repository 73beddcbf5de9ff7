//! The networks of all vCPUs as one: where a vif is served, and what the networks have to
//! know of each other.
//!
//! Each vCPU passes packets in a [`Network`] of its own. The first one has the NIC, and
//! speaks for all with XenStore; when it changes something in another's network, it locks
//! that, which its own vCPU does once a pass.
//!
//! A vif with several queues has them spread over the vCPUs, and a port on each of these, so
//! that what one such guest sends another goes from queue to queue on one vCPU. Where
//! something concerns all of its packets together, a limit, groups or a table for its
//! queues, it stays on one vCPU, as do vifs with one queue.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use kernel::link::{Bell, BridgeNumber};
use kernel::packet::MacAddress;
use kernel::switch::{BridgeName, JoinError, Vcpu, Vcpus};
use spin::mutex::TicketMutex;
use xen::{Hypervisor, Instant};

use crate::netback::data::Violation;
use crate::netback::{
    Carrier, ConnectRequest, Frontend, Options, Progress, Rate, Urgency, VifConfig, VifHost, VifId,
};
use crate::network::{LinkError, Network, Refusal};
use crate::nic::Nic;
use crate::turn::DataPlane;

/// The network of one vCPU, which that holds for a pass and others for a moment. Whoever
/// waits for it gets it next.
pub type Shared<H, N> = TicketMutex<Network<H, N>>;

/// The networks of all vCPUs, behind pointers `P` to what is [`Shared`]. The first is that of
/// the vCPU which has the fabric.
#[derive(Debug)]
pub struct Fabric<H, P> {
    hypervisor: H,
    networks: Vec<P>,
    bells: Vec<Arc<Bell>>,
    /// By their number.
    bridges: Vec<Option<Bridge>>,
    vifs: BTreeMap<VifId, Placed>,
}

/// A bridge that some port is on.
#[derive(Debug)]
struct Bridge {
    name: BridgeName,
    /// How many vifs, and the uplink.
    ports: usize,
    /// How many of them have VLANs configured.
    vlans: usize,
}

/// Where a vif is served.
#[derive(Debug)]
struct Placed {
    vcpus: Vcpus,
    bridge: BridgeNumber,
    address: MacAddress,
    has_vlans: bool,
    /// How its part on each vCPU is, and what was told of all.
    carriers: BTreeMap<Vcpu, Carrier<Violation>>,
    told: Carrier<Violation>,
}

impl Placed {
    /// How the vif is: broken by any part of it, up by any that is.
    fn carrier(&self) -> Carrier<Violation> {
        let all = || self.carriers.values();
        let broken = all().find(|carrier| matches!(carrier, Carrier::Broken(_)));
        let up = all().find(|carrier| **carrier == Carrier::Up);
        broken.or(up).or(all().next()).copied().unwrap_or(Carrier::Up)
    }
}

impl<H: Hypervisor, N: Nic, P: Deref<Target = Shared<H, N>>> Fabric<H, P> {
    /// Links the networks of all vCPUs, each with its bell; at most [`Vcpus::MOST`].
    /// `uplink` is the bridge that the first one's NIC is on. `share` puts a network where its
    /// vCPU finds it.
    ///
    /// # Errors
    /// Where two of them cannot be linked.
    pub fn new(
        hypervisor: H,
        mut networks: Vec<(Network<H, N>, Arc<Bell>)>,
        uplink: Option<&BridgeName>,
        share: impl Fn(Shared<H, N>) -> P,
    ) -> Result<Self, FabricError> {
        let bells: Vec<_> = networks.iter().map(|(_, bell)| bell.clone()).collect();
        for (vcpu, (network, bell)) in (0..).zip(&mut networks) {
            network.set_vcpu(vcpu, bell.clone(), bells[0].clone());
        }
        for one in 0..networks.len() {
            let (before, from) = networks.split_at_mut(one);
            for other in before {
                from[0].0.link(&mut other.0)?;
            }
        }
        let shared = |(network, _)| share(Shared::new(network));
        let networks = networks.into_iter().map(shared).collect();
        let vifs = BTreeMap::new();
        let mut fabric = Self { hypervisor, networks, bells, bridges: Vec::new(), vifs };
        if let Some(bridge) = uplink {
            fabric.enter(bridge, false)?;
        }
        Ok(fabric)
    }

    /// The networks, by the number of their vCPU.
    pub fn networks(&self) -> &[P] {
        &self.networks
    }

    /// Does something with a vCPU's network, and calls that vCPU to look.
    fn with<T>(&self, vcpu: Vcpu, work: impl FnOnce(&mut Network<H, N>) -> T) -> T {
        let vcpu = usize::from(vcpu);
        let done = work(&mut self.networks[vcpu].lock());
        if vcpu > 0 {
            self.bells[vcpu].ring(&self.hypervisor);
        }
        done
    }

    fn vcpus(&self) -> impl Iterator<Item = Vcpu> + use<H, N, P> {
        0..self.networks.len() as Vcpu
    }

    /// Adds a port to a bridge, which is then on all vCPUs.
    fn enter(&mut self, name: &BridgeName, has_vlans: bool) -> Result<BridgeNumber, JoinError> {
        let is = |bridge: &Option<Bridge>| bridge.as_ref().is_some_and(|known| known.name == *name);
        let number = match self.bridges.iter().position(is) {
            Some(number) => number,
            None => {
                let free = self.bridges.iter().position(Option::is_none);
                let number = free.unwrap_or(self.bridges.len());
                for vcpu in self.vcpus() {
                    let joined =
                        self.with(vcpu, |network| network.join_links(name, number as BridgeNumber));
                    if let Err(error) = joined {
                        self.vcpus().take(vcpu.into()).for_each(|vcpu| {
                            self.with(vcpu, |network| network.leave_links(number as BridgeNumber));
                        });
                        return Err(error);
                    }
                }
                if number == self.bridges.len() {
                    self.bridges.push(None);
                }
                self.bridges[number] = Some(Bridge { name: name.clone(), ports: 0, vlans: 0 });
                number
            }
        };
        if let Some(bridge) = &mut self.bridges[number] {
            bridge.ports += 1;
            bridge.vlans += usize::from(has_vlans);
            if has_vlans && bridge.vlans == 1 {
                self.set_vlans(number as BridgeNumber, true);
            }
        }
        Ok(number as BridgeNumber)
    }

    /// Removes a port from a bridge, and from all vCPUs the bridge with the last one.
    fn exit(&mut self, number: BridgeNumber, has_vlans: bool) {
        let Some(slot) = self.bridges.get_mut(usize::from(number)) else { return };
        let Some(bridge) = slot else { return };
        bridge.ports -= 1;
        bridge.vlans -= usize::from(has_vlans);
        let last_vlans = has_vlans && bridge.vlans == 0;
        if bridge.ports == 0 {
            *slot = None;
            for vcpu in self.vcpus() {
                self.with(vcpu, |network| network.leave_links(number));
            }
        } else if last_vlans {
            self.set_vlans(number, false);
        }
    }

    fn set_vlans(&self, bridge: BridgeNumber, has_vlans: bool) {
        for vcpu in self.vcpus() {
            self.with(vcpu, |network| network.set_vlans(bridge, has_vlans));
        }
    }

    /// Where a vif is to be served: where the fewest queues are, and with several of its own
    /// on as many vCPUs.
    fn place(&self, config: &VifConfig, frontend: &Frontend) -> Vcpus {
        let together = frontend.control.is_some()
            || frontend.options.multicast_control
            || config.rate.is_some();
        let parts = if together { 1 } else { frontend.queues.len() };
        let load =
            |vcpu: &Vcpu| self.vifs.values().filter(|placed| placed.vcpus.contains(*vcpu)).count();
        (0..parts).fold(Vcpus::NONE, |vcpus, _| {
            let left = self.vcpus().filter(|vcpu| !vcpus.contains(*vcpu));
            left.min_by_key(load).map_or(vcpus, |vcpu| vcpus.with(vcpu))
        })
    }

    /// Has the vCPUs on which a vif has no port know where its address is: on the first of
    /// those on which it has one.
    fn set_owner(&self, placed: &Placed, vif: Option<VifId>) -> Result<(), Refusal> {
        let Some(home) = placed.vcpus.iter().next() else { return Ok(()) };
        for vcpu in self.vcpus().filter(|vcpu| !placed.vcpus.contains(*vcpu)) {
            let place = (home, placed.bridge);
            self.with(vcpu, |network| network.set_owner(place, placed.address, vif))
                .map_err(|error| Refusal::Join(JoinError::Address(error)))?;
        }
        Ok(())
    }

    /// Connects a vif's part on each of its vCPUs.
    fn connect_parts(
        &self,
        request: &ConnectRequest,
        placed: &Placed,
        now: Instant,
    ) -> Result<(), Refusal> {
        let parts = placed.vcpus.iter().count();
        for (part, vcpu) in placed.vcpus.iter().enumerate() {
            let mut request = request.clone();
            let queues = request.frontend.queues.iter().cloned().skip(part).step_by(parts);
            request.frontend.queues = queues.collect();
            // The first part answers for the vCPUs that have none.
            let floods = if part == 0 { placed.vcpus.others() } else { Vcpus::NONE };
            self.with(vcpu, |network| network.connect_part(&request, floods, now))?;
        }
        Ok(())
    }

    fn undo(&mut self, vif: VifId, placed: &Placed, now: Instant) {
        for vcpu in placed.vcpus.iter() {
            // Forced, it finishes.
            let _ = self.with(vcpu, |network| network.disconnect(vif, Urgency::Forced, now));
        }
        self.exit(placed.bridge, placed.has_vlans);
    }
}

/// Why the networks of several vCPUs cannot work as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FabricError {
    /// Two of them cannot be linked.
    Link(LinkError),
    /// The uplink's bridge has no room for them.
    Join(JoinError),
}

impl From<LinkError> for FabricError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<JoinError> for FabricError {
    fn from(error: JoinError) -> Self {
        Self::Join(error)
    }
}

impl fmt::Display for FabricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
        }
    }
}

impl<H: Hypervisor, N: Nic, P: Deref<Target = Shared<H, N>>> VifHost for Fabric<H, P> {
    type Refusal = Refusal;
    type Fault = Violation;

    fn admit(&mut self, vif: VifId, config: &VifConfig) -> Result<(), Refusal> {
        self.with(0, |network| network.admit(vif, config))
    }

    fn connect(&mut self, request: &ConnectRequest, now: Instant) -> Result<(), Refusal> {
        let ConnectRequest { vif, config, frontend } = request;
        let name = config.bridge.parse::<BridgeName>().map_err(Refusal::Bridge)?;
        let has_vlans = config.vlans.is_some();
        let vcpus = self.place(config, frontend);
        let placed = Placed {
            vcpus,
            bridge: self.enter(&name, has_vlans).map_err(Refusal::Join)?,
            address: config.mac,
            has_vlans,
            carriers: vcpus.iter().map(|vcpu| (vcpu, Carrier::Up)).collect(),
            told: Carrier::Up,
        };
        // Its own ports first: where one of them gets the address, nobody else has it there,
        // and what others know to be there is this one.
        let connected = self.connect_parts(request, &placed, now).and_then(|()| {
            self.set_owner(&placed, Some(*vif)).inspect_err(|_| {
                // What is not there is not taken away.
                let _ = self.set_owner(&placed, None);
            })
        });
        if let Err(refusal) = connected {
            self.undo(*vif, &placed, now);
            return Err(refusal);
        }
        self.vifs.insert(*vif, placed);
        Ok(())
    }

    fn reconfigure(&mut self, vif: VifId, options: Options) {
        let Some(placed) = self.vifs.get(&vif) else { return };
        let spread = placed.vcpus.iter().count() > 1;
        // Groups named on one vCPU are not known on another: a vif that is spread gets all.
        let multicast_control = options.multicast_control && !spread;
        let options = Options { multicast_control, ..options };
        for vcpu in placed.vcpus.iter() {
            self.with(vcpu, |network| network.reconfigure(vif, options));
        }
    }

    fn limit(&mut self, vif: VifId, rate: Option<Rate>, now: Instant) {
        let Some(placed) = self.vifs.get(&vif) else { return };
        // Each of its parts may send an equal share.
        let parts = placed.vcpus.iter().count() as u64;
        let rate = rate.map(|rate| Rate { bytes: (rate.bytes / parts).max(1), ..rate });
        for vcpu in placed.vcpus.iter() {
            self.with(vcpu, |network| network.limit(vif, rate, now));
        }
    }

    fn disconnect(&mut self, vif: VifId, urgency: Urgency, now: Instant) -> Progress {
        let Some(placed) = self.vifs.get(&vif) else { return Progress::Finished };
        let mut pending = false;
        for vcpu in placed.vcpus.iter() {
            let progress = self.with(vcpu, |network| network.disconnect(vif, urgency, now));
            pending |= progress == Progress::Pending;
        }
        if pending {
            return Progress::Pending;
        }
        if let Some(placed) = self.vifs.remove(&vif) {
            // What is not there is not taken away.
            let _ = self.set_owner(&placed, None);
            self.exit(placed.bridge, placed.has_vlans);
        }
        Progress::Finished
    }

    fn next_carrier(&mut self) -> Option<(VifId, Carrier<Violation>)> {
        for vcpu in 0..self.networks.len() {
            while self.bells[vcpu].take_news()
                && let Some((vif, carrier)) = self.networks[vcpu].lock().next_carrier()
            {
                self.bells[vcpu].tell();
                let Some(placed) = self.vifs.get_mut(&vif) else { continue };
                placed.carriers.insert(vcpu as Vcpu, carrier);
                let all = placed.carrier();
                if core::mem::replace(&mut placed.told, all) != all {
                    return Some((vif, all));
                }
            }
        }
        None
    }
}

impl<H: Hypervisor, N: Nic, P: Deref<Target = Shared<H, N>>> DataPlane for Fabric<H, P> {
    /// Does one pass of the first vCPU's network; the others do their own.
    fn poll(&mut self, now: Instant) -> bool {
        let more = self.networks[0].lock().poll(now);
        more || self.bells.iter().any(|bell| bell.has_news())
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.networks[0].lock().next_deadline()
    }

    fn is_polled(&self) -> bool {
        self.networks[0].lock().is_polled()
    }
}
