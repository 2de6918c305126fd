//! The same instruction on this machine's processor and through the emulator, once in memory and once with its operand in a device.
#![expect(unsafe_code, reason = "runs made-up instructions")]

use super::{
    generate::{self, Case, Code, Random, TEMPLATES, flag},
    machine::{Kind, TestMachine},
};
use crate::insn::{CodeBits, Outcome};
use iced_x86::{Code as Asm, Encoder, Instruction, MemoryOperand, Register};
use std::{cell::Cell, env, format, mem, println, ptr, string::String, vec, vec::Vec};

/// Two pages that are there and one that is not, below 4 GiB so that 32-bit addresses reach them.
const WINDOW: u64 = 0x2000_0000;
const WINDOW_BYTES: u64 = 0x2000;
const CODE: u64 = 0x1fff_0000;
const STATE: u64 = CODE + 0x1000;

/// What the code page loads before the instruction, and stores behind it.
#[repr(C)]
struct State {
    vectors: [u128; 16],
    registers: [u64; 16],
    rflags: u64,
    host_rsp: u64,
    /// Signal, error code and address of a fault; 0 when there was none.
    trap: u64,
    code: u64,
    address: u64,
}

const RFLAGS: u64 = STATE + mem::offset_of!(State, rflags) as u64;
const HOST_RSP: u64 = STATE + mem::offset_of!(State, host_rsp) as u64;

/// The processor, with a page of code around the instruction.
struct Processor {
    /// Where instructions go, and where they go on.
    at: u64,
    resume: u64,
}

fn assemble(at: u64, list: &[Instruction]) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    let mut rip = at;
    for instruction in list {
        rip += encoder.encode(instruction, rip).unwrap() as u64;
    }
    encoder.take_buffer()
}

fn at(address: u64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, address as i64)
}

const SAVED: [Register; 6] = [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

fn general(number: usize) -> Register {
    Register::RAX + number as u32
}

impl Processor {
    fn new() -> Self {
        for (start, bytes, rights) in [
            (CODE, 0x2000, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
            (WINDOW, WINDOW_BYTES, libc::PROT_READ | libc::PROT_WRITE),
            (WINDOW + WINDOW_BYTES, 0x1000, libc::PROT_NONE),
        ] {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: fixed addresses that nothing else has, or the call fails.
            let got =
                unsafe { libc::mmap(ptr::with_exposed_provenance_mut(start as usize), bytes as usize, rights, flags, -1, 0) };
            assert_eq!(got.addr() as u64, start, "the address is taken");
        }
        catch_signals();
        let mut before: Vec<_> = SAVED.map(|register| Instruction::with1(Asm::Push_r64, register).unwrap()).into();
        let mut after = Vec::new();
        before.push(Instruction::with2(Asm::Mov_rm64_r64, at(HOST_RSP), Register::RSP).unwrap());
        for number in 0..16 {
            let (place, vector) = (at(STATE + 16 * number as u64), Register::XMM0 + number as u32);
            before.push(Instruction::with2(Asm::Movups_xmm_xmmm128, vector, place).unwrap());
            after.push(Instruction::with2(Asm::Movups_xmmm128_xmm, place, vector).unwrap());
        }
        before.push(Instruction::with1(Asm::Push_rm64, at(RFLAGS)).unwrap());
        before.push(Instruction::with(Asm::Popfq));
        let mut store = Vec::new();
        for number in 0..16 {
            let place = at(STATE + 256 + 8 * number as u64);
            before.push(Instruction::with2(Asm::Mov_r64_rm64, general(number), place).unwrap());
            store.push(Instruction::with2(Asm::Mov_rm64_r64, place, general(number)).unwrap());
        }
        store.push(Instruction::with2(Asm::Mov_r64_rm64, Register::RSP, at(HOST_RSP)).unwrap());
        store.push(Instruction::with(Asm::Pushfq));
        store.push(Instruction::with1(Asm::Pop_rm64, at(RFLAGS)).unwrap());
        store.push(Instruction::with1(Asm::Pushq_imm8, 2).unwrap());
        store.push(Instruction::with(Asm::Popfq));
        store.append(&mut after);
        store.extend(SAVED.iter().rev().map(|register| Instruction::with1(Asm::Pop_r64, *register).unwrap()));
        store.push(Instruction::with(Asm::Retnq));
        let entry = assemble(CODE, &before);
        let (instruction, resume) = (CODE + entry.len() as u64, CODE + 0x800);
        put(CODE, &entry);
        put(resume, &assemble(resume, &store));
        Self { at: instruction, resume }
    }

    /// Runs an instruction and leaves what came of it in the state.
    fn run(&self, case: &Case) {
        let bytes = &case.bytes[..case.len];
        put(self.at, bytes);
        let behind = self.at + case.len as u64;
        let jump = Instruction::with_branch(Asm::Jmp_rel32_64, self.resume).unwrap();
        put(behind, &assemble(behind, &[jump]));
        RESUME.set(self.resume);
        let entry: extern "sysv64" fn() = {
            // SAFETY: `new` wrote a function of this type there; it saves what its caller relies on. What the instruction does in
            // between stays in the window, or faults, and then goes on at `resume`.
            unsafe { mem::transmute(ptr::with_exposed_provenance::<()>(CODE as usize)) }
        };
        entry();
    }
}

fn put(at: u64, bytes: &[u8]) {
    // SAFETY: the pages that `Processor::new` mapped; nothing has a reference to them.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), ptr::with_exposed_provenance_mut(at as usize), bytes.len()) }
}

fn window() -> Vec<u8> {
    let mut bytes = vec![0; WINDOW_BYTES as usize];
    // SAFETY: as in `put`.
    unsafe { ptr::copy_nonoverlapping(ptr::with_exposed_provenance(WINDOW as usize), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

fn state() -> *mut State {
    ptr::with_exposed_provenance_mut(STATE as usize)
}

std::thread_local! {
    static RESUME: Cell<u64> = const { Cell::new(0) };
}

fn catch_signals() {
    let stack = libc::stack_t { ss_sp: vec![0u8; 0x4000].leak().as_mut_ptr().cast(), ss_flags: 0, ss_size: 0x4000 };
    // SAFETY: the stack lives as long as the process.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    // SAFETY: all zero is a valid set of no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = on_signal as *const () as usize;
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
        // SAFETY: the handler touches only the page of the state, and nothing else of this process faults.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a context.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as u64;
    if !(CODE..CODE + 0x1000).contains(&rip) {
        // SAFETY: ends the process; a fault elsewhere is a bug of the test.
        unsafe { libc::abort() };
    }
    // SAFETY: the state's page is there; the code that was interrupted is not Rust's.
    let state = unsafe { &mut *state() };
    state.trap = registers[libc::REG_TRAPNO as usize] as u64 + 1;
    state.code = registers[libc::REG_ERR as usize] as u64;
    state.address = registers[libc::REG_CR2 as usize] as u64;
    registers[libc::REG_RIP as usize] = RESUME.get() as i64;
    registers[libc::REG_EFL as usize] &= !0x1_0000;
}

/// What came of an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Result {
    registers: [u64; 16],
    rflags: u64,
    vectors: [u128; 16],
    memory: Vec<u8>,
    /// Vector, error code, CR2 for a page fault.
    fault: Option<(u8, u32, u64)>,
}

fn is_amd() -> bool {
    let vendor = core::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
}

fn start(case: &Case, fill: &[u8]) -> Vec<u8> {
    let mut memory = fill.to_vec();
    if let Some((offset, value)) = case.plant {
        for (at, byte) in (offset as usize..).zip(value.to_le_bytes()) {
            if let Some(place) = memory.get_mut(at) {
                *place = byte;
            }
        }
    }
    memory
}

fn on_processor(processor: &Processor, case: &Case, memory: &[u8], vectors: [u128; 16]) -> Result {
    put(WINDOW, memory);
    let begin =
        State { vectors, registers: case.registers, rflags: case.flags | 0x202, host_rsp: 0, trap: 0, code: 0, address: 0 };
    // SAFETY: the state's page is this test's.
    unsafe { state().write(begin) };
    processor.run(case);
    // SAFETY: as above.
    let end = unsafe { &*state() };
    let fault = (end.trap != 0).then(|| {
        let vector = (end.trap - 1) as u8;
        (vector, end.code as u32, if vector == 14 { end.address } else { 0 })
    });
    Result { registers: end.registers, rflags: end.rflags, vectors: end.vectors, memory: window(), fault }
}

fn emulated(processor: &Processor, case: &Case, memory: &[u8], vectors: [u128; 16], kind: Kind) -> Result {
    let mut machine = TestMachine::new(CodeBits::Bits64);
    machine.user = true;
    if case.flags & ALIGNMENT != 0 {
        machine.mode.alignment = crate::insn::Alignment::Checked;
    }
    machine.map(CODE, 1, Kind::Memory);
    machine.map(WINDOW, WINDOW_BYTES / 4096, kind);
    machine.put(processor.at, &case.bytes[..case.len]);
    machine.put(WINDOW, memory);
    (machine.registers, machine.rflags, machine.vectors, machine.rip) =
        (case.registers, case.flags | 0x202, vectors, processor.at);
    machine.segments[2].selector = 0x2b;
    machine.segments[1].selector = 0x33;
    for segment in [0, 3, 4, 5] {
        machine.segments[segment].selector = 0;
    }
    let fault = match machine.run() {
        Outcome::Done => {
            assert_eq!(machine.rip, processor.at + case.len as u64, "goes on elsewhere: {}", text(case));
            None
        }
        Outcome::Fault(fault) => {
            assert_eq!(machine.rip, processor.at);
            let code = fault.exception.code.unwrap_or(0);
            Some((fault.exception.vector.0, code, fault.address.0))
        }
        other => panic!("{other:?}: {}", text(case)),
    };
    let memory = machine.get(WINDOW, WINDOW_BYTES as usize);
    Result { registers: machine.registers, rflags: machine.rflags, vectors: machine.vectors, memory, fault }
}

const ALIGNMENT: u64 = 1 << 18;

fn text(case: &Case) -> String {
    let decoded = iced_x86::Decoder::with_ip(64, &case.bytes[..case.len], 0, 0).decode();
    format!("{decoded:?} {:x?} {case:x?}", &case.bytes[..case.len])
}

fn compare(case: &Case, real: &Result, ours: &Result, kind: Kind) {
    // A read of a device before a fault of the same instruction is no difference that can be seen here.
    let (mut real, mut ours) = (real.clone(), ours.clone());
    let ignored = if real.fault.is_some() { 0 } else { case.undefined };
    for result in [&mut real, &mut ours] {
        result.rflags &= (flag::ALL | flag::DF) & !ignored;
    }
    assert!(real.fault == ours.fault, "{kind:?}: {:x?} on the processor, {:x?} here: {}", real.fault, ours.fault, text(case));
    if !case.comparable {
        return;
    }
    for register in 0..16 {
        let (a, b) = (real.registers[register], ours.registers[register]);
        assert_eq!(a, b, "{kind:?} register {register}: {a:x} on the processor, {b:x} here: {}", text(case));
    }
    assert_eq!(real.rflags, ours.rflags, "{kind:?}: flags {:x} and {:x}: {}", real.rflags, ours.rflags, text(case));
    assert_eq!(real.vectors, ours.vectors, "{kind:?}: {}", text(case));
    if real.memory != ours.memory {
        let at = (0..real.memory.len()).find(|&at| real.memory[at] != ours.memory[at]).unwrap();
        panic!("{kind:?} memory at {at:x}: {:x} and {:x}: {}", real.memory[at], ours.memory[at], text(case));
    }
}

#[test]
fn instructions_do_what_the_processor_does() {
    if !is_amd() {
        println!("nothing to compare with: undefined flags and the order of faults are another vendor's");
        return;
    }
    let rounds = if env::var_os("HV_DEEP").is_some() { 10_000_000 } else { 100_000 };
    let processor = Processor::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut reached = vec![0u32; TEMPLATES];
    let mut faults = 0;
    let fill: Vec<u8> = (0..WINDOW_BYTES).map(|_| random.next() as u8).collect();
    let place = generate::Place { code: Code::Bits64, rip: processor.at, window: WINDOW, bytes: WINDOW_BYTES };
    for _ in 0..rounds {
        let Some(mut case) = generate::case(&mut random, place) else { continue };
        if random.one_in(8) {
            case.flags |= ALIGNMENT;
        }
        if (CODE..WINDOW).contains(&case.registers[4].wrapping_sub(8)) {
            // A stack in the pages around the instruction, which the emulated machine has not.
            continue;
        }
        reached[case.template] += 1;
        let memory = start(&case, &fill);
        let vectors = core::array::from_fn(|_| u128::from(random.next()) << 64 | u128::from(random.next()));
        let real = on_processor(&processor, &case, &memory, vectors);
        faults += u32::from(real.fault.is_some());
        for kind in [Kind::Memory, Kind::Device] {
            let ours = emulated(&processor, &case, &memory, vectors, kind);
            compare(&case, &real, &ours, kind);
        }
    }
    let exist = (0..TEMPLATES).filter(|&template| generate::exists(template, Code::Bits64));
    let (hit, missed): (Vec<_>, Vec<_>) = exist.partition(|&template| reached[template] > 0);
    assert!(missed.is_empty(), "not reached: {missed:?}");
    println!("{rounds} cases, {faults} of them faults, all {} opcodes", hit.len());
}
