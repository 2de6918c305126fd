//! INIT, which a processor can send itself by its APIC: it begins anew (APM vol. 2, 14.1.3).

use super::{Next, Stop, cr};
use crate::{
    shadow::ShadowMmu,
    vcpu::{Cached, ControlRegisters, Vcpu},
    x86::Cr0Flags,
};

/// Lets the only processor of a machine begin at its reset vector; nobody has to start it up. Memory, the FPU, the time stamp counter and what MSRs keep stay as
/// they are.
#[cold]
pub(super) fn handle(vcpu: &mut Vcpu, mmu: &mut ShadowMmu) -> Next {
    let kept = (Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH).bits();
    let reset = ControlRegisters::RESET;
    let control = ControlRegisters { cr0: reset.cr0 & !kept | vcpu.control().cr0 & kept, ..reset };
    if let Err(error) = cr::take_effect(vcpu, mmu, &control, Cached::Goes) {
        return Next::Break(Stop::Host(error));
    }
    vcpu.begin_anew();
    Next::Continue(())
}
