//! Page faults: the shadow is filled, the guest gets the fault, or the access leads outside memory.

use super::{Next, Stop, inject};
use crate::{
    addr::Gva,
    mem::GuestMemory,
    shadow::{Access, FlushDuty, Outcome, PageFault, Privilege, ShadowMmu},
    vcpu::Vcpu,
    x86::PageFaultCode,
};

/// Reads EXITINFO1 (the error code) and EXITINFO2 (the address; APM vol. 2, 15.12.15).
#[inline]
pub(super) const fn decode(info_1: u64, info_2: u64) -> PageFault {
    PageFault { address: Gva(info_2), code: PageFaultCode::from_bits_truncate(info_1 as u32) }
}

/// Serves a fault of the shadow tables. [`Stop::OutsideMemory`] stands for all that no leaf can serve, and may be emulated yet.
#[inline(never)]
pub(super) fn handle(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, memory: &mut GuestMemory, fault: PageFault) -> Next {
    // QEMU 7.2 carries bit 32 out of segment arithmetic outside long mode.
    let address = if vcpu.control().is_long() { fault.address } else { Gva(fault.address.0 & 0xffff_ffff) };
    let access = access(vcpu, fault.code);
    if let Some(gpa) = mmu.known_outside(address, access) {
        return Next::Break(Stop::OutsideMemory { gpa, address });
    }
    match mmu.fault(memory, vcpu.paging(), address, access) {
        Ok((outcome, duty)) => {
            vcpu.owe(duty);
            match outcome {
                Outcome::Filled => Next::Continue(()),
                Outcome::Guest(fault) => {
                    vcpu.set_cr2(fault.address);
                    inject(vcpu, fault.exception())
                }
                Outcome::Outside(gpa) | Outcome::Inexpressible(gpa) => Next::Break(Stop::OutsideMemory { gpa, address }),
                Outcome::Denied(gpa) => Next::Break(Stop::Denied { gpa, address, kind: access.kind }),
            }
        }
        Err(error) => {
            vcpu.owe(FlushDuty::Asid);
            Next::Break(Stop::Host(error))
        }
    }
}

/// The access that faulted. Without paging, and in real mode, the processor runs on tables all the same, and its user bit comes from SS alone.
#[inline]
fn access(vcpu: &Vcpu, code: PageFaultCode) -> Access {
    let privilege = if code.contains(PageFaultCode::USER) { Privilege::User } else { Privilege::Supervisor };
    Access::of_fault(code, vcpu.smap(privilege))
}
