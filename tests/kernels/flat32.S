/* From flat 32-bit protected mode to C, with MAGIC and EBX as arguments. */
    .text
    .globl start
start:
    cld
    mov $stack_end, %esp
    lgdt gdt_pointer
    ljmp $8, $1f
1:  mov $16, %ecx
    mov %ecx, %ss
    mov %ecx, %ds
    mov %ecx, %es
    push %ebx
    push MAGIC
    call kernel_main
    ud2

    .section .rodata
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt

    .bss
    .balign 16
    .skip 16384
stack_end:
    .section .note.GNU-stack, "", @progbits
