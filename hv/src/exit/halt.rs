//! HLT.

use super::{Context, Next, Stop};
use crate::insn::Opcode;

/// Hands a halted guest to the embedder, with RIP behind the HLT, unless an event waits that ends the halt at once. One whose timer will wake it sleeps on
/// until something does.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::HLT) else {
        return context.unhandled();
    };
    context.vcpu.advance_to(next);
    if context.vcpu.has_wake_event() {
        return Next::Continue(());
    }
    Next::Break(match context.vcpu.sleep() {
        Some(until) => Stop::Idle { until },
        None => Stop::Halt,
    })
}
