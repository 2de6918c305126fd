//! Events: what is raised for a guest, what an exit cut short, and what the two come to together.

use super::Vcpu;
use crate::{
    addr::Gva,
    svm::Event,
    x86::{Combined, Exception, Vector, combine},
};

/// Whether a virtual CPU can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Raised {
    /// The exception, or the double fault that it became, is delivered at the next entry.
    Pending,
    /// A triple fault: the virtual CPU has shut down.
    Shutdown,
}

impl Vcpu {
    /// Takes over the event whose delivery the last exit cut short, as EXITINTINFO names it, to be delivered again. (A software
    /// interrupt is not: RIP is still at its instruction.)
    #[inline]
    pub(super) fn requeue(&mut self, interrupted: u64) {
        if Event::is_valid(interrupted) {
            self.requeue_lost(interrupted);
        }
    }

    #[cold]
    fn requeue_lost(&mut self, raw: u64) {
        self.pending = Event::decode(raw).filter(|event| !matches!(event, Event::SoftwareInterrupt(_)));
    }

    /// Raises an exception at the current instruction; joins it with an event that is already on its way.
    pub fn raise(&mut self, exception: Exception) -> Raised {
        self.last_raised = Some((exception, Gva(self.vmcb.save.cr2)));
        let combined = match self.pending {
            Some(Event::Exception(first)) => combine(first, exception),
            // An interrupt or NMI that was being delivered is lost behind an exception that its own delivery raised only if the guest's IDT is
            // broken; the exception goes first, as on the processor.
            _ => Combined::Deliver(exception),
        };
        match combined {
            Combined::Deliver(exception) => {
                self.pending = Some(Event::Exception(exception));
                Raised::Pending
            }
            Combined::Shutdown => Raised::Shutdown,
        }
    }

    /// The exception that ended a virtual CPU which has shut down: what it was delivering, or what hv raised last.
    pub fn shutdown_cause(&self) -> Option<(Exception, Gva)> {
        let interrupted = match Event::decode(self.vmcb.control.exit_int_info) {
            Some(Event::Exception(exception)) => Some(exception),
            _ => None,
        };
        match (interrupted, self.last_raised) {
            (Some(exception), Some((raised, address))) if exception.vector == raised.vector => Some((raised, address)),
            (Some(exception), _) if exception.vector == Vector::PF => Some((exception, Gva(self.vmcb.save.cr2))),
            (Some(exception), _) => Some((exception, Gva(0))),
            (None, raised) => raised,
        }
    }
}
