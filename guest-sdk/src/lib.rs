//! What a guest of `hv` is written with.
//!
//! ```
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//!
//! #[guest_sdk::main]
//! fn main() {
//!     guest_sdk::println!("Hello from a guest!");
//! }
//! ```
//!
//! That is a whole guest: `cargo xtask new my-guest` makes a crate around it, `cargo xtask run my-guest` boots it. Built for the machine that you type on, it is
//! a process instead, in which a mock stands for the host: `cargo test` tests it there.
//!
//! | part | what it gives |
//! |---|---|
//! | [`macro@main`], [`exit`], [`ExitCode`], [`Termination`] | beginning and end |
//! | [`print!`], [`println!`], [`eprint!`], [`eprintln!`] | text to the host, one call per text |
//! | the crate `log` | [messages](mod@logger) with levels, to the error stream |
//! | [`mod@io`] | streams of bytes, as `embedded-io` has them; the input |
//! | [`args`], [`mod@env`] | arguments and environment |
//! | [`fs`] | files that the host handed in |
//! | [`time`] | clocks, sleep |
//! | `timer` | interrupts, once or again and again (on the bare machine only) |
//! | [`random`] | random bytes, for the crate `getrandom` too |
//! | [`functions`], [`macro@function`], [`macro@host`], [`serve!`] | functions that the host calls, and functions of the host |
//! | [`memory`] | what there is, and what is used |
//! | `exceptions` | handlers for exceptions and interrupts (on the bare machine only) |
//! | [`call`] | the contract's calls themselves, one function each |
//! | `mock` | what tests give to guest code (in a process only) |
//!
//! Two more parts have no name of their own: the global allocator, which owns all free memory, so `alloc` works
//! from the first line of `main`; and the panic handler, which hands message and place to the host and ends the guest. The host finds the way
//! there by itself, and prints it with names and lines.
//!
//! The stack has 256 KiB, or as much as the linker is told (`-z stack-size=`, in a build script
//! `println!("cargo::rustc-link-arg-bins=-zstack-size=1048576")` if the target is `x86_64-unknown-none`); below it lies a page that ends a guest which needs more.
//!
//! The SDK does not look at the CPUID signature: an image that it entered was loaded by a host that speaks the contract. It
//! does check, before `main`, that the host's version of the contract is new enough.
#![no_std]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

mod backend;
pub mod call;
#[doc(hidden)]
pub mod console;
#[cfg(target_os = "none")]
#[doc(hidden)]
pub mod entry;
pub mod env;
#[cfg(target_os = "none")]
pub mod exceptions;
pub mod fs;
pub mod functions;
pub mod io;
pub mod logger;
pub mod memory;
#[cfg(not(target_os = "none"))]
pub mod mock;
pub mod random;
pub mod time;
#[cfg(target_os = "none")]
pub mod timer;

mod exit;
#[cfg(any(test, target_os = "none"))]
mod heap;
#[cfg(target_os = "none")]
mod info;
#[cfg(any(test, target_os = "none"))]
mod misfit;
#[cfg(any(test, target_os = "none"))]
mod panic;

pub use env::args;
pub use exit::{ExitCode, Termination, exit};
pub use functions::{CallError, ServeError};
/// Makes a function one that the host can call, if [`serve!`] lists it.
///
/// Its arguments and what it returns are serde types. See [`functions`].
pub use guest_sdk_macros::function;
/// Declares functions of the host, to be called like any other. See [`functions`].
pub use guest_sdk_macros::host;
/// Makes a function the guest's `main`.
///
/// It takes nothing and returns anything that is a [`Termination`]: nothing, an exit code, or a `Result`.
///
/// ```
/// #[guest_sdk::main]
/// fn main() -> Result<(), core::num::ParseIntError> {
///     let number: u32 = guest_sdk::args().nth(1).unwrap_or("0").parse()?;
///     guest_sdk::println!("{}", number + 1);
///     Ok(())
/// }
/// ```
pub use guest_sdk_macros::main;
pub use hv_abi::{
    Features,
    boot::BootInfo,
    call::{Status, Stream},
};
#[cfg(target_os = "none")]
pub use info::features;
