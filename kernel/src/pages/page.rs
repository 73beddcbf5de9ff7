//! What a lent page is to its lender.

use xen::grant::{GrantCopy, GrantRef, GrantRegion};
use xen::{DomainId, LocalFrame, LocalRegion};

/// A page, as its lender names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// A guest's, by its grant.
    Granted(DomainId, GrantRef),
    /// Of our own RAM: what another of our vCPUs lends, which answers for it.
    Own(LocalFrame),
}

impl Page {
    /// The copy from `offset` into our own memory: `to` says how many bytes. `None` where
    /// they leave the page.
    pub fn copy_out(self, offset: u16, to: LocalRegion) -> Option<GrantCopy> {
        match self {
            Self::Granted(domain, reference) => {
                Some(GrantCopy::from_grant(GrantRegion { domain, reference, offset }, to))
            }
            Self::Own(frame) => {
                let from = LocalRegion::new(frame, offset.into(), to.len().into())?;
                Some(GrantCopy::within(from, to))
            }
        }
    }

    /// The copy of `len` bytes from `offset` to a page that a guest grants. `None` where
    /// they leave a page of ours.
    pub fn copy_to_grant(self, offset: u16, to: GrantRegion, len: u16) -> Option<GrantCopy> {
        match self {
            Self::Granted(domain, reference) => {
                let from = GrantRegion { domain, reference, offset };
                Some(GrantCopy::between_grants(from, to, len))
            }
            Self::Own(frame) => {
                Some(GrantCopy::to_grant(LocalRegion::new(frame, offset.into(), len.into())?, to))
            }
        }
    }
}

#[cfg(test)]
impl Page {
    /// The bytes from `offset` of a guest's.
    pub(crate) fn region(self, offset: u16) -> GrantRegion {
        let Self::Granted(domain, reference) = self else { panic!("a page of our own") };
        GrantRegion { domain, reference, offset }
    }
}
