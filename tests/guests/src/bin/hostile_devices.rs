//! Uses devices as nobody should; the argument says how.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "does what no compiler would")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one trick or another")]

#[path = "../region.rs"]
mod region;

use core::arch::{asm, global_asm};
use guest_sdk::{args, println};
use region::{ATTACHED, ENTRY, MIRROR, Page, REGION, address, map_region, page};

guest_sdk::entry!(main);

/// Maps the first page of the region to a device that mirrors a page of memory, which is returned.
fn device() -> &'static mut Page {
    let (entries, behind) = (map_region(), page());
    // SAFETY: the first entry of the new table.
    unsafe { entries.write_volatile((MIRROR + address(&raw const *behind)) | ENTRY) };
    behind
}

/// 512 GiB that lead to one page, by a table of each level: what a string instruction with an endless count needs.
const ENDLESS: u64 = 1 << 39;
const ENDLESS_COUNT: u64 = 1 << 38;

/// Maps [`ENDLESS`] to that page.
fn endless(to: u64) {
    let tables = [page(), page(), page()];
    let at = tables.each_ref().map(|table| address(&raw const **table) | 0x23);
    for (table, entry) in tables.into_iter().zip([at[1], at[2], to | ENTRY]) {
        table.0.fill(entry);
    }
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root) };
    let second = core::ptr::with_exposed_provenance_mut::<u64>(root as usize & !0xfff).wrapping_add(1);
    // SAFETY: the contract maps the tables one to one, and writable; the second entry is free.
    unsafe { second.write_volatile(at[0]) };
}

global_asm!(
    r#"
try_code:
    push rbx
    push rbp
    mov [rip + TRY_RSP], rsp
    mov rbx, rdi
    mov rdi, rsi
    mov ecx, 3
    jmp rbx
    .irp number, 6, 13, 14
try_trap_\number:
    mov eax, \number
    jmp try_end
    .endr
try_end:
    cld
    mov rsp, [rip + TRY_RSP]
    pop rbp
    pop rbx
    ret
    .bss
    .balign 8
TRY_RSP: .skip 8
    .text
    "#
);

unsafe extern "C" {
    /// Runs code with RDI and RSI at a device until it traps; gives the vector.
    fn try_code(code: u64, device: u64) -> u32;
    fn try_trap_6();
    fn try_trap_13();
    fn try_trap_14();
}

/// Handlers for the exceptions that instructions behind random prefixes raise.
fn take_exceptions() {
    let (gdt, idt) = (page(), page());
    gdt.0[1] = 0x00af_9b00_0000_ffff;
    gdt.0[2] = 0x00cf_9300_0000_ffff;
    let handlers: [(usize, unsafe extern "C" fn()); 3] = [(6, try_trap_6), (13, try_trap_13), (14, try_trap_14)];
    for (vector, handler) in handlers {
        let at = address(handler as *const ());
        idt.0[2 * vector] = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        idt.0[2 * vector + 1] = at >> 32;
    }
    let pointer = |page: &Page| -> [u16; 5] {
        let base = address(page);
        [0xfff, base as u16, (base >> 16) as u16, (base >> 32) as u16, 0]
    };
    let (gdtr, idtr) = (pointer(gdt), pointer(idt));
    // SAFETY: the tables have all that can happen here, and live as long as the guest.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", "push 8", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:", "mov {t:e}, 16", "mov ss, {t:e}",
            in(reg) &raw const gdtr, in(reg) &raw const idtr, t = out(reg) _);
    }
}

const PREFIXES: [u8; 16] = [0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x48, 0x4f, 0x45];
/// Instructions that access what RDI or RSI points to.
const INSTRUCTIONS: [&[u8]; 14] = [
    &[0x88, 0x07],
    &[0x8b, 0x07],
    &[0x01, 0x07],
    &[0x87, 0x07],
    &[0xf7, 0x17],
    &[0x0f, 0xc1, 0x07],
    &[0x0f, 0xb6, 0x07],
    &[0x0f, 0xab, 0x07],
    &[0x0f, 0x10, 0x07],
    &[0x0f, 0x11, 0x07],
    &[0xa4],
    &[0xab],
    &[0xac],
    &[0xae],
];

/// Random prefixes, up to one more than an instruction has bytes, before instructions that access a device; `ud2` behind them.
fn random_prefixes(seed: u64) {
    let (entries, behind, code) = (map_region(), page(), page());
    for (number, to) in [MIRROR + address(&raw const *behind), address(&raw const *code)].into_iter().enumerate() {
        // SAFETY: an entry of the new table.
        unsafe { entries.add(number).write_volatile(to | ENTRY) };
    }
    take_exceptions();
    let (mut state, mut ends) = (seed, [0u32; 16]);
    let mut below = |end: usize| {
        // A multiplier and an increment of Numerical Recipes.
        state = state.wrapping_mul(3_935_559_000_370_003_845).wrapping_add(2_691_343_689_449_507_681);
        (state >> 33) as usize % end
    };
    for _ in 0..3000 {
        let mut bytes = [0x90u8; 24];
        let count = below(17);
        bytes[..count].fill_with(|| PREFIXES[below(PREFIXES.len())]);
        let instruction = INSTRUCTIONS[below(INSTRUCTIONS.len())];
        bytes[count..count + instruction.len()].copy_from_slice(instruction);
        bytes[count + instruction.len()..][..2].copy_from_slice(&[0x0f, 0x0b]);
        for (word, bytes) in code.0.iter_mut().zip(bytes.as_chunks().0) {
            // SAFETY: a word of the page, which is executed by another address.
            unsafe { (&raw mut *word).write_volatile(u64::from_le_bytes(*bytes)) };
        }
        // SAFETY: the code accesses the device, or what is not there, and traps.
        let vector = unsafe { try_code(REGION + 4096, REGION + 0x800) };
        ends[vector as usize & 15] += 1;
    }
    println!("{} invalid opcodes, {} general protection faults, {} page faults", ends[6], ends[13], ends[14]);
}

fn main() {
    let what = args().nth(1).unwrap_or_default();
    // SAFETY: none of it is safe, and only this guest is hurt.
    unsafe {
        match what {
            "mmio-storm" => {
                device();
                asm!("2: mov eax, [r8]", "add [r8 + 8], eax", "jmp 2b", in("r8") REGION, options(noreturn));
            }
            "port-storm" => asm!("2: out dx, al", "in al, dx", "jmp 2b", in("dx") 0x1f0u16, options(noreturn)),
            "code" => {
                device();
                asm!("jmp {}", in(reg) REGION, options(noreturn));
            }
            "tables" => {
                asm!("mov cr3, {}", "mov rax, [{}]", in(reg) MIRROR, in(reg) REGION, options(noreturn));
            }
            "stack" => {
                device();
                // Pushes are served by the device; the exception's frame is not.
                asm!("mov rsp, {}", "push rax", "pop rax", "call 2f", "2: ud2", in(reg) REGION + 0x800, options(noreturn));
            }
            "endless-stores" => {
                endless(MIRROR + address(&raw const *page()));
                asm!("rep stosb", "ud2", in("rdi") ENDLESS, in("rcx") ENDLESS_COUNT, options(noreturn));
            }
            "endless-loads" => {
                endless(MIRROR + address(&raw const *page()));
                asm!("rep lodsq", "ud2", in("rsi") ENDLESS, in("rcx") ENDLESS_COUNT / 8, options(noreturn));
            }
            // In a device that hv asks itself.
            "endless-comparison" => {
                endless(ATTACHED);
                asm!("repne scasb", "ud2", in("rdi") ENDLESS, in("rcx") ENDLESS_COUNT, in("al") 1u8, options(noreturn));
            }
            "endless-copy" => {
                endless(ATTACHED);
                asm!("rep movsb", "ud2", in("rsi") ENDLESS, in("rdi") ENDLESS + 0x1234, in("rcx") ENDLESS_COUNT, options(noreturn));
            }
            "endless-outs" => {
                endless(address(&raw const *page()));
                asm!("rep outsb", "ud2", in("rsi") ENDLESS, in("rcx") ENDLESS_COUNT, in("dx") 0x1f0u16, options(noreturn));
            }
            "endless-ins" => {
                endless(address(&raw const *page()));
                asm!("rep insd", "ud2", in("rdi") ENDLESS, in("rcx") ENDLESS_COUNT / 4, in("dx") 0x1f0u16, options(noreturn));
            }
            "random-prefixes" => random_prefixes(args().nth(2).and_then(|seed| seed.parse().ok()).unwrap_or(1)),
            "prefixes" => {
                device();
                asm!(
                    ".fill 9, 1, 0x66", ".byte 0x65, 0x2e, 0xf2, 0xf3, 0x88, 0x07",
                    ".fill 12, 1, 0x2e", ".byte 0x88, 0x07, 0x90",
                    ".fill 15, 1, 0xf3", ".byte 0x88, 0x07",
                    in("rdi") REGION, options(noreturn)
                );
            }
            "unknown" => {
                device();
                asm!("fild qword ptr [{}]", "ud2", in(reg) REGION, options(noreturn));
            }
            other => panic!("no such trick: {other}"),
        }
    }
}
