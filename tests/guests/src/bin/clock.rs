//! Reads the clock as often as its argument says.
#![no_std]
#![no_main]

use guest_sdk::{args, time::Instant};

#[guest_sdk::main]
fn main() {
    let times: u32 = args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let first = Instant::now();
    let last = (0..times).map(|_| Instant::now()).max();
    assert!(last >= Some(first));
}
