//! MOV to CR3, by which kernels switch address spaces: apart from other moves to control registers, since nothing but the tables changes.

use super::{Context, Next, cr};
use crate::{
    insn::{ControlAccess, plain_control_access},
    mem::GuestMemory,
    shadow::ShadowMmu,
    vcpu::{CodeMode, Vcpu},
};

/// Carries out the instruction.
#[inline(never)]
pub(super) fn handle(mut context: Context<'_>) -> Next {
    match switch(context.vcpu, context.mmu, context.memory) {
        Some(()) => Next::Continue(()),
        None => cr::handle(&mut context),
    }
}

/// Switches between two address spaces of a guest in 64-bit mode, which has used both before. `None` where it is more than that, and nothing has changed.
fn switch(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, memory: &GuestMemory) -> Option<()> {
    if vcpu.code_mode() != CodeMode::Bits64 {
        return None;
    }
    let (access, length) = plain_control_access(CodeMode::Bits64.bits(), vcpu.first_bytes(mmu, memory)?)?;
    let ControlAccess::Write { number: 3, gpr } = access else { return None };
    let cr3 = vcpu.register(gpr);
    if !vcpu.control().takes_cr3(cr3) {
        return None;
    }
    let duty = mmu.load_recent_root(&vcpu.paging().with_cr3(cr3))?;
    vcpu.owe(duty);
    vcpu.set_tables(cr3);
    vcpu.retire_to(vcpu.rip().wrapping_add(length));
    Some(())
}
