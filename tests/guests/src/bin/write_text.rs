//! Writes to its own code.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the write is the test")]

use core::ptr;
use guest_sdk::println;

#[guest_sdk::main]
fn main() {
    let code = ptr::with_exposed_provenance_mut::<u8>(main as fn() as usize);
    // SAFETY: none; code is not writable, so the guest must end here.
    unsafe { code.write_volatile(0xc3) };
    println!("wrote to {code:p}");
}
