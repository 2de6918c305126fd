//! The host program: brings a bare machine up, runs the guests of a job one after the other under hv, and ends.
//!
//! | module | what it does |
//! |---|---|
//! | [`boot`] | from the PVH entry point to Rust |
//! | [`cpu`], [`traps`], [`paging`] | the processor's tables, stacks and handlers |
//! | [`memory`], [`heap`] | what memory there is, and who gets it |
//! | [`apic`], [`clock`] | host timer, non-maskable interrupts, time |
//! | [`ports`], [`serial`], [`logger`], [`report`] | the ways out |
//! | [`run`], [`attend`], [`input`], [`random`], [`mod@host::store`] | the embedder of hv: jobs, and what guests are given |
//! | [`foreign`] | the embedder of kernels that were not written for hv |
//! | [`guest_panic`], [`mod@crash`] | what a guest says of its panic, and what is seen of it from outside |
//! | [`watch`], `trace` | the processor, and one that records exits (feature `trace`) |
//! | [`bench`] | what its paths cost |
//! | [`disturb`], [`test_devices`] | interrupts at the worst of moments, and devices: for tests |
#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod attend;
mod bench;
mod boot;
mod clock;
mod cpu;
mod crash;
mod disturb;
mod foreign;
mod guest_panic;
mod heap;
mod input;
mod logger;
mod memory;
mod paging;
mod ports;
mod random;
mod report;
mod run;
mod serial;
mod test_devices;
#[cfg(feature = "trace")]
mod trace;
mod traps;
mod watch;

use core::{fmt, panic::PanicInfo, sync::atomic::Ordering::Relaxed};

use host::pvh;
use serial::Serial;
use x86_64::instructions::interrupts;

/// Why the host cannot do its job.
enum Failure {
    /// The boot loader left nothing usable.
    Boot(pvh::Error),
    /// The boot module is no job.
    Job(postcard::Error),
    /// The job does not tell the frequency of the time stamp counter, and it could not be measured.
    Clock,
    /// There is no usable local APIC.
    Apic(apic::Error),
    /// A non-maskable interrupt did not arrive.
    Nmi,
    /// hv does not run here.
    Hypervisor(hv::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(error) => write!(f, "{error}"),
            Self::Job(error) => write!(f, "the boot module is not a job: {error}"),
            Self::Clock => write!(f, "no 8254 to measure the time stamp counter against"),
            Self::Apic(error) => write!(f, "{error}"),
            Self::Nmi => write!(f, "a non-maskable interrupt sent to this processor did not arrive"),
            Self::Hypervisor(error) => write!(f, "{error}"),
        }
    }
}

/// Continues where [`boot`] ends: `start_info` is the PVH loader's, the page tables are the first ones, interrupts are off.
extern "sysv64" fn start(start_info: u64) -> ! {
    Serial::CONSOLE.init();
    Serial::LOG.init();
    logger::init();
    cpu::init();
    traps::init();
    match bring_up_and_run(start_info) {
        Ok(()) => report::done(),
        Err(failure) => report::fail(format_args!("{failure}")),
    }
}

fn bring_up_and_run(start_info: u64) -> Result<(), Failure> {
    let module = memory::bring_up(start_info).map_err(Failure::Boot)?;
    let job = wire::decode_job(module).map_err(Failure::Job)?;
    logger::set_verbosity(job.verbosity);
    let tsc_hertz = job.tsc_hertz.or_else(clock::measure).filter(|&hertz| hertz != 0).ok_or(Failure::Clock)?;
    apic::init(tsc_hertz).map_err(Failure::Apic)?;
    check_nmi()?;
    interrupts::enable();
    log::info!("time stamp counter at {tsc_hertz} Hz, {} guests to run", job.guests.len());
    let outcome = run::job(&job, tsc_hertz);
    let cpu = cpu::local();
    log::info!("{} timer interrupts, {} non-maskable ones", cpu.timer.count(), cpu.nmis.load(Relaxed));
    outcome.map_err(Failure::Hypervisor)
}

/// Takes one non-maskable interrupt, to find out now whether its way through the APIC, the gate and its stack is sound.
fn check_nmi() -> Result<(), Failure> {
    let taken = &cpu::local().nmis;
    apic::send_nmi_to_self();
    match (0..1_000_000).any(|_| taken.load(Relaxed) != 0) {
        true => Ok(()),
        false => Err(Failure::Nmi),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::fail(format_args!("{info}"))
}
