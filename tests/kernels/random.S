/* The frame of a random guest: it goes to the mode that the byte at MODE names, loads the registers that stand behind it, and jumps to CODE, where random
   code lies. Every trap goes on a byte behind where it was. It lies at 0:7C00. */
#define PARAMETERS 0x8400
#define MODE PARAMETERS
#define REGISTERS (PARAMETERS + 16)
#define CODE 0x9000
#define STACK 0x7000
#define TRAP_STACK 0x6800
#define IDT32 0x2000
#define IDT64 0x3000
#define TSS 0x4000
#define DIRECTORY 0x10000
#define TABLE 0x11000
#define POINTERS 0x12000
#define PAE_DIRECTORY 0x13000
#define PAE_TABLE 0x14000
#define PML4 0x15000
#define PDPT 0x16000
#define SUPERVISORS 0x20000
#define USER_FLAGS 0x3202
/* Modes. */
#define REAL 0
#define PROTECTED 1
#define PROTECTED_16 2
#define TWO_LEVEL 3
#define PAE 4
#define LONG 5
#define COMPATIBILITY 6
#define USER 7
#define VIRTUAL 8
#define USER_PAE 9
#define USER_LONG 10

    .text
    .code16
    .globl start
start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $STACK, %sp
    xor %di, %di
    mov $256, %cx
1:  movw $trap16, (%di)
    mov %ax, 2(%di)
    add $4, %di
    loop 1b
    mov $0x1b, %ecx
    rdmsr
    or $0xc00, %eax
    wrmsr
    mov $0x80f, %ecx
    mov $0x1ff, %eax
    xor %edx, %edx
    wrmsr
    cmpb $REAL, MODE
    jne 2f
    call load
    ljmp $0, $CODE
2:  lgdtl gdt_pointer
    mov %cr0, %eax
    and $0x9fffffff, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $protected

trap16:
    push %bp
    mov %sp, %bp
    incw 2(%bp)
    pop %bp
    iret

/* Loads the registers, but the stack pointer; in 16-bit and in 32-bit code. */
load:
    movl REGISTERS + 4, %ecx
    movl REGISTERS + 8, %edx
    movl REGISTERS + 12, %ebx
    movl REGISTERS + 20, %ebp
    movl REGISTERS + 24, %esi
    movl REGISTERS + 28, %edi
    movl REGISTERS, %eax
    ret

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
    lidt idt32_pointer
    mov $0x40, %eax
    ltr %ax
    mov MODE, %al
    cmp $PROTECTED, %al
    je run32
    cmp $PROTECTED_16, %al
    jne 1f
    call load32
    ljmp $0x18, $CODE
1:  cmp $TWO_LEVEL, %al
    je two_level
    cmp $USER, %al
    je two_level
    cmp $VIRTUAL, %al
    je two_level

    /* PAE, or long mode. */
    mov $0x20, %ecx
    mov %ecx, %cr4
    mov $POINTERS, %ecx
    cmp $PAE, %al
    je 2f
    cmp $USER_PAE, %al
    je 2f
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $PML4, %ecx
    mov MODE, %al
2:  mov %ecx, %cr3
    mov %cr0, %ecx
    or $0x80050000, %ecx
    mov %ecx, %cr0
    cmp $COMPATIBILITY, %al
    je run32
    cmp $PAE, %al
    je run32
    cmp $USER_PAE, %al
    je user
    ljmp $0x38, $long_mode

two_level:
    mov $0x10, %ecx
    mov %ecx, %cr4
    mov $DIRECTORY, %ecx
    mov %ecx, %cr3
    mov %cr0, %ecx
    or $0x80050000, %ecx
    mov %ecx, %cr0
    cmp $TWO_LEVEL, %al
    je run32
    cmp $VIRTUAL, %al
    je virtual
user:
    mov SUPERVISORS, %ecx
    push $0x33
    push $STACK
    push $(USER_FLAGS + 0x40000)
    push $0x2b
    push $CODE
    mov $0x33, %eax
    mov %ax, %ds
    mov %ax, %es
    call load32
    iret
virtual:
    mov SUPERVISORS, %ecx
    push $0
    push $0
    push $0
    push $0
    push $0
    push $STACK
    push $(USER_FLAGS + 0x20000)
    push $0
    push $CODE
    call load32
    iret
run32:
    call load32
    mov $CODE, %esp
    sub $0x2000, %esp
    push $CODE
    ret
load32:
    mov REGISTERS + 4, %ecx
    mov REGISTERS + 8, %edx
    mov REGISTERS + 12, %ebx
    mov REGISTERS + 20, %ebp
    mov REGISTERS + 24, %esi
    mov REGISTERS + 28, %edi
    mov REGISTERS, %eax
    ret

tables:
    xor %eax, %eax
    mov $IDT32, %edi
    mov $((TSS + 0x1000 - IDT32) / 4), %ecx
    rep stosl
    mov $DIRECTORY, %edi
    mov $((PDPT + 0x1000 - DIRECTORY) / 4), %ecx
    rep stosl
    mov $256, %ecx
1:  lea -1(%ecx), %ebx
    mov $trap32, %eax
    mov $trap64, %edx
    cmp $8, %ebx
    je 2f
    cmp $17, %ebx
    je 2f
    cmp $10, %ebx
    jb 3f
    cmp $14, %ebx
    ja 3f
2:  mov $trap32_code, %eax
    mov $trap64_code, %edx
3:  mov %eax, IDT32(, %ebx, 8)
    movw $8, IDT32 + 2(, %ebx, 8)
    movl $0xee00, IDT32 + 4(, %ebx, 8)
    add %ebx, %ebx
    mov %edx, IDT64(, %ebx, 8)
    movw $0x38, IDT64 + 2(, %ebx, 8)
    movl $0xee00, IDT64 + 4(, %ebx, 8)
    loop 1b
    movl $TRAP_STACK, TSS + 4
    movl $0x10, TSS + 8

    /* 4 MiB one to one, two by large pages: the user's. */
    movl $(TABLE + 7), DIRECTORY
    movl $0x87, DIRECTORY + 4
    mov $TABLE, %edi
    mov $PAE_TABLE, %esi
    mov $7, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    mov %eax, (%esi)
    add $4, %edi
    add $8, %esi
    add $0x1000, %eax
    loop 1b
    /* One page is the supervisor's. It is read before a user begins, so that the user is kept from it by its rights. */
    movl $(SUPERVISORS + 3), TABLE + 0x80
    movl $(SUPERVISORS + 3), PAE_TABLE + 0x100
    movl $(PAE_DIRECTORY + 1), POINTERS
    movl $(PAE_TABLE + 7), PAE_DIRECTORY
    movl $0x87, PAE_DIRECTORY + 8
    movl $(PDPT + 7), PML4
    movl $(PDPT + 7), PML4 + 0xff8
    movl $(PAE_DIRECTORY + 7), PDPT
    ret

trap32_code:
    add $4, %esp
trap32:
    incl (%esp)
    iret

    .code64
long_mode:
    lidt idt64_pointer
    movl $0, TSS + 8            /* the stack pointer has 64 bits now */
    cmpb $USER_LONG, MODE
    je 1f
    call load64
    push $CODE
    ret
1:  mov SUPERVISORS, %ecx
    push $0x33
    push $STACK
    push $(USER_FLAGS + 0x40000)
    push $0x5b
    push $CODE
    call load64
    iretq
load64:
    mov REGISTERS + 8, %rcx
    mov REGISTERS + 16, %rdx
    mov REGISTERS + 24, %rbx
    mov REGISTERS + 40, %rbp
    mov REGISTERS + 48, %rsi
    mov REGISTERS + 56, %rdi
    mov REGISTERS + 64, %r8
    mov REGISTERS, %rax
    ret
trap64_code:
    add $8, %rsp
trap64:
    incq (%rsp)
    iretq

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 08 32-bit code */
    .quad 0x00cf93000000ffff        /* 10 data */
    .quad 0x00009b000000ffff        /* 18 16-bit code */
    .quad 0x000093000000ffff        /* 20 16-bit data */
    .quad 0x00cffb000000ffff        /* 28 a user's 32-bit code */
    .quad 0x00cff3000000ffff        /* 30 a user's data */
    .quad 0x00af9b000000ffff        /* 38 64-bit code */
    .quad 0x0000890040000067, 0     /* 40 TSS */
    .quad 0x00001b00c0000fff        /* 50 code that is not present */
    .quad 0x00affb000000ffff        /* 58 a user's 64-bit code */
    .quad 0x0000820030000fff, 0     /* 60 LDT */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
idt32_pointer:
    .word 0x7ff
    .long IDT32
idt64_pointer:
    .word 0xfff
    .quad IDT64
    .section .note.GNU-stack, "", @progbits
