//! Making packets ready for the port they wait for.
//!
//! A port may refuse to look at lent pages, or packets whose checksum is not made;
//! and no source may have too many pages in one queue (NETBACK-SPEC O-8). Such
//! packets are replaced by private copies, those of all ports by one batch of
//! copies, so that a driver finds in its queue only what it can send.

use alloc::vec::Vec;

use xen::Hypervisor;
use xen::netif::Status;

use super::counters::DropReason;
use super::port::{Holding, PartialChecksums, Port, Ports};
use super::{PortState, Switch};
use crate::memory::{Buffers, Size};
use crate::packet::{Checksum, Ethernet, HeaderError, MAX_FRAGMENTS, Packet, checksum};
use crate::{HEADROOM, Pools, Private};

/// The most copies under way at once. Where more are needed, they are made in
/// several batches.
const COPIES: usize = 128;

/// Private copies under way, each to take its original's place.
pub(super) struct Copies(Vec<Copying>);

struct Copying {
    /// The index of the port.
    port: u16,
    /// Where in the port's queue the original is.
    place: usize,
    private: Private,
    /// Whether the copy's checksum is to be made.
    finish: bool,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(COPIES))
    }
}

/// What a port takes.
struct Terms {
    lent: bool,
    partial: PartialChecksums,
}

impl Terms {
    fn of(port: &dyn Port) -> Self {
        let lent = matches!(port.holding(), Holding::Granted(_));
        Self { lent, partial: port.partial_checksums() }
    }

    /// Whether the port takes a packet's checksum as it is.
    fn take_checksum(&self, packet: &Packet, buffers: &Buffers) -> bool {
        if packet.meta.checksum != Checksum::Partial || self.partial == PartialChecksums::ALL {
            return true;
        }
        let ethernet = Ethernet::parse(packet.headers(buffers));
        ethernet.ok().and_then(|ethernet| ethernet.ip()).is_some_and(|ip| self.partial.over(ip))
    }
}

impl Switch {
    /// Makes ready what the dirty ports' queues got.
    pub(super) fn prepare<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        ports: &mut impl Ports,
    ) {
        for dirty in 0..self.dirty.len() {
            let index = self.dirty[dirty];
            let Some(terms) = ports.port(self.id(index)).map(|port| Terms::of(port)) else {
                continue;
            };
            for place in self.state_mut(index).map_or(0..0, |state| state.queue.fresh()) {
                self.start(hypervisor, index, place, pools, |state, pools| {
                    state.make_ready(place, &terms, pools)
                });
            }
        }
        self.finish(hypervisor, pools);
    }

    /// Sees that what the ports did not send at once borrows few pages of each
    /// source (NETBACK-SPEC O-8); what is beyond is copied.
    pub(super) fn settle<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        pools: &mut Pools,
        ports: &mut impl Ports,
    ) {
        for dirty in 0..self.dirty.len() {
            let index = self.dirty[dirty];
            if ports.port(self.id(index)).is_none() {
                continue;
            }
            for place in self.state_mut(index).map_or(0..0, |state| state.queue.settle()) {
                self.start(hypervisor, index, place, pools, |state, pools| {
                    let borrows = state.queue.get(place).is_some_and(|packet| !packet.is_private());
                    if borrows && !state.queue.lend(place) {
                        state.copy(place, false, pools)
                    } else {
                        Ok(None)
                    }
                });
            }
        }
        self.finish(hypervisor, pools);
    }

    /// Does a step with the packet at `place` of a port's queue, which may start a
    /// copy of it or have it dropped.
    fn start<H: Hypervisor>(
        &mut self,
        hypervisor: &H,
        port: u16,
        place: usize,
        pools: &mut Pools,
        step: impl FnOnce(&mut PortState, &mut Pools) -> Result<Option<(Private, bool)>, DropReason>,
    ) {
        if self.copies.0.len() == COPIES || pools.copies.room() < MAX_FRAGMENTS {
            self.complete(hypervisor, pools);
        }
        let Some(state) = self.slots[usize::from(port)].state.as_mut() else { return };
        match step(state, pools) {
            Ok(None) => {}
            Ok(Some((private, finish))) => {
                self.copies.0.push(Copying { port, place, private, finish });
            }
            Err(reason) => state.drop_queued(place, reason, pools),
        }
    }

    /// Completes all copies, and closes the gaps that dropped packets left.
    fn finish<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        self.complete(hypervisor, pools);
        for dirty in 0..self.dirty.len() {
            if let Some(state) = self.state_mut(self.dirty[dirty]) {
                state.queue.close_holes();
            }
        }
    }

    /// Runs the copies collected so far and puts them in their originals' places.
    fn complete<H: Hypervisor>(&mut self, hypervisor: &H, pools: &mut Pools) {
        pools.run_copies(hypervisor);
        for Copying { port, place, private, finish } in self.copies.0.drain(..) {
            match &mut self.slots[usize::from(port)].state {
                Some(state) => state.put_copy(place, private, finish, pools),
                None => pools.give(private.packet),
            }
        }
        pools.copies.clear();
    }
}

impl PortState {
    /// Sees that the packet at `place` is what the port takes. Where it has to be
    /// replaced by a private copy, starts one and says whether its checksum is to
    /// be made.
    fn make_ready(
        &mut self,
        place: usize,
        terms: &Terms,
        pools: &mut Pools,
    ) -> Result<Option<(Private, bool)>, DropReason> {
        let Some(packet) = self.queue.get_mut(place) else { return Ok(None) };
        let finish = !terms.take_checksum(packet, &pools.buffers);
        if packet.is_private() {
            if !finish {
                return Ok(None);
            }
            if let Some(finished) = finish_checksum(packet, &mut pools.buffers) {
                return finished.map(|()| None).map_err(|_| DropReason::NoChecksum);
            }
        } else if terms.lent && !finish {
            return Ok(None);
        }
        self.copy(place, finish, pools)
    }

    /// Starts a private copy of the packet at `place`.
    fn copy(
        &self,
        place: usize,
        finish: bool,
        pools: &mut Pools,
    ) -> Result<Option<(Private, bool)>, DropReason> {
        let Some(packet) = self.queue.get(place) else { return Ok(None) };
        if usize::from(HEADROOM) + packet.len() > Size::Large.bytes() {
            return Err(DropReason::TooLongToCopy);
        }
        let private = pools.privatise(packet).ok_or(DropReason::Exhausted)?;
        Ok(Some((private, finish)))
    }

    /// Puts a copy that was run in its original's place, or drops both where it
    /// failed.
    fn put_copy(&mut self, place: usize, private: Private, finish: bool, pools: &mut Pools) {
        let mut failure = None;
        for fragment in private.failures(&pools.copies) {
            failure = Some(DropReason::CopyFailed);
            let original = self.queue.get(place).and_then(|packet| packet.fragments.get(fragment));
            if let Some(fragment) = original {
                // What is dropped for any other reason was accepted: its requests
                // are answered as if it had been sent (NETBACK-SPEC P-15).
                pools.tracker.set_status(&fragment.hold, Status::Error as i16);
            }
        }
        let mut copy = private.packet;
        if failure.is_none()
            && finish
            && !matches!(finish_checksum(&mut copy, &mut pools.buffers), Some(Ok(())))
        {
            failure = Some(DropReason::NoChecksum);
        }
        match failure {
            Some(reason) => {
                pools.give(copy);
                self.drop_queued(place, reason, pools);
            }
            None => pools.give(self.queue.replace(place, copy)),
        }
    }

    fn drop_queued(&mut self, place: usize, reason: DropReason, pools: &mut Pools) {
        if let Some(packet) = self.queue.take(place) {
            self.counters.discard(reason, packet, pools);
        }
    }
}

/// Makes a private packet's checksum where it lies; `None` if somebody else looks
/// at the same bytes.
fn finish_checksum(packet: &mut Packet, buffers: &mut Buffers) -> Option<Result<(), HeaderError>> {
    let linear = packet.linear.as_mut()?;
    let start = usize::from(linear.offset);
    let cell = buffers.bytes_mut(&mut linear.buffer)?;
    let frame = cell.get_mut(start..start + usize::from(linear.len))?;
    let finished = checksum::finish(frame);
    if finished.is_ok() {
        packet.meta.checksum = Checksum::Validated;
    }
    Some(finished)
}
