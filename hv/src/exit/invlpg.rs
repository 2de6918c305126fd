//! INVLPG (APM vol. 3, INVLPG; vol. 2, 5.5.2).

use super::{Context, Next, unhandled};
use crate::{
    addr::Gva,
    insn::{self, Operation, SegmentName},
    svm::Features,
    vcpu::CodeMode,
};

/// Forgets the translation that the operand names. A non-canonical address names none.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let code = context.vcpu.code_mode();
    let first = context.vcpu.first_bytes(context.mmu, context.memory);
    let (address, next) = match first.and_then(|word| insn::plain_invlpg(code.bits(), word)) {
        Some((register, length)) => (Gva(context.vcpu.register(register)), context.vcpu.rip_behind(length)),
        None => match any_form(context, code) {
            Some(found) => found,
            None => return unhandled(context.vcpu),
        },
    };
    let duty = context.mmu.invalidate(address);
    context.vcpu.owe(duty);
    context.skip_to(next)
}

/// The address that the operand of any form names, and the address behind the instruction.
#[cold]
fn any_form(context: &mut Context<'_>, code: CodeMode) -> Option<(Gva, u64)> {
    let bytes = context.vcpu.instruction(context.mmu, context.memory);
    let found = insn::decode(bytes.padded(), code.bits()).ok().filter(|found| found.operation == Operation::Invlpg)?;
    let next = context.vcpu.rip_behind(found.length.into());
    let (segment, offset) = found.memory_operand(|number| context.vcpu.register(number), next)?;
    let address = if context.vcpu.features().contains(Features::DECODE_ASSISTS) {
        Gva(context.vcpu.vmcb().control.exit_info_1)
    } else {
        linear(context, code, segment, offset)
    };
    Some((address, next))
}

/// The linear address; INVLPG checks no limits.
fn linear(context: &Context<'_>, code: CodeMode, segment: SegmentName, offset: u64) -> Gva {
    let has_base = code != CodeMode::Bits64 || matches!(segment, SegmentName::Fs | SegmentName::Gs);
    let base = if has_base { context.vcpu.segment(segment.into()).base } else { 0 };
    let address = base.wrapping_add(offset);
    Gva(if code == CodeMode::Bits64 { address } else { address & 0xffff_ffff })
}
