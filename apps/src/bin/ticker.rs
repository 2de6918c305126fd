//! Ticks every so many milliseconds, as often as it is told: 100 and 5 without arguments.
//!
//! `cargo xtask run ticker -- 250 4`
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::num::ParseIntError;

use guest_sdk::{
    args, println,
    time::{Duration, Instant, sleep_until},
};

#[guest_sdk::main]
fn main() -> Result<(), ParseIntError> {
    let mut numbers = args().skip(1).map(str::parse);
    let period = Duration::from_millis(numbers.next().unwrap_or(Ok(100))?);
    let times = numbers.next().unwrap_or(Ok(5))?;

    let start = Instant::now();
    let mut next = start;
    for tick in 1..=times {
        // Added up, so that what printing takes does not add up.
        next += period;
        sleep_until(next);
        println!("tick {tick} after {} ms", start.elapsed().as_millis());
    }
    log::info!("done");
    Ok(())
}
