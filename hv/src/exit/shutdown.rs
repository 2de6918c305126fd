//! Shutdown: a fault in the delivery of a double fault. The VMCB's state is undefined now (APM vol. 2, 15.14.3); the guest does not go on.

use super::{Cause, Next, Stop};
use crate::vcpu::Vcpu;

/// Ends the guest with what is known of the cause.
#[cold]
pub(super) fn handle(vcpu: &Vcpu) -> Next {
    Next::Break(stop(vcpu))
}

/// The stop for a virtual CPU that has shut down.
pub(super) fn stop(vcpu: &Vcpu) -> Stop {
    let cause = vcpu.shutdown_cause().map(|(exception, address)| Cause { exception, address });
    Stop::Shutdown { cause, rip: vcpu.vmcb().save.rip }
}
