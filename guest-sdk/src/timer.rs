//! A timer that interrupts the guest: once, or again and again. It is the local APIC's, in its mode of TSC deadlines (APM vol. 2, 16.4.1).
//!
//! ```ignore (there are no interrupts in a process)
//! use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use guest_sdk::{exceptions, time::Duration, timer};
//!
//! static TICKS: AtomicU64 = AtomicU64::new(0);
//!
//! timer::every(Duration::from_millis(1), || drop(TICKS.fetch_add(1, Relaxed)));
//! while TICKS.load(Relaxed) < 10 {
//!     exceptions::wait_for_interrupt();
//! }
//! timer::stop();
//! ```
//!
//! There is one timer; to set it anew takes the place of what it was set to. What it calls runs as a handler of [`crate::exceptions`] does, with
//! interrupts off. No tick is lost: one that is late is followed by the next at once.
#![expect(unsafe_code, reason = "the local APIC's registers, and a function behind an atomic word")]

use core::{
    arch::asm,
    mem,
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use spin::Once;

use crate::{
    backend,
    exceptions::{self, Frame, vector::FIRST_INTERRUPT},
    time::Instant,
};

/// The vector of the timer's interrupts.
pub const VECTOR: u8 = FIRST_INTERRUPT;
/// The vector of interrupts that turn out to be none.
const SPURIOUS: u8 = 0xff;

/// Registers of the local APIC, as MSRs (APM vol. 2, 16.11).
mod register {
    pub(super) const BASE: u32 = 0x1b;
    pub(super) const TASK_PRIORITY: u32 = 0x808;
    pub(super) const END_OF_INTERRUPT: u32 = 0x80b;
    pub(super) const SPURIOUS: u32 = 0x80f;
    pub(super) const LOCAL_TIMER: u32 = 0x832;
    pub(super) const TSC_DEADLINE: u32 = 0x6e0;
}

/// Base register: the APIC is on, in x2APIC mode.
const X2APIC: u64 = 1 << 11 | 1 << 10;
/// Spurious interrupt register: the APIC delivers interrupts.
const ON: u64 = 1 << 8;
/// Local vector: the mode of TSC deadlines.
const DEADLINES: u64 = 0b10 << 17;

/// When the next tick is due, in nanoseconds of the monotonic clock.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds between ticks; 0 for one tick only.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// The address of what is called.
static CALLED: AtomicUsize = AtomicUsize::new(0);

/// Calls a function again and again, and lets interrupts through; returns when the first period began.
///
/// # Panics
/// If the period is zero.
pub fn every(period: Duration, call: fn()) -> Instant {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    assert!(period > 0, "a timer's period is not zero");
    let start = backend::now_ns();
    set(start.saturating_add(period), period, call);
    Instant::from_ns(start)
}

/// Calls a function at that time, and lets interrupts through.
pub fn once(at: Instant, call: fn()) {
    set(at.since_start().as_nanos() as u64, 0, call);
}

/// Makes no more calls.
pub fn stop() {
    write(register::TSC_DEADLINE, 0);
    CALLED.store(0, Release);
}

fn set(next: u64, period: u64, call: fn()) {
    exceptions::disable_interrupts();
    start_apic();
    NEXT.store(next, Relaxed);
    PERIOD.store(period, Relaxed);
    CALLED.store(call as usize, Release);
    arm(next);
    exceptions::enable_interrupts();
}

fn start_apic() {
    static STARTED: Once<()> = Once::new();
    STARTED.call_once(|| {
        exceptions::handle(SPURIOUS, |_| {});
        exceptions::handle(VECTOR, tick);
        write(register::BASE, read(register::BASE) | X2APIC);
        write(register::SPURIOUS, ON | u64::from(SPURIOUS));
        write(register::TASK_PRIORITY, 0);
        write(register::LOCAL_TIMER, DEADLINES | u64::from(VECTOR));
    });
}

/// Has the timer interrupt at a time of the monotonic clock; 0 would stop it.
fn arm(next: u64) {
    write(register::TSC_DEADLINE, backend::run_info().clock.tsc(next).max(1));
}

fn tick(_: &mut Frame) {
    write(register::END_OF_INTERRUPT, 0);
    let called = CALLED.load(Acquire);
    if called == 0 {
        return;
    }
    let period = PERIOD.load(Relaxed);
    if period > 0 {
        // Counted from the last deadline, not from now: what handlers take does not add up.
        let next = NEXT.load(Relaxed).saturating_add(period);
        NEXT.store(next, Relaxed);
        arm(next);
    }
    // SAFETY: the word is 0 or what `set` made of a function.
    let call = unsafe { mem::transmute::<usize, fn()>(called) };
    call();
}

fn read(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every guest has these registers, and reading them changes nothing.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

fn write(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the values that are written here make the APIC send nothing but interrupts for which there are handlers.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}
