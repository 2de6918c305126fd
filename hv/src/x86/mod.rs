//! The x86 architecture as values: control registers, page-table entries, exceptions, MSR numbers, the CPUID profile.
//!
//! Cited as "APM": AMD64 Architecture Programmer's Manual, volume 2 (24593, revision 3.42) and volume 3 (24594, revision 3.36).

mod cpuid;
mod exception;
pub mod msr;
mod paging;
mod vectors;

pub use cpuid::{CpuidRegisters, FAMILY_MODEL, Profile};
pub use exception::{Combined, Exception, Vector, combine};
pub use paging::{ADDRESS_MASK, Entry, PageFaultCode};
pub(crate) use vectors::VectorSet;
pub use x86_64::registers::{
    control::{Cr0Flags, Cr4Flags, EferFlags},
    rflags::RFlags,
};
