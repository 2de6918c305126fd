/* The virtual CPU from the inside: exits, MSRs, events, control registers, segments; in 32-bit code and in 64-bit code. */
#include "machine.h"

#ifdef __x86_64__
#define GOING_ON "movq $1f, resume\n\t"
#define UNMAPPED 0x400000000ul
#else
#define GOING_ON "movl $1f, resume\n\t"
#endif
/* Executes an instruction; its value is the vector of the fault that it raised, NONE for none. */
#define TRY(text, ...) ({ caught = NONE; __asm__ volatile(GOING_ON text "\n1:" __VA_ARGS__); resume = 0; caught; })
#define NONE 0x100
enum { DE, DB, NMI, BP, OF, UD = 6, DF = 8, TS = 10, NP, SS, GP, PF };
#define DO(text, ...) __asm__ volatile(text __VA_ARGS__)

extern char trap_stubs[];
void load_traps(const void *pointer);

volatile word resume;
static volatile word caught, code;
static volatile u32 hits[256], order[8], taken_count;
static volatile word places[8];
static volatile u32 idt[256][sizeof(word) == 8 ? 4 : 2];
static struct __attribute__((packed)) pointer { u16 limit; word base; } idt_pointer = {sizeof idt - 1, (word)idt}, gdt_pointer;
static volatile u64 gdt[16] __attribute__((aligned(8)));
static volatile u32 tss[26];
static u8 emergency_stack[4096] __attribute__((aligned(16)));

static word cr0(void) { word value; DO("mov %%cr0, %0", : "=r"(value)); return value; }
static word cr3(void) { word value; DO("mov %%cr3, %0", : "=r"(value)); return value; }
static word cr4(void) { word value; DO("mov %%cr4, %0", : "=r"(value)); return value; }
static word set_cr0(word value) { return TRY("mov %0, %%cr0", : : "r"(value) : "memory"); }
static word set_cr3(word value) { return TRY("mov %0, %%cr3", : : "r"(value) : "memory"); }
static word set_cr4(word value) { return TRY("mov %0, %%cr4", : : "r"(value) : "memory"); }

void trap(word vector, word *ip, word error) {
    hits[vector]++;
    if (taken_count < 8) places[taken_count] = *ip, order[taken_count++] = (u32)vector;
    caught = vector;
    code = error;
    if (vector >= 0x50) wrmsr(0x800 + EOI, 0);
    if (resume && vector < 32) {
        *ip = resume;
        resume = 0;
        return;
    }
    if (vector >= 32 || vector == BP || vector == OF || vector == DB) return;
    print("trap ");
    print_number(vector);
    print(" code ");
    print_hex(error, 8);
    print(" at ");
    print_hex(*ip, 16);
    print("\n");
    leave(99);
}

static void gate(u32 vector, u32 stack) {
    word at = (word)trap_stubs + 16 * vector;
    idt[vector][0] = 0x8u << 16 | (at & 0xffff);
    idt[vector][1] = (u32)(at & 0xffff0000) | 0x8e00 | stack;
}

static void descriptor_tables(void) {
    for (u32 vector = 0; vector < 256; vector++) gate(vector, 0);
    load_traps(&idt_pointer);
#ifdef __x86_64__
    gdt[1] = 0x00af9b000000ffff;
#else
    gdt[1] = 0x00cf9b000000ffff;
#endif
    gdt[2] = 0x00cf93000000ffff;
    gdt[3] = 0x00cf93000000ffffull | 0x123450ull << 16; /* a base */
    gdt[4] = 0x00cf13000000ffff;                        /* not present */
    u64 base = (word)tss;
    gdt[6] = 0x0000890000000067ull | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    gdt[8] = 0x0000820000000007ull | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56; /* an LDT */
    gdt[10] = 0x0000890000000000; /* a TSS that is too small to matter, and never used */
    tss[9] = (u32)(word)emergency_stack + sizeof emergency_stack; /* IST1 */
    gdt_pointer.limit = sizeof gdt - 1;
    gdt_pointer.base = (word)gdt;
    DO("lgdt %0", : : "m"(gdt_pointer));
    DO("mov %0, %%ds; mov %0, %%es; mov %0, %%ss", : : "r"(0x10));
}

static void cpuid(u32 leaf, u32 *a, u32 *b, u32 *c, u32 *d) {
    *a = leaf, *c = 0;
    DO("cpuid", : "+a"(*a), "=b"(*b), "+c"(*c), "=d"(*d));
}

/* Sections 1 and 2: nothing of the host's SVM is to be seen. */
static void detection(void) {
    u32 a, b, c, d;
    cpuid(0x80000001, &a, &b, &c, &d);
    check(!(c & 4), "01 no SVM is offered");
    cpuid(0x8000000a, &a, &b, &c, &d);
    check(!(a | b | c | d), "01 no leaf of SVM");
    cpuid(0x40000000, &a, &b, &c, &d);
    check(b == 0x75207668, "01 the hypervisor's name");
    cpuid(1, &a, &b, &c, &d);
    check(c >> 31 && !(c >> 26 & 3) && !(c >> 3 & 1), "01 no XSAVE, no MONITOR");
    check(!(rdmsr(0xc0000080) & 1 << 12), "02 EFER.SVME is clear");
    check(wrmsr_faults(0xc0000080, rdmsr(0xc0000080) | 1 << 12), "02 EFER.SVME cannot be set");
    check(rdmsr_faults(0xc0010117) && wrmsr_faults(0xc0010117, 0), "02 no VM_HSAVE_PA");
    check(rdmsr_faults(0xc0010114), "02 no VM_CR");
}

static void self_interrupt_32(u32 vector) { wrmsr(0x83f, vector); }

/* Section 4: what the loop keeps between an exit and the next entry, and when it lets an interrupt in. */
#define NOBODYS_PORT "$0x80"
static void run_loop(void) {
    word sum = 0, flags = 0, behind = 0;
#ifdef __x86_64__
    DO("mov $1, %%ebx; mov $2, %%ecx; mov $4, %%edx; mov $8, %%esi; mov $16, %%edi; mov $32, %%r8d; mov $64, %%r9d; mov $128, %%r10d;"
       "mov $256, %%r11d; mov $512, %%r12d; mov $1024, %%r13d; mov $2048, %%r14d; mov $4096, %%r15d; outb %%al, " NOBODYS_PORT "; vmmcall;"
       "outb %%al, " NOBODYS_PORT "; mov %%rbx, %%rax; add %%rcx, %%rax; add %%rdx, %%rax; add %%rsi, %%rax; add %%rdi, %%rax; add %%r8, %%rax;"
       "add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax; add %%r12, %%rax; add %%r13, %%rax; add %%r14, %%rax; add %%r15, %%rax",
       : "=a"(sum) : : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
    check(sum == 0x1fff, "04 registers");
#else
    DO("mov $1, %%ebx; mov $2, %%ecx; mov $4, %%edx; mov $8, %%esi; mov $16, %%edi; outb %%al, " NOBODYS_PORT "; vmmcall;"
       "outb %%al, " NOBODYS_PORT "; mov %%ebx, %%eax; add %%ecx, %%eax; add %%edx, %%eax; add %%esi, %%eax; add %%edi, %%eax",
       : "=a"(sum) : : "ebx", "ecx", "edx", "esi", "edi");
    check(sum == 0x1f, "04 registers");
#endif
    /* CF, PF, AF, ZF, SF, DF, OF. */
    DO("pushf; push %1; popf; outb %%al, " NOBODYS_PORT "; pushf; pop %0; popf", : "=&r"(flags) : "r"((word)0xcd7) : "cc");
    check((flags & 0xcd5) == 0xcd5, "04 flags");
    taken_count = 0;
    self_interrupt_32(0x60);
    for (u32 n = 0; n < 50; n++) DO("outb %%al, " NOBODYS_PORT "; cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    check(taken_count == 0, "04 no interrupt without the flag, however often the loop goes round");
    DO("sti; outb %%al, " NOBODYS_PORT "; 1: nop; cli; lea 1b, %0", : "=r"(behind));
    check(taken_count == 1 && places[0] == behind, "04 the window is behind the instruction behind STI, which the embedder carries out");
    taken_count = 0;
    self_interrupt_32(0x60);
    DO("sti; cpuid; 1: nop; cli; lea 1b, %0", : "=r"(behind), "+a"(sum) : : "ebx", "ecx", "edx");
    check(taken_count == 1 && places[0] == behind, "04 and hv");
    taken_count = 0;
    self_interrupt_32(0x60);
    DO("sti; hlt; 1: cli; lea 1b, %0", : "=r"(behind));
    check(taken_count == 1 && places[0] == behind, "04 HLT is left behind when an interrupt is taken");
}

/* Section 5: instructions that exit. */
static void exits(void) {
    word a = 0x12345678;
    check(TRY("vmrun", : : "a"(0)) == UD && TRY("vmload", : : "a"(0)) == UD && TRY("vmsave", : : "a"(0)) == UD, "05 VMRUN, VMLOAD, VMSAVE");
    check(TRY("stgi") == UD && TRY("clgi") == UD && TRY("skinit", : : "a"(0)) == UD && TRY("invlpga", : : "a"(0), "c"(0)) == UD,
          "05 STGI, CLGI, SKINIT, INVLPGA");
    /* RDTSCP has an intercept, which QEMU does not know: there it runs. */
    check(TRY("rsm") == UD && TRY("xsetbv", : : "a"(1), "c"(0), "d"(0)) == UD, "05 RSM, XSETBV");
    check(TRY("monitor", : : "a"(0), "c"(0), "d"(0)) == UD && TRY("mwait", : : "a"(0), "c"(0)) == UD, "05 MONITOR, MWAIT");
    check(TRY("rdpmc", : : "c"(0) : "eax", "edx") == GP && code == 0, "05 RDPMC");
    check(TRY("vmmcall", : "+a"(a)) == NONE && TRY("wbinvd") == NONE && TRY("invd") == NONE, "05 VMMCALL, WBINVD, INVD");
    a = (word)0x1234567812345678;
    DO("inb $0xe9, %%al", : "+a"(a));
    check(a == (word)0x12345678123456e9, "05 IN of a byte keeps the rest");
    DO("inl $0xe9, %%eax", : "+a"(a));
    check(a == 0xe9, "05 IN of four bytes");
    u64 before = rdtsc(), after = rdtsc();
    check(before < after, "05 time goes on");
    word word0 = 0;
    DO("smsw %0", : "=r"(word0));
    check((word0 & 0xffff) == (cr0() & 0xffff), "05 SMSW");
    DO("lmsw %w0", : : "r"(0xe));
    check((cr0() & 0xf) == 0xf, "05 LMSW sets, and does not clear PE");
    DO("clts");
    check((cr0() & 0xf) == 7, "05 CLTS");
    DO("lmsw %w0", : : "r"(3));
    static volatile u16 status[2] = {0xffff, 0xffff};
    DO("smsw %0", : "=m"(status[0]));
    check(status[0] == (cr0() & 0xffff) && status[1] == 0xffff, "05 SMSW stores 16 bits in memory");
    status[0] = 0xfffa;
    DO("lmsw %0", : : "m"(status[0]));
    check((cr0() & 0xf) == 0xb, "05 LMSW loads 4 bits from memory, and does not clear PE");
    status[0] = 3;
    DO("lmsw %0", : : "m"(status[0]));
    check((cr0() & 0xf) == 3, "05 LMSW clears others");
#ifdef __x86_64__
    check(TRY("smsw (%0)", : : "r"(UNMAPPED)) == PF && code == 2 && TRY("lmsw (%0)", : : "r"(UNMAPPED)) == PF && code == 0,
          "05 SMSW and LMSW: #PF");
    check(TRY("smsw (%0)", : : "r"(1ul << 47)) == GP && code == 0, "05 SMSW: #GP by an address");
#endif
    DO("mov %0, %%cr2", : : "r"((word)0x1234));
    DO("mov %%cr2, %0", : "=r"(a));
    check(a == 0x1234, "05 CR2");
    for (u32 n = 0; n < 2; n++) {
        DO(".byte 0x0f, 0x23, 0xd8", : : "a"((word)(n ? 0xabc : 0xdef))); /* DR3 */
        DO(".byte 0x0f, 0x21, 0xd8", : "=a"(a));
        check(a == (n ? 0xabc : 0xdef), "05 DR3");
    }
    DO("mov %0, %%dr7", : : "r"((word)1 << 13));
    check(TRY("mov %%dr0, %0", : "=r"(a)) == DB, "05 DR7.GD");
    DO("mov %%dr6, %0", : "=r"(a));
    check(a >> 13 & 1, "05 DR6.BD");
    DO("mov %%dr7, %0", : "=r"(a));
    check(a == 0x400, "05 DR7.GD is clear then");
    set_cr4(cr4() | 8);
    check(TRY(".byte 0x0f, 0x21, 0xe0", : : : "eax") == UD, "05 DR4 where CR4.DE is set");
    set_cr4(cr4() & ~(word)8);
    check(TRY(".byte 0x0f, 0x20, 0xc8", : : : "eax") == UD && TRY(".byte 0x0f, 0x20, 0xe8", : : : "eax") == UD, "05 no CR1, no CR5");
    DO("invlpg %0", : : "m"(a));
}

/* Section 8: MSRs. */
static void msrs(void) {
    static const u32 none[] = {0, 0x8b, 0x1a0, 0x1fff, 0x2000, 0x4000, 0xbfffffff, 0xc0000103, 0xc0001fff, 0xc0010015, 0xc0011fff, 0xffffffff};
    int faulted = 1;
    for (u32 n = 0; n < sizeof none / 4; n++) faulted &= rdmsr_faults(none[n]) && wrmsr_faults(none[n], 0);
    check(faulted, "08 what is not there faults");
    static const u32 bases[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102, 0x175, 0x176};
    int kept = 1, refused = 1;
    for (u32 n = 0; n < sizeof bases / 4; n++) {
        u64 old = rdmsr(bases[n]);
        refused &= wrmsr_faults(bases[n], 1ull << 47) && wrmsr_faults(bases[n], 1ull << 63) && rdmsr(bases[n]) == old;
        wrmsr(bases[n], 0xffff800012345678);
        kept &= rdmsr(bases[n]) == 0xffff800012345678;
        wrmsr(bases[n], old);
    }
    check(kept, "08 bases are kept");
    check(refused, "08 bases are canonical");
    wrmsr(0xc0000081, 0x0023001000000000), wrmsr(0xc0000084, 0x700), wrmsr(0x174, 8);
    check(rdmsr(0xc0000081) == 0x0023001000000000 && rdmsr(0xc0000084) == 0x700 && rdmsr(0x174) == 8, "08 STAR, SFMASK, SYSENTER_CS");
    wrmsr(0x10, 1ull << 40);
    u64 counter = rdmsr(0x10), now = rdtsc();
    check(counter >> 40 == 1 && now >> 40 == 1 && now > counter, "08 the counter goes on from what is written");
    check(rdmsr(0x277) == 0x0007040600070406 && wrmsr_faults(0x277, 2) && !wrmsr_faults(0x277, 0x0606060606060606), "08 PAT");
    check(rdmsr(0xfe) == 0 && wrmsr_faults(0xfe, 0) && rdmsr(0x179) == 0, "08 no MTRRs, no machine-check banks");
    check(rdmsr(0x1d9) == 0 && wrmsr_faults(0x1d9, 1), "08 no last-branch records");
    u64 efer = rdmsr(0xc0000080);
    check(wrmsr_faults(0xc0000080, efer | 2) && wrmsr_faults(0xc0000080, efer | 1 << 20) && wrmsr_faults(0xc0000080, efer | 1ull << 32),
          "08 EFER's reserved bits");
    wrmsr(0xc0000080, efer | 1);
    check(rdmsr(0xc0000080) == (efer | 1), "08 EFER.SCE");
}

/* Single steps behind what hv carries out: stores where there is no memory. Where the traps came, and with what count. */
#define ABSENT 0xd0000000
#ifdef __x86_64__
#define STEP "pushf; pushf; orl $0x100, (%%rsp); popf; "
#else
#define STEP "pushf; pushf; orl $0x100, (%%esp); popf; "
#endif
static void steps(void) {
    word first, second, a = 0, at = ABSENT, count = 3;
    taken_count = 0;
    DO(STEP "mov %%al, (%3); 1: popf; 2: lea 1b, %0; lea 2b, %1", : "=&r"(first), "=&r"(second), "+a"(a) : "r"(at) : "memory", "cc");
    check(taken_count == 2 && places[0] == first && places[1] == second, "09 a step over an emulated store ends behind it");
    DO("mov %%dr6, %0", : "=r"(a));
    check(a >> 14 & 1, "09 and says so in DR6.BS");
    DO("mov %0, %%dr6", : : "r"((word)0xffff0ff0));
    taken_count = 0;
    DO(STEP "1: rep stosb; 2: popf; lea 1b, %0; lea 2b, %1", : "=&r"(first), "=&r"(second), "+D"(at), "+c"(count) : "a"(0) : "memory", "cc");
    check(taken_count == 4 && places[0] == first && places[1] == first && places[2] == second, "09 steps over emulated elements end behind each");
    DO("mov %0, %%dr6", : : "r"((word)0xffff0ff0));
}

/* Section 9: events. */
static void events(void) {
    word a = 1;
    check(TRY("xor %%edx, %%edx; div %0", : : "r"(0), "a"(1) : "edx") == DE, "09 #DE");
    check(TRY("ud2") == UD, "09 #UD");
    hits[BP] = 0;
    DO("int3");
    check(hits[BP] == 1, "09 #BP");
    hits[0x40] = 0;
    DO("int $0x40; int $0x40");
    check(hits[0x40] == 2, "09 INT n");
    check(TRY("mov %0, %%fs", : : "r"(0xfff8)) == GP && code == 0xfff8, "09 #GP with a selector");
    check(TRY("mov %0, %%fs", : : "r"(0x20)) == NP && code == 0x20, "09 #NP with a selector");
    check(TRY("mov %0, %%ss", : : "r"(0x20)) == SS && code == 0x20, "09 #SS with a selector");
    hits[DB] = 0;
#ifdef __x86_64__
    DO("pushf; pushf; orl $0x100, (%%rsp); popf; nop; popf", : : : "memory", "cc");
#else
    DO("pushf; pushf; orl $0x100, (%%esp); popf; nop; popf", : : : "memory", "cc");
#endif
    check(hits[DB] >= 1, "09 single steps");
    DO("mov %%dr6, %0", : "=r"(a));
    check(a >> 14 & 1, "09 DR6.BS");
    DO("mov %0, %%dr6", : : "r"((word)0xffff0ff0));
    steps();

    /* Two interrupts that wait: the higher first. One that the task priority holds back. */
    taken_count = 0;
    self_interrupt_32(0x51);
    self_interrupt_32(0x61);
    self_interrupt_32(0x52);
    DO("sti; nop; nop; nop; nop; nop; nop; cli");
    check(taken_count == 3 && order[0] == 0x61 && order[1] == 0x52 && order[2] == 0x51, "09 the highest vector goes first");
    wrmsr(0x808, 0x60);
    taken_count = 0;
    self_interrupt_32(0x61);
    DO("sti; nop; nop; cli");
    check(taken_count == 0, "09 the task priority holds back");
    wrmsr(0x808, 0);
    DO("sti; nop; nop; cli");
    check(taken_count == 1 && order[0] == 0x61, "09 and lets through");
    taken_count = 0;
    self_interrupt_32(0x70);
    DO("sti; hlt; cli");
    check(taken_count == 1, "09 HLT goes on at once");

#ifdef __x86_64__
    check(TRY("mov (%0), %%eax", : : "r"(UNMAPPED) : "eax") == PF && code == 0, "09 #PF");
    check(TRY("mov %%eax, (%0)", : : "r"(UNMAPPED)) == PF && code == 2, "09 #PF by a write");
    check(TRY("mov (%0), %%eax", : : "r"(1ul << 47) : "eax") == GP, "09 #GP by an address");
    /* Without a stack, a fault is one in the delivery of a fault; #DF has a stack of its own. */
    gate(DF, 1);
    DO("ltr %w0", : : "r"(0x30));
    hits[DF] = 0;
    word fault = TRY("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; 1: mov %%rbx, %%rsp", : : "r"(UNMAPPED) : "rbx", "memory");
    check(fault == DF && hits[DF] == 1 && code == 0, "09 #DF");
#endif
}

static void illegal_cr0(const char *what, word value) {
    word before = cr0();
    check(set_cr0(value) == GP && code == 0 && cr0() == before, what);
}

/* Section 11: control registers. */
static void control(void) {
    word old0 = cr0(), old3 = cr3(), old4 = cr4();
    illegal_cr0("11 CR0: PG without PE", (old0 | 1ul << 31) & ~1ul);
    illegal_cr0("11 CR0: NW without CD", old0 | 1ul << 29);
    check(set_cr0(old0 | 1ul << 30 | 1ul << 29) == NONE && (cr0() >> 29 & 3) == 3, "11 CR0: caches off");
    set_cr0(old0);
    check(set_cr0(old0 | 1 << 16) == NONE && cr0() >> 16 & 1, "11 CR0.WP");
    check(set_cr0(old0 | 1 << 25) == NONE && !(cr0() >> 25 & 1), "11 CR0: reserved bits are ignored");
    set_cr0(old0);
    int refused = 1;
    static const u8 bits[] = {0, 1, 11, 12, 13, 14, 16, 17, 18, 22, 23, 24, 31};
    for (u32 n = 0; n < sizeof bits; n++) refused &= set_cr4(old4 | 1ul << bits[n]) == GP && cr4() == old4;
    check(refused, "11 CR4: what is not offered");
    check(set_cr4(old4 | 1 << 7) == NONE && cr4() == (old4 | 1 << 7), "11 CR4.PGE");
    set_cr4(old4);
    check(set_cr3(old3) == NONE && cr3() == old3, "11 CR3");
#ifdef __x86_64__
    illegal_cr0("11 CR0: bits above 31", old0 | 1ul << 32);
    illegal_cr0("11 CR0: no paging in 64-bit code", old0 & ~(1ul << 31));
    check(set_cr3(old3 | 1ul << 40) == GP && set_cr3(old3 | 1ul << 63) == GP && cr3() == old3, "11 CR3: reserved bits");
    check(set_cr4(old4 & ~0x20ul) == GP && set_cr4(old4 | 1ul << 32) == GP && cr4() == old4, "11 CR4: no PAE, bits above 31");
    check(wrmsr_faults(0xc0000080, rdmsr(0xc0000080) & ~0x100ull), "11 EFER.LME while paging");
    word eight;
    DO("mov %0, %%cr8", : : "r"(9ul));
    DO("mov %%cr8, %0", : "=r"(eight));
    check(eight == 9 && TRY("mov %0, %%cr8", : : "r"(16ul)) == GP, "11 CR8");
    DO("mov %0, %%cr8", : : "r"(0ul));
#else
    /* Long mode needs PAE. PDPTEs have reserved bits. */
    static u64 pointers[4] __attribute__((aligned(32))), directory[512] __attribute__((aligned(4096)));
    for (u32 n = 0; n < 512; n++) directory[n] = (u64)n << 21 | 0x83;
    wrmsr(0xc0000080, 0x100);
    illegal_cr0("11 CR0: long mode without PAE", old0 | 1ul << 31);
    wrmsr(0xc0000080, 0);
    set_cr4(old4 | 0x20);
    set_cr3((word)pointers);
    static const u64 wrong[] = {3, 5, 0x21, 0x101, 1 | 1ull << 40, 1 | 1ull << 63};
    for (u32 n = 0; n < 6; n++) {
        pointers[0] = (word)directory | wrong[n];
        refused &= set_cr0(old0 | 1ul << 31) == GP && cr0() == old0;
    }
    check(refused, "11 PDPTEs: reserved bits");
    pointers[0] = (word)directory | 1;
    check(set_cr0(old0 | 1ul << 31) == NONE && cr0() >> 31, "11 PAE paging");
    pointers[0] = 0;
    DO("invlpg %0", : : "m"(directory));
    check(set_cr0(cr0() ^ 1 << 16) == NONE && cr0() >> 31, "11 PDPTEs are latched");
    pointers[0] = (word)directory | 1;
    check(set_cr3((word)pointers | 0x18) == NONE && cr3() == ((word)pointers | 0x18), "11 CR3: PCD and PWT");
    check(wrmsr_faults(0xc0000080, 0x100), "11 EFER.LME while paging");
    set_cr0(old0);
    set_cr4(old4);
    check(cr0() == old0 && cr4() == old4, "11 and back");
#endif
}

/* Section 12: segments, and what has an owner. */
static void segments(void) {
    u32 low = 0;
    word selector = 0;
    struct pointer seen = {0, 0};
    DO("sgdt %0", : "=m"(seen));
    check(seen.limit == sizeof gdt - 1 && seen.base == (word)gdt, "12 GDT");
    DO("sidt %0", : "=m"(seen));
    check(seen.limit == sizeof idt - 1 && seen.base == (word)idt, "12 IDT");
    *(volatile u32 *)0x123458 = 0xfeed;
    DO("mov %1, %%fs; mov %%fs:8, %0", : "=r"(low) : "r"(0x18));
    check(low == 0xfeed, "12 a base counts");
    DO("cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    DO("mov %%fs:8, %0", : "=r"(low));
    check(low == 0xfeed, "12 behind an exit, too");
    check(rdmsr(0xc0000100) == 0x123450, "12 FS_BASE is the base");
    check(TRY("mov %0, %%fs", : : "r"(0)) == NONE, "12 null selectors");
    DO("mov %%cs, %0", : "=r"(selector));
    check((selector & 3) == 0, "12 CPL 0");
#ifndef __x86_64__
    DO("ltr %w0", : : "r"(0x30));
#endif
    DO("str %w0", : "=r"(selector));
    check((selector & 0xffff) == 0x30, "12 TR");
    check(TRY("ltr %w0", : : "r"(0x30)) == GP && code == 0x30, "12 a busy TSS");
    check(gdt[6] >> 41 & 1, "12 which LTR made busy");
    DO("cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    DO("str %w0", : "=r"(selector));
    check((selector & 0xffff) == 0x30, "12 TR behind an exit");
    DO("lldt %w0", : : "r"(0x40));
    DO("cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    DO("sldt %w0", : "=r"(selector));
    check((selector & 0xffff) == 0x40, "12 LDTR");

    /* The FPU is the guest's own, whatever exits. */
    set_cr4(cr4() | 0x600);
    u32 control = 0x1fa0, control_seen = 0, lanes[4] = {1, 2, 3, 4};
    u16 status = 0xffff, word37 = 0x37e, word_seen = 0;
    DO("fninit; fldcw %1; ldmxcsr %2; movups %3, %%xmm7; fnstsw %0", : "=m"(status) : "m"(word37), "m"(control), "m"(lanes));
    for (u32 n = 0; n < 100; n++) DO("cpuid", : : "a"(0) : "ebx", "ecx", "edx");
    DO("fnstcw %0; stmxcsr %1; movups %%xmm7, %2", : "=m"(word_seen), "=m"(control_seen), "=m"(lanes));
    check(status == 0 && word_seen == 0x37e && control_seen == 0x1fa0 && lanes[0] == 1 && lanes[3] == 4, "12 the FPU");
    set_cr0(cr0() | 8);
    check(TRY("fnop") == 7, "12 #NM where CR0.TS is set");
    DO("clts");
}

int wrmsr_faults(u32 msr, u64 value) {
    return TRY("wrmsr", : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory") == GP && code == 0;
}

int rdmsr_faults(u32 msr) { return TRY("rdmsr", : : "c"(msr) : "eax", "edx") == GP && code == 0; }

void kernel_main(u32 magic, const u32 *info) {
    (void)magic, (void)info;
    print("hello from " NAME "\n");
    descriptor_tables();
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0xc00);
    wrmsr(0x80f, 0x1ff);
    detection();
    run_loop();
    exits();
    msrs();
    events();
    control();
    segments();
    print("done\n");
    leave(42);
}
