//! HLT.

use super::{Context, Next, Stop, stop};
use crate::insn::Opcode;

/// Hands a halted guest to the embedder, with RIP behind the HLT.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some(next) = context.vcpu.next_rip(Opcode::HLT, context.mmu, context.memory) else {
        return Next::Stop(stop::unhandled(context));
    };
    context.vcpu.advance_to(next);
    Next::Stop(Stop::Halt)
}
