//! A model of a processor with SVM, for tests: written from the manual, not from hv.
//!
//! It executes real guest code (a small subset of 64-bit mode, decoded by iced-x86), walks the shadow tables, and is stricter and more
//! forgetful-proof than QEMU: VMRUN applies the manual's checks ([`check`]), and the TLB keeps every translation and every upper-level entry until it is
//! told to flush it ([`tlb`]), and clean bits are taken at their word ([`clean`]). An access to a frame that was given back panics the test.
//!
//! For tests of the MMU a guest can be a [`Script`] of accesses and single instructions instead of code.
//!
//! It does not deliver events through a guest's IDT: with an IDT limit of 0, an event shuts the guest down, as on the processor.
#![expect(unsafe_code, reason = "implements Hw")]

mod check;
mod clean;
mod execute;
mod script;
mod tlb;

pub use script::{Instruction, Outcome, Script, Step};
pub use tlb::{Access, Kind, Privilege};

use super::{Hw, Registers};
use crate::{
    addr::{Gva, Hpa, PAGE_SIZE},
    mem::{FrameRef, arena::Arena},
    svm::{Event, ExitCode, Features, TlbControl, Vmcb},
    x86::{CpuidRegisters, EferFlags, Profile, msr},
};
use alloc::{collections::BTreeMap, vec::Vec};
use clean::VmcbCache;
use tlb::Tlb;

/// A model processor over the frames of one arena.
pub struct ModelCpu {
    arena: &'static Arena,
    profile: Profile,
    cpuid_overrides: BTreeMap<u32, CpuidRegisters>,
    msrs: BTreeMap<u32, u64>,
    tlb: Tlb,
    /// The PDPTEs that the last VMRUN loaded.
    pdptes: [u64; 4],
    vmcbs: VmcbCache,
    script: Option<Script>,
    /// Addresses whose translations the processor takes into its TLB as soon as it can, used or not.
    pub watched: Vec<Gva>,
    tsc: u64,
    /// Instructions that a guest may execute before a physical interrupt comes.
    pub interrupt_after: u64,
    /// How often FPU registers were saved.
    pub fpu_saves: u64,
    /// How often FPU registers were loaded.
    pub fpu_loads: u64,
    host_area: Option<Hpa>,
}

/// CPUID 8000_0001 ECX.SVM.
const SVM: u32 = 1 << 2;
/// ASIDs of the model, the host's among them: few, so that tests wrap them.
const ASIDS: u32 = 4;

impl ModelCpu {
    /// A processor that offers SVM and no optional feature of it.
    pub fn new(arena: &'static Arena) -> Self {
        Self {
            arena,
            profile: Profile::new(),
            cpuid_overrides: BTreeMap::new(),
            msrs: BTreeMap::from([(msr::EFER, 0xd00), (msr::VM_CR, 0), (msr::VM_HSAVE_PA, 0)]),
            tlb: Tlb::default(),
            pdptes: [0; 4],
            vmcbs: VmcbCache::default(),
            script: None,
            watched: Vec::new(),
            tsc: 0,
            interrupt_after: 10_000,
            fpu_saves: 0,
            fpu_loads: 0,
            host_area: None,
        }
    }

    /// Makes CPUID answer a leaf differently.
    pub fn answer_cpuid(&mut self, leaf: u32, answer: CpuidRegisters) {
        self.cpuid_overrides.insert(leaf, answer);
    }

    /// Sets an MSR from outside.
    pub fn set_msr(&mut self, msr: u32, value: u64) {
        self.msrs.insert(msr, value);
    }

    /// Offers optional SVM features: bits of CPUID 8000_000A EDX.
    pub fn offer(&mut self, features: u32) {
        let asids = self.cpuid(0x8000_000a, 0)[1];
        self.cpuid_overrides.insert(0x8000_000a, [1, asids, 0, features]);
    }

    fn offers(&self, feature: Features) -> bool {
        self.cpuid(0x8000_000a, 0)[3] & feature.bits() != 0
    }

    /// Makes guests on this processor follow a script.
    pub fn follow(&mut self, script: &Script) {
        self.script = Some(script.clone());
    }

    /// Reads a word of physical memory, which must belong to a frame that is taken.
    fn physical(&self, at: u64) -> u64 {
        self.arena.word(Hpa(at))
    }
}

impl Hw for ModelCpu {
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        if let Some(answer) = self.cpuid_overrides.get(&leaf) {
            return *answer;
        }
        match leaf {
            0x8000_0000 => [0x8000_000a, 0, 0, 0],
            0x8000_0001 => {
                let [a, b, c, d] = self.profile.answer(leaf, sub_leaf);
                [a, b, c | SVM, d]
            }
            0x8000_000a => [1, ASIDS, 0, 0],
            _ => self.profile.answer(leaf, sub_leaf),
        }
    }

    fn read_msr(&self, msr: u32) -> u64 {
        *self.msrs.get(&msr).unwrap_or_else(|| panic!("RDMSR of {msr:#x}, which does not exist"))
    }

    unsafe fn write_msr(&mut self, msr: u32, value: u64) {
        assert!(self.msrs.contains_key(&msr), "WRMSR of {msr:#x}, which does not exist");
        if msr == msr::VM_HSAVE_PA {
            assert!(value.is_multiple_of(PAGE_SIZE as u64), "VM_HSAVE_PA {value:#x} is misaligned");
            assert!(value == 0 || self.arena.is_live(Hpa(value)), "VM_HSAVE_PA {value:#x} is nobody's frame");
        }
        self.msrs.insert(msr, value);
    }

    fn tsc(&self) -> u64 {
        self.tsc
    }

    unsafe fn save_host(&mut self, area: Hpa) {
        assert!(self.arena.is_live(area));
        self.host_area = Some(area);
    }

    unsafe fn run(&mut self, vmcb: &mut Vmcb, vmcb_at: Hpa, registers: &mut Registers, host_area: Hpa) {
        assert_ne!(self.read_msr(msr::EFER) & EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE.bits(), 0, "VMRUN raises #UD: SVM is off");
        assert_ne!(self.read_msr(msr::VM_HSAVE_PA), 0, "VMRUN without a host save area");
        assert!(self.arena.is_live(vmcb_at), "VMRUN with a VMCB in nobody's frame");
        assert_eq!(self.host_area, Some(host_area), "VMLOAD of a host area that was not saved");
        if self.offers(Features::VMCB_CLEAN) {
            self.vmcbs.load(vmcb_at, vmcb);
        }
        let asids = self.cpuid(0x8000_000a, 0)[1];
        let checked = check::vmrun(vmcb, asids, |at| self.arena.is_live(Hpa(at)));
        if let Err(why) = checked.and_then(|()| self.load_root(vmcb)) {
            log::debug!("the model refuses the VMCB: {why}");
            // As QEMU does: the save area is worthless after that.
            vmcb.save.rip = 0xdead_beef;
            leave(vmcb, ExitCode::INVALID, 0, 0);
            return;
        }
        self.flush(vmcb);
        self.tlb.check(vmcb.control.asid, self.arena);
        self.speculate(vmcb);
        self.go_on(vmcb, registers);
        self.speculate(vmcb);
        if self.offers(Features::VMCB_CLEAN) {
            self.vmcbs.keep(vmcb_at, vmcb);
        }
    }

    fn flush_address(&mut self, address: Gva, asid: u32) {
        self.tlb.flush_address(address, asid);
    }

    fn load_breakpoints(&mut self, _addresses: &[u64; 4]) {}

    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, _load: FrameRef<'_>) {
        self.fpu_saves += u64::from(save.is_some());
        self.fpu_loads += 1;
    }
}

impl ModelCpu {
    /// Flushes as TLB_CONTROL says (APM vol. 2, 15.16.1).
    fn flush(&mut self, vmcb: &Vmcb) {
        match vmcb.control.tlb_control {
            control if control == TlbControl::Keep as u32 => {}
            control if control == TlbControl::FlushAll as u32 => self.tlb.flush_all(),
            control if control == TlbControl::FlushAsid as u32 => {
                assert!(self.offers(Features::FLUSH_BY_ASID), "TLB_CONTROL 3 without flush-by-ASID");
                self.tlb.flush_asid(vmcb.control.asid);
            }
            other => panic!("TLB_CONTROL {other} is reserved"),
        }
    }

    /// Delivers the event that is injected, then lets the guest go on until it exits.
    fn go_on(&mut self, vmcb: &mut Vmcb, registers: &mut Registers) {
        vmcb.control.exit_int_info = 0;
        let injected = core::mem::take(&mut vmcb.control.event_injection);
        if let Some(script) = self.script.clone() {
            return script::until_exit(self, &script, vmcb, registers, injected);
        }
        if Event::decode(injected).is_some() {
            assert_eq!(vmcb.save.idtr.limit, 0, "the model delivers no events");
            vmcb.control.exit_int_info = injected;
            leave(vmcb, ExitCode::SHUTDOWN, 0, 0);
            return;
        }
        execute::until_exit(self, vmcb, registers);
    }
}

fn leave(vmcb: &mut Vmcb, code: u32, info_1: u64, info_2: u64) {
    vmcb.control.exit_code = code.into();
    (vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (info_1, info_2);
}

#[cfg(test)]
mod tests;
