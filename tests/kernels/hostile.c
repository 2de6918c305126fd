/* Guests that try to get out, or to hang their host: one way each, by the word on the command line. Who ends well exits with 42; the others are ended. */
#include "machine.h"

#define DO(text, ...) __asm__ volatile(text __VA_ARGS__)
#define FOR_EVER for (;;)

extern char trap_stubs[];
void load_traps(const void *pointer);

/* What a trap does: it goes on behind an instruction of so many bytes. */
static volatile u32 skip, traps;
static volatile u32 idt[256][sizeof(word) == 8 ? 4 : 2];
static struct __attribute__((packed)) pointer { u16 limit; word base; } pointer;
static volatile u64 gdt[16] __attribute__((aligned(8)));
static volatile u32 tss[2][64];

void trap(word vector, word *ip, word error) {
    (void)vector, (void)error;
    traps++;
    *ip += skip;
}

static void load(word base, u16 limit) {
    pointer.base = base, pointer.limit = limit;
    load_traps(&pointer);
}

/* Handlers that skip the instruction. */
static void skip_faulting(u32 bytes) {
    skip = bytes;
    for (u32 vector = 0; vector < 256; vector++) {
        word at = (word)trap_stubs + 16 * vector;
        word cs;
        DO("mov %%cs, %0", : "=r"(cs));
        idt[vector][0] = (u32)(cs & 0xffff) << 16 | (at & 0xffff);
        idt[vector][1] = (u32)(at & 0xffff0000) | 0xee00;
    }
    load((word)idt, sizeof idt - 1);
}

/* A random number: a multiplier and an increment of Numerical Recipes, twice. */
static u32 state = 1;
static u32 next(void) {
    u32 low = (state = state * 1664525 + 1013904223) >> 16;
    state = state * 1664525 + 1013904223;
    return (state & 0xffff0000) | low;
}

static void svm(void) {
    skip_faulting(3);
    for (u32 n = 0; n < 300; n++) {
        word at = (word)next() << 12;
        DO("vmrun", : : "a"(at));
        DO("vmload", : : "a"(at));
        DO("vmsave", : : "a"(at));
        DO("stgi; clgi; skinit; invlpga", : : "a"(at), "c"(0));
    }
    leave(traps == 2100 ? 42 : 1);
}

/* The last intercept that a guest could hope to be without. */
static void svm_bare(void) { DO("clgi"); }

static void msr_storm(void) {
    static const u32 first[] = {0, 0xc0000000, 0xc0010000, 0x4856fff0, 0xfffffff0};
    skip_faulting(2);
    FOR_EVER for (u32 range = 0; range < 5; range++) for (u32 n = 0; n < 0x200; n++) {
        u32 msr = first[range] + n;
        DO("rdmsr", : : "c"(msr) : "eax", "edx");
        if (msr != APIC_BASE) DO("wrmsr", : : "c"(msr), "a"(next()), "d"(next()));
    }
}

static void cr_storm(void) {
    skip_faulting(3);
    word cr0, cr3, cr4;
    DO("mov %%cr0, %0; mov %%cr3, %1; mov %%cr4, %2", : "=r"(cr0), "=r"(cr3), "=r"(cr4));
    FOR_EVER {
        /* Bits that leave this code running: it is mapped one to one in any case. */
        DO("mov %0, %%cr0", : : "r"(cr0 ^ (next() & 0x2001002e)));
        DO("mov %0, %%cr4", : : "r"(cr4 ^ (next() & 0xffcfffdf)));
        DO("mov %0, %%cr3", : : "r"(cr3 ^ (next() & 0x18)));
        DO("mov %0, %%cr2", : : "r"((word)next()));
        DO("mov %0, %%cr0", : : "r"(cr0));
        DO("mov %0, %%cr4", : : "r"(cr4));
    }
}

/* Tables where there is nothing. */
static void on_tables_at(word cr3) {
    word cr0;
    DO("mov %%cr0, %0", : "=r"(cr0));
    DO("mov %0, %%cr3; mov %1, %%cr0", : : "r"(cr3), "r"(cr0 | 1u << 31));
}
static void cr3_outside(void) { on_tables_at(0xfffff000); }
static void cr3_zero(void) { on_tables_at(0); }

static void cr3_storm(void) {
    word cr3;
    DO("mov %%cr3, %0", : "=r"(cr3));
    FOR_EVER DO("mov %0, %%cr3; invlpg (%0); wbinvd", : : "r"(cr3) : "memory");
}

static void debug_registers(void) {
    skip_faulting(0);
    DO("mov %0, %%dr0", : : "r"((word)0x200000));
    DO("mov %0, %%dr1", : : "r"((word)0x1000000));
    DO("mov %0, %%dr2", : : "r"((word)-8));
    DO("mov %0, %%dr7", : : "r"((word)0xffff07ff));
    for (u32 n = 0; n < 100; n++) DO("cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    leave(42);
}

/* An exception with every step: on processors where it is not intercepted, one in the delivery of another, for ever. */
static void single_steps(void) {
    skip_faulting(0);
#ifdef __x86_64__
    DO("pushf; orl $0x100, (%%rsp); popf; 1: jmp 1b", : : : "memory");
#else
    DO("pushf; orl $0x100, (%%esp); popf; 1: jmp 1b", : : : "memory");
#endif
}

static void ac_loop(void) {
    /* Alignment checks belong to users: to a user of an odd stack. */
    skip_faulting(0);
    word cr0;
    DO("mov %%cr0, %0", : "=r"(cr0));
    DO("mov %0, %%cr0", : : "r"(cr0 | 1 << 18));
#ifdef __x86_64__
    DO("pushf; orl $0x40100, (%%rsp); popf; 1: mov 1(%%rsp), %%eax; jmp 1b", : : : "memory", "eax");
#else
    DO("pushf; orl $0x40100, (%%esp); popf; 1: mov 1(%%esp), %%eax; jmp 1b", : : : "memory", "eax");
#endif
}

static void port_storm(void) { FOR_EVER DO("outl %%eax, %%dx; inb %%dx, %%al", : : "a"(0), "d"(0x1234)); }

static void string_storm(void) {
    word count = -1, at = 0x200000;
    FOR_EVER DO("rep outsb", : "+c"(count), "+S"(at) : "d"(0x1234));
}

static void doorbell_storm(void) {
    skip_faulting(1);
    FOR_EVER {
        u32 call = next() % 12;
        if (call == 2 || call == 3) continue; /* leaving, by a call */
        DO("outl %%eax, %%dx", : "+a"(call) : "d"(0x4856), "D"((word)next()), "S"((word)next()));
    }
}

static void memory_storm(void) {
    volatile u32 *absent = (u32 *)(word)0xd0000000;
    FOR_EVER absent[next() & 0xffff] = next();
}

static void fetch_outside(void) { ((void (*)(void))(word)0xd0000000)(); }
static void cpuid_storm(void) { FOR_EVER DO("cpuid", : : "a"(next()), "c"(next()) : "ebx", "edx"); }
static void spin(void) { FOR_EVER; }
static void halt(void) { DO("cli; hlt"); }

static void idt_outside(void) {
    load(0xd0000000, 0xfff);
    DO("ud2");
}

static void idt_wild(void) {
    load((word)-16, 0xffff);
    DO("int $0x80");
}

static void idt_empty(void) {
    load(0, 0);
    DO("int3");
}

/* A stack where there is no memory, with a fault on it. */
static void stack_outside(void) {
    skip_faulting(0);
#ifdef __x86_64__
    DO("mov %0, %%rsp; ud2", : : "r"((word)0xd0000000));
#else
    DO("mov %0, %%esp; ud2", : : "r"((word)0xd0000000));
#endif
}

static void stack_wild(void) {
    skip_faulting(0);
#ifdef __x86_64__
    DO("mov %0, %%rsp; ud2", : : "r"(0x8000000000000000ul));
#else
    DO("mov %0, %%esp; ud2", : : "r"(4));
#endif
}

/* The stack is the page tables, or the descriptor tables. */
static void stack_in_tables(void) {
    skip_faulting(0);
#ifdef __x86_64__
    word cr3;
    DO("mov %%cr3, %0; lea 64(%0), %%rsp; ud2; 1: push %%rax; jmp 1b", : "=r"(cr3));
#else
    DO("mov %0, %%esp; ud2; 1: push %%eax; jmp 1b", : : "r"((word)idt + 128));
#endif
}

static void tables(void) {
#ifdef __x86_64__
    gdt[1] = 0x00af9b000000ffff;
#else
    gdt[1] = 0x00cf9b000000ffff;
#endif
    gdt[2] = 0x00cf93000000ffff;
    gdt[3] = 0x00ef9b000000ffff; /* code of 64 and of 32 bits */
    for (u32 n = 0; n < 2; n++) {
        u64 base = (word)tss[n];
        gdt[4 + 2 * n] = 0x0000890000000067ull | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    }
    pointer.base = (word)gdt, pointer.limit = sizeof gdt - 1;
    DO("lgdt %0", : : "m"(pointer));
    DO("mov %0, %%ds; mov %0, %%es; mov %0, %%ss", : : "r"(0x10));
    DO("ltr %w0", : : "r"(0x20));
}

static void code_of_both_sizes(void) {
    tables();
#ifdef __x86_64__
    DO("push $0x18; push $1f; lretq; 1: cpuid; jmp 1b");
#else
    DO("push $0x18; push $1f; lret; 1: cpuid; jmp 1b");
#endif
}

/* A task gate, and a jump to a task, whose CR3 would be anything. */
static void task_gate(void) {
    skip_faulting(0);
    tables();
    idt[0x80][0] = 0x30 << 16;
    idt[0x80][1] = 0xe500;
    DO("int $0x80");
}

static void task_switch(void) {
    tables();
    tss[1][7] = (u32)(word)gdt & ~0xfffu;
    tss[1][8] = 0x200000;
    tss[1][9] = 2;
    static struct __attribute__((packed)) { u32 offset; u16 selector; } to = {0, 0x30};
    DO("ljmp *%0", : : "m"(to));
}

static void ltr_wild(void) {
    tables();
    for (u32 n = 0;; n++) {
        u64 base = (u64)next() << 8;
        gdt[6] = 0x0000890000000067ull | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
        gdt[7] = 0;
        DO("ltr %w0; cpuid", : : "r"(0x30), "a"(0) : "ebx", "ecx", "edx");
    }
}

/* A processor in the middle of nowhere. */
static void flags_wild(void) {
    skip_faulting(1);
    FOR_EVER {
        word flags = next() & 0x3f7fd5;
        DO("push %0; popf; cpuid", : : "r"(flags & ~0x100ul), "a"(0) : "ebx", "ecx", "edx", "cc", "memory");
    }
}

static void extended_state(void) {
    skip_faulting(3);
    DO("xsetbv", : : "a"(7), "d"(0), "c"(0));
    DO("mov %0, %%cr4", : : "r"((word)0x40620));
    DO("xsetbv", : : "a"(7), "d"(0), "c"(0));
    leave(traps == 3 ? 42 : 1);
}

#define WAY(name) {#name, name}
static const struct { const char *word; void (*go)(void); } ways[] = {
    WAY(svm), WAY(svm_bare), WAY(msr_storm), WAY(cr_storm), WAY(cr3_outside), WAY(cr3_zero), WAY(cr3_storm), WAY(debug_registers),
    WAY(single_steps), WAY(ac_loop), WAY(port_storm), WAY(string_storm), WAY(doorbell_storm), WAY(memory_storm), WAY(fetch_outside),
    WAY(cpuid_storm), WAY(spin), WAY(halt), WAY(idt_outside), WAY(idt_wild), WAY(idt_empty), WAY(stack_outside), WAY(stack_wild),
    WAY(stack_in_tables), WAY(code_of_both_sizes), WAY(task_gate), WAY(task_switch), WAY(ltr_wild), WAY(flags_wild), WAY(extended_state),
};

/* The start info of PVH: its 64-bit word at 24 is the command line's address. */
void kernel_main(u32 magic, const u32 *info) {
    (void)magic;
    const char *line = (const char *)(word)info[6];
    for (u32 n = 0; n < sizeof ways / sizeof *ways; n++) {
        if (has_word(line, ways[n].word)) ways[n].go();
    }
    leave(2);
}
