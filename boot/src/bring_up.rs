//! From the first instruction to a domain that has memory, time, events and a
//! console.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::ptr::{self, NonNull};

use kernel::arch::{apic, cpu, interrupts, paging};
use kernel::command_line::CommandLine;
use kernel::memory::{Layout, LayoutError, Ram, Window, heap};
use kernel::{console, events};
use xen::bindings::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use xen::console::Console;
use xen::event::{EventPort, Upcalls};
use xen::hypercall::{self, MemoryRange, Xen};
use xen::time::Clock;
use xen::{Errno, PAGE_SIZE, SharedPage};

use crate::config;
use crate::start_info::StartInfo;

/// Cycles that a read of cached memory never takes, and one of uncached memory
/// always does.
const UNCACHED_READ: u64 = 100;

unsafe extern "C" {
    /// The first address above the image, from the linker script.
    static image_end: u8;
}

/// A domain that is up, for its parts to be made from.
pub struct Platform {
    /// The hypervisor, as each vCPU reaches it, the first first.
    pub vcpus: Vec<Xen>,
    /// RAM for packets and devices.
    pub ram: Ram,
    /// How many packets can be on their way at once.
    pub packets: usize,
    /// Places for guests' pages.
    pub window: Window,
    /// The page shared with xenstored.
    pub store: SharedPage,
    /// The event of each source there is from the start.
    pub ports: Ports,
    /// What `extra=` says.
    pub command_line: CommandLine,
    /// The local APIC's number.
    pub lapic: u32,
    /// Ranges of addresses that no device may be put over.
    pub reserved: Vec<Range<u64>>,
    /// The domain's memory in bytes.
    pub memory: u64,
    /// The time stamp counter at the image's first instruction.
    pub entered: u64,
}

/// Event channels that are there from the start.
pub struct Ports {
    /// The console's.
    pub console: EventPort,
    /// xenstored's.
    pub store: EventPort,
}

/// Why the domain cannot start.
pub enum Error {
    NotXen,
    NoStartInfo,
    Hypercall(&'static str, Errno),
    NoService(&'static str),
    Layout(LayoutError),
    TooLittleMemory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotXen => write!(f, "this is not a Xen domain"),
            Self::NoStartInfo => write!(f, "no PVH start info"),
            Self::Hypercall(what, error) => write!(f, "{what}: {error}"),
            Self::NoService(service) => write!(f, "the toolstack set up no {service}"),
            Self::Layout(error) => write!(f, "{error}"),
            Self::TooLittleMemory => write!(f, "too little memory"),
        }
    }
}

fn hypercall<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, Error> {
    result.map_err(|error| Error::Hypercall(what, error))
}

/// Brings the domain up; `entered` is the time stamp counter at entry.
pub fn bring_up(start_info: u32, entered: u64) -> Result<Platform, Error> {
    hypercall::detect().ok_or(Error::NotXen)?;
    cpu::enable_write_back();
    // SAFETY: once, with interrupts off.
    unsafe { interrupts::load() };
    paging::protect_image();
    if let Some(address) = paging::map_first_gib_again() {
        hypercall::set_gib_page(address);
    }

    let start_info = StartInfo::read(start_info).ok_or(Error::NoStartInfo)?;
    let mut map = [MemoryRange::default(); 64];
    let ranges = hypercall("memory map", hypercall::memory_map(&mut map))?;
    // SAFETY: from the start info; nothing was allocated yet.
    let command_line = unsafe { config::of_start_info(start_info.command_line) }
        .or_else(config::of_device_model)
        .unwrap_or(CommandLine::EMPTY);
    let used = start_info.end.max(&raw const image_end as u64);
    let layout = Layout::new(&map[..ranges], used).map_err(Error::Layout)?;

    let (heap, packets) = (layout.heap() as usize, layout.packets());
    // SAFETY: RAM by the toolstack's map, above the image and all that the domain
    // builder left; page tables map it 1:1.
    let ram = unsafe { Ram::identity(layout.free) };
    let mut ram = ram.ok_or(Error::TooLittleMemory)?;
    heap::start(&ram.split(heap / PAGE_SIZE).ok_or(Error::TooLittleMemory)?);
    // SAFETY: a hole by the same map, below 4 GiB and so mapped 1:1.
    let mut window = unsafe { Window::new(layout.window.clone()) };

    let reserved = map[..ranges]
        .iter()
        .map(|range| range.base..range.base.saturating_add(range.size))
        .chain([layout.window])
        .collect();

    let frame = window.take().ok_or(Error::TooLittleMemory)?;
    hypercall("shared information", hypercall::map_shared_info(&frame))?;
    let shared_info = page_at(frame.address()).ok_or(Error::TooLittleMemory)?;
    let vcpus: Vec<_> = (0..hypercall::vcpus())
        .filter_map(|vcpu| {
            // SAFETY: mapped for good: the frame is never given back.
            let clock = unsafe { Clock::new(shared_info, vcpu) };
            Some(Xen::new(clock?, vcpu))
        })
        .collect();
    let [xen, ..] = vcpus[..] else { return Err(Error::NotXen) };

    let (page, console) = channel("console", HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN)?;
    console::start(xen, xen.clock().at(entered), Console::new(page), console);
    let (store_page, store) = channel("XenStore", HVM_PARAM_STORE_PFN, HVM_PARAM_STORE_EVTCHN)?;

    let lapic = apic::enable(interrupts::SPURIOUS_VECTOR);
    take_upcalls(0)?;
    for vcpu in 0..vcpus.len() as u32 {
        // SAFETY: the shared information page, mapped for good.
        if let Some(upcalls) = unsafe { Upcalls::new(shared_info, vcpu) } {
            events::start(vcpu, upcalls);
        }
    }
    let cycles = cpu::memory_read_cycles();
    if cycles > UNCACHED_READ {
        log::warn!("a memory read takes {cycles} cycles: memory looks uncached");
    }

    let ports = Ports { console, store };
    for port in [console, store] {
        hypercall("event channel", hypercall::unmask(port))?;
    }
    Ok(Platform {
        vcpus,
        ram,
        packets,
        window,
        store: store_page,
        ports,
        command_line,
        lapic,
        reserved,
        memory: layout.ram_end,
        entered,
    })
}

/// Has a vCPU, on itself, take the upcalls of its events; its local APIC is on.
pub fn take_upcalls(vcpu: u32) -> Result<(), Error> {
    let vector = if hypercall::apic_is_virtual() {
        hypercall::set_apic_upcall_vector(vcpu, interrupts::APIC_UPCALL_VECTOR)
    } else {
        // There its end would be an exit for each upcall (NETBACK-SPEC H-15).
        hypercall::set_upcall_vector(interrupts::UPCALL_VECTOR)
    };
    hypercall("upcall vector", vector)
}

/// The page and the event channel that the toolstack set up for a service, by
/// their HVM parameters.
fn channel(service: &'static str, frame: u32, port: u32) -> Result<(SharedPage, EventPort), Error> {
    let frame = hypercall(service, hypercall::hvm_param(frame))?;
    let port = hypercall(service, hypercall::hvm_param(port))?;
    let page = page_at(frame * PAGE_SIZE as u64).ok_or(Error::NoService(service))?;
    // SAFETY: the service's page, which the toolstack set up for the domain's
    // life, in identity-mapped memory; each is asked for once.
    Ok((unsafe { SharedPage::new(page) }, EventPort(port as u32)))
}

/// The page at a physical address, which is mapped 1:1.
fn page_at(address: u64) -> Option<NonNull<u8>> {
    NonNull::new(ptr::with_exposed_provenance_mut(address as usize))
}
