//! Other vCPUs: a network each, every two of them linked. A bridge that ports of one of them
//! are on is on all of them, with a port to each of the others.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use kernel::link::{Bell, BridgeNumber, Link, LinkCounters, link};
use kernel::packet::MacAddress;
use kernel::switch::{
    BridgeName, JoinError, MAX_WAIT, PinError, Port, PortConfig, PortId, PortKind, QueueLimits,
    Vcpu, Vcpus, Versions,
};
use xen::{Hypervisor, Instant};

use super::{Behind, Lender, Network, PortName};
use crate::netback::VifId;
use crate::nic::Nic;

/// What may wait for another vCPU.
const QUEUE: QueueLimits = QueueLimits { packets: 512, bytes: 1 << 20, wait: MAX_WAIT };
/// Addresses learnt behind it: those of the wire, and of all guests that are bridges.
const ADDRESSES: u16 = 2048;

/// A network's place among those of all vCPUs.
#[derive(Debug)]
pub(super) struct Station {
    vcpu: Vcpu,
    bell: Arc<Bell>,
    /// That of the vCPU with the control plane.
    control: Arc<Bell>,
    /// Whether packets of the others' may be left.
    ready: bool,
    /// The addresses of other vCPUs' vifs, and whose they are.
    addresses: Vec<(PortId, MacAddress, VifId)>,
}

/// Our side of a link, with its port on each bridge.
#[derive(Debug)]
pub(super) struct LinkEnd {
    vcpu: Vcpu,
    link: Link,
    ports: Vec<(BridgeNumber, PortId)>,
}

impl LinkEnd {
    pub(super) const fn vcpu(&self) -> Vcpu {
        self.vcpu
    }

    pub(super) const fn port(&mut self, bridge: BridgeNumber) -> &mut dyn Port {
        self.link.port(bridge)
    }

    pub(super) fn complete(&mut self, pools: &mut kernel::Pools) {
        self.link.complete(pools);
    }

    fn on(&self, bridge: BridgeNumber) -> Option<PortId> {
        self.ports.iter().find(|(number, _)| *number == bridge).map(|(_, port)| *port)
    }
}

/// Two vCPUs cannot be linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkError;

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no records left for another vCPU's pages")
    }
}

impl<H: Hypervisor, N: Nic> Network<H, N> {
    /// Has the network be that of a vCPU among several, whose bell is `bell`; that of the one
    /// with the control plane is `control`.
    pub fn set_vcpu(&mut self, vcpu: Vcpu, bell: Arc<Bell>, control: Arc<Bell>) {
        let addresses = Vec::new();
        self.station = Some(Station { vcpu, bell, control, ready: false, addresses });
    }

    /// Links the networks of two vCPUs.
    ///
    /// # Errors
    /// Where one of them has no records left, or is not told which vCPU it is.
    pub fn link(&mut self, other: &mut Self) -> Result<(), LinkError> {
        let (Some(here), Some(there)) = (&self.station, &other.station) else {
            return Err(LinkError);
        };
        let bells = (here.bell.clone(), there.bell.clone());
        let vcpus = (here.vcpu, there.vcpu);
        let ends = link((&mut self.pools, bells.0), (&mut other.pools, bells.1));
        let (end, other_end) = ends.ok_or(LinkError)?;
        self.add_link(vcpus.1, end);
        other.add_link(vcpus.0, other_end);
        Ok(())
    }

    /// The vCPUs that this one is linked to, and what went between them.
    pub fn links(&self) -> impl Iterator<Item = (Vcpu, LinkCounters)> {
        self.endpoints.links.iter().map(|end| (end.vcpu, end.link.counters()))
    }

    fn add_link(&mut self, vcpu: Vcpu, link: Link) {
        let links = &mut self.endpoints.links;
        self.shards.insert(link.shard(), Lender::Link(links.len()));
        links.push(LinkEnd { vcpu, link, ports: Vec::new() });
    }

    /// Puts all links on a bridge.
    ///
    /// # Errors
    /// Where the bridge has no ports left, or there can be no more bridges.
    pub fn join_links(&mut self, name: &BridgeName, bridge: BridgeNumber) -> Result<(), JoinError> {
        for place in 0..self.endpoints.links.len() {
            let config = PortConfig {
                address: None,
                addresses: ADDRESSES,
                kind: PortKind::Link(self.endpoints.links[place].vcpu),
                floods: Vcpus::NONE,
                mtu: u16::MAX,
                tags: 0,
                segmentation: Versions::ALL,
                vlans: None,
                queue: QUEUE,
            };
            let port = match self.switches.join(name, config) {
                Ok(port) => port,
                Err(error) => {
                    self.leave_links(bridge);
                    return Err(error);
                }
            };
            self.endpoints.ports.insert(port, Behind::Link(place, bridge));
            self.endpoints.links[place].ports.push((bridge, port));
        }
        Ok(())
    }

    /// Takes all links off a bridge.
    pub fn leave_links(&mut self, bridge: BridgeNumber) {
        for end in &mut self.endpoints.links {
            for (_, port) in end.ports.extract_if(.., |(number, _)| *number == bridge) {
                self.switches.leave(port, &mut self.pools);
                self.endpoints.ports.remove(&port);
            }
        }
    }

    /// Takes note whether some vCPU's port of a bridge has VLANs configured.
    pub fn set_vlans(&mut self, bridge: BridgeNumber, has_vlans: bool) {
        let ports = self.endpoints.links.iter().filter_map(|end| end.on(bridge));
        ports.for_each(|port| self.switches.set_vlans(port, has_vlans));
    }

    /// Has an address on a bridge be that of another vCPU's vif, or ends that.
    ///
    /// # Errors
    /// Where the address is another vif's.
    pub fn set_owner(
        &mut self,
        (vcpu, bridge): (Vcpu, BridgeNumber),
        address: MacAddress,
        vif: Option<VifId>,
    ) -> Result<(), PinError> {
        let end = self.endpoints.links.iter().find(|end| end.vcpu == vcpu);
        let port = end.and_then(|end| end.on(bridge));
        let (Some(port), Some(station)) = (port, &mut self.station) else { return Ok(()) };
        match vif {
            Some(vif) => {
                self.switches.pin(port, address)?;
                station.addresses.push((port, address, vif));
            }
            None => {
                self.switches.unpin(port, address);
                station.addresses.retain(|known| (known.0, known.1) != (port, address));
            }
        }
        Ok(())
    }

    /// Whose an address is, on the bridge of the port `near`.
    pub(super) fn owner(&self, near: PortId, address: MacAddress) -> Option<PortName> {
        let port = self.switches.owner(near, address)?;
        let mut elsewhere = self.station.iter().flat_map(|station| &station.addresses);
        match elsewhere.find(|known| (known.0, known.1) == (port, address)) {
            Some((_, _, vif)) => Some(PortName::Vif(*vif)),
            None => Some(self.port_name(port)),
        }
    }

    /// Ends what other vCPUs sent on, and moves a batch from each. Says whether there may be
    /// more.
    pub(super) fn receive_from_links(&mut self, now: Instant) -> bool {
        let Some(station) = &mut self.station else { return false };
        if !station.bell.answer() && !station.ready {
            return false;
        }
        let mut more = false;
        for place in 0..self.endpoints.links.len() {
            let end = &mut self.endpoints.links[place];
            if end.link.collect(&mut self.pools) {
                end.ports.iter().for_each(|(_, port)| self.switches.wake(*port));
            }
            let Some(bridge) = end.link.receive(&mut self.batch, &mut self.pools, now) else {
                continue;
            };
            more = true;
            match end.on(bridge) {
                Some(port) => self.switches.forward(port, &mut self.batch, &mut self.pools, now),
                // The bridge has no port here any more.
                None => {
                    while let Some(packet) = self.batch.pop_front() {
                        self.pools.give(packet);
                    }
                }
            }
            self.flush(now);
        }
        self.flush(now);
        if let Some(station) = &mut self.station {
            station.ready = more;
        }
        more
    }

    /// Calls the vCPUs for which something was left, and with `news` the control plane.
    pub(super) fn call_others(&mut self, news: bool) {
        if let Some(Station { bell, control, .. }) = &self.station
            && news
        {
            bell.tell();
            control.ring(&self.hypervisor);
        }
        for end in &mut self.endpoints.links {
            end.link.call(&self.hypervisor);
        }
    }
}
