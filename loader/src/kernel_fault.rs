//! What can be wrong with a kernel that was not written for hv, or with what it is given.

use core::fmt;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KernelFault {
    /// It is a unikernel: it is loaded as an image, not as a kernel.
    Unikernel,
    /// No note of the ELF file names a PVH entry point.
    NoEntryNote,
    /// A note is wrong.
    Note {
        /// Its type.
        kind: u32,
        /// Length of its content in bytes.
        bytes: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no Multiboot header in the first 8192 bytes.
    NoMultibootHeader,
    /// The Multiboot header's checksum does not fit.
    MultibootChecksum {
        /// Where in the file it lies.
        offset: u64,
    },
    /// The Multiboot header demands what there is not.
    MultibootFlags {
        /// The flags that are not understood.
        flags: u32,
    },
    /// The Multiboot header's address fields do not fit together.
    MultibootAddresses {
        /// How.
        reason: &'static str,
    },
    /// The entry point is in nothing that is loaded.
    EntryOutside {
        /// The entry point.
        entry: u64,
    },
    /// A piece does not lie in the guest's memory below 4 GiB.
    OutsideMemory {
        /// What it is.
        what: &'static str,
        /// Its first address.
        address: u64,
        /// Its length in bytes.
        bytes: u64,
        /// Where that memory ends.
        memory: u64,
    },
    /// Two pieces overlap.
    Overlap {
        /// What one of them is.
        what: &'static str,
        /// Its first address.
        address: u64,
        /// First address of the other.
        other: u64,
    },
    /// There is no room for something in the guest's memory below 4 GiB.
    NoRoom {
        /// What it is.
        what: &'static str,
        /// Its length in bytes.
        bytes: u64,
    },
    /// There are too many modules.
    Modules {
        /// How many.
        count: usize,
    },
    /// A command line cannot be passed on.
    CommandLine {
        /// Its length in bytes.
        bytes: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// An image of bare bytes does not fit where it is to lie, or is empty.
    RawSize {
        /// Its length in bytes.
        bytes: u64,
        /// The most that there may be.
        most: u64,
    },
    /// Nobody tells an image of bare bytes of modules and command lines.
    RawGiven,
}

impl fmt::Display for KernelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unikernel => f.write_str("the image is a unikernel's"),
            Self::NoEntryNote => f.write_str("no ELF note names a PVH entry point (owner Xen, type 18)"),
            Self::Note { kind, bytes, reason } => write!(f, "ELF note of type {kind} with {bytes} bytes: {reason}"),
            Self::NoMultibootHeader => f.write_str("there is no Multiboot header in the first 8192 bytes of the file"),
            Self::MultibootChecksum { offset } => {
                write!(f, "the checksum of the Multiboot header at offset {offset:#x} is wrong")
            }
            Self::MultibootFlags { flags } => {
                write!(f, "the Multiboot header demands features that are not offered: flags {flags:#x}")
            }
            Self::MultibootAddresses { reason } => write!(f, "address fields of the Multiboot header: {reason}"),
            Self::EntryOutside { entry } => write!(f, "the entry point {entry:#x} is in nothing that is loaded"),
            Self::OutsideMemory { what, address, bytes, memory } => {
                write!(
                    f,
                    "{what} ({bytes} bytes at {address:#x}) ends behind the guest's memory below 4 GiB, which ends at {memory:#x}"
                )
            }
            Self::Overlap { what, address, other } => write!(f, "{what} at {address:#x} overlaps what is loaded at {other:#x}"),
            Self::NoRoom { what, bytes } => {
                write!(f, "there is no room for {bytes} bytes of {what} in the guest's memory below 4 GiB")
            }
            Self::Modules { count } => write!(f, "{count} modules are more than {}", crate::MODULES_MAX),
            Self::CommandLine { bytes, reason } => write!(f, "a command line ({bytes} bytes) {reason}"),
            Self::RawSize { bytes, most } => write!(f, "the image has {bytes} bytes; there must be some, and at most {most}"),
            Self::RawGiven => f.write_str("an image of bare bytes takes neither modules nor a command line"),
        }
    }
}
