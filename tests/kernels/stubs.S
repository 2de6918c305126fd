/* An entry point for each of the 256 vectors, 16 bytes apart, in 32-bit and in 64-bit mode. */
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    cld
#ifdef __x86_64__
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    mov 72(%rsp), %rdi              /* vector */
    lea 88(%rsp), %rsi              /* where the processor pushed RIP */
    mov 80(%rsp), %rdx              /* error code */
    call trap
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
#else
    pusha
    mov 32(%esp), %eax
    lea 40(%esp), %edx
    mov 36(%esp), %ecx
    push %ecx
    push %edx
    push %eax
    call trap
    add $12, %esp
    popa
    add $8, %esp
    iret
#endif

    /* Loads the interrupt descriptor table of traps.c. */
    .globl load_traps
load_traps:
#ifdef __x86_64__
    lidt (%rdi)
#else
    mov 4(%esp), %eax
    lidt (%eax)
#endif
    ret

    .section .note.GNU-stack, "", @progbits
