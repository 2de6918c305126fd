//! What of the events that wait the next entry delivers, and how the rest gets its turn (APM vol. 2, 15.20 and 15.21).
//!
//! Everything is delivered by EVENTINJ. V_IRQ is used only to be told, by the VINTR exit, that the guest could take an interrupt now: QEMU 7.2 misreports
//! an interrupt whose delivery by V_IRQ faults.

use super::{
    Vcpu,
    events::{Attention, Events, Nmis, Step},
};
use crate::{
    plant::{Bug, planted},
    svm::{
        Clean, Event, Intercepts1,
        virtual_interrupt::{V_IGN_TPR, V_IRQ},
    },
    x86::RFlags,
};

impl Vcpu {
    /// Decides what the next entry delivers, and which windows it watches for. What is under way goes first, then NMI, then the highest interrupt (APM
    /// vol. 2, table 8-9).
    pub(super) fn prepare_events(&mut self, attention: Attention) {
        let under_way = attention.contains(Attention::UNDER_WAY);
        if attention.contains(Attention::OTHERS) {
            self.follow_iret();
            if !under_way && !self.deliver_nmi() {
                self.deliver_interrupt();
            }
            self.watch_for_all();
        } else if attention.contains(Attention::INTERRUPTS) {
            if !under_way {
                self.deliver_interrupt();
            }
            self.watch_for_interrupts();
        }
        if under_way {
            self.deliver_under_way();
        }
    }

    #[inline]
    pub(super) fn deliver_under_way(&mut self) {
        self.vmcb.control.event_injection = self.events.under_way;
    }

    /// Delivers an interrupt where nothing else waits.
    #[inline]
    pub(super) fn prepare_interrupts(&mut self) {
        if self.events.local != 0 {
            return self.prepare_local();
        }
        self.deliver_queued();
        self.watch_for_interrupts();
    }

    #[inline(never)]
    fn prepare_local(&mut self) {
        self.deliver_local_or_queued();
        self.watch_for_interrupts();
    }

    /// Has the next entry look again, and the processor tell when an interrupt can be taken, if one waits.
    #[inline]
    fn watch_for_interrupts(&mut self) {
        let waits = self.has_interrupt();
        self.events.attention = if waits { Attention::INTERRUPTS } else { Attention::empty() };
        self.watch_window(waits);
    }

    /// The same for all that can wait.
    fn watch_for_all(&mut self) {
        self.watch_for_interrupts();
        let Events { nmi, nmis, window_wanted, .. } = self.events;
        if window_wanted {
            self.watch_window(true);
        }
        if nmi && matches!(nmis, Nmis::EndingAt(_)) {
            self.events.step = Step::Single;
            self.vmcb.save.rflags |= RFlags::TRAP_FLAG.bits();
        }
        if nmi || window_wanted || nmis != Nmis::Open {
            self.attend_to(Attention::OTHERS);
        }
    }

    /// Delivers an NMI, if one waits and can be taken.
    fn deliver_nmi(&mut self) -> bool {
        let delivers = self.events.nmi && self.events.nmis == Nmis::Open && self.vmcb.control.interrupt_shadow & 1 == 0;
        if delivers {
            self.events.nmi = false;
            self.block_nmis();
            self.vmcb.control.event_injection = Event::Nmi.encode();
        }
        delivers
    }

    /// Delivers the highest interrupt, of the embedder's queue or of the local APIC, if one waits and can be taken.
    fn deliver_interrupt(&mut self) {
        if self.events.local != 0 { self.deliver_local_or_queued() } else { self.deliver_queued() }
    }

    /// The same where the APIC has none.
    #[inline]
    fn deliver_queued(&mut self) {
        let vector = self.events.queued(self.control.cr8);
        if vector != 0 && self.can_interrupt() {
            self.vmcb.control.event_injection = Event::encode_interrupt(vector);
            self.events.queue.remove_highest();
        }
    }

    /// The same where the APIC has one; one that both have is the APIC's first.
    #[inline]
    fn deliver_local_or_queued(&mut self) {
        if !self.can_interrupt() {
            return;
        }
        let (local, queued) = (self.events.local, self.events.queued(self.control.cr8));
        self.vmcb.control.event_injection = Event::encode_interrupt(local.max(queued));
        if queued > local {
            self.events.queue.remove_highest();
        } else {
            self.apic.accept();
            // No other is deliverable now.
            self.events.local = 0;
        }
    }

    /// Has the processor exit when the guest could take an interrupt, or no longer.
    #[inline]
    pub(super) fn watch_window(&mut self, wanted: bool) {
        if wanted != self.events.window_watched && !planted(Bug::WindowIsNotWatched) {
            self.change_window(wanted);
        }
    }

    #[cold]
    fn change_window(&mut self, wanted: bool) {
        self.events.window_watched = wanted;
        let control = &mut self.vmcb.control;
        let (intercept, request) = (Intercepts1::VINTR.bits(), V_IRQ | V_IGN_TPR);
        if wanted {
            control.intercepts_1 |= intercept;
            control.virtual_interrupt |= request;
        } else {
            control.intercepts_1 &= !intercept;
            control.virtual_interrupt &= !request;
        }
        self.change_forced(Clean::INTERCEPTS | Clean::INTERRUPT);
    }

    /// The guest could take an interrupt now (VINTR exit). Tells whether the embedder wanted to know.
    pub(crate) fn open_window(&mut self) -> bool {
        self.watch_window(false);
        self.attend_to(Attention::INTERRUPTS);
        core::mem::take(&mut self.events.window_wanted)
    }

    fn block_nmis(&mut self) {
        if planted(Bug::NmisStayOpen) {
            return;
        }
        self.events.nmis = Nmis::Blocked;
        self.vmcb.control.intercepts_1 |= Intercepts1::IRET.bits();
        self.change_forced(Clean::INTERCEPTS);
    }

    /// The guest is about to execute the IRET that ends NMI blocking.
    pub(crate) fn begin_iret(&mut self) {
        self.events.nmis = Nmis::EndingAt(self.vmcb.save.rip);
        self.attend_to(Attention::OTHERS);
        self.vmcb.control.intercepts_1 &= !Intercepts1::IRET.bits();
        self.change_forced(Clean::INTERCEPTS);
    }

    /// Takes note of an IRET that has been executed by now.
    fn follow_iret(&mut self) {
        let Nmis::EndingAt(rip) = self.events.nmis else { return };
        if self.vmcb.save.rip != rip {
            self.events.nmis = Nmis::Open;
        } else if self.events.step == Step::Single {
            self.vmcb.save.rflags &= !RFlags::TRAP_FLAG.bits();
            self.events.step = Step::No;
        }
    }

    /// Whether a debug exception is nothing but the end of an instruction that hv has stepped over.
    pub(crate) fn ends_step(&mut self) -> bool {
        let stepped = self.events.step == Step::Single;
        self.events.step = Step::No;
        stepped && self.vmcb.save.rflags & RFlags::TRAP_FLAG.bits() == 0
    }
}
