//! Exits with the code that its first argument names.
#![no_std]
#![no_main]

use core::num::ParseIntError;
use guest_sdk::args;

#[guest_sdk::main]
fn main() -> Result<i32, ParseIntError> {
    args().nth(1).unwrap_or("no code").parse()
}
