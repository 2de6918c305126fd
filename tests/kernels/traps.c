/* Exceptions and interrupts. */
#include "machine.h"

extern char trap_stubs[];
void load_traps(const void *pointer);

handler *handlers[256];
u64 taken[256];

/* Set while an MSR is accessed that may not be there. */
static volatile int fault_expected, fault_seen;

void trap(word vector, word *ip, word code) {
    taken[vector]++;
    if (vector == 13 && fault_expected) {
        fault_seen = 1;
        *ip += 2; /* RDMSR and WRMSR have two bytes. */
        return;
    }
    if (handlers[vector]) {
        handlers[vector]((u8)vector);
        return;
    }
    print("trap ");
    print_number(vector);
    print(" code ");
    print_hex(code, 8);
    print(" at ");
    print_hex(*ip, 16);
    print("\n");
    leave(99);
}

void traps_init(void) {
    static u32 table[256][sizeof(word) == 8 ? 4 : 2];
    static struct __attribute__((packed)) { u16 limit; word base; } pointer;
    for (u32 vector = 0; vector < 256; vector++) {
        word at = (word)trap_stubs + 16 * vector;
        table[vector][0] = 0x8u << 16 | (at & 0xffff);
        table[vector][1] = (u32)(at & 0xffff0000) | 0x8e00;
    }
    pointer.limit = sizeof table - 1;
    pointer.base = (word)table;
    load_traps(&pointer);
}

static int faults(void) {
    fault_expected = 0;
    return fault_seen;
}

int wrmsr_faults(u32 msr, u64 value) {
    fault_expected = 1, fault_seen = 0;
    wrmsr(msr, value);
    return faults();
}

int rdmsr_faults(u32 msr) {
    fault_expected = 1, fault_seen = 0;
    rdmsr(msr);
    return faults();
}
