//! Has the processor carry out random instructions with their operand in memory, and hv the same ones with their operand in a device that mirrors
//! memory, and compares registers, flags, memory and faults; in 64-bit, 32-bit and 16-bit code. Arguments: how many cases, and a seed.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "is its own kernel, and runs made-up instructions")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one promise covers a whole piece of code or of state")]

extern crate alloc;

#[path = "../../../../hv/src/insn/tests/generate.rs"]
mod generate;
#[path = "../region.rs"]
mod region;

use alloc::{format, string::String};
use core::{
    arch::{asm, global_asm},
    mem::offset_of,
    ptr::{addr_of, addr_of_mut},
};
use generate::{Case, Code, Random, TEMPLATES, flag};
use guest_sdk::{args, println};
use region::{ENTRY, MIRROR, Page, REGION, address, map_region, page};

guest_sdk::entry!(main);

/// Behind a page for code, a window of two, behind which nothing is.
const WINDOW_PAGE: usize = 8;
const WINDOW: u64 = REGION + WINDOW_PAGE as u64 * 4096;
const WINDOW_BYTES: u64 = 0x2000;
/// The entry's bit for writes.
const WRITABLE: u64 = 2;
/// The error code's bit for writes: QEMU 7.2 does not set it for the read of an instruction that goes on to write (APM vol. 2, 8.4.2).
const WRITE: u64 = 2;

/// What the assembly below loads before an instruction, and stores behind it. The offsets stand there as numbers.
#[repr(C, align(16))]
struct State {
    vectors: [u128; 16],
    registers: [u64; 16],
    rflags: u64,
    host_rsp: u64,
    /// Offset, and in the third 16 bits from below the selector.
    target: u64,
    /// Vector and one more, error code, CR2; 0 when there was no fault.
    fault: [u64; 3],
}

const _: () = assert!(offset_of!(State, registers) == 256 && offset_of!(State, rflags) == 384 && offset_of!(State, fault) == 408);

#[unsafe(no_mangle)]
static mut STATE: State = State { vectors: [0; 16], registers: [0; 16], rflags: 0, host_rsp: 0, target: 0, fault: [0; 3] };

global_asm!(
    r#"
    .macro vector op, at
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    .if \op
    movups [rip + STATE + 16*\n], xmm\n
    .else
    movups xmm\n, [rip + STATE + 16*\n]
    .endif
    .endr
    .endm
run_case:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + STATE + 392], rsp
    vector 0, 0
    push qword ptr [rip + STATE + 384]
    popfq
    mov rax, [rip + STATE + 256]
    mov rcx, [rip + STATE + 264]
    mov rdx, [rip + STATE + 272]
    mov rbx, [rip + STATE + 280]
    mov rsp, [rip + STATE + 288]
    mov rbp, [rip + STATE + 296]
    mov rsi, [rip + STATE + 304]
    mov rdi, [rip + STATE + 312]
    mov r8, [rip + STATE + 320]
    mov r9, [rip + STATE + 328]
    mov r10, [rip + STATE + 336]
    mov r11, [rip + STATE + 344]
    mov r12, [rip + STATE + 352]
    mov r13, [rip + STATE + 360]
    mov r14, [rip + STATE + 368]
    mov r15, [rip + STATE + 376]
    jmp fword ptr [rip + STATE + 400]
case_done:
    mov [rip + STATE + 256], rax
    mov [rip + STATE + 264], rcx
    mov [rip + STATE + 272], rdx
    mov [rip + STATE + 280], rbx
    mov [rip + STATE + 288], rsp
    mov [rip + STATE + 296], rbp
    mov [rip + STATE + 304], rsi
    mov [rip + STATE + 312], rdi
    mov [rip + STATE + 320], r8
    mov [rip + STATE + 328], r9
    mov [rip + STATE + 336], r10
    mov [rip + STATE + 344], r11
    mov [rip + STATE + 352], r12
    mov [rip + STATE + 360], r13
    mov [rip + STATE + 368], r14
    mov [rip + STATE + 376], r15
    mov rsp, [rip + STATE + 392]
    pushfq
    pop qword ptr [rip + STATE + 384]
    cld
    vector 1, 0
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .macro gate number, code
gate_\number:
    .if \code == 0
    push 0
    .endif
    push \number + 1
    jmp gate_common
    .endm
    gate 0, 0
    gate 6, 0
    gate 12, 1
    gate 13, 1
    gate 14, 1
    gate 17, 1
# On a stack of its own: vector, error code, RIP, CS, RFLAGS, RSP, SS.
gate_common:
    pop qword ptr [rip + STATE + 408]
    pop qword ptr [rip + STATE + 416]
    push rax
    mov rax, cr2
    mov [rip + STATE + 424], rax
    lea rax, [rip + case_done]
    mov [rsp + 8], rax
    mov qword ptr [rsp + 16], 8
    pop rax
    iretq
    "#
);

unsafe extern "C" {
    fn run_case();
    fn case_done();
    fn gate_0();
    fn gate_6();
    fn gate_12();
    fn gate_13();
    fn gate_14();
    fn gate_17();
}

/// Segments of code that is not 64-bit code, and of its data: flat ones, then ones that begin where the region does.
const SEGMENTS: [u64; 6] = [
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x40cf_9b00_0000_ffff,
    0x40cf_9300_0000_ffff,
    0x400f_9b00_0000_ffff,
    // A large segment all the same, whose stack pointer has 16 bits.
    0x408f_9300_0000_ffff,
];
const _: () = assert!(REGION == 0x4000_0000, "the base of the segments");

/// A kind of code.
struct Setting {
    name: &'static str,
    place: generate::Place,
    /// Selectors of the code, and of ES, SS and DS.
    code: u64,
    data: u16,
}

const SETTINGS: [Setting; 4] = {
    const fn place(code: Code, base: u64) -> generate::Place {
        generate::Place { code, rip: REGION - base, window: WINDOW - base, bytes: WINDOW_BYTES }
    }
    [
        Setting { name: "64-bit code", place: place(Code::Bits64, 0), code: 8, data: 16 },
        Setting { name: "32-bit code", place: place(Code::Bits32, 0), code: 0x28, data: 0x30 },
        Setting { name: "32-bit code in segments with a base", place: place(Code::Bits32, REGION), code: 0x38, data: 0x40 },
        Setting { name: "16-bit code", place: place(Code::Bits16, REGION), code: 0x48, data: 0x50 },
    ]
};

impl Setting {
    /// The bits of a register that code of this kind has.
    const fn mask(&self) -> u64 {
        if matches!(self.place.code, Code::Bits64) { u64::MAX } else { 0xffff_ffff }
    }
}

/// Descriptor tables, and a stack of its own for every exception.
fn take_exceptions() {
    let (tables, idt, stack) = (page(), page(), page());
    let stack_end = address(stack) + 4096;
    let tss = &mut tables.0[64..80];
    // IST1 is at offset 36.
    tss[4] = stack_end << 32;
    tss[5] = stack_end >> 32;
    let at = address(tss.as_ptr());
    tables.0[1] = 0x00af_9b00_0000_ffff;
    tables.0[2] = 0x00cf_9300_0000_ffff;
    tables.0[3] = 0x67 | (at & 0xff_ffff) << 16 | 0x89 << 40 | (at >> 24 & 0xff) << 56;
    tables.0[4] = at >> 32;
    tables.0[5..11].copy_from_slice(&SEGMENTS);
    let gates: [(usize, unsafe extern "C" fn()); 6] =
        [(0, gate_0), (6, gate_6), (12, gate_12), (13, gate_13), (14, gate_14), (17, gate_17)];
    for (vector, handler) in gates {
        let handler = address(handler as *const ());
        idt.0[2 * vector] = handler & 0xffff | 8 << 16 | 1 << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        idt.0[2 * vector + 1] = handler >> 32;
    }
    let pointer = |page: &Page| -> [u16; 5] {
        let at = address(page);
        [0xfff, at as u16, (at >> 16) as u16, (at >> 32) as u16, 0]
    };
    let (gdtr, idtr) = (pointer(tables), pointer(idt));
    // SAFETY: the tables are complete and live as long as the guest; selectors 8 and 16 are what the code below loads.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", "push 8", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:",
            "mov {t:e}, 16", "mov ss, {t:e}", "mov ds, {t:e}", "mov es, {t:e}", "mov {t:e}, 24", "ltr {t:x}",
            in(reg) &raw const gdtr, in(reg) &raw const idtr, t = out(reg) _);
    }
}

/// What came of an instruction.
struct Outcome {
    registers: [u64; 16],
    vectors: [u128; 16],
    rflags: u64,
    fault: [u64; 3],
}

struct Bench {
    entries: *mut u64,
    /// The two frames that each run has for the window.
    frames: [[&'static mut Page; 2]; 2],
}

impl Bench {
    /// Leads the window to frames, or to the device that mirrors them.
    fn lead(&self, run: usize, base: u64) {
        for (at, frame) in self.frames[run].iter().enumerate() {
            // SAFETY: the entry is this guest's own, and its page is used by nothing but the instruction.
            unsafe { self.entries.add(WINDOW_PAGE + at).write_volatile((base + address(&raw const **frame)) | ENTRY) };
            // SAFETY: only flushes.
            unsafe { asm!("invlpg [{}]", in(reg) WINDOW + at as u64 * 4096) };
        }
    }

    fn run(&mut self, run: usize, base: u64, setting: &Setting, case: &Case, vectors: [u128; 16]) -> Outcome {
        self.lead(run, base);
        let state = addr_of_mut!(STATE);
        let registers = case.registers.map(|register| register & setting.mask());
        let target = setting.place.rip | setting.code << 32;
        // SAFETY: nothing else uses the state; the code page ends with a jump to `case_done`, and faults lead there too. In 64-bit code, bases of
        // these segments count for nothing.
        unsafe {
            *state = State { vectors, registers, rflags: case.flags, host_rsp: 0, target, fault: [0; 3] };
            asm!("mov ds, {0:x}", "mov es, {0:x}", "mov ss, {0:x}", in(reg) setting.data);
            run_case();
            asm!("mov ds, {0:x}", "mov es, {0:x}", "mov ss, {0:x}", in(reg) 16);
            let State { vectors, registers, rflags, fault, .. } = addr_of!(STATE).read();
            Outcome { registers, vectors, rflags, fault }
        }
    }

    fn fill(&mut self, fill: &Page, case: &Case) {
        for run in 0..2 {
            for page in 0..2 {
                self.frames[run][page].0 = fill.0;
            }
            if let Some((offset, value)) = case.plant {
                for (at, byte) in (offset..).zip(value.to_le_bytes()) {
                    if at < WINDOW_BYTES {
                        let word = &mut self.frames[run][at as usize / 4096].0[at as usize % 4096 / 8];
                        let shift = at % 8 * 8;
                        *word = *word & !(0xff << shift) | u64::from(byte) << shift;
                    }
                }
            }
        }
    }

    fn difference(&self, setting: &Setting, case: &Case, real: &Outcome, ours: &Outcome) -> Option<String> {
        let faulted = real.fault[0] != 0;
        let fault = |of: &Outcome| {
            let [vector, code, address] = of.fault;
            (vector, code & !WRITE, if vector == 15 { address } else { 0 })
        };
        if fault(real) != fault(ours) {
            return Some(format!("faults {:x?} and {:x?}", real.fault, ours.fault));
        }
        if !case.comparable {
            return None;
        }
        // What of them code of other sizes cannot reach is not defined behind it (APM vol. 1, 3.1.2).
        let count = if setting.place.code == Code::Bits64 { 16 } else { 8 };
        if (0..count).any(|at| (real.registers[at] ^ ours.registers[at]) & setting.mask() != 0) {
            return Some(format!("registers {:x?} and {:x?}", real.registers, ours.registers));
        }
        let compared = (flag::ALL | flag::DF) & if faulted { !0 } else { !case.undefined };
        if (real.rflags ^ ours.rflags) & compared != 0 {
            return Some(format!("flags {:x} and {:x}", real.rflags, ours.rflags));
        }
        if real.vectors != ours.vectors {
            return Some(format!("vectors {:x?} and {:x?}", real.vectors, ours.vectors));
        }
        let [a, b] = &self.frames;
        let at = (0..1024).find(|at| a[at / 512].0[at % 512] != b[at / 512].0[at % 512])?;
        Some(format!("memory at {:x}: {:x} and {:x}", at * 8, a[at / 512].0[at % 512], b[at / 512].0[at % 512]))
    }
}

/// Puts an instruction into the code page, and a jump behind it.
fn put_code(code: &mut Page, setting: &Setting, case: &Case) {
    let done = address(case_done as *const ());
    let behind = REGION + case.len as u64 + 5;
    let near = (done as i64 - behind as i64) as i32;
    let jump: &[&[u8]] = match setting.place.code {
        Code::Bits64 => &[&[0xe9], &near.to_le_bytes()],
        // Far, with an offset of 32 bits and the selector of 64-bit code.
        Code::Bits32 => &[&[0xea], &(done as u32).to_le_bytes(), &[8, 0]],
        Code::Bits16 => &[&[0x66, 0xea], &(done as u32).to_le_bytes(), &[8, 0]],
    };
    let mut place = (&raw mut *code).cast::<u8>();
    for bytes in [&case.bytes[..case.len]].into_iter().chain(jump.iter().copied()) {
        // SAFETY: the page is this guest's, and holds nothing else; it has room for this.
        unsafe {
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            place = place.add(bytes.len());
        }
    }
}

/// Whether QEMU 7.2 may divide the least number by -1 for it, on the host's processor, and end: IDIV of 16 or 32 bits, where #DE is due
/// (APM vol. 3, IDIV).
const fn ends_qemu(case: &Case) -> bool {
    let [low, _, high, ..] = case.registers;
    let least_32 = high as u32 == 1 << 31 && low as u32 == 0;
    let least_16 = high as u16 == 1 << 15 && low as u16 == 0;
    matches!(case.opcode, (0, 0xf7, 7)) && (least_32 || least_16)
}

/// Where QEMU 7.2 does not do what the manual says.
const MISTAKES: [&str; 5] = [
    "a stack address that is not canonical is #GP instead of #SS (APM vol. 2, 8.2.13)",
    "the second encoding of TEST in group 3 is #UD (APM vol. 3, table A-6)",
    "66h takes precedence over REX.W with MOVBE (APM vol. 3, 1.2.7)",
    "66h means 16 bits with MOVBE, though that is what 16-bit code has without it (APM vol. 3, 1.2.2)",
    "the first half of 16 bytes is stored before the second half faults (APM vol. 2, 8.1.3)",
];

/// Which of QEMU's mistakes this is, if it is one.
fn mistake(setting: &Setting, case: &Case, real: &Outcome, ours: &Outcome) -> Option<usize> {
    if (real.fault[0], ours.fault[0]) == (14, 13) {
        return Some(0);
    }
    match case.opcode {
        (0, 0xf6 | 0xf7, 1) if real.fault[0] == 7 => Some(1),
        (0x38, 0xf0 | 0xf1, _) if case.overridden => Some(2),
        (0x38, 0xf0 | 0xf1, _) if setting.place.code == Code::Bits16 => Some(3),
        (0x0f, 0x11 | 0x7f, _) if real.fault[0] == 15 => Some(4),
        _ => None,
    }
}

/// What happened to instructions in one kind of code.
struct Tally {
    cases: u32,
    faults: u32,
    reached: [u32; TEMPLATES],
}

impl Tally {
    fn report(&self, setting: &Setting) {
        let exist = (0..TEMPLATES).filter(|&template| generate::exists(template, setting.place.code));
        let (all, hit) = exist.fold((0, 0), |(all, hit), template| (all + 1, hit + u32::from(self.reached[template] > 0)));
        println!("{}: {} cases, {} faults, {hit} of {all} opcodes", setting.name, self.cases, self.faults);
    }
}

fn main() {
    let mut numbers = args().skip(1).map(|arg| arg.parse::<u64>().expect("numbers"));
    let (rounds, seed) = (numbers.next().unwrap_or(1000), numbers.next().unwrap_or(1));
    let entries = map_region();
    let code = page();
    // SAFETY: the first entry of the new table. Instructions cannot write what the next run executes.
    unsafe { entries.write_volatile(address(&raw const *code) | ENTRY & !WRITABLE) };
    take_exceptions();
    let mut bench = Bench { entries, frames: [[page(), page()], [page(), page()]] };
    let mut random = Random(seed | 1 << 40);
    let fill = Page(core::array::from_fn(|_| random.next()));
    let mut tallies = [const { Tally { cases: 0, faults: 0, reached: [0; TEMPLATES] } }; SETTINGS.len()];
    let (mut wrong, mut mistakes, mut cases) = (0, [0; MISTAKES.len()], 0);
    while cases < rounds {
        let number = cases as usize % SETTINGS.len();
        let (setting, tally) = (&SETTINGS[number], &mut tallies[number]);
        let Some(case) = generate::case(&mut random, setting.place).filter(|case| !ends_qemu(case)) else { continue };
        let vectors = core::array::from_fn(|_| u128::from(random.next()) << 64 | u128::from(random.next()));
        cases += 1;
        tally.cases += 1;
        tally.reached[case.template] += 1;
        put_code(code, setting, &case);
        bench.fill(&fill, &case);
        let real = bench.run(0, 0, setting, &case, vectors);
        let ours = bench.run(1, MIRROR, setting, &case, vectors);
        tally.faults += u32::from(real.fault[0] != 0);
        let Some(what) = bench.difference(setting, &case, &real, &ours) else { continue };
        if let Some(known) = mistake(setting, &case, &real, &ours) {
            mistakes[known] += 1;
        } else {
            wrong += 1;
            if wrong <= 10 {
                println!("{} {:02x?}: {what}\n  began with {:x?}", setting.name, &case.bytes[..case.len], case.registers);
            }
        }
    }
    SETTINGS.iter().zip(&tallies).for_each(|(setting, tally)| tally.report(setting));
    MISTAKES.iter().zip(mistakes).for_each(|(what, count)| println!("QEMU, {count} times: {what}"));
    println!("{cases} cases, {wrong} differences");
    assert_eq!(wrong, 0);
}
