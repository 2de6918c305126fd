//! What a guest of `hv` is written with.
//!
//! A guest is an ordinary `#![no_std] #![no_main]` program, built by `cargo build --release --target x86_64-unknown-none`:
//!
//! ```ignore (no_main programs without std do not link on the machine that runs the documentation tests)
//! #![no_std]
//! #![no_main]
//!
//! extern crate alloc;
//!
//! use guest_sdk::{args, println};
//!
//! guest_sdk::entry!(main);
//!
//! fn main() {
//!     let names = args().skip(1).collect::<alloc::vec::Vec<_>>();
//!     println!("Hello, {}!", names.join(" and "));
//! }
//! ```
//!
//! | part | what it gives |
//! |---|---|
//! | [`entry!`] | names the guest's `main`; it may return anything that is a [`Termination`] |
//! | [`print!`], [`println!`], [`eprint!`], [`eprintln!`] | text to the host, one call per text |
//! | [`console`] | bytes to the host |
//! | [`args`] | the arguments that the guest was started with |
//! | [`exit`], [`ExitCode`] | the end |
//! | [`memory_size`], [`tsc_hertz`] | what the guest was given |
//! | [`call`] | the calls to the host themselves, one function each |
//!
//! Two more parts have no name of their own: the global allocator, which owns all free memory, so `alloc` works
//! from the first line of `main`; and the panic handler, which hands message and place to the host and ends the guest.
//!
//! The SDK does not look at the CPUID signature: an image that it entered was loaded by a host that speaks the contract. It
//! does check, before `main`, that the host's version of the contract is new enough.
//!
//! Built for another target than `x86_64-unknown-none`, the crate compiles, so that its pure parts can be tested there, but each
//! call to the host panics.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod call;
pub mod console;
#[doc(hidden)]
pub mod entry;

mod args;
mod exit;
#[cfg(any(test, target_os = "none"))]
mod heap;
mod info;
#[cfg(any(test, target_os = "none"))]
mod panic;

pub use args::args;
pub use exit::{ExitCode, Termination, exit};
pub use hv_abi::{
    boot::BootInfo,
    call::{Status, Stream},
};
pub use info::{memory_size, tsc_hertz};
