//! The timer (APM vol. 2, 16.4.1), which counts at the speed of the time stamp counter divided by what software chooses.

use super::{Apic, register::Lvt};

/// What the timer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    /// It expires when the time stamp counter reaches a value.
    TscDeadline,
}

impl TimerMode {
    /// Reads bits 18:17 of the timer's local vector; `None` is reserved.
    pub(super) const fn decode(lvt: u32) -> Option<Self> {
        match lvt >> 17 & 3 {
            0 => Some(Self::OneShot),
            1 => Some(Self::Periodic),
            2 => Some(Self::TscDeadline),
            _ => None,
        }
    }
}

/// The timer's registers and what it is counting.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    initial: u32,
    /// The divide configuration register.
    divide: u32,
    /// When the count reaches 0 next, as a time stamp; never is `u64::MAX`.
    pub(super) deadline: u64,
}

const NEVER: u64 = u64::MAX;

impl Timer {
    pub(super) const fn new() -> Self {
        Self { initial: 0, divide: 0, deadline: NEVER }
    }

    #[inline]
    pub(super) const fn is_due(&self, now: u64) -> bool {
        now >= self.deadline && self.deadline != NEVER
    }

    #[inline]
    pub(super) const fn deadline(&self) -> Option<u64> {
        if self.deadline == NEVER { None } else { Some(self.deadline) }
    }

    /// The deadline that lies behind `now`: the next of a periodic timer is the first in the future, in step with all before it.
    fn deadline_behind(&self, now: u64, mode: TimerMode) -> u64 {
        if self.is_due(now) { self.deadline_after(now, mode) } else { self.deadline }
    }

    /// The same where the deadline has come.
    pub(super) fn deadline_after(&self, now: u64, mode: TimerMode) -> u64 {
        if mode != TimerMode::Periodic || self.initial == 0 {
            return NEVER;
        }
        let period = self.ticks(self.initial);
        let missed = (now - self.deadline) / period;
        self.deadline.saturating_add((missed + 1).saturating_mul(period))
    }

    /// What a count comes to in ticks of the time stamp counter.
    const fn ticks(&self, count: u32) -> u64 {
        (count as u64) << self.shift()
    }

    /// The divide configuration register: bits 3, 1 and 0 are one number, and 7 stands for division by 1.
    const fn shift(&self) -> u32 {
        ((self.divide >> 1 & 4 | self.divide & 3) + 1) % 8
    }

    /// The count that is left; part of a step counts as one.
    fn current(&self, now: u64, mode: TimerMode) -> u32 {
        let deadline = self.deadline_behind(now, mode);
        let left = if deadline == NEVER { 0 } else { deadline - now };
        left.div_ceil(1 << self.shift()).min(u64::from(self.initial)) as u32
    }

    fn start(&mut self, count: u32, now: u64) {
        self.deadline = if count == 0 { NEVER } else { now.saturating_add(self.ticks(count)) };
    }
}

impl Apic {
    /// The timer's mode; `write_local` lets no reserved one in.
    pub(super) const fn timer_mode(&self) -> TimerMode {
        match TimerMode::decode(self.lvt[Lvt::Timer as usize]) {
            Some(mode) => mode,
            None => TimerMode::OneShot,
        }
    }

    /// The TSC deadline register (MSR 6E0h): 0 unless the timer waits for one.
    pub fn tsc_deadline(&self) -> u64 {
        match self.timer_mode() {
            TimerMode::TscDeadline => self.timer.deadline().unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes the TSC deadline register, which does something in the mode of its name only; 0 disarms the timer.
    #[inline]
    pub fn set_tsc_deadline(&mut self, deadline: u64) {
        self.retimed = true;
        if self.timer_mode() == TimerMode::TscDeadline {
            self.timer.deadline = if deadline == 0 { NEVER } else { deadline };
        }
    }

    /// The time stamp counter was at `before` and is set to `now`: a deadline is what it was, a count goes on.
    pub fn set_time(&mut self, before: u64, now: u64) {
        // What has expired by now did so by the old time.
        self.advance(before);
        if self.timer_runs() && self.timer_mode() != TimerMode::TscDeadline {
            let left = self.timer.deadline - before;
            self.timer.deadline = now.saturating_add(left).min(NEVER - 1);
        }
        self.retimed = true;
    }

    /// Whether the timer counts, whatever becomes of it.
    #[inline]
    pub const fn timer_runs(&self) -> bool {
        self.timer.deadline != NEVER
    }

    pub(super) const fn initial_count(&self) -> u32 {
        self.timer.initial
    }

    /// Starts the count-down, or stops it with 0; in the mode of deadlines there is none.
    #[inline]
    pub(super) fn set_initial_count(&mut self, count: u32, now: u64) {
        self.retimed = true;
        if self.timer_mode() != TimerMode::TscDeadline {
            self.timer.initial = count;
            self.timer.start(count, now);
        }
    }

    pub(super) fn current_count(&self, now: u64) -> u32 {
        let mode = self.timer_mode();
        if mode == TimerMode::TscDeadline { 0 } else { self.timer.current(now, mode) }
    }

    pub(super) const fn divide(&self) -> u32 {
        self.timer.divide
    }

    /// Changes the speed; what is left to count is counted at the new one.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        self.retimed = true;
        self.advance(now);
        let left = self.current_count(now);
        self.timer.divide = divide & 0b1011;
        if self.timer_mode() != TimerMode::TscDeadline {
            self.timer.start(left, now);
        }
    }

    /// Changes the mode. Counting goes on between the two modes that count; to and from the mode of deadlines the timer is disarmed.
    pub(super) fn change_timer_mode(&mut self, before: TimerMode) {
        let after = self.timer_mode();
        if before != after && (before == TimerMode::TscDeadline || after == TimerMode::TscDeadline) {
            (self.timer.deadline, self.timer.initial) = (NEVER, 0);
        }
    }
}
