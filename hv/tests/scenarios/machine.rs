//! A machine for one scenario: an arena, a model CPU, and a VM with a page of code, a page of data and a stack.

use hv::{
    Cpu, EntryState, Error, Hypervisor, Kick, Platform, Stop, Vm,
    addr::Gpa,
    hw::model::{ModelCpu, Outcome, Script, Step},
    mem::{GuestMemory, arena::Arena},
    svm::Event,
};
use iced_x86::code_asm::CodeAssembler;
use std::{cell::Cell, ops::Deref, sync::Arc};

/// Where code lies, mapped read-only and executable.
pub const CODE: u64 = 0x1_0000;
/// A page of data, mapped writable and not executable; shared with the image until written.
pub const DATA: u64 = 0x2_0000;
/// The stack's only page; the page below it is not mapped.
pub const STACK_PAGE: u64 = 0x3_0000;
const TABLES: u64 = 0x4_0000;
const MEMORY: u64 = 1 << 20;

const ACCESSED_TABLE: u64 = 0x23;
const READ_EXECUTE: u64 = 0x21;
const READ_WRITE: u64 = 0x63 | 1 << 63;

/// Never raised.
pub static QUIET: Kick = Kick::new();

/// Assembles guest code for [`CODE`].
pub fn assemble(program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    program(&mut assembler);
    assembler.assemble(CODE).unwrap()
}

pub fn try_hypervisor(arena: &'static Arena, cpu: &ModelCpu) -> Result<Arc<Hypervisor>, Error> {
    Hypervisor::new(arena.frames(), cpu, Platform { tsc_hertz: 1_000_000_000 })
}

pub fn hypervisor(arena: &'static Arena, cpu: &ModelCpu) -> Arc<Hypervisor> {
    try_hypervisor(arena, cpu).unwrap()
}

/// A VM over an image with that code and data.
pub fn vm(hypervisor: &Arc<Hypervisor>, code: &[u8], data: &[u8]) -> Vm {
    let mut image = GuestMemory::new(hypervisor.frames(), MEMORY).unwrap();
    let mut put = |at: u64, word: u64| image.write(Gpa(at), &word.to_le_bytes()).unwrap();
    for level in 0..3 {
        put(TABLES + level * 0x1000, (TABLES + (level + 1) * 0x1000) | ACCESSED_TABLE);
    }
    let last = TABLES + 3 * 0x1000;
    put(last + CODE / 512, CODE | READ_EXECUTE);
    put(last + DATA / 512, DATA | READ_WRITE);
    put(last + STACK_PAGE / 512, STACK_PAGE | READ_WRITE);
    image.write(Gpa(CODE), code).unwrap();
    image.write(Gpa(DATA), &[0; 8]).unwrap();
    image.write(Gpa(DATA), data).unwrap();
    let memory = GuestMemory::over(&image.freeze()).unwrap();
    let entry = EntryState::Long { rip: CODE, rsp: STACK_PAGE + 0xff8, rdi: 0, cr3: TABLES };
    Vm::new(hypervisor, memory, &entry).unwrap()
}

/// Frames for one scenario. When it is dropped, which must come last, every frame must be back.
pub struct Lent(&'static Arena);

impl Lent {
    pub fn new(frames: usize) -> Self {
        Self(Arena::leak(frames))
    }
}

impl Deref for Lent {
    type Target = &'static Arena;

    fn deref(&self) -> &&'static Arena {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.live(), 0, "frames were lost");
        }
    }
}

thread_local! {
    /// What processors on this thread offer beside SVM: bits of CPUID 8000_000A EDX.
    static FEATURES: Cell<u32> = const { Cell::new(0) };
}

/// Runs a scenario on processors that offer NRIP-save, clean bits, flush-by-ASID and decode assists.
pub fn assisted(scenario: fn()) {
    FEATURES.set(1 << 3 | 1 << 5 | 1 << 6 | 1 << 7);
    scenario();
    FEATURES.set(0);
}

/// A processor.
pub fn model(arena: &'static Arena) -> ModelCpu {
    let mut model = ModelCpu::new(arena);
    model.offer(FEATURES.get());
    model
}

/// Everything that one scenario needs.
pub struct Machine {
    pub vm: Vm,
    cpu: Cpu<ModelCpu>,
    _frames: Lent,
}

impl Machine {
    pub fn new(code: Vec<u8>) -> Self {
        Self::with_kick(&QUIET, code)
    }

    pub fn with_kick(kick: &'static Kick, code: Vec<u8>) -> Self {
        let frames = Lent::new(256);
        let model = model(*frames);
        let hypervisor = hypervisor(*frames, &model);
        let cpu = Cpu::enable(model, 0, kick, &hypervisor).unwrap();
        let vm = vm(&hypervisor, &code, &[]);
        Self { vm, cpu, _frames: frames }
    }

    /// A machine whose guest follows a script, and the handle to it. RIP is at code that nobody executes but hv reads.
    pub fn scripted(code: Vec<u8>) -> (Self, Script) {
        let frames = Lent::new(256);
        let mut model = model(*frames);
        let hypervisor = hypervisor(*frames, &model);
        let script = Script::default();
        model.follow(&script);
        let cpu = Cpu::enable(model, 0, &QUIET, &hypervisor).unwrap();
        let vm = vm(&hypervisor, &code, &[]);
        (Self { vm, cpu, _frames: frames }, script)
    }

    pub fn run(&mut self) -> Stop {
        self.vm.run(&mut self.cpu)
    }

    /// Carries out steps in one run, and gives what came of them.
    pub fn play(&mut self, script: &Script, steps: &[Step]) -> Vec<Outcome> {
        steps.iter().for_each(|step| script.push(*step));
        assert_eq!(self.run(), Stop::Interrupted);
        script.outcomes()
    }

    pub fn cpu(&self) -> &Cpu<ModelCpu> {
        &self.cpu
    }
}

/// An interrupt is taken.
pub fn interrupt(vector: u8) -> Outcome {
    Outcome::Event(Event::Interrupt(vector), 0)
}
