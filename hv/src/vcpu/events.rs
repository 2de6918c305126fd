//! Events: what is raised for a guest, what an exit cut short, what waits (APM vol. 2, 15.17 and 15.20 to 15.21).

use super::Vcpu;
use crate::{
    addr::Gva,
    plant::{Bug, planted},
    svm::{Clean, Event, Intercepts1},
    x86::{Combined, Exception, RFlags, Vector, VectorSet, combine},
};
use bitflags::bitflags;

/// Whether a virtual CPU can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Raised {
    /// The exception, or the double fault that it became, is delivered at the next entry.
    Pending,
    /// A triple fault: the virtual CPU has shut down.
    Shutdown,
}

/// What an embedder wants to know before it injects an interrupt or answers a halted guest; what KVM hands out with each return to user space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunState {
    /// RFLAGS.IF.
    pub interrupts: Interrupts,
    /// Whether an interrupt that is injected now is delivered at the next entry.
    pub ready: Ready,
    /// CR8: the task priority.
    pub cr8: u8,
}

/// Whether a guest takes interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupts {
    /// RFLAGS.IF is set.
    Enabled,
    /// RFLAGS.IF is clear.
    Disabled,
}

/// Whether an interrupt would be delivered at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    /// It would.
    Now,
    /// It would have to wait: for RFLAGS.IF, the end of an interrupt shadow, or another event that goes first.
    Later,
}

/// Whether the guest takes non-maskable interrupts (APM vol. 2, 8.2.3: not from one's delivery until IRET).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nmis {
    Open,
    Blocked,
    /// The IRET at this RIP is about to end the blocking.
    EndingAt(u64),
}

/// Whether the instruction that ends NMI blocking is executed by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    No,
    /// RFLAGS.TF was set for it, by hv.
    Single,
}

bitflags! {
    /// What the next entry has to do first.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Attention: u8 {
        /// Deliver the event that is under way, whatever else waits.
        const UNDER_WAY = 1 << 0;
        /// Look at interrupts.
        const INTERRUPTS = 1 << 1;
        /// Look at interrupts, at NMIs and the IRET that ends their blocking, and at the window that the embedder wants to be told of.
        const OTHERS = 1 << 2;
        /// Arm the host's timer for what the APIC's waits for.
        const TIMER = 1 << 3;
        /// Load breakpoints.
        const BREAKPOINTS = 1 << 4;
    }
}

/// The events of a virtual CPU.
pub(super) struct Events {
    pub(super) attention: Attention,
    /// The event that is under way, as EVENTINJ encodes it: an exception, or what an exit cut short.
    pub(super) under_way: u64,
    /// Vectors that the embedder has injected.
    pub(super) queue: VectorSet,
    /// The vector that the local APIC would deliver, above the task priority; 0 is none.
    pub(super) local: u8,
    pub(super) nmi: bool,
    pub(super) nmis: Nmis,
    pub(super) step: Step,
    /// The embedder wants to be told when the guest could take an interrupt.
    pub(super) window_wanted: bool,
    /// The processor exits when the guest could take an interrupt.
    pub(super) window_watched: bool,
    /// The last exception that hv raised: what a shutdown is reported with.
    last_raised: Option<(Exception, Gva)>,
}

impl Events {
    pub(super) const fn new() -> Self {
        Self {
            attention: Attention::empty(),
            under_way: 0,
            queue: VectorSet::new(),
            local: 0,
            nmi: false,
            nmis: Nmis::Open,
            step: Step::No,
            window_wanted: false,
            window_watched: false,
            last_raised: None,
        }
    }

    /// The highest vector of the queue, if it is above the task priority; priority is the vector's upper half (APM vol. 2, 15.21.2). 0 is none.
    #[inline]
    pub(super) fn queued(&self, cr8: u8) -> u8 {
        let vector = self.queue.highest();
        if vector >> 4 > cr8 || planted(Bug::TaskPriorityIsIgnored) { vector } else { 0 }
    }

    /// Has the next entry deliver an event, as EVENTINJ encodes it.
    #[inline]
    fn set_under_way(&mut self, event: u64) {
        self.under_way = event;
        self.attention.insert(Attention::UNDER_WAY);
    }
}

impl Vcpu {
    /// Queues an external interrupt, to be taken when RFLAGS.IF, the interrupt shadow and CR8 allow, highest vector first. A vector that waits already is
    /// queued once; one below 16 is above no task priority, and never taken.
    pub fn inject_interrupt(&mut self, vector: u8) {
        self.events.queue.insert(vector);
        self.attend_to(Attention::INTERRUPTS);
    }

    /// Queues a non-maskable interrupt; one that waits already is queued once.
    pub fn inject_nmi(&mut self) {
        self.events.nmi = true;
        self.attend_to(Attention::OTHERS);
    }

    /// Asks for [`crate::Stop::InterruptWindow`] as soon as the guest could take an interrupt.
    pub fn request_window(&mut self) {
        self.events.window_wanted = true;
        self.attend_to(Attention::OTHERS);
    }

    /// What an embedder wants to know before it injects an interrupt.
    pub fn run_state(&self) -> RunState {
        let interrupts = if self.interrupts_enabled() { Interrupts::Enabled } else { Interrupts::Disabled };
        let waits = self.is_delivering() && !planted(Bug::ReadyForgetsPending);
        let ready = if self.can_interrupt() && !waits { Ready::Now } else { Ready::Later };
        RunState { interrupts, ready, cr8: self.control.cr8 }
    }

    /// Whether something waits that ends a HLT: an interrupt that can be taken, or an NMI.
    pub fn has_wake_event(&self) -> bool {
        if planted(Bug::HaltSleepsOn) {
            return false;
        }
        let events = &self.events;
        let interrupt = self.interrupts_enabled() && self.has_interrupt();
        self.is_delivering() || interrupt || (events.nmi && events.nmis == Nmis::Open)
    }

    #[inline]
    fn interrupts_enabled(&self) -> bool {
        self.vmcb.save.rflags & RFlags::INTERRUPT_FLAG.bits() != 0
    }

    #[inline]
    pub(super) fn can_interrupt(&self) -> bool {
        let shadow = self.vmcb.control.interrupt_shadow & 1 != 0 && !planted(Bug::ShadowIsIgnored);
        self.interrupts_enabled() && !shadow
    }

    /// Has the next entry do something first.
    #[inline]
    pub(super) fn attend_to(&mut self, what: Attention) {
        self.events.attention.insert(what);
    }

    /// What the next entry has to do first.
    #[inline]
    pub(super) const fn attention(&self) -> Attention {
        self.events.attention
    }

    /// Takes what the next entry has to do first, which the caller does.
    #[inline]
    pub(super) const fn take_attention(&mut self) -> Attention {
        core::mem::replace(&mut self.events.attention, Attention::empty())
    }

    /// Whether a vector above the task priority waits, in the embedder's queue or in the local APIC.
    #[inline]
    pub(super) fn has_interrupt(&self) -> bool {
        self.events.local != 0 || self.events.queued(self.control.cr8) != 0
    }

    /// Takes note of what the local APIC would deliver now.
    pub(super) fn follow_apic(&mut self) {
        let local = self.apic.highest_deliverable().unwrap_or(0);
        // One that has gone may be watched for.
        if local != self.events.local {
            self.events.local = local;
            self.attend_to(Attention::INTERRUPTS);
        }
    }

    /// Whether RFLAGS.IF is set, an interrupt shadow or not.
    pub(super) fn takes_interrupts(&self) -> bool {
        self.interrupts_enabled()
    }

    /// Takes note of a change to what is forced.
    pub(super) fn change_forced(&mut self, groups: Clean) {
        self.changed.insert(groups);
        self.force_due = true;
    }

    /// Forgets what waits and what is under way, and ends the blocking of NMIs.
    pub(super) fn forget_events(&mut self) {
        self.watch_window(false);
        self.vmcb.control.intercepts_1 &= !Intercepts1::IRET.bits();
        self.change_forced(Clean::INTERCEPTS);
        self.events = Events { attention: Attention::TIMER, ..Events::new() };
    }

    /// Takes over the event whose delivery the last exit cut short, as EXITINTINFO names it, to be delivered again.
    #[inline]
    pub(super) fn requeue(&mut self, interrupted: u64) {
        if Event::is_valid(interrupted) && !planted(Bug::LostEventIsForgotten) {
            self.requeue_lost(interrupted);
        }
    }

    /// Software interrupts, INT3 and INTO are not delivered again: RIP is still at the instruction, which is executed again.
    #[cold]
    fn requeue_lost(&mut self, raw: u64) {
        let by_instruction = |event: &Event| match event {
            _ if planted(Bug::SoftInterruptIsRepeated) => false,
            Event::SoftwareInterrupt(_) => true,
            Event::Exception(exception) => matches!(exception.vector.0, 3 | 4),
            _ => false,
        };
        if let Some(event) = Event::decode(raw).filter(|event| !by_instruction(event)) {
            self.events.set_under_way(event.encode());
        }
    }

    /// Raises an exception at the current instruction; joins it with an event that is already on its way.
    pub fn raise(&mut self, exception: Exception) -> Raised {
        self.events.last_raised = Some((exception, Gva(self.vmcb.save.cr2)));
        let under_way = if self.is_delivering() { Event::decode(self.events.under_way) } else { None };
        let combined = match under_way {
            Some(Event::Exception(first)) if !planted(Bug::DoubleFaultIsSkipped) => combine(first, exception),
            // An interrupt that was being delivered has been acknowledged, and is lost behind an exception that its own delivery raised, as on the processor.
            _ => Combined::Deliver(exception),
        };
        match combined {
            Combined::Deliver(exception) => {
                self.events.set_under_way(Event::encode_exception(exception));
                Raised::Pending
            }
            Combined::Shutdown => Raised::Shutdown,
        }
    }

    /// Whether an event was being delivered when the guest left.
    #[inline]
    pub(crate) const fn is_delivering(&self) -> bool {
        self.events.attention.contains(Attention::UNDER_WAY)
    }

    /// Raises the debug exception that follows an instruction where the guest steps (APM vol. 2, 13.1.4): hv has carried one out, or a round of one that
    /// repeats. Nothing is under way then that the exception could collide with.
    #[inline]
    pub(crate) fn end_step(&mut self) {
        if self.vmcb.save.rflags & RFlags::TRAP_FLAG.bits() != 0 && !planted(Bug::StepIsForgotten) {
            self.raise_step();
        }
    }

    #[cold]
    fn raise_step(&mut self) {
        self.note_step();
        let _pending = self.raise(Exception::plain(Vector::DB));
    }

    /// The exception that ended a virtual CPU which has shut down: what it was delivering, or what hv raised last.
    pub fn shutdown_cause(&self) -> Option<(Exception, Gva)> {
        let interrupted = match Event::decode(self.vmcb.control.exit_int_info) {
            Some(Event::Exception(exception)) => Some(exception),
            _ => None,
        };
        match (interrupted, self.events.last_raised) {
            (Some(exception), Some((raised, address))) if exception.vector == raised.vector => Some((raised, address)),
            (Some(exception), _) if exception.vector == Vector::PF => Some((exception, Gva(self.vmcb.save.cr2))),
            (Some(exception), _) => Some((exception, Gva(0))),
            (None, raised) => raised,
        }
    }
}
