/* The entry of a 32-bit PVH kernel: flat 32-bit protected mode, EBX points to the start info. */
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start

#define MAGIC $0
#include "flat32.S"
