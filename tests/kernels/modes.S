/* Runs code at CODE in other modes, until it traps. */
#define REAL_STUB 0x8000
#define REAL_REGISTERS 0x9000
#define CODE_SEGMENT 0x1000
#define FLAT_CODE 0x08
#define FLAT_DATA 0x10
#define SMALL_CODE 0x18
#define SMALL_DATA 0x20
#define DATA_1 0x43
#define DATA_2 0x4b
#define KEEPS_SEGMENTS (REAL_REGISTERS + 44)
/* Where a label of the stub is once that was copied. */
#define IN_STUB(label) (REAL_STUB + (label) - real_stub)

    .bss
    .balign 4
saved_esp: .skip 4
saved_cr0: .skip 4

    .text
    .code32
/* enter_mode(frame): FS, ES, DS, what POPA takes, and what IRET takes. took_trap in strings.c ends it by leave_mode. */
    .globl enter_mode
enter_mode:
    mov 4(%esp), %eax
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, saved_esp
    mov %eax, %esp
    popl %fs
    popl %es
    popl %ds
    popa
    iret

    .globl leave_mode
leave_mode:
    mov saved_esp, %esp
    pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    ret

/* An entry for each exception, 16 bytes apart. */
    .balign 16
    .globl mode_traps
mode_traps:
    .set vector, 0
    .rept 32
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    jmp mode_trap
    .set vector, vector + 1
    .endr
mode_trap:
    cld
    pusha
    mov $FLAT_DATA, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    push %esp
    call took_trap

/* enter_real(): to real mode and back, with what stands at REAL_REGISTERS: what POPA takes, then FS, ES, DS, SS, EFLAGS, and whether DS and ES keep what
   protected mode loaded, with bases and limits of its descriptors. */
    .globl enter_real
enter_real:
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, saved_esp
    mov %cr0, %eax
    mov %eax, saved_cr0
    and $0x7fffffff, %eax
    mov %eax, %cr0
    ljmp $SMALL_CODE, $REAL_STUB

    .globl real_stub, real_stub_end, real_traps, real_stack
    .code16
real_stub:
    mov $SMALL_DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %ss
    lidtl IN_STUB(real_pointer)
    cmpw $0, KEEPS_SEGMENTS
    je 1f
    mov $DATA_2, %ax
    mov %ax, %es
    mov $DATA_1, %ax
    mov %ax, %ds
1:  mov %cr0, %eax
    and $0xfe, %al
    mov %eax, %cr0
    ljmp $0, $IN_STUB(1f)
1:  xor %ax, %ax
    mov %ax, %ss
    mov $REAL_REGISTERS, %sp
    popal
    pop %fs
    cmpw $0, %ss:KEEPS_SEGMENTS
    jne 1f
    pop %es
    pop %ds
    jmp 2f
1:  add $4, %sp
2:  pop %ss
    popfl
    ljmp $CODE_SEGMENT, $0

    .balign 8
real_traps:
    .set vector, 0
    .rept 32
    .balign 8
    pushw $vector
    jmp real_trap
    .set vector, vector + 1
    .endr
real_trap:
    cld
    pushal
    mov %sp, %ss:IN_STUB(real_stack)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $FLAT_CODE, $real_back
real_pointer:
    .word 0x3ff
    .long 0
real_stack: .word 0
real_stub_end:

    .code32
real_back:
    mov $FLAT_DATA, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %ss
    mov saved_cr0, %eax
    mov %eax, %cr0
    jmp leave_mode

    .section .note.GNU-stack, "", @progbits
