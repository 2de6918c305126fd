//! A virtual CPU: its VMCB and registers, its events, its ASID, and the one place that calls VMRUN.

mod asid;
mod control;
mod cpu;
mod debug;
mod delivery;
mod entry;
mod events;
mod fetch;
mod fpu;
mod interrupts;
mod msrs;
mod segments;
mod setup;

pub use asid::AsidPool;
pub use control::{CR4_OFFERED, Cached, ControlRegisters};
pub use cpu::{Counters, Cpu, Kick};
pub use events::{Interrupts, Raised, Ready, RunState};
pub use msrs::{Handling, MSRS};
pub use segments::{CodeMode, SegmentRegister};
pub use setup::{EntryState, Hypervisor, Platform};

use crate::{
    addr::{Gva, Hpa},
    apic::Apic,
    hw::Registers,
    mem::Page,
    plant::{Bug, planted},
    shadow::{FlushDuty, Paging, PagingBits, Privilege, SmapCheck},
    svm::{Clean, Features, Vmcb, attributes},
    x86::RFlags,
};
use alloc::sync::Arc;
use asid::AsidTag;
use events::{Attention, Events};
use fetch::Fetch;
use fpu::FpuState;

/// A virtual CPU.
pub struct Vcpu {
    vmcb: Page<Vmcb>,
    /// Where it lies.
    vmcb_at: Hpa,
    registers: Registers,
    /// Groups of the VMCB that have changed since the last entry; the others are said to be clean.
    changed: Clean,
    /// Something has changed that [`Vmcb::force`] writes, and it has to write again. The group of what changed is in `changed`.
    force_due: bool,
    /// Control registers as the guest sees them; the VMCB holds the shadow root and forced bits.
    control: ControlRegisters,
    /// What translations depend on, out of [`Vcpu::control`].
    paging: Paging,
    /// The attribute of CS that makes code 64-bit code, in long mode; outside of it there is none.
    long_attribute: u16,
    asid: AsidTag,
    /// A flush that is owed before the next entry.
    duty: FlushDuty,
    events: Events,
    apic: Apic,
    /// It sleeps in a HLT until something wakes it.
    activity: Activity,
    /// The page of code, and the one before it.
    fetch: Option<Fetch>,
    fetched_before: Option<Fetch>,
    fpu: Arc<FpuState>,
    /// DR0 to DR3.
    breakpoints: [u64; 4],
    /// What the processor that it runs on offers.
    features: Features,
    /// Whether the time stamp counter has begun to count from zero.
    clock: Clock,
    exits: u64,
}

/// Whether a guest's time stamp counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    /// It begins at the first entry.
    Stopped,
    /// The VMCB's TSC offset is right.
    Runs,
}

/// Whether a virtual CPU executes instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activity {
    Runs,
    /// It has executed HLT, and its APIC's timer will wake it.
    Sleeps,
}

const _: () = {
    const fn moves_between_cpus<T: Send>() {}
    moves_between_cpus::<Vcpu>();
};

impl Vcpu {
    /// Frames of its own: VMCB and FPU image.
    pub const PAGES: u64 = 2;

    /// The VMCB as the last exit left it.
    pub fn vmcb(&self) -> &Vmcb {
        &self.vmcb
    }

    /// The general registers but RAX and RSP, which are in the VMCB.
    #[inline]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The general registers but RAX and RSP, to change.
    #[inline]
    pub const fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    /// A general register, by its encoding.
    #[inline]
    pub fn register(&self, number: u8) -> u64 {
        match number & 15 {
            0 => self.vmcb.save.rax,
            4 => self.vmcb.save.rsp,
            other => self.registers.0[usize::from(other)],
        }
    }

    /// Sets a general register, by its encoding.
    #[inline]
    pub fn set_register(&mut self, number: u8, value: u64) {
        match number & 15 {
            0 => self.vmcb.save.rax = value,
            4 => self.vmcb.save.rsp = value,
            other => self.registers.0[usize::from(other)] = value,
        }
    }

    /// RAX.
    #[inline]
    pub fn rax(&self) -> u64 {
        self.vmcb.save.rax
    }

    /// Sets RAX.
    #[inline]
    pub fn set_rax(&mut self, value: u64) {
        self.vmcb.save.rax = value;
    }

    /// Sets RIP and RSP.
    pub fn jump(&mut self, rip: u64, rsp: u64) {
        self.advance_to(rip);
        self.vmcb.save.rsp = rsp;
    }

    /// Control registers as the guest sees them.
    #[inline]
    pub const fn control(&self) -> &ControlRegisters {
        &self.control
    }

    /// Sets control registers and what translations depend on by them. The shadow tables must have been switched to that, if it has changed.
    #[inline]
    pub(crate) fn set_control(&mut self, control: &ControlRegisters, paging: &Paging) {
        if control.cr8 != self.control.cr8 {
            self.set_task_class(control.cr8);
            // A waiting interrupt may be let through.
            self.attend_to(Attention::INTERRUPTS);
        }
        self.control = *control;
        self.paging = *paging;
        self.long_attribute = if control.is_long() { attributes::LONG } else { 0 };
        let save = &mut self.vmcb.save;
        (save.cr0, save.cr4, save.efer) = (control.cr0, control.cr4_of_processor(), control.efer);
        if !planted(Bug::ControlRegistersStayClean) {
            self.changed.insert(Clean::CONTROL_REGISTERS);
        }
        self.force_due = true;
    }

    /// Sets CR3 in long mode, whose shadow tables are loaded. The processor's follows when the flush is discharged that this owes.
    #[inline]
    pub(crate) const fn set_tables(&mut self, cr3: u64) {
        self.control.cr3 = cr3;
        self.paging = self.paging.with_cr3(cr3);
    }

    /// What the processor offers that it ran on last.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// RIP.
    #[inline]
    pub fn rip(&self) -> u64 {
        self.vmcb.save.rip
    }

    /// RFLAGS.
    #[inline]
    pub fn rflags(&self) -> u64 {
        self.vmcb.save.rflags
    }

    /// Sets RFLAGS; bit 1 is always set.
    pub fn set_rflags(&mut self, value: u64) {
        let changed = self.vmcb.save.rflags ^ value;
        self.vmcb.save.rflags = value | 2;
        if changed & RFlags::INTERRUPT_FLAG.bits() != 0 {
            self.attend_to(Attention::INTERRUPTS);
        }
    }

    /// How often the guest has left.
    pub const fn exits(&self) -> u64 {
        self.exits
    }

    /// What translations depend on now.
    #[inline]
    pub const fn paging(&self) -> &Paging {
        &self.paging
    }

    /// Who makes an access now.
    pub fn privilege(&self) -> Privilege {
        if self.cpl() == 3 { Privilege::User } else { Privilege::Supervisor }
    }

    /// Whether SMAP stands against an access that `privilege` makes now. What the processor does for user code by itself, such as reading its descriptor tables, AC does not override.
    #[inline]
    pub fn smap(&self, privilege: Privilege) -> SmapCheck {
        if !self.paging.bits().contains(PagingBits::SMAP) {
            return SmapCheck::Overridden;
        }
        let explicit = self.vmcb.save.cpl != 3 || privilege == Privilege::User;
        let overridden = self.vmcb.save.rflags & RFlags::ALIGNMENT_CHECK.bits() != 0;
        if explicit && overridden { SmapCheck::Overridden } else { SmapCheck::Applies }
    }

    /// Gives up the ASID: the next entry is under one that no translation is tagged with.
    pub const fn force_new_asid(&mut self) {
        self.asid = AsidTag { generation: 0, asid: 0 };
    }

    /// Owes a flush, which is discharged before the next entry.
    #[inline]
    pub fn owe(&mut self, duty: FlushDuty) {
        if !matches!(duty, FlushDuty::None) {
            self.duty = self.duty.and(duty);
        }
    }

    /// Sets CR2.
    pub fn set_cr2(&mut self, address: Gva) {
        self.vmcb.save.cr2 = address.0;
    }

    /// Ends an instruction that hv has carried out, and that `rip` lies behind.
    #[inline]
    pub(crate) fn retire_to(&mut self, rip: u64) {
        self.advance_to(rip);
        self.end_step();
    }

    /// Moves RIP behind an instruction that hv has carried out, and ends an interrupt shadow.
    #[inline]
    pub fn advance_to(&mut self, rip: u64) {
        let vmcb = &mut *self.vmcb;
        vmcb.save.rip = rip;
        if !planted(Bug::ShadowSurvives) {
            vmcb.control.interrupt_shadow = 0;
        }
    }
}

impl core::fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (save, r) = (&self.vmcb.save, &self.registers.0);
        writeln!(f, "rip {:#018x} rsp {:#018x} rflags {:#x} cpl {}", save.rip, save.rsp, save.rflags, save.cpl)?;
        writeln!(f, "rax {:#018x} rcx {:#018x} rdx {:#018x} rbx {:#018x}", save.rax, r[1], r[2], r[3])?;
        writeln!(f, "rbp {:#018x} rsi {:#018x} rdi {:#018x} r8  {:#018x}", r[5], r[6], r[7], r[8])?;
        writeln!(f, "r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}", r[9], r[10], r[11], r[12])?;
        writeln!(f, "r13 {:#018x} r14 {:#018x} r15 {:#018x} cr2 {:#018x}", r[13], r[14], r[15], save.cr2)?;
        let ControlRegisters { cr0, cr3, cr4, cr8, efer, .. } = self.control;
        write!(f, "cr0 {cr0:#x} cr3 {cr3:#x} cr4 {cr4:#x} cr8 {cr8:#x} efer {efer:#x} ({:?})", self.paging.mode())
    }
}
