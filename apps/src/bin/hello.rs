//! Greets whom its arguments name, or the world.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use guest_sdk::{args, memory, println};

#[guest_sdk::main]
fn main() {
    let names: Vec<_> = args().skip(1).collect();
    let whom = if names.is_empty() { "world".into() } else { names.join(" and ") };
    println!("Hello, {whom}, from a unikernel with {} MiB of memory!", memory::size() >> 20);
}
