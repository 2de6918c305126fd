//! CPUID: answered from the profile that all guests share.

use super::{Context, Next};
use crate::{
    hw::{RBX, RCX, RDX},
    insn::Opcode,
    plant::{Bug, planted},
};

/// Answers CPUID (APM vol. 3, CPUID: 32-bit results, the upper halves become zero).
#[inline]
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::CPUID) else {
        return context.unhandled();
    };
    let [eax, ebx, ecx, edx] =
        context.hypervisor.profile().answer(context.vcpu.rax() as u32, context.vcpu.registers().0[RCX] as u32);
    let upper = if planted(Bug::UpperHalvesStay) { context.vcpu.rax() & !0xffff_ffff } else { 0 };
    context.vcpu.set_rax(upper | u64::from(eax));
    let registers = &mut context.vcpu.registers_mut().0;
    registers[RBX] = ebx.into();
    registers[RCX] = ecx.into();
    registers[RDX] = edx.into();
    context.skip_to(next)
}
