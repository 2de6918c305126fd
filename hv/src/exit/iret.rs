//! The IRET that ends the blocking of NMIs (APM vol. 2, 15.9 and 8.2.3).

use super::Next;
use crate::vcpu::Vcpu;

/// Lets the guest execute it; NMIs are open once it has.
pub(super) fn handle(vcpu: &mut Vcpu) -> Next {
    vcpu.begin_iret();
    Next::Continue(())
}
