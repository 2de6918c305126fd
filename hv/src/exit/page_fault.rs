//! Page faults: the shadow is filled, the guest gets the fault, or the access leads outside memory.

use super::{Next, Stop, inject};
use crate::{
    addr::Gva,
    mem::GuestMemory,
    shadow::{Access, Outcome, PageFault, ShadowMmu, SmapCheck},
    vcpu::Vcpu,
    x86::PageFaultCode,
};

/// Reads EXITINFO1 (the error code) and EXITINFO2 (the address; APM vol. 2, 15.12.15).
#[inline]
pub(super) const fn decode(info_1: u64, info_2: u64) -> PageFault {
    PageFault { address: Gva(info_2), code: PageFaultCode::from_bits_truncate(info_1 as u32) }
}

/// Serves a fault of the shadow tables.
#[inline(never)]
pub(super) fn handle(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, memory: &mut GuestMemory, fault: PageFault) -> Next {
    let paging = vcpu.paging();
    let access = Access::of_fault(fault.code, SmapCheck::Overridden);
    match mmu.fault(memory, &paging, fault.address, access) {
        Ok((outcome, duty)) => {
            vcpu.owe(duty);
            match outcome {
                Outcome::Filled => Next::Continue(()),
                Outcome::Guest(fault) => {
                    vcpu.set_cr2(fault.address);
                    inject(vcpu, fault.exception())
                }
                Outcome::Outside(gpa) | Outcome::Inexpressible(gpa) => {
                    Next::Break(Stop::OutsideMemory { gpa, address: fault.address })
                }
                Outcome::Denied(gpa) => Next::Break(Stop::Denied { gpa, address: fault.address, kind: access.kind }),
            }
        }
        Err(error) => Next::Break(Stop::Host(error)),
    }
}
