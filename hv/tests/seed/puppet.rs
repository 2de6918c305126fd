//! A processor that does what a test says: at each VMRUN it shows the VMCB to the test, and exits as that decides.
//!
//! It stands behind the seam as the real one and the model do, whose CPUID and MSRs it has; it executes nothing.
#![expect(unsafe_code, reason = "implements Hw")]

use hv::{
    addr::{Gva, Hpa},
    hw::{Hw, Registers, model::ModelCpu},
    mem::{FrameRef, arena::Arena},
    svm::{ExitCode, Vmcb},
    x86::CpuidRegisters,
};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};

/// What happens between a VMRUN and the next exit.
pub type Act = Box<dyn FnOnce(&mut Vmcb, &mut Registers)>;

/// What the test holds a puppet by.
#[derive(Clone, Default)]
pub struct Strings(Rc<RefCell<Held>>);

#[derive(Default)]
struct Held {
    acts: VecDeque<Act>,
    entries: Vec<Vmcb>,
    /// FPU images that were loaded: control word, MXCSR.
    fpu_loads: Vec<(u64, u64)>,
    fpu_saves: usize,
    breakpoints: Vec<[u64; 4]>,
    flushed: Vec<(Gva, u32)>,
    host_saves: usize,
}

impl Strings {
    /// Adds what happens behind one more VMRUN. When nothing is left, a physical interrupt comes.
    pub fn push(&self, act: impl FnOnce(&mut Vmcb, &mut Registers) + 'static) {
        self.0.borrow_mut().acts.push_back(Box::new(act));
    }

    /// The VMCB that the last VMRUN found.
    pub fn last_entry(&self) -> Option<Vmcb> {
        self.0.borrow().entries.last().cloned()
    }

    /// Takes the VMCBs that VMRUN found.
    pub fn entries(&self) -> Vec<Vmcb> {
        std::mem::take(&mut self.0.borrow_mut().entries)
    }

    /// Takes the FPU images that were loaded: control word, MXCSR.
    pub fn fpu_loads(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.0.borrow_mut().fpu_loads)
    }

    /// How often the FPU was saved.
    pub fn fpu_saves(&self) -> usize {
        self.0.borrow().fpu_saves
    }

    /// Takes the breakpoints that were loaded.
    pub fn breakpoints(&self) -> Vec<[u64; 4]> {
        std::mem::take(&mut self.0.borrow_mut().breakpoints)
    }

    /// Takes the addresses that were flushed, and under which ASIDs.
    pub fn flushed(&self) -> Vec<(Gva, u32)> {
        std::mem::take(&mut self.0.borrow_mut().flushed)
    }

    /// How often the host's registers were saved.
    pub fn host_saves(&self) -> usize {
        self.0.borrow().host_saves
    }
}

/// The processor.
pub struct Puppet {
    pub model: ModelCpu,
    strings: Strings,
    /// The time stamp counter: 7 more at each reading of a CPU that stands still would hide what offsets do, so it moves by hand.
    pub tsc: u64,
}

impl Puppet {
    pub fn new(arena: &'static Arena, features: u32) -> (Self, Strings) {
        let mut model = ModelCpu::new(arena);
        model.offer(features);
        let strings = Strings::default();
        (Self { model, strings: strings.clone(), tsc: 1000 }, strings)
    }
}

impl Hw for Puppet {
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        self.model.cpuid(leaf, sub_leaf)
    }

    fn read_msr(&self, msr: u32) -> u64 {
        self.model.read_msr(msr)
    }

    unsafe fn write_msr(&mut self, msr: u32, value: u64) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.model.write_msr(msr, value) }
    }

    fn tsc(&self) -> u64 {
        self.tsc
    }

    unsafe fn save_host(&mut self, area: Hpa) {
        self.strings.0.borrow_mut().host_saves += 1;
        // SAFETY: the caller's promise is the same.
        unsafe { self.model.save_host(area) }
    }

    unsafe fn run(&mut self, vmcb: &mut Vmcb, _vmcb_at: Hpa, registers: &mut Registers, _host_area: Hpa) {
        self.strings.0.borrow_mut().entries.push(vmcb.clone());
        vmcb.control.exit_int_info = 0;
        vmcb.control.event_injection = 0;
        let act = self.strings.0.borrow_mut().acts.pop_front();
        match act {
            Some(act) => act(vmcb, registers),
            None => vmcb.control.exit_code = ExitCode::INTR.into(),
        }
    }

    fn flush_address(&mut self, address: Gva, asid: u32) {
        self.strings.0.borrow_mut().flushed.push((address, asid));
    }

    fn load_breakpoints(&mut self, addresses: &[u64; 4]) {
        self.strings.0.borrow_mut().breakpoints.push(*addresses);
    }

    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, load: FrameRef<'_>) {
        let mut held = self.strings.0.borrow_mut();
        held.fpu_saves += usize::from(save.is_some());
        held.fpu_loads.push((load.load(0), load.load(3)));
    }
}
