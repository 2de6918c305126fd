/* Other modes: tables for them, and the way there and back. */
#include "modes.h"

#define REAL_STUB 0x8000
#define REAL_REGISTERS 0x9000
#define CARRY_ON 2
#define VIRTUAL_8086 0x20000
const char *const names[MODES] = {"real mode", "protected mode", "16-bit protected mode", "user", "virtual-8086 mode"};

extern char mode_traps[], real_stub[], real_stub_end[], real_traps[], real_stack[];
void enter_mode(void *frame);
void enter_real(void);
void __attribute__((noreturn)) leave_mode(void);

static u64 gdt[12] __attribute__((aligned(8)));
static u64 idt[32] __attribute__((aligned(8)));
static u64 pointers[4] __attribute__((aligned(32))), directory[512] __attribute__((aligned(4096)));
u64 table[512] __attribute__((aligned(4096)));
static struct __attribute__((packed)) { u32 link, esp0, ss0, rest[22]; u16 trap, map_at; u8 map[8193]; } tss;
static struct __attribute__((packed)) pointer { u16 limit; u32 base; } pointer;
static u8 trap_stack[4096] __attribute__((aligned(16)));
static struct { u32 room[64]; struct frame frame; } start;
static int keeps_segments;
struct trap end;
u32 end_cr2;

void took_trap(const struct trap *trap) {
    end = *trap;
    __asm__ volatile("mov %%cr2, %0" : "=r"(end_cr2));
    leave_mode();
}

static u64 segment(u32 base, u32 limit, u32 kind) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(kind & 0xff) << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)(kind >> 8 & 15) << 52 |
           (u64)(base >> 24) << 56;
}

void data_segments(u32 limit, u32 kind) {
    gdt[8] = segment(DATA, limit, kind);
    gdt[9] = segment(EXTRA, limit, kind);
    gdt[10] = segment(OTHER, limit, kind);
}

void real_segments(u32 base, u32 limit) {
    keeps_segments = limit != 0;
    gdt[8] = gdt[9] = segment(base, limit, 0x0f3);
    if (!keeps_segments) data_segments(0xfffff, 0xcf3);
}

void flush(void) { __asm__ volatile("mov %%cr3, %%eax; mov %%eax, %%cr3" : : : "eax", "memory"); }

static void load_idt(void) {
    pointer.limit = sizeof idt - 1, pointer.base = (u32)idt;
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

void modes_init(void) {
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
    for (u32 n = 0; n < 512; n++) table[n] = n << 12 | 7, directory[n] = n << 21 | 0x87;
    directory[0] = (u32)table | 7, pointers[0] = (u32)directory | 1;
    __asm__ volatile("mov %0, %%cr4; mov %1, %%cr3; mov %%cr0, %%eax; or %2, %%eax; mov %%eax, %%cr0"
                     : : "r"(0x20), "r"(pointers), "r"(0x80010000) : "eax", "memory");
    for (u32 n = 0; real_stub + n < real_stub_end; n++) at(REAL_STUB)[n] = (u8)real_stub[n];
    for (u32 vector = 0; vector < 32; vector++)
        *(volatile u32 *)at(4 * vector) = REAL_STUB + (u32)(real_traps - real_stub) + 8 * vector;
    load_idt();
}

u8 *io_map(u16 port) { return tss.map + port / 8; }

int is_small(enum mode mode) { return mode == REAL || mode == SMALL || mode == VIRTUAL; }

static void run_real(const struct frame *frame) {
    volatile u32 *registers = (volatile u32 *)at(REAL_REGISTERS);
    for (u32 n = 0; n < 8; n++) registers[n] = (&frame->edi)[n];
    registers[8] = OTHER >> 4 | EXTRA << 12, registers[9] = DATA >> 4, registers[10] = frame->eflags, registers[11] = keeps_segments;
    enter_real();
    load_idt();
    const volatile u32 *stack = (const volatile u32 *)at(*(volatile u16 *)at(REAL_STUB + (u32)(real_stack - real_stub)));
    for (u32 n = 0; n < 8; n++) (&end.edi)[n] = stack[n];
    end.vector = stack[8] & 0xffff, end.eip = stack[8] >> 16, end.eflags = stack[9] >> 16, end.code = 0;
}

/* Runs an instruction in a mode; what came of it is in `end`, with EIP counted from the instruction. */
void run(enum mode mode, const u8 *bytes, u32 length, struct frame frame) {
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

void kernel_main(u32 magic, const u32 *info) {
    (void)magic;
    /* The start info of PVH: its 64-bit word at 24 is the command line's address. */
    const char *line = (const char *)info[6];
    int only_accesses = has_word(line, "accesses");
    u32 cases = has_word(line, "deep") ? 200000 : 4000;
    modes_init();
    for (enum mode mode = REAL; mode < MODES; mode++) {
        if (only_accesses) {
            accesses(mode, cases);
            continue;
        }
        strings(mode);
        if (is_small(mode)) status_words(mode);
    }
    print("done\n");
    leave(42);
}
