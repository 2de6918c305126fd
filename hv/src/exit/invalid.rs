//! A VMCB that the processor refused (APM vol. 2, 15.5.1), or a guest state that it could not leave.
//!
//! The save area must not be used again: QEMU 7.2 writes host state into it.

use super::{Next, Stop};
use crate::vcpu::Vcpu;

/// The control-area fields that the processor checks, as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState {
    /// ASID.
    pub asid: u32,
    /// EVENTINJ.
    pub event_injection: u64,
    /// Physical address of the I/O permission map.
    pub port_map: u64,
    /// Physical address of the MSR permission map.
    pub msr_map: u64,
}

/// Ends the guest.
#[cold]
pub(super) fn handle(vcpu: &Vcpu) -> Next {
    let control = &vcpu.vmcb().control;
    log::error!("the processor refused the VMCB: {control:x?}");
    Next::Break(Stop::InvalidState(InvalidState {
        asid: control.asid,
        event_injection: control.exit_int_info,
        port_map: control.iopm_base,
        msr_map: control.msrpm_base,
    }))
}
