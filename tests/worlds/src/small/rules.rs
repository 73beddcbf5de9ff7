//! What always holds in a small world, as guests, the wire and the hypervisor see it.

use kernel::DmaRegion;
use kernel::memory::Size;
use kernel::switch::{Holding, MAX_WAIT};
use xen::fake::{Audit, Mapping};
use xen::grant::GrantRef;
use xen::{DomainId, Instant, PAGE_SIZE};

use super::plot::To;
use super::{LARGE, RINGS, SMALL, SmallWorld};

/// Bytes of a packet that are sent as they were looked at.
const HEADERS: usize = 128;

/// Where a packet can arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    B,
    Wire,
}

impl To {
    fn includes(self, place: Place) -> bool {
        match self {
            Self::All | Self::Stranger => true,
            Self::B => place == Place::B,
            Self::Bridges => false,
        }
    }
}

impl SmallWorld {
    /// What holds in every state.
    pub(super) fn check(&mut self) {
        self.check_arrivals();
        self.check_mappings();
        let tracker = &self.network.pools().tracker;
        let (counters, census) = (tracker.counters(), tracker.census());
        let counted = (counters.outstanding(), counters.holds, counters.mapped);
        assert_eq!((census.records, census.holds, census.mapped), counted, "(O-16)");
        assert!(counters.claimed <= self.lent, "{counters:?}, {} lent", self.lent);
        assert!(counters.responded >= self.answered, "{counters:?}, {} answered", self.answered);
    }

    /// What is mapped is what the domain thinks is mapped: rings, and lent pages at one
    /// frame each, read-only.
    fn check_mappings(&self) {
        let Audit { mappings, zombies, displaced, stray_notifies, .. } = self.xen.audit();
        assert_eq!((displaced.len(), stray_notifies), (0, 0));
        let kept = self.meanwhile.kept();
        let (kept, owned): (Vec<_>, Vec<_>) =
            mappings.iter().partition(|mapping| kept.contains(&grant(mapping)));
        let (rings, pages): (Vec<_>, Vec<_>) = owned.into_iter().partition(|m| m.writable);
        assert_eq!(rings.len(), 2 * self.network.vifs().count(), "{rings:?}");
        let counters = self.network.pools().tracker.counters();
        assert_eq!(pages.len() as u64, counters.mapped, "{pages:?} (O-16)");
        let quarantined = kept.iter().filter(|mapping| !mapping.writable).count();
        assert_eq!(quarantined as u64, counters.quarantined, "{kept:?} (O-16)");
        for (n, page) in pages.iter().enumerate() {
            let twice = pages[..n].iter().any(|other| grant(other) == grant(page));
            assert!(!twice, "{page:?} is mapped twice (O-1)");
        }
        for domain in zombies {
            assert!(mappings.iter().any(|mapping| mapping.domain == domain));
        }
    }

    /// O-8: after a turn, nobody but the NIC has a page for longer than it may.
    pub(super) fn check_deadlines(&self, now: Instant) {
        let device = &self.devices[0];
        let domain = device.front.guest.id();
        for (id, since) in &device.taken {
            let page = (domain, device.front.reference(*id));
            let held = self.held_by_nic().any(|mapping| grant(&mapping) == page);
            assert!(held || now.since(*since) < MAX_WAIT, "the page of {id} is late (O-8)");
        }
    }

    /// The mappings that the NIC looks at.
    fn held_by_nic(&self) -> impl Iterator<Item = Mapping> + use<> {
        let regions = self.wire.held().into_iter().flatten();
        let frames: Vec<_> = regions.flat_map(frames).collect();
        let mappings = self.xen.audit().mappings.into_iter();
        mappings.filter(move |mapping| frames.contains(&mapping.frame))
    }

    /// What arrives was sent, once, in this order, and has not changed.
    fn check_arrivals(&mut self) {
        for packet in std::mem::take(&mut self.devices[1].front.received) {
            if packet.failed == 0 {
                self.arrives(Place::B, &packet.bytes);
            } else {
                assert!(self.spoilt, "a page could not be copied, for no reason");
            }
        }
        for frame in self.wire.take_frames() {
            self.arrives(Place::Wire, &frame);
        }
    }

    fn arrives(&mut self, place: Place, bytes: &[u8]) {
        let mut later = self.next[place as usize]..self.sent.len();
        let Some(n) = later.find(|n| self.is_packet(*n, bytes)) else {
            panic!("what arrives at {place:?} was not sent, or not now: {bytes:02x?}")
        };
        // While B is gone its address is one that nobody knows.
        let to = self.plot.packets[n].0;
        let due = to.includes(place) || to == To::B && self.ended;
        assert!(due, "packet {n} arrives at {place:?}");
        self.next[place as usize] = n + 1;
        self.arrived[place as usize] += 1;
    }

    /// Whether `bytes` are the `n`-th packet. What A has edited may be anything, but for
    /// the headers (O-6).
    fn is_packet(&self, n: usize, bytes: &[u8]) -> bool {
        let packet = self.packet(n);
        let stable = if n < self.edited { packet.len().min(HEADERS) } else { packet.len() };
        packet.len() == bytes.len() && packet[..stable] == bytes[..stable]
    }

    /// What holds when nothing moves any more, and nobody has ended.
    pub(super) fn check_at_rest(&self) {
        let counters = self.network.pools().tracker.counters();
        assert_eq!(counters.claimed, self.lent);
        assert_eq!(counters.responded, self.answered);
        assert_eq!(counters.abandoned, 0);
        let packets = &self.plot.packets[..self.sent.len()];
        let is_mapped = |(to, pieces): &(To, Vec<u16>)| {
            to.includes(Place::Wire)
                && usize::from(pieces.iter().sum::<u16>()) > Size::Small.bytes()
        };
        let mapped = self.plot.is_calm() && matches!(self.plot.holding, Holding::Mapped(_));
        let expected = mapped && packets.iter().any(is_mapped);
        assert!(counters.maps > 0 || !expected, "everything is copied");
        for place in [Place::B, Place::Wire] {
            let due = packets.iter().filter(|(to, _)| to.includes(place)).count();
            let room = match place {
                Place::B => self.plot.offers - self.left.offers,
                Place::Wire => usize::MAX,
            };
            if self.plot.is_calm() {
                assert_eq!(self.arrived[place as usize], due.min(room), "{place:?}");
            }
        }
    }

    /// What holds when all is over.
    pub(super) fn check_empty(&self) {
        let pools = self.network.pools();
        let counters = pools.tracker.counters();
        assert_eq!((counters.outstanding(), counters.holds), (0, 0), "{counters:?} (O-16)");
        assert_eq!(pools.idle(), self.plot.pool, "packets lost");
        for (size, pages) in [(Size::Small, SMALL), (Size::Large, LARGE)] {
            let cells = pages * PAGE_SIZE / size.bytes();
            assert_eq!(pools.buffers.free(size), cells, "{size:?} buffers lost");
        }
        let kept = self.meanwhile.kept();
        let frames = RINGS + self.plot.frames - kept.len();
        assert_eq!(pools.window.free(), frames, "frames lost");
        assert_eq!(self.network.vifs().count(), 0);
        let Audit { mappings, ports, .. } = self.xen.audit();
        assert!(mappings.iter().all(|mapping| kept.contains(&grant(mapping))), "{mappings:?}");
        assert_eq!((mappings.len(), ports.len()), (kept.len(), 0));
        for (guest, reference) in &self.stuck {
            let kept = kept.contains(&(guest.id(), *reference));
            assert_eq!(guest.is_in_use(*reference), kept, "{reference:?}");
        }
    }
}

/// The frames that a region's bytes lie in.
fn frames(region: DmaRegion) -> impl Iterator<Item = u64> {
    let last = region.address + u64::from(region.len.max(1)) - 1;
    region.address / PAGE_SIZE as u64..=last / PAGE_SIZE as u64
}

fn grant(mapping: &Mapping) -> (DomainId, GrantRef) {
    (mapping.domain, mapping.reference)
}
