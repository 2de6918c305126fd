/* A tour through every mode of the processor, from the reset vector and back to real mode: real, protected, two-level paging, CPL 3, virtual-8086,
   PAE, long mode with CPL 3. In each mode it takes software interrupts, exceptions, an interrupt of its APIC, accesses ports and faults, and prints what it
   took: the vector, the error code behind a slash, the address of a page fault behind an @. Then CR0, CR4 and EFER as it sees them. */
#define BASE 0xf0000
/* Low memory: where to go on behind a fault (0: nowhere), where to and with which stack when a user is done. */
#define RESUME 0x600
#define RETURN 0x608
#define RETURN_STACK 0x610
#define STACK 0x7000
#define TRAP_STACK 0x6800
#define USER_STACK 0x5e00
#define IDT32 0x2000
#define IDT64 0x3000
#define TSS32 0x8000
#define TSS64 0xc000
#define VECTORS 0x60
#define DIRECTORY 0x10000
#define TABLE 0x11000
#define POINTERS 0x12000
#define PAE_DIRECTORY 0x13000
#define PML4 0x14000
#define PAE_TABLE 0x17000
/* Pages for users to fail at: the supervisor's, and one that is read only. */
#define SUPERVISOR_PAGE 0x20000
#define READ_ONLY_PAGE 0x21000
#define UNMAPPED 0x800000
#define CONSOLE 0xe9
#define NOBODYS_PORT 0x80
#define EXIT 0xf4
#define APIC_BASE 0x1b
#define EOI 0x80b
#define SPURIOUS 0x80f
#define SELF 0x83f
#define EFER 0xc0000080
#define INTERRUPT 0x50

/* Prints text, in each size of code. */
    .macro SAY16 text
    push %si
    mov $text\@, %si
    call say16
    pop %si
    jmp end\@
text\@: .asciz "\text"
end\@:
    .endm

    .macro SAY32 text
    mov $(text\@ + BASE), %esi
    call say32
    jmp end\@
text\@: .asciz "\text"
end\@:
    .endm

    .macro SAY64 text
    mov $(text\@ + BASE), %esi
    call say64
    jmp end\@
text\@: .asciz "\text"
end\@:
    .endm

    .macro VECTOR16 number
    movw $trap16_\number, %es:4 * 0x\number
    mov %cs, %es:4 * 0x\number + 2
    .endm

/* The handler of a vector in real mode. */
    .macro TRAP16 number
trap16_\number:
    pushl %eax
    push %bp
    mov %sp, %bp
    mov $0x\number, %al
    call hex16
    .if 0x\number == INTERRUPT
    call eoi16
    .endif
    mov %es:RESUME, %ax
    test %ax, %ax
    jz 1f
    mov %ax, 6(%bp)
    movl $0, %es:RESUME
1:  pop %bp
    popl %eax
    iret
    .endm

    .text
    .code16
    .globl start
start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    xor %ax, %ax
    mov %ax, %es
    mov %ax, %ss
    mov $STACK, %sp
    movl $0, %es:RESUME
    VECTOR16 00
    VECTOR16 03
    VECTOR16 06
    VECTOR16 40
    VECTOR16 50
    call apic16
    SAY16 "real:"
    call try16

    /* Protected mode. */
    lgdtl gdt_pointer
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $(protected + BASE)

/* Everything that real mode has. */
try16:
    int $0x40
    int3
    movl $1f, %es:RESUME
    ud2
1:  movl $1f, %es:RESUME
    xor %cx, %cx
    div %cx
1:  mov $SELF, %ecx
    mov $INTERRUPT, %eax
    xor %edx, %edx
    wrmsr
    sti
    nop
    nop
    cli
    in $CONSOLE, %al
    call hex16
    mov %cr0, %eax
    call long16
    mov %cr4, %eax
    call long16
    mov $EFER, %ecx
    rdmsr
    call long16
    mov $'\n', %al
    out %al, $CONSOLE
    ret

/* Switches the APIC on, to be reached by MSRs. */
apic16:
    mov $APIC_BASE, %ecx
    rdmsr
    or $0xc00, %eax
    wrmsr
    mov $SPURIOUS, %ecx
    mov $0x1ff, %eax
    xor %edx, %edx
    wrmsr
    ret

eoi16:
    push %ecx
    push %edx
    mov $EOI, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %edx
    pop %ecx
    ret

say16:
    lodsb
    test %al, %al
    jz 1f
    out %al, $CONSOLE
    jmp say16
1:  ret

/* Prints a space and AL; EAX. */
hex16:
    push %ax
    mov $' ', %al
    out %al, $CONSOLE
    pop %ax
digits16:
    push %ax
    shr $4, %al
    call digit16
    pop %ax
digit16:
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 1f
    add $('a' - '9' - 1), %al
1:  out %al, $CONSOLE
    ret
long16:
    rol $8, %eax
    call hex16
    mov $3, %cx
1:  rol $8, %eax
    pushl %eax
    call digits16
    popl %eax
    loop 1b
    ret

    TRAP16 00
    TRAP16 03
    TRAP16 06
    TRAP16 40
    TRAP16 50

/* What a user of virtual-8086 mode does; an interrupt waits for it. */
virtual:
    int $0x40
    movl $1f, %es:RESUME
    ud2
1:  movl $1f, %es:RESUME
    hlt
1:  movl $1f, %es:RESUME
    in $NOBODYS_PORT, %al
1:  movl $1f, %es:RESUME
    mov %cr0, %eax
1:  in $CONSOLE, %al
    call hex16
    pushf
    cli
    popf
    cpuid
    int $0x41

    .code32
protected:
    mov $0x10, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov $STACK, %esp
    call tables
    lidt idt32_pointer + BASE
    mov $0x40, %eax
    ltr %ax
    SAY32 "protected:"
    call try32
    call end_line32

    /* Two-level paging. */
    mov $0x10, %eax
    mov %eax, %cr4
    mov $DIRECTORY, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80010000, %eax
    mov %eax, %cr0
    SAY32 "two-level paging:"
    call try32
    call faults32
    mov 0xc0000000 + BASE, %eax
    cmp BASE, %eax
    je 1f
    SAY32 " no alias"
1:  call end_line32
    SAY32 "user, two-level paging:"
    call user32
    SAY32 "virtual-8086:"
    call virtual32

    /* PAE paging. */
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0x20, %eax
    mov %eax, %cr4
    mov $POINTERS, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    SAY32 "PAE paging:"
    call try32
    call faults32
    call end_line32
    SAY32 "user, PAE paging:"
    call user32
    SAY32 "virtual-8086, PAE paging:"
    call virtual32

    /* Long mode; between EFER.LME and CR0.PG, the processor is as it was. */
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $PML4, %eax
    mov %eax, %cr3
    mov $EFER, %ecx
    rdmsr
    or $0x900, %eax
    wrmsr
    SAY32 "long mode enabled:"
    call try32
    call end_line32
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $0x38, $(long_mode + BASE)

/* Everything that 32-bit protected mode has. */
try32:
    int $0x40
    int3
    movl $(1f + BASE), RESUME
    ud2
1:  movl $(1f + BASE), RESUME
    mov $0xfff8, %eax
    mov %ax, %fs
1:  movl $(1f + BASE), RESUME
    xor %ecx, %ecx
    div %ecx
1:  call interrupt32
    sti
    nop
    nop
    cli
    in $CONSOLE, %al
    call hex32
    mov %cr0, %eax
    call long32
    mov %cr4, %eax
    call long32
    mov $EFER, %ecx
    rdmsr
    jmp long32

/* Reads and writes an address that nothing is mapped at. */
faults32:
    movl $(1f + BASE), RESUME
    mov UNMAPPED, %eax
1:  movl $(1f + BASE), RESUME
    mov %eax, UNMAPPED + 8
1:  movl $(1f + BASE), RESUME
    mov $UNMAPPED, %eax
    jmp *%eax
1:  ret

/* Has the APIC interrupt the processor. */
interrupt32:
    mov $SELF, %ecx
    mov $INTERRUPT, %eax
    xor %edx, %edx
    wrmsr
    ret

/* A user at CPL 3, for whom an interrupt waits. */
user32:
    call interrupt32
    mov %esp, RETURN_STACK
    movl $(end_line32 + BASE), RETURN
    push $0x33
    push $USER_STACK
    push $0x202
    push $0x2b
    push $(1f + BASE)
    iret
1:  mov $0x33, %eax
    mov %ax, %ds
    mov %ax, %es
    int $0x40
    movl $(1f + BASE), RESUME
    ud2
1:  movl $(1f + BASE), RESUME
    hlt
1:  movl $(1f + BASE), RESUME
    in $NOBODYS_PORT, %al
1:  movl $(1f + BASE), RESUME
    mov %cr0, %eax
1:  movl $(1f + BASE), RESUME
    mov SUPERVISOR_PAGE, %eax
1:  movl $(1f + BASE), RESUME
    mov %eax, READ_ONLY_PAGE
1:  movl $(1f + BASE), RESUME
    mov UNMAPPED, %eax
1:  movl $(1f + BASE), RESUME
    lgdt gdt_pointer + BASE
1:  cpuid
    in $CONSOLE, %al
    call hex32
    int $0x41

/* A user in virtual-8086 mode, for whom an interrupt waits. */
virtual32:
    call interrupt32
    mov %esp, RETURN_STACK
    movl $(end_line32 + BASE), RETURN
    push $0
    push $0
    push $(BASE >> 4)
    push $0
    push $0
    push $USER_STACK
    push $0x23202
    push $(BASE >> 4)
    push $virtual
    iret

end_line32:
    mov $'\n', %al
    out %al, $CONSOLE
    ret

say32:
    lodsb
    test %al, %al
    jz 1f
    out %al, $CONSOLE
    jmp say32
1:  ret

/* Prints a space and AL; EAX. */
hex32:
    push %eax
    mov $' ', %al
    out %al, $CONSOLE
    pop %eax
digits32:
    push %eax
    shr $4, %al
    call digit32
    pop %eax
digit32:
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 1f
    add $('a' - '9' - 1), %al
1:  out %al, $CONSOLE
    ret
long32:
    push %eax
    mov $' ', %al
    out %al, $CONSOLE
    pop %eax
longs32:
    mov $4, %ecx
1:  rol $8, %eax
    push %eax
    call digits32
    pop %eax
    loop 1b
    ret

/* Clears low memory and builds the tables. */
tables:
    xor %eax, %eax
    mov $RESUME, %edi
    mov $8, %ecx
    rep stosl
    mov $IDT32, %edi
    mov $((STACK - 0x1000 - IDT32) / 4), %ecx
    rep stosl
    mov $TSS32, %edi
    mov $((0x18000 - TSS32) / 4), %ecx
    rep stosl

    mov $(stubs32 + BASE), %eax
    mov $IDT32, %edi
    mov $VECTORS, %ecx
1:  mov %ax, (%edi)
    movw $8, 2(%edi)
    movw $0xee00, 4(%edi)
    mov %eax, %ebx
    shr $16, %ebx
    mov %bx, 6(%edi)
    add $16, %eax
    add $8, %edi
    loop 1b

    mov $(stubs64 + BASE), %eax
    mov $IDT64, %edi
    mov $VECTORS, %ecx
1:  mov %ax, (%edi)
    movw $0x38, 2(%edi)
    movw $0xee00, 4(%edi)
    mov %eax, %ebx
    shr $16, %ebx
    mov %bx, 6(%edi)
    add $16, %eax
    add $16, %edi
    loop 1b

    /* Users may access the console alone. */
    movl $TRAP_STACK, TSS32 + 4
    movl $0x10, TSS32 + 8
    movw $0x68, TSS32 + 0x66
    movl $TRAP_STACK, TSS64 + 4
    movw $0x68, TSS64 + 0x66
    mov $-1, %eax
    mov $(TSS32 + 0x68), %edi
    mov $(0x2004 / 4), %ecx
    rep stosl
    mov $(TSS64 + 0x68), %edi
    mov $(0x2004 / 4), %ecx
    rep stosl
    btrl $CONSOLE % 32, TSS32 + 0x68 + CONSOLE / 32 * 4
    btrl $CONSOLE % 32, TSS64 + 0x68 + CONSOLE / 32 * 4

    /* The first 4 MiB one to one, all of it the user's but for one page; the same again by a large page at 3 GiB. */
    movl $(TABLE + 7), DIRECTORY
    movl $0x83, DIRECTORY + 0xc00
    mov $TABLE, %edi
    mov $7, %eax
    mov $1024, %ecx
1:  stosl
    add $0x1000, %eax
    loop 1b
    movl $(SUPERVISOR_PAGE + 3), TABLE + (SUPERVISOR_PAGE >> 10)
    movl $(READ_ONLY_PAGE + 5), TABLE + (READ_ONLY_PAGE >> 10)

    movl $(PAE_DIRECTORY + 1), POINTERS
    movl $(PAE_TABLE + 7), PAE_DIRECTORY
    mov $PAE_TABLE, %edi
    mov $7, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $8, %edi
    add $0x1000, %eax
    loop 1b
    movl $(SUPERVISOR_PAGE + 3), PAE_TABLE + (SUPERVISOR_PAGE >> 9)
    movl $(READ_ONLY_PAGE + 5), PAE_TABLE + (READ_ONLY_PAGE >> 9)

    movl $(PML4 + 0x1007), PML4
    movl $(PML4 + 0x1007), PML4 + 0x800
    movl $(PAE_DIRECTORY + 7), PML4 + 0x1000
    ret

/* Entry points of the vectors in 32-bit mode. */
    .balign 16
stubs32:
    .set vector, 0
    .rept VECTORS
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    jmp trap32
    .set vector, vector + 1
    .endr

trap32:
    pusha
    push %ds
    push %es
    mov $0x10, %eax
    mov %ax, %ds
    mov %ax, %es
    mov 40(%esp), %ebx
    mov %ebx, %eax
    call hex32
    cmp $8, %ebx
    jb 2f
    cmp $14, %ebx
    ja 2f
    mov $'/', %al
    out %al, $CONSOLE
    mov 44(%esp), %eax
    call longs32
    cmp $14, %ebx
    jne 2f
    mov $'@', %al
    out %al, $CONSOLE
    mov %cr2, %eax
    call longs32
2:  cmp $INTERRUPT, %ebx
    jne 3f
    mov $EOI, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
3:  cmp $0x41, %ebx
    jne 4f
    mov RETURN_STACK, %esp
    jmp *RETURN
4:  mov RESUME, %eax
    test %eax, %eax
    jz 5f
    cmp $32, %ebx
    jae 6f
    mov %eax, 48(%esp)
    movl $0, RESUME
    jmp 6f
    /* A fault that nobody waits for. */
5:  cmp $3, %ebx
    je 6f
    cmp $32, %ebx
    jae 6f
    mov $1, %al
    out %al, $EXIT
6:  pop %es
    pop %ds
    popa
    add $8, %esp
    iret

    .code64
long_mode:
    lidt idt64_pointer + BASE
    mov $0x48, %eax
    ltr %ax
    SAY64 "long mode:"
    call try64
    call end_line64
    /* By the upper half. */
    mov $0xffff8000, %eax
    shl $32, %rax
    lea 1f + BASE(%rax), %rax
    jmp *%rax
1:  SAY64 "long mode, upper half:"
    call try64
    call end_line64
    mov $(1f + BASE), %eax
    jmp *%rax
1:  SAY64 "user, long mode:"
    call user64

    /* And back: 32-bit code, paging off, long mode off. */
    SAY64 "back:\n"
    push $8
    push $(compatibility + BASE)
    lretq

try64:
    int $0x40
    int3
    movq $(1f + BASE), RESUME
    ud2
1:  movq $(1f + BASE), RESUME
    mov $0xfff8, %eax
    mov %ax, %fs
1:  movq $(1f + BASE), RESUME
    xor %ecx, %ecx
    div %ecx
1:  mov $SELF, %ecx
    mov $INTERRUPT, %eax
    xor %edx, %edx
    wrmsr
    sti
    nop
    nop
    cli
    movq $(1f + BASE), RESUME
    mov UNMAPPED, %eax
1:  movq $(1f + BASE), RESUME
    mov %eax, UNMAPPED + 8
1:  movq $(1f + BASE), RESUME
    mov $UNMAPPED, %eax
    jmp *%rax
    /* An address that is not canonical. */
1:  movq $(1f + BASE), RESUME
    mov $0x8000, %eax
    shl $32, %rax
    mov (%rax), %eax
1:  mov %cr8, %rax
    call hex64
    mov $5, %eax
    mov %rax, %cr8
    mov %cr8, %rax
    call hex64
    xor %eax, %eax
    mov %rax, %cr8
    in $CONSOLE, %al
    call hex64
    mov %cr0, %rax
    call long64
    mov %cr4, %rax
    call long64
    mov $EFER, %ecx
    rdmsr
    jmp long64

user64:
    mov $SELF, %ecx
    mov $INTERRUPT, %eax
    xor %edx, %edx
    wrmsr
    mov %rsp, RETURN_STACK
    movq $(end_line64 + BASE), RETURN
    push $0x33
    push $USER_STACK
    push $0x202
    push $0x5b
    push $(1f + BASE)
    iretq
1:  int $0x40
    movq $(1f + BASE), RESUME
    ud2
1:  movq $(1f + BASE), RESUME
    hlt
1:  movq $(1f + BASE), RESUME
    in $NOBODYS_PORT, %al
1:  movq $(1f + BASE), RESUME
    mov %cr3, %rax
1:  movq $(1f + BASE), RESUME
    mov SUPERVISOR_PAGE, %eax
1:  movq $(1f + BASE), RESUME
    mov %eax, READ_ONLY_PAGE
1:  movq $(1f + BASE), RESUME
    mov UNMAPPED, %eax
1:  movq $(1f + BASE), RESUME
    wrmsr
1:  cpuid
    in $CONSOLE, %al
    call hex64
    int $0x41

end_line64:
    mov $'\n', %al
    out %al, $CONSOLE
    ret

say64:
    lodsb
    test %al, %al
    jz 1f
    out %al, $CONSOLE
    jmp say64
1:  ret

hex64:
    push %rax
    mov $' ', %al
    out %al, $CONSOLE
    pop %rax
digits64:
    push %rax
    shr $4, %al
    call digit64
    pop %rax
digit64:
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 1f
    add $('a' - '9' - 1), %al
1:  out %al, $CONSOLE
    ret
long64:
    push %rax
    mov $' ', %al
    out %al, $CONSOLE
    pop %rax
longs64:
    mov $4, %ecx
1:  rol $8, %eax
    push %rax
    call digits64
    pop %rax
    loop 1b
    ret

    .balign 16
stubs64:
    .set vector, 0
    .rept VECTORS
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    jmp trap64
    .set vector, vector + 1
    .endr

trap64:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    mov 32(%rsp), %rbx
    mov %ebx, %eax
    call hex64
    cmp $8, %ebx
    jb 2f
    cmp $14, %ebx
    ja 2f
    mov $'/', %al
    out %al, $CONSOLE
    mov 40(%rsp), %eax
    call longs64
    cmp $14, %ebx
    jne 2f
    mov $'@', %al
    out %al, $CONSOLE
    mov %cr2, %rax
    call longs64
2:  cmp $INTERRUPT, %ebx
    jne 3f
    mov $EOI, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
3:  cmp $0x41, %ebx
    jne 4f
    mov RETURN_STACK, %rsp
    jmp *RETURN
4:  mov RESUME, %rax
    test %rax, %rax
    jz 5f
    cmp $32, %ebx
    jae 6f
    mov %rax, 48(%rsp)
    movq $0, RESUME
    jmp 6f
5:  cmp $3, %ebx
    je 6f
    cmp $32, %ebx
    jae 6f
    mov $1, %al
    out %al, $EXIT
6:  pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

    .code32
compatibility:
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $EFER, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    mov %eax, %cr4
    mov $0x10, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $STACK, %esp
    lidt idt32_pointer + BASE
    SAY32 "protected again:"
    call try32
    call end_line32
    ljmp $0x18, $1f
    .code16
1:  mov $0x20, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    lidtl %cs:idt16_pointer
    mov %cr0, %eax
    and $0x7ffefffe, %eax
    mov %eax, %cr0
    ljmp $(BASE >> 4), $1f
1:  mov %cs, %ax
    mov %ax, %ds
    xor %ax, %ax
    mov %ax, %es
    mov %ax, %ss
    mov $STACK, %sp
    SAY16 "real again:"
    call try16
    SAY16 "done\n"
    mov $42, %al
    out %al, $EXIT
1:  hlt
    jmp 1b

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 08 32-bit code */
    .quad 0x00cf93000000ffff        /* 10 data */
    .quad 0x00009b0f0000ffff        /* 18 16-bit code, from BASE on */
    .quad 0x000093000000ffff        /* 20 16-bit data */
    .quad 0x00cffb000000ffff        /* 28 a user's 32-bit code */
    .quad 0x00cff3000000ffff        /* 30 a user's data */
    .quad 0x00af9b000000ffff        /* 38 64-bit code */
    .quad 0x0000890080002070        /* 40 32-bit TSS */
    .quad 0x00008900c0002070, 0     /* 48 64-bit TSS */
    .quad 0x00affb000000ffff        /* 58 a user's 64-bit code */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt + BASE
idt16_pointer:
    .word 0x3ff
    .long 0
idt32_pointer:
    .word VECTORS * 8 - 1
    .long IDT32
idt64_pointer:
    .word VECTORS * 16 - 1
    .quad IDT64

    .section .reset, "ax"
    .code16
    ljmp $0xf000, $start
    .org 16
    .section .note.GNU-stack, "", @progbits
