//! Grant operations, typed, in the hypervisor's own layout so that a batch goes
//! to Xen as it stands.
//!
//! Each operation's status is preset to a failure and only Xen's zero is success
//! (NETBACK-SPEC H-5; XSA-316 was a positive status taken for none).

use core::fmt;

use crate::bindings::{
    self, GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTMAP_host_map, GNTMAP_readonly, gnttab_copy,
    gnttab_map_grant_ref, gnttab_unmap_grant_ref,
};
use crate::{DomainId, ForeignFrame, LocalRegion, PAGE_SIZE};

/// A guest's allegation that it granted us a page. Only the hypervisor knows
/// whether it did, and the guest can change that at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GrantRef(pub u32);

/// What Xen calls a mapping of ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GrantHandle(pub u32);

/// A grant operation's status other than success (`GNTST_*`, or any other
/// nonzero value).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantError(pub i16);

impl GrantError {
    /// The status every operation starts with: Xen did not reach it.
    pub const NOT_RUN: Self = Self(1);
    /// The granting domain's page is paged out; the operation may be repeated.
    pub const AGAIN: Self = Self(bindings::GNTST_eagain as i16);

    fn check(status: i16) -> Result<(), Self> {
        if status == bindings::GNTST_okay as i16 { Ok(()) } else { Err(Self(status)) }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match i32::from(self.0) {
            1 => "not run",
            bindings::GNTST_general_error => "general error",
            bindings::GNTST_bad_domain => "bad domain",
            bindings::GNTST_bad_gntref => "bad grant reference",
            bindings::GNTST_bad_handle => "bad handle",
            bindings::GNTST_bad_virt_addr => "bad virtual address",
            bindings::GNTST_bad_dev_addr => "bad device address",
            bindings::GNTST_no_device_space => "no IOMMU space",
            bindings::GNTST_permission_denied => "permission denied",
            bindings::GNTST_bad_page => "bad page",
            bindings::GNTST_bad_copy_arg => "copy crosses a page",
            bindings::GNTST_address_too_big => "address too big",
            bindings::GNTST_eagain => "page not present, again",
            bindings::GNTST_no_space => "out of mapping handles",
            _ => "unknown status",
        };
        write!(f, "{name} ({})", self.0)
    }
}

/// A run of bytes in a page that a guest granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantRegion {
    /// Who grants.
    pub domain: DomainId,
    /// The grant.
    pub reference: GrantRef,
    /// Where in the page the bytes begin.
    pub offset: u16,
}

/// One `GNTTABOP_copy`: bytes moved by the hypervisor, nothing mapped.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GrantCopy(gnttab_copy);

impl GrantCopy {
    /// From a guest's page into our own memory: `to` says how many bytes.
    pub fn from_grant(from: GrantRegion, to: LocalRegion) -> Self {
        Self::new(grant_side(from), local_side(to), to.len(), GNTCOPY_source_gref)
    }

    /// From our own memory into a guest's page: `from` says how many bytes.
    pub fn to_grant(from: LocalRegion, to: GrantRegion) -> Self {
        Self::new(local_side(from), grant_side(to), from.len(), GNTCOPY_dest_gref)
    }

    /// From one guest's page into another's.
    pub fn between_grants(from: GrantRegion, to: GrantRegion, len: u16) -> Self {
        let flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
        Self::new(grant_side(from), grant_side(to), len, flags)
    }

    /// From our own memory to our own memory, as many bytes as there is room for.
    pub fn within(from: LocalRegion, to: LocalRegion) -> Self {
        Self::new(local_side(from), local_side(to), from.len().min(to.len()), 0)
    }

    fn new(
        source: bindings::gnttab_copy_gnttab_copy_ptr,
        dest: bindings::gnttab_copy_gnttab_copy_ptr,
        len: u16,
        flags: u32,
    ) -> Self {
        let status = GrantError::NOT_RUN.0;
        Self(gnttab_copy { source, dest, len, flags: flags as u16, status })
    }

    /// What became of it.
    pub fn status(&self) -> Result<(), GrantError> {
        GrantError::check(self.0.status)
    }
}

impl fmt::Debug for GrantCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("GrantCopy");
        debug.field("len", &self.0.len).field("status", &self.status()).finish_non_exhaustive()
    }
}

fn grant_side(region: GrantRegion) -> bindings::gnttab_copy_gnttab_copy_ptr {
    // The union's other bytes are zeroed first: nothing of ours leaks to Xen's copy.
    let mut u = bindings::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { gmfn: 0 };
    u.ref_ = region.reference.0;
    bindings::gnttab_copy_gnttab_copy_ptr { u, domid: region.domain.0, offset: region.offset }
}

fn local_side(region: LocalRegion) -> bindings::gnttab_copy_gnttab_copy_ptr {
    bindings::gnttab_copy_gnttab_copy_ptr {
        u: bindings::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { gmfn: region.frame().number() },
        domid: DomainId::SELF.0,
        offset: region.offset(),
    }
}

/// One `GNTTABOP_map_grant_ref`: a guest's page made readable (or writable) at a
/// frame of ours. Flags are exactly host_map, with readonly where asked (H-3).
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GrantMap(gnttab_map_grant_ref);

impl GrantMap {
    /// Maps `reference` of `domain` at `frame`.
    pub fn new(
        domain: DomainId,
        reference: GrantRef,
        frame: &ForeignFrame,
        writable: bool,
    ) -> Self {
        let readonly = if writable { 0 } else { GNTMAP_readonly };
        Self(gnttab_map_grant_ref {
            host_addr: frame.address(),
            flags: GNTMAP_host_map | readonly,
            ref_: reference.0,
            dom: domain.0,
            status: GrantError::NOT_RUN.0,
            ..Default::default()
        })
    }

    /// The mapping's handle, where it was made.
    pub fn handle(&self) -> Result<GrantHandle, GrantError> {
        GrantError::check(self.0.status).map(|()| GrantHandle(self.0.handle))
    }
}

impl fmt::Debug for GrantMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantMap({} at {:#x}: {:?})", self.0.ref_, self.0.host_addr, self.handle())
    }
}

/// One `GNTTABOP_unmap_grant_ref`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GrantUnmap(gnttab_unmap_grant_ref);

impl GrantUnmap {
    /// Ends the mapping `handle` at `frame`.
    pub fn new(handle: GrantHandle, frame: &ForeignFrame) -> Self {
        Self(gnttab_unmap_grant_ref {
            host_addr: frame.address(),
            dev_bus_addr: 0,
            handle: handle.0,
            status: GrantError::NOT_RUN.0,
        })
    }

    /// What became of it. Where it failed the frame must never be used again.
    pub fn status(&self) -> Result<(), GrantError> {
        GrantError::check(self.0.status)
    }
}

impl fmt::Debug for GrantUnmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantUnmap({} at {:#x}: {:?})", self.0.handle, self.0.host_addr, self.status())
    }
}

/// The raw operations, for whoever plays the hypervisor.
#[cfg(any(test, feature = "fake"))]
mod raw {
    use super::*;

    impl GrantCopy {
        /// As Xen sees it.
        pub fn raw(&mut self) -> &mut gnttab_copy {
            &mut self.0
        }
    }

    impl GrantMap {
        /// As Xen sees it.
        pub fn raw(&mut self) -> &mut gnttab_map_grant_ref {
            &mut self.0
        }
    }

    impl GrantUnmap {
        /// As Xen sees it.
        pub fn raw(&mut self) -> &mut gnttab_unmap_grant_ref {
            &mut self.0
        }
    }
}

const _: () = assert!(PAGE_SIZE <= u16::MAX as usize, "offsets and lengths fit the copy's fields");
