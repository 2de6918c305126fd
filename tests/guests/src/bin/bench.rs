//! The benchmark guest: the same assembly that the peer's guest is made of. The host program picks a test from its table and enters it.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly is unsafe")]

use core::arch::global_asm;

global_asm!(
    ".section .table, \"a\"",
    "test_table:",
    ".text",
    ".globl _start",
    "_start: lea test_table(%rip), %rax", // Tests are entered by their table, never here; the reference keeps it.
    "hlt",
    include_str!("../../../peer/guest.S"),
    options(att_syntax)
);

/// Nothing here can panic, but a program without std has to say what would happen.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
