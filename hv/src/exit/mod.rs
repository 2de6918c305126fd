//! Exits: each kind in a file of its own. An exit is decoded once, here, and dispatched by an exhaustive match.

mod cpuid;
mod halt;
mod hypercall;
mod interrupt;
mod invalid;
mod io;
mod msr;
mod page_fault;
mod shutdown;
mod stop;
mod svm_instruction;

pub use hypercall::{GuestBytes, PanicAt};
pub use invalid::InvalidState;
pub use io::{Direction, PortAccess, Width};
pub use stop::{Cause, Stop, Unhandled};

use crate::{
    mem::GuestMemory,
    shadow::ShadowMmu,
    svm::ExitCode,
    vcpu::{Hypervisor, Raised, Vcpu},
    x86::Exception,
};

/// Why a guest left, with what the handler needs.
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
    /// A physical interrupt or NMI, which the host has taken.
    Interrupt,
    /// Shutdown: a triple fault.
    Shutdown,
    /// An SVM instruction, or another that guests do not have.
    Undefined,
    /// The VMCB was refused.
    Invalid,
    /// Anything else.
    Other,
}

/// What happens next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The guest goes on where RIP points.
    Resume,
    /// The guest goes on behind the instruction, at this address.
    Skip(u64),
    /// The guest gets an exception.
    Inject(Exception),
    /// The embedder takes over.
    Stop(Stop),
}

/// What exit handlers work on.
pub struct Context<'a> {
    /// The virtual CPU that left.
    pub vcpu: &'a mut Vcpu,
    /// Its VM's shadow tables.
    pub mmu: &'a mut ShadowMmu,
    /// Its VM's memory.
    pub memory: &'a mut GuestMemory,
    /// What all VMs share.
    pub hypervisor: &'a Hypervisor,
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
            ExitCode::INTR | ExitCode::NMI => Self::Interrupt,
            ExitCode::SHUTDOWN => Self::Shutdown,
            ExitCode::VMRUN | ExitCode::VMLOAD..=ExitCode::SKINIT | ExitCode::INVLPGA | ExitCode::RSM => Self::Undefined,
            ExitCode::INVALID => Self::Invalid,
            _ => Self::Other,
        }
    }
}

/// Handles the exit that the virtual CPU has just taken; `Some` when the embedder must take over.
#[inline]
pub fn handle(context: &mut Context<'_>) -> Option<Stop> {
    let next = match Exit::decode(context.vcpu) {
        Exit::Io(access) => io::handle(context, access),
        Exit::Cpuid => cpuid::handle(context),
        Exit::Msr(direction) => msr::handle(context, direction),
        Exit::PageFault(fault) => page_fault::handle(context, fault),
        Exit::VmmCall => hypercall::vmmcall(context),
        Exit::Halt => halt::handle(context),
        Exit::Interrupt => interrupt::handle(),
        Exit::Shutdown => shutdown::handle(context),
        Exit::Undefined => svm_instruction::handle(),
        Exit::Invalid => invalid::handle(context),
        Exit::Other => Next::Stop(stop::unhandled(context)),
    };
    match next {
        Next::Resume => None,
        Next::Skip(rip) => {
            context.vcpu.advance_to(rip);
            None
        }
        Next::Inject(exception) => match context.vcpu.raise(exception) {
            Raised::Pending => None,
            Raised::Shutdown => Some(shutdown::stop(context.vcpu)),
        },
        Next::Stop(stop) => Some(stop),
    }
}
