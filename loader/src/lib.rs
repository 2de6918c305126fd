//! Turns ELF files, and kernels that were not written for hv, into runnable VMs.
//!
//! [`Plan::parse`] checks the file's bytes and says what goes where, [`Layout::new`] places everything else that a guest starts
//! with and builds its page tables; both are pure, and hostile bytes are normal input: every mistake is a [`LoadError`].
//! [`Image::prepare`] carries a plan out once, [`Image::spawn`] makes any number of VMs of it.
//!
//! [`Kernel::parse`] does the same for images that are entered otherwise ([`Protocol`]): by PVH, by Multiboot, or as bare bytes.
//!
//! | module | what it does |
//! |---|---|
//! | `error` | what can be wrong with a file |
//! | `elf` | reads ELF structures (System V ABI, AMD64 supplement), bounded |
//! | `dynamic` | finds the relocations in the dynamic section |
//! | `plan` | checks them and decides addresses and rights |
//! | `files` | places the files that a guest is given |
//! | `layout` | places call buffer, stack, tables and free memory (`hv_abi::boot`) |
//! | `tables` | builds 4-level page tables |
//! | `image` | fills guest memory and makes VMs |
//! | `kernel`, `kernel_fault` | a foreign kernel, what it is given, and what can be wrong with both |
//! | `map` | what such a kernel finds where in memory |
//! | `space` | pieces that do not overlap, and room for more |
//! | [`start_info`] | what a PVH boot hands over |
//! | `pvh`, `multiboot`, `raw` | one way of entry each |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod dynamic;
mod elf;
mod error;
mod files;
mod image;
mod kernel;
mod kernel_fault;
mod layout;
mod map;
mod multiboot;
mod plan;
mod pvh;
mod raw;
mod space;
pub mod start_info;
mod tables;

pub use dynamic::RELOCATIONS_MAX;
pub use error::{HeaderFault, LoadError, RelocationFault};
pub use files::{File, Files};
pub use image::{Image, SpawnError, Start, TextFault};
pub use kernel::{COMMAND_LINE_MAX, Entry, Given, Kernel, MODULES_MAX, Module, Piece, Protocol, RawAt};
pub use kernel_fault::KernelFault;
pub use layout::{Extras, Layout, MEMORY_MAX_BYTES, MEMORY_MIN_BYTES};
pub use map::{LOW_RAM_MAX, MemoryMap, RangeKind};
use plan::file_bytes;
pub use plan::{HostRights, PROGRAM_HEADERS_MAX, Plan, Region, Relocation, Rights, Segment};

// The README's code, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

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
