//! Panics with a message that has a value in it.
#![no_std]
#![no_main]

#[guest_sdk::main]
fn main() {
    panic!("the answer is {}", 6 * 7);
}
