//! A guest in assembly, written from the contract's specification alone: it knows neither the SDK nor `hv-abi`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly is unsafe")]

use core::arch::global_asm;

// Exit codes: 7 all is well, 1 another platform, 2 another boot information block, 3 no memory, 4 the greeting was refused.
global_asm!(
    r#"
    .section .rodata
greeting:
    .ascii "hello from assembly\n"
    .set greeting_len, . - greeting
newline:
    .ascii "\n"

    .text
    .globl _start
_start:
    mov r12, rdi                # boot information block

    mov eax, 0x40000000         # CPUID signature: "hv unikernel"
    cpuid
    mov r13d, 1
    cmp eax, 0x40000001
    jb .Lexit
    cmp ebx, 0x75207668         # "hv u"
    jne .Lexit
    cmp ecx, 0x656b696e         # "nike"
    jne .Lexit
    cmp edx, 0x6c656e72         # "rnel"
    jne .Lexit

    mov r13d, 2                 # magic: "hv-boot", 0
    mov rax, 0x00746f6f622d7668
    cmp [r12], rax
    jne .Lexit

    mov r13d, 3                 # MSR plane: memory size, the same as in the block
    mov ecx, 0x48560001
    rdmsr
    shl rdx, 32
    or rax, rdx
    cmp rax, [r12 + 16]
    jne .Lexit

    mov r13d, 4
    lea rdi, [rip + greeting]
    mov esi, offset greeting_len
    call write
    cmp rax, rsi                # all of it was written
    jne .Lexit

    cmp qword ptr [r12 + 88], 2 # any arguments behind the name?
    jb .Ldone
    mov rdi, [r12 + 72]
    call length
    lea rdi, [rdi + rsi + 1]    # skip the name and its zero byte
    call length
    call write
    lea rdi, [rip + newline]
    mov esi, 1
    call write
.Ldone:
    mov r13d, 7
.Lexit:
    mov edi, r13d
    mov eax, 2                  # Exit
    mov edx, 0x4856
    out dx, eax

# Writes RSI bytes at RDI to the output; the result is in RAX.
write:
    xor r8d, r8d
    mov eax, 1                  # ConsoleWrite
    mov edx, 0x4856
    out dx, eax
    ret

# Sets RSI to the length of the zero-terminated text at RDI.
length:
    xor esi, esi
.Lnext:
    cmp byte ptr [rdi + rsi], 0
    je .Lend
    inc rsi
    jmp .Lnext
.Lend:
    ret
    "#
);

/// Nothing here can panic, but a program without std has to say what would happen.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
