/* String port I/O from the inside, in every mode that is not long mode: what a port that gives back what it was given has got, and where the
   registers are behind it. A model of a few lines tells what should be. SMSW and LMSW in 16-bit code, too. */
#include "machine.h"

#define ECHO 0x1f0
#define CODE 0x10000
/* Where the segments DS, ES and FS begin. */
#define DATA 0x30000
#define EXTRA 0x50000
#define OTHER 0x70000
#define REAL_STUB 0x8000
#define REAL_REGISTERS 0x9000
#define CARRY_ON 2
#define DOWN 0x400
#define VIRTUAL_8086 0x20000
#define IOPL_3 0x3000
enum { UD = 6, GP = 13, PF = 14 };
enum mode { REAL, PROTECTED, SMALL, USER, VIRTUAL, MODES };
static const char *const names[MODES] = {"real mode", "protected mode", "16-bit protected mode", "user", "virtual-8086 mode"};

struct frame { u32 fs, es, ds, edi, esi, ebp, unused, ebx, edx, ecx, eax, eip, cs, eflags, esp, ss, v_es, v_ds, v_fs, v_gs; };
struct trap { u32 edi, esi, ebp, esp, ebx, edx, ecx, eax, vector, code, eip, cs, eflags; };
extern char mode_traps[], real_stub[], real_stub_end[], real_traps[], real_stack[];
void enter_mode(void *frame);
void enter_real(void);
void __attribute__((noreturn)) leave_mode(void);

static u64 gdt[12] __attribute__((aligned(8)));
static u64 idt[32] __attribute__((aligned(8)));
static u32 directory[1024] __attribute__((aligned(4096))), table[1024] __attribute__((aligned(4096)));
static struct __attribute__((packed)) { u32 link, esp0, ss0, rest[22]; u16 trap, map_at; u8 map[8193]; } tss;
static struct __attribute__((packed)) pointer { u16 limit; u32 base; } pointer;
static u8 trap_stack[4096] __attribute__((aligned(16)));
static struct { u32 room[64]; struct frame frame; } start;
static struct trap end;
static u32 end_cr2;

/* Never inline: GCC takes addresses below 4096 for no objects at all, and others for none that it knows. */
static inline volatile u8 *at(u32 address) { __asm__("" : "+r"(address)); return (volatile u8 *)address; }

void took_trap(const struct trap *trap) {
    end = *trap;
    __asm__ volatile("mov %%cr2, %0" : "=r"(end_cr2));
    leave_mode();
}

static u64 segment(u32 base, u32 limit, u32 kind) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(kind & 0xff) << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)(kind >> 8 & 15) << 52 |
           (u64)(base >> 24) << 56;
}

/* The data segments of protected mode. */
static void data_segments(u32 limit, u32 kind) {
    gdt[8] = segment(DATA, limit, kind);
    gdt[9] = segment(EXTRA, limit, kind);
    gdt[10] = segment(OTHER, limit, kind);
}

static void flush(void) { __asm__ volatile("mov %%cr3, %%eax; mov %%eax, %%cr3" : : : "eax", "memory"); }

static void set_up(void) {
    gdt[1] = segment(0, 0xfffff, 0xc9b);
    gdt[2] = segment(0, 0xfffff, 0xc93);
    gdt[3] = segment(0, 0xffff, 0x09b);
    gdt[4] = segment(0, 0xffff, 0x093);
    gdt[5] = segment((u32)&tss, sizeof tss - 1, 0x089);
    gdt[6] = segment(0, 0xfffff, 0xcfb);
    gdt[7] = segment(0, 0xfffff, 0xcf3);
    gdt[11] = segment(CODE, 0xffff, 0x09b);
    data_segments(0xfffff, 0xcf3);
    pointer.limit = sizeof gdt - 1, pointer.base = (u32)gdt;
    __asm__ volatile("lgdt %0; ljmp $8, $1f; 1: mov %1, %%ds; mov %1, %%es; mov %1, %%ss" : : "m"(pointer), "r"(0x10) : "memory");
    for (u32 vector = 0; vector < 32; vector++) {
        u32 handler = (u32)mode_traps + 16 * vector;
        idt[vector] = (handler & 0xffff) | 8 << 16 | (u64)0x8e00 << 32 | (u64)(handler >> 16) << 48;
    }
    tss.esp0 = (u32)(trap_stack + sizeof trap_stack), tss.ss0 = 0x10, tss.map_at = 104;
    tss.map[8192] = 0xff;
    __asm__ volatile("ltr %w0" : : "r"(0x28));
    for (u32 n = 0; n < 1024; n++) table[n] = n << 12 | 7, directory[n] = n << 22 | 0x87;
    directory[0] = (u32)table | 7;
    __asm__ volatile("mov %0, %%cr4; mov %1, %%cr3; mov %%cr0, %%eax; or %2, %%eax; mov %%eax, %%cr0"
                     : : "r"(0x10), "r"(directory), "r"(0x80010000) : "eax", "memory");
    for (u32 n = 0; real_stub + n < real_stub_end; n++) at(REAL_STUB)[n] = (u8)real_stub[n];
    for (u32 vector = 0; vector < 32; vector++)
        *(volatile u32 *)at(4 * vector) = REAL_STUB + (u32)(real_traps - real_stub) + 8 * vector;
}

static void load_idt(void) {
    pointer.limit = sizeof idt - 1, pointer.base = (u32)idt;
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

static int is_small(enum mode mode) { return mode == REAL || mode == SMALL || mode == VIRTUAL; }

static void run_real(const struct frame *frame) {
    volatile u32 *registers = (volatile u32 *)at(REAL_REGISTERS);
    for (u32 n = 0; n < 8; n++) registers[n] = (&frame->edi)[n];
    registers[8] = OTHER >> 4 | EXTRA << 12, registers[9] = DATA >> 4, registers[10] = frame->eflags;
    enter_real();
    load_idt();
    const volatile u32 *stack = (const volatile u32 *)at(*(volatile u16 *)at(REAL_STUB + (u32)(real_stack - real_stub)));
    for (u32 n = 0; n < 8; n++) (&end.edi)[n] = stack[n];
    end.vector = stack[8] & 0xffff, end.eip = stack[8] >> 16, end.code = 0;
}

/* Runs an instruction in a mode; what came of it is in `end`, with EIP counted from the instruction. */
static void run(enum mode mode, const u8 *bytes, u32 length, struct frame frame) {
    for (u32 n = 0; n < length; n++) at(CODE)[n] = bytes[n];
    at(CODE)[length] = 0x0f, at(CODE)[length + 1] = 0x0b;
    frame.eflags |= CARRY_ON;
    if (mode == REAL) return run_real(&frame);
    int user = mode == USER || mode == VIRTUAL;
    frame.fs = 0x53, frame.es = 0x4b, frame.ds = 0x43;
    frame.cs = user ? 0x33 : mode == SMALL ? 0x58 : 8, frame.eip = mode == SMALL ? 0 : CODE;
    frame.esp = 0x7000, frame.ss = 0x3b;
    if (mode == VIRTUAL) {
        frame.fs = frame.es = frame.ds = 0x10;
        frame.eflags |= VIRTUAL_8086, frame.cs = CODE >> 4, frame.eip = 0, frame.ss = 0;
        frame.v_es = EXTRA >> 4, frame.v_ds = DATA >> 4, frame.v_fs = OTHER >> 4, frame.v_gs = 0;
    }
    start.frame = frame;
    enter_mode(&start.frame);
    if (mode == PROTECTED || mode == USER) end.eip -= CODE;
}

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
        u8 *map = tss.map + ECHO / 8;
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
static void status_words(void) {
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

void kernel_main(u32 magic, const u32 *info) {
    (void)magic, (void)info;
    set_up();
    load_idt();
    for (now = REAL; now < MODES; now++) {
        forms();
        middles();
        if (now == USER || now == VIRTUAL) permissions();
        if (is_small(now)) status_words();
    }
    print("done\n");
    leave(42);
}
