//! From 32-bit protected mode without paging to Rust.
//!
//! The PVH boot protocol (Xen's `arch-x86/hvm/start_info.h`; NETBACK-SPEC H-17)
//! enters here, whether the domain builder loaded us as a PVH kernel or in place
//! of an HVM domain's firmware: flat segments, interrupts off, ebx pointing at the
//! start info.

use core::arch::global_asm;

use xen::bindings::XEN_ELFNOTE_PHYS32_ENTRY;

global_asm!(
    r#"
    .section .note.xen, "a", @note
    .align 4
    .long 4                     // length of the name
    .long 8                     // length of the descriptor
    .long {PHYS32_ENTRY}
    .asciz "Xen"
    .quad entry32

    // The multiboot header (Multiboot specification 0.6.96, 3.1), with addresses
    // since the device model takes no 64-bit ELF without them. It lets `kernel=`
    // stand beside `firmware=`, so that the device model keeps `extra=` for us.
    .section .multiboot, "a", @progbits
    .align 4
    .global multiboot_header
multiboot_header:
    .long 0x1BADB002
    .long 0x00010000
    .long -(0x1BADB002 + 0x00010000)
    .long multiboot_header
    .long image_start
    .long bss_start
    .long image_end
    .long entry32

    .section .text.entry, "ax", @progbits
    .code32
    .global entry32
entry32:
    cld
    mov esp, offset stack_top
    mov edi, ebx                // the first argument of `entry`

    // Identity map the first 4 GiB: one PML4 entry, four PDPT entries, 2048 pages
    // of 2 MiB, present and writable.
    mov eax, offset page_directories + 0x3
    mov ecx, 0
1:  mov [page_pointers + ecx * 8], eax
    add eax, 0x1000
    inc ecx
    cmp ecx, 4
    jne 1b
    mov eax, 0x83
    mov ecx, 0
2:  mov [page_directories + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 2b
    mov eax, offset page_pointers + 0x3
    mov [page_root], eax

    mov eax, offset page_root
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov ecx, 0xC0000080         // EFER: long mode enable, no-execute enable
    rdmsr
    or eax, 0x900
    wrmsr
    // CR0: paging, write protect; caches on; no x87, as no code uses it
    mov eax, 0x80010033
    mov cr0, eax
    lgdt [gdt_pointer]
    ljmp 0x08, offset entry64

    .code64
entry64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset stack_top
    xor ebp, ebp
    mov edi, edi
    call {entry}
    ud2

    .section .rodata, "a", @progbits
    .align 8
gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF    // 64-bit code, accessed: the table is not written
gdt_pointer:
    .word 15
    .long gdt

    .section .bss.boot, "aw", @nobits
    .align 4096
    .global page_root, page_directories, stack_guard
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
stack_guard: .skip 4096         // nothing is mapped here later
    .skip 64 * 1024             // the stack
stack_top:
"#,
    PHYS32_ENTRY = const XEN_ELFNOTE_PHYS32_ENTRY,
    entry = sym crate::entry,
);
