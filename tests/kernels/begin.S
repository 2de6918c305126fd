/* What a virtual CPU begins with, seen from the reset vector: everything is stored before anything is changed, then printed, a line each.
   Code runs where CS's base is, just below 4 GiB; data lies in low memory, as the data segments begin at 0. */
#define CONSOLE 0xe9
#define EXIT 0xf4
/* Where what was found lies: registers, then what takes code to read. */
#define FOUND 0x500
/* Below 1 MiB stands a copy of this firmware. */
#define COPY 0xf000

/* Prints a name, and what was found at an offset. */
    .macro SHOW name, at
    mov $name\@, %si
    call say
    mov FOUND + \at, %eax
    call line
    jmp end\@
name\@: .asciz "\name "
end\@:
    .endm

    .macro MSR number, at
    mov $\number, %ecx
    rdmsr
    mov %eax, FOUND + \at
    mov %edx, FOUND + \at + 4
    .endm

    .text
    .code16
    .globl start
start:
    mov %eax, FOUND
    mov %ebx, FOUND + 4
    mov %ecx, FOUND + 8
    mov %edx, FOUND + 12
    mov %esi, FOUND + 16
    mov %edi, FOUND + 20
    mov %ebp, FOUND + 24
    mov %esp, FOUND + 28
    mov %cs, FOUND + 32
    mov %ds, FOUND + 34
    mov %es, FOUND + 36
    mov %ss, FOUND + 38
    mov %fs, FOUND + 40
    mov %gs, FOUND + 42
    mov $0x7000, %sp
    pushfl
    popl FOUND + 44
    mov %cr0, %eax
    mov %eax, FOUND + 48
    mov %cr2, %eax
    mov %eax, FOUND + 52
    mov %cr3, %eax
    mov %eax, FOUND + 56
    mov %cr4, %eax
    mov %eax, FOUND + 60
    mov %dr0, %eax
    mov %eax, FOUND + 64
    mov %dr6, %eax
    mov %eax, FOUND + 68
    mov %dr7, %eax
    mov %eax, FOUND + 72
    sgdtl FOUND + 76
    sidtl FOUND + 84
    MSR 0xc0000080, 92
    MSR 0x277, 100
    MSR 0x1b, 108
    MSR 0xc0000102, 116
    MSR 0xc0000082, 124
    rdtsc
    mov %edx, FOUND + 132
    mov $1, %eax
    cpuid
    sub FOUND + 12, %eax
    mov %eax, FOUND + 136
    /* The copy changes; what CS's base leads to does not. */
    mov $COPY, %ax
    mov %ax, %es
    notl %es:marker
    mov %es:marker, %eax
    add %cs:marker, %eax
    mov %eax, FOUND + 140
    fnstcw FOUND + 144
    mov %cr4, %eax
    or $0x200, %ax
    mov %eax, %cr4
    stmxcsr FOUND + 148

    SHOW "EAX", 0
    SHOW "EBX", 4
    SHOW "ECX", 8
    SHOW "EDX less what CPUID tells", 136
    SHOW "ESI", 16
    SHOW "EDI", 20
    SHOW "EBP", 24
    SHOW "ESP", 28
    SHOW "DS CS", 32
    SHOW "SS ES", 36
    SHOW "GS FS", 40
    SHOW "EFLAGS", 44
    SHOW "CR0", 48
    SHOW "CR2", 52
    SHOW "CR3", 56
    SHOW "CR4", 60
    SHOW "DR0", 64
    SHOW "DR6", 68
    SHOW "DR7", 72
    SHOW "GDTR base and limit", 76
    SHOW "GDTR base", 78
    SHOW "IDTR base and limit", 84
    SHOW "IDTR base", 86
    SHOW "EFER", 92
    SHOW "PAT", 100
    SHOW "PAT, upper half", 104
    SHOW "APIC_BASE", 108
    SHOW "KERNEL_GS_BASE", 116
    SHOW "LSTAR", 124
    SHOW "TSC, upper half", 132
    SHOW "CS's base is its selector's, less one", 140
    movzwl FOUND + 144, %eax
    mov %eax, FOUND + 144
    SHOW "FCW", 144
    SHOW "MXCSR", 148
    mov $42, %al
    out %al, $EXIT
1:  hlt
    jmp 1b

/* Prints the text at CS:SI. */
say:
    lodsb %cs:(%si), %al
    test %al, %al
    jz 1f
    out %al, $CONSOLE
    jmp say
1:  ret

/* Prints EAX and ends the line. */
line:
    mov $8, %cx
1:  rol $4, %eax
    mov %eax, %ebx
    and $15, %bx
    push %eax
    mov %cs:digits(%bx), %al
    out %al, $CONSOLE
    pop %eax
    loop 1b
    mov $10, %al
    out %al, $CONSOLE
    ret

digits: .ascii "0123456789abcdef"
    .balign 4
marker: .long 0x12345678

    .section .reset, "ax"
    .code16
    jmp start
    .org 16
    .section .note.GNU-stack, "", @progbits
