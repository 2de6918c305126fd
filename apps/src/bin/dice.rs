//! Throws dice, and names the throw by a UUID: random bytes for the crates `rand` and `uuid`.
//!
//! `cargo xtask run dice -- 5`
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::{string::ToString, vec::Vec};
use core::num::ParseIntError;

use guest_sdk::{args, println};
use rand::{RngExt, rngs::SysRng};
use uuid::Uuid;

#[guest_sdk::main]
fn main() -> Result<(), ParseIntError> {
    let dice: usize = args().nth(1).unwrap_or("2").parse()?;
    let mut generator = rand::rand_core::UnwrapErr(SysRng);
    let thrown: Vec<_> = (0..dice).map(|_| generator.random_range(1..=6).to_string()).collect();
    println!("{} [{}]", thrown.join(" "), Uuid::new_v4());
    Ok(())
}
