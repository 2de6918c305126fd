//! A guest in assembly that makes one call of each kind, written from the contract's specification alone: it knows neither the SDK nor `hv-abi`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly is unsafe")]

use core::arch::global_asm;

// Exit codes: 1 another version, 2 Nop, 3 ConsoleWrite, 4 ConsoleRead, 5 Sleep, 6 HostCall, 7 the clock stands still, 8 a register, 9 a call that there
// is not, 10 a feature is missing, 11 files or environment. With an argument it serves: the function `handle` replies with its request.
global_asm!(
    r#"
    .section .rodata
greeting:
    .ascii "greetings\n"
    .set greeting_len, . - greeting
message:
    .ascii "as far as it goes"
    .set message_len, . - message
place:
    .ascii "asm_calls.s"
    .set place_len, . - place
# The request of `store_get("asm")`, a postcard message: a tuple of one text.
request:
    .byte 3
    .ascii "asm"

    .bss
    .balign 8
line:
    .skip 64
report:
    .skip 48

    .text
    .globl _start
_start:
    mov r12, rdi                # boot information block
    mov edx, 0x4856             # doorbell port, from here on

    mov r13d, 1                 # a host of version 2.x
    cmp word ptr [r12 + 10], 2
    jne .Lexit

    mov r13d, 10                # Functions, Sleep, Input
    mov rax, [r12 + 96]
    and eax, 0b11001
    cmp eax, 0b11001
    jne .Lexit

    cmp qword ptr [r12 + 88], 2 # an argument behind the name: serve
    jae .Lserve

    mov r13d, 2
    xor eax, eax                # Nop
    out dx, eax
    test rax, rax
    jnz .Lexit

    mov r13d, 9
    mov eax, 8                  # the first call that there is not
    out dx, eax
    cmp rax, -1
    jne .Lexit

    mov r13d, 3
    mov eax, 1                  # ConsoleWrite
    lea rdi, [rip + greeting]
    mov esi, offset greeting_len
    xor r8d, r8d
    out dx, eax
    cmp rax, rsi
    jne .Lexit

    mov r13d, 4
    mov eax, 4                  # ConsoleRead: at least a byte, fewer than 64
    lea rdi, [rip + line]
    mov esi, 64
    out dx, eax
    cmp rax, 1
    jl .Lexit
    mov rsi, rax
    mov eax, 1                  # and write them
    out dx, eax
    cmp rax, rsi
    jne .Lexit

    mov r13d, 7                 # clock: offset + ((TSC - zero) * scale >> 32)
    call now
    mov rbx, rax
    call now
    cmp rax, rbx
    jb .Lexit

    mov r13d, 5
    call timestamp
    lea rdi, [rax + 100000]     # Sleep for 100000 ticks
    mov rbx, rdi
.Lsleep:
    mov edx, 0x4856
    mov eax, 5
    out dx, eax
    cmp rax, 1
    je .Lsleep                  # cut short
    test rax, rax
    jnz .Lexit
    call timestamp
    cmp rax, rbx
    jb .Lexit
    mov edx, 0x4856

    mov r13d, 6                 # HostCall of store_get, which has no such key: None, the byte 0
    mov rbx, [r12 + 152]
    mov eax, [rip + request]
    mov [rbx + 32], eax
    movabs rdi, 0xa033434e2ab9d82d
    mov esi, 4
    xor r8d, r8d                # nothing to say of its types
    mov eax, 7
    out dx, eax
    cmp rax, 1                  # kind 0 (Reply), length 1
    jne .Lexit
    cmp byte ptr [rbx + 32], 0
    jne .Lexit

    mov r13d, 8                 # HeapPeakBytes: what is written can be read
    mov ecx, 0x48560005
    mov eax, 4711
    xor edx, edx
    wrmsr
    xor eax, eax
    rdmsr
    cmp eax, 4711
    jne .Lexit

    mov r13d, 11                # one file, called "f", whose first byte is 'F'; one variable, "V=v"
    cmp qword ptr [r12 + 136], 1
    jne .Lexit
    mov rax, [r12 + 128]
    mov rcx, [rax]
    cmp byte ptr [rcx], 'f'
    jne .Lexit
    mov rcx, [rax + 16]
    cmp byte ptr [rcx], 'F'
    jne .Lexit
    mov rax, [r12 + 104]
    cmp dword ptr [rax], 0x763d56
    jne .Lexit

    lea rdi, [rip + report]     # Panic: the last call
    lea rax, [rip + message]
    mov [rdi], rax
    mov qword ptr [rdi + 8], offset message_len
    lea rax, [rip + place]
    mov [rdi + 16], rax
    mov qword ptr [rdi + 24], offset place_len
    mov qword ptr [rdi + 32], 12
    mov qword ptr [rdi + 40], 34
    mov edx, 0x4856
    mov eax, 3
    out dx, eax
    ud2

.Lexit:
    mov edi, r13d
    mov edx, 0x4856
    mov eax, 2                  # Exit
    out dx, eax
    ud2

.Lserve:
    mov r14, [r12 + 144]        # inbox
    mov r15, [r12 + 152]        # outbox
    movabs rdi, 0x0000000500000000 # Ready
.Lnext:
    mov eax, 6                  # Serve
    mov edx, 0x4856
    out dx, eax
    mov r13d, 12
    test rax, rax
    js .Lexit
    movabs rcx, 0xb45b6cbd15f67d33 # handle
    movabs rdi, 0x0000000200000000 # UnknownFunction
    cmp [r14], rcx
    jne .Lnext
    mov ecx, eax                # its request is its reply
    lea rsi, [r14 + 32]
    lea rdi, [r15 + 32]
    rep movsb
    mov edi, eax                # Reply, of the same length
    jmp .Lnext

# Sets RAX to the time stamp; changes RDX.
timestamp:
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret

# Sets RAX to what the monotonic clock shows; keeps DX.
now:
    mov rcx, [r12 + 168]
    call timestamp
    sub rax, [rcx + 16]
    mul qword ptr [rcx + 24]
    shrd rax, rdx, 32
    add rax, [rcx + 32]
    mov edx, 0x4856
    ret
    "#
);

/// Nothing here can panic, but a program without std has to say what would happen.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
