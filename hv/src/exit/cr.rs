//! Accesses to control registers (APM vol. 2, 15.8; vol. 3, MOV CRn, CLTS).

use super::{Context, Next, Stop, unhandled};
use crate::{
    addr::Gpa,
    insn::ControlAccess,
    plant::{Bug, planted},
    shadow::FlushDuty,
    vcpu::{Cached, CodeMode, ControlRegisters, SegmentRegister},
    x86::{Cr0Flags, Exception},
};

/// What LMSW loads: PE, MP, EM and TS.
const STATUS_LOADED: u64 = 0xf;

/// Carries out the instruction.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some((access, next)) = context.control_access() else {
        return unhandled(context.vcpu);
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
        ControlAccess::LoadStatus { gpr } => {
            // PE can be set, not cleared (APM vol. 3, LMSW).
            let cr0 = context.vcpu.control().cr0;
            let word = context.vcpu.register(gpr) & STATUS_LOADED;
            let loaded = if planted(Bug::LmswClearsProtection) { STATUS_LOADED } else { STATUS_LOADED & !1 };
            write(context, 0, cr0 & !loaded | word, next)
        }
        ControlAccess::StoreStatus { gpr, bytes } => {
            let cr0 = context.vcpu.control().cr0;
            let value = match bytes {
                2 => context.vcpu.register(gpr) & !0xffff | cr0 & 0xffff,
                // A 32-bit result clears the upper half.
                4 => cr0 & 0xffff_ffff,
                _ => cr0,
            };
            context.vcpu.set_register(gpr, value);
            context.skip_to(next)
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
    let paging = control.paging();
    if cached == Cached::Goes {
        match context.mmu.load_root(&paging) {
            Ok(duty) => context.vcpu.owe(duty),
            Err(error) => {
                context.vcpu.owe(FlushDuty::Asid);
                return Next::Break(Stop::Host(error));
            }
        }
    }
    context.vcpu.set_control(control, &paging);
    context.skip_to(next)
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
