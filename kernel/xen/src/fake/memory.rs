//! Machine pages, and what each of our frame numbers stands for.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ptr::{self, NonNull};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::PAGE_SIZE;
use crate::grant::GrantHandle;
use crate::page::Access;

/// A page of the host's memory.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(super) struct PageMemory(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: its bytes are accessed atomically through `SharedPage`, or by a copy of
// the fake's, which as in Xen may tear.
unsafe impl Sync for PageMemory {}

impl PageMemory {
    /// A page full of `byte`.
    pub(super) fn filled(byte: u8) -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new([byte; PAGE_SIZE])))
    }

    /// The address of its first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        NonNull::from(&self.0).cast()
    }
}

impl Hash for PageMemory {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_page(self.base(), hasher);
    }
}

/// Hashes the bytes of a page.
fn hash_page(base: NonNull<u8>, hasher: &mut impl Hasher) {
    // SAFETY: the base of a page, all of it initialised. Whoever writes it is not here
    // now, and if it were on another thread the copy may tear, as one of Xen's.
    let bytes = unsafe { base.cast::<[u8; PAGE_SIZE]>().read() };
    hasher.write(&bytes);
}

/// A place where a page can be seen: one of our frames, or one of a guest's. What
/// is seen there changes under whoever looks.
#[derive(Debug)]
pub(crate) struct View(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    reads: Arc<PageMemory>,
    writes: Arc<PageMemory>,
}

/// What is read where nothing is.
static ONES: LazyLock<Arc<PageMemory>> = LazyLock::new(|| PageMemory::filled(0xff));
/// Where writes go that go nowhere. Nobody reads it.
static LOST: LazyLock<Arc<PageMemory>> = LazyLock::new(|| PageMemory::filled(0));

impl View {
    /// Where nothing is: reads return ones and writes go nowhere (H-10).
    pub(super) fn nothing() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Seen { reads: ONES.clone(), writes: LOST.clone() })))
    }

    /// Where `page` is.
    pub(super) fn of(page: Arc<PageMemory>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Seen { reads: page.clone(), writes: page })))
    }

    /// Puts `page` here. What is written to a read-only mapping goes nowhere, with
    /// no fault (H-10).
    pub(super) fn show(&self, page: Arc<PageMemory>, writable: bool) {
        let writes = if writable { page.clone() } else { LOST.clone() };
        *self.seen() = Seen { reads: page, writes };
    }

    /// Takes away what is here.
    pub(super) fn clear(&self) {
        *self.seen() = Seen { reads: ONES.clone(), writes: LOST.clone() };
    }

    /// Runs `run` with the address that an access reaches; the page stays.
    pub(crate) fn with_base<R>(&self, access: Access, run: impl FnOnce(NonNull<u8>) -> R) -> R {
        let seen = self.seen();
        let page = if access == Access::Read { &seen.reads } else { &seen.writes };
        run(page.base())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device looked where nothing is, or wrote where it must not. On real hardware Xen
/// counts it against the device, and ten take its bus mastering away (H-13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IommuFault {
    /// The address.
    pub address: u64,
}

/// What a frame number of ours stands for.
enum Entry {
    /// Our own RAM, at this address.
    Ram(NonNull<u8>),
    /// A guest's page.
    Grant { page: Arc<PageMemory>, handle: GrantHandle },
}

/// Our physical memory.
#[derive(Default)]
pub(super) struct PhysicalMap {
    entries: BTreeMap<u64, Entry>,
    /// What [`page`](super::FakeXen) handed out for frames outside RAM.
    views: BTreeMap<u64, Arc<View>>,
    blocks: Vec<(NonNull<u8>, Layout)>,
    /// RAM that was lost because something was mapped over it.
    pub(super) displaced: Vec<u64>,
    next_hole: u64,
}

/// Our first frame of RAM.
const FIRST_RAM: u64 = 0x100;
/// Our first hole.
const FIRST_HOLE: u64 = 0x10_0000;

impl PhysicalMap {
    /// Adds zeroed RAM; returns its address and its first frame.
    pub(super) fn add_ram(&mut self, pages: usize) -> (NonNull<u8>, u64) {
        assert!(pages > 0, "no RAM is nowhere");
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a sane size");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        self.blocks.push((base, layout));
        let before: usize = self.blocks.iter().map(|(_, layout)| layout.size() / PAGE_SIZE).sum();
        let first = FIRST_RAM + (before - pages) as u64;
        assert!(first + (pages as u64) < FIRST_HOLE, "more RAM than the fake has room for");
        for page in 0..pages {
            // SAFETY: within the block.
            let at = unsafe { base.add(page * PAGE_SIZE) };
            self.entries.insert(first + page as u64, Entry::Ram(at));
        }
        (base, first)
    }

    /// Hands out frame numbers of a hole; returns the first.
    pub(super) fn add_hole(&mut self, frames: usize) -> u64 {
        let first = FIRST_HOLE + self.next_hole;
        self.next_hole += frames as u64;
        first
    }

    /// Our own RAM at `frame`; `None` where something else or nothing is.
    pub(super) fn ram(&self, frame: u64) -> Option<NonNull<u8>> {
        match self.entries.get(&frame)? {
            Entry::Ram(base) => Some(*base),
            Entry::Grant { .. } => None,
        }
    }

    /// What a device of ours reads at an address: the IOMMU takes it through the same
    /// map (H-13).
    pub(super) fn device_read(&self, address: u64, into: &mut [u8]) -> Result<(), IommuFault> {
        let mut read = 0;
        while read < into.len() {
            let (at, offset, len) = piece(address, read, into.len());
            let base = match self.entries.get(&(at / PAGE_SIZE as u64)) {
                Some(Entry::Ram(base)) => *base,
                Some(Entry::Grant { page, .. }) => page.base(),
                None => return Err(IommuFault { address: at }),
            };
            let into = &mut into[read..read + len];
            // SAFETY: `offset` is inside the page.
            let from = unsafe { base.add(offset) };
            // SAFETY: `len` bytes of a page from `offset` do not leave it, and are not
            // the caller's slice, which no map knows. Nobody writes them meanwhile:
            // there is one thread, and it is here.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), len) };
            read += len;
        }
        Ok(())
    }

    /// What a device of ours writes at an address. Guests' pages are not for it: the
    /// lent ones are mapped read-only, and of no ring is it told.
    pub(super) fn device_write(&self, address: u64, from: &[u8]) -> Result<(), IommuFault> {
        let mut written = 0;
        while written < from.len() {
            let (at, offset, len) = piece(address, written, from.len());
            let base = self.ram(at / PAGE_SIZE as u64).ok_or(IommuFault { address: at })?;
            let from = &from[written..written + len];
            // SAFETY: `offset` is inside the page.
            let into = unsafe { base.add(offset) };
            // SAFETY: as in `device_read`, the other way round.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), len) };
            written += len;
        }
        Ok(())
    }

    /// Puts a guest's page at `frame`. RAM that was there is lost; over another
    /// mapping Xen crashes the domain (H-4).
    pub(super) fn map(
        &mut self,
        frame: u64,
        page: &Arc<PageMemory>,
        writable: bool,
        handle: GrantHandle,
    ) {
        let entry = Entry::Grant { page: page.clone(), handle };
        match self.entries.insert(frame, entry) {
            None => {}
            Some(Entry::Ram(_)) => self.displaced.push(frame),
            Some(Entry::Grant { handle, .. }) => {
                panic!("domain crashed: mapping at frame {frame:#x} over handle {}", handle.0)
            }
        }
        self.view(frame).show(page.clone(), writable);
    }

    /// Takes `page` away from `frame`; `false` where another page or none is.
    pub(super) fn unmap(&mut self, frame: u64, page: &Arc<PageMemory>) -> bool {
        match self.entries.get(&frame) {
            Some(Entry::Grant { page: there, .. }) if Arc::ptr_eq(there, page) => {
                self.entries.remove(&frame);
                self.view(frame).clear();
                true
            }
            _ => false,
        }
    }

    /// What one sees at `frame`.
    pub(super) fn view(&mut self, frame: u64) -> &Arc<View> {
        self.views.entry(frame).or_insert_with(View::nothing)
    }
}

impl Hash for PhysicalMap {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for (frame, entry) in &self.entries {
            match entry {
                Entry::Ram(base) => hash_page(*base, hasher),
                Entry::Grant { handle, .. } => (frame, handle).hash(hasher),
            }
        }
        self.displaced.hash(hasher);
    }
}

impl Drop for PhysicalMap {
    fn drop(&mut self) {
        for (base, layout) in self.blocks.drain(..) {
            // SAFETY: allocated with this layout; `FakeXen::ram` says that it lives
            // no longer than the hypervisor.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }
}

/// Of `all` bytes from `address` that a device reaches in order, `done` of them so far,
/// those in the next page: their address, their place in the page, and how many.
fn piece(address: u64, done: usize, all: usize) -> (u64, usize, usize) {
    let at = address.wrapping_add(done as u64);
    let offset = (at % PAGE_SIZE as u64) as usize;
    (at, offset, (all - done).min(PAGE_SIZE - offset))
}

/// Copies bytes between pages, which may be the same.
///
/// # Safety
/// Both are pages, and neither range leaves its page.
pub(super) unsafe fn copy(from: (NonNull<u8>, u16), to: (NonNull<u8>, u16), len: u16) {
    // SAFETY: the caller's contract.
    let source = unsafe { from.0.add(from.1.into()) };
    // SAFETY: the caller's contract.
    let dest = unsafe { to.0.add(to.1.into()) };
    // SAFETY: the caller's contract.
    unsafe { ptr::copy(source.as_ptr(), dest.as_ptr(), len.into()) };
}
