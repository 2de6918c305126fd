//! HLT.

use super::{Context, Next, Stop};
use crate::insn::Opcode;

/// Hands a halted guest to the embedder, with RIP behind the HLT.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::HLT) else {
        return context.unhandled();
    };
    context.vcpu.advance_to(next);
    Next::Break(Stop::Halt)
}
