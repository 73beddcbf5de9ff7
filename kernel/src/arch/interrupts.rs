//! Interrupts and exceptions.
//!
//! Handlers acknowledge and mark; all work is the event loop's. They can run twice
//! for one event, and one inside another, without harm. Exceptions are defects of
//! ours and end in a panic, on a stack of their own: what is wrong may be the stack.

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::Cr2;
use x86_64::registers::model_specific::GsBase;
use x86_64::registers::segmentation::{CS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;
use xen::hypercall::{self, Shutdown};

use super::apic;
use crate::events;

/// The vector of event channel upcalls that Xen injects itself.
pub const UPCALL_VECTOR: u8 = 0x20;
/// The vector of event channel upcalls through the local APIC.
pub const APIC_UPCALL_VECTOR: u8 = 0x21;
/// The first vector of message-signalled device interrupts.
pub const DEVICE_VECTOR: u8 = 0x30;
/// How many vectors devices have.
pub const DEVICE_VECTORS: u8 = 4;
/// What the local APIC raises when an interrupt went away meanwhile.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// The interrupt descriptor table (Intel SDM vol. 3, 7.11): a gate a vector.
static mut TABLE: [u128; 256] = [0; 256];

/// What a processor has of its own, for good.
struct Processor {
    /// The vCPU's number, which interrupt handlers find by the register GS.
    vcpu: u32,
    /// Tells the processor of its [`ExceptionStack`], as the first of those that a gate can ask for
    /// (Intel SDM vol. 3, 7.14.5).
    task: TaskStateSegment,
    /// The code segment, and the one that holds the task's state.
    segments: GlobalDescriptorTable,
}

impl Processor {
    const fn new(vcpu: u32) -> Self {
        let (task, segments) = (TaskStateSegment::new(), GlobalDescriptorTable::new());
        Self { vcpu, task, segments }
    }
}

/// The stack of exceptions: enough for a panic's words.
#[repr(C, align(16))]
struct ExceptionStack([u8; 16 << 10]);

impl ExceptionStack {
    const fn new() -> Self {
        Self([0; 16 << 10])
    }
}

/// The first processor's, which starts before there is a heap.
static mut FIRST: Processor = Processor::new(0);
static mut FIRST_STACK: ExceptionStack = ExceptionStack::new();

global_asm!(
    r#"
    .macro save
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    .endm
    .macro restore
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq
    .endm
    // Aligns the stack to 16 bytes for the call, and back.
    .macro aligned_call function
    push rbp
    mov rbp, rsp
    and rsp, -16
    call \function
    mov rsp, rbp
    pop rbp
    .endm

    .section .text.interrupts, "ax", @progbits
upcall_entry:
    save
    aligned_call {upcall}
    restore
apic_upcall_entry:
    save
    aligned_call {apic_upcall}
    restore
spurious_entry:
    iretq
    .altmacro
    .macro device_entry number
device_entry_\number:
    save
    mov edi, \number
    aligned_call {device}
    restore
    .endm
    device_entry 0
    device_entry 1
    device_entry 2
    device_entry 3

    // Exceptions: vector, error code (or 0), then the processor's frame. Vectors
    // that bring an error code: Intel SDM vol. 3, table 7-1.
    .macro exception vector
    .balign 32
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
    .else
    push 0
    .endif
    push \vector
    mov rdi, rsp
    and rsp, -16
    call {exception}
    .endm
    .balign 32
exception_entries:
    .set vector, 0
    .rept 32
    exception %vector
    .set vector, vector + 1
    .endr
    .noaltmacro
"#,
    upcall = sym upcall,
    apic_upcall = sym apic_upcall,
    device = sym device,
    exception = sym exception,
);

unsafe extern "C" {
    fn upcall_entry();
    fn apic_upcall_entry();
    fn spurious_entry();
    fn device_entry_0();
    fn device_entry_1();
    fn device_entry_2();
    fn device_entry_3();
    /// 32 entries, 32 bytes each.
    fn exception_entries();
}

/// Makes the table, and loads it on the first vCPU. Interrupts stay off until the event loop
/// begins.
///
/// # Safety
/// Called once, before interrupts are on.
pub unsafe fn load() {
    let (first, stack) = (&raw mut FIRST, &raw mut FIRST_STACK);
    // SAFETY: nobody else has them, by the caller's contract.
    unsafe { set_processor(first, stack) };
    let exceptions = exception_entries as *const () as u64;
    let devices = [device_entry_0, device_entry_1, device_entry_2, device_entry_3];
    let vectors = (0..32)
        .map(|vector| (vector, exceptions + 32 * u64::from(vector)))
        .chain((DEVICE_VECTOR..).zip(devices.map(|entry| entry as *const () as u64)))
        .chain([
            (UPCALL_VECTOR, upcall_entry as *const () as u64),
            (APIC_UPCALL_VECTOR, apic_upcall_entry as *const () as u64),
            (SPURIOUS_VECTOR, spurious_entry as *const () as u64),
        ]);
    let table = &raw mut TABLE;
    for (vector, handler) in vectors {
        // Interrupts have none of their own: one inside another would overwrite it.
        let stack = u64::from(vector < 32);
        // SAFETY: a `u8` indexes all of the table, which is not loaded yet.
        unsafe { (*table)[usize::from(vector)] = gate(handler, stack) };
    }
    load_table();
}

/// Loads the table on another vCPU. Allocates what the processor needs for that.
///
/// # Safety
/// Called once on each, after [`load`] on the first, before interrupts are on.
pub unsafe fn load_on(vcpu: u32) {
    let processor = Box::into_raw(Box::new(Processor::new(vcpu)));
    let stack = Box::into_raw(Box::new(ExceptionStack::new()));
    // SAFETY: just made, for good.
    unsafe { set_processor(processor, stack) };
    load_table();
}

fn load_table() {
    let pointer = DescriptorTablePointer {
        limit: (size_of::<[u128; 256]>() - 1) as u16,
        base: VirtAddr::from_ptr(&raw const TABLE),
    };
    // SAFETY: a static table, whose gates lead to handlers that keep all registers.
    unsafe { lidt(&pointer) };
}

/// Has the processor know the exceptions' stack, and its number.
///
/// # Safety
/// Nobody else has `processor` and `stack`, and they stay.
unsafe fn set_processor(processor: *mut Processor, stack: *mut ExceptionStack) {
    // SAFETY: the caller's contract.
    let processor: &'static mut Processor = unsafe { &mut *processor };
    let Processor { vcpu, task, segments } = processor;
    task.interrupt_stack_table[0] = VirtAddr::from_ptr(stack.wrapping_add(1));
    let code = segments.append(Descriptor::kernel_code_segment());
    let task = segments.append(Descriptor::tss_segment(task));
    segments.load();
    // SAFETY: the code segment of the table just loaded: for the first processor the one
    // that the entry code loaded, at the same place.
    unsafe { CS::set_reg(code) };
    // SAFETY: the selector of the task's segment in the table just loaded.
    unsafe { load_tss(task) };
    GsBase::write(VirtAddr::from_ptr(vcpu));
}

/// The number of the vCPU that this runs on.
fn vcpu() -> u32 {
    let vcpu;
    // SAFETY: GS begins at the number in `Processor`, from before interrupts are on.
    unsafe {
        asm!("mov {:e}, gs:[0]", out(reg) vcpu, options(nostack, readonly, preserves_flags));
    }
    vcpu
}

/// A present interrupt gate of ring 0, with the stack of this number in the processor's
/// [`TaskStateSegment`], or with 0 without a stack of its own.
fn gate(handler: u64, stack: u64) -> u128 {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    let selector = u64::from(CS::get_reg().0) << 16;
    let low = handler & 0xffff
        | selector
        | stack << 32
        | PRESENT_INTERRUPT_GATE
        | (handler & 0xffff_0000) << 32;
    u128::from(low) | u128::from(handler >> 32) << 64
}

extern "C" fn upcall() {
    events::collect(vcpu());
}

extern "C" fn apic_upcall() {
    events::collect(vcpu());
    apic::end_of_interrupt();
}

extern "C" fn device(number: u32) {
    events::mark_device(vcpu(), number);
    apic::end_of_interrupt();
}

/// What an exception's entry code left on the stack.
#[repr(C)]
struct Exception {
    vector: u64,
    error: u64,
    instruction: u64,
    code_segment: u64,
    flags: u64,
    stack: u64,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, error, instruction, stack, .. } = self;
        write!(f, "exception {vector} (error {error:#x}) at {instruction:#x}, stack {stack:#x}")?;
        if *vector == 14 {
            write!(f, ", address {:#x}", Cr2::read_raw())?;
        }
        Ok(())
    }
}

extern "C" fn exception(frame: &Exception) -> ! {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::Relaxed) {
        // One of the panic's own, which would go round for ever on a stack that begins
        // anew each time.
        hypercall::shutdown(Shutdown::Crash)
    }
    panic!("{frame}")
}
