//! The local APIC of a virtual CPU: what the guest and its devices do to it, and how the host's clock drives its timer.

use super::{Activity, Vcpu, cpu::Cpu, events::Attention};
use crate::{
    apic::{Apic, Ended, Message, Pin, Refused},
    hw::Hw,
};

impl Vcpu {
    /// The local APIC.
    pub const fn apic(&self) -> &Apic {
        &self.apic
    }

    /// What the guest's time stamp counter reads when the host's reads `tsc`.
    pub fn guest_time(&self, tsc: u64) -> u64 {
        tsc.wrapping_add(self.vmcb.control.tsc_offset)
    }

    /// What the host's time stamp counter reads when the guest's reads `time`.
    fn host_time(&self, time: u64) -> u64 {
        time.wrapping_sub(self.vmcb.control.tsc_offset)
    }

    /// Takes in a rising edge at one of the processor's interrupt pins, which becomes what the guest's APIC has been told.
    pub fn raise_pin(&mut self, pin: Pin) {
        if self.apic.pin(pin) == Some(Message::Nmi) {
            self.inject_nmi();
        }
        self.follow_apic();
    }

    /// Lets the guest's new task priority take effect.
    pub(super) fn set_task_class(&mut self, class: u8) {
        self.apic.set_task_class(class);
        self.follow_apic();
    }

    /// Starts the APIC's timer at the guest's time `now`: the guest wrote the x2APIC's register for that.
    #[inline]
    pub(crate) fn start_timer(&mut self, count: u64, now: u64) -> Result<(), Refused> {
        self.apic.write_initial_count(count, now)?;
        self.attend_to(Attention::TIMER);
        Ok(())
    }

    /// Ends the service of an interrupt: the guest wrote the x2APIC's register for that.
    #[inline]
    pub(crate) fn end_of_interrupt(&mut self, value: u64) -> Result<(), Refused> {
        if self.apic.write_end_of_interrupt(value)? == Ended::Service && self.apic.highest_deliverable().is_some() {
            self.follow_apic();
        }
        Ok(())
    }

    /// Lets the guest change its APIC; what that means for events, CR8 and the host's timer follows.
    pub(crate) fn change_apic<T>(&mut self, change: impl FnOnce(&mut Apic) -> T) -> T {
        let changed = change(&mut self.apic);
        let class = self.apic.task_priority() >> 4;
        if class != self.control.cr8 {
            self.control.cr8 = class;
            self.attend_to(Attention::INTERRUPTS);
        }
        if self.apic.take_retimed() {
            self.attend_to(Attention::TIMER);
        }
        self.follow_apic();
        changed
    }

    /// Lets the APIC's timer take note of the time, and arms the host's for what it waits for next.
    #[inline(always)]
    pub(super) fn serve_timer<H: Hw>(&mut self, cpu: &mut Cpu<H>) {
        if self.apic.timer_runs() {
            let now = self.guest_time(cpu.hw.tsc());
            if self.apic.advance(now) {
                self.follow_apic();
            }
        }
        cpu.arm(self.wake_time());
    }

    /// When the host has to look at the APIC's timer next, by the host's time stamp counter.
    pub fn wake_time(&self) -> Option<u64> {
        self.apic.next_deadline().map(|deadline| self.host_time(deadline))
    }

    /// Sends the virtual CPU to sleep, which has executed HLT, if its timer will wake it; tells when that is.
    pub(crate) fn sleep(&mut self) -> Option<u64> {
        let until = self.wake_time().filter(|_| self.takes_interrupts())?;
        self.activity = Activity::Sleeps;
        Some(until)
    }

    /// Lets the APIC's timer take note of the time before a run, if it counts, and tells until when a virtual CPU that is asleep sleeps on: `None` where
    /// it is awake, or something has come that wakes it.
    #[inline]
    pub(crate) fn wake<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Option<u64> {
        // One that is asleep waits for its timer.
        if self.apic.timer_runs() { self.look_at_timer(cpu) } else { None }
    }

    #[cold]
    fn look_at_timer<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Option<u64> {
        self.serve_timer(cpu);
        if self.activity == Activity::Sleeps
            && !self.has_wake_event()
            && let Some(until) = self.wake_time()
        {
            return Some(until);
        }
        self.activity = Activity::Runs;
        None
    }
}
