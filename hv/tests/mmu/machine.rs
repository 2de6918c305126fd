//! A guest on the model CPU, of which every access is compared with what the manual permits.

mod judge;
mod ram;

use crate::{
    layout::{self, ADDRESSES, DATA, FRAMES, MEMORY, SLOT, WORDS},
    oracle::{Access, Fault, Kind, LMA, LME, Mode, NXE, P, PAE, PE, PG, PGE, PSE, Physical, Registers, SMAP, SMEP, WP, Who},
    possible::Possible,
};
use hv::{
    Cpu, EntryState, Error, Hypervisor, Kick, Platform, Stop, Vm,
    addr::{Gfn, Gpa, Gva},
    exit::Outside,
    hw::model::{self, Instruction, ModelCpu, Outcome, Privilege, Script, Step},
    mem::{GuestMemory, HostRights, arena::Arena},
    svm::{Event, Segment},
    x86::{Exception, Vector, msr},
};
use judge::Seen;
use ram::Ram;
use std::{cell::Cell, ops::Range, sync::Arc};

const ARENA_FRAMES: usize = 1024;
const CPUS: usize = 2;
/// The bits of a PDPTE that must be zero: 2:1, 8:5, 63:40.
const PDPTE_RESERVED: u64 = 0x1e6 | !0xff_ffff_ffff;
/// CR0 of a unikernel: PG, WP, NE, ET, MP, PE.
const CR0: u64 = PG | WP | 0x32 | PE;
/// CR4 of a unikernel: OSXMMEXCPT, OSFXSR, PAE.
const CR4: u64 = 0x600 | PAE;
static QUIET: Kick = Kick::new();

/// How a machine is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bits of CPUID 8000_000A EDX.
    pub features: u32,
    /// Whether the processor takes translations into its TLB before they are used.
    pub speculates: bool,
    /// The words 1, 2, 4 and 6 of each frame of tables.
    pub words: Vec<u64>,
}

/// What was done, in all machines of a thread together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub machines: u64,
    pub steps: u64,
    pub accesses: u64,
    pub faults: u64,
    pub stale: u64,
    pub outside: u64,
    pub denied: u64,
    pub switches: u64,
    pub slots: u64,
}

fn count(one: fn(&mut Tally) -> &mut u64) {
    let mut tally = TALLY.get();
    *one(&mut tally) += 1;
    TALLY.set(tally);
}

/// A bit that the guest can switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Toggle {
    WriteProtect,
    LargePages,
    GlobalPages,
    Smep,
    Smap,
    NoExecute,
}

pub struct Machine {
    arena: &'static Arena,
    cpus: Vec<Cpu<ModelCpu>>,
    scripts: Vec<Script>,
    current: usize,
    hypervisor: Arc<Hypervisor>,
    vm: Vm,
    other: Vm,
    initial: Ram,
    ram: Ram,
    registers: Registers,
    possible: Possible,
    /// The pages of code that the window shows, by 64-bit and by 32-bit entries.
    code_pages: [usize; 2],
    steps: u64,
}

thread_local! {
    /// What was done on this thread.
    pub static TALLY: Cell<Tally> = const { Cell::new(Tally { machines: 0, steps: 0, accesses: 0, faults: 0, stale: 0, outside: 0, denied: 0, switches: 0, slots: 0 }) };
    static ARENA: Cell<Option<&'static Arena>> = const { Cell::new(None) };
}

/// An arena with every frame free: that of the last machine on this thread, unless it lost frames.
fn arena() -> &'static Arena {
    let arena = ARENA.get().filter(|arena| arena.live() == 0).unwrap_or_else(|| Arena::leak(ARENA_FRAMES));
    ARENA.set(Some(arena));
    arena
}

impl Machine {
    pub fn new(config: &Config) -> Self {
        let arena = arena();
        let hypervisor = Hypervisor::new(arena.frames(), &ModelCpu::new(arena), Platform { tsc_hertz: 1_000_000_000 }).unwrap();
        let scripts: Vec<_> = (0..CPUS).map(|_| Script::default()).collect();
        let cpus = scripts.iter().enumerate().map(|(number, script)| {
            let mut model = ModelCpu::new(arena);
            model.offer(config.features);
            model.follow(script);
            if config.speculates {
                let modes = [Mode::TwoLevel, Mode::Pae, Mode::Long];
                let all = modes.into_iter().flat_map(|mode| (0..ADDRESSES).map(move |number| Gva(layout::address(mode, number))));
                model.watched = all.collect();
            }
            Cpu::enable(model, number as u16, &QUIET, &hypervisor).unwrap()
        });
        let cpus: Vec<_> = cpus.collect();
        let ram = initial(config);
        let base = image(arena, &ram).freeze();
        let vm = || {
            let mut memory = GuestMemory::over(&base).unwrap();
            ram.restricted().for_each(|(frame, rights)| memory.restrict(one(frame), rights).unwrap());
            let entry = EntryState::Long { rip: layout::code(Mode::Long), rsp: 0, rdi: 0, cr3: layout::frame(0) };
            let mut vm = Vm::new(&hypervisor, memory, &entry).unwrap();
            // Scripted accesses have no instructions that could be emulated.
            vm.set_outside(Outside::Stops);
            vm
        };
        let (vm, other) = (vm(), vm());
        let registers = Registers { cr0: CR0, cr3: layout::frame(0), cr4: CR4, efer: LME | LMA | NXE, pdptes: [0; 4] };
        let mut machine = Self {
            arena,
            cpus,
            scripts,
            current: 0,
            hypervisor,
            vm,
            other,
            initial: ram.clone(),
            ram,
            registers,
            possible: Possible::default(),
            code_pages: [0; 2],
            steps: 0,
        };
        machine.observe();
        count(|tally| &mut tally.machines);
        machine
    }

    pub fn mode(&self) -> Mode {
        self.registers.mode()
    }

    /// Ends a step.
    pub fn observe(&mut self) {
        self.steps += 1;
        count(|tally| &mut tally.steps);
        self.take_in();
        if self.steps.is_multiple_of(32) {
            self.compare_memory();
        }
    }

    /// Takes in what the tables say now.
    fn take_in(&mut self) {
        if self.mode() != Mode::Unpaged {
            for number in 0..ADDRESSES {
                let address = layout::address(self.mode(), number);
                self.possible.observe(&self.registers, &self.ram, address);
                self.possible.observe(&self.registers, &self.ram, address + 0x1000);
            }
        }
    }

    /// Drops everything, and checks that every frame came back.
    pub fn finish(self) {
        self.compare_memory();
        for (at, value) in self.initial.words() {
            assert_eq!(self.other.memory().load(Gpa(at)), Some(value), "another VM's memory changed at {at:#x}");
        }
        let Self { arena, cpus, vm, other, hypervisor, .. } = self;
        drop((cpus, vm, other, hypervisor));
        assert_eq!(arena.live(), 0, "frames were lost");
    }

    fn compare_memory(&self) {
        assert_eq!(self.vm.memory().contains(Gpa(SLOT.start).gfn()), self.ram.has_slot());
        for (at, value) in self.ram.words() {
            let is = self.vm.memory().load(Gpa(at)).expect("it is inside");
            assert_eq!(is, value, "memory at {at:#x}: {is:#x} instead of {value:#x}");
        }
    }

    /// Makes an access, and judges it.
    pub fn access(&mut self, address: u64, access: Access, bytes: u8, value: u64) {
        count(|tally| &mut tally.accesses);
        let privilege = match access.who {
            Who::User => Privilege::User,
            Who::Supervisor => Privilege::Supervisor,
            Who::SupervisorWithAc => Privilege::SupervisorWithAc,
            Who::System => Privilege::System,
        };
        let kind = match access.kind {
            Kind::Read => model::Kind::Read,
            Kind::Write => model::Kind::Write,
            Kind::Fetch => model::Kind::Fetch,
        };
        let step = Step::Access { address: Gva(address), access: model::Access { kind, privilege }, bytes, value };
        let seen = self.perform(step);
        self.judge(address, access, bytes.into(), value, seen);
    }

    fn perform(&mut self, step: Step) -> Seen {
        let script = &self.scripts[self.current];
        script.push(step);
        let stop = self.vm.run(&mut self.cpus[self.current]);
        let seen = match stop {
            Stop::Interrupted => None,
            Stop::OutsideMemory { gpa, .. } => Some(Seen::Outside(gpa.0)),
            Stop::Denied { gpa, .. } => Some(Seen::Denied(gpa.0)),
            other => panic!("{step:x?} ended in: {other}"),
        };
        if let Some(seen) = seen {
            script.skip();
            script.outcomes();
            return seen;
        }
        match script.outcomes()[..] {
            [Outcome::Accessed(hpa, value)] => Seen::Accessed(hpa, value),
            [Outcome::Event(Event::Exception(Exception { vector: Vector::PF, code: Some(code) }), cr2)] => {
                Seen::Fault(Fault { code, cr2 })
            }
            ref other => panic!("{step:x?} came to {other:x?}"),
        }
    }
}

/// The memory that a machine starts with.
fn initial(config: &Config) -> Ram {
    let mut ram = Ram::new();
    for frame in DATA..FRAMES {
        (0..512).for_each(|word| ram.set_word(layout::frame(frame) + word * 8, 0xda7a << 48 | (frame as u64) << 32 | word));
    }
    for (at, value) in config.words.iter().enumerate() {
        ram.set_word(layout::frame(at / WORDS.len()) + 8 * WORDS[at % WORDS.len()] as u64, *value);
    }
    for (at, value) in layout::fixed_words() {
        ram.set_word(at, value);
    }
    for (number, instruction) in INSTRUCTIONS.iter().enumerate() {
        for (page, prefixes) in PREFIXES.iter().enumerate() {
            let prefixes = if is_prefixed(*instruction) { *prefixes } else { 0 };
            let bytes = [[0x2e].repeat(prefixes.into()), instruction.bytes()].concat();
            let at = layout::code_in_memory(page, number);
            bytes.iter().enumerate().for_each(|(offset, byte)| ram.set(at + offset as u64, 1, (*byte).into()));
        }
    }
    ram
}

fn image(arena: &'static Arena, ram: &Ram) -> GuestMemory {
    let mut memory = GuestMemory::new(arena.frames(), MEMORY).unwrap();
    for (at, value) in ram.words() {
        memory.write(Gpa(at), &value.to_le_bytes()).unwrap();
    }
    memory
}

/// The instructions that the page of code holds.
const INSTRUCTIONS: [Instruction; 6] = [
    Instruction::WriteControl(0),
    Instruction::WriteControl(3),
    Instruction::WriteControl(4),
    Instruction::WriteMsr(msr::EFER),
    Instruction::Invlpg,
    Instruction::Cpuid,
];

/// How many prefixes the instructions of the two pages have.
const PREFIXES: [u8; 2] = [0, 1];

/// What is executed while it is not sure yet which page is there has no prefix in either.
fn is_prefixed(instruction: Instruction) -> bool {
    instruction == Instruction::Cpuid
}

impl Machine {
    /// Executes an instruction of the page of code; tells whether it was carried out, or raised #GP(0).
    fn execute(&mut self, instruction: Instruction, operand: u64) -> bool {
        let number = INSTRUCTIONS.iter().position(|known| *known == instruction).expect("it is in the page of code");
        let rip = layout::code_slot(self.mode(), number);
        let prefixes = if is_prefixed(instruction) { PREFIXES[self.code_page()] } else { 0 };
        match self.step(Step::Execute { instruction, rip, operand, prefixes }) {
            Outcome::Done => true,
            Outcome::Event(Event::Exception(Exception::GP0), _) => false,
            other => panic!("{instruction:x?} with {operand:#x} came to {other:x?}"),
        }
    }

    fn step(&mut self, step: Step) -> Outcome {
        let script = &self.scripts[self.current];
        script.push(step);
        let stop = self.vm.run(&mut self.cpus[self.current]);
        assert_eq!(stop, Stop::Interrupted, "{step:x?}");
        script.outcomes().pop().expect("one outcome")
    }

    /// The page of code that the window shows in this mode.
    fn code_page(&self) -> usize {
        match self.mode() {
            Mode::Unpaged => 0,
            Mode::TwoLevel => self.code_pages[1],
            Mode::Pae | Mode::Long => self.code_pages[0],
        }
    }

    /// Lets the window show the other page of code.
    pub fn move_code(&mut self) {
        let mode = self.mode();
        if mode == Mode::Unpaged || (mode == Mode::Pae && !self.pdptes_at(self.registers.cr3).into_iter().all(is_legal)) {
            return self.observe();
        }
        let page = 1 - self.code_page();
        self.code_pages[usize::from(mode == Mode::TwoLevel)] = page;
        let (entry, bytes, value) = layout::code_entry(mode, page);
        self.access(entry, Access { kind: Kind::Write, who: Who::Supervisor }, bytes, value);
        self.load_cr3(self.registers.cr3);
    }

    /// CPUID.
    pub fn cpuid(&mut self) {
        assert!(self.execute(Instruction::Cpuid, 0));
        self.observe();
    }

    /// The kernel writes a word of a frame.
    pub fn kernel_write(&mut self, frame: usize, word: usize, value: u64) {
        let at = layout::window(self.mode(), frame) + 8 * word as u64;
        self.access(at, Access { kind: Kind::Write, who: Who::Supervisor }, 8, value);
        self.observe();
    }

    /// The kernel writes an entry that the walk for an address looks at.
    pub fn edit_entry(&mut self, address: u64, depth: usize, value: u64) {
        let path = self.registers.path(&self.ram, address);
        if let Some(&at) = path.get(depth % path.len().max(1))
            && let Some(number) = layout::number_of(at & !0xfff)
        {
            let at = layout::window(self.mode(), number) + at % 0x1000;
            let bytes = self.registers.entry_bytes();
            self.access(
                at,
                Access { kind: Kind::Write, who: Who::Supervisor },
                bytes as u8,
                value & u64::MAX >> (64 - 8 * bytes),
            );
        }
        self.observe();
    }

    /// The embedder writes to the page that an address leads to.
    pub fn host_write_to(&mut self, address: u64, value: u64) {
        let read = Access { kind: Kind::Read, who: Who::System };
        let walk = self.registers.walk(&self.ram, address, read);
        let page = walk.end.ok().map(|page| page.gpa);
        match page.filter(|gpa| layout::number_of(gpa & !0xfff).is_some()) {
            Some(gpa) => self.host_write(gpa & !7, value),
            None => self.observe(),
        }
    }

    /// INVLPG.
    pub fn invlpg(&mut self, address: u64) {
        assert!(self.execute(Instruction::Invlpg, address));
        self.possible.invlpg(&self.registers, address);
        self.observe();
    }

    /// MOV CR3; with PAE paging, PDPTEs with reserved bits make it #GP.
    pub fn load_cr3(&mut self, cr3: u64) {
        let loaded = Registers { cr3, pdptes: self.pdptes_at(cr3), ..self.registers };
        let legal = self.mode() != Mode::Pae || loaded.pdptes.into_iter().all(is_legal);
        assert_eq!(self.execute(Instruction::WriteControl(3), cr3), legal, "MOV CR3 to {:x?}", loaded.pdptes);
        if legal {
            self.registers = if self.mode() == Mode::Pae { loaded } else { Registers { cr3, ..self.registers } };
            self.possible.load_cr3();
        }
        self.observe();
    }

    /// MOV CR3 with what is there.
    pub fn reload_cr3(&mut self) {
        self.load_cr3(self.registers.cr3);
    }

    fn pdptes_at(&self, cr3: u64) -> [u64; 4] {
        core::array::from_fn(|index| self.ram.load((cr3 & 0xffff_ffe0) + index as u64 * 8, 8).unwrap_or(u64::MAX))
    }

    /// Switches a bit of CR0, CR4 or EFER over.
    pub fn toggle(&mut self, toggle: Toggle) {
        let Registers { cr0, cr3, cr4, efer, .. } = self.registers;
        // Which changes of CR4 load PDPTEs again differs between processors: so none here when they could not be loaded, and below a load of CR3 makes
        // all processors the same.
        if self.mode() == Mode::Pae && !self.pdptes_at(cr3).into_iter().all(is_legal) {
            return self.observe();
        }
        match toggle {
            Toggle::WriteProtect => self.write_cr0(cr0 ^ WP),
            Toggle::LargePages => self.write_cr4(cr4 ^ PSE),
            Toggle::GlobalPages => self.write_cr4(cr4 ^ PGE),
            Toggle::Smep => self.write_cr4(cr4 ^ SMEP),
            Toggle::Smap => self.write_cr4(cr4 ^ SMAP),
            Toggle::NoExecute => self.write_efer(efer ^ NXE),
        }
        if self.mode() == Mode::Pae {
            self.load_cr3(cr3);
        }
        self.observe();
    }

    fn write_cr0(&mut self, value: u64) {
        assert!(self.execute(Instruction::WriteControl(0), value), "MOV CR0, {value:#x}");
        let was_paged = self.registers.cr0 & PG;
        self.registers.cr0 = value;
        if value & PG != was_paged {
            let long = if value & PG != 0 && self.registers.efer & LME != 0 { LMA } else { 0 };
            self.registers.efer = self.registers.efer & !LMA | long;
            if self.mode() == Mode::Pae {
                self.registers.pdptes = self.pdptes_at(self.registers.cr3);
            }
            self.possible.flush_all();
        }
    }

    fn write_cr4(&mut self, value: u64) {
        assert!(self.execute(Instruction::WriteControl(4), value), "MOV CR4, {value:#x}");
        if (self.registers.cr4 ^ value) & (PAE | PSE | PGE) != 0 {
            self.possible.flush_all();
        }
        self.registers.cr4 = value;
    }

    fn write_efer(&mut self, value: u64) {
        assert!(self.execute(Instruction::WriteMsr(msr::EFER), value), "WRMSR EFER, {value:#x}");
        self.registers.efer = value;
    }

    fn load_code(&mut self, attributes: u16) {
        let cs = Segment { selector: 8, attributes, limit: u32::MAX, base: 0 };
        assert_eq!(self.step(Step::LoadCode(cs)), Outcome::Done);
    }

    /// Goes to another paging mode by way of none, as the manual prescribes (APM vol. 2, 14.6 and 14.8).
    pub fn switch(&mut self, mode: Mode, cr3: u64) {
        const CODE_32: u16 = 0xc9b;
        const CODE_64: u16 = 0xa9b;
        count(|tally| &mut tally.switches);
        if self.mode() == Mode::Long {
            self.load_code(CODE_32);
        }
        if self.mode() != Mode::Unpaged {
            self.write_cr0(self.registers.cr0 & !PG);
        }
        if mode != Mode::Unpaged {
            let long = mode == Mode::Long;
            let pae = matches!(mode, Mode::Long | Mode::Pae);
            self.write_efer(self.registers.efer & !LME | if long { LME } else { 0 });
            self.write_cr4(self.registers.cr4 & !PAE | if pae { PAE } else { 0 });
            self.load_cr3(cr3);
            if mode == Mode::Pae && !self.pdptes_at(cr3).into_iter().all(is_legal) {
                assert!(!self.execute(Instruction::WriteControl(0), self.registers.cr0 | PG), "PDPTEs with reserved bits");
                return self.observe();
            }
            self.write_cr0(self.registers.cr0 | PG);
            if long {
                self.load_code(CODE_64);
            }
        }
        assert_eq!(self.mode(), mode);
        self.observe();
    }

    /// Writes to guest memory as the embedder does.
    pub fn host_write(&mut self, at: u64, value: u64) {
        let written = self.vm.write_physical(Gpa(at), &value.to_le_bytes());
        if self.ram.is_inside(at) {
            assert_eq!(written, Ok(()));
            self.ram.set(at, 8, value);
        } else {
            assert_eq!(written, Err(Error::OutsideMemory(Gpa(at & !0xfff))));
        }
        self.observe();
    }

    /// The embedder changes what the guest may do with a frame.
    pub fn restrict(&mut self, frame: usize, rights: HostRights) {
        let frame = layout::frame(frame);
        let restricted = self.vm.restrict(one(frame), rights);
        if self.ram.is_inside(frame) {
            assert_eq!(restricted, Ok(()));
            self.ram.restrict(frame, rights);
        } else {
            assert_eq!(restricted, Err(Error::OutsideMemory(Gpa(frame))));
        }
        self.observe();
    }

    /// The embedder takes the slot out of memory, or puts it in again.
    pub fn toggle_slot(&mut self) {
        let slot = Gpa(SLOT.start)..Gpa(SLOT.end);
        let not_so = Err(Error::MemoryRange(slot.start));
        if self.ram.has_slot() {
            assert_eq!(self.vm.map(slot.clone()), not_so, "it is memory");
            assert_eq!(self.vm.unmap(slot), Ok(()));
        } else {
            assert_eq!(self.vm.unmap(slot.clone()), not_so, "it is no memory");
            assert_eq!(self.vm.map(slot), Ok(()));
        }
        self.ram.toggle_slot();
        count(|tally| &mut tally.slots);
        self.observe();
    }

    /// Goes on on the other CPU.
    pub fn change_cpu(&mut self) {
        self.cpus[self.current].release();
        self.current = (self.current + 1) % CPUS;
        // Another CPU's TLB knows nothing of this one's; nothing that was possible becomes impossible, though, as it may come back.
        self.observe();
    }

    /// Runs the other VM for a moment, which takes an ASID.
    pub fn run_other(&mut self) {
        assert_eq!(self.other.run(&mut self.cpus[self.current]), Stop::Interrupted);
        self.observe();
    }
}

fn one(frame: u64) -> Range<Gfn> {
    Gfn(frame >> 12)..Gfn((frame >> 12) + 1)
}

fn is_legal(pdpte: u64) -> bool {
    pdpte & P == 0 || pdpte & PDPTE_RESERVED == 0
}
