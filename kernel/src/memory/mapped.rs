//! Guests' pages mapped for good: their rings.

use xen::grant::{GrantError, GrantHandle, GrantMap, GrantRef, GrantUnmap};
use xen::{DomainId, ForeignFrame, Hypervisor, SharedPage};

use super::Window;

/// How often an operation on a page that is paged out is tried again (H-5).
pub(super) const RETRIES: usize = 8;

/// Maps a batch of granted pages; each says for itself what became of it.
pub(crate) fn map<H: Hypervisor>(hypervisor: &H, batch: &mut [GrantMap]) {
    hypervisor.grant_map(batch);
    for map in batch {
        for _ in 0..RETRIES {
            if map.handle() != Err(GrantError::AGAIN) {
                break;
            }
            hypervisor.grant_map(core::slice::from_mut(map));
        }
    }
}

/// Why a page could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame number is left to map at.
    NoFrame,
    /// Xen refused.
    Refused(GrantError),
}

/// A guest's page, mapped writable until [`unmap`](Self::unmap).
#[must_use = "a mapping ends by MappedPage::unmap"]
#[derive(Debug)]
pub struct MappedPage {
    frame: ForeignFrame,
    handle: GrantHandle,
}

impl MappedPage {
    /// Maps the page that `domain` granted as `reference`.
    pub fn map<H: Hypervisor>(
        hypervisor: &H,
        window: &mut Window,
        domain: DomainId,
        reference: GrantRef,
    ) -> Result<Self, MapError> {
        let frame = window.take().ok_or(MapError::NoFrame)?;
        let mut batch = [GrantMap::new(domain, reference, &frame, true)];
        map(hypervisor, &mut batch);
        match batch[0].handle() {
            Ok(handle) => Ok(Self { frame, handle }),
            Err(error) => {
                window.give(frame);
                Err(MapError::Refused(error))
            }
        }
    }

    /// The page, to be read and written while it is mapped.
    pub fn page<H: Hypervisor>(&self, hypervisor: &H) -> SharedPage {
        hypervisor.page(&self.frame)
    }

    /// Ends the mapping. Where Xen refuses, the frame is never used again.
    pub fn unmap<H: Hypervisor>(
        self,
        hypervisor: &H,
        window: &mut Window,
    ) -> Result<(), GrantError> {
        let mut unmap = [GrantUnmap::new(self.handle, &self.frame)];
        hypervisor.grant_unmap(&mut unmap);
        let status = unmap[0].status();
        match status {
            Ok(()) => window.give(self.frame),
            Err(_) => window.quarantine(self.frame),
        }
        status
    }
}
