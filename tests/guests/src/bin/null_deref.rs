//! Reads a field behind a null pointer.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the read is the test")]

use core::ptr;
use guest_sdk::println;

#[guest_sdk::main]
fn main() {
    // SAFETY: none; the null page is not mapped, so the guest must end here.
    let value = unsafe { ptr::without_provenance::<u8>(0x10).read_volatile() };
    println!("read {value}");
}
