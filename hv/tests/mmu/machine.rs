//! A guest on the model CPU, of which every access is compared with what the manual permits.

use crate::{
    layout::{self, ADDRESSES, DATA, FRAMES, MEMORY, NO_FETCH, READ_ONLY, WORDS},
    oracle::{
        Access, Fault, Kind, LMA, LME, Mode, NXE, P, PAE, PE, PG, PGE, PSE, Page, Physical, Registers, SMAP, SMEP, WP, Who,
    },
    possible::{Permitted, Possible},
};
use hv::{
    Cpu, EntryState, Hypervisor, Kick, Platform, Stop, Vm,
    addr::{Gfn, Gpa, Gva, Hpa},
    exit::Outside,
    hw::model::{self, Instruction, ModelCpu, Outcome, Privilege, Script, Step},
    mem::{GuestMemory, HostRights, arena::Arena},
    svm::{Event, Segment},
    x86::{Exception, Vector, msr},
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const ARENA_FRAMES: usize = 1024;
const CPUS: usize = 2;
/// The bits of a PDPTE that must be zero: 2:1, 8:5, 63:40.
const PDPTE_RESERVED: u64 = 0x1e6 | !0xff_ffff_ffff;
/// CR0 of a unikernel: PG, WP, NE, ET, MP, PE.
const CR0: u64 = PG | WP | 0x32 | PE;
/// CR4 of a unikernel: OSXMMEXCPT, OSFXSR, PAE.
const CR4: u64 = 0x600 | PAE;
static QUIET: Kick = Kick::new();

/// Guest memory as the test knows it, by frame.
#[derive(Clone)]
pub struct Ram(Vec<Option<Box<[u64; 512]>>>);

impl Ram {
    fn new() -> Self {
        Self(vec![None; (MEMORY >> 12) as usize])
    }

    fn word(&self, at: u64) -> u64 {
        self.0[(at >> 12) as usize].as_ref().map_or(0, |page| page[(at >> 3 & 511) as usize])
    }

    fn set_word(&mut self, at: u64, value: u64) {
        self.0[(at >> 12) as usize].get_or_insert_with(|| Box::new([0; 512]))[(at >> 3 & 511) as usize] = value;
    }

    fn set(&mut self, at: u64, bytes: u64, value: u64) {
        for offset in 0..bytes {
            let (at, byte) = (at + offset, value >> (8 * offset) & 0xff);
            let shift = 8 * (at & 7);
            self.set_word(at & !7, self.word(at & !7) & !(0xff << shift) | byte << shift);
        }
    }
}

impl Physical for Ram {
    fn load(&self, at: u64, bytes: u64) -> Option<u64> {
        if at >= MEMORY || MEMORY - at < bytes {
            return None;
        }
        // Entries are aligned.
        assert!(at.is_multiple_of(bytes));
        Some(self.word(at & !7) >> (8 * (at & 7)) & u64::MAX >> (64 - 8 * bytes))
    }

    fn takes_writes(&self, at: u64) -> bool {
        at < MEMORY && at >> 12 != layout::frame(READ_ONLY) >> 12
    }
}

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
    pub switches: u64,
}

fn count(one: fn(&mut Tally) -> &mut u64) {
    let mut tally = TALLY.get();
    *one(&mut tally) += 1;
    TALLY.set(tally);
}

/// What the test saw of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Accessed(Hpa, u64),
    Fault(Fault),
    Outside(u64),
    Denied(u64),
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
    pub static TALLY: Cell<Tally> = const { Cell::new(Tally { machines: 0, steps: 0, accesses: 0, faults: 0, stale: 0, outside: 0, switches: 0 }) };
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
            let one = |frame: usize| Gfn(layout::frame(frame) >> 12)..Gfn((layout::frame(frame) >> 12) + 1);
            memory.restrict(one(READ_ONLY), HostRights::EXECUTE).unwrap();
            memory.restrict(one(NO_FETCH), HostRights::WRITE).unwrap();
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
        for (at, value) in words(&self.initial) {
            assert_eq!(self.other.memory().load(Gpa(at)), Some(value), "another VM's memory changed at {at:#x}");
        }
        let Self { arena, cpus, vm, other, hypervisor, .. } = self;
        drop((cpus, vm, other, hypervisor));
        assert_eq!(arena.live(), 0, "frames were lost");
    }

    fn compare_memory(&self) {
        for (at, value) in words(&self.ram) {
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

    /// Finds what is permitted among what was seen, and goes on from there.
    fn judge(&mut self, address: u64, access: Access, bytes: u64, value: u64, seen: Seen) {
        let ways = self.ways(address, access, bytes);
        let changes: Vec<_> = ways.iter().map(|way| self.changes(way, access, value, seen)).collect();
        let touched: BTreeSet<u64> = changes.iter().flat_map(|words| words.keys().copied()).collect();
        let now = |at: u64| self.vm.memory().load(Gpa(at)).expect("it is inside");
        let fits =
            |words: &Words| touched.iter().all(|&at| now(at) == words.get(&at).copied().unwrap_or_else(|| self.ram.word(at)));
        let found = (0..ways.len()).find(|&way| self.is_seen(&ways[way], &changes[way], access, seen) && fits(&changes[way]));
        let Some(found) = found else {
            let words: Vec<_> = touched.iter().map(|&at| (at, self.ram.word(at), now(at))).collect();
            panic!(
                "{access:?} of {bytes} bytes at {address:#x} with {:x?}\nsaw {seen:x?}\npermitted {ways:x?}\nwords before and after {words:x?}",
                self.registers
            );
        };
        match seen {
            Seen::Fault(_) => count(|tally| &mut tally.faults),
            Seen::Outside(_) | Seen::Denied(_) => count(|tally| &mut tally.outside),
            Seen::Accessed(..) if ways[found].is_stale => count(|tally| &mut tally.stale),
            Seen::Accessed(..) => {}
        }
        // The entries were used before the data was written, which may have been one of them.
        for (used, new) in &ways[found].updates {
            let old = self.ram.load(used.at, used.bytes).unwrap_or(0);
            self.ram.set(used.at, used.bytes, old | new);
        }
        if access.kind == Kind::Write {
            self.take_in();
        }
        for (&at, &value) in &changes[found] {
            self.ram.set_word(at, value);
        }
    }

    /// The words that a way writes to: entries of tables, then the data.
    fn changes(&self, way: &Way, access: Access, value: u64, seen: Seen) -> Words {
        let mut words = Words::new();
        let mut put = |at: u64, byte: u64, merge: fn(u64, u64) -> u64| {
            let shift = 8 * (at & 7);
            let word = words.entry(at & !7).or_insert_with(|| self.ram.word(at & !7));
            *word = *word & !(0xff << shift) | merge(*word >> shift & 0xff, byte) << shift;
        };
        for (used, new) in &way.updates {
            (0..used.bytes).for_each(|offset| put(used.at + offset, new >> (8 * offset) & 0xff, |old, new| old | new));
        }
        if access.kind == Kind::Write && matches!(seen, Seen::Accessed(..)) {
            let places = way.parts.iter().flat_map(|&(at, count)| at..at + count).filter(|at| *at < MEMORY);
            for (offset, at) in places.enumerate() {
                put(at, value >> (8 * offset) & 0xff, |_, new| new);
            }
        }
        words
    }

    /// All that an access may come to, over its one or two pages.
    fn ways(&self, address: u64, access: Access, bytes: u64) -> Vec<Way> {
        let first = bytes.min(0x1000 - address % 0x1000);
        let mut ways = Vec::new();
        for (number, one) in self.permitted(address, access).into_iter().enumerate() {
            let before = ways.len();
            let Ok(page) = one.end else {
                ways.push(Way::of(&one, None, Vec::new()));
                if first < bytes {
                    // An access that was begun with a translation of before, and begins again without it, may have used the second page.
                    ways.extend(self.permitted(address + first, access).iter().map(|two| Way::of(&one, Some(two), Vec::new())));
                }
                continue;
            };
            let others = if first == bytes || page.gpa >= MEMORY || self.denies(page.gpa, access.kind) {
                ways.push(Way::of(&one, None, vec![(page.gpa, first)]));
                Vec::new()
            } else {
                if self.is_inexpressible(access) {
                    ways.push(Way::of(&one, None, vec![(page.gpa, first)]));
                }
                self.permitted(address + first, access)
            };
            for two in others {
                match two.end {
                    Ok(second) => ways.push(Way::of(&one, Some(&two), vec![(page.gpa, first), (second.gpa, bytes - first)])),
                    Err(_) => {
                        // Whether the first page is dirty by now is the processor's choice.
                        ways.push(Way::of(&one, Some(&two), Vec::new()));
                        let untouched = Permitted { end: one.end, updates: Vec::new() };
                        ways.push(Way::of(&untouched, Some(&two), Vec::new()));
                    }
                }
            }
            ways[before..].iter_mut().for_each(|way| way.is_stale = number > 0);
        }
        ways
    }

    fn permitted(&self, address: u64, access: Access) -> Vec<Permitted> {
        if self.mode() == Mode::Unpaged {
            let walk = self.registers.walk(&self.ram, address, access);
            return vec![Permitted { end: walk.end, updates: Vec::new() }];
        }
        let now = self.registers.walk(&self.ram, address, access);
        let updates = now.updates(&self.registers, &self.ram, access);
        let mut all = vec![Permitted { end: now.end, updates }];
        for other in self.possible.permitted(&self.registers, &self.ram, address, access) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
        all
    }

    /// Tells whether a way could look like what was seen.
    fn is_seen(&self, way: &Way, changes: &Words, access: Access, seen: Seen) -> bool {
        if let Err(fault) = way.end {
            return seen == Seen::Fault(fault);
        }
        let denied = way.parts.iter().find(|(gpa, _)| self.denies(*gpa, access.kind));
        if let Some(&(gpa, _)) = way.parts.iter().find(|(gpa, _)| *gpa >= MEMORY || self.denies(*gpa, access.kind)) {
            return seen == if denied.is_some_and(|(at, _)| *at == gpa) { Seen::Denied(gpa) } else { Seen::Outside(gpa) };
        }
        if let Seen::Outside(gpa) = seen {
            // A write that no shadow entry can allow without allowing more is the embedder's to carry out.
            let smap_without_wp = self.registers.cr0 & WP == 0 && self.registers.cr4 & SMAP != 0;
            return smap_without_wp
                && access.kind == Kind::Write
                && way.is_against_rights
                && way.parts.iter().any(|(at, _)| *at == gpa);
        }
        let Seen::Accessed(hpa, value) = seen else { return false };
        let (first, _) = way.parts[0];
        let frame = self.vm.memory().present(Gpa(first).gfn());
        let is_there = frame.is_some_and(|frame| frame.hpa().0 + first % 0x1000 == hpa.0);
        // What is read may be an entry that the walk itself has marked.
        let word = |at: u64| changes.get(&(at & !7)).copied().unwrap_or_else(|| self.ram.word(at & !7));
        let bytes = way.parts.iter().flat_map(|&(at, count)| at..at + count);
        let expected = bytes.enumerate().fold(0, |sum, (offset, at)| sum | (word(at) >> (8 * (at & 7)) & 0xff) << (8 * offset));
        is_there && (access.kind == Kind::Write || value == expected)
    }

    /// Tells whether a read-only page may be written only so that no shadow entry could say it without saying too much.
    fn is_inexpressible(&self, access: Access) -> bool {
        self.registers.cr0 & WP == 0 && self.registers.cr4 & SMAP != 0 && access.kind == Kind::Write
    }

    fn denies(&self, gpa: u64, kind: Kind) -> bool {
        match kind {
            Kind::Read => false,
            Kind::Write => gpa >> 12 == layout::frame(READ_ONLY) >> 12,
            Kind::Fetch => gpa >> 12 == layout::frame(NO_FETCH) >> 12,
        }
    }
}

type Words = BTreeMap<u64, u64>;

/// One way for an access of one or two pages.
#[derive(Debug)]
struct Way {
    end: Result<(), Fault>,
    /// Physical addresses and byte counts.
    parts: Vec<(u64, u64)>,
    updates: Vec<(crate::oracle::Used, u64)>,
    is_stale: bool,
    /// CR0.WP = 0 is what allows it.
    is_against_rights: bool,
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
    for (at, value) in words(ram) {
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
        self.vm.write_physical(Gpa(at), &value.to_le_bytes()).unwrap();
        self.ram.set(at, 8, value);
        self.observe();
    }

    /// Goes on on the other CPU.
    pub fn change_cpu(&mut self) {
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

fn is_legal(pdpte: u64) -> bool {
    pdpte & P == 0 || pdpte & PDPTE_RESERVED == 0
}

impl Way {
    fn of(one: &Permitted, two: Option<&Permitted>, parts: Vec<(u64, u64)>) -> Self {
        let both = || [Some(one), two].into_iter().flatten();
        Self {
            end: both().find_map(|part| part.end.err()).map_or(Ok(()), Err),
            parts,
            updates: both().flat_map(|part| part.updates.iter().copied()).collect(),
            is_stale: false,
            is_against_rights: both().any(|part| matches!(part.end, Ok(Page { rw: false, .. }))),
        }
    }
}

/// The words of the frames that are there, by address.
fn words(ram: &Ram) -> impl Iterator<Item = (u64, u64)> + '_ {
    let pages = ram.0.iter().enumerate().filter_map(|(page, words)| Some((page as u64, words.as_ref()?)));
    pages.flat_map(|(page, words)| (0..512).map(move |word| (page << 12 | word << 3, words[word as usize])))
}
