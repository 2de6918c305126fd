//! What a guest starts with: registers, memory layout and the boot information block.
//!
//! Guest-virtual and guest-physical addresses are the same. From low to high:
//!
//! | from | rights | what |
//! |---|---|---|
//! | 0 | none | the null page |
//! | [`INFO_ADDRESS`] | read | [`BootInfo`], behind it the arguments, up to [`IMAGE_MIN_ADDRESS`] |
//! | [`IMAGE_MIN_ADDRESS`] or where it was linked | as its segments say, never both writable and executable | the image |
//! | after the image | none | one guard page |
//! | then | read, write | the stack, [`STACK_BYTES`] |
//! | then | read, write | the page tables that CR3 points to, accessed and dirty bits set; the guest may change them |
//! | then, to the end of memory | read, write | free memory, for the guest to use; zeroed |
//!
//! At the entry point the processor is in 64-bit mode at CPL 0 with interrupts off and SSE ready: CR0 = PE, MP, ET, NE, WP,
//! PG; CR4 = PAE, OSFXSR, OSXMMEXCPT; EFER = LME, LMA, NXE. RDI holds [`INFO_ADDRESS`], RSP is 8 below the end of the stack (as after
//! a `CALL` from address 0: the word at RSP is zero), RBP is 0, all other registers are 0, RFLAGS is 2. GDTR and IDTR have limit 0: a guest
//! that wants exceptions sets up both; one that does not is ended by its first exception.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where [`BootInfo`] lies.
pub const INFO_ADDRESS: u64 = 0x1000;
/// Where the image begins at the lowest; position-independent images are loaded right here.
pub const IMAGE_MIN_ADDRESS: u64 = 0x1_0000;
/// Size of the stack in bytes.
pub const STACK_BYTES: u64 = 256 * 1024;
/// Most bytes of arguments, terminators included.
pub const ARGS_MAX_BYTES: u64 = IMAGE_MIN_ADDRESS - ARGS_ADDRESS;
/// Where the arguments lie, if there are any.
pub const ARGS_ADDRESS: u64 = INFO_ADDRESS + size_of::<BootInfo>() as u64;
/// The first word of [`BootInfo`]: "hv-boot" and a zero byte.
pub const MAGIC: u64 = u64::from_le_bytes(*b"hv-boot\0");

/// The boot information block: little-endian 64-bit words.
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
}

const _: () = assert!(size_of::<BootInfo>() == 96);
