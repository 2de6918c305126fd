//! What a guest starts with: registers, memory layout, the boot information block and the run block.
//!
//! Guest-virtual and guest-physical addresses are the same. From low to high:
//!
//! | from | rights | what |
//! |---|---|---|
//! | 0 | none | the null page |
//! | [`INFO_ADDRESS`] | read | [`BootInfo`], [`RunInfo`], arguments and environment, up to [`IMAGE_MIN_ADDRESS`] |
//! | [`IMAGE_MIN_ADDRESS`] or where it was linked | as its segments say, never both writable and executable | the image |
//! | after the image | read | files: their directory ([`File`]), names, contents |
//! | then | read, write | the call buffer: inbox, outbox |
//! | then | none | one guard page |
//! | then | read, write | the stack: as large as the image asks for, or [`STACK_BYTES`] |
//! | then | read, write | the page tables that CR3 points to, accessed and dirty bits set; the guest may change them |
//! | then, to the end of memory | read, write | free memory, for the guest to use; zeroed |
//!
//! At the entry point the processor is in 64-bit mode at CPL 0 with interrupts off and SSE ready: CR0 = PE, MP, ET, NE, WP,
//! PG; CR4 = PAE, OSFXSR, OSXMMEXCPT; EFER = LME, LMA, NXE. RDI holds [`INFO_ADDRESS`], RSP is 8 below the end of the stack (as after
//! a `CALL` from address 0: the word at RSP is zero), RBP is 0, all other registers are 0, RFLAGS is 2. GDTR and IDTR have limit 0: a guest
//! that wants exceptions sets up both; one that does not is ended by its first exception.

use crate::clock::Clock;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where [`BootInfo`] lies.
pub const INFO_ADDRESS: u64 = 0x1000;
/// Where the image begins at the lowest; position-independent images are loaded right here.
pub const IMAGE_MIN_ADDRESS: u64 = 0x1_0000;
/// Size of the stack in bytes, for an image that asks for none (`p_memsz` of its `PT_GNU_STACK` is 0).
pub const STACK_BYTES: u64 = 256 * 1024;
/// Largest stack that an image may ask for, in bytes.
pub const STACK_MAX_BYTES: u64 = 1 << 30;
/// Size of the two boxes of the call buffer, each, where the embedder asks for no other.
pub const BOX_BYTES: u64 = 64 * 1024;
/// Where [`RunInfo`] lies.
pub const RUN_ADDRESS: u64 = INFO_ADDRESS + size_of::<BootInfo>() as u64;
/// Where the arguments lie, if there are any; the environment is behind them.
pub const TEXTS_ADDRESS: u64 = RUN_ADDRESS + size_of::<RunInfo>() as u64;
/// Most bytes of arguments and environment together, terminators included.
pub const TEXTS_MAX_BYTES: u64 = IMAGE_MIN_ADDRESS - TEXTS_ADDRESS;
/// Most files.
pub const FILES_MAX: u64 = 4096;
/// Most bytes of a file's name.
pub const FILE_NAME_MAX_BYTES: u64 = 255;
/// The first word of [`BootInfo`]: "hv-boot" and a zero byte.
pub const MAGIC: u64 = u64::from_le_bytes(*b"hv-boot\0");

/// The boot information block: little-endian 64-bit words, which never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// The contract's version ([`crate::Version::encode`]).
    pub version: u64,
    /// Size of guest memory in bytes.
    pub memory_size: u64,
    /// First address of the image.
    pub image_start: u64,
    /// First address behind the image.
    pub image_end: u64,
    /// Lowest address of the stack.
    pub stack_start: u64,
    /// First address behind the stack.
    pub stack_end: u64,
    /// First address of free memory.
    pub free_start: u64,
    /// First address behind free memory.
    pub free_end: u64,
    /// Address of the arguments: UTF-8 texts, each ended by a zero byte.
    pub args: u64,
    /// Length of the arguments in bytes, terminators included.
    pub args_len: u64,
    /// How many arguments there are; the first is the guest's name.
    pub args_count: u64,
    /// What this guest was given ([`crate::Features`]).
    pub features: u64,
    /// Address of the environment: UTF-8 texts of the form `name=value`, each ended by a zero byte.
    pub env: u64,
    /// Length of the environment in bytes, terminators included.
    pub env_len: u64,
    /// How many variables there are.
    pub env_count: u64,
    /// Address of the files' directory: so many [`File`]s.
    pub files: u64,
    /// How many files there are.
    pub files_count: u64,
    /// Address of the inbox ([`crate::function`]); 0 without a call buffer.
    pub inbox: u64,
    /// Address of the outbox; 0 without a call buffer.
    pub outbox: u64,
    /// Length of each box in bytes, its header included; 0 without a call buffer.
    pub box_bytes: u64,
    /// Address of the run block ([`RunInfo`]).
    pub run: u64,
}

const _: () = assert!(size_of::<BootInfo>() == 176);

/// The run block: what the host writes anew, before the guest's next instruction, whenever it resumes the guest from a snapshot.
///
/// A guest reads it by volatile loads, word by word, each time it needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RunInfo {
    /// 0 for a guest that was started, another number after each resumption: then the seed, and what was derived from the old one, is to be replaced.
    pub generation: u64,
    /// Frequency of the time stamp counter in hertz.
    pub tsc_hertz: u64,
    /// How time stamps become nanoseconds of the monotonic clock.
    pub clock: Clock,
    /// Nanoseconds from 1970-01-01 00:00 UTC, without leap seconds, to the zero of the monotonic clock; 0 if nobody knows.
    pub wall_ns: u64,
    /// Random bytes that no other guest has; zeros if the embedder has none to give.
    pub seed: [u8; 32],
}

const _: () = assert!(size_of::<RunInfo>() == 80);

/// An entry of the files' directory. Files are ordered by name, as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct File {
    /// Address of the name, a UTF-8 text.
    pub name: u64,
    /// Length of the name in bytes.
    pub name_len: u64,
    /// Address of the contents, 16-aligned.
    pub data: u64,
    /// Length of the contents in bytes.
    pub data_len: u64,
}

const _: () = assert!(size_of::<File>() == 32);
