//! Lets TR and GS point wherever a host may have its memory, with hostile words there, and leaves for the host again and again.
//!
//! A host that still had the guest's TR when it takes an interrupt through an IST gate would take its stack from a TSS at that address.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "loads the task register and the base of GS")]

extern crate alloc;

use alloc::vec;
use core::{
    arch::{
        asm,
        x86_64::{__cpuid, _rdtsc},
    },
    hint::black_box,
};
use guest_sdk::println;

/// What a host's stack pointer would become: an address where hosts are likely to have something that they need.
const HOSTILE: u64 = 0x0020_0000;
/// How much memory is filled with that, in words: much of what there is, so that some of it lies where a base points.
const WORDS: usize = 4 << 20;
/// Bases: 4 MiB apart, all over the machine's memory; and what is mapped nowhere, or in nobody's half.
const STEP: u64 = 4 << 20;
const STEPS: u64 = 52;
const FURTHER: [u64; 3] = [0, 0x7fff_ffff_f000, 0xffff_8000_0000_0000];
/// A TSS has its stack pointers 4 bytes off a multiple of 8 (APM vol. 2, figure 12-8): so they are at such a multiple again.
const ALIGN: u64 = 4;
/// How long each base is used, in ticks: a few of the host's timer; and how many exits there are meanwhile.
const TICKS: u64 = 2_500_000;
const EXITS: u64 = 25;

const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// A present, available 64-bit TSS with a limit of 0x67 (APM vol. 2, figure 4-22).
const TSS: u64 = 0x89 << 40 | 0x67;
const TSS_SELECTOR: u16 = 0x18;

#[guest_sdk::main]
fn main() {
    let spray = vec![HOSTILE; WORDS];
    for base in (1..=STEPS).map(|step| step * STEP + ALIGN).chain(FURTHER) {
        load(base);
        for _ in 0..EXITS {
            black_box(__cpuid(1));
            wait(TICKS / EXITS);
        }
    }
    assert!(black_box(&spray).iter().all(|word| *word == HOSTILE), "the host wrote into this guest");
    println!("no base did any harm");
}

/// Waits without an exit.
fn wait(ticks: u64) {
    // SAFETY: reading the counter has no effect.
    let now = || unsafe { _rdtsc() };
    let start = now();
    while now() - start < ticks {}
}

/// Loads TR with a TSS at `base`, and GS with that base.
fn load(base: u64) {
    // Null, code, data, and the two words of the TSS. LTR marks it busy, so each time begins with a new table.
    let table =
        [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, TSS | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56, base >> 32];
    let mut pointer = [0_u8; 10];
    pointer[..2].copy_from_slice(&(size_of_val(&table) as u16 - 1).to_le_bytes());
    pointer[2..].copy_from_slice(&(table.as_ptr().expose_provenance() as u64).to_le_bytes());
    // SAFETY: nothing uses the table behind LTR, since segment registers keep what they were loaded with; interrupts, which would use the TSS, are off;
    // no code uses GS.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "ltr {selector:x}",
            "mov ecx, {gs}",
            "wrmsr",
            "mov ecx, {kernel_gs}",
            "wrmsr",
            pointer = in(reg) &pointer,
            selector = in(reg) TSS_SELECTOR,
            gs = const MSR_GS_BASE,
            kernel_gs = const MSR_KERNEL_GS_BASE,
            in("eax") base as u32,
            in("edx") (base >> 32) as u32,
            out("ecx") _,
        );
    }
}
