//! ICEBP, also INT1 (APM vol. 3, INT1): a debug trap, whose frame points behind the instruction.

use super::{Context, Next, unhandled};
use crate::{
    insn::Opcode,
    x86::{Exception, Vector},
};

/// Raises #DB behind the instruction.
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::ICEBP) else {
        return unhandled(context.vcpu);
    };
    context.vcpu.advance_to(next);
    context.inject(Exception::plain(Vector::DB))
}
