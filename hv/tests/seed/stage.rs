//! A VM on a puppet, its memory mapped one to one.

use crate::puppet::{Puppet, Strings};
use hv::{
    Cpu, EntryState, Hypervisor, Kick, Platform, Stop, Vm,
    addr::Gpa,
    hw::{Registers, model::ModelCpu},
    mem::{GuestMemory, arena::Arena},
    svm::{Event, ExitCode, Features, Vmcb},
    x86::Exception,
};
use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    sync::Arc,
};

/// Never raised.
pub static QUIET: Kick = Kick::new();
/// Where code lies.
pub const CODE: u64 = 0x1_0000;
/// Where a stack ends.
pub const STACK: u64 = 0x2_0000;
/// The top page table of guests in long mode; two more follow.
pub const TABLES: u64 = 0x1000;
/// Memory of the guest.
pub const MEMORY: u64 = 2 << 20;
/// Frames for a stage.
const FRAMES: usize = 256;
const LINK: u64 = 0x23;
const LARGE_PAGE: u64 = 0xe3;

/// 64-bit mode, paging on.
pub const LONG: EntryState = EntryState::Long { rip: CODE, rsp: STACK, rdi: 7, cr3: TABLES };
/// 32-bit protected mode, paging off.
pub const FLAT: EntryState = EntryState::Flat32 { eip: CODE as u32, ebx: 1, eax: 2, esi: 3 };
/// Real mode.
pub const REAL: EntryState = EntryState::Real { cs: (CODE >> 4) as u16, ip: 0 };

thread_local! {
    /// What the processors offer that tests of this thread make.
    static OFFERED: Cell<u32> = const { Cell::new(0) };
    /// Arenas that nobody uses.
    static FREE: RefCell<Vec<&'static Arena>> = const { RefCell::new(Vec::new()) };
}

/// Runs tests with a processor that offers these features.
pub fn with_features(features: Features, tests: impl FnOnce()) {
    OFFERED.set(features.bits());
    tests();
    OFFERED.set(0);
}

/// What processors offer.
pub fn offered() -> Features {
    Features::from_bits_truncate(OFFERED.get())
}

/// A processor that offers what this thread's tests are to have.
pub fn puppet(arena: &'static Arena) -> (Puppet, Strings) {
    Puppet::new(arena, offered().bits())
}

pub fn hypervisor(arena: &'static Arena) -> Arc<Hypervisor> {
    Hypervisor::new(arena.frames(), &ModelCpu::new(arena), Platform { tsc_hertz: 1_000_000_000 }).unwrap()
}

pub fn memory(hypervisor: &Hypervisor) -> GuestMemory {
    let mut memory = GuestMemory::new(hypervisor.frames(), MEMORY).unwrap();
    for (at, word) in [(TABLES, 0x2000 | LINK), (0x2000, 0x3000 | LINK), (0x3000, LARGE_PAGE)] {
        memory.write(Gpa(at), &word.to_le_bytes()).unwrap();
    }
    memory
}

pub fn vm(hypervisor: &Arc<Hypervisor>, entry: &EntryState) -> Vm {
    Vm::new(hypervisor, memory(hypervisor), entry).unwrap()
}

/// A VM and the processor that it runs on.
pub struct Stage {
    pub vm: Vm,
    pub cpu: Cpu<Puppet>,
    pub strings: Strings,
    pub hypervisor: Arc<Hypervisor>,
    pub arena: Lent,
}

/// Frames for a stage. An arena lives as long as the process, so it is used again.
pub struct Lent(&'static Arena);

impl Lent {
    fn new() -> Self {
        Self(FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Arena::leak(FRAMES)))
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
        // Where a planted bug loses frames, they are lost.
        if self.0.live() == 0 {
            FREE.with_borrow_mut(|free| free.push(self.0));
        }
    }
}

impl Stage {
    pub fn new(entry: &EntryState) -> Self {
        let arena = Lent::new();
        let hypervisor = hypervisor(&arena);
        let (puppet, strings) = puppet(&arena);
        let cpu = Cpu::enable(puppet, 0, &QUIET, &hypervisor).unwrap();
        let vm = vm(&hypervisor, entry);
        Self { vm, cpu, strings, hypervisor, arena }
    }

    pub fn run(&mut self) -> Stop {
        self.vm.run(&mut self.cpu)
    }

    /// Has the guest leave with this exit code and EXITINFO1, then, if it goes on, with a physical interrupt.
    pub fn exit(&mut self, code: u32, info_1: u64) -> Stop {
        self.strings.push(move |vmcb, _| leave(vmcb, code, info_1, 0));
        self.run()
    }

    /// Has the guest leave with this instruction at RIP; it tells its length and its operand as the processor offers it.
    pub fn execute(&mut self, bytes: &[u8], code: u32) -> Stop {
        self.execute_with(bytes, code, 0, |_, _| ())
    }

    /// The same, with EXITINFO1, and registers as `prepare` sets them.
    pub fn execute_with(
        &mut self,
        bytes: &[u8],
        code: u32,
        info_1: u64,
        prepare: impl FnOnce(&mut Vmcb, &mut Registers) + 'static,
    ) -> Stop {
        self.put(bytes);
        let (length, offered) = (bytes.len() as u64, offered());
        self.strings.push(move |vmcb, registers| {
            prepare(vmcb, registers);
            if offered.contains(Features::NRIP_SAVE) {
                vmcb.control.next_rip = vmcb.save.rip + length;
            }
            leave(vmcb, code, info_1, 0);
        });
        self.run()
    }

    /// Puts bytes where the guest is, below 2 MiB.
    pub fn put(&mut self, bytes: &[u8]) {
        let save = &self.vm.vcpu().vmcb().save;
        let base = if self.vm.vcpu().control().is_long() { 0 } else { save.cs.base };
        let at = base + save.rip;
        self.vm.write_physical(Gpa(at), bytes).unwrap();
    }

    /// The VMCB that the last VMRUN found.
    pub fn entered(&self) -> Vmcb {
        self.strings.last_entry().expect("a VMRUN")
    }

    /// The event that the last VMRUN found.
    pub fn injected(&self) -> Option<Event> {
        Event::decode(self.entered().control.event_injection)
    }

    /// Has the guest execute an instruction, and tells what exception it gets, if it gets one.
    pub fn fault(&mut self, bytes: &[u8], code: u32, info_1: u64, rax: u64) -> Option<Exception> {
        let stop = self.execute_with(bytes, code, info_1, move |vmcb, _| vmcb.save.rax = rax);
        assert_eq!(stop, Stop::Interrupted);
        match self.injected() {
            Some(Event::Exception(exception)) => Some(exception),
            None => None,
            other => panic!("{other:?} is injected"),
        }
    }

    /// MOV to a control register; what exception it gets, if it gets one.
    pub fn move_to_cr(&mut self, number: u8, value: u64) -> Option<Exception> {
        let (bytes, code) = if number == 8 {
            (vec![0x44, 0x0f, 0x22, 0xc0], ExitCode::CR_READ_0 + 0x18)
        } else {
            (vec![0x0f, 0x22, 0xc0 | number << 3], ExitCode::CR_READ_0 + 0x10 + u32::from(number))
        };
        self.fault(&bytes, code, if offered().contains(Features::DECODE_ASSISTS) { 1 << 63 } else { 0 }, value)
    }

    /// WRMSR; what exception it gets, if it gets one.
    pub fn wrmsr(&mut self, index: u32, value: u64) -> Option<Exception> {
        let stop = self.execute_with(&[0x0f, 0x30], ExitCode::MSR, 1, move |vmcb, registers| {
            vmcb.save.rax = value & 0xffff_ffff;
            (registers.0[hv::hw::RCX], registers.0[hv::hw::RDX]) = (index.into(), value >> 32);
        });
        assert_eq!(stop, Stop::Interrupted);
        self.injected().map(|event| if let Event::Exception(exception) = event { exception } else { panic!("{event:?}") })
    }

    /// RDMSR: the value, or what exception it gets.
    pub fn rdmsr(&mut self, index: u32) -> Result<u64, Exception> {
        let stop = self.execute_with(&[0x0f, 0x32], ExitCode::MSR, 0, move |_, registers| {
            registers.0[hv::hw::RCX] = index.into();
        });
        assert_eq!(stop, Stop::Interrupted);
        match self.injected() {
            Some(Event::Exception(exception)) => Err(exception),
            _ => Ok(self.vm.vcpu().registers().0[hv::hw::RDX] << 32 | self.vm.vcpu().rax()),
        }
    }

    /// Gives everything back and demands that nothing is lost.
    pub fn close(self) {
        let Self { vm, cpu, strings, hypervisor, arena } = self;
        drop((vm, cpu, strings, hypervisor));
        assert_eq!(arena.live(), 0, "frames were lost");
    }
}

/// Leaves the guest.
pub fn leave(vmcb: &mut Vmcb, code: u32, info_1: u64, info_2: u64) {
    vmcb.control.exit_code = code.into();
    (vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (info_1, info_2);
}
