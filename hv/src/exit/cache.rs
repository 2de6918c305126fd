//! INVD and WBINVD: the guest's memory is coherent, and the host's caches are not the guest's to empty.

use super::{Context, Next, unhandled};
use crate::{insn::Opcode, svm::ExitCode};

/// Skips the instruction. QEMU 7.2 reports both by the exit of WBINVD.
pub(super) fn handle(context: &mut Context<'_>, code: u32) -> Next {
    let (one, other) = if code == ExitCode::INVD { (Opcode::INVD, Opcode::WBINVD) } else { (Opcode::WBINVD, Opcode::INVD) };
    match context.next_rip(one).or_else(|| context.next_rip(other)) {
        Some(next) => context.skip_to(next),
        None => unhandled(context.vcpu),
    }
}
