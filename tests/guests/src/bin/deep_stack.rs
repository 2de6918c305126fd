//! Uses more stack than guests usually have: its build script asks for more.
#![no_std]
#![no_main]

use core::hint::black_box;

#[guest_sdk::main]
fn main() {
    // Four times the usual stack.
    assert_eq!(deep(1024), 1024);
}

#[inline(never)]
fn deep(levels: u64) -> u64 {
    let frame = black_box([levels; 128]);
    if levels == 0 { 0 } else { deep(frame[127] - 1) + 1 }
}
