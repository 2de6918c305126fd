//! Page faults: the shadow is filled, the guest gets the fault, or the access leads outside memory.

use super::{Context, Next, Stop};
use crate::{
    addr::Gva,
    shadow::{Outcome, PageFault},
    x86::PageFaultCode,
};

/// Reads EXITINFO1 (the error code) and EXITINFO2 (the address; APM vol. 2, 15.12.15).
#[inline]
pub(super) const fn decode(info_1: u64, info_2: u64) -> PageFault {
    PageFault { address: Gva(info_2), code: PageFaultCode::from_bits_truncate(info_1 as u32) }
}

/// Serves a fault of the shadow tables.
// A function of its own: its frame would weigh on every other exit.
#[inline(never)]
pub(super) fn handle(context: &mut Context<'_>, fault: PageFault) -> Next {
    let paging = context.vcpu.paging();
    match context.mmu.fault(context.memory, &paging, fault.address, fault.code) {
        Ok((outcome, duty)) => {
            context.vcpu.owe(duty);
            match outcome {
                Outcome::Filled => Next::Continue(()),
                Outcome::Guest(fault) => {
                    context.vcpu.set_cr2(fault.address);
                    context.inject(fault.exception())
                }
                Outcome::Outside(gpa) => Next::Break(Stop::OutsideMemory { gpa, address: fault.address }),
            }
        }
        Err(error) => Next::Break(Stop::Host(error)),
    }
}
