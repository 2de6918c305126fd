//! Exits: each kind in a file of its own. An exit is decoded once, here, and dispatched by an exhaustive match.

mod apic;
mod cache;
mod cpuid;
mod cr;
mod cr3;
mod device;
mod dr;
mod emulated;
mod exception;
mod halt;
mod hypercall;
mod icebp;
mod init;
mod interrupt;
mod invalid;
mod invlpg;
mod io;
mod iret;
mod mmio;
mod msr;
mod page_fault;
mod rare;
mod shutdown;
mod stop;
mod window;

pub(crate) use device::Work;
pub use device::{Device, Devices, Outside, PORT_BATCH_BYTES};
pub use hypercall::{GuestBytes, PanicAt};
pub use invalid::{InvalidState, Reasons};
pub use io::{Direction, PortAccess, Width};
pub(crate) use mmio::resume;
pub use rare::Rare;
pub use stop::{Cause, Stop, Unhandled};

use core::ops::ControlFlow;

use crate::{
    contract::Contract,
    hw::Hw,
    insn::{ControlAccess, Opcode, control_access, plain_control_access},
    mem::GuestMemory,
    shadow::ShadowMmu,
    svm::ExitCode,
    vcpu::{Hypervisor, Raised, Vcpu},
    x86::Exception,
};

/// Why a guest left, with what the handler needs. What guests leave for all the time stands here, the rest is [`Rare`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A port access.
    Io(PortAccess),
    /// CPUID.
    Cpuid,
    /// RDMSR or WRMSR.
    Msr(msr::Direction),
    /// An exception of the shadow tables' making, or the guest's own.
    PageFault(crate::shadow::PageFault),
    /// VMMCALL.
    VmmCall,
    /// HLT.
    Halt,
    /// A write of CR3.
    LoadTables,
    /// A physical interrupt or NMI, which the host has taken.
    Interrupt,
    /// Anything else.
    Other,
}

/// What happens next: the guest goes on where RIP points, or the embedder takes over.
pub type Next = ControlFlow<Stop>;

/// What exit handlers work on.
pub struct Context<'a> {
    /// The virtual CPU that left.
    pub vcpu: &'a mut Vcpu,
    /// Its VM's shadow tables.
    pub mmu: &'a mut ShadowMmu,
    /// Its VM's memory.
    pub memory: &'a mut GuestMemory,
    /// What the contract keeps for its VM.
    pub contract: &'a mut Contract,
    /// What all VMs share.
    pub hypervisor: &'a Hypervisor,
    /// Its VM's devices.
    pub devices: &'a mut Devices,
    /// The processor.
    pub hw: &'a mut dyn Hw,
}

impl Exit {
    /// Decodes the exit that a VMCB holds.
    #[inline]
    fn decode(vcpu: &Vcpu) -> Self {
        let control = &vcpu.vmcb().control;
        match control.exit_code as u32 {
            ExitCode::IOIO => Self::Io(PortAccess::decode(control.exit_info_1, control.exit_info_2)),
            ExitCode::CPUID => Self::Cpuid,
            ExitCode::MSR => Self::Msr(msr::Direction::decode(control.exit_info_1)),
            ExitCode::PAGE_FAULT => Self::PageFault(page_fault::decode(control.exit_info_1, control.exit_info_2)),
            ExitCode::VMMCALL => Self::VmmCall,
            ExitCode::HLT => Self::Halt,
            ExitCode::CR_WRITE_3 => Self::LoadTables,
            ExitCode::INTR | ExitCode::NMI => Self::Interrupt,
            _ => Self::Other,
        }
    }
}

impl Context<'_> {
    /// The same by value: what takes its address is then not what the common ends of handlers use, and those stay in registers.
    #[inline(always)]
    const fn reborrow(&mut self) -> Context<'_> {
        let Context { vcpu, mmu, memory, contract, devices, hypervisor, hw } = self;
        Context { vcpu, mmu, memory, contract, devices, hypervisor, hw: &mut **hw }
    }

    /// Lets the guest go on behind the instruction.
    #[inline]
    fn skip_to(&mut self, rip: u64) -> Next {
        self.vcpu.retire_to(rip);
        Next::Continue(())
    }

    /// Lets the guest go on with an exception, unless that is one too many.
    #[inline]
    fn inject(&mut self, exception: Exception) -> Next {
        inject(self.vcpu, exception)
    }

    /// The address behind the instruction at RIP, which is known to have `opcode`.
    #[inline(always)]
    fn next_rip(&mut self, opcode: Opcode) -> Option<u64> {
        self.vcpu.next_rip(opcode, self.mmu, self.memory)
    }

    /// Decodes the control- or debug-register instruction at RIP; gives also the address behind it.
    fn control_access(&mut self) -> Option<(ControlAccess, u64)> {
        let code = self.vcpu.code_mode().bits();
        let first = self.vcpu.first_bytes(self.mmu, self.memory);
        let (access, length) = match first.and_then(|word| plain_control_access(code, word)) {
            Some(plain) => plain,
            None => control_access(code, self.vcpu.instruction(self.mmu, self.memory).as_slice())?,
        };
        Some((access, self.vcpu.rip_behind(length)))
    }

    /// Hands the exit to the embedder as it is.
    #[inline]
    fn unhandled(&self) -> Next {
        unhandled(self.vcpu)
    }
}

// The rare ends of handlers are functions of their own, which take no more than they need: so the common ends stay in registers.

#[cold]
fn inject(vcpu: &mut Vcpu, exception: Exception) -> Next {
    match vcpu.raise(exception) {
        Raised::Pending => Next::Continue(()),
        Raised::Shutdown => Next::Break(shutdown::stop(vcpu)),
    }
}

#[cold]
fn unhandled(vcpu: &Vcpu) -> Next {
    Next::Break(stop::unhandled(vcpu))
}

/// Handles the exit that the virtual CPU has just taken.
#[inline]
pub fn handle(context: &mut Context<'_>) -> Next {
    match Exit::decode(context.vcpu) {
        Exit::Io(access) => io::handle(context, access),
        Exit::Cpuid => cpuid::handle(context),
        Exit::Msr(direction) => msr::handle(context, direction),
        Exit::PageFault(fault) => {
            let next = page_fault::handle(context.vcpu, context.mmu, context.memory, fault);
            if let Next::Break(Stop::OutsideMemory { gpa, address }) = next {
                return mmio::handle(context.reborrow(), gpa, address, fault.code);
            }
            next
        }
        Exit::VmmCall => hypercall::vmmcall(context),
        Exit::Halt => halt::handle(context.vcpu, context.mmu, context.memory),
        Exit::LoadTables => cr3::handle(context.reborrow()),
        Exit::Interrupt => interrupt::handle(),
        Exit::Other => rare::handle(context.reborrow()),
    }
}
