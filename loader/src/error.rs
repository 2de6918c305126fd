//! What can be wrong with a file.

use crate::KernelFault;
use core::fmt;
use goblin::elf::{dynamic::tag_to_str, program_header::pt_to_str, reloc::r_to_str};

/// Why a file cannot be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The size asked for guest memory is not one that the loader lays out.
    MemorySize {
        /// The size in bytes.
        bytes: u64,
    },
    /// The file does not begin with the ELF magic number.
    NotElf,
    /// A structure reaches past the end of the file.
    Truncated {
        /// The structure.
        what: &'static str,
        /// Its first byte in the file.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
        /// Length of the file in bytes.
        file_bytes: u64,
    },
    /// A field of the ELF header has a value that the loader does not take.
    ElfHeader {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// A program header is wrong.
    ProgramHeader {
        /// Its index.
        index: usize,
        /// Its `p_type`.
        kind: u32,
        /// What is wrong.
        fault: HeaderFault,
    },
    /// No `PT_LOAD` program header covers any memory.
    NothingToLoad,
    /// The entry point is not in an executable segment.
    Entry {
        /// The entry point, as the ELF header gives it.
        entry: u64,
    },
    /// The dynamic section asks for something that the loader does not do, or its values do not fit together.
    Dynamic {
        /// The entry's `d_tag`.
        tag: u64,
        /// Its `d_val`.
        value: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A relocation is wrong.
    Relocation {
        /// Its index in the table.
        index: usize,
        /// Its `r_offset`.
        offset: u64,
        /// What is wrong.
        fault: RelocationFault,
    },
    /// Image, files, call buffer, stack and page tables do not fit in guest memory.
    NoRoom {
        /// Bytes that they need.
        needed: u64,
        /// Size of guest memory in bytes.
        memory: u64,
    },
    /// A file that the guest is to be given cannot be.
    File {
        /// Its index.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The boxes of the call buffer cannot have this size.
    BoxSize {
        /// The size in bytes.
        bytes: u64,
    },
    /// The host has no memory left for the loader's own lists.
    OutOfMemory,
    /// Guest memory could not be filled.
    Memory(hv::Error),
    /// A kernel that was not written for hv is wrong, or what it is given.
    Kernel(KernelFault),
}

/// What is wrong with a program header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Its bytes reach past the end of the file.
    FileRange {
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        bytes: u64,
        /// Length of the file in bytes.
        file_bytes: u64,
    },
    /// It has more bytes in the file than in memory.
    FileLarger {
        /// `p_filesz`.
        file_bytes: u64,
        /// `p_memsz`.
        memory_bytes: u64,
    },
    /// Its last address is past 2^64.
    Wraps {
        /// `p_vaddr`.
        address: u64,
        /// `p_memsz`.
        memory_bytes: u64,
    },
    /// Address and file offset differ in their place in the page.
    Misaligned {
        /// `p_vaddr`.
        address: u64,
        /// `p_offset`.
        offset: u64,
    },
    /// Its alignment is no power of two, or cannot be kept.
    Alignment {
        /// `p_align`.
        align: u64,
    },
    /// It is both writable and executable.
    WritableExecutable,
    /// It begins below the lowest address that an image may have.
    TooLow {
        /// First address.
        start: u64,
    },
    /// It ends behind guest memory.
    TooHigh {
        /// First address behind it, where it would be loaded.
        end: u64,
        /// Size of guest memory in bytes.
        memory: u64,
    },
    /// It overlaps an earlier segment, shares a page with it, or lies below it.
    Overlap {
        /// First address, where it would be loaded.
        start: u64,
        /// First address that is free.
        free: u64,
    },
    /// It asks for a stack larger than there may be.
    StackTooLarge {
        /// `p_memsz`.
        memory_bytes: u64,
    },
    /// It is a read-only-after-relocation range that is not inside one writable segment.
    NotWritable {
        /// First address, where it would be loaded.
        start: u64,
        /// First address behind it.
        end: u64,
    },
    /// There may be only one of its kind.
    Repeated,
    /// The loader does not do what it asks for.
    Unsupported,
}

/// What is wrong with a relocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RelocationFault {
    /// Its type is not `R_X86_64_RELATIVE`.
    Unsupported {
        /// The type.
        kind: u32,
    },
    /// The eight bytes that it writes are not inside one segment.
    OutsideSegments,
}

impl From<hv::Error> for LoadError {
    fn from(error: hv::Error) -> Self {
        Self::Memory(error)
    }
}

impl From<KernelFault> for LoadError {
    fn from(fault: KernelFault) -> Self {
        Self::Kernel(fault)
    }
}

impl core::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MemorySize { bytes } => {
                write!(f, "guest memory of {bytes} bytes: must be a multiple of 4096, at least 1 MiB, at most 512 GiB")
            }
            Self::NotElf => write!(f, "not an ELF file"),
            Self::Truncated { what, offset, bytes, file_bytes } => {
                write!(f, "{what} ({bytes} bytes from offset {offset:#x}) reaches past the end of the file ({file_bytes} bytes)")
            }
            Self::ElfHeader { field, value, expected } => {
                write!(f, "ELF header: {field} is {value}, must be {expected}")
            }
            Self::ProgramHeader { index, kind, fault } => {
                write!(f, "program header {index} ({}, type {kind:#x}): {fault}", pt_to_str(kind))
            }
            Self::NothingToLoad => write!(f, "no PT_LOAD program header has anything to load"),
            Self::Entry { entry } => write!(f, "ELF header: entry point {entry:#x} is not in an executable segment"),
            Self::Dynamic { tag, value, reason } => {
                write!(f, "dynamic section: {} (tag {tag:#x}, value {value:#x}): {reason}", tag_to_str(tag))
            }
            Self::Relocation { index, offset, fault } => write!(f, "relocation {index} (offset {offset:#x}): {fault}"),
            Self::NoRoom { needed, memory } => {
                write!(f, "image, files, stack and page tables need {needed} bytes of memory, the guest has {memory}")
            }
            Self::File { index, reason } => write!(f, "file {index}: {reason}"),
            Self::BoxSize { bytes } => write!(
                f,
                "boxes of {bytes} bytes: must be 0, or a multiple of 4096 of at most {} bytes",
                hv_abi::function::BOX_MAX_BYTES
            ),
            Self::OutOfMemory => write!(f, "the host has no memory left"),
            Self::Memory(error) => error.fmt(f),
            Self::Kernel(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FileRange { offset, bytes, file_bytes } => {
                write!(f, "{bytes} bytes from offset {offset:#x} reach past the end of the file ({file_bytes} bytes)")
            }
            Self::FileLarger { file_bytes, memory_bytes } => {
                write!(f, "{file_bytes} bytes in the file are more than its {memory_bytes} bytes in memory")
            }
            Self::Wraps { address, memory_bytes } => write!(f, "{memory_bytes} bytes from address {address:#x} wrap around"),
            Self::Misaligned { address, offset } => {
                write!(f, "address {address:#x} and file offset {offset:#x} differ modulo 4096")
            }
            Self::Alignment { align } => {
                write!(f, "alignment {align:#x} is no power of two, or more than the image's load address has")
            }
            Self::WritableExecutable => write!(f, "is both writable and executable"),
            Self::TooLow { start } => {
                write!(f, "begins at {start:#x}, below the lowest image address {:#x}", hv_abi::boot::IMAGE_MIN_ADDRESS)
            }
            Self::TooHigh { end, memory } => write!(f, "ends at {end:#x}, guest memory at {memory:#x}"),
            Self::Overlap { start, free } => {
                write!(f, "begins at {start:#x}, in or below the pages of the segment before it, which end at {free:#x}")
            }
            Self::StackTooLarge { memory_bytes } => {
                write!(f, "asks for a stack of {memory_bytes} bytes, more than {}", hv_abi::boot::STACK_MAX_BYTES)
            }
            Self::NotWritable { start, end } => write!(f, "{start:#x} to {end:#x} is not inside one writable segment"),
            Self::Repeated => write!(f, "there is more than one of this type"),
            Self::Unsupported => write!(f, "is not supported; link statically, without thread-local storage"),
        }
    }
}

impl fmt::Display for RelocationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unsupported { kind } => {
                let name = r_to_str(kind, goblin::elf::header::EM_X86_64);
                write!(f, "type {name} ({kind}) is not supported, only R_X86_64_RELATIVE is")
            }
            Self::OutsideSegments => write!(f, "what it changes is not inside one segment"),
        }
    }
}
