//! What in the host program needs no machine: it is pure, and tested where it is built.
//!
//! The program itself is `main.rs` and the modules that it names.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod frames;
pub mod platform;
pub mod pvh;
pub mod ranges;
pub mod record;
pub mod store;
