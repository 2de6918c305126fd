/* The entry of a Multiboot kernel, version 1. With FLAT, address fields say what is loaded, and the file is bare bytes. */
#ifdef FLAT
#define FLAGS 0x10003
#else
#define FLAGS 0x3
#endif
    .section .header, "a"
    .balign 4
multiboot_header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef FLAT
    .long multiboot_header, image_start, image_data_end, image_end, start
#endif

#define MAGIC %eax
#include "flat32.S"
