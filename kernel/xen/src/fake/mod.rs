//! An in-memory hypervisor, for tests of what runs on one.
//!
//! It keeps Xen's rules instead of ours: what Xen refuses is refused with the same
//! status, and what makes Xen crash a domain panics, since it is a defect of ours
//! that no guest may be able to reach. [`Guest`] acts for the other domains,
//! honestly or not.

mod domains;
mod events;
mod grants;
mod guest;
mod knobs;
mod memory;

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

pub use events::OpenPort;
pub use grants::{Grant, Mapping};
pub use guest::{Guest, GuestFrame};
pub use knobs::{Counts, Kind, Operation, When};
pub use memory::IommuFault;
pub(crate) use memory::View;

use crate::bindings::{GNTCOPY_dest_gref, GNTCOPY_source_gref, gnttab_copy};
use crate::event::{EventPort, RemotePort};
use crate::grant::{GrantCopy, GrantHandle, GrantMap, GrantRef, GrantUnmap};
use crate::{DomainId, Errno, ForeignFrame, Hypervisor, Instant, LocalFrame, SharedPage};
use domains::Domains;
use events::Ports;
use grants::Maptrack;
use knobs::Faults;
use memory::PhysicalMap;

/// The in-memory hypervisor; its clones are the same one.
#[derive(Clone)]
pub struct FakeXen(Rc<RefCell<State>>);

impl fmt::Debug for FakeXen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeXen").finish_non_exhaustive()
    }
}

struct State {
    us: DomainId,
    memory: PhysicalMap,
    domains: Domains,
    track: Maptrack,
    ports: Ports,
    now: Instant,
    faults: Faults,
    counts: Counts,
}

impl FakeXen {
    /// A host on which we are the domain `us`, alone.
    pub fn new(us: DomainId) -> Self {
        Self(Rc::new(RefCell::new(State {
            us,
            memory: PhysicalMap::default(),
            domains: Domains::default(),
            track: Maptrack::new(),
            ports: Ports::new(),
            now: Instant::default(),
            faults: Faults::default(),
            counts: Counts::default(),
        })))
    }

    /// Adds zeroed RAM of ours: its address and its first frame. It lives as long
    /// as the hypervisor: whoever uses it keeps a clone.
    pub fn ram(&self, pages: usize) -> (NonNull<u8>, LocalFrame) {
        let (base, first) = self.0.borrow_mut().memory.add_ram(pages);
        // SAFETY: the frame is RAM of ours, as `grant_copy` sees it.
        (base, unsafe { LocalFrame::new(first) })
    }

    /// Hands out frames of a hole.
    pub fn foreign_frames(&self, count: usize) -> Vec<ForeignFrame> {
        let first = self.0.borrow_mut().memory.add_hole(count);
        let numbers = first..first + count as u64;
        // SAFETY: nothing else is there, and each number is handed out once.
        numbers.map(|number| unsafe { ForeignFrame::new(number) }).collect()
    }

    /// Reads `into.len()` bytes as a device of ours does.
    ///
    /// # Errors
    /// Where nothing is there.
    pub fn device_read(&self, address: u64, into: &mut [u8]) -> Result<(), IommuFault> {
        self.0.borrow().memory.device_read(address, into)
    }

    /// Writes `from` as a device of ours does.
    ///
    /// # Errors
    /// Where there is not RAM of ours: no guest's page is a device's to write.
    pub fn device_write(&self, address: u64, from: &[u8]) -> Result<(), IommuFault> {
        self.0.borrow().memory.device_write(address, from)
    }

    /// Creates a domain.
    pub fn create_domain(&self, id: DomainId) -> Guest {
        let mut state = self.0.borrow_mut();
        assert!(id != state.us, "{id} is ourselves");
        state.domains.create(id);
        Guest { xen: self.clone(), id }
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        let mut state = self.0.borrow_mut();
        state.now = state.now + time;
    }

    /// Takes the events that are pending at our ports, the lowest port first.
    pub fn take_pending(&self) -> Vec<EventPort> {
        self.0.borrow_mut().ports.take_pending()
    }

    /// Takes the event that is pending at a port of ours; whether there was one.
    pub fn take_pending_at(&self, port: EventPort) -> bool {
        self.0.borrow_mut().ports.take_pending_at(port)
    }

    /// Binds a port of ours to one of our vCPUs, for the others to notify.
    pub fn bind_ipi(&self) -> EventPort {
        let mut state = self.0.borrow_mut();
        let us = state.us;
        state.ports.bind_ipi(us)
    }

    /// Whether an event is pending at a port of ours.
    pub fn has_pending(&self) -> bool {
        self.0.borrow().ports.has_pending()
    }

    /// Has operations fail: grant operations with `status` as it stands, even a
    /// positive one, event channel operations with the error number `status`.
    pub fn fail(&self, kind: Kind, when: When, status: i16) {
        self.0.borrow_mut().faults.order(kind, when, status);
    }

    /// Forgets all faults on order.
    pub fn clear_faults(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// How many mappings Xen lets us have at once (H-7).
    pub fn set_mapping_limit(&self, mappings: usize) {
        self.0.borrow_mut().track.limit = mappings;
    }

    /// How many ports Xen lets us have at once (L-10).
    pub fn set_port_limit(&self, ports: usize) {
        self.0.borrow_mut().ports.limit = ports;
    }

    /// How often we asked for what, so far.
    pub fn counts(&self) -> Counts {
        self.0.borrow().counts
    }

    /// How many mappings of ours are in place.
    pub fn mappings(&self) -> usize {
        self.0.borrow().track.mappings().count()
    }

    /// Hashes all that decides what follows, for whoever wants to know whether two
    /// hypervisors are in the same state. Counts and faults on order are left out.
    pub fn hash_state(&self, hasher: &mut impl Hasher) {
        let State { us, memory, domains, track, ports, now, faults: _, counts: _ } =
            &*self.0.borrow();
        (us, memory, domains, track, ports, now.0).hash(hasher);
    }

    /// What we hold, and what we did wrong without Xen's minding.
    pub fn audit(&self) -> Audit {
        let state = self.0.borrow();
        Audit {
            mappings: state.track.mappings().cloned().collect(),
            ports: state.ports.open().collect(),
            zombies: state.domains.zombies(),
            displaced: state.memory.displaced.clone(),
            stray_notifies: state.ports.stray,
        }
    }
}

/// What a domain must not leave behind. All empty is as it was at the start.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Audit {
    /// Mappings in place.
    pub mappings: Vec<Mapping>,
    /// Ports open.
    pub ports: Vec<OpenPort>,
    /// Dead domains that our mappings keep from going.
    pub zombies: Vec<DomainId>,
    /// Frames of our RAM that were lost by mapping over them.
    pub displaced: Vec<u64>,
    /// Events raised at ports that were not open.
    pub stray_notifies: usize,
}

impl Audit {
    /// Whether nothing is left behind.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// The mappings and ports that have to do with one domain.
    pub fn of(&self, domain: DomainId) -> (Vec<&Mapping>, Vec<OpenPort>) {
        let mappings = self.mappings.iter().filter(|mapping| mapping.domain == domain);
        let ports = self.ports.iter().filter(|port| port.domain == domain);
        (mappings.collect(), ports.copied().collect())
    }
}

impl State {
    /// The status that faults on order have for an operation.
    fn strike(&mut self, operation: &Operation) -> Option<i16> {
        let struck = self.faults.strike(operation);
        self.counts.faults += u64::from(struck.is_some());
        struck
    }

    /// Runs a grant operation, unless a fault strikes.
    fn run<T>(
        &mut self,
        operation: &Operation,
        run: impl FnOnce(&mut Self) -> Result<T, i16>,
    ) -> Result<T, i16> {
        match self.strike(operation) {
            Some(status) => Err(status),
            None => run(self),
        }
    }
}

impl Hypervisor for FakeXen {
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) {
        let mut state = self.0.borrow_mut();
        state.counts.copy_calls += 1;
        for copy in batch {
            state.counts.copies += 1;
            let raw = copy.raw();
            let result = state.run(&described(raw), |state| {
                grants::copy(state.us, &mut state.domains, &state.memory, raw)
            });
            raw.status = status(result);
        }
    }

    fn grant_map(&self, batch: &mut [GrantMap]) {
        let mut state = self.0.borrow_mut();
        state.counts.map_calls += 1;
        for map in batch {
            state.counts.maps += 1;
            let raw = map.raw();
            let domain = DomainId(raw.dom);
            let operation = Operation::Map { domain, reference: GrantRef(raw.ref_) };
            let result = state.run(&operation, |state| {
                let State { us, memory, domains, track, .. } = state;
                grants::map(*us, domains, memory, track, raw)
            });
            raw.status = status(result.map(|handle| raw.handle = handle));
        }
    }

    fn grant_unmap(&self, batch: &mut [GrantUnmap]) {
        let mut state = self.0.borrow_mut();
        state.counts.unmap_calls += 1;
        for unmap in batch {
            state.counts.unmaps += 1;
            let raw = unmap.raw();
            let handle = GrantHandle(raw.handle);
            let grant = state.track.grant(handle);
            let operation = Operation::Unmap { handle, grant };
            let result = state.run(&operation, |state| {
                let State { memory, domains, track, .. } = state;
                grants::unmap(domains, memory, track, raw)
            });
            raw.status = status(result);
        }
    }

    fn page(&self, frame: &ForeignFrame) -> SharedPage {
        SharedPage::faked(self.0.borrow_mut().memory.view(frame.number()).clone())
    }

    fn bind_interdomain(&self, domain: DomainId, remote: RemotePort) -> Result<EventPort, Errno> {
        let mut state = self.0.borrow_mut();
        state.counts.binds += 1;
        if let Some(status) = state.strike(&Operation::Bind { domain, remote }) {
            return Err(errno(status));
        }
        let State { us, domains, ports, .. } = &mut *state;
        ports.bind(*us, domains, domain, remote)
    }

    fn close(&self, port: EventPort) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.counts.closes += 1;
        if let Some(status) = state.strike(&Operation::Close { port }) {
            return Err(errno(status));
        }
        let State { us, domains, ports, .. } = &mut *state;
        ports.close(*us, domains, port)
    }

    fn notify(&self, port: EventPort) {
        let mut state = self.0.borrow_mut();
        state.counts.notifies += 1;
        if state.strike(&Operation::Notify { port }).is_some() {
            return;
        }
        let State { domains, ports, .. } = &mut *state;
        ports.notify(domains, port);
    }

    fn now(&self) -> Instant {
        self.0.borrow().now
    }
}

fn status(result: Result<(), i16>) -> i16 {
    result.err().unwrap_or_default()
}

fn errno(status: i16) -> Errno {
    Errno(status.unsigned_abs().into())
}

fn described(copy: &gnttab_copy) -> Operation {
    let side = |side: &crate::bindings::gnttab_copy_gnttab_copy_ptr, flag| {
        // SAFETY: the flags say which member it is.
        let reference = || unsafe { side.u.ref_ };
        let by_reference = u32::from(copy.flags) & flag != 0;
        by_reference.then(|| (DomainId(side.domid), GrantRef(reference())))
    };
    Operation::Copy {
        from: side(&copy.source, GNTCOPY_source_gref),
        to: side(&copy.dest, GNTCOPY_dest_gref),
        len: copy.len,
    }
}

#[cfg(test)]
mod tests;
