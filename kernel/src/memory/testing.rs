//! Memory for tests on the host: packet buffers in leaked pages, and guests whose
//! pages can be copied from.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use xen::bindings::{
    GNTCOPY_source_gref, GNTST_bad_gntref, GNTST_eagain, GNTST_no_space, GNTST_okay,
};
use xen::event::{EventPort, RemotePort};
use xen::grant::{GrantCopy, GrantMap, GrantRef, GrantRegion, GrantUnmap};
use xen::{DomainId, Errno, ForeignFrame, Hypervisor, Instant, LocalFrame, PAGE_SIZE, SharedPage};

use super::{Buffers, Ram, Window};
use crate::pages::choice::Mode;
use crate::pools::{Limits, Pools};

/// Pages whose frame numbers are their addresses.
pub(crate) fn ram(pages: usize) -> Ram {
    let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap();
    // SAFETY: no test asks for no page.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
    let number = base.as_ptr().expose_provenance() / PAGE_SIZE;
    // SAFETY: `copy_to` below takes it for the address that it is.
    let first = unsafe { LocalFrame::new(number as u64) };
    // SAFETY: fresh, aligned, zeroed, and never freed.
    unsafe { Ram::new(base, first, pages) }
}

/// Pools with so many packets, pages of small and of large buffers, and copies in
/// a batch, and frames to map at.
pub(crate) fn pools(packets: usize, small: usize, large: usize, copies: usize) -> Pools {
    let limits = Limits { packets, copies, map: Mode::Auto };
    // SAFETY: nothing is mapped there, and each number is taken once.
    let frames = (1..=256).map(|number| unsafe { ForeignFrame::new(number) });
    Pools::new(Buffers::new(ram(small), ram(large)), Window::of(frames.collect()), limits)
}

/// A hypervisor under which guests grant pages to be copied from, and which
/// maps them.
#[derive(Clone, Default)]
pub(crate) struct Guests(Rc<State>);

#[derive(Default)]
struct State {
    pages: RefCell<HashMap<(DomainId, GrantRef), Vec<u8>>>,
    batches: Cell<usize>,
    maps: Cell<usize>,
    maps_none: Cell<bool>,
    clock: Cell<u64>,
    paged_out: Cell<usize>,
}

impl Guests {
    /// Has a guest grant a page with these first bytes.
    pub(crate) fn grant(&self, domain: DomainId, reference: GrantRef, bytes: &[u8]) {
        let mut page = bytes.to_vec();
        page.resize(PAGE_SIZE, 0);
        self.0.pages.borrow_mut().insert((domain, reference), page);
    }

    /// Ends a grant.
    pub(crate) fn revoke(&self, domain: DomainId, reference: GrantRef) {
        self.0.pages.borrow_mut().remove(&(domain, reference));
    }

    /// Bytes of a page, while it is granted.
    pub(crate) fn read(&self, from: GrantRegion, len: usize) -> Option<Vec<u8>> {
        let pages = self.0.pages.borrow();
        let page = pages.get(&(from.domain, from.reference))?;
        let start = usize::from(from.offset);
        Some(page[start..start + len].to_vec())
    }

    /// How many batches of copies ran.
    pub(crate) fn batches(&self) -> usize {
        self.0.batches.get()
    }

    /// Has no page mapped from now on.
    pub(crate) fn map_none(&self) {
        self.0.maps_none.set(true);
    }

    /// How many batches of pages were to be mapped.
    pub(crate) fn maps(&self) -> usize {
        self.0.maps.get()
    }

    /// Has the next `times` copies find their page paged out.
    pub(crate) fn page_out(&self, times: usize) {
        self.0.paged_out.set(times);
    }

    fn copy(&self, copy: &mut xen::bindings::gnttab_copy) -> i32 {
        assert_eq!(u32::from(copy.flags), GNTCOPY_source_gref, "only from guests");
        if let Some(left) = self.0.paged_out.get().checked_sub(1) {
            self.0.paged_out.set(left);
            return GNTST_eagain;
        }
        // SAFETY: the flags say which member it is.
        let reference = GrantRef(unsafe { copy.source.u.ref_ });
        let pages = self.0.pages.borrow();
        let Some(page) = pages.get(&(DomainId(copy.source.domid), reference)) else {
            return GNTST_bad_gntref;
        };
        let (start, len) = (usize::from(copy.source.offset), usize::from(copy.len));
        // SAFETY: the flags say which member it is.
        let frame = unsafe { copy.dest.u.gmfn } as usize;
        let to = ptr::with_exposed_provenance_mut::<u8>(frame * PAGE_SIZE);
        let to = to.wrapping_add(usize::from(copy.dest.offset));
        // SAFETY: the frame is one of `ram`, and the caller of `grant_copy` owns it.
        unsafe { ptr::copy_nonoverlapping(page[start..start + len].as_ptr(), to, len) };
        GNTST_okay as i32
    }
}

impl Hypervisor for Guests {
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) {
        self.0.batches.set(self.0.batches.get() + 1);
        for copy in batch {
            let copy = copy.raw();
            copy.status = self.copy(copy) as i16;
        }
    }

    fn grant_map(&self, batch: &mut [GrantMap]) {
        self.0.maps.set(self.0.maps.get() + 1);
        for map in batch.iter_mut().map(GrantMap::raw) {
            let granted = (DomainId(map.dom), GrantRef(map.ref_));
            map.status = match self.0.pages.borrow().contains_key(&granted) {
                _ if self.0.maps_none.get() => GNTST_no_space,
                false => GNTST_bad_gntref,
                true => GNTST_okay as i32,
            } as i16;
        }
    }

    fn grant_unmap(&self, batch: &mut [GrantUnmap]) {
        batch.iter_mut().for_each(|unmap| unmap.raw().status = GNTST_okay as i16);
    }

    fn page(&self, _: &ForeignFrame) -> SharedPage {
        unreachable!("nobody looks");
    }

    fn bind_interdomain(&self, _: DomainId, _: RemotePort) -> Result<EventPort, Errno> {
        unreachable!("no events");
    }

    fn close(&self, _: EventPort) -> Result<(), Errno> {
        unreachable!("no events");
    }

    fn notify(&self, _: EventPort) {
        unreachable!("no events");
    }

    /// A millisecond later each time.
    fn now(&self) -> Instant {
        self.0.clock.set(self.0.clock.get() + 1);
        Instant(self.0.clock.get() * 1_000_000)
    }
}
