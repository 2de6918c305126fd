//! The local APIC in its xAPIC form: the host timer, and where non-maskable interrupts come in.
#![expect(unsafe_code, reason = "reads and writes the local APIC's registers, which are mapped memory")]

use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use x86_64::{
    instructions::interrupts,
    registers::model_specific::{ApicBase, ApicBaseFlags},
};

use crate::{clock, cpu, ports::IoPort, traps};

/// Where the registers lie (APM vol. 2, 16.3.1).
pub(crate) const BASE: u64 = 0xfee0_0000;

/// Bit 16 of a local vector: masked.
const MASKED: u32 = 1 << 16;
/// Message type non-maskable interrupt, in bits 10:8 of a local vector and of the command register.
const MESSAGE_NMI: u32 = 0b100 << 8;
/// Bit 8 of the spurious interrupt register: the APIC is on.
const ON: u32 = 1 << 8;
/// The timer counts at the APIC's own speed.
const DIVIDE_BY_1: u32 = 0b1011;
/// How soon the timer comes again when the limit has passed, in its ticks.
const NAG_TICKS: u32 = 1_000_000;
/// How soon the timer comes for a guest that runs, at the soonest, in its ticks: time for the guest to get on, and for the host to do its work.
const GUEST_TICKS: u32 = 2_000;
/// From this count on, the timer comes a little early and is started again: it was measured with less precision.
const LONG_TICKS: u64 = 1 << 20;
/// What of a long count is left out at first, as a shift.
const EARLY_SHIFT: u32 = 10;
/// Part of a second for which the timer is measured.
const WINDOW_PER_SECOND: u64 = 50_000;

/// The registers that the host uses, by their offset (APM vol. 2, table 16-2).
#[derive(Clone, Copy)]
#[repr(u64)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    LocalTimer = 0x320,
    LocalInt0 = 0x350,
    LocalInt1 = 0x360,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    Divide = 0x3e0,
}

impl Register {
    fn read(self) -> u32 {
        // SAFETY: `init` found the APIC here, paging.rs maps it, and reading none of these registers has side effects.
        unsafe { ptr::read_volatile((BASE + self as u64) as *const u32) }
    }

    fn write(self, value: u32) {
        // SAFETY: as for `read`; the values written here make the APIC send nothing but interrupts, which traps.rs expects.
        unsafe { ptr::write_volatile((BASE + self as u64) as *mut u32, value) }
    }
}

/// One CPU's host timer, which serves two: the embedder's limit, and the guest that runs or waits. Times are time stamps.
pub(crate) struct Timer {
    /// When the embedder wants it to come, and again and again after that.
    limit: AtomicU64,
    /// When the guest does.
    guest: AtomicU64,
    /// Nobody runs that would have to be called back.
    waiting: AtomicBool,
    /// Timer ticks in 2^32 ticks of the time stamp counter.
    ratio: AtomicU64,
    /// How often it came.
    count: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Timer {
    /// Makes a timer that is not armed.
    pub(crate) const fn new() -> Self {
        Self {
            limit: AtomicU64::new(NEVER),
            guest: AtomicU64::new(NEVER),
            waiting: AtomicBool::new(false),
            ratio: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Returns how often it came.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Starts the count-down to the nearer of its times, or as much of it as the counter holds; for the guest it is at least `guest_ticks`.
    fn start(&self, guest_ticks: u32) {
        let (limit, guest) = (self.limit.load(Relaxed), self.guest.load(Relaxed));
        let (time, least) = if guest <= limit { (guest, guest_ticks) } else { (limit, NAG_TICKS) };
        // 0 stops the timer.
        Register::InitialCount.write(if time == NEVER { 0 } else { self.count_to(time).max(least) });
    }

    /// What is left until a time, in timer ticks; a little less where that is long.
    fn count_to(&self, time: u64) -> u32 {
        let ticks = time.saturating_sub(clock::now());
        let ticks = ((u128::from(ticks) * u128::from(self.ratio.load(Relaxed))) >> 32) as u64;
        if ticks > LONG_TICKS { long_count(ticks) } else { ticks as u32 }
    }
}

/// What to count of that many ticks at first.
#[cold]
fn long_count(ticks: u64) -> u32 {
    u32::try_from(ticks - (ticks >> EARLY_SHIFT)).unwrap_or(u32::MAX)
}

/// Why the local APIC cannot be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// It is not on, or not where the host looks for it, or in x2APIC mode.
    Elsewhere(u64),
    /// Its timer does not count.
    Stopped,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Elsewhere(base) => write!(f, "the local APIC is not at {BASE:#x} in xAPIC mode (APIC_BASE = {base:#x})"),
            Self::Stopped => write!(f, "the local APIC's timer does not count"),
        }
    }
}

/// Masks the 8259s, turns this CPU's APIC on, and measures its timer.
///
/// # Errors
/// There is none that the host can use.
pub(crate) fn init(tsc_hertz: u64) -> Result<(), Error> {
    IoPort::PIC_1_MASK.write(0xff);
    IoPort::PIC_2_MASK.write(0xff);
    let (frame, flags) = ApicBase::read();
    if frame.start_address().as_u64() != BASE
        || !flags.contains(ApicBaseFlags::LAPIC_ENABLE)
        || flags.contains(ApicBaseFlags::X2APIC_ENABLE)
    {
        return Err(Error::Elsewhere(frame.start_address().as_u64() | flags.bits()));
    }
    Register::Spurious.write(ON | u32::from(traps::SPURIOUS));
    Register::TaskPriority.write(0);
    Register::LocalInt0.write(MASKED);
    Register::LocalInt1.write(MESSAGE_NMI);
    Register::LocalTimer.write(MASKED | u32::from(traps::TIMER));
    Register::Divide.write(DIVIDE_BY_1);
    let ratio = measure(tsc_hertz / WINDOW_PER_SECOND).ok_or(Error::Stopped)?;
    cpu::local().timer.ratio.store(ratio, Relaxed);
    Register::LocalTimer.write(u32::from(traps::TIMER));
    Ok(())
}

/// Counts timer ticks in 2^32 ticks of the time stamp counter, over `window` of the latter.
fn measure(window: u64) -> Option<u64> {
    Register::InitialCount.write(u32::MAX);
    let start = clock::now();
    while clock::now() - start < window {
        core::hint::spin_loop();
    }
    let counted = u32::MAX - Register::CurrentCount.read();
    let passed = clock::now() - start;
    Register::InitialCount.write(0);
    (u64::from(counted) << 32).checked_div(passed).filter(|&ratio| ratio != 0)
}

/// Has the timer come at `limit`, a time stamp, and again and again after it until [`disarm`]: a guest that is entered just
/// behind a tick does not escape.
pub(crate) fn arm(limit: u64) {
    let timer = &cpu::local().timer;
    timer.limit.store(limit, Relaxed);
    timer.start(GUEST_TICKS);
}

/// Stops the timer.
pub(crate) fn disarm() {
    let timer = &cpu::local().timer;
    timer.limit.store(NEVER, Relaxed);
    timer.guest.store(NEVER, Relaxed);
    timer.start(GUEST_TICKS);
}

/// The timer as hv uses it for guests that run.
pub(crate) struct GuestTimer;

impl hv::host::Timer for GuestTimer {
    fn arm(&self, deadline: Option<u64>) {
        let timer = &cpu::local().timer;
        timer.guest.store(deadline.unwrap_or(NEVER), Relaxed);
        // An interrupt that is on its way for what is over does no harm.
        if deadline.is_some() {
            timer.start(GUEST_TICKS);
        }
    }
}

/// Halts until the time stamp counter reads `until`; what the timer was armed for before, it is armed for again.
pub(crate) fn wait_until(until: u64) {
    let timer = &cpu::local().timer;
    let armed = timer.guest.swap(until, Relaxed);
    timer.waiting.store(true, Relaxed);
    while clock::now() < until {
        // The interrupt waits for the HLT, and nothing runs that it could hold up.
        interrupts::disable();
        timer.start(1);
        interrupts::enable_and_hlt();
    }
    timer.waiting.store(false, Relaxed);
    // What it was armed for may have come, too, which hv finds out by itself.
    timer.guest.store(if armed > until { armed } else { NEVER }, Relaxed);
    if armed > until || timer.limit.load(Relaxed) != NEVER {
        timer.start(GUEST_TICKS);
    }
}

/// Handles the timer's interrupt.
pub(crate) fn on_timer() {
    let cpu::PerCpu { timer, kick, .. } = cpu::local();
    timer.count.fetch_add(1, Relaxed);
    if !timer.waiting.load(Relaxed) {
        kick.raise();
        timer.start(GUEST_TICKS);
    }
    Register::EndOfInterrupt.write(0);
}

/// Sends this CPU a non-maskable interrupt.
pub(crate) fn send_nmi_to_self() {
    Register::CommandHigh.write(Register::Id.read());
    Register::CommandLow.write(MESSAGE_NMI);
}
