//! The control ring: by it the guest says how it wants its packets spread over its
//! queues (P-25). What it says is copied first, then looked at, and only then in force.

use kernel::Pools;
use kernel::memory::{MappedPage, Size, Window};
use xen::event::EventPort;
use xen::grant::{GrantCopy, GrantRef, GrantRegion};
use xen::netif::{ControlRequest, ControlResponse, ControlStatus, ControlType};
use xen::ring::{BackRing, CTRL_RING_SIZE};
use xen::{DomainId, Hypervisor};

use super::chain::Violation;
use super::queue::{map, unmap};
use super::steering::{MAX_MAPPING, Steering};
use super::vif::AttachError;
use crate::netback::keys::{CONTROL_PORT, CONTROL_RING, ControlRing};

/// The most requests that are answered in a pass: each may take a hypercall.
const BATCH: usize = 8;
/// Bytes of an entry of the table of queues.
const ENTRY: usize = size_of::<u32>();

type Ring = BackRing<ControlRequest, ControlResponse, CTRL_RING_SIZE>;

/// A control ring.
#[derive(Debug)]
pub(super) struct Control {
    ring: Ring,
    page: MappedPage,
    event: EventPort,
    domain: DomainId,
    /// Whether there may be requests.
    pub(super) ready: bool,
}

impl Control {
    /// Maps the ring and binds its event channel. On failure nothing is left.
    pub(super) fn attach<H: Hypervisor>(
        hypervisor: &H,
        domain: DomainId,
        control: &ControlRing,
        window: &mut Window,
    ) -> Result<Self, AttachError> {
        let page = map(hypervisor, window, domain, CONTROL_RING, control.ring)?;
        let attached = Ring::attach(page.page(hypervisor))
            .map_err(|error| AttachError::Ring(CONTROL_RING, Violation::Ring(error)))
            .and_then(|ring| {
                let event = hypervisor.bind_interdomain(domain, control.port);
                Ok((ring, event.map_err(|error| AttachError::Bind(CONTROL_PORT, error))?))
            });
        match attached {
            Ok((ring, event)) => Ok(Self { ring, page, event, domain, ready: true }),
            Err(error) => {
                unmap(hypervisor, window, [page]);
                Err(error)
            }
        }
    }

    pub(super) fn event(&self) -> EventPort {
        self.event
    }

    /// The ring's page, to be unmapped.
    pub(super) fn into_page(self) -> MappedPage {
        self.page
    }

    /// Answers requests, if there may be any, and as many as a pass may have.
    pub(super) fn serve<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        steering: &mut Steering,
        pools: &mut Pools,
    ) -> Result<(), Violation> {
        let mut left = BATCH;
        while self.ready && left > 0 {
            if self.ring.requests().map_err(Violation::Ring)? == 0 {
                self.ready = self.ring.rearm(1).map_err(Violation::Ring)?;
                continue;
            }
            let Some(request) = self.ring.take() else { break };
            left -= 1;
            let (status, data) = match self.obey(hypervisor, &request, steering, pools) {
                Ok(data) => (ControlStatus::Success, data),
                Err(status) => (status, 0),
            };
            let ControlRequest { id, kind, .. } = request;
            self.ring.respond(ControlResponse { id, kind, status: status as u32, data });
        }
        if self.ring.publish() {
            hypervisor.notify(self.event);
        }
        Ok(())
    }

    fn obey<H: Hypervisor>(
        &self,
        hypervisor: &H,
        request: &ControlRequest,
        steering: &mut Steering,
        pools: &mut Pools,
    ) -> Result<u32, ControlStatus> {
        let [first, second, third] = request.data;
        let mut bytes = [0; MAX_MAPPING * ENTRY];
        match request.control_type().ok_or(ControlStatus::NotSupported)? {
            ControlType::GetHashFlags => steering.kinds(),
            ControlType::SetHashFlags => steering.set_flags(first),
            ControlType::SetHashKey => {
                let key = &mut bytes[..Steering::key_len(second)?];
                self.read(hypervisor, GrantRef(first), key, pools)?;
                steering.set_key(key);
                Ok(0)
            }
            ControlType::GetHashMappingSize => Ok(MAX_MAPPING as u32),
            ControlType::SetHashMappingSize => steering.set_mapping_size(first),
            ControlType::SetHashMapping => {
                let range = steering.mapping_range(second, third)?;
                let entries = &mut bytes[..range.len() * ENTRY];
                self.read(hypervisor, GrantRef(first), entries, pools)?;
                steering.set_mapping(range, entries)
            }
            ControlType::SetHashAlgorithm => steering.set_algorithm(first),
        }
    }

    /// Copies the first bytes of a page of the guest's, all that `bytes` takes. A page is
    /// not looked at for none (XSA-448).
    fn read<H: Hypervisor>(
        &self,
        hypervisor: &H,
        reference: GrantRef,
        bytes: &mut [u8],
        pools: &mut Pools,
    ) -> Result<(), ControlStatus> {
        if bytes.is_empty() {
            return Ok(());
        }
        let buffer = pools.buffers.take(Size::Large).ok_or(ControlStatus::InvalidParameter)?;
        let from = GrantRegion { domain: self.domain, reference, offset: 0 };
        if let Some(to) = pools.buffers.region(&buffer, 0..bytes.len()) {
            pools.copies.push(GrantCopy::from_grant(from, to));
        }
        pools.run_copies(hypervisor);
        let read = pools.copies.status(0);
        pools.copies.clear();
        if read.is_ok() {
            bytes.copy_from_slice(&pools.buffers.bytes(&buffer)[..bytes.len()]);
        }
        pools.buffers.give(buffer);
        read.map_err(|_| ControlStatus::InvalidParameter)
    }
}
