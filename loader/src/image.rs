//! Fills guest memory with what a plan says, once, and makes VMs of it.

use crate::{Layout, LoadError, Plan};
use alloc::sync::Arc;
use core::fmt;
use hv::addr::Gpa;
use hv::mem::{Base, Frames, GuestMemory};
use hv::{EntryState, Hypervisor, Vm};
use hv_abi::boot::{ARGS_ADDRESS, ARGS_MAX_BYTES, BootInfo, INFO_ADDRESS};
use zerocopy::IntoBytes;

/// A loaded file: guest memory as a guest finds it at its entry point, all but its arguments.
///
/// Every VM made of it shares its frames until one of the two writes them.
pub struct Image {
    base: Base,
    entry: EntryState,
    info: BootInfo,
}

impl Image {
    /// Loads an ELF file for guests with `memory_size` bytes of memory, in frames of `frames`.
    ///
    /// # Errors
    /// What is wrong with the file, or [`LoadError::Memory`] when frames run out.
    pub fn prepare(frames: Frames, bytes: &[u8], memory_size: u64) -> Result<Self, LoadError> {
        let plan = Plan::parse(bytes, memory_size)?;
        let layout = Layout::new(&plan)?;
        let mut memory = GuestMemory::new(frames, memory_size)?;
        for segment in plan.segments() {
            memory.write(Gpa(segment.address), segment.data)?;
        }
        for relocation in plan.relocations() {
            memory.write(Gpa(relocation.address), &relocation.value.to_le_bytes())?;
        }
        let tables = layout.tables().start;
        memory.write(Gpa(tables), layout.table_words().as_bytes())?;
        let entry = EntryState { rip: plan.entry(), rsp: layout.stack_pointer(), rdi: INFO_ADDRESS, cr3: tables };
        Ok(Self { base: memory.freeze()?, entry, info: layout.boot_info() })
    }

    /// Makes a VM that is about to enter the image with these arguments, of which the first is the guest's name.
    ///
    /// # Errors
    /// The arguments cannot be passed on, or hv has not the memory for another VM.
    pub fn spawn(&self, hypervisor: &Arc<Hypervisor>, args: &[&str]) -> Result<Vm, SpawnError> {
        Ok(Vm::new(hypervisor, self.memory(args)?, &self.entry)?)
    }

    /// Where a VM of this image begins.
    pub const fn entry(&self) -> EntryState {
        self.entry
    }

    /// Guest memory as a guest with these arguments finds it.
    ///
    /// # Errors
    /// As for [`Image::spawn`].
    pub fn memory(&self, args: &[&str]) -> Result<GuestMemory, SpawnError> {
        let mut memory = GuestMemory::over(&self.base)?;
        let mut bytes = 0;
        for (index, arg) in args.iter().enumerate() {
            if arg.contains('\0') {
                return Err(SpawnError::ArgumentHasZero { index });
            }
            let end = bytes + arg.len() as u64 + 1;
            if end > ARGS_MAX_BYTES {
                return Err(SpawnError::ArgumentsTooLong { index });
            }
            // The terminator is there already: memory begins as zeros.
            memory.write(Gpa(ARGS_ADDRESS + bytes), arg.as_bytes())?;
            bytes = end;
        }
        let info = BootInfo { args: ARGS_ADDRESS, args_len: bytes, args_count: args.len() as u64, ..self.info };
        memory.write(Gpa(INFO_ADDRESS), info.as_bytes())?;
        Ok(memory)
    }
}

/// Why an image makes no VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// An argument contains a zero byte, which ends arguments.
    ArgumentHasZero {
        /// Its index.
        index: usize,
    },
    /// The arguments do not fit in the pages for them.
    ArgumentsTooLong {
        /// Index of the first that does not fit.
        index: usize,
    },
    /// hv refused.
    Hv(hv::Error),
}

impl From<hv::Error> for SpawnError {
    fn from(error: hv::Error) -> Self {
        Self::Hv(error)
    }
}

impl core::error::Error for SpawnError {}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArgumentHasZero { index } => write!(f, "argument {index} contains a zero byte"),
            Self::ArgumentsTooLong { index } => write!(f, "arguments from {index} on do not fit in {ARGS_MAX_BYTES} bytes"),
            Self::Hv(error) => error.fmt(f),
        }
    }
}
