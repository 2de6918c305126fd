//! Exceptions and interrupts: one entry for each of the 256 vectors, one handler for all.
//!
//! An exception is a fault of the host: it is reported and ends the run. Handlers take no locks and allocate nothing.
#![expect(unsafe_code, reason = "entry points are assembly, and the interrupt descriptor table points to them")]

use core::{arch::global_asm, fmt, sync::atomic::Ordering::Relaxed};

use spin::Once;
use x86_64::{
    VirtAddr,
    instructions::tables::lidt,
    registers::{
        control::Cr2,
        segmentation::{CS, Segment},
    },
    structures::DescriptorTablePointer,
};

use crate::{
    apic,
    cpu::{self, Ist},
    report,
};

/// Vector of the host timer.
pub(crate) const TIMER: u8 = 0x20;
/// Vector of spurious interrupts (APM vol. 2, 16.4.7), which want no answer.
pub(crate) const SPURIOUS: u8 = 0xff;

const NMI: u64 = 2;
/// Bytes from one entry point to the next.
const STUB_BYTES: u64 = 16;
/// Vectors that the processor pushes an error code for (APM vol. 2, table 8-1), a bit each.
const WITH_ERROR_CODE: u64 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

// Saved are the registers that a Rust function may change; it keeps the rest itself, and the host has no use for vector registers.
// Nine of them and the seven words above them keep the stack aligned to 16 bytes.
global_asm!(
    ".section .text.traps, \"ax\", @progbits",
    ".balign 16",
    ".globl trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign {stub_bytes}",
    ".if (vector > 31) || !(({with_error_code} >> (vector & 31)) & 1)",
    "pushq $0",
    ".endif",
    "pushq $vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "trap_common:",
    "pushq %rax",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "cld",
    "movq %rsp, %rdi",
    "call {trap}",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rdi",
    "popq %rsi",
    "popq %rdx",
    "popq %rcx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    stub_bytes = const STUB_BYTES,
    with_error_code = const WITH_ERROR_CODE,
    trap = sym trap,
    options(att_syntax)
);

unsafe extern "C" {
    safe static trap_stubs: u8;
}

/// What the stack holds when [`trap`] is called.
#[repr(C)]
struct Frame {
    saved: [u64; 9],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

extern "sysv64" fn trap(frame: &Frame) {
    // What comes by far the most often is a function without a stack frame.
    if frame.vector == u64::from(TIMER) { apic::on_timer() } else { on_rare_trap(frame) }
}

#[cold]
fn on_rare_trap(frame: &Frame) {
    match frame.vector {
        NMI => on_nmi(frame),
        vector if vector == u64::from(SPURIOUS) => {}
        _ => report::fail(format_args!("{frame}")),
    }
}

/// Counts a non-maskable interrupt. It comes whatever the host is doing, so it shows whether TR and GS are the host's at all times.
fn on_nmi(frame: &Frame) {
    let cpu = cpu::local();
    cpu.nmis.fetch_add(1, Relaxed);
    if !cpu.is_on_stack(frame, Ist::Nmi) {
        report::fail(format_args!("a non-maskable interrupt was taken on a stack at {:p} that is not for it", frame));
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vector {} ({}), error code {:#x}, ", self.vector, name(self.vector), self.error_code)?;
        write!(f, "rip {:#x}, cr2 {:#x}, rsp {:#x}, ", self.rip, Cr2::read_raw(), self.rsp)?;
        write!(f, "cs {:#x}, ss {:#x}, rflags {:#x}", self.cs, self.ss, self.rflags)
    }
}

/// The mnemonic of a vector (APM vol. 2, table 8-1).
fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "reserved", "#TS", "#NP", "#SS", "#GP", "#PF", "reserved",
        "#MF", "#AC", "#MC", "#XF", "reserved", "#CP",
    ];
    match (vector, NAMES.get(vector as usize)) {
        (_, Some(name)) => name,
        (28, _) => "#HV",
        (29, _) => "#VC",
        (30, _) => "#SX",
        (0..32, _) => "reserved",
        _ => "interrupt that nobody asked for",
    }
}

/// A gate of the table, as two words (APM vol. 2, figure 4-24).
type Gate = [u64; 2];

static TABLE: Once<[Gate; 256]> = Once::new();

/// Loads the interrupt descriptor table of this CPU; [`cpu::init`] came before.
pub(crate) fn init() {
    let table = TABLE.call_once(|| {
        let stubs = (&raw const trap_stubs).addr() as u64;
        core::array::from_fn(|vector| gate(stubs + vector as u64 * STUB_BYTES, vector))
    });
    let pointer = DescriptorTablePointer { limit: (size_of_val(table) - 1) as u16, base: VirtAddr::from_ptr(table) };
    // SAFETY: each gate leads to the stub of its vector in the code segment that is loaded, on a stack of the TSS that is loaded, and
    // a stub returns with all registers unchanged. The table lives as long as the program.
    unsafe { lidt(&pointer) };
}

/// A present interrupt gate (type 14, DPL 0); exceptions switch stacks, interrupts do not.
fn gate(entry: u64, vector: usize) -> Gate {
    let stack = match vector {
        2 => Ist::Nmi as u64 + 1,
        8 => Ist::DoubleFault as u64 + 1,
        18 => Ist::MachineCheck as u64 + 1,
        0..32 => Ist::Fault as u64 + 1,
        _ => 0,
    };
    let selector = u64::from(CS::get_reg().0);
    [entry & 0xffff | selector << 16 | stack << 32 | 0x8e << 40 | (entry >> 16 & 0xffff) << 48, entry >> 32]
}
