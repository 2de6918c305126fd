/* The local APIC: as MSRs where there are such, as its page where not or where the command line says "xapic". */
#include "machine.h"

#define X2APIC (1u << 10)
#define TIMER 0x40
#define PERIOD 200000u

static int is_x2apic;

u32 apic_read(u32 number) {
    return is_x2apic ? (u32)rdmsr(0x800 + number) : *(volatile u32 *)(word)(0xfee00000 + 16 * number);
}

void apic_write(u32 number, u32 value) {
    if (is_x2apic) {
        wrmsr(0x800 + number, value);
    } else {
        *(volatile u32 *)(word)(0xfee00000 + 16 * number) = value;
    }
}

void apic_init(const char *command_line) {
    if (cpuid_1_ecx() & 1u << 21 && !has_word(command_line, "xapic")) {
        wrmsr(APIC_BASE, rdmsr(APIC_BASE) | X2APIC);
        is_x2apic = 1;
    }
    apic_write(SVR, 0x1ff);
    apic_write(TPR, 0);
    print(is_x2apic ? "apic: x2apic, id " : "apic: xapic, id ");
    print_number(is_x2apic ? apic_read(ID) : apic_read(ID) >> 24);
    print(", version ");
    print_hex(apic_read(VERSION) & 0xff, 2);
    print("\n");
}

void self_interrupt(u8 vector) { apic_write(ICR, 1u << 18 | vector); }

static void end(u8 vector) {
    (void)vector;
    apic_write(EOI, 0);
}

static u64 last_tick;

static void tick(u8 vector) {
    last_tick = rdtsc();
    end(vector);
}

static void wait_for(u64 ticks) {
    while (taken[TIMER] < ticks) sleep_until_interrupt();
}

/* One interrupt each of the one-shot and the deadline timer, ten of the periodic one: none early, none missing. */
void timers(void) {
    handlers[TIMER] = tick;
    apic_write(DIVIDE, 0xb);
    taken[TIMER] = 0;
    apic_write(LVT_TIMER, TIMER);
    u64 start = rdtsc();
    apic_write(INITIAL, PERIOD);
    wait_for(1);
    check(last_tick - start >= PERIOD && apic_read(CURRENT) == 0 && taken[TIMER] == 1, "timer one-shot");

    apic_write(LVT_TIMER, 1u << 17 | TIMER);
    taken[TIMER] = 0;
    start = rdtsc();
    apic_write(INITIAL, PERIOD);
    int early = 0;
    for (u32 ticks = 1; ticks <= 10; ticks++) {
        wait_for(ticks);
        early |= last_tick - start < (u64)ticks * PERIOD;
    }
    apic_write(INITIAL, 0);
    check(!early && taken[TIMER] >= 10, "timer periodic");

    if (cpuid_1_ecx() & 1u << 24) {
        apic_write(LVT_TIMER, 2u << 17 | TIMER);
        taken[TIMER] = 0;
        u64 deadline = rdtsc() + PERIOD;
        wrmsr(TSC_DEADLINE, deadline);
        wait_for(1);
        check(last_tick >= deadline && rdmsr(TSC_DEADLINE) == 0 && taken[TIMER] == 1, "timer deadline");
    } else {
        print("timer deadline: not offered\n");
    }
    apic_write(LVT_TIMER, 1u << 16);
}

/* Sleeps for a billion ticks. */
void second(void) {
    handlers[TIMER] = tick;
    taken[TIMER] = 0;
    apic_write(DIVIDE, 0xb);
    apic_write(LVT_TIMER, TIMER);
    u64 start = rdtsc();
    apic_write(INITIAL, 1000000000);
    u32 waits = 0;
    for (; taken[TIMER] == 0; waits++) sleep_until_interrupt();
    print("slept ");
    print_number(last_tick - start - 1000000000);
    print(" ticks longer, woken ");
    print_number(waits);
    print(" times\n");
}

#define SERIAL 0x50
static const char *rest;

/* The transmitter is empty: the next byte, or no more such interrupts. */
static void transmit(u8 vector) {
    if ((in8(CONSOLE_PORT + 2) & 0xf) == 2) {
        if (*rest) {
            out8(CONSOLE_PORT, (u8)*rest++);
        } else {
            out8(CONSOLE_PORT + 1, 0);
        }
    }
    end(vector);
}

/* Prints by interrupts; the serial port's line is the processor's pin LINT0. */
void serial_interrupts(void) {
    rest = "serial by interrupt\n";
    handlers[SERIAL] = transmit;
    apic_write(LVT_LINT0, SERIAL);
    out8(CONSOLE_PORT + 4, 0xb); /* OUT2 lets interrupts through on a PC. */
    out8(CONSOLE_PORT + 1, 2);
    while (in8(CONSOLE_PORT + 1)) sleep_until_interrupt();
    apic_write(LVT_LINT0, 1u << 16);
    check(taken[SERIAL] == 21, "serial interrupts");
}

static u8 order[16];
static u32 count;

static void note(u8 vector) {
    order[count++ & 15] = vector;
    end(vector);
}

static void note_and_nest(u8 vector) {
    order[count++ & 15] = vector;
    self_interrupt(0x42);
    self_interrupt(0x90);
    sti();
    __asm__ volatile("nop");
    cli();
    order[count++ & 15] = vector;
    end(vector);
}

static int came(const char *vectors, u32 length) {
    int same = count == length;
    for (u32 at = 0; at < length; at++) same &= order[at] == (u8)vectors[at];
    count = 0;
    return same;
}

static void window(void) { __asm__ volatile("sti; nop; nop; cli" : : : "memory"); }

static void mode_switches(void) {
    u64 base = rdmsr(APIC_BASE);
    u64 off = base & ~(u64)0xc00, xapic = off | 0x800, x2apic = xapic | X2APIC;
    wrmsr(APIC_BASE, off);
    check(wrmsr_faults(APIC_BASE, off | X2APIC) && wrmsr_faults(APIC_BASE, x2apic), "apic off: no way to x2apic");
    check(rdmsr_faults(0x802), "apic off: no registers");
    wrmsr(APIC_BASE, xapic);
    check(rdmsr_faults(0x802) && wrmsr_faults(APIC_BASE, xapic | 1), "xapic: no MSRs, no reserved bits");
    wrmsr(APIC_BASE, x2apic);
    check(wrmsr_faults(APIC_BASE, xapic), "x2apic: no way to xapic");
    check(rdmsr_faults(0x80b) && wrmsr_faults(0x802, 0) && wrmsr_faults(0x80b, 1) && rdmsr_faults(0x80e), "x2apic: what MSRs refuse");
    check(!(apic_read(SVR) & 0x100), "apic off: forgets");
    apic_write(SVR, 0x1ff);
}

static u32 stormed;

static void again(u8 vector) {
    if (++stormed < 5000) self_interrupt(vector);
    end(vector);
}

static void again_for_ever(u8 vector) {
    self_interrupt(vector);
    end(vector);
}

/* Priorities, nesting, masking, order of ends, spurious interrupts, changes of mode. */
void apic_tests(void) {
    handlers[0x31] = handlers[0x35] = handlers[0x42] = handlers[0x55] = handlers[0x65] = handlers[0x80] = handlers[0x90] = note;
    handlers[0x41] = note_and_nest;
    self_interrupt(0x31), self_interrupt(0x80), self_interrupt(0x35), self_interrupt(0x35);
    check(apic_read(IRR + 1) == (1u << 0x11 | 1u << 0x15) && apic_read(IRR + 4) == 1, "apic requests");
    window();
    check(came("\x80\x35\x31", 3), "apic priorities");
    self_interrupt(0x41);
    window();
    check(came("\x41\x90\x41\x42", 4), "apic nesting and order of ends");
    apic_write(TPR, 0x50);
    self_interrupt(0x55), self_interrupt(0x65);
    window();
    check(came("\x65", 1) && apic_read(PPR) == 0x50, "apic task priority");
    apic_write(TPR, 0);
    window();
    check(came("\x55", 1), "apic task priority lowered");
#ifdef __x86_64__
    word class = 9, same = 0;
    __asm__ volatile("mov %0, %%cr8" : : "r"(class));
    self_interrupt(0x90);
    window();
    int held = count == 0 && apic_read(TPR) == 0x90;
    apic_write(TPR, 0xa5);
    __asm__ volatile("mov %%cr8, %0" : "=r"(same));
    held &= same == 10;
    __asm__ volatile("sti; mov %0, %%cr8; nop; cli" : : "r"((word)0));
    check(held && came("\x90", 1), "apic task priority is CR8");
#endif
    self_interrupt(0x55);
    apic_write(TPR, 0xff);
    window();
    check(came("", 0) && taken[0xff] == 0, "apic raised priority: nothing, and nothing spurious");
    apic_write(TPR, 0);
    window();
    check(came("\x55", 1), "apic nothing is lost");
    handlers[0x60] = again;
    self_interrupt(0x60);
    sti();
    while (*(volatile u32 *)&stormed < 5000) {
    }
    cli();
    check(taken[0x60] == 5000, "apic self-interrupts");
    if (is_x2apic) mode_switches();
}

/* What a host must survive: interrupts without end. */
void storm(const char *command_line) {
    if (has_word(command_line, "storm=ipi")) {
        handlers[0x60] = again_for_ever;
        self_interrupt(0x60);
    } else {
        handlers[TIMER] = end;
        apic_write(DIVIDE, 0xb);
        apic_write(LVT_TIMER, 1u << 17 | TIMER);
        apic_write(INITIAL, 1);
    }
    if (has_word(command_line, "halt")) {
        for (;;) __asm__ volatile("sti; hlt");
    }
    sti();
    for (;;) {
    }
}
