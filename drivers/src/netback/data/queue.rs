//! One of a vif's queues: its two rings, their pages, and how each side wakes the other.

use kernel::Pools;
use kernel::memory::{MapError, MappedPage, Window};
use xen::event::{EventPort, RemotePort};
use xen::grant::GrantRef;
use xen::{DomainId, Hypervisor};

use super::rx::RxQueue;
use super::tx::TxQueue;
use super::vif::AttachError;
use crate::netback::Frontend;
use crate::netback::keys::{QueueRings, RemotePorts};

/// The event channels of a queue (P-24).
#[derive(Clone, Copy, Debug)]
pub(super) enum Channels {
    /// One for both rings.
    Shared(EventPort),
    /// One for each.
    Split { tx: EventPort, rx: EventPort },
}

impl Channels {
    /// Binds them. On failure none is left bound.
    fn bind<H: Hypervisor>(
        hypervisor: &H,
        domain: DomainId,
        QueueRings { keys, ports, .. }: &QueueRings,
    ) -> Result<Self, AttachError> {
        let bind = |key, port: RemotePort| {
            let bound = hypervisor.bind_interdomain(domain, port);
            bound.map_err(|error| AttachError::Bind(key, error))
        };
        match *ports {
            RemotePorts::Shared(port) => bind(keys.port, port).map(Self::Shared),
            RemotePorts::Split { tx, rx } => {
                let tx = bind(keys.tx_port, tx)?;
                match bind(keys.rx_port, rx) {
                    Ok(rx) => Ok(Self::Split { tx, rx }),
                    Err(error) => {
                        close(hypervisor, tx);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Where the guest waits for responses to what it sent.
    pub(super) fn tx(self) -> EventPort {
        match self {
            Self::Shared(port) | Self::Split { tx: port, .. } => port,
        }
    }

    /// Where it waits for packets.
    pub(super) fn rx(self) -> EventPort {
        match self {
            Self::Shared(port) | Self::Split { rx: port, .. } => port,
        }
    }
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    /// Its number, where the vif has several.
    pub(super) number: Option<u8>,
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) channels: Channels,
    /// Whether the guest may have sent something.
    pub(super) ready: bool,
    /// Whether the guest has left the rx ring short of slots for too long.
    pub(super) stalled: bool,
    pages: [MappedPage; 2],
}

impl Queue {
    /// Maps the rings and binds the event channels. On failure nothing is left.
    pub(super) fn attach<H: Hypervisor>(
        hypervisor: &H,
        domain: DomainId,
        frontend: &Frontend,
        rings: &QueueRings,
        pools: &mut Pools,
    ) -> Result<Self, AttachError> {
        let QueueRings { keys, tx_ring, rx_ring, .. } = *rings;
        let tx_page = map(hypervisor, &mut pools.window, domain, keys.tx_ring, tx_ring)?;
        let rx_page = match map(hypervisor, &mut pools.window, domain, keys.rx_ring, rx_ring) {
            Ok(page) => page,
            Err(error) => {
                unmap(hypervisor, &mut pools.window, [tx_page]);
                return Err(error);
            }
        };
        let pages = [tx_page, rx_page];
        match Self::take_over(hypervisor, domain, frontend, rings, &pages, pools) {
            Ok((tx, rx, channels)) => {
                let number = keys.number;
                Ok(Self { number, tx, rx, channels, ready: true, stalled: false, pages })
            }
            Err(error) => {
                unmap(hypervisor, &mut pools.window, pages);
                Err(error)
            }
        }
    }

    fn take_over<H: Hypervisor>(
        hypervisor: &H,
        domain: DomainId,
        frontend: &Frontend,
        rings: &QueueRings,
        [tx, rx]: &[MappedPage; 2],
        pools: &mut Pools,
    ) -> Result<(TxQueue, RxQueue, Channels), AttachError> {
        let keys = rings.keys;
        let rx = RxQueue::attach(rx.page(hypervisor), domain, frontend.scatter_gather)
            .map_err(|violation| AttachError::Ring(keys.rx_ring, violation))?;
        let tx = TxQueue::attach(tx.page(hypervisor), domain, pools)
            .map_err(|violation| AttachError::Ring(keys.tx_ring, violation))?;
        match Channels::bind(hypervisor, domain, rings) {
            Ok(channels) => Ok((tx, rx, channels)),
            Err(error) => {
                pools.tracker.close(tx.shard());
                Err(error)
            }
        }
    }

    /// The rings' pages, to be unmapped.
    pub(super) fn into_pages(self) -> [MappedPage; 2] {
        self.pages
    }
}

/// Maps the ring that `key` names.
pub(super) fn map<H: Hypervisor>(
    hypervisor: &H,
    window: &mut Window,
    domain: DomainId,
    key: &'static str,
    reference: GrantRef,
) -> Result<MappedPage, AttachError> {
    let mapped = MappedPage::map(hypervisor, window, domain, reference);
    mapped.map_err(|error: MapError| AttachError::Map(key, error))
}

pub(super) fn unmap<H: Hypervisor>(
    hypervisor: &H,
    window: &mut Window,
    pages: impl IntoIterator<Item = MappedPage>,
) {
    for page in pages {
        if let Err(error) = page.unmap(hypervisor, window) {
            log::error!("unmapping a ring: {error}");
        }
    }
}

pub(super) fn close<H: Hypervisor>(hypervisor: &H, port: EventPort) {
    if let Err(error) = hypervisor.close(port) {
        log::error!("closing event channel {}: {error}", port.0);
    }
}
