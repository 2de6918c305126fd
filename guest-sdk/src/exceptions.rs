//! Handlers for the processor's exceptions and for interrupts.
//!
//! A guest without handlers is ended by its first exception, and the host tells what it was and where. A guest that can do something about one sets a
//! handler for its vector (APM vol. 2, 8.2); the others go on ending the guest. On the first use the SDK loads a GDT and an IDT of its own.
//!
//! ```ignore (there are no exceptions in a process)
//! use guest_sdk::exceptions::{self, Frame};
//!
//! exceptions::handle(3, |frame: &mut Frame| guest_sdk::println!("breakpoint at {:#x}", frame.rip));
//! ```
//!
//! A handler runs on the stack of what it interrupted, with interrupts off, and returns to `frame.rip`, which it may change. It must not take
//! locks that the interrupted code may hold: so it does not allocate.
#![expect(unsafe_code, reason = "descriptor tables, interrupt gates, and functions behind atomic words")]

use core::{
    arch::{asm, global_asm},
    mem,
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use spin::Once;

/// Vectors of the processor's exceptions (APM vol. 2, table 8-1).
pub mod vector {
    /// A division by zero, or a quotient that is too large.
    pub const DIVIDE_ERROR: u8 = 0;
    /// `INT3`.
    pub const BREAKPOINT: u8 = 3;
    /// An instruction that there is not.
    pub const INVALID_OPCODE: u8 = 6;
    /// An exception while another one was delivered.
    pub const DOUBLE_FAULT: u8 = 8;
    /// What no other exception stands for.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// An access that the page tables do not allow.
    pub const PAGE_FAULT: u8 = 14;
    /// The first vector that is not the processor's own.
    pub const FIRST_INTERRUPT: u8 = 32;
}

/// What was interrupted: the handler returns to it as this says.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// R15, R14, R13, R12, R11, R10, R9, R8.
    pub high: [u64; 8],
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// RBP.
    pub rbp: u64,
    /// RBX.
    pub rbx: u64,
    /// RDX.
    pub rdx: u64,
    /// RCX.
    pub rcx: u64,
    /// RAX.
    pub rax: u64,
    /// The vector.
    pub vector: u64,
    /// The error code, for exceptions that have one; else 0.
    pub code: u64,
    /// Where it goes on.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

/// A handler.
pub type Handler = fn(&mut Frame);

/// The handlers' addresses; 0 where there is none.
static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// Sets the handler for a vector, in place of the one there was.
pub fn handle(vector: u8, handler: Handler) {
    HANDLERS[usize::from(vector)].store(handler as usize, Release);
    tables().open(vector);
}

/// Lets interrupts through.
pub fn enable_interrupts() {
    // SAFETY: an interrupt without a handler ends the guest, and one with a handler returns to where it came.
    unsafe { asm!("sti", options(nostack)) }
}

/// Keeps interrupts back.
pub fn disable_interrupts() {
    // SAFETY: nothing but interrupts changes by it.
    unsafe { asm!("cli", options(nostack)) }
}

/// Waits for an interrupt, and lets interrupts through meanwhile and behind it: none that comes after the call is missed.
pub fn wait_for_interrupt() {
    // SAFETY: as for `enable_interrupts`; STI takes effect behind the HLT's beginning (APM vol. 3, STI).
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Returns the address whose access raised the last page fault (CR2).
pub fn fault_address() -> u64 {
    let address;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    address
}

/// Selector of the code segment, the same that the guest began with in effect.
const CODE: u16 = 8;
/// Bytes between the entry points of two vectors.
const ENTRY_BYTES: usize = 16;
/// A present interrupt gate for CPL 0 (APM vol. 2, 4.8.4).
const GATE: u64 = 0x8e00 << 32;

/// GDT and IDT.
struct Tables {
    /// Null, 64-bit code, data.
    gdt: [u64; 3],
    /// Two words a gate.
    idt: [AtomicU64; 512],
}

/// The operand of LGDT and LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

fn tables() -> &'static Tables {
    static TABLES: Tables =
        Tables { gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff], idt: [const { AtomicU64::new(0) }; 512] };
    static LOADED: Once<()> = Once::new();
    LOADED.call_once(|| TABLES.load());
    &TABLES
}

impl Tables {
    fn load(&'static self) {
        let gdt = Pointer { limit: (size_of_val(&self.gdt) - 1) as u16, base: self.gdt.as_ptr().expose_provenance() as u64 };
        let idt = Pointer { limit: (size_of_val(&self.idt) - 1) as u16, base: self.idt.as_ptr().expose_provenance() as u64 };
        // SAFETY: the tables are static; the code segment is the one that is in use in all but its selector's origin, and no gate is open yet.
        unsafe {
            asm!(
                "lgdt [{gdt}]",
                "lidt [{idt}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ss, {data:x}",
                gdt = in(reg) &raw const gdt,
                idt = in(reg) &raw const idt,
                code = const CODE as u64,
                data = in(reg) 0x10,
                scratch = out(reg) _,
            );
        }
    }

    /// Opens the gate of a vector.
    fn open(&self, vector: u8) {
        let entry = (&raw const hv_guest_entries).addr() + ENTRY_BYTES * usize::from(vector);
        let entry = entry as u64;
        let low = (entry & 0xffff) | u64::from(CODE) << 16 | GATE | (entry & 0xffff_0000) << 32;
        let gate = usize::from(vector) * 2;
        self.idt[gate + 1].store(entry >> 32, Relaxed);
        self.idt[gate].store(low, Release);
    }
}

unsafe extern "C" {
    /// The first entry point.
    static hv_guest_entries: u8;
}

// One entry point per vector: each pushes an error code where the processor does not (APM vol. 2, table 8-1), and its vector.
global_asm!(
    ".balign 16",
    ".globl hv_guest_entries",
    "hv_guest_entries:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30",
    "push 0",
    ".endif",
    "push vector",
    "jmp hv_guest_entry",
    ".set vector, vector + 1",
    ".endr",
    "hv_guest_entry:",
    "push rax",
    "push rcx",
    "push rdx",
    "push rbx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    // The processor has aligned the stack, and the frame has 22 words.
    "call {dispatch}",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    dispatch = sym dispatch,
);

const _: () = assert!(size_of::<Frame>() == 22 * 8);

extern "C" fn dispatch(frame: &mut Frame) {
    let address = HANDLERS[frame.vector as usize & 0xff].load(Acquire);
    if address != 0 {
        // SAFETY: the word is 0 or what `handle` made of a handler.
        let handler = unsafe { mem::transmute::<usize, Handler>(address) };
        handler(frame);
    }
}
