/* Accesses that hv carries out: the same random instruction is run with its operand in memory, where the processor does it, and in a device that
   mirrors memory, where hv does; registers, flags, memory and faults are compared. In long mode, a guest of another kind does so (emulator.rs). */
#include "modes.h"

/* Where the device has the guest's memory once more (`wire::devices::MIRROR`). */
#define MIRROR (1ull << 38)
/* And once more, for real mode (`wire::devices::LOW_MIRROR`). */
#define LOW_MIRROR 0x80000000
/* The offset of two pages in DS, and the same in ES; behind them is nothing. */
#define WINDOW 0x2000
#define WINDOW_BYTES 0x2000
/* What the pages lead to: for the processor, and behind the device. */
#define REAL_FRAMES 0x80000
#define OUR_FRAMES 0x82000
/* Reads of instructions that go on to write: QEMU 7.2 does not call them writes (APM vol. 2, 8.4.2). */
#define WRITE 2
enum { CF = 1, CARRY_PARITY = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800, ALL = CF | CARRY_PARITY | AF | ZF | SF | OF };

/* With the register of the ModRM byte random, its operand at [BX] and [EDI], an immediate byte behind it. */
struct instruction { u8 bytes[2], escape, random_register, immediate; u16 undefined; };
#define PLAIN(opcode, undefined) {{opcode, 7}, 0, 1, 0, undefined}
#define GROUP(opcode, digit, undefined) {{opcode, (digit) << 3 | 7}, 0, 0, 0, undefined}
#define GROUP_8(opcode, digit, undefined) {{opcode, (digit) << 3 | 7}, 0, 0, 1, undefined}
#define TWO(opcode, undefined) {{opcode, 7}, 0x0f, 1, 0, undefined}
#define TWO_GROUP(opcode, digit, immediate, undefined) {{opcode, (digit) << 3 | 7}, 0x0f, 0, immediate, undefined}
#define STRING(opcode) {{opcode, 0}, 0, 2, 0, 0}
static const struct instruction instructions[] = {
    PLAIN(0x88, 0), PLAIN(0x89, 0), PLAIN(0x8a, 0), PLAIN(0x8b, 0), PLAIN(0x86, 0), PLAIN(0x87, 0), GROUP_8(0xc6, 0, 0),
    PLAIN(0x00, 0), PLAIN(0x01, 0), PLAIN(0x02, 0), PLAIN(0x03, 0), PLAIN(0x08, AF), PLAIN(0x0b, AF), PLAIN(0x11, 0), PLAIN(0x12, 0),
    PLAIN(0x18, 0), PLAIN(0x1b, 0), PLAIN(0x20, AF), PLAIN(0x23, AF), PLAIN(0x29, 0), PLAIN(0x2a, 0), PLAIN(0x30, AF), PLAIN(0x33, AF),
    PLAIN(0x38, 0), PLAIN(0x3b, 0), PLAIN(0x84, AF), PLAIN(0x85, AF), GROUP_8(0x80, 0, 0), GROUP_8(0x82, 5, 0), GROUP_8(0x83, 2, 0),
    GROUP_8(0x83, 4, AF), GROUP(0xd1, 0, 0), GROUP(0xd1, 3, 0), GROUP(0xd0, 4, AF), GROUP(0xd1, 5, AF), GROUP(0xd1, 7, AF),
    GROUP(0xf6, 2, 0), GROUP(0xf7, 3, 0), GROUP(0xf7, 4, SF | ZF | AF | CARRY_PARITY), GROUP(0xf6, 5, SF | ZF | AF | CARRY_PARITY),
    GROUP(0xf7, 6, ALL), GROUP(0xf6, 7, ALL), GROUP(0xfe, 0, 0), GROUP(0xff, 1, 0), GROUP(0xff, 6, 0), GROUP(0x8f, 0, 0), GROUP(0x8c, 3, 0),
    TWO(0xb6, 0), TWO(0xb7, 0), TWO(0xbe, 0), TWO(0xbf, 0), TWO(0xb0, 0), TWO(0xb1, 0), TWO(0xc0, 0), TWO(0xc1, 0), TWO(0x43, 0), TWO(0x44, 0),
    TWO(0x94, 0), TWO(0x9c, 0), TWO(0xaf, SF | ZF | AF | CARRY_PARITY), TWO_GROUP(0xba, 5, 1, ALL & ~CF), TWO_GROUP(0xba, 7, 1, ALL & ~CF),
    TWO_GROUP(0xc7, 1, 0, 0), STRING(0xa4), STRING(0xa5), STRING(0xa6), STRING(0xa7), STRING(0xaa), STRING(0xab), STRING(0xac), STRING(0xad),
    STRING(0xae), STRING(0xaf),
};
#define INSTRUCTIONS (sizeof instructions / sizeof *instructions)

/* A random number: a multiplier and an increment of Numerical Recipes, twice. */
static u32 state = 1;
static u32 next(void) {
    u32 low = (state = state * 1664525 + 1013904223) >> 16;
    state = state * 1664525 + 1013904223;
    return (state & 0xffff0000) | low;
}
static u32 below(u32 end) { return (next() >> 8) % end; }

/* An offset in the window: across its pages, at its end, anywhere. Behind the end is no page; real mode has none that could be missing. */
static u32 offset(enum mode mode) {
    switch (below(4)) {
    case 0: return WINDOW + 0x1000 - below(5);
    case 1: return WINDOW + WINDOW_BYTES - (mode == REAL ? 64 : 1) - below(6);
    default: return WINDOW + 64 + below(WINDOW_BYTES - 128);
    }
}

enum place { MEMORY, DEVICE };

/* Leads the window to frames, or to the device that mirrors them; fills them. */
static void lead(enum mode mode, enum place place, u32 frames, u32 seed) {
    u64 base = place == DEVICE ? MIRROR : 0;
    if (mode == REAL) real_segments((place == DEVICE ? LOW_MIRROR : 0) + frames - WINDOW, 0xffff);
    for (u32 n = 0; n < 2; n++) {
        u64 entry = (base + frames + (n << 12)) | 0x67;
        table[((DATA + WINDOW) >> 12) + n] = table[((EXTRA + WINDOW) >> 12) + n] = entry;
    }
    flush();
    volatile u32 *words = (volatile u32 *)at(frames);
    for (u32 n = 0; n < WINDOW_BYTES / 4; n++) words[n] = seed += 0x9e3779b9;
}

static int differ(const char *what, u32 is, u32 should) {
    if (is == should) return 0;
    print(what), print(" is "), print_hex(is, 8), print(" should be "), print_hex(should, 8), print("\n");
    return 1;
}

/* Whether hv did what the processor did. */
static int agree(enum mode mode, const struct trap *real, u32 real_cr2, u32 undefined) {
    int page_fault = real->vector == PF, bad = differ("vector", end.vector, real->vector);
    bad |= differ("error code", end.code & ~WRITE, real->code & ~WRITE);
    if (page_fault) bad |= differ("CR2", end_cr2, real_cr2);
    bad |= differ("EIP", end.eip, real->eip);
    bad |= differ("EAX", end.eax, real->eax) | differ("ECX", end.ecx, real->ecx) | differ("EDX", end.edx, real->edx);
    bad |= differ("EBX", end.ebx, real->ebx) | differ("EBP", end.ebp, real->ebp) | differ("ESI", end.esi, real->esi);
    bad |= differ("EDI", end.edi, real->edi);
    if (mode == USER || mode == VIRTUAL) bad |= differ("ESP", end.user_esp, real->user_esp);
    u32 flags = real->vector == UD ? ALL & ~undefined : ALL;
    bad |= differ("EFLAGS", end.eflags & flags, real->eflags & flags);
    for (u32 n = 0; n < WINDOW_BYTES; n += 4) {
        u32 is = *(volatile u32 *)at(OUR_FRAMES + n), should = *(volatile u32 *)at(REAL_FRAMES + n);
        if (is != should) return differ("memory", is, should);
    }
    return !bad;
}

void accesses(enum mode mode, u32 cases) {
    static u16 reached[INSTRUCTIONS];
    u32 faults = 0, all = 0, missed = 0;
    for (u32 n = 0; n < INSTRUCTIONS; n++) reached[n] = 0;
    table[(DATA + WINDOW + WINDOW_BYTES) >> 12] = table[(EXTRA + WINDOW + WINDOW_BYTES) >> 12] = 0;
    for (u32 n = 0; n < cases; n++) {
        u32 which = below(INSTRUCTIONS), length = 0, seed = next(), operand = offset(mode);
        const struct instruction *of = &instructions[which];
        u8 bytes[8];
        int string = of->random_register == 2;
        u32 reg = of->random_register == 1 ? below(8) : 0;
        /* Not ESP, where traps come on the same stack. */
        if (reg == 4 && mode != USER && mode != VIRTUAL) reg = 5;
        if (below(3) == 0) bytes[length++] = 0x66;
        if (below(4) == 0) bytes[length++] = 0x67;
        if (string && below(2)) bytes[length++] = 0xf2 | (next() & 1);
        if (of->escape) bytes[length++] = of->escape;
        bytes[length++] = of->bytes[0];
        if (!string) bytes[length++] = of->bytes[1] | reg << 3;
        if (of->immediate) bytes[length++] = (u8)next();
        struct frame frame = {.eax = next(), .edx = next(), .ebp = next(), .ecx = string ? below(5) : next(), .esi = offset(mode), .ebx = operand, .edi = operand,
                              .eflags = next() & (ALL | (string ? DOWN : 0))};
        lead(mode, MEMORY, REAL_FRAMES, seed);
        run(mode, bytes, length, frame);
        struct trap real = end;
        u32 real_cr2 = end_cr2;
        lead(mode, DEVICE, OUR_FRAMES, seed);
        run(mode, bytes, length, frame);
        faults += real.vector != UD, reached[which]++;
        if (!agree(mode, &real, real_cr2, of->undefined)) {
            print(names[mode]);
            for (u32 byte = 0; byte < length; byte++) print(" "), print_hex(bytes[byte], 2);
            print(" at "), print_hex(operand, 4), print("\n");
            leave(1);
        }
    }
    real_segments(0, 0);
    for (u32 n = 0; n < 3; n++) {
        u32 pages[] = {DATA + WINDOW, DATA + WINDOW + 0x1000, DATA + WINDOW + 0x2000};
        table[pages[n] >> 12] = pages[n] | 7, table[(pages[n] + EXTRA - DATA) >> 12] = (pages[n] + EXTRA - DATA) | 7;
    }
    flush();
    for (u32 n = 0; n < INSTRUCTIONS; n++) all++, missed += !reached[n];
    print("06 "), print(names[mode]), print(": "), print_number(cases), print(" cases, "), print_number(faults), print(" faults, ");
    print_number(all - missed), print(" of "), print_number(all), print(" opcodes: ok\n");
}
