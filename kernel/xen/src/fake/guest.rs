//! What another domain does.

use super::domains::{Domain, GuestPage};
use super::grants::Grant;
use super::memory::{PageMemory, View};
use super::{FakeXen, State};
use crate::event::RemotePort;
use crate::grant::GrantRef;
use crate::{DomainId, SharedPage};

/// A frame of a guest's own memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GuestFrame(pub u64);

/// Acts for a domain; clones are the same one.
#[derive(Clone)]
pub struct Guest {
    pub(super) xen: FakeXen,
    pub(super) id: DomainId,
}

impl Guest {
    /// Its number.
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// Adds a zeroed page to its memory.
    pub fn add_page(&self) -> GuestFrame {
        self.with(|domain, _| {
            let frame = domain.next_frame;
            domain.next_frame += 1;
            let page = PageMemory::filled(0);
            let view = View::of(page.clone());
            domain.frames.insert(frame, GuestPage { page, view, never_writable: false });
            GuestFrame(frame)
        })
    }

    /// What the guest itself sees at a frame: of a page given away, nothing.
    pub fn page(&self, frame: GuestFrame) -> SharedPage {
        let view = self.with(|domain, _| {
            domain.frames.get(&frame.0).map_or_else(View::nothing, |page| page.view.clone())
        });
        SharedPage::faked(view)
    }

    /// Gives a page back to Xen, as a balloon does: the frame is empty. Whoever
    /// maps the page still has it.
    pub fn balloon_out(&self, frame: GuestFrame) {
        self.with(|domain, _| {
            if let Some(page) = domain.frames.remove(&frame.0) {
                page.view.clear();
            }
        });
    }

    /// Puts a fresh page behind a frame, in place of what was there.
    pub fn replace_page(&self, frame: GuestFrame) {
        self.with(|domain, _| {
            let Some(page) = domain.frames.get_mut(&frame.0) else { return };
            page.page = PageMemory::filled(0);
            page.view.show(page.page.clone(), true);
        });
    }

    /// Makes a page one that Xen lets nobody write, such as a page table.
    pub fn make_page_table(&self, frame: GuestFrame) {
        self.with(|domain, _| {
            if let Some(page) = domain.frames.get_mut(&frame.0) {
                page.never_writable = true;
            }
        });
    }

    /// Grants us a page.
    pub fn grant(&self, frame: GuestFrame, grant: Grant) -> GrantRef {
        self.with(|domain, us| domain.grants.grant(us, frame.0, grant))
    }

    /// Grants a page to somebody else.
    pub fn grant_to(&self, to: DomainId, frame: GuestFrame, grant: Grant) -> GrantRef {
        self.with(|domain, _| domain.grants.grant(to, frame.0, grant))
    }

    /// Rewrites an entry, in use or not.
    pub fn regrant(&self, reference: GrantRef, frame: GuestFrame, grant: Grant) {
        self.with(|domain, us| domain.grants.set(reference, us, frame.0, grant));
    }

    /// Ends a grant, as an honest guest does: not while it is in use. Says whether
    /// it did.
    #[must_use = "a grant in use does not end"]
    pub fn end_grant(&self, reference: GrantRef) -> bool {
        self.with(|domain, _| !domain.grants.in_use(reference) && !domain.grants.clear(reference))
    }

    /// Whether somebody uses what an entry grants.
    pub fn is_in_use(&self, reference: GrantRef) -> bool {
        self.with(|domain, _| domain.grants.in_use(reference))
    }

    /// Clears an entry, in use or not. What is in use stays in use.
    pub fn revoke(&self, reference: GrantRef) {
        self.with(|domain, _| domain.grants.clear(reference));
    }

    /// Opens a port for us to bind to.
    pub fn open_port(&self) -> RemotePort {
        self.with(|domain, us| domain.channels.alloc_unbound(us))
    }

    /// Opens a port for somebody else.
    pub fn open_port_for(&self, remote: DomainId) -> RemotePort {
        self.with(|domain, _| domain.channels.alloc_unbound(remote))
    }

    /// Raises the event at a port's other end.
    pub fn notify(&self, port: RemotePort) {
        let state = &mut *self.xen.0.borrow_mut();
        let ours = living(state, self.id).channels.other_end(port);
        ours.into_iter().for_each(|ours| state.ports.raise(ours));
    }

    /// Takes the events that arrived at a port, and says how many.
    pub fn take_events(&self, port: RemotePort) -> usize {
        self.with(|domain, _| domain.channels.take_events(port))
    }

    /// Closes a port.
    pub fn close_port(&self, port: RemotePort) {
        let state = &mut *self.xen.0.borrow_mut();
        let ours = living(state, self.id).channels.close(port);
        ours.into_iter().for_each(|ours| state.ports.abandon(ours));
    }

    /// Destroys the domain. It goes for good once we map nothing of it.
    pub fn die(&self) {
        let state = &mut *self.xen.0.borrow_mut();
        state.domains.kill(self.id);
        state.ports.abandon_all(self.id);
    }

    fn with<R>(&self, run: impl FnOnce(&mut Domain, DomainId) -> R) -> R {
        let state = &mut *self.xen.0.borrow_mut();
        let us = state.us;
        run(living(state, self.id), us)
    }
}

fn living(state: &mut State, id: DomainId) -> &mut Domain {
    state.domains.alive(id).expect("the domain is dead")
}
