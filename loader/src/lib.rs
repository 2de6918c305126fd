//! Turns ELF files into runnable VMs.
//!
//! [`Plan::parse`] checks the file's bytes and says what goes where, [`Layout::new`] places everything else that a guest starts
//! with and builds its page tables; both are pure, and hostile bytes are normal input: every mistake is a [`LoadError`].
//! [`Image::prepare`] carries a plan out once, [`Image::spawn`] makes any number of VMs of it.
//!
//! | module | what it does |
//! |---|---|
//! | `error` | what can be wrong with a file |
//! | `elf` | reads ELF structures (System V ABI, AMD64 supplement), bounded |
//! | `dynamic` | finds the relocations in the dynamic section |
//! | `plan` | checks them and decides addresses and rights |
//! | `layout` | places stack, tables and free memory (`hv_abi::boot`) |
//! | `tables` | builds 4-level page tables |
//! | `image` | fills guest memory and makes VMs |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod dynamic;
mod elf;
mod error;
mod image;
mod layout;
mod plan;
mod tables;

pub use dynamic::RELOCATIONS_MAX;
pub use error::{HeaderFault, LoadError, RelocationFault};
pub use image::{Image, SpawnError};
pub use layout::{Layout, MEMORY_MAX_BYTES, MEMORY_MIN_BYTES};
pub use plan::{PROGRAM_HEADERS_MAX, Plan, Region, Relocation, Rights, Segment};

/// Size of a page, as an address.
const PAGE: u64 = 4096;

/// The first address of the page that `address` lies in.
const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// The first page boundary at or behind `address`; `None` when there is none below 2^64.
const fn page_up(address: u64) -> Option<u64> {
    address.checked_next_multiple_of(PAGE)
}
