//! What the switches leave to somebody else, looked at and told to the operator: who
//! sends from another's address, who sends what bridges say to each other, and what
//! the NIC's cable ends at.
//!
//! Peers cause all of it, at any rate. So a pass looks at few packets, everything is
//! told once, and in all the log gets no more lines than its budgets have.

use core::fmt;
use core::time::Duration;

use heapless::Vec;
use kernel::packet::{Addresses, ETHERNET_HEADER, MacAddress};
use kernel::switch::{PortId, PuntReason, Punted};
use xen::{Hypervisor, Instant};

use super::{Behind, Endpoints, Network, PortName};
use crate::lldp::{self, Neighbour};
use crate::log_budget::LogBudget;
use crate::nic::Nic;

/// How many packets are looked at in a pass.
const BUDGET: usize = 16;
/// How many addresses of others a port is told of. Whoever uses more is known well
/// enough, and all its frames are counted.
const FORGED: usize = 8;

/// What was learnt from the slow path, and what may be told of it.
#[derive(Default, Debug)]
pub(super) struct SlowPath {
    /// Of all guests together: what was told of one is forgotten when it reconnects.
    guests: LogBudget,
    wire: LogBudget,
    /// The other end of the NIC's cable, and until when that is to be believed.
    neighbour: Option<(Neighbour, Instant)>,
}

/// What was told of a port.
#[derive(Default, Debug)]
pub(super) struct Notices {
    /// Whose addresses it sent from.
    forged: Vec<MacAddress, FORGED>,
    /// That it sends control frames.
    control: bool,
}

impl<H: Hypervisor, N: Nic> Network<H, N> {
    /// The other end of the NIC's cable, where it says so.
    pub fn neighbour(&self) -> Option<&Neighbour> {
        let (neighbour, until) = self.slow_path.neighbour.as_ref()?;
        (self.hypervisor.now() < *until).then_some(neighbour)
    }

    /// Looks at packets of the slow path, at most a few. Says whether there are more.
    pub(super) fn poll_slow_path(&mut self, now: Instant) -> bool {
        for _ in 0..BUDGET {
            let Some(punted) = self.switches.next_punted() else { return false };
            self.look(&punted, now);
            self.pools.give(punted.packet);
        }
        !self.switches.slow_path().is_empty()
    }

    fn look(&mut self, punted: &Punted, now: Instant) {
        // What is left of a port that is gone concerns nobody.
        let Some((from, _)) = self.endpoints.notices(punted.from) else { return };
        let frame = punted.packet.headers(&self.pools.buffers);
        match (punted.reason, from) {
            (PuntReason::Forged, _) => {
                if let Some(Addresses { source, .. }) = Addresses::parse(frame) {
                    self.tell_forgery(punted.from, source, now);
                }
            }
            (PuntReason::Reserved, PortName::Vif(_)) => {
                let protocol = Protocol::of(frame);
                self.tell_control(punted.from, protocol, now);
            }
            // The vCPU that it came to looked at it.
            (PuntReason::Reserved, PortName::Vcpu(_)) => {}
            (PuntReason::Reserved, PortName::Uplink) => {
                if let Some((neighbour, time)) = Neighbour::parse(frame) {
                    self.slow_path.meet(neighbour, time, now);
                }
            }
        }
    }

    /// Tells who sends from whose address, once for each pair of them.
    fn tell_forgery(&mut self, from: PortId, address: MacAddress, now: Instant) {
        let Some(owner) = self.owner(from, address) else { return };
        let Some((from, notices)) = self.endpoints.notices(from) else { return };
        let log = match from {
            PortName::Vif(_) | PortName::Vcpu(_) => &mut self.slow_path.guests,
            PortName::Uplink => &mut self.slow_path.wire,
        };
        let told = notices.forged.contains(&address) || notices.forged.is_full();
        if !told && log.take(now) {
            // There is room, as just seen.
            let _ = notices.forged.push(address);
            log::warn!("{from}: sends from {address}, which is {owner}'s; dropped");
        }
    }

    /// Tells which guest takes part in bridges' protocols, once.
    fn tell_control(&mut self, from: PortId, protocol: Protocol, now: Instant) {
        let Some((from, notices)) = self.endpoints.notices(from) else { return };
        if !notices.control && self.slow_path.guests.take(now) {
            notices.control = true;
            log::info!("{from}: sends bridge control frames ({protocol}); dropped");
        }
    }
}

impl<H: Hypervisor, N: Nic> Endpoints<H, N> {
    /// A port's name and what was told of it; `None` where the port is gone.
    fn notices(&mut self, port: PortId) -> Option<(PortName, &mut Notices)> {
        if let Some(uplink) = self.uplink.as_mut().filter(|uplink| uplink.port == port) {
            return Some((PortName::Uplink, &mut uplink.notices));
        }
        let Behind::Vif(place) = *self.ports.get(&port)? else { return None };
        let attached = self.vifs.get_mut(place)?.as_mut()?;
        Some((PortName::Vif(attached.id), &mut attached.notices))
    }
}

impl SlowPath {
    /// Takes note of what a neighbour says of itself, and tells of a new one. What may not be told now is
    /// not taken either: it will be said again.
    fn meet(&mut self, heard: Neighbour, time: Duration, now: Instant) {
        if time.is_zero() {
            self.neighbour = None;
            return;
        }
        let until = now + time;
        match &mut self.neighbour {
            Some((known, end)) if *known == heard => *end = until,
            _ if self.wire.take(now) => {
                log::info!("uplink: connected to {heard}");
                self.neighbour = Some((heard, until));
            }
            _ => {}
        }
    }
}

/// What bridges and their neighbours say to each other, by a frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    SpanningTree,
    Llc,
    Pause,
    Lacp,
    Authentication,
    Lldp,
    Other(u16),
}

impl Protocol {
    /// Looks at a frame; one shorter than its header says nothing.
    fn of(frame: &[u8]) -> Self {
        /// The largest length that stands where an ethertype else does.
        const LENGTH: u16 = 1500;
        /// The LLC header's two addresses in a BPDU (IEEE 802.1D, section 9.2).
        const BPDU: [u8; 2] = [0x42; 2];
        /// The first of the slow protocols (IEEE 802.3, annex 57A).
        const LACP: [u8; 1] = [1];
        let Some((header, payload)) = frame.split_first_chunk::<ETHERNET_HEADER>() else {
            return Self::Other(0);
        };
        match u16::from_be_bytes([header[12], header[13]]) {
            ..=LENGTH if payload.starts_with(&BPDU) => Self::SpanningTree,
            ..=LENGTH => Self::Llc,
            0x8808 => Self::Pause,
            0x8809 if payload.starts_with(&LACP) => Self::Lacp,
            0x888e => Self::Authentication,
            lldp::ETHERTYPE => Self::Lldp,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpanningTree => f.write_str("spanning tree"),
            Self::Llc => f.write_str("LLC"),
            Self::Pause => f.write_str("pause"),
            Self::Lacp => f.write_str("LACP"),
            Self::Authentication => f.write_str("802.1X"),
            Self::Lldp => f.write_str("LLDP"),
            Self::Other(ethertype) => write!(f, "ethertype {ethertype:#06x}"),
        }
    }
}
