//! The moment at which the guest could take an interrupt (VINTR; APM vol. 2, 15.21.4).

use super::{Next, Stop};
use crate::vcpu::Vcpu;

/// Lets the next entry deliver what waits, or tells the embedder that asked.
pub(super) fn handle(vcpu: &mut Vcpu) -> Next {
    if vcpu.open_window() { Next::Break(Stop::InterruptWindow) } else { Next::Continue(()) }
}
