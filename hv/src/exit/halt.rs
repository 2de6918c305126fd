//! HLT.

use super::{Next, Stop, unhandled};
use crate::{insn::Opcode, mem::GuestMemory, shadow::ShadowMmu, vcpu::Vcpu};

/// Hands a halted guest to the embedder, with RIP behind the HLT, unless an event waits that ends the halt at once. One whose timer will wake it sleeps on
/// until something does.
#[inline(never)]
pub(super) fn handle(vcpu: &mut Vcpu, mmu: &ShadowMmu, memory: &GuestMemory) -> Next {
    match vcpu.plain_next_rip(Opcode::HLT, mmu, memory) {
        Some(next) => halt(vcpu, next),
        None => handle_any_form(vcpu, mmu, memory),
    }
}

#[cold]
fn handle_any_form(vcpu: &mut Vcpu, mmu: &ShadowMmu, memory: &GuestMemory) -> Next {
    match vcpu.next_rip(Opcode::HLT, mmu, memory) {
        Some(next) => halt(vcpu, next),
        None => unhandled(vcpu),
    }
}

#[inline]
fn halt(vcpu: &mut Vcpu, next: u64) -> Next {
    vcpu.retire_to(next);
    if vcpu.has_wake_event() {
        return Next::Continue(());
    }
    Next::Break(match vcpu.sleep() {
        Some(until) => Stop::Idle { until },
        None => Stop::Halt,
    })
}
