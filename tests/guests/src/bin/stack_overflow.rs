//! Recurses until the stack ends in its guard page.
#![no_std]
#![no_main]

use core::hint::black_box;
use guest_sdk::println;

#[guest_sdk::main]
fn main() {
    println!("depth {}", descend(0));
}

/// Never comes back; the compiler is not to know that.
fn descend(depth: usize) -> usize {
    let frame = black_box([depth; 64]);
    if black_box(depth) == usize::MAX {
        return 0;
    }
    // What stands behind the call keeps the frame alive: no tail call.
    descend(depth + 1) + frame[black_box(depth) % frame.len()]
}
