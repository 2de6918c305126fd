//! Jumps to a RET instruction on the heap.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the jump is the test")]

extern crate alloc;

use alloc::boxed::Box;
use core::{hint::black_box, mem};
use guest_sdk::println;

#[guest_sdk::main]
fn main() {
    let code = black_box(Box::new([0xc3u8; 16]));
    // SAFETY: the address is not null; that it is no function is the point.
    let function = unsafe { mem::transmute::<*const u8, extern "C" fn()>(code.as_ptr()) };
    function();
    println!("executed data");
}
