//! Fills guest memory with what a plan says, once, and makes VMs of it.

use crate::{Extras, HostRights, Layout, LoadError, PAGE, Plan, Region, Rights};
use alloc::sync::Arc;
use core::fmt;
use hv::addr::{Gfn, Gpa};
use hv::contract::CallBuffer;
use hv::mem::{self, Base, Frames, GuestMemory};
use hv::{EntryState, Hypervisor, Vm};
use hv_abi::Features;
use hv_abi::boot::{BootInfo, INFO_ADDRESS, RUN_ADDRESS, RunInfo, TEXTS_ADDRESS, TEXTS_MAX_BYTES};
use zerocopy::IntoBytes;

/// A loaded file: guest memory as a guest finds it at its entry point, all but what a [`Start`] says.
///
/// Every VM made of it shares its frames until one of the two writes them.
pub struct Image {
    base: Base,
    entry: EntryState,
    info: BootInfo,
}

/// What a VM of an image is started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Start<'a> {
    /// Its arguments, of which the first is the guest's name.
    pub args: &'a [&'a str],
    /// Its environment: names and values.
    pub env: &'a [(&'a str, &'a str)],
    /// Clock, time of day and seed.
    pub run: RunInfo,
    /// The features that the embedder gives it. [`Features::FUNCTIONS`] goes by whether the image has a call buffer.
    pub features: Features,
}

impl<'a> Start<'a> {
    /// Makes one with arguments and nothing else.
    pub fn new(args: &'a [&'a str]) -> Self {
        Self { args, ..Self::default() }
    }
}

impl Image {
    /// Loads an ELF file for guests with `memory_size` bytes of memory, in frames of `frames`, with neither files nor a call buffer.
    ///
    /// # Errors
    /// As for [`Image::prepare_with`].
    pub fn prepare(frames: Frames, bytes: &[u8], memory_size: u64) -> Result<Self, LoadError> {
        Self::prepare_with(frames, bytes, memory_size, &Extras::NONE)
    }

    /// Loads an ELF file for guests with `memory_size` bytes of memory, in frames of `frames`.
    ///
    /// # Errors
    /// What is wrong with the file or the extras, or [`LoadError::Memory`] when frames run out.
    pub fn prepare_with(frames: Frames, bytes: &[u8], memory_size: u64, extras: &Extras<'_>) -> Result<Self, LoadError> {
        let plan = Plan::parse(bytes, memory_size)?;
        let layout = Layout::with(&plan, extras)?;
        let mut memory = GuestMemory::new(frames, memory_size)?;
        if plan.host_rights() == HostRights::Enforced {
            // What is touched from here on may be written, and not be executed; code is the exception.
            memory.restrict_untouched(mem::HostRights::WRITE);
        }
        for segment in plan.segments() {
            memory.write(Gpa(segment.address), segment.data)?;
        }
        for relocation in plan.relocations() {
            memory.write(Gpa(relocation.address), &relocation.value.to_le_bytes())?;
        }
        memory.write(Gpa(layout.files().range().start), layout.files().head())?;
        for (file, &at) in extras.files.iter().zip(layout.files().contents()) {
            memory.write(Gpa(at), file.data)?;
        }
        let tables = layout.tables().start;
        memory.write(Gpa(tables), layout.table_words().as_bytes())?;
        if plan.host_rights() == HostRights::Enforced {
            for Region { pages, rights } in plan.regions() {
                let rights = match rights {
                    Rights::Read => mem::HostRights::empty(),
                    Rights::ReadWrite => mem::HostRights::WRITE,
                    Rights::ReadExecute => mem::HostRights::EXECUTE,
                };
                memory.restrict(Gfn(pages.start / PAGE)..Gfn(pages.end / PAGE), rights)?;
            }
        }
        let entry = EntryState::Long { rip: plan.entry(), rsp: layout.stack_pointer(), rdi: INFO_ADDRESS, cr3: tables };
        Ok(Self { base: memory.freeze(), entry, info: layout.boot_info() })
    }

    /// Makes a VM that is about to enter the image.
    ///
    /// # Errors
    /// What it is to be started with cannot be passed on, or hv has not the memory for another VM.
    pub fn spawn(&self, hypervisor: &Arc<Hypervisor>, start: &Start<'_>) -> Result<Vm, SpawnError> {
        let memory = self.memory(start)?;
        let BootInfo { inbox, outbox, box_bytes, .. } = self.info;
        let buffer = match box_bytes {
            0 => None,
            bytes => Some(CallBuffer::new(Gpa(inbox), Gpa(outbox), bytes, &memory)?),
        };
        let mut vm = Vm::new(hypervisor, memory, &self.entry)?;
        buffer.into_iter().for_each(|buffer| vm.set_call_buffer(buffer));
        Ok(vm)
    }

    /// Where a VM of this image begins.
    pub const fn entry(&self) -> EntryState {
        self.entry
    }

    /// Guest memory as a guest that is started so finds it.
    ///
    /// # Errors
    /// As for [`Image::spawn`].
    pub fn memory(&self, start: &Start<'_>) -> Result<GuestMemory, SpawnError> {
        let mut memory = GuestMemory::over(&self.base)?;
        let mut texts = Texts { memory: &mut memory, bytes: 0 };
        for (index, arg) in start.args.iter().enumerate() {
            texts.add(&[arg], |fault| SpawnError::Argument { index, fault })?;
        }
        let args_len = texts.bytes;
        for (index, (name, value)) in start.env.iter().enumerate() {
            let wrong = |fault| SpawnError::Variable { index, fault };
            if name.is_empty() || name.contains('=') {
                return Err(wrong(TextFault::Name));
            }
            texts.add(&[name, "=", value], wrong)?;
        }
        let features = if self.info.box_bytes == 0 { start.features } else { start.features.with(Features::FUNCTIONS) };
        let info = BootInfo {
            args: TEXTS_ADDRESS,
            args_len,
            args_count: start.args.len() as u64,
            env: TEXTS_ADDRESS + args_len,
            env_len: texts.bytes - args_len,
            env_count: start.env.len() as u64,
            features: features.encode().into(),
            ..self.info
        };
        memory.write(Gpa(INFO_ADDRESS), info.as_bytes())?;
        memory.write(Gpa(RUN_ADDRESS), start.run.as_bytes())?;
        Ok(memory)
    }
}

/// Writes texts one behind the other, each ended by a zero byte.
struct Texts<'a> {
    memory: &'a mut GuestMemory,
    bytes: u64,
}

impl Texts<'_> {
    /// Adds a text that is made of these pieces.
    fn add(&mut self, pieces: &[&str], wrong: impl Fn(TextFault) -> SpawnError) -> Result<(), SpawnError> {
        let end = pieces.iter().fold(self.bytes + 1, |end, piece| end.saturating_add(piece.len() as u64));
        if pieces.iter().any(|piece| piece.contains('\0')) {
            return Err(wrong(TextFault::Zero));
        }
        if end > TEXTS_MAX_BYTES {
            return Err(wrong(TextFault::TooLong));
        }
        for piece in pieces {
            self.memory.write(Gpa(TEXTS_ADDRESS + self.bytes), piece.as_bytes())?;
            self.bytes += piece.len() as u64;
        }
        // The terminator is there already: memory begins as zeros.
        self.bytes = end;
        Ok(())
    }
}

/// Why an image makes no VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// An argument cannot be passed on.
    Argument {
        /// Its index.
        index: usize,
        /// What is wrong.
        fault: TextFault,
    },
    /// A variable of the environment cannot be passed on.
    Variable {
        /// Its index.
        index: usize,
        /// What is wrong.
        fault: TextFault,
    },
    /// hv refused.
    Hv(hv::Error),
}

/// Why a text cannot be passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TextFault {
    /// It contains a zero byte, which ends texts.
    Zero,
    /// It does not fit in the pages for them, behind those before it.
    TooLong,
    /// Its name is empty or contains `=`.
    Name,
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
            Self::Argument { index, fault } => write!(f, "argument {index} {fault}"),
            Self::Variable { index, fault } => write!(f, "environment variable {index} {fault}"),
            Self::Hv(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("contains a zero byte"),
            Self::TooLong => write!(f, "does not fit: all texts together may have {TEXTS_MAX_BYTES} bytes"),
            Self::Name => f.write_str("has a name that is empty or contains '='"),
        }
    }
}
