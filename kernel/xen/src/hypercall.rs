//! Hypercalls, made directly by VMCALL or VMMCALL: no hypercall page is needed in
//! an HVM or PVH domain (NETBACK-SPEC H-1), only the processor's own instruction.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::bindings::*;
use crate::event::{EventPort, OWNERS, RemotePort, VCPUS};
use crate::grant::{GrantCopy, GrantMap, GrantUnmap};
use crate::time::Clock;
use crate::{DomainId, Errno, ForeignFrame, Hypervisor, Instant, SharedPage};

/// The instruction that leads to the hypervisor on this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Instruction {
    /// Intel's.
    Vmcall = 1,
    /// AMD's.
    Vmmcall = 2,
}

impl Instruction {
    /// The one that a processor of this vendor (CPUID leaf 0: ebx, edx, ecx)
    /// understands.
    pub fn of_vendor(vendor: &[u8; 12]) -> Self {
        match vendor {
            b"AuthenticAMD" | b"HygonGenuine" => Self::Vmmcall,
            _ => Self::Vmcall,
        }
    }
}

static INSTRUCTION: AtomicU8 = AtomicU8::new(0);

/// Looks for Xen and settles on the hypercall instruction. To be called first.
/// Returns Xen's version, major and minor; `None` where this is not Xen.
pub fn detect() -> Option<(u16, u16)> {
    let vendor = __cpuid(0);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([vendor.ebx, vendor.edx, vendor.ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    INSTRUCTION.store(Instruction::of_vendor(&name) as u8, Ordering::Relaxed);
    let base = cpuid_base()?;
    let version = __cpuid(base + 1).eax;
    Some(((version >> 16) as u16, version as u16))
}

/// The first of Xen's CPUID leaves. They can begin at any multiple of 0x100 (where
/// other hypervisors' leaves come before).
fn cpuid_base() -> Option<u32> {
    (XEN_CPUID_FIRST_LEAF..XEN_CPUID_FIRST_LEAF + 0x10000).step_by(0x100).find(|&leaf| {
        let signature = __cpuid(leaf);
        (signature.ebx, signature.ecx, signature.edx)
            == (XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX)
    })
}

/// # Safety
/// `number` and the arguments form a hypercall whose effects on memory the caller
/// allows.
unsafe fn hypercall(number: u32, first: u64, second: u64, third: u64) -> i64 {
    let result: i64;
    if INSTRUCTION.load(Ordering::Relaxed) == Instruction::Vmmcall as u8 {
        // SAFETY: the caller's contract; Xen keeps all registers but rax and the
        // three argument registers.
        unsafe {
            asm!("vmmcall", inout("rax") u64::from(number) => result,
                inout("rdi") first => _, inout("rsi") second => _, inout("rdx") third => _);
        }
    } else {
        // SAFETY: as above.
        unsafe {
            asm!("vmcall", inout("rax") u64::from(number) => result,
                inout("rdi") first => _, inout("rsi") second => _, inout("rdx") third => _);
        }
    }
    result
}

fn check(result: i64) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| Errno(result.unsigned_abs() as u32))
}

/// Where the first GiB of memory is mapped once more, if it is.
static GIB_PAGE: AtomicU64 = AtomicU64::new(0);
const GIB: u64 = 1 << 30;

/// Says that the first GiB of memory is mapped once more, by one page, at `address`. Xen is
/// then told addresses in there: for each structure that it reads or writes, and so for each
/// element of a batch twice, it walks our page tables, and for each table on that way its
/// own. A walk that ends at a page of 1 GiB is the shortest.
pub fn set_gib_page(address: u64) {
    GIB_PAGE.store(address, Ordering::Relaxed);
}

/// Where Xen finds an argument.
fn address_of<T: ?Sized>(argument: &mut T) -> u64 {
    let address = ptr::from_mut(argument).expose_provenance() as u64;
    in_gib_page(GIB_PAGE.load(Ordering::Relaxed), address, size_of_val(argument) as u64)
}

/// Where `size` bytes at `address` are in the page that maps the first GiB at `page`; the
/// same address where they are not in that.
const fn in_gib_page(page: u64, address: u64, size: u64) -> u64 {
    if address + size > GIB { address } else { page + address }
}

/// Makes a hypercall whose second argument is a structure.
///
/// # Safety
/// `argument` is the structure that `operation` takes, and the caller allows what
/// the operation does.
unsafe fn operate<T>(number: u32, operation: u32, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's contract; the structure is borrowed for the call.
    check(unsafe { hypercall(number, operation.into(), address_of(argument), 0) })
}

/// Runs a batch of grant operations.
///
/// # Safety
/// As [`operate`], for every element of `batch`.
unsafe fn grant_operate<T>(operation: u32, batch: &mut [T]) {
    let (pointer, count) = (address_of(batch), batch.len() as u64);
    // Where the call as a whole fails, operations keep their preset status, which
    // is a failure.
    // SAFETY: the caller's contract; the batch is borrowed for the call.
    let _ = unsafe { hypercall(__HYPERVISOR_grant_table_op, operation.into(), pointer, count) };
}

/// The real hypervisor, as a vCPU reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Xen {
    clock: Clock,
    vcpu: u32,
}

impl Xen {
    /// Reaches the hypervisor for a vCPU, whose clock this is and which gets the events of
    /// what is bound.
    pub const fn new(clock: Clock, vcpu: u32) -> Self {
        Self { clock, vcpu }
    }

    /// The vCPU's clock.
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Which vCPU.
    pub const fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// Has a port's events raised at the vCPU. Those of a new one are at the first.
    fn take(&self, port: EventPort) -> Result<(), Errno> {
        OWNERS.set(port, self.vcpu);
        if self.vcpu == 0 {
            return Ok(());
        }
        event_operate(EVTCHNOP_bind_vcpu, &mut evtchn_bind_vcpu { port: port.0, vcpu: self.vcpu })
    }

    /// Binds the timer's event of the vCPU.
    pub fn bind_timer(&self) -> Result<EventPort, Errno> {
        let mut bind = evtchn_bind_virq { virq: VIRQ_TIMER, vcpu: self.vcpu, port: 0 };
        event_operate(EVTCHNOP_bind_virq, &mut bind)?;
        let port = EventPort(bind.port);
        OWNERS.set(port, self.vcpu);
        Ok(port)
    }

    /// Binds an event that others of our vCPUs raise at this one.
    pub fn bind_ipi(&self) -> Result<EventPort, Errno> {
        let mut bind = evtchn_bind_ipi { vcpu: self.vcpu, port: 0 };
        event_operate(EVTCHNOP_bind_ipi, &mut bind)?;
        let port = EventPort(bind.port);
        OWNERS.set(port, self.vcpu);
        Ok(port)
    }

    /// Raises the timer's event at `at`, once; replaces what was set before. To be called on
    /// the vCPU itself.
    pub fn set_timer(&self, at: Instant) -> Result<(), Errno> {
        let mut timer = vcpu_set_singleshot_timer { timeout_abs_ns: at.0, flags: 0 };
        // SAFETY: the operation reads the structure.
        unsafe { vcpu_operate(VCPUOP_set_singleshot_timer, self.vcpu, &mut timer) }
    }
}

/// Makes a hypercall about a vCPU.
///
/// # Safety
/// `argument` is the structure that `operation` takes, and the caller allows what the
/// operation does.
unsafe fn vcpu_operate<T>(operation: u32, vcpu: u32, argument: &mut T) -> Result<(), Errno> {
    let pointer = address_of(argument);
    // SAFETY: the caller's contract; the structure is borrowed for the call.
    check(unsafe { hypercall(__HYPERVISOR_vcpu_op, operation.into(), vcpu.into(), pointer) })
        .map(drop)
}

/// How many vCPUs the domain has, by the toolstack's `vcpus=`.
pub fn vcpus() -> u32 {
    let exists = |vcpu: &u32| {
        // SAFETY: the operation takes no structure, and only asks.
        unsafe { vcpu_operate(VCPUOP_is_up, *vcpu, &mut ()) }.is_ok()
    };
    (1..VCPUS).take_while(exists).count() as u32 + 1
}

/// Where a vCPU begins: in 64-bit mode, with interrupts off.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// A function that takes one argument and does not return.
    pub entry: extern "C" fn(usize) -> !,
    /// Its argument.
    pub argument: usize,
    /// The end of its stack, 16-byte aligned.
    pub stack: usize,
    /// The processor's control registers.
    pub control: ControlRegisters,
}

/// Control registers of a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Has a vCPU begin.
///
/// # Safety
/// The stack and whatever the argument stands for are the vCPU's own, and the page tables
/// map them and the entry.
pub unsafe fn start_vcpu(vcpu: u32, start: Start) -> Result<(), Errno> {
    let Start { entry, argument, stack, control } = start;
    let registers = vcpu_hvm_x86_64 {
        rdi: argument as u64,
        // As after a call: the ABI wants it that way.
        rsp: stack as u64 - 8,
        rip: entry as usize as u64,
        rflags: 0x2,
        cr0: control.cr0,
        cr3: control.cr3,
        cr4: control.cr4,
        efer: control.efer,
        ..Default::default()
    };
    let mut context = vcpu_hvm_context { mode: VCPU_HVM_MODE_64B, ..Default::default() };
    context.cpu_regs.x86_64 = registers;
    // SAFETY: the operation reads the structure; what the vCPU then does is the caller's.
    unsafe { vcpu_operate(VCPUOP_initialise, vcpu, &mut context) }?;
    // SAFETY: the operation takes no structure.
    unsafe { vcpu_operate(VCPUOP_up, vcpu, &mut ()) }
}

impl Hypervisor for Xen {
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) {
        // SAFETY: elements are gnttab_copy; local operands are the caller's.
        unsafe { grant_operate(GNTTABOP_copy, batch) }
    }

    fn grant_map(&self, batch: &mut [GrantMap]) {
        // SAFETY: elements are gnttab_map_grant_ref, and each maps at a hole that
        // a `ForeignFrame` owns: no memory of ours changes.
        unsafe { grant_operate(GNTTABOP_map_grant_ref, batch) }
    }

    fn grant_unmap(&self, batch: &mut [GrantUnmap]) {
        // SAFETY: elements are gnttab_unmap_grant_ref for foreign frames, which are
        // only reached through `SharedPage`, for which an absent page is harmless.
        unsafe { grant_operate(GNTTABOP_unmap_grant_ref, batch) }
    }

    fn page(&self, frame: &ForeignFrame) -> SharedPage {
        let address = NonNull::new(ptr::with_exposed_provenance_mut(frame.address() as usize))
            .unwrap_or(NonNull::dangling());
        // SAFETY: foreign frames are mapped 1:1 for good (the contract of
        // `ForeignFrame::new`) and nothing but shared pages looks at them.
        unsafe { SharedPage::new(address) }
    }

    fn bind_interdomain(&self, domain: DomainId, remote: RemotePort) -> Result<EventPort, Errno> {
        let mut bind = evtchn_bind_interdomain {
            remote_dom: domain.0,
            remote_port: remote.0,
            ..Default::default()
        };
        event_operate(EVTCHNOP_bind_interdomain, &mut bind)?;
        let port = EventPort(bind.local_port);
        if let Err(error) = self.take(port).and_then(|()| unmask(port)) {
            let _ = self.close(port);
            return Err(error);
        }
        Ok(port)
    }

    fn close(&self, port: EventPort) -> Result<(), Errno> {
        event_operate(EVTCHNOP_close, &mut evtchn_close { port: port.0 })
    }

    fn notify(&self, port: EventPort) {
        // Fails only for a port that is not bound, and then there is nobody to tell.
        let _ = event_operate(EVTCHNOP_send, &mut evtchn_send { port: port.0 });
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}

fn event_operate<T>(operation: u32, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: event channel operations take their structure and change no memory
    // but it and the shared information page, which is only read atomically.
    unsafe { operate(__HYPERVISOR_event_channel_op, operation, argument) }.map(drop)
}

/// Lets a port's events through.
pub fn unmask(port: EventPort) -> Result<(), Errno> {
    event_operate(EVTCHNOP_unmask, &mut evtchn_unmask { port: port.0 })
}

/// Reads one of the domain's HVM parameters (`HVM_PARAM_*`).
pub fn hvm_param(index: u32) -> Result<u64, Errno> {
    let mut param = xen_hvm_param { domid: DomainId::SELF.0, index, ..Default::default() };
    // SAFETY: the operation takes this structure and writes nothing else.
    unsafe { operate(__HYPERVISOR_hvm_op, HVMOP_get_param, &mut param) }?;
    Ok(param.value)
}

/// Sets one of the domain's HVM parameters (`HVM_PARAM_*`).
fn set_hvm_param(index: u32, value: u64) -> Result<(), Errno> {
    let mut param = xen_hvm_param { domid: DomainId::SELF.0, pad: 0, index, value };
    // SAFETY: the operation takes this structure and writes nothing else.
    unsafe { operate(__HYPERVISOR_hvm_op, HVMOP_set_param, &mut param) }.map(drop)
}

/// Has Xen itself inject `vector` at a vCPU while events of it are pending: an interrupt that
/// needs no end.
///
/// That the parameter is set tells the toolstack as well that the domain listens: without
/// it, it refuses an orderly shutdown (NETBACK-SPEC H-15).
pub fn set_upcall_vector(vector: u8) -> Result<(), Errno> {
    let kind = u64::from(HVM_PARAM_CALLBACK_TYPE_VECTOR) << 56;
    set_hvm_param(HVM_PARAM_CALLBACK_IRQ, kind | u64::from(vector))
}

/// Has event channel upcalls of a vCPU delivered through `vector` of its local
/// APIC, which has to be on: an upcall dropped while it is off stays latched for
/// ever. Then tells the toolstack that the domain listens, as
/// [`set_upcall_vector`] does.
pub fn set_apic_upcall_vector(vcpu: u32, vector: u8) -> Result<(), Errno> {
    let mut upcall = xen_hvm_evtchn_upcall_vector { vcpu, vector };
    // SAFETY: the operation takes this structure and writes nothing else.
    unsafe { operate(__HYPERVISOR_hvm_op, HVMOP_set_evtchn_upcall_vector, &mut upcall) }?;
    set_hvm_param(HVM_PARAM_CALLBACK_IRQ, 1)
}

/// Whether the processor itself delivers interrupts of the local APIC and ends them,
/// without an exit to Xen (arch-x86/cpuid.h).
pub fn apic_is_virtual() -> bool {
    let features = cpuid_base().map(|base| __cpuid(base + 4).eax);
    features.is_some_and(|features| features & XEN_HVM_CPUID_X2APIC_VIRT != 0)
}

/// Puts the shared information page at `frame`.
pub fn map_shared_info(frame: &ForeignFrame) -> Result<(), Errno> {
    let mut map = xen_add_to_physmap {
        domid: DomainId::SELF.0,
        size: 0,
        space: XENMAPSPACE_shared_info,
        idx: 0,
        gpfn: frame.number(),
    };
    // SAFETY: the frame is a hole that its `ForeignFrame` owns: no RAM is lost.
    unsafe { operate(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut map) }.map(drop)
}

/// A range of the domain's physical memory map, in the layout of the BIOS call
/// that the interface follows (INT 15h, E820).
#[repr(C, packed)]
#[derive(Clone, Copy, Default, Debug)]
pub struct MemoryRange {
    /// The first byte's address.
    pub base: u64,
    /// How many bytes.
    pub size: u64,
    /// What it is: 1 for RAM, anything else is not ours to use.
    pub kind: u32,
}

impl MemoryRange {
    /// The kind that is RAM.
    pub const RAM: u32 = XEN_HVM_MEMMAP_TYPE_RAM;
}

/// Reads the memory map that the toolstack set for the domain into `ranges` and
/// returns how many there are.
pub fn memory_map(ranges: &mut [MemoryRange]) -> Result<usize, Errno> {
    let mut map = xen_memory_map { nr_entries: ranges.len() as u32, ..Default::default() };
    map.buffer.p = ranges.as_mut_ptr().cast();
    // SAFETY: the operation writes at most `nr_entries` ranges to the buffer.
    unsafe { operate(__HYPERVISOR_memory_op, XENMEM_memory_map, &mut map) }?;
    Ok(ranges.len().min(map.nr_entries as usize))
}

/// Writes to the hypervisor's own log, for what must be seen when nothing else
/// works. Needs no set-up but [`detect`].
pub fn log_write(text: &[u8]) {
    let (number, operation) = (__HYPERVISOR_console_io, CONSOLEIO_write.into());
    let (count, pointer) = (text.len() as u64, text.as_ptr() as u64);
    // SAFETY: the operation reads `count` bytes at `pointer`.
    let _ = unsafe { hypercall(number, operation, count, pointer) };
}

const _: () = assert!(size_of::<MemoryRange>() == 20);

/// Why a domain ends, as the toolstack sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shutdown {
    /// For good.
    PowerOff = SHUTDOWN_poweroff,
    /// To be started anew.
    Reboot = SHUTDOWN_reboot,
    /// By a defect.
    Crash = SHUTDOWN_crash,
}

/// Ends the domain.
pub fn shutdown(reason: Shutdown) -> ! {
    let mut argument = sched_shutdown { reason: reason as u32 };
    loop {
        // SAFETY: the operation reads the structure and ends the domain.
        let _ = unsafe { operate(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &mut argument) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_decides_the_instruction() {
        assert_eq!(Instruction::of_vendor(b"AuthenticAMD"), Instruction::Vmmcall);
        assert_eq!(Instruction::of_vendor(b"HygonGenuine"), Instruction::Vmmcall);
        assert_eq!(Instruction::of_vendor(b"GenuineIntel"), Instruction::Vmcall);
        assert_eq!(Instruction::of_vendor(b"CentaurHauls"), Instruction::Vmcall);
    }

    #[test]
    fn arguments_are_told_in_the_page_of_a_gib_where_they_lie_in_it() {
        let page = 512 << 30;
        assert_eq!(in_gib_page(page, 0x12_3456, 40), page + 0x12_3456);
        assert_eq!(in_gib_page(page, GIB - 40, 40), page + GIB - 40);
        assert_eq!(in_gib_page(page, GIB - 39, 40), GIB - 39, "not all of it");
        assert_eq!(in_gib_page(0, 0x12_3456, 40), 0x12_3456, "there is no such page");
    }

    #[test]
    fn negative_results_are_errors() {
        assert_eq!(check(3), Ok(3));
        assert_eq!(check(-22), Err(Errno(22)));
    }
}
