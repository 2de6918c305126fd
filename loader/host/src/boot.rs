//! From the PVH entry point to Rust: 32-bit code that turns long mode on, the first page tables, the first stack.
#![expect(unsafe_code, reason = "the entry point is assembly, and the linker tells where the image lies")]

use core::{arch::global_asm, ops::Range};

use crate::cpu::{BOOT_CPU, Stack};

/// The stack of the boot CPU.
pub(crate) static BOOT_STACK: Stack<{ 128 * 1024 }> = Stack::new();

// The note (type 18, XEN_ELFNOTE_PHYS32_ENTRY) names the entry point. There the machine is in flat 32-bit protected mode without
// paging, interrupts are off and EBX holds the address of the start info (Xen, docs/misc/pvh.pandoc). The first tables map 4 GiB
// with 2 MiB pages; paging.rs replaces them.
global_asm!(
    ".section .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long pvh_entry",
    //
    ".section .data.boot, \"aw\", @progbits",
    ".balign 4096",
    "boot_pml4: .quad boot_pdpt + {table}",
    ".fill 511, 8, 0",
    "boot_pdpt:",
    ".quad boot_pd + {table}, boot_pd + 0x1000 + {table}, boot_pd + 0x2000 + {table}, boot_pd + 0x3000 + {table}",
    ".fill 508, 8, 0",
    "boot_pd:",
    ".set address, 0",
    ".rept 2048",
    ".quad address + {page}",
    ".set address, address + 0x200000",
    ".endr",
    "boot_gdt: .quad 0, 0x00209b0000000000",
    "boot_gdtr: .word 15",
    ".long boot_gdt",
    //
    ".section .text.boot, \"ax\", @progbits",
    ".code32",
    ".globl pvh_entry",
    "pvh_entry:",
    "cld",
    "movl ${cr4}, %eax",
    "movl %eax, %cr4",
    "movl $boot_pml4, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl ${efer}, %eax",
    "wrmsr",
    "movl ${cr0}, %eax",
    "movl %eax, %cr0",
    "lgdt boot_gdtr",
    "ljmpl $8, $boot_long_mode",
    ".code64",
    "boot_long_mode:",
    "xorl %eax, %eax",
    "movl %eax, %ss",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %fs",
    "movl %eax, %gs",
    // The per-CPU structure is reached by GS from the first line of Rust on.
    "movl $0xc0000101, %ecx",
    "movl ${cpu}, %eax",
    "xorl %edx, %edx",
    "wrmsr",
    "movl $({stack} + {stack_bytes}), %esp",
    "xorl %ebp, %ebp",
    "movl %ebx, %edi",
    "call {start}",
    "ud2",
    table = const 3,          // present, writable
    page = const 0x83,        // present, writable, large
    cr4 = const 0x660,        // PAE, MCE, OSFXSR, OSXMMEXCPT
    efer = const 0x900,       // LME, NXE
    cr0 = const 0x8001_0033u32, // PG, WP, NE, ET, MP, PE
    cpu = sym BOOT_CPU,
    stack = sym BOOT_STACK,
    stack_bytes = const size_of_val(&BOOT_STACK),
    start = sym crate::start,
    options(att_syntax)
);

unsafe extern "C" {
    safe static host_start: u8;
    safe static host_text_start: u8;
    safe static host_text_end: u8;
    safe static host_end: u8;
}

/// Where the program lies in memory.
pub(crate) fn image() -> Range<u64> {
    (&raw const host_start).addr() as u64..(&raw const host_end).addr() as u64
}

/// Where constants lie, in [`image`]: pages that are only read.
pub(crate) fn constants() -> Range<u64> {
    image().start..code().start
}

/// Where code lies, in [`image`]: pages that are read and executed.
pub(crate) fn code() -> Range<u64> {
    (&raw const host_text_start).addr() as u64..(&raw const host_text_end).addr() as u64
}
