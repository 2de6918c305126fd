//! Never ends.
#![no_std]
#![no_main]

use guest_sdk::println;

#[guest_sdk::main]
fn main() {
    println!("spinning");
    loop {
        core::hint::spin_loop();
    }
}
