//! Grant tables, and the three operations on them as grant_table.c does them for a
//! domain with its own physical memory (H-3 to H-10).

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::domains::{Domain, Domains};
use super::memory::{self, PageMemory, PhysicalMap};
use crate::bindings::*;
use crate::grant::{GrantHandle, GrantRef};
use crate::{DomainId, PAGE_SIZE};

/// What a grant allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Grant {
    /// Reading only, as Linux grants what it sends.
    ReadOnly,
    /// Reading and writing.
    Writable,
}

/// A grant operation's status other than success.
pub(super) type Status = i16;

const GENERAL: Status = GNTST_general_error as Status;
const BAD_DOMAIN: Status = GNTST_bad_domain as Status;
const BAD_REFERENCE: Status = GNTST_bad_gntref as Status;
const BAD_HANDLE: Status = GNTST_bad_handle as Status;
const PERMISSION: Status = GNTST_permission_denied as Status;
const BAD_PAGE: Status = GNTST_bad_page as Status;
const CROSSES_PAGE: Status = GNTST_bad_copy_arg as Status;
const NO_SPACE: Status = GNTST_no_space as Status;

/// Entries that a table grows by, and that it keeps for the toolstack.
const TABLE_PAGE: usize = 512;
const RESERVED: usize = 8;

/// An entry: what the guest writes there at any time, and what Xen remembers while
/// it is in use.
#[derive(Clone, Debug, Default, Hash)]
struct Entry {
    granted: Option<Granted>,
    /// What is in use, however the guest changes the entry meanwhile.
    active: Option<Arc<PageMemory>>,
    readers: u32,
    writers: u32,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Granted {
    to: DomainId,
    frame: u64,
    grant: Grant,
}

impl Entry {
    fn in_use(&self) -> bool {
        self.readers + self.writers > 0
    }
}

/// A guest's grant table.
#[derive(Debug)]
pub(super) struct GrantTable {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Hash for GrantTable {
    /// Of the entries those that are granted or in use: one free entry is as good as
    /// another.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let entries = self.entries.iter().enumerate();
        let used = entries.filter(|(_, entry)| entry.granted.is_some() || entry.in_use());
        used.for_each(|used| used.hash(hasher));
    }
}

impl GrantTable {
    pub(super) fn new() -> Self {
        let mut table = Self { entries: vec![Entry::default(); RESERVED], free: Vec::new() };
        table.grow(TABLE_PAGE - RESERVED);
        table
    }

    fn grow(&mut self, by: usize) {
        let start = self.entries.len();
        self.entries.resize(start + by, Entry::default());
        // The lowest comes first, and one just freed before all others.
        self.free.extend((start..start + by).rev().map(|number| number as u32));
    }

    /// Writes a free entry.
    pub(super) fn grant(&mut self, to: DomainId, frame: u64, grant: Grant) -> GrantRef {
        if self.free.is_empty() {
            self.grow(TABLE_PAGE);
        }
        let number = self.free.last().expect("the table has just grown");
        let reference = GrantRef(*number);
        self.set(reference, to, frame, grant);
        reference
    }

    /// Writes an entry, whatever was there.
    pub(super) fn set(&mut self, reference: GrantRef, to: DomainId, frame: u64, grant: Grant) {
        self.free.retain(|free| *free != reference.0);
        self.entry(reference).granted = Some(Granted { to, frame, grant });
    }

    /// Clears an entry, whoever uses it. Says whether somebody does.
    pub(super) fn clear(&mut self, reference: GrantRef) -> bool {
        let entry = self.entry(reference);
        let was_granted = entry.granted.take().is_some();
        let in_use = entry.in_use();
        if was_granted && !in_use {
            self.free.push(reference.0);
        }
        in_use
    }

    /// Whether somebody uses the entry.
    pub(super) fn in_use(&mut self, reference: GrantRef) -> bool {
        self.entry(reference).in_use()
    }

    /// Clears everything that nobody uses.
    pub(super) fn clear_all(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.granted = None);
    }

    /// Whether anything is in use.
    pub(super) fn any_in_use(&self) -> bool {
        self.entries.iter().any(Entry::in_use)
    }

    fn entry(&mut self, reference: GrantRef) -> &mut Entry {
        self.entries.get_mut(reference.0 as usize).expect("the guest has no such entry")
    }
}

impl Domain {
    /// The page behind a grant, for a use by `user` that writes or does not.
    /// What is in use already is not looked up again.
    fn granted(
        &mut self,
        user: DomainId,
        reference: GrantRef,
        writes: bool,
    ) -> Result<Arc<PageMemory>, Status> {
        let entry = self.grants.entries.get(reference.0 as usize).ok_or(BAD_REFERENCE)?;
        if let Some(active) = &entry.active
            && (!writes || entry.writers > 0)
        {
            return Ok(active.clone());
        }
        let granted = entry.granted.ok_or(GENERAL)?;
        if (entry.active.is_none() && granted.to != user)
            || (writes && granted.grant == Grant::ReadOnly)
        {
            return Err(GENERAL);
        }
        let frame = self.frames.get(&granted.frame).ok_or(BAD_PAGE)?;
        if writes && frame.never_writable {
            return Err(GENERAL);
        }
        match &entry.active {
            Some(active) if !Arc::ptr_eq(active, &frame.page) => Err(GENERAL),
            _ => Ok(frame.page.clone()),
        }
    }
}

/// A mapping that is in place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    /// Whose page.
    pub domain: DomainId,
    /// By which grant.
    pub reference: GrantRef,
    /// At which frame of ours.
    pub frame: u64,
    /// Whether we can write it.
    pub writable: bool,
    /// Its handle.
    pub handle: GrantHandle,
}

/// Our mappings.
pub(super) struct Maptrack {
    mappings: BTreeMap<u32, (Mapping, Arc<PageMemory>)>,
    /// Handles used before, and whose they were; the longest unused first.
    ended: VecDeque<(u32, DomainId)>,
    fresh: u32,
    pub(super) limit: usize,
}

/// Handles in a frame of the table, and frames (H-7).
const FRAME_HANDLES: usize = 256;
const FRAMES: usize = 1024;

impl Hash for Maptrack {
    /// The mappings in place: one free handle is as good as another.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.mappings().for_each(|mapping| mapping.hash(hasher));
        self.limit.hash(hasher);
    }
}

impl Maptrack {
    pub(super) fn new() -> Self {
        Self {
            mappings: BTreeMap::new(),
            ended: VecDeque::new(),
            fresh: 0,
            limit: FRAMES * FRAME_HANDLES,
        }
    }

    pub(super) fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.values().map(|(mapping, _)| mapping)
    }

    /// What a handle stands for.
    pub(super) fn grant(&self, handle: GrantHandle) -> Option<(DomainId, GrantRef)> {
        let (mapping, _) = self.mappings.get(&handle.0)?;
        Some((mapping.domain, mapping.reference))
    }

    fn is_full(&self) -> bool {
        self.mappings.len() >= self.limit
    }

    fn take_handle(&mut self) -> u32 {
        if self.ended.len() >= FRAME_HANDLES
            && let Some((handle, _)) = self.ended.pop_front()
        {
            return handle;
        }
        self.fresh += 1;
        self.fresh - 1
    }
}

/// One side of a copy.
fn operand(
    us: DomainId,
    domains: &mut Domains,
    map: &PhysicalMap,
    side: &gnttab_copy_gnttab_copy_ptr,
    by_reference: bool,
    writes: bool,
) -> Result<(std::ptr::NonNull<u8>, Option<Arc<PageMemory>>), Status> {
    if !by_reference {
        // SAFETY: the flags say which member it is; both are plain numbers.
        let frame = unsafe { side.u.gmfn };
        return map.ram(frame).map(|base| (base, None)).ok_or(BAD_PAGE);
    }
    // SAFETY: as above.
    let reference = GrantRef(unsafe { side.u.ref_ });
    let domain = domains.alive(DomainId(side.domid)).ok_or(BAD_DOMAIN)?;
    let page = domain.granted(us, reference, writes)?;
    Ok((page.base(), Some(page)))
}

/// Whose a side of a copy is, or why it can be nobody's.
fn owner(
    domains: &mut Domains,
    side: &gnttab_copy_gnttab_copy_ptr,
    by_reference: bool,
) -> Result<(), Status> {
    let domain = DomainId(side.domid);
    if domain == DomainId::SELF {
        // We grant nothing, and a local frame is ours.
        return if by_reference { Err(GENERAL) } else { Ok(()) };
    }
    if !by_reference {
        return Err(PERMISSION);
    }
    domains.alive(domain).map(drop).ok_or(BAD_DOMAIN)
}

/// `GNTTABOP_copy`, in the order of Xen's checks.
pub(super) fn copy(
    us: DomainId,
    domains: &mut Domains,
    map: &PhysicalMap,
    operation: &gnttab_copy,
) -> Result<(), Status> {
    let gnttab_copy { source, dest, len, flags, .. } = operation;
    if *len == 0 {
        return Ok(());
    }
    let by_reference = |flag: u32| u32::from(*flags) & flag != 0;
    let (from_grant, to_grant) =
        (by_reference(GNTCOPY_source_gref), by_reference(GNTCOPY_dest_gref));
    owner(domains, source, from_grant)?;
    owner(domains, dest, to_grant)?;
    let from = operand(us, domains, map, source, from_grant, false)?;
    let to = operand(us, domains, map, dest, to_grant, true)?;
    let leaves = |offset: u16| usize::from(offset) + usize::from(*len) > PAGE_SIZE;
    if leaves(source.offset) || leaves(dest.offset) {
        return Err(CROSSES_PAGE);
    }
    // SAFETY: both are pages, whose owners are kept above or are our own RAM, and
    // the ranges were just checked. Nobody has a reference to them: guests' pages
    // are never referenced, and of ours the caller of `grant_copy` vouches for it.
    unsafe { memory::copy((from.0, source.offset), (to.0, dest.offset), *len) };
    Ok(())
}

/// `GNTTABOP_map_grant_ref`.
pub(super) fn map(
    us: DomainId,
    domains: &mut Domains,
    physical: &mut PhysicalMap,
    track: &mut Maptrack,
    operation: &gnttab_map_grant_ref,
) -> Result<u32, Status> {
    let gnttab_map_grant_ref { host_addr, flags, ref_, dom, .. } = *operation;
    if flags & GNTMAP_host_map == 0 {
        return Err(BAD_REFERENCE);
    }
    if flags & !(GNTMAP_host_map | GNTMAP_readonly) != 0 {
        return Err(GENERAL);
    }
    let (id, reference) = (DomainId(dom), GrantRef(ref_));
    assert!(
        id != us && id != DomainId::SELF,
        "mapping a grant of our own moves the page from where it is (H-4)"
    );
    let domain = domains.alive(id).ok_or(BAD_DOMAIN)?;
    let writable = flags & GNTMAP_readonly == 0;
    if track.is_full() {
        return Err(NO_SPACE);
    }
    let page = domain.granted(us, reference, writable)?;
    let handle = track.take_handle();
    let frame = host_addr / PAGE_SIZE as u64;
    physical.map(frame, &page, writable, GrantHandle(handle));
    let entry = domain.grants.entry(reference);
    *if writable { &mut entry.writers } else { &mut entry.readers } += 1;
    entry.active = Some(page.clone());
    let mapping = Mapping { domain: id, reference, frame, writable, handle: GrantHandle(handle) };
    track.mappings.insert(handle, (mapping, page));
    Ok(handle)
}

/// `GNTTABOP_unmap_grant_ref`.
pub(super) fn unmap(
    domains: &mut Domains,
    physical: &mut PhysicalMap,
    track: &mut Maptrack,
    operation: &gnttab_unmap_grant_ref,
) -> Result<(), Status> {
    let gnttab_unmap_grant_ref { host_addr, handle, .. } = *operation;
    let Some((mapping, page)) = track.mappings.get(&handle) else {
        // Xen finds the handle free or, where it was taken again since, somebody
        // else's mapping; what happens then is anybody's guess (H-6).
        if let Some((_, domain)) = track.ended.iter().find(|(ended, _)| *ended == handle) {
            assert!(
                domains.exists(*domain),
                "domain crashed: unmapping handle {handle} of {domain}, which is gone"
            );
        }
        return Err(BAD_HANDLE);
    };
    if !physical.unmap(host_addr / PAGE_SIZE as u64, page) {
        return Err(GENERAL);
    }
    let Mapping { domain: id, reference, writable, .. } = *mapping;
    track.mappings.remove(&handle);
    track.ended.push_back((handle, id));
    let entry = domains.pinned(id).grants.entry(reference);
    *if writable { &mut entry.writers } else { &mut entry.readers } -= 1;
    if !entry.in_use() {
        entry.active = None;
    }
    domains.bury(id);
    Ok(())
}
