//! Asks for twice the memory there is; the panic's message names the size.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;
use guest_sdk::{memory_size, println};

guest_sdk::entry!(main);

fn main() {
    let size = 2 * memory_size() as usize;
    println!("asking for {size} bytes");
    black_box(Vec::<u8>::with_capacity(size));
}
