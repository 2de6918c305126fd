//! Exceptions that hv intercepts so that their delivery cannot go on for ever, and hands on to the guest: #DB, #AC, #DF (APM vol. 2, 15.12).

use super::{Context, Next, Stop, unhandled};
use crate::x86::{Exception, Vector};

/// Reads the exit code and EXITINFO1.
pub(super) const fn decode(code: u32, info_1: u64) -> Exception {
    let vector = Vector(code as u8 & 31);
    Exception { vector, code: if vector.has_error_code() { Some(info_1 as u32) } else { None } }
}

/// Delivers the exception by hv's own hand.
#[cold]
pub(super) fn handle(context: &mut Context<'_>, exception: Exception) -> Next {
    match exception.vector {
        Vector::DB if context.vcpu.ends_step() => Next::Continue(()),
        Vector::DB | Vector::AC | Vector::DF => context.inject(exception),
        // The machine is broken, not the guest.
        Vector::MC => Next::Break(Stop::MachineCheck),
        _ => unhandled(context.vcpu),
    }
}
