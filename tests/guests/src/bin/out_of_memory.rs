//! Asks for twice the memory there is; the panic's message names the size.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;
use guest_sdk::{memory, println};

#[guest_sdk::main]
fn main() {
    let size = 2 * memory::size() as usize;
    println!("asking for {size} bytes");
    black_box(Vec::<u8>::with_capacity(size));
}
