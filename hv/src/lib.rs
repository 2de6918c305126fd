//! hv: a bare-metal AMD SVM hypervisor library that hosts ELF unikernels on shadow page tables.
//!
//! # The map
//!
//! A file imports only what stands above it here; on one floor, only what stands before it.
//!
//! | floor | rooms |
//! |---|---|
//! | values | [`plant`] (bugs for tests to turn on), [`addr`], [`error`], [`x86`] (the architecture), [`svm`] (the VMCB) |
//! | machine | [`host`] (what an embedder gives), [`mem`] (frames, guest memory), [`hw`] (the seam to the processor), [`insn`] (instruction lengths, the emulator), [`shadow`] (the shadow MMU) |
//! | virtual CPU | [`apic`] (the local APIC), [`contract`] (call buffer and turns), [`vcpu`] (state, events, ASIDs, the one call of VMRUN), [`exit`] (one file per exit) |
//! | virtual machine | [`vm`] |
//!
//! An embedder makes one [`Hypervisor`], enables each [`Cpu`], builds a [`Vm`] over prepared memory (the `loader` crate does, from an ELF file), and calls
//! [`Vm::run`], which returns a [`Stop`] whenever the embedder is needed.
//!
//! # What is trusted
//!
//! Nothing that a guest does is. A guest's mistake becomes an exception in the guest, a status in a register, or a [`Stop`]; an
//! embedder's mistake becomes an [`Error`]. The unsafe code is in few rooms: what an
//! embedder promises ([`host`]), frames and the slots of guest memory ([`mem`]), the processor ([`hw`]), and in [`vcpu`] switching SVM on and off, the page that holds
//! the FPU's registers, and the one call of VMRUN, under the proof that stands there.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "model"))]
extern crate std;

pub mod addr;
pub mod apic;
pub mod contract;
pub mod error;
pub mod exit;
pub mod host;
pub mod hw;
pub mod insn;
pub mod mem;
pub mod plant;
pub mod shadow;
pub mod svm;
pub mod vcpu;
pub mod vm;
pub mod x86;

pub use error::Error;
pub use exit::Stop;
pub use mem::Frames;
pub use vcpu::{Cpu, EntryState, Hypervisor, Kick, Platform};
pub use vm::Vm;
