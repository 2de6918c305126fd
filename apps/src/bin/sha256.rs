//! Prints the SHA-256 digest of each argument, in the form of `sha256sum`; without arguments, that of 4 MiB it makes itself.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use guest_sdk::{args, println};
use sha2::{Digest, Sha256};

/// The numbers from 0 to 250 over and over, 4 MiB of them.
fn pattern() -> Vec<u8> {
    (0..=250).cycle().take(4 << 20).collect()
}

#[guest_sdk::main]
fn main() {
    let mut texts = args().skip(1).peekable();
    if texts.peek().is_none() {
        println!("{:x}  pattern", Sha256::digest(pattern()));
    }
    for text in texts {
        println!("{:x}  {text}", Sha256::digest(text));
    }
}
