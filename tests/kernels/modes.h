/* Runs instructions in other modes from 32-bit protected mode, under PAE paging but in real mode. */
#pragma once
#include "machine.h"

/* Where the segments DS, ES and FS begin, and the instruction lies. */
#define CODE 0x10000
#define DATA 0x30000
#define EXTRA 0x50000
#define OTHER 0x70000
#define DOWN 0x400
#define IOPL_3 0x3000
enum { UD = 6, GP = 13, PF = 14 };
enum mode { REAL, PROTECTED, SMALL, USER, VIRTUAL, MODES };
extern const char *const names[MODES];

/* What an instruction begins with: general registers and flags; the rest is the mode's. */
struct frame { u32 fs, es, ds, edi, esi, ebp, unused, ebx, edx, ecx, eax, eip, cs, eflags, esp, ss, v_es, v_ds, v_fs, v_gs; };
/* What came of the last one; EIP counts from it. The last two are a user's alone. */
struct trap { u32 edi, esi, ebp, esp, ebx, edx, ecx, eax, vector, code, eip, cs, eflags, user_esp, user_ss; };
extern struct trap end;
extern u32 end_cr2;

/* The entries of the last page table, for the first 2 MiB, and what makes changes of them count. */
extern u64 table[512];
void flush(void);
/* The TSS's bytes for a port and those behind it. */
u8 *io_map(u16 port);

void modes_init(void);
int is_small(enum mode mode);
void run(enum mode mode, const u8 *bytes, u32 length, struct frame frame);
/* Limit and kind of the data segments of protected mode. */
void data_segments(u32 limit, u32 kind);
/* Has DS and ES of real mode begin at `base`, with a limit, as protected mode leaves them; 0 ends that. */
void real_segments(u32 base, u32 limit);
/* Never inline: GCC takes addresses below 4096 for no objects at all, and others for none that it knows. */
static inline volatile u8 *at(u32 address) { __asm__("" : "+r"(address)); return (volatile u8 *)address; }

/* strings.c, accesses.c */
void strings(enum mode mode);
void status_words(enum mode mode);
void accesses(enum mode mode, u32 cases);
