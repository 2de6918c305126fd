//! Never ends.
#![no_std]
#![no_main]

use guest_sdk::println;

guest_sdk::entry!(main);

fn main() {
    println!("spinning");
    loop {
        core::hint::spin_loop();
    }
}
