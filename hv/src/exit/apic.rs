//! Writes to the local APIC: as x2APIC MSRs (APM vol. 2, 16.11).

use super::{Context, Next, shutdown};
use crate::{
    apic::{MSR_FIRST, Message, Refused},
    x86::Exception,
};

/// The end-of-interrupt register, which is written most.
const END_OF_INTERRUPT: u32 = MSR_FIRST + 0x0b;

/// Writes an x2APIC register, and goes on at `next`.
#[inline]
pub(super) fn write_msr(context: &mut Context<'_>, index: u32, value: u64, next: u64) -> Next {
    if index != END_OF_INTERRUPT {
        return write_other(context, index, value, next);
    }
    match context.vcpu.end_of_interrupt(value) {
        Ok(()) => context.skip_to(next),
        Err(Refused) => context.inject(Exception::GP0),
    }
}

#[inline(never)]
fn write_other(context: &mut Context<'_>, index: u32, value: u64, next: u64) -> Next {
    let now = context.vcpu.guest_time(context.hw.tsc());
    match context.vcpu.change_apic(|apic| apic.write_msr(index, value, now)) {
        Ok(message) => {
            context.vcpu.advance_to(next);
            receive(context, message)
        }
        Err(Refused) => context.inject(Exception::GP0),
    }
}

/// Lets the processor receive what it has sent itself.
fn receive(context: &mut Context<'_>, message: Option<Message>) -> Next {
    match message {
        Some(Message::Nmi) => context.vcpu.inject_nmi(),
        // A machine with one processor has nobody who would start it up again.
        Some(Message::Init) => return Next::Break(shutdown::stop(context.vcpu)),
        // A processor that runs is not waiting for it.
        Some(Message::StartUp(_)) | None => {}
    }
    Next::Continue(())
}
