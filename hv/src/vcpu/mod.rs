//! A virtual CPU: its VMCB and registers, its events, its ASID, and the one place that calls VMRUN.

mod asid;
mod cpu;
mod entry;
mod events;
mod fpu;
mod setup;

pub use asid::AsidPool;
pub use cpu::{Counters, Cpu, Kick};
pub use events::Raised;
pub use setup::{EntryState, Hypervisor, Platform};

use crate::{
    addr::{Gva, PAGE_SIZE},
    hw::Registers,
    insn::{CodeSize, MAX_BYTES, Opcode},
    mem::{GuestFrame, GuestMemory, Page},
    shadow::{Access, FlushDuty, Kind, Paging, Privilege, ShadowMmu, SmapCheck, translate},
    svm::{Clean, Event, SaveArea, Vmcb},
    x86::{EferFlags, Exception},
};
use alloc::sync::Arc;
use asid::AsidTag;
use fpu::FpuState;

/// A virtual CPU.
pub struct Vcpu {
    vmcb: Page<Vmcb>,
    registers: Registers,
    /// Groups of the VMCB that have not changed since the last entry.
    clean: Clean,
    /// The guest's CR3; the VMCB holds the shadow root.
    cr3: u64,
    asid: AsidTag,
    /// A flush that is owed before the next entry.
    duty: FlushDuty,
    /// The event to deliver at the next entry.
    pending: Option<Event>,
    /// The last exception that hv raised: what a shutdown is reported with.
    last_raised: Option<(Exception, Gva)>,
    fetch: Option<Fetch>,
    fpu: Arc<FpuState>,
    exits: u64,
}

const _: () = {
    const fn moves_between_cpus<T: Send>() {}
    moves_between_cpus::<Vcpu>();
};

/// The page that instruction bytes were last read from.
struct Fetch {
    page: Gva,
    epoch: u64,
    frame: GuestFrame,
}

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

    /// The registers that VMLOAD carries, to change; what else stands there is read again at every entry too.
    pub(crate) fn save_mut(&mut self) -> &mut SaveArea {
        self.clean = Clean::empty();
        &mut self.vmcb.save
    }

    /// EFER as the guest sees it.
    pub fn efer(&self) -> u64 {
        self.vmcb.save.efer & !EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE.bits()
    }

    /// How often the guest has left.
    pub const fn exits(&self) -> u64 {
        self.exits
    }

    /// The control-register bits that a walk of the guest's tables depends on.
    #[inline]
    pub fn paging(&self) -> Paging {
        Paging::long(self.cr3)
    }

    /// Who makes an access now.
    pub fn privilege(&self) -> Privilege {
        if self.vmcb.save.cpl == 3 { Privilege::User } else { Privilege::Supervisor }
    }

    /// Owes a flush, which is discharged before the next entry.
    #[inline]
    pub const fn owe(&mut self, duty: FlushDuty) {
        if !matches!(duty, FlushDuty::None) {
            self.duty = self.duty.and(duty);
        }
    }

    /// Sets CR2.
    pub fn set_cr2(&mut self, address: Gva) {
        self.vmcb.save.cr2 = address.0;
        self.clean.remove(Clean::CR2);
    }

    /// Moves RIP behind an instruction that hv has carried out, and ends an interrupt shadow.
    #[inline]
    pub fn advance_to(&mut self, rip: u64) {
        let vmcb = &mut *self.vmcb;
        vmcb.save.rip = rip;
        vmcb.control.interrupt_shadow = 0;
    }

    /// Linear address of the instruction at RIP, and how its prefixes are read.
    #[inline(always)]
    fn code_address(&self) -> (Gva, CodeSize) {
        const LONG: u16 = 1 << 9;
        let save = &self.vmcb.save;
        if save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0 && save.cs.attributes & LONG != 0 {
            (Gva(save.rip), CodeSize::Bits64)
        } else {
            (Gva(save.cs.base.wrapping_add(save.rip) & 0xffff_ffff), CodeSize::Legacy)
        }
    }

    /// Measures the instruction at RIP, which is known to have `opcode`, and gives the address of the next one.
    ///
    /// `None` when its bytes cannot be read through the guest's own tables, or are another instruction's.
    #[inline(always)]
    pub fn next_rip(&mut self, opcode: Opcode, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<u64> {
        let (address, size) = self.code_address();
        let frame = self.fetch_frame(address, mmu, memory)?;
        let plain = memory.view_frame(frame).load_unaligned(address.page_offset()).and_then(|bytes| opcode.plain_length(bytes));
        let length = match plain {
            Some(length) => length,
            None => self.length_with_prefixes(opcode, address, size, mmu, memory)?,
        };
        Some(self.vmcb.save.rip.wrapping_add(length))
    }

    #[cold]
    fn length_with_prefixes(
        &mut self,
        opcode: Opcode,
        address: Gva,
        size: CodeSize,
        mmu: &ShadowMmu,
        memory: &GuestMemory,
    ) -> Option<u64> {
        let mut bytes = [0; MAX_BYTES];
        let frame = self.fetch_frame(address, mmu, memory)?;
        let mut count = memory.view_frame(frame).read(address.page_offset(), &mut bytes);
        if count < MAX_BYTES {
            let next = address.page_base().wrapping_add(PAGE_SIZE as u64);
            if let Some(frame) = self.fetch_frame(next, mmu, memory) {
                count += memory.view_frame(frame).read(0, &mut bytes[count..]);
            }
        }
        crate::insn::length(opcode, size, &bytes[..count])
    }

    /// The frame that code at `address` lies in. The last answer is kept for as long as no translation was taken away; the bytes never are.
    #[inline(always)]
    fn fetch_frame(&mut self, address: Gva, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<GuestFrame> {
        match &self.fetch {
            Some(fetch) if fetch.page == address.page_base() && fetch.epoch == mmu.epoch() => Some(fetch.frame),
            _ => self.find_fetch_frame(address, mmu, memory),
        }
    }

    #[cold]
    fn find_fetch_frame(&mut self, address: Gva, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<GuestFrame> {
        let access = Access { kind: Kind::Fetch, privilege: self.privilege(), smap: SmapCheck::Overridden };
        let found = translate(memory, &self.paging(), address, access).ok()?;
        let frame = memory.present(found.gpa.gfn())?;
        self.fetch = Some(Fetch { page: address.page_base(), epoch: mmu.epoch(), frame });
        Some(frame)
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
        write!(f, "cr0 {:#x} cr3 {:#x} (guest) cr4 {:#x} efer {:#x}", save.cr0, self.cr3, save.cr4, save.efer)
    }
}
