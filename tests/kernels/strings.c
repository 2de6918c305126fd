/* String port I/O: what a port that gives back what it was given has got, and where the registers are behind it. A model of a few lines tells what
   should be. SMSW and LMSW in 16-bit code, too. */
#include "modes.h"

#define ECHO 0x1f0

/* One instruction, and what must come of it. */
struct test {
    enum mode mode;
    /* F3, 67, 66, 64, as many as there are, and the opcode. */
    u8 bytes[6];
    u32 count, offset, eflags;
    /* How many elements are done, and the exception that comes then; 0 for none. */
    u32 done;
    u32 vector, code;
};

static int has(const struct test *test, u8 prefix) {
    for (u32 n = 0; test->bytes[n] < 0x6c || test->bytes[n] > 0x6f; n++)
        if (test->bytes[n] == prefix) return 1;
    return 0;
}

static void tell(const struct test *test, const char *what, u32 is, u32 should) {
    print(names[test->mode]);
    for (u32 n = 0; n < 6; n++) print(" "), print_hex(test->bytes[n], 2);
    print(" at "), print_hex(test->offset, 8);
    print(" "), print(what), print(" is "), print_hex(is, 8), print(" should be "), print_hex(should, 8), print("\n");
}

static int same(const struct test *test, const char *what, u32 is, u32 should) {
    if (is != should) tell(test, what, is, should);
    return is == should;
}

static u8 pattern(u32 address) { return (u8)(address * 7 + (address >> 8) * 3 + 1); }

/* The address of a byte of an element. */
static u32 place(u32 base, u32 offset, u32 mask, u32 step, u32 element, u32 byte) {
    return base + ((offset + element * step) & mask) + byte;
}

static int holds(const struct test *test) {
    u32 length = 0;
    while (test->bytes[length] < 0x6c || test->bytes[length] > 0x6f) length++;
    u8 opcode = test->bytes[length++];
    int in = opcode < 0x6e, rep = has(test, 0xf3);
    int small = is_small(test->mode) != has(test, 0x67);
    u32 width = !(opcode & 1) ? 1 : is_small(test->mode) != has(test, 0x66) ? 2 : 4;
    u32 mask = small ? 0xffff : 0xffffffff, base = in ? EXTRA : has(test, 0x64) ? OTHER : DATA;
    u32 step = test->eflags & DOWN ? -width : width;
    u32 garbage = small ? 0xabcd0000 : 0, bytes = (rep ? test->count : 1) * width;
    struct frame frame = {.edx = ECHO, .ecx = garbage | test->count, .esi = garbage | test->offset, .edi = garbage | test->offset, .eflags = test->eflags};
    for (u32 n = 0; n < bytes; n++) {
        u32 address = place(base, test->offset, mask, step, n / width, n % width);
        if (in) out8(ECHO, pattern(n));
        if (n < test->done * width) *at(address) = in ? 0 : pattern(address);
    }
    run(test->mode, test->bytes, length, frame);
    u32 moved = test->done * step;
    u32 pointer = garbage | ((test->offset + moved) & mask);
    int good = same(test, "vector", end.vector, test->vector ? test->vector : UD);
    good &= same(test, "EIP", end.eip, test->vector ? 0 : length);
    good &= same(test, "error code", end.code, test->code);
    good &= same(test, "ECX", end.ecx, garbage | (rep ? test->count - test->done : test->count));
    good &= same(test, "pointer", in ? end.edi : end.esi, pointer);
    good &= same(test, "other pointer", in ? end.esi : end.edi, garbage | test->offset);
    for (u32 n = 0; n < test->done * width; n++) {
        u32 address = place(base, test->offset, mask, step, n / width, n % width);
        good &= same(test, "byte", in ? *at(address) : in8(ECHO), in ? pattern(n) : pattern(address));
    }
    /* What was not asked for is still there, and nothing else. */
    for (u32 n = test->done * width; in && n < bytes; n++) good &= same(test, "byte left", in8(ECHO), pattern(n));
    out8(ECHO, 0x5a);
    good &= same(test, "queue", in8(ECHO), 0x5a);
    return good;
}

static const char *what;
static enum mode now;
static int all_hold;

static void begin(const char *about) { what = about, all_hold = 1; }
static void finish(void) {
    print("07 "), print(names[now]), print(": ");
    check(all_hold, what);
}

/* A test in the present mode, of an instruction with these bytes before its opcode. */
static void a_fault(const char *prefixes, u8 opcode, u32 count, u32 offset, u32 eflags, u32 done, u32 vector, u32 code) {
    struct test test = {.mode = now, .count = count, .offset = offset, .eflags = eflags, .done = done, .vector = vector, .code = code};
    u32 n = 0;
    for (; prefixes[n]; n++) test.bytes[n] = (u8)prefixes[n];
    test.bytes[n] = opcode;
    if (now == VIRTUAL || now == USER) test.eflags |= IOPL_3;
    all_hold &= holds(&test);
}

static void a(const char *prefixes, u8 opcode, u32 count, u32 offset, u32 eflags) {
    a_fault(prefixes, opcode, count, offset, eflags, prefixes[0] == '\xf3' ? count : 1, 0, 0);
}

static void forms(void) {
    begin("widths, directions, segments, address sizes");
    for (u8 opcode = 0x6c; opcode <= 0x6f; opcode++)
        for (u32 eflags = 0; eflags <= DOWN; eflags += DOWN) {
            static const char *const prefixes[] = {"", "\x66", "\x67", "\x64", "\xf3", "\xf3\x66", "\xf3\x67", "\xf3\x64", "\x67\xf3\x66", "\xf3\x64\x66\x67"};
            for (u32 n = 0; n < sizeof prefixes / sizeof *prefixes; n++) {
                /* The repeated ones begin with F3 for `a`. */
                if (prefixes[n][0] == '\x67' && prefixes[n][1]) a_fault(prefixes[n], opcode, 5, 0x500, eflags, 5, 0, 0);
                else a(prefixes[n], opcode, 5, 0x500, eflags);
            }
        }
    finish();
    begin("across pages, and more than a batch");
    for (u8 opcode = 0x6c; opcode <= 0x6f; opcode++) {
        a("\xf3", opcode, 6, 0xffd, 0), a("\xf3", opcode, 6, 0x1001, DOWN), a("", opcode, 1, 0xfff, 0);
        a("\xf3", opcode, opcode & 1 ? 2100 : 4200, 0x123, 0), a("\xf3", opcode, 300, 0x2000, DOWN);
    }
    finish();
    begin("a count of zero");
    for (u8 opcode = 0x6c; opcode <= 0x6f; opcode++)
        a("\xf3", opcode, 0, 0xffff, 0), a("\xf3\x67", opcode, 0, 0xffff, DOWN);
    finish();
    begin("16-bit pointers wrap");
    const char *small = is_small(now) ? "\xf3" : "\xf3\x67";
    for (u8 opcode = 0x6c; opcode <= 0x6f; opcode++)
        a(small, opcode, 8, 0xfff8, 0), a(small, opcode, 8, 4, DOWN);
    finish();
}

/* What ends a string in its middle. */
static void middles(void) {
    if (now != REAL) {
        begin("a page fault in the middle keeps what was done");
        u32 user = now == USER || now == VIRTUAL ? 4 : 0;
        for (u8 opcode = 0x6c; opcode <= 0x6f; opcode += 2) {
            u32 base = opcode < 0x6e ? EXTRA : DATA, write = opcode < 0x6e ? 2 : 0;
            table[(base >> 12) + 2] = 0;
            flush();
            a_fault("\xf3", opcode, 10, 0x1ffc, 0, 4, PF, write | user);
            all_hold &= end_cr2 == base + 0x2000;
            a_fault("\xf3", opcode, 10, 0x3002, DOWN, 3, PF, write | user);
            all_hold &= end_cr2 == base + 0x2fff;
            a_fault("", opcode, 1, 0x2800, 0, 0, PF, write | user);
            /* An element in two pages faults for the second, and nothing of it is done. */
            a_fault("", (u8)(opcode + 1), 1, 0x1fff, 0, 0, PF, write | user);
            all_hold &= end_cr2 == base + 0x2000;
            table[(base >> 12) + 2] = (base + 0x2000) | (user ? 5 : 7);
            flush();
            if (opcode < 0x6e && user) a_fault("\xf3", opcode, 10, 0x1ffc, 0, 4, PF, 7);
            table[(base >> 12) + 2] = (base + 0x2000) | 7;
            flush();
        }
        finish();
    }
    begin("the end of a segment in the middle keeps what was done");
    if (now == REAL || now == VIRTUAL) {
        /* Elements that reach beyond 64 KiB; ones that begin there, too, by 32-bit addresses. */
        a_fault("\xf3", 0x6d, 4, 0xfffb, 0, 2, GP, 0), a_fault("\xf3", 0x6f, 4, 0xfffb, 0, 2, GP, 0);
        a_fault("\xf3\x67", 0x6c, 9, 0xfffc, 0, 4, GP, 0), a_fault("\xf3\x67", 0x6e, 9, 0xfffc, 0, 4, GP, 0);
    } else {
        const char *large = is_small(now) ? "\xf3\x67" : "\xf3";
        data_segments(0x1fff, 0x4f3);
        a_fault(large, 0x6c, 9, 0x1ffc, 0, 4, GP, 0), a_fault(large, 0x6e, 9, 0x1ffc, 0, 4, GP, 0);
        a_fault(large, 0x6f, 9, 0x1ff9, 0, is_small(now) ? 3 : 1, GP, 0);
        a_fault(large, 0x6f, 1, 0x2000, 0, 0, GP, 0);
        data_segments(0xfffff, 0xcf1);
        a_fault(large, 0x6c, 9, 0x100, 0, 0, GP, 0), a(large, 0x6e, 9, 0x100, 0);
        data_segments(0xfffff, 0xcf3);
    }
    finish();
}

/* Who may use the port: IOPL in protected mode, and the bitmap of the TSS where IOPL does not allow it. */
static void permissions(void) {
    begin("IOPL and the bitmap of the TSS");
    for (u32 denied = 0; denied < 5; denied++) {
        u8 *map = io_map(ECHO);
        *map = denied < 4 ? (u8)(1 << denied) : 0;
        for (u8 opcode = 0x6c; opcode <= 0x6f; opcode++)
            for (u32 wide = 0; wide < 2; wide++)
                for (u32 eflags = 0; eflags <= IOPL_3; eflags += IOPL_3) {
                    u32 width = !(opcode & 1) ? 1 : (now == VIRTUAL) != wide ? 2 : 4;
                    /* In virtual-8086 mode the bitmap alone counts. */
                    int allowed = denied >= width || (now == USER && eflags);
                    struct test test = {.mode = now, .bytes = {0xf3, wide ? 0x66 : 0xf3, opcode}, .count = 3, .offset = 0x700, .eflags = eflags,
                                        .done = allowed ? 3 : 0, .vector = allowed ? 0 : GP};
                    /* Bytes for INS would stay in the port. */
                    all_hold &= holds(&test);
                }
        *map = 0;
    }
    finish();
}

/* SMSW and LMSW of memory, in 16-bit code. */
void status_words(enum mode mode) {
    now = mode;
    begin("SMSW and LMSW of memory in 16-bit code");
    struct frame frame = {.edi = 0};
    u32 cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    volatile u16 *words = (volatile u16 *)at(DATA + 0x100);
    words[0] = words[1] = 0xffff;
    static const u8 smsw[] = {0x0f, 0x01, 0x26, 0x00, 0x01};
    run(now, smsw, sizeof smsw, frame);
    u32 expected = (cr0 & 0xfffe) | (now != REAL);
    all_hold &= end.vector == UD && end.eip == sizeof smsw && words[0] == expected && words[1] == 0xffff;
    if (now == VIRTUAL) {
        /* A user's; LMSW is not. */
        static const u8 lmsw[] = {0x0f, 0x01, 0x36, 0x00, 0x01};
        run(now, lmsw, sizeof lmsw, frame);
        all_hold &= end.vector == GP && end.code == 0 && end.eip == 0;
        return finish();
    }
    for (u32 value = 0; value < 16; value++) {
        /* LMSW [100h]; MOV EAX, CR0; MOV EBX, EAX; AND AL, F0h; OR AL, PE; MOV CR0, EAX */
        u8 code[] = {0x0f, 0x01, 0x36, 0x00, 0x01, 0x0f, 0x20, 0xc0, 0x66, 0x89, 0xc3, 0x24, 0xf0, 0x0c, now != REAL, 0x0f, 0x22, 0xc0};
        words[0] = (u16)(0xfff0 | value);
        run(now, code, sizeof code, frame);
        all_hold &= end.vector == UD && end.eip == sizeof code && (end.ebx & 0xf) == (value | (now != REAL));
    }
    finish();
}

void strings(enum mode mode) {
    now = mode;
    forms();
    middles();
    if (now == USER || now == VIRTUAL) permissions();
}
