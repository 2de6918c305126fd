/* A real-mode program that needs nothing but the processor: prints, sleeps on the x2APIC's timer in its three modes, and leaves.
   With RESET it is firmware of 64 KiB that begins at the reset vector; without, it lies at 0:7C00. */
#define PERIOD 200000
#define TIMER 0x40
    .code16
    .text
    .globl start
start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    xor %ax, %ax
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    mov $hello, %si
    call print
#ifdef RESET
    mov $anew, %si              /* after the INIT below, which leaves memory as it is */
    testw $1, %es:0x602
    jnz finish
#endif

    /* The timer's vector, and that of general protection faults. */
    movw $tick, %es:4 * TIMER
    mov %cs, %es:4 * TIMER + 2
    movw $fault, %es:4 * 13
    mov %cs, %es:4 * 13 + 2

    mov $1, %eax
    cpuid
    test $(1 << 21), %ecx
    jnz 1f
    mov $no_x2apic, %si
    jmp finish
1:  mov $0x1b, %ecx
    rdmsr
    or $0x400, %eax
    wrmsr
    mov $0x80f, %cx
    mov $0x1ff, %eax
    call write
    mov $0x83e, %cx
    mov $0xb, %eax
    call write

    mov $0x832, %cx             /* one-shot */
    mov $TIMER, %eax
    call write
    mov $0x838, %cx
    mov $PERIOD, %eax
    call write
    mov $1, %bx
    call wait
    mov $one_shot, %si
    call print

    mov $0x832, %cx             /* periodic */
    mov $(1 << 17 | TIMER), %eax
    call write
    mov $0x838, %cx
    mov $PERIOD, %eax
    call write
    mov $6, %bx
    call wait
    mov $0x838, %cx
    xor %eax, %eax
    call write
    mov $periodic, %si
    call print

    mov $0x832, %cx             /* deadline */
    mov $(2 << 17 | TIMER), %eax
    call write
    rdtsc
    add $PERIOD, %eax
    adc $0, %edx
    mov $0x6e0, %ecx
    wrmsr
    mov $7, %bx
    call wait
    mov $deadline, %si
#ifdef RESET
    call print
    movw $1, %es:0x602
    mov $0x830, %cx             /* INIT to processor 0 */
    mov $0x4500, %eax
    call write
    mov $fault_text, %si
#endif
finish:
    call print
    mov $done, %si
    call print
    mov $42, %al
leave:
    mov $0xf4, %dx
    out %al, %dx
1:  hlt
    jmp 1b

/* Writes EAX to the MSR CX. */
write:
    movzwl %cx, %ecx
    xor %edx, %edx
    wrmsr
    ret

/* Sleeps until there were BX ticks. */
wait:
    cmp %bx, %es:0x600
    jae 1f
    sti
    hlt
    cli
    jmp wait
1:  ret

tick:
    push %eax
    push %ecx
    push %edx
    incw %es:0x600
    mov $0x80b, %cx
    xor %eax, %eax
    call write
    pop %edx
    pop %ecx
    pop %eax
    iret

fault:
    mov $fault_text, %si
    call print
    mov $99, %al
    jmp leave

print:
    mov $0x3fd, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    lodsb
    test %al, %al
    jz 2f
    mov $0x3f8, %dx
    out %al, %dx
    jmp print
2:  ret

hello: .asciz "hello from real mode\n"
no_x2apic: .asciz "no x2apic\n"
one_shot: .asciz "timer one-shot: ok\n"
periodic: .asciz "timer periodic: ok\n"
deadline: .asciz "timer deadline: ok\n"
anew: .asciz "begins anew: ok\n"
done: .asciz "done\n"
fault_text: .asciz "general protection fault\n"

#ifdef RESET
    .section .reset, "ax"
    .code16
    ljmp $0xf000, $start
    .org 16
#endif
    .section .note.GNU-stack, "", @progbits
