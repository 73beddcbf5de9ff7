//! Event channels: ports, and the two-level bitmap through which their events
//! arrive (xen.h, event_channel.h).

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::bindings::{XEN_LEGACY_MAX_VCPUS, shared_info, vcpu_info};

/// A port of our own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EventPort(pub u32);

/// A port as another domain names it: an allegation until Xen has bound it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RemotePort(pub u32);

/// Words of a bitmap, of 64 ports each: all that the two-level interface has.
const WORDS: usize = 64;

/// Ports that had an event since they were last taken. Set by interrupt handlers,
/// taken by the event loop; setting a mark twice is setting it once.
#[derive(Debug)]
pub struct Marks {
    /// Words worth looking at, a bit each.
    words: AtomicU64,
    ports: [AtomicU64; WORDS],
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}

impl Marks {
    /// No marks.
    pub const fn new() -> Self {
        Self { words: AtomicU64::new(0), ports: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Whether there is any mark.
    pub fn any(&self) -> bool {
        self.words.load(Ordering::Acquire) != 0
    }

    /// Takes all marks, and hands each marked port to `each`.
    pub fn take(&self, mut each: impl FnMut(EventPort)) {
        for word in bits(self.words.swap(0, Ordering::AcqRel)) {
            for bit in bits(self.ports[word as usize].swap(0, Ordering::AcqRel)) {
                each(EventPort(word * 64 + bit));
            }
        }
    }

    fn set(&self, word: u32, ports: u64) {
        self.ports[word as usize].fetch_or(ports, Ordering::AcqRel);
        self.words.fetch_or(1 << word, Ordering::AcqRel);
    }
}

/// The numbers of the bits set in `word`, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// Which ports' events are raised at which vCPU. Their bits lie together, so that each
/// vCPU has to leave the others' alone.
#[derive(Debug)]
pub struct Owners {
    /// By vCPU, what it has; for the first one, which has the rest, what it has not.
    ports: [[AtomicU64; WORDS]; VCPUS as usize],
}

impl Owners {
    /// All are the first vCPU's.
    pub const fn new() -> Self {
        Self { ports: [const { [const { AtomicU64::new(0) }; WORDS] }; VCPUS as usize] }
    }

    /// Has a port, of which no event comes through yet, be a vCPU's.
    pub fn set(&self, port: EventPort, vcpu: u32) {
        let (word, bit) = ((port.0 / 64) as usize % WORDS, 1 << (port.0 % 64));
        for (number, ports) in (0..).zip(&self.ports) {
            if (number == vcpu) != (number == 0) {
                ports[word].fetch_or(bit, Ordering::AcqRel);
            } else {
                ports[word].fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    fn ports(&self, vcpu: u32, word: u32) -> u64 {
        let ports = self.ports[vcpu as usize][word as usize].load(Ordering::Acquire);
        if vcpu == 0 { !ports } else { ports }
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self::new()
    }
}

/// The domain's own.
pub static OWNERS: Owners = Owners::new();

/// The events of a vCPU, as Xen shows them in the shared information page.
#[derive(Debug)]
pub struct Upcalls {
    base: NonNull<u8>,
    number: u32,
    /// Where the vCPU's own record is in the page.
    vcpu: usize,
}

// SAFETY: every access to the page is atomic.
unsafe impl Send for Upcalls {}
// SAFETY: as above.
unsafe impl Sync for Upcalls {}

impl Upcalls {
    const PENDING: usize = offset_of!(vcpu_info, evtchn_upcall_pending);
    const SELECTOR: usize = offset_of!(vcpu_info, evtchn_pending_sel);

    /// Takes a vCPU's events from the shared information page at `base`; `None` where that
    /// has no record of it.
    ///
    /// # Safety
    /// The page is aligned and stays mapped for ever.
    pub unsafe fn new(base: NonNull<u8>, vcpu: u32) -> Option<Self> {
        Some(Self { base, number: vcpu, vcpu: vcpu_offset(vcpu)? })
    }

    /// Moves what is pending, not masked and the vCPU's by `owners` to `marks`. The order matters: with the
    /// upcall's flag cleared first, an event that comes during the scan raises it
    /// again.
    pub fn collect(&self, owners: &Owners, marks: &Marks) {
        self.pending().store(0, Ordering::SeqCst);
        for word in bits(self.selector().swap(0, Ordering::SeqCst)) {
            let offset = word as usize * 8;
            let pending = self.word(offset_of!(shared_info, evtchn_pending) + offset);
            let mask = self.word(offset_of!(shared_info, evtchn_mask) + offset);
            let ports = pending.load(Ordering::Acquire) & !mask.load(Ordering::Acquire);
            let ports = ports & owners.ports(self.number, word);
            pending.fetch_and(!ports, Ordering::AcqRel);
            marks.set(word, ports);
        }
    }

    /// Whether there is something to collect.
    pub fn any(&self) -> bool {
        self.pending().load(Ordering::Acquire) != 0 || self.selector().load(Ordering::Acquire) != 0
    }

    fn selector(&self) -> &AtomicU64 {
        self.word(self.vcpu + Self::SELECTOR)
    }

    fn pending(&self) -> &AtomicU8 {
        // SAFETY: inside the page.
        let flag = unsafe { self.base.add(self.vcpu + Self::PENDING) };
        // SAFETY: the page stays mapped (the contract of `new`); Xen writes it.
        unsafe { AtomicU8::from_ptr(flag.as_ptr()) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: offsets are inside the page and multiples of eight.
        let word = unsafe { self.base.add(offset) };
        // SAFETY: as in `pending`.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }
    }
}

const _: () = assert!(size_of::<shared_info>() <= crate::PAGE_SIZE);

/// How many vCPUs have a record in the shared information page.
pub const VCPUS: u32 = XEN_LEGACY_MAX_VCPUS;

/// Where a vCPU's record is in the shared information page.
pub(crate) fn vcpu_offset(vcpu: u32) -> Option<usize> {
    let offset = offset_of!(shared_info, vcpu_info) + vcpu as usize * size_of::<vcpu_info>();
    (vcpu < VCPUS).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page {
        _bytes: [u8; 4096],
    }

    fn upcalls() -> Upcalls {
        let [upcalls] = upcalls_of([0]);
        upcalls
    }

    fn upcalls_of<const N: usize>(vcpus: [u32; N]) -> [Upcalls; N] {
        let base = NonNull::from(Box::leak(Box::new(Page { _bytes: [0; 4096] }))).cast();
        // SAFETY: the page is leaked.
        vcpus.map(|vcpu| unsafe { Upcalls::new(base, vcpu) }.unwrap())
    }

    /// Raises an event as Xen does.
    fn raise(upcalls: &Upcalls, port: u32) {
        let (word, bit) = (port / 64, 1 << (port % 64));
        let offset = word as usize * 8;
        upcalls
            .word(offset_of!(shared_info, evtchn_pending) + offset)
            .fetch_or(bit, Ordering::AcqRel);
        let mask = upcalls.word(offset_of!(shared_info, evtchn_mask) + offset);
        if mask.load(Ordering::Acquire) & bit == 0 {
            upcalls.selector().fetch_or(1 << word, Ordering::AcqRel);
            upcalls.pending().store(1, Ordering::Release);
        }
    }

    fn taken(marks: &Marks) -> Vec<u32> {
        let mut ports = Vec::new();
        marks.take(|port| ports.push(port.0));
        ports
    }

    #[test]
    fn every_event_is_marked_once_and_taken_once() {
        let (upcalls, marks) = (upcalls(), Marks::new());
        for port in [0, 63, 64, 4095, 64] {
            raise(&upcalls, port);
        }
        assert!(upcalls.any());
        upcalls.collect(&OWNERS, &marks);
        upcalls.collect(&OWNERS, &marks);
        assert!(!upcalls.any() && marks.any());
        assert_eq!(taken(&marks), [0, 63, 64, 4095]);
        assert!(!marks.any());
        assert_eq!(taken(&marks), []);
    }

    #[test]
    fn each_vcpu_has_its_own() {
        let (upcalls, marks) = (upcalls_of([0, 1, VCPUS - 1]), Marks::new());
        let owners = Owners::new();
        owners.set(EventPort(70), 1);
        raise(&upcalls[0], 71);
        raise(&upcalls[1], 70);
        assert_eq!(upcalls.each_ref().map(Upcalls::any), [true, true, false]);
        upcalls[2].collect(&owners, &marks);
        assert_eq!(taken(&marks), []);
        upcalls[0].collect(&owners, &marks);
        assert_eq!(taken(&marks), [71], "the other's is left alone");
        upcalls[1].collect(&owners, &marks);
        assert_eq!(taken(&marks), [70]);
        owners.set(EventPort(70), 0);
        raise(&upcalls[0], 70);
        upcalls[0].collect(&owners, &marks);
        assert_eq!(taken(&marks), [70]);
        assert_eq!(vcpu_offset(VCPUS), None, "no record");
    }

    #[test]
    fn a_masked_port_stays_pending() {
        let (upcalls, marks) = (upcalls(), Marks::new());
        upcalls.word(offset_of!(shared_info, evtchn_mask)).store(1 << 5, Ordering::Release);
        raise(&upcalls, 5);
        raise(&upcalls, 6);
        upcalls.collect(&OWNERS, &marks);
        assert_eq!(taken(&marks), [6]);
        let pending = upcalls.word(offset_of!(shared_info, evtchn_pending));
        assert_eq!(pending.load(Ordering::Acquire), 1 << 5);
    }

    #[test]
    fn an_event_during_the_scan_raises_the_flag_again() {
        let (upcalls, marks) = (upcalls(), Marks::new());
        raise(&upcalls, 1);
        upcalls.collect(&OWNERS, &marks);
        raise(&upcalls, 1);
        assert!(upcalls.any(), "the second event is seen");
        upcalls.collect(&OWNERS, &marks);
        assert_eq!(taken(&marks), [1]);
    }
}
