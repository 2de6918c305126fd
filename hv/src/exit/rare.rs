//! Exits that are rare: decoded and dispatched apart, so that the common ones keep to few registers.

use super::{Context, Next, cache, cr, dr, exception, icebp, interrupt, invalid, invlpg, iret, shutdown, window};
use crate::{
    plant::{Bug, planted},
    svm::ExitCode,
    vcpu::Vcpu,
    x86::Exception,
};

/// Why a guest left, where that is rare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rare {
    /// An exception that is intercepted.
    Exception(Exception),
    /// A read or write of a control register.
    ControlRegister,
    /// A read or write of a debug register.
    DebugRegister,
    /// The guest could take an interrupt now.
    Window,
    /// IRET, while NMIs are blocked.
    Iret,
    /// INVD or WBINVD, by exit code.
    Cache(u32),
    /// ICEBP.
    Icebp,
    /// RDPMC: no counter exists.
    ReadCounter,
    /// INVLPG.
    InvalidatePage,
    /// A system management interrupt or INIT, which the host has taken.
    Interrupt,
    /// Shutdown: a triple fault.
    Shutdown,
    /// An instruction that guests do not have: SVM's, RSM outside SMM, RDTSCP, MONITOR, MWAIT, XSETBV, RDPRU (APM vol. 3).
    Undefined,
    /// The VMCB was refused.
    Invalid,
    /// Anything else.
    Other,
}

impl Rare {
    /// Decodes the exit that a VMCB holds.
    fn decode(vcpu: &Vcpu) -> Self {
        let control = &vcpu.vmcb().control;
        match control.exit_code as u32 {
            ExitCode::CR_READ_0..=ExitCode::CR_WRITE_15 => Self::ControlRegister,
            ExitCode::DR_READ_0..=ExitCode::DR_WRITE_15 => Self::DebugRegister,
            code @ ExitCode::EXCEPTION_0..=ExitCode::EXCEPTION_31 => {
                Self::Exception(exception::decode(code, control.exit_info_1))
            }
            ExitCode::VINTR => Self::Window,
            ExitCode::IRET => Self::Iret,
            code @ (ExitCode::INVD | ExitCode::WBINVD) => Self::Cache(code),
            ExitCode::ICEBP => Self::Icebp,
            ExitCode::RDPMC => Self::ReadCounter,
            ExitCode::INVLPG => Self::InvalidatePage,
            ExitCode::SMI | ExitCode::INIT => Self::Interrupt,
            ExitCode::SHUTDOWN => Self::Shutdown,
            ExitCode::VMRUN
            | ExitCode::VMLOAD..=ExitCode::RDTSCP
            | ExitCode::MONITOR..=ExitCode::RDPRU
            | ExitCode::INVLPGA
            | ExitCode::RSM => Self::Undefined,
            ExitCode::INVALID => Self::Invalid,
            _ => Self::Other,
        }
    }
}

/// Handles a rare exit.
#[inline(never)]
pub(super) fn handle(mut context: Context<'_>) -> Next {
    let context = &mut context;
    match Rare::decode(context.vcpu) {
        Rare::Exception(exception) => exception::handle(context, exception),
        Rare::ControlRegister => cr::handle(context),
        Rare::DebugRegister => dr::handle(context),
        Rare::Window => window::handle(context.vcpu),
        Rare::Iret => iret::handle(context.vcpu),
        Rare::Cache(code) => cache::handle(context, code),
        Rare::Icebp => icebp::handle(context),
        Rare::ReadCounter => context.inject(Exception::GP0),
        Rare::InvalidatePage => invlpg::handle(context),
        Rare::Interrupt => interrupt::handle(),
        Rare::Shutdown => shutdown::handle(context.vcpu),
        Rare::Undefined if planted(Bug::SvmIsSkipped) => Next::Continue(()),
        Rare::Undefined => context.inject(Exception::UD),
        Rare::Invalid => invalid::handle(context.vcpu),
        Rare::Other => context.unhandled(),
    }
}
