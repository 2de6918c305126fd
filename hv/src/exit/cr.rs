//! Accesses to control registers (APM vol. 2, 15.8; vol. 3, MOV CRn, CLTS). SMSW and LMSW, whose operand may be in memory, are emulated.

use super::{Context, Next, Stop, apic, emulated::Hint, mmio};
use crate::{
    addr::Gpa,
    error::Error,
    insn::ControlAccess,
    shadow::{FlushDuty, ShadowMmu},
    vcpu::{Cached, CodeMode, ControlRegisters, SegmentRegister, Vcpu},
    x86::{Cr0Flags, Exception},
};

/// Carries out the instruction.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some((access, next)) = context.control_access() else {
        let next = mmio::try_instruction(context, Hint::NONE);
        return apic::settle(context, next);
    };
    match access {
        ControlAccess::Read { number, gpr } => match read(context, number) {
            Some(value) => {
                context.set_gpr(gpr, value);
                context.skip_to(next)
            }
            None => context.inject(Exception::UD),
        },
        ControlAccess::Write { number, gpr } => {
            let value = context.gpr(gpr);
            write(context, number, value, next)
        }
        ControlAccess::ClearTaskSwitched => {
            let cr0 = context.vcpu.control().cr0 & !Cr0Flags::TASK_SWITCHED.bits();
            write(context, 0, cr0, next)
        }
    }
}

fn read(context: &Context<'_>, number: u8) -> Option<u64> {
    let control = context.vcpu.control();
    match number {
        0 => Some(control.cr0),
        2 => Some(context.vcpu.vmcb().save.cr2),
        3 => Some(control.cr3),
        4 => Some(control.cr4),
        8 => Some(control.cr8.into()),
        _ => None,
    }
}

/// Writes a control register, and goes on at `next`.
pub(super) fn write(context: &mut Context<'_>, number: u8, value: u64, next: u64) -> Next {
    let memory = &*context.memory;
    // Absent memory reads as all ones.
    let read = |at| memory.load(Gpa(at)).unwrap_or(u64::MAX);
    let cs = context.vcpu.segment(SegmentRegister::Cs);
    let mut control = *context.vcpu.control();
    let changed = match number {
        0 => control.set_cr0(value, &cs, read),
        3 => control.set_cr3(value, read),
        4 => control.set_cr4(value, read),
        8 => control.set_cr8(value),
        2 => {
            context.vcpu.set_cr2(crate::addr::Gva(value));
            return context.skip_to(next);
        }
        _ => return context.inject(Exception::UD),
    };
    match changed {
        Ok(cached) => change(context, &control, cached, next),
        Err(exception) => context.inject(exception),
    }
}

/// Lets a legal change take effect, and goes on at `next`. If the host has no memory for it, nothing has changed, and the instruction can be tried again.
pub(super) fn change(context: &mut Context<'_>, control: &ControlRegisters, cached: Cached, next: u64) -> Next {
    match take_effect(context.vcpu, context.mmu, control, cached) {
        Ok(()) => context.skip_to(next),
        Err(error) => Next::Break(Stop::Host(error)),
    }
}

/// Lets a legal change take effect.
///
/// # Errors
/// What the host lacks for it. Nothing has changed then, but a flush of everything is owed.
pub(super) fn take_effect(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, control: &ControlRegisters, cached: Cached) -> Result<(), Error> {
    let paging = control.paging();
    if cached == Cached::Goes {
        match mmu.load_root(&paging) {
            Ok(duty) => vcpu.owe(duty),
            Err(error) => {
                vcpu.owe(FlushDuty::Asid);
                return Err(error);
            }
        }
    }
    vcpu.set_control(control, &paging);
    Ok(())
}

impl Context<'_> {
    /// Reads a general register as MOV CRn does: 32 bits outside 64-bit mode.
    pub(super) fn gpr(&self, number: u8) -> u64 {
        let value = self.vcpu.register(number);
        if self.vcpu.code_mode() == CodeMode::Bits64 { value } else { value & 0xffff_ffff }
    }

    /// Sets a general register as MOV CRn does.
    pub(super) fn set_gpr(&mut self, number: u8, value: u64) {
        let value = if self.vcpu.code_mode() == CodeMode::Bits64 { value } else { value & 0xffff_ffff };
        self.vcpu.set_register(number, value);
    }
}
