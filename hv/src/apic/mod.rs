//! The local APIC of a virtual CPU (APM vol. 2, chapter 16): a model without a clock. Times are values of the guest's time stamp counter.
//!
//! | file | what it does |
//! |---|---|
//! | `base` | the APIC base register: on, off, and which face it shows |
//! | `register` | the registers, by their number |
//! | `access` | reads and writes of them, as x2APIC MSRs and as the xAPIC page |
//! | `command` | the interrupt command register |
//! | `timer` | the timer, in its three modes |
//!
//! Whoever owns it calls [`Apic::advance`] when time has passed, asks [`Apic::highest_deliverable`] what the processor would be interrupted by, and
//! tells [`Apic::accept`] that it was. [`Apic::next_deadline`] says when to look again.
//!
//! **Storms.** However short a period a guest sets, expiries that nobody looked at come to one interrupt: an owner that looks once per
//! entry delivers at most one per entry, and what comes next is counted from the deadlines, not from when anybody looked, so that a clock made of
//! them does not drift. How near in the future the host's own timer is set is the embedder's to bound ([`crate::host::Timer`]).

mod access;
mod base;
mod command;
mod register;
#[cfg(test)]
mod tests;
mod timer;

pub use base::Mode;
pub use command::Message;
pub use register::{MSR_FIRST, MSR_LAST, PAGE_BYTES};

use crate::x86::VectorSet;
use base::Base;
use register::Lvt;
use timer::Timer;

/// The access is a general protection fault: the register does not exist, is not readable or writable, or a reserved bit is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// What the end of an interrupt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// No interrupt was in service.
    Nothing,
    /// The service of one; others may be deliverable now.
    Service,
}

/// A pin of the processor that a local vector stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// LINT0.
    Lint0,
    /// LINT1.
    Lint1,
}

/// Spurious interrupt register, bit 8: the APIC is on (APM vol. 2, 16.4.7).
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// The first vector that an interrupt may have: those below are the processor's own.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// Error status (APM vol. 2, 16.4.6): an illegal vector was sent.
const ERROR_SENT_ILLEGAL: u32 = 1 << 5;
/// Error status: an illegal vector was received.
const ERROR_RECEIVED_ILLEGAL: u32 = 1 << 6;
/// Error status: a register that does not exist was accessed.
const ERROR_REGISTER: u32 = 1 << 7;

/// The local APIC of one virtual CPU.
#[derive(Clone, Debug)]
pub struct Apic {
    id: u32,
    base: Base,
    /// The highest requested vector of a class above that in service, if the APIC is on; 0 is none. The task priority is not in it.
    candidate: u8,
    task_priority: u8,
    requests: VectorSet,
    in_service: VectorSet,
    spurious: u32,
    logical_destination: u32,
    destination_format: u32,
    command: u64,
    lvt: [u32; Lvt::COUNT],
    /// What the error status register shows, and what has come together since it was last written.
    errors: u32,
    new_errors: u32,
    timer: Timer,
    /// What [`Apic::next_deadline`] says may have changed.
    retimed: bool,
}

impl Apic {
    /// The APIC of the processor with that ID as it is after RESET: on, in xAPIC mode, all local vectors masked.
    pub const fn new(id: u32, base: Base) -> Self {
        Self {
            id,
            base,
            candidate: 0,
            task_priority: 0,
            requests: VectorSet::new(),
            in_service: VectorSet::new(),
            spurious: 0xff,
            logical_destination: 0,
            destination_format: u32::MAX,
            command: 0,
            lvt: [Lvt::MASKED; Lvt::COUNT],
            errors: 0,
            new_errors: 0,
            timer: Timer::new(),
            retimed: true,
        }
    }

    /// The APIC of the boot processor after RESET.
    pub const fn boot_processor() -> Self {
        Self::new(0, Base::RESET)
    }

    /// Forgets everything but its ID, where it is and which face it shows: INIT (APM vol. 2, 16.3.2).
    pub fn init(&mut self) {
        *self = Self::new(self.id, self.base);
    }

    /// Which face the APIC shows.
    #[inline]
    pub const fn mode(&self) -> Mode {
        self.base.mode()
    }

    /// The task priority, as the low 8 bits of its register.
    #[inline]
    pub const fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Takes over the task priority class that the guest has set as CR8; a class that differs clears the sub-class (APM vol. 2, 16.6.4).
    #[inline]
    pub const fn set_task_class(&mut self, class: u8) {
        if self.task_priority >> 4 != class & 0xf {
            self.task_priority = class << 4;
        }
    }

    /// The processor priority: the task's, or the class of the highest vector in service where that is higher.
    pub fn processor_priority(&self) -> u8 {
        let service = self.in_service.highest() & 0xf0;
        if self.task_priority & 0xf0 >= service { self.task_priority } else { service }
    }

    /// The vector that interrupts the processor as soon as it takes interrupts: the highest that is requested, if its class is above the processor's priority.
    #[inline]
    pub const fn highest_deliverable(&self) -> Option<u8> {
        match self.candidate {
            vector if vector >> 4 > self.task_priority >> 4 => Some(vector),
            _ => None,
        }
    }

    /// The vector that only the task priority holds back.
    #[inline]
    pub const fn held_by_task_priority(&self) -> Option<u8> {
        match self.candidate {
            0 => None,
            vector if vector >> 4 > self.task_priority >> 4 => None,
            vector => Some(vector),
        }
    }

    /// Takes note that the processor takes the interrupt that is deliverable: it is requested no more, but in service. What is still requested is of no higher
    /// class.
    #[inline]
    pub fn accept(&mut self) {
        self.in_service.insert(self.candidate);
        self.requests.remove_highest();
        self.candidate = 0;
    }

    /// Takes in an interrupt, which is edge-triggered; one that is requested already is the same interrupt. An APIC that is off takes in none (APM
    /// vol. 2, 16.4.7).
    pub fn request(&mut self, vector: u8) {
        if self.is_on() {
            self.receive(vector);
        }
    }

    /// The same where the APIC is on.
    #[inline]
    fn receive(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            return self.error(ERROR_RECEIVED_ILLEGAL);
        }
        self.requests.insert(vector);
        self.update();
    }

    /// Takes in a rising edge at a pin, and says whether its local vector makes a non-maskable interrupt of it.
    pub fn pin(&mut self, pin: Pin) -> Option<Message> {
        self.local(match pin {
            Pin::Lint0 => Lvt::Int0,
            Pin::Lint1 => Lvt::Int1,
        })
    }

    /// Lets time pass up to `now`: a timer that has expired makes its interrupt, one however often it did. Tells whether it has.
    #[inline]
    pub fn advance(&mut self, now: u64) -> bool {
        let is_due = self.timer.is_due(now);
        if is_due {
            self.expire(now);
        }
        is_due
    }

    #[cold]
    fn expire(&mut self, now: u64) {
        self.timer.deadline = self.timer.deadline_after(now, self.timer_mode());
        let entry = self.lvt[Lvt::Timer as usize];
        // A message type is not part of the timer's local vector: it makes fixed interrupts only.
        if self.is_on() && entry & Lvt::MASKED == 0 {
            self.receive(entry as u8);
        }
    }

    /// When the timer will interrupt the processor next; `None` when it will not, unless a register is written.
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.timer.deadline() {
            Some(deadline) if self.is_on() && self.lvt[Lvt::Timer as usize] & Lvt::MASKED == 0 => Some(deadline),
            _ => None,
        }
    }

    /// Tells whether what [`Apic::next_deadline`] says may have changed by a write since this was asked last.
    #[inline]
    pub const fn take_retimed(&mut self) -> bool {
        core::mem::replace(&mut self.retimed, false)
    }

    /// Ends the service of the highest vector in service, if there is one.
    #[inline]
    fn end_of_interrupt(&mut self) -> Ended {
        match self.in_service.highest() {
            0 => Ended::Nothing,
            _ => {
                self.in_service.remove_highest();
                self.update();
                Ended::Service
            }
        }
    }

    /// Both the base register and the spurious interrupt register have the APIC on.
    #[inline]
    const fn is_on(&self) -> bool {
        !matches!(self.base.mode(), Mode::Disabled) && self.spurious & SOFTWARE_ENABLE != 0
    }

    /// Delivers what a local vector says: a fixed interrupt is requested, a non-maskable one is the caller's.
    fn local(&mut self, lvt: Lvt) -> Option<Message> {
        let entry = self.lvt[lvt as usize];
        if !self.is_on() || entry & Lvt::MASKED != 0 {
            return None;
        }
        match entry >> 8 & 7 {
            command::FIXED => self.receive(entry as u8),
            command::NMI => return Some(Message::Nmi),
            // SMI and ExtINT have nobody here who would answer them; INIT is legal for no local vector of ours.
            _ => {}
        }
        None
    }

    fn error(&mut self, error: u32) {
        let known = self.new_errors & error != 0;
        self.new_errors |= error;
        // An error vector that is illegal itself must not make another error.
        if !known {
            self.local(Lvt::Error);
        }
    }

    #[inline]
    fn update(&mut self) {
        let (requested, service) = (self.requests.highest(), self.in_service.highest());
        self.candidate = if requested >> 4 > service >> 4 && self.is_on() { requested } else { 0 };
    }
}
