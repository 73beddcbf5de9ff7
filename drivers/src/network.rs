//! The data plane: vifs, the NIC, and the switches between them.
//!
//! A pass takes one batch from one source, hands it to the switch, has the
//! destinations send what they got, and answers the requests whose pages came
//! home. Nothing here waits, and every pass is bounded.

mod links;
mod slow_path;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use kernel::Pools;
use kernel::defect::{self, Defect};
use kernel::link::BridgeNumber;
use kernel::memory;
use kernel::packet::{Batch, aggregate};
use kernel::pages::ShardId;
use kernel::switch::{
    BadName, BridgeName, JoinError, MAX_WAIT, Port, PortConfig, PortId, PortKind, Ports,
    QueueLimits, Switches, Vcpu, Vcpus,
};
use xen::event::EventPort;
use xen::{Hypervisor, Instant};

use crate::log_budget::LogBudget;
use crate::netback::data::{
    AttachError, Credit, QueueStatus, Signal, Vif, VifCounters, Violation, is_short, patience,
};
use crate::netback::{
    Carrier, ConnectRequest, Options, Progress, Rate, Urgency, VifConfig, VifHost, VifId,
};
use crate::nic::{self, Cause, Link, Nic, Status};
use crate::turn::DataPlane;
use links::{LinkEnd, Station};
use slow_path::{Notices, SlowPath};

pub use links::LinkError;

/// Bytes of heap that have to be there for another vif. It and a bridge of its own take
/// less than half, be it in one piece or in all; what is left is for what the control plane
/// reads of guests meanwhile.
pub const HEAP_FOR_A_VIF: usize = 512 << 10;
/// The same, for each of a vif's queues but the first.
pub const HEAP_FOR_A_QUEUE: usize = 64 << 10;
/// The largest IP packet where nothing else is configured.
const MTU: u16 = 1500;
/// How many VLAN tags a guest's packet may have beside: a service and a customer tag.
const GUEST_TAGS: usize = 2;
/// One on the wire, by [`nic::LONGEST`](crate::nic::LONGEST).
const UPLINK_TAGS: usize = 1;
/// What may wait for a guest that is short of receive slots: twice as many packets
/// as its ring takes at once, and as many bytes as another's ring holds.
const GUEST_PACKETS: usize = 512;
const GUEST_BYTES: usize = 1 << 20;
/// What may wait at least for each queue of a guest's: what another's ring holds.
const QUEUE_PACKETS: usize = 256;
const QUEUE_BYTES: usize = 1 << 20;
/// What may wait for the NIC.
const UPLINK_QUEUE: QueueLimits = QueueLimits { packets: 512, bytes: 1 << 20, wait: MAX_WAIT };
/// Addresses learnt behind a guest's port beside its own: a guest may be a bridge
/// for guests of its own.
const GUEST_ADDRESSES: u16 = 64;
/// Addresses learnt behind the uplink.
const UPLINK_ADDRESSES: u16 = 1024;

/// Vifs, the NIC, the switches, and all that packets are made of.
#[derive(Debug)]
pub struct Network<H: Hypervisor, N: Nic> {
    hypervisor: H,
    pools: Pools,
    switches: Switches,
    endpoints: Endpoints<H, N>,
    /// By the vif's name, its place.
    names: BTreeMap<VifId, usize>,
    /// By the event channel's port, the vif's place and what the event is about.
    events: BTreeMap<EventPort, (usize, Signal)>,
    /// By the lent pages' shard, who lends them.
    shards: BTreeMap<ShardId, Lender>,
    /// What vifs had left to send that were limited and are not connected now.
    credits: BTreeMap<VifId, Credit>,
    /// Places of vifs that may have requests, each at most once.
    ready: VecDeque<usize>,
    /// No vif wants its receive ring looked at before this.
    look_at: Option<Instant>,
    /// The control plane may not have been told of some vif's carrier.
    untold: bool,
    /// Something happened that the control plane waits for: a carrier changed, or the
    /// last page of a vif that is being taken apart came home.
    news: bool,
    batch: Batch,
    slow_path: SlowPath,
    /// Where the domain has other vCPUs, which this one is.
    station: Option<Station>,
}

/// Who lends the pages of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lender {
    /// The vif at a place, by one of its queues.
    Vif(usize, usize),
    /// Another vCPU, by the link at a place.
    Link(usize),
}

/// What is behind the switches' ports.
#[derive(Debug)]
struct Endpoints<H: Hypervisor, N: Nic> {
    vifs: Vec<Option<Attached<H>>>,
    uplink: Option<Uplink<N>>,
    links: Vec<LinkEnd>,
    ports: BTreeMap<PortId, Behind>,
    /// Places of vifs that were asked to send since this was last looked at.
    asked: Vec<usize>,
}

/// What is behind a port that is not the uplink's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    /// The vif at a place.
    Vif(usize),
    /// A bridge of the vCPU that the link at a place leads to.
    Link(usize, BridgeNumber),
}

#[derive(Debug)]
struct Attached<H: Hypervisor> {
    id: VifId,
    vif: Vif<H>,
    /// The port; gone once the vif is being taken apart.
    port: Option<PortId>,
    /// Whether it stands in the list of those that may have requests.
    ready: bool,
    /// Its carrier, as the switch knows it.
    carrier: Carrier<Violation>,
    /// Whether the control plane does not know it yet.
    untold: bool,
    /// What of its packets has been told.
    notices: Notices,
}

#[derive(Debug)]
struct Uplink<N> {
    nic: N,
    port: PortId,
    link: Link,
    /// Whether it sends, as the switch knows.
    carrier: bool,
    /// Whether the device interrupted, or must be polled.
    ready: bool,
    status: Status,
    /// How many packets from the wire went on as a part of another.
    joined: u64,
    notices: Notices,
    log: LogBudget,
}

impl<H: Hypervisor, N: Nic> Ports for Endpoints<H, N> {
    fn port(&mut self, id: PortId) -> Option<&mut dyn Port> {
        if let Some(uplink) = self.uplink.as_mut().filter(|uplink| uplink.port == id) {
            return Some(&mut uplink.nic);
        }
        let place = match *self.ports.get(&id)? {
            Behind::Vif(place) => place,
            Behind::Link(link, bridge) => return Some(self.links.get_mut(link)?.port(bridge)),
        };
        if self.asked.last() != Some(&place) {
            self.asked.push(place);
        }
        let attached = self.vifs.get_mut(place)?.as_mut()?;
        Some(&mut attached.vif)
    }
}

/// What is behind a switch's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortName {
    /// A guest.
    Vif(VifId),
    /// The wire.
    Uplink,
    /// Another vCPU.
    Vcpu(Vcpu),
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vif(id) => id.fmt(f),
            Self::Uplink => f.write_str("uplink"),
            Self::Vcpu(number) => write!(f, "vcpu{number}"),
        }
    }
}

/// Why a vif cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its bridge's name.
    Bridge(BadName),
    /// Its place on the bridge.
    Join(JoinError),
    /// Its rings or its event channel.
    Attach(AttachError),
    /// The domain's heap is used up.
    Memory,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(error) => write!(f, "bridge: {error}"),
            Self::Join(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Memory => f.write_str("no memory left for another vif: set memory= higher"),
        }
    }
}

impl<H: Hypervisor, N: Nic> Network<H, N> {
    /// A network without vifs and without a NIC.
    pub fn new(hypervisor: H, pools: Pools, switches: Switches) -> Self {
        Self {
            hypervisor,
            pools,
            switches,
            endpoints: Endpoints {
                vifs: Vec::new(),
                uplink: None,
                links: Vec::new(),
                ports: BTreeMap::new(),
                asked: Vec::new(),
            },
            names: BTreeMap::new(),
            events: BTreeMap::new(),
            shards: BTreeMap::new(),
            credits: BTreeMap::new(),
            ready: VecDeque::new(),
            look_at: None,
            untold: false,
            news: false,
            batch: Batch::new(),
            slow_path: SlowPath::default(),
            station: None,
        }
    }

    /// Makes `nic` the uplink of the switch `bridge` and starts it.
    ///
    /// # Errors
    /// Where the switch has no port left.
    pub fn set_uplink(
        &mut self,
        mut nic: N,
        bridge: &BridgeName,
        now: Instant,
    ) -> Result<(), JoinError> {
        let config = PortConfig {
            address: None,
            addresses: UPLINK_ADDRESSES,
            kind: PortKind::Uplink,
            floods: Vcpus::ALL,
            mtu: nic::MTU,
            tags: UPLINK_TAGS,
            vlans: None,
            segmentation: nic.segmentation(),
            queue: UPLINK_QUEUE,
        };
        let port = self.switches.join(bridge, config)?;
        nic.start(now);
        self.switches.set_carrier(port, false, &mut self.pools);
        self.endpoints.uplink = Some(Uplink {
            nic,
            port,
            link: Link::Down,
            carrier: false,
            ready: true,
            status: Status::Changing,
            joined: 0,
            notices: Notices::default(),
            log: LogBudget::default(),
        });
        Ok(())
    }

    /// The NIC.
    pub fn nic(&self) -> Option<&N> {
        self.endpoints.uplink.as_ref().map(|uplink| &uplink.nic)
    }

    /// How many packets from the wire went on as a part of another.
    pub fn joined(&self) -> u64 {
        self.endpoints.uplink.as_ref().map_or(0, |uplink| uplink.joined)
    }

    /// How the NIC is.
    pub fn uplink(&self) -> Option<(Status, Link)> {
        self.endpoints.uplink.as_ref().map(|uplink| (uplink.status, uplink.link))
    }

    /// The switches.
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// What is behind a port, in words.
    pub fn port_name(&self, port: PortId) -> PortName {
        let Endpoints { vifs, links, ports, .. } = &self.endpoints;
        let name = ports.get(&port).and_then(|behind| match *behind {
            Behind::Vif(place) => Some(PortName::Vif(vifs.get(place)?.as_ref()?.id)),
            Behind::Link(link, _) => Some(PortName::Vcpu(links.get(link)?.vcpu())),
        });
        name.unwrap_or(PortName::Uplink)
    }

    /// How long the page has been with us that a guest lent first of all that are.
    pub fn oldest_page(&self) -> Option<Duration> {
        let since = self.pools.tracker.census().oldest?;
        Some(self.hypervisor.now().since(since))
    }

    /// What packets are made of.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The vifs served and what they count.
    pub fn vifs(&self) -> impl Iterator<Item = (VifId, VifCounters)> {
        self.endpoints.vifs.iter().flatten().map(|attached| (attached.id, attached.vif.counters()))
    }

    /// The queues of a vif; none where it is not served.
    pub fn queues(&self, vif: VifId) -> impl Iterator<Item = QueueStatus> {
        let place = self.names.get(&vif);
        let attached = place.and_then(|&place| self.endpoints.vifs.get(place)?.as_ref());
        attached.into_iter().flat_map(|attached| attached.vif.queues())
    }

    /// How many of guests' pages are mapped for good: their rings.
    pub fn rings(&self) -> usize {
        self.endpoints.vifs.iter().flatten().map(|attached| attached.vif.rings()).sum()
    }

    /// The event channels that are bound to guests'.
    pub fn ports(&self) -> Vec<EventPort> {
        self.events.keys().copied().collect()
    }

    /// Whether packets reach a vif's guest; `None` where it is not served.
    pub fn carrier(&self, vif: VifId) -> Option<Carrier<Violation>> {
        let attached = self.endpoints.vifs.get(*self.names.get(&vif)?)?.as_ref()?;
        Some(attached.carrier)
    }

    /// Takes note of an event. Those of ports that are not ours are ignored.
    pub fn event(&mut self, port: EventPort) {
        if let Some(&(place, signal)) = self.events.get(&port) {
            if let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) {
                attached.vif.signal(signal);
            }
            self.mark(place);
        }
    }

    /// Puts a vif into the list of those that may have requests.
    fn mark(&mut self, place: usize) {
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else { return };
        let Some(port) = attached.port else { return };
        if !core::mem::replace(&mut attached.ready, true) {
            self.ready.push_back(place);
        }
        self.switches.wake(port);
    }

    /// Takes note of an interrupt message of the NIC's.
    pub fn interrupt(&mut self, cause: Cause) {
        if let Some(uplink) = &mut self.endpoints.uplink {
            uplink.nic.acknowledge(cause);
            uplink.ready = true;
        }
    }

    /// Starts to take the NIC down, so that the device touches no memory of ours once
    /// the domain is gone.
    pub fn stop(&mut self, now: Instant) {
        if let Some(uplink) = &mut self.endpoints.uplink {
            uplink.nic.stop(now);
            uplink.status = Status::Changing;
        }
    }

    /// After [`stop`](Self::stop): whether the NIC is down, or will never be.
    pub fn is_stopped(&self) -> bool {
        self.uplink().is_none_or(|(status, _)| status != Status::Changing)
    }

    fn watch_uplink(&mut self, now: Instant) {
        let Some(uplink) = &mut self.endpoints.uplink else { return };
        let status = uplink.nic.watchdog(&mut self.pools, now);
        if status != uplink.status {
            match status {
                Status::Changing => {}
                // Rare: a driver waits before it tries again.
                Status::Failed(fault) => log::error!("NIC: {fault}"),
                // The counters tell of the rest.
                _ if !uplink.log.take(now) => {}
                Status::Running => log::info!("NIC: up, {}", uplink.nic.mac()),
                Status::Stopped => log::info!("NIC: down"),
            }
            uplink.status = status;
        }
        let link = uplink.nic.link();
        if link != uplink.link {
            if uplink.log.take(now) {
                log::info!("NIC: link {link}");
            }
            uplink.link = link;
        }
        let carrier = status == Status::Running && link != Link::Down;
        if core::mem::replace(&mut uplink.carrier, carrier) != carrier {
            self.switches.set_carrier(uplink.port, carrier, &mut self.pools);
        }
    }

    /// Looks at the rings of which no event may tell: receive rings of frontends that
    /// raise none (P-22) or may have stalled, and what was sent beyond a limit (P-26).
    fn look_at_vifs(&mut self, now: Instant) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        for place in 0..self.endpoints.vifs.len() {
            if let Some(attached) = &mut self.endpoints.vifs[place]
                && attached.vif.look(now)
            {
                if let Some(port) = attached.port {
                    self.switches.wake(port);
                }
                self.tell(place);
            }
            if let Some(attached) = &mut self.endpoints.vifs[place]
                && attached.vif.resumes(now)
            {
                self.mark(place);
            }
        }
        let vifs = self.endpoints.vifs.iter_mut().flatten();
        self.look_at = vifs.filter_map(|attached| attached.vif.look_at()).min();
    }

    /// Moves one batch from a guest. Says whether there may be more.
    fn receive(&mut self, place: usize, now: Instant) -> bool {
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else { return false };
        let Some(port) = attached.port else { return false };
        if attached.vif.has_stalled() && attached.vif.look(now) {
            self.switches.wake(port);
        }
        let more = attached.vif.receive(&mut self.pools, &mut self.batch, now);
        attached.ready = more;
        self.set_filter(place);
        self.switches.forward(port, &mut self.batch, &mut self.pools, now);
        self.tell(place);
        self.flush(now);
        // Requests that were refused are answered even where no page came home.
        if let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) {
            attached.vif.complete_all(&mut self.pools);
        }
        self.completed(place);
        more
    }

    /// Takes note of what a vif's frontend may change, and tells the switch.
    fn set_options(&mut self, place: usize, options: Options) {
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else { return };
        attached.vif.set_options(options);
        if let Some(port) = attached.port {
            self.switches.set_segmentation(port, attached.vif.segmentation());
        }
        self.set_filter(place);
    }

    /// Tells the switch where a vif's multicast groups changed.
    fn set_filter(&mut self, place: usize) {
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else { return };
        if let (Some(port), Some(groups)) = (attached.port, attached.vif.changed_filter()) {
            self.switches.set_filter(port, groups);
        }
    }

    /// Moves one batch from the wire. Says whether there may be more.
    fn receive_from_wire(&mut self, now: Instant) -> bool {
        let Some(uplink) = &mut self.endpoints.uplink else { return false };
        if !core::mem::take(&mut uplink.ready) && !uplink.nic.is_polled() {
            return false;
        }
        let mut more = uplink.nic.receive(&mut self.batch, &mut self.pools);
        if !more && !uplink.nic.is_polled() {
            uplink.nic.rearm();
            more = uplink.nic.receive(&mut self.batch, &mut self.pools);
        }
        if !defect::is(Defect::CompletesWithTheNextPacket) {
            uplink.nic.reap(&mut self.pools);
        }
        uplink.ready = more;
        uplink.joined += aggregate(&mut self.batch, &mut self.pools) as u64;
        let port = uplink.port;
        self.switches.wake(port);
        self.switches.forward(port, &mut self.batch, &mut self.pools, now);
        self.flush(now);
        more
    }

    /// Has ports send what waits for them, then answers what came home.
    fn flush(&mut self, now: Instant) {
        self.switches.flush(&self.hypervisor, &mut self.pools, now, &mut self.endpoints);
        while let Some(place) = self.endpoints.asked.pop() {
            self.tell(place);
        }
        self.pools.run_unmaps(&self.hypervisor);
        while let Some(shard) = self.pools.tracker.next_news() {
            match self.shards.get(&shard) {
                Some(&Lender::Vif(place, queue)) => {
                    if let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) {
                        attached.vif.complete(queue, &mut self.pools);
                    }
                    self.completed(place);
                }
                Some(&Lender::Link(link)) => self.endpoints.links[link].complete(&mut self.pools),
                None => {}
            }
        }
    }

    /// Tells the switch and the control plane where a vif's carrier changed, and notes
    /// when its ring wants to be looked at.
    fn tell(&mut self, place: usize) {
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else { return };
        let look_at = self.look_at.into_iter().chain(attached.vif.look_at());
        self.look_at = look_at.min();
        let carrier = attached.vif.carrier();
        if core::mem::replace(&mut attached.carrier, carrier) == carrier {
            return;
        }
        if let Some(port) = attached.port {
            self.switches.set_carrier(port, carrier == Carrier::Up, &mut self.pools);
        }
        attached.untold = true;
        self.untold = true;
        self.news = true;
    }

    /// Tells what follows from a vif's requests having been answered.
    fn completed(&mut self, place: usize) {
        if let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) {
            self.news |= attached.port.is_none() && attached.vif.lent(&self.pools) == 0;
        }
        self.tell(place);
    }

    /// Connects a vif, or the part of one whose queues are spread over several vCPUs: `floods`
    /// are those by whose links it gets what goes to all ports.
    ///
    /// # Errors
    /// As [`VifHost::connect`].
    pub fn connect_part(
        &mut self,
        request: &ConnectRequest,
        floods: Vcpus,
        now: Instant,
    ) -> Result<(), Refusal> {
        let ConnectRequest { vif: id, config, frontend } = request;
        let more = frontend.queues.len().saturating_sub(1);
        if !memory::heap_has(HEAP_FOR_A_VIF + more * HEAP_FOR_A_QUEUE) {
            return Err(Refusal::Memory);
        }
        let bridge = config.bridge.parse::<BridgeName>().map_err(Refusal::Bridge)?;
        let port = PortConfig {
            address: Some(config.mac),
            addresses: GUEST_ADDRESSES,
            kind: PortKind::Guest,
            floods,
            mtu: config.mtu.unwrap_or(MTU),
            tags: GUEST_TAGS,
            segmentation: frontend.segmentation(),
            vlans: config.vlans.clone(),
            queue: QueueLimits {
                packets: GUEST_PACKETS.max(frontend.queues.len() * QUEUE_PACKETS),
                bytes: GUEST_BYTES.max(frontend.queues.len() * QUEUE_BYTES),
                wait: patience(frontend),
            },
        };
        let port = self.switches.join(&bridge, port).map_err(Refusal::Join)?;
        let (hypervisor, seed) = (self.hypervisor.clone(), self.switches.flow_seed());
        let mut vif = match Vif::attach(hypervisor, id.frontend, frontend, seed, &mut self.pools) {
            Ok(vif) => vif,
            Err(error) => {
                self.switches.leave(port, &mut self.pools);
                return Err(Refusal::Attach(error));
            }
        };
        let before = self.credits.remove(id);
        self.credits.retain(|_, credit| !credit.is_fresh(now));
        vif.limit(config.rate.map(|rate| Credit::new(rate, before, now)));
        let attached = Attached {
            id: *id,
            carrier: vif.carrier(),
            untold: false,
            vif,
            port: Some(port),
            ready: false,
            notices: Notices::default(),
        };
        let vifs = &mut self.endpoints.vifs;
        let place = vifs.iter().position(Option::is_none).unwrap_or_else(|| {
            vifs.push(None);
            vifs.len() - 1
        });
        let attached = vifs[place].insert(attached);
        let events = attached.vif.events();
        self.events.extend(events.map(|(port, signal)| (port, (place, signal))));
        let shards = attached.vif.shards().enumerate();
        self.shards.extend(shards.map(|(queue, shard)| (shard, Lender::Vif(place, queue))));
        // So that neither list grows while packets pass. A flush asks each of them at
        // most three times.
        self.endpoints.asked.reserve(3 * self.endpoints.vifs.len());
        self.ready.reserve(self.endpoints.vifs.len());
        self.names.insert(*id, place);
        self.endpoints.ports.insert(port, Behind::Vif(place));
        self.set_options(place, frontend.options);
        // What the frontend sent before we listened.
        self.mark(place);
        Ok(())
    }
}

impl<H: Hypervisor, N: Nic> VifHost for Network<H, N> {
    type Refusal = Refusal;
    type Fault = Violation;

    fn admit(&mut self, _: VifId, config: &VifConfig) -> Result<(), Refusal> {
        config.bridge.parse::<BridgeName>().map_err(Refusal::Bridge)?;
        Ok(())
    }

    fn connect(&mut self, request: &ConnectRequest, now: Instant) -> Result<(), Refusal> {
        self.connect_part(request, Vcpus::ALL, now)
    }

    fn reconfigure(&mut self, vif: VifId, options: Options) {
        let Some(&place) = self.names.get(&vif) else { return };
        self.set_options(place, options);
    }

    fn limit(&mut self, vif: VifId, rate: Option<Rate>, now: Instant) {
        let Some(&place) = self.names.get(&vif) else { return };
        if let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) {
            let before = attached.vif.credit();
            attached.vif.limit(rate.map(|rate| Credit::new(rate, before, now)));
        }
        self.mark(place);
    }

    fn disconnect(&mut self, id: VifId, urgency: Urgency, now: Instant) -> Progress {
        let Some(&place) = self.names.get(&id) else { return Progress::Finished };
        let Some(Some(attached)) = self.endpoints.vifs.get_mut(place) else {
            return Progress::Finished;
        };
        // Nothing more comes in or goes out; what the guest's own queue holds of
        // others goes home (O-12).
        if let Some(port) = attached.port.take() {
            self.switches.leave(port, &mut self.pools);
            self.endpoints.ports.remove(&port);
            self.ready.retain(|ready| *ready != place);
        }
        // What others hold for too long goes home before the vif is gone: nobody may
        // look at the guest's grants once it may have reused them.
        self.switches.expire(&self.hypervisor, &mut self.pools, now);
        let lent = attached.vif.lent(&self.pools);
        let patient = urgency == Urgency::Patient && !defect::is(Defect::DetachesAtOnce);
        if lent > 0 && patient {
            return Progress::Pending;
        }
        if let Some(Attached { vif, .. }) = self.endpoints.vifs[place].take() {
            self.names.remove(&id);
            self.credits.extend(vif.credit().map(|credit| (id, credit)));
            self.events.retain(|_, (other, _)| *other != place);
            let of_vif =
                |lender: &Lender| matches!(*lender, Lender::Vif(other, _) if other == place);
            self.shards.retain(|_, lender| !of_vif(lender));
            vif.detach(&mut self.pools);
        }
        Progress::Finished
    }

    fn next_carrier(&mut self) -> Option<(VifId, Carrier<Violation>)> {
        if !self.untold {
            return None;
        }
        let mut vifs = self.endpoints.vifs.iter_mut().flatten();
        let untold = vifs.find(|attached| attached.untold);
        self.untold = untold.is_some();
        untold.map(|attached| {
            attached.untold = false;
            (attached.id, attached.carrier)
        })
    }
}

impl<H: Hypervisor, N: Nic> DataPlane for Network<H, N> {
    fn poll(&mut self, now: Instant) -> bool {
        self.watch_uplink(now);
        self.look_at_vifs(now);
        for _ in 0..self.ready.len() {
            let Some(place) = self.ready.pop_front() else { break };
            if self.receive(place, now) {
                self.ready.push_back(place);
            }
        }
        let wire = self.receive_from_wire(now);
        let linked = self.receive_from_links(now);
        self.switches.expire(&self.hypervisor, &mut self.pools, now);
        self.flush(now);
        let punted = self.poll_slow_path(now);
        // What comes back comes with an interrupt, or when its wait is over.
        let waiting = !self.ready.is_empty() && !is_short(&self.pools);
        let news = core::mem::take(&mut self.news);
        self.call_others(news);
        news || wire || linked || waiting || punted
    }

    fn next_deadline(&self) -> Option<Instant> {
        let nic = self.nic().and_then(Nic::deadline);
        [self.switches.next_deadline(), self.look_at, nic].into_iter().flatten().min()
    }

    /// A NIC that is not up yet, or has no interrupts.
    fn is_polled(&self) -> bool {
        self.endpoints.uplink.as_ref().is_some_and(|uplink| {
            uplink.status == Status::Changing
                || uplink.status == Status::Running && uplink.nic.is_polled()
        })
    }
}
