//! HLT.

use super::{Next, Stop, unhandled};
use crate::{insn::Opcode, mem::GuestMemory, shadow::ShadowMmu, vcpu::Vcpu};

/// Hands a halted guest to the embedder, with RIP behind the HLT, unless an event waits that ends the halt at once. One whose timer will wake it sleeps on
/// until something does.
#[inline(never)]
pub(super) fn handle(vcpu: &mut Vcpu, mmu: &ShadowMmu, memory: &GuestMemory) -> Next {
    let Some(next) = vcpu.next_rip(Opcode::HLT, mmu, memory) else {
        return unhandled(vcpu);
    };
    vcpu.retire_to(next);
    if vcpu.has_wake_event() {
        return Next::Continue(());
    }
    Next::Break(match vcpu.sleep() {
        Some(until) => Stop::Idle { until },
        None => Stop::Halt,
    })
}
