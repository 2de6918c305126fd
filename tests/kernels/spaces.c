/* Address spaces from the inside: more of them than a processor has ASIDs, as every load of CR3 may take one, and what a TLB forgets when it is told to.
   With the word "turns" nothing is printed: others run between any two exits, and this one's memory must stay its own. */
#include "machine.h"

#define SPACES 24
#define AREA 64
#define ROUNDS 60
#define NOBODYS_PORT 0x80
#define PRESENT 3ull
#define GLOBAL 0x100ull
#define PGE (1ul << 7)
#define DO(text, ...) __asm__ volatile(text __VA_ARGS__)

typedef volatile u64 page[512] __attribute__((aligned(4096)));
/* Tables of each space, from the top, and the page that its window shows. */
static page thirds[SPACES], directories[SPACES], tables[SPACES], pages[SPACES], area[AREA];
#ifdef __x86_64__
static page tops[SPACES];
#define WINDOW (1ul << 39)
static word cr3(void) { word value; DO("mov %%cr3, %0", : "=r"(value)); return value; }
#else
static page identity;
#define WINDOW (1ul << 30)
#endif

static void set_cr3(word value) { DO("mov %0, %%cr3", : : "r"(value) : "memory"); }
static word cr4(void) { word value; DO("mov %%cr4, %0", : "=r"(value)); return value; }
static void set_cr4(word value) { DO("mov %0, %%cr4", : : "r"(value) : "memory"); }
static void invlpg(word address) { DO("invlpg (%0)", : : "r"(address) : "memory"); }

static volatile u64 *window(u32 number) { return (volatile u64 *)(WINDOW + 4096 * number); }

static word root(u32 n) {
#ifdef __x86_64__
    return (word)tops[n];
#else
    return (word)thirds[n];
#endif
}

static void make(u32 n) {
    directories[n][0] = (word)tables[n] | PRESENT;
    tables[n][0] = (word)pages[n] | PRESENT;
#ifdef __x86_64__
    const u64 *first = (const u64 *)(cr3() & ~0xffful);
    for (u32 at = 0; at < 512; at++) tops[n][at] = first[at];
    tops[n][1] = (word)thirds[n] | PRESENT;
    thirds[n][0] = (word)directories[n] | PRESENT;
#else
    thirds[n][0] = (word)identity | 1;
    thirds[n][1] = (word)directories[n] | 1;
#endif
}

static void begin(void) {
#ifndef __x86_64__
    for (u32 at = 0; at < 512; at++) identity[at] = (u64)at << 21 | 0x83;
#endif
    for (u32 n = 0; n < SPACES; n++) make(n);
#ifndef __x86_64__
    word value;
    set_cr4(cr4() | 0x20);
    set_cr3(root(0));
    DO("mov %%cr0, %0", : "=r"(value));
    DO("mov %0, %%cr0", : : "r"(value | 1ul << 31) : "memory");
#endif
}

/* Goes through all spaces, and tells whether each shows its own page with what was left there. */
static int round_of_spaces(u64 key) {
    int well = 1;
    for (u32 n = 0; n < SPACES; n++) {
        set_cr3(root(n));
        well &= *window(0) == pages[n][0];
        *window(0) = key + n;
    }
    for (u32 n = 0; n < SPACES; n++) well &= pages[n][0] == key + n;
    return well;
}

static void address_spaces(void) {
    int well = 1;
    for (u64 round = 0; round < 40; round++) well &= round_of_spaces(round << 32);
    check(well, "10 each address space leads to its own page, 24 of them over and over");
    set_cr3(root(0));
    well = 1;
    for (u32 n = 1; n < SPACES; n++) {
        tables[0][0] = (word)pages[n] | PRESENT;
        set_cr3(root(0));
        well &= *window(0) == pages[n][0];
    }
    check(well, "10 a load of CR3 forgets");
    for (u32 n = 0; n < SPACES; n++) {
        tables[0][0] = (word)pages[n] | PRESENT;
        invlpg(WINDOW + 0x123);
        well &= *window(0) == pages[n][0];
    }
    check(well, "10 INVLPG forgets its address");
    for (u32 n = 1; n < SPACES; n++) {
        tables[0][n] = (word)pages[n] | PRESENT;
        well &= *window(n) == pages[n][0];
    }
    check(well, "10 a page that comes needs no flush");
    for (u32 n = 1; n < SPACES; n++) {
        directories[0][0] = (word)tables[n] | PRESENT;
        invlpg(WINDOW);
        well &= *window(0) == pages[n][0];
    }
    directories[0][0] = (word)tables[0] | PRESENT;
    invlpg(WINDOW);
    check(well, "10 INVLPG forgets what is above its address");
    set_cr4(cr4() | PGE);
    for (u32 n = 0; n < SPACES; n++) {
        tables[0][0] = (word)pages[n] | PRESENT | GLOBAL;
        if (n % 2) {
            set_cr4(cr4() & ~PGE);
            set_cr4(cr4() | PGE);
        } else {
            invlpg(WINDOW);
        }
        well &= *window(0) == pages[n][0];
    }
    check(well, "10 INVLPG and CR4.PGE forget global pages");
    set_cr4(cr4() & ~PGE);
    tables[0][0] = (word)pages[0] | PRESENT;
    set_cr3(root(0));
    check(round_of_spaces(7), "10 and the others are as they were");
}

/* Writes a page of the area at each step, of which others may run before and behind, and looks at all of them. */
static int turns(void) {
    u64 key = rdtsc() * 0x9e3779b97f4a7c15ull;
    int well = 1;
    for (u32 at = 0; at < AREA * 512; at++) area[at / 512][at % 512] = key + at;
    for (u32 round = 0; round < ROUNDS; round++) {
        out8(NOBODYS_PORT, (u8)round);
        for (u32 at = round % 7; at < AREA * 512; at += 7) well &= area[at / 512][at % 512] == key + at;
        key++;
        for (u32 at = 0; at < AREA * 512; at++) area[at / 512][at % 512]++;
        if (round % 16 == 0) well &= round_of_spaces(key);
        out8(NOBODYS_PORT, (u8)round);
        set_cr3(root(round % SPACES));
        well &= *window(0) == pages[round % SPACES][0];
    }
    return well;
}

/* The start info of PVH: its 64-bit word at 24 is the command line's address. */
void kernel_main(u32 magic, const u32 *info) {
    (void)magic;
    const char *line = (const char *)(word)info[6];
    begin();
    if (has_word(line, "turns")) leave(turns() ? 42 : 1);
    print("hello from " NAME "\n");
    address_spaces();
    print("done\n");
    leave(42);
}
