//! Counts the interrupts of a timer while it works, and while it is halted: none may be missing, none may be too many.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_sdk::{
    exceptions::wait_for_interrupt,
    println,
    time::{Duration, Instant},
    timer,
};

const PERIOD: Duration = Duration::from_millis(1);

static TICKS: AtomicU64 = AtomicU64::new(0);

fn tick() {
    TICKS.fetch_add(1, Relaxed);
}

#[guest_sdk::main]
fn main() {
    let start = timer::every(PERIOD, tick);
    let end = start + 50 * PERIOD + PERIOD / 2;
    while Instant::now() < end {}
    timer::stop();
    println!("{} ticks while it worked", TICKS.swap(0, Relaxed));

    let start = timer::every(PERIOD, tick);
    while TICKS.load(Relaxed) < 200 {
        wait_for_interrupt();
    }
    timer::stop();
    println!("{} ticks in {} ms while it was halted", TICKS.swap(0, Relaxed), start.elapsed().as_millis());

    timer::once(Instant::now() + PERIOD, tick);
    while TICKS.load(Relaxed) == 0 {
        wait_for_interrupt();
    }
    let later = Instant::now() + 3 * PERIOD;
    while Instant::now() < later {}
    println!("{} tick once", TICKS.load(Relaxed));
}
