/* A kernel that tells what it was told, sleeps on its timers, and leaves: by PVH or Multiboot, in 32-bit or 64-bit mode. */
#include "machine.h"

/* Xen's hvm_start_info, version 1, and what it points to. */
struct start_info { u32 magic, version, flags, modules; u64 module_list, command_line, rsdp, map; u32 map_entries, reserved; };
struct pvh_module { u64 address, size, command_line, reserved; };
struct pvh_range { u64 address, size; u32 kind, reserved; };

/* Multiboot's information, version 1. */
struct multiboot {
    u32 flags, lower_kib, upper_kib, boot_device, command_line, modules, module_list, symbols[4], map_bytes, map, drives[2], configuration,
        loader_name;
};
struct multiboot_module { u32 start, end, name, reserved; };
struct multiboot_range { u32 size; u64 address, bytes; u32 kind; } __attribute__((packed));

static void range(u64 address, u64 size, u32 kind) {
    print("memory ");
    print_hex(address, 9);
    print(" ");
    print_hex(size, 9);
    print(kind == 1 ? " ram\n" : " reserved\n");
}

static void module(const char *name, u64 address, u64 size) {
    const u8 *bytes = (const u8 *)(word)address;
    u32 sum = 0;
    for (u32 at = 0; at < size; at++) sum += bytes[at];
    print("module ");
    print(name);
    print(": ");
    print_number(size);
    print(" bytes, sum ");
    print_number(sum);
    print("\n");
}

static const char *pvh(const struct start_info *info) {
    const struct pvh_range *map = (const void *)(word)info->map;
    const struct pvh_module *list = (const void *)(word)info->module_list;
    for (u32 at = 0; at < info->map_entries; at++) range(map[at].address, map[at].size, map[at].kind);
    for (u32 at = 0; at < info->modules; at++) module((const char *)(word)list[at].command_line, list[at].address, list[at].size);
    return (const char *)(word)info->command_line;
}

static const char *multiboot(const struct multiboot *info) {
    const struct multiboot_module *list = (const void *)(word)info->module_list;
    print("upper memory ");
    print_number(info->upper_kib);
    print(" KiB, loaded by ");
    print((const char *)(word)info->loader_name);
    print("\n");
    for (u32 at = 0; at < info->map_bytes;) {
        const struct multiboot_range *entry = (const void *)(word)(info->map + at);
        range(entry->address, entry->bytes, entry->kind);
        at += entry->size + 4;
    }
    for (u32 at = 0; at < info->modules; at++) module((const char *)(word)list[at].name, list[at].start, list[at].end - list[at].start);
    return (const char *)(word)info->command_line;
}

void kernel_main(u32 magic, const u32 *info) {
    print("hello from " NAME "\n");
    const char *command_line = magic == 0x2badb002 ? multiboot((const void *)info) : pvh((const void *)info);
    print("command line: ");
    print(command_line);
    print("\n");
    traps_init();
    apic_init(command_line);
    if (has_word(command_line, "storm=ipi") || has_word(command_line, "storm=timer")) storm(command_line);
    timers();
    if (has_word(command_line, "serial")) serial_interrupts();
    if (has_word(command_line, "apic")) apic_tests();
    if (has_word(command_line, "second")) second();
    if (has_word(command_line, "absent-ports")) {
        out8(0x1234, 7);
        check(in8(0x1234) == 0xff && in32(0xcf8) == 0xffffffff, "absent ports");
    }
    if (has_word(command_line, "absent-memory")) {
        volatile u32 *absent = (u32 *)(word)0xd0000000;
        absent[1] = 7;
        check(absent[0] == 0xffffffff && absent[1] == 0xffffffff, "absent memory");
    }
    if (has_word(command_line, "hypervisor")) print(cpuid_1_ecx() >> 31 ? "a hypervisor\n" : "no hypervisor\n");
#ifdef __x86_64__
    if (has_word(command_line, "high")) {
        /* RAM above 4 GiB, and just below the hole. */
        volatile u64 *low = (u64 *)0xbffffff8, *high = (u64 *)0x13ffffff8;
        *low = 1, *high = 2;
        check(*low == 1 && *high == 2, "high memory");
    }
#endif
    print("done\n");
    leave(42);
}
