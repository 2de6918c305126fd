//! Accesses to debug registers (APM vol. 2, 15.8; vol. 3, MOV DRn).

use super::{Context, Next, unhandled};
use crate::insn::ControlAccess;

/// Carries out the instruction.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some((access, next)) = context.control_access() else {
        return unhandled(context.vcpu);
    };
    let (ControlAccess::Read { number, .. } | ControlAccess::Write { number, .. }) = access else {
        return unhandled(context.vcpu);
    };
    if let Err(exception) = context.vcpu.check_debug_access(number) {
        return context.inject(exception);
    }
    match access {
        ControlAccess::Write { gpr, .. } => {
            let value = context.gpr(gpr);
            if let Err(exception) = context.vcpu.set_debug_register(number, value) {
                return context.inject(exception);
            }
        }
        ControlAccess::Read { gpr, .. } => context.set_gpr(gpr, context.vcpu.debug_register(number)),
        _ => {}
    }
    context.skip_to(next)
}
