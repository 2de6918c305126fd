//! Kernels that were not written for hv: how they are told apart, and what is loaded of them.

use crate::{KernelFault, LoadError, MemoryMap, multiboot, pvh, raw, space::Space};
use alloc::{borrow::Cow, sync::Arc, vec::Vec};
use hv::addr::Gpa;
use hv::mem::{Frames, GuestMemory};
use hv::{EntryState, Hypervisor, Vm};

/// Most modules that a kernel is given.
pub const MODULES_MAX: usize = 64;
/// Longest command line of a kernel or a module, in bytes.
pub const COMMAND_LINE_MAX: usize = 4096;

/// How a 64-bit ELF file begins.
const ELF64: &[u8] = b"\x7fELF\x02";

/// How a guest's image is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// As a unikernel, by the contract of `hv_abi::boot`: [`crate::Image`].
    Unikernel,
    /// By the note that Xen's PVH guests have, in 32-bit mode.
    Pvh,
    /// By its Multiboot header (version 1), in 32-bit mode.
    Multiboot,
    /// As bare bytes, in real mode.
    Raw(RawAt),
}

/// Where an image of bare bytes lies and begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RawAt {
    /// It ends at 4 GiB and begins at the reset vector, as firmware does.
    Reset,
    /// It lies and begins at this address in real mode.
    Real {
        /// Segment.
        cs: u16,
        /// Offset.
        ip: u16,
    },
}

impl Protocol {
    /// Tells how an image wants to be entered: by the entry note of PVH, else by a Multiboot header, else as a unikernel. A Multiboot header is looked for in
    /// all but 64-bit ELF files, which Multiboot does not know; [`Protocol::Multiboot`] takes one with address fields all the same.
    pub fn of(image: &[u8]) -> Self {
        if pvh::is_offered(image) {
            Self::Pvh
        } else if !image.starts_with(ELF64) && multiboot::is_offered(image) {
            Self::Multiboot
        } else {
            Self::Unikernel
        }
    }
}

/// What a kernel gets beside its own image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Given<'a> {
    /// The kernel's name, the first word of a Multiboot command line.
    pub name: &'a str,
    /// The command line.
    pub command_line: &'a str,
    /// Modules, in their order.
    pub modules: &'a [Module<'a>],
}

/// A file that is loaded beside the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module<'a> {
    /// Its name, or its command line.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Bytes to be loaded: `data` at `address`, zeros behind it up to `memory_bytes`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// What it is.
    pub what: &'static str,
    /// First guest-physical address.
    pub address: u64,
    /// What is written there.
    pub data: Cow<'a, [u8]>,
    /// Its length in memory.
    pub memory_bytes: u64,
}

/// In what state a kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Flat 32-bit protected mode without paging, interrupts off.
    Flat32 {
        /// First instruction.
        eip: u32,
        /// EBX: where what the kernel is told lies.
        ebx: u32,
        /// EAX: who loaded it.
        eax: u32,
    },
    /// Real mode at an address.
    Real {
        /// Segment.
        cs: u16,
        /// Offset.
        ip: u16,
    },
    /// As a processor begins after RESET.
    Reset,
}

/// What a kernel wants to have loaded: proven to fit together and into guest memory, no two pieces overlapping.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    pub(crate) space: Space<'a>,
    pub(crate) entry: Entry,
}

impl<'a> Kernel<'a> {
    /// Checks `image` as a kernel of that protocol, for a guest with `memory_size` bytes of RAM.
    ///
    /// # Errors
    /// The first thing found that is wrong with it, or with what it is given; [`KernelFault::Unikernel`] for a protocol that is none of kernels.
    pub fn parse(image: &'a [u8], protocol: Protocol, given: &Given<'a>, memory_size: u64) -> Result<Self, LoadError> {
        let map = MemoryMap::new(memory_size)?;
        check_given(given)?;
        match protocol {
            Protocol::Unikernel => Err(KernelFault::Unikernel.into()),
            Protocol::Pvh => pvh::kernel(image, given, map),
            Protocol::Multiboot => multiboot::kernel(image, given, map),
            Protocol::Raw(at) => raw::kernel(image, given, at, map),
        }
    }

    /// What is loaded, in no order.
    pub fn pieces(&self) -> &[Piece<'a>] {
        self.space.pieces()
    }

    /// How it is entered.
    pub const fn entry(&self) -> Entry {
        self.entry
    }

    /// The guest's memory, as it is told to the kernel.
    pub const fn map(&self) -> MemoryMap {
        self.space.map()
    }

    /// Makes a VM that is about to enter the kernel.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when frames run out.
    pub fn spawn(&self, hypervisor: &Arc<Hypervisor>) -> Result<Vm, LoadError> {
        let state = match self.entry {
            Entry::Flat32 { eip, ebx, eax } => EntryState::Flat32 { eip, ebx, eax, esi: 0 },
            Entry::Real { cs, ip } => EntryState::Real { cs, ip },
            Entry::Reset => EntryState::Reset,
        };
        Ok(Vm::new(hypervisor, self.load(hypervisor.frames())?, &state)?)
    }

    /// Makes guest memory with everything in it.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when frames run out.
    pub fn load(&self, frames: Frames) -> Result<GuestMemory, LoadError> {
        let map = self.map();
        let mut memory = GuestMemory::with_hole(frames, map.address_end(), map.hole())?;
        for piece in self.pieces() {
            memory.write(Gpa(piece.address), &piece.data)?;
        }
        Ok(memory)
    }
}

fn check_given(given: &Given<'_>) -> Result<(), LoadError> {
    if given.modules.len() > MODULES_MAX {
        return Err(KernelFault::Modules { count: given.modules.len() }.into());
    }
    let lines = [given.name, given.command_line].into_iter().chain(given.modules.iter().map(|module| module.name));
    for line in lines {
        if line.len() > COMMAND_LINE_MAX {
            return Err(KernelFault::CommandLine { bytes: line.len(), reason: "is longer than 4096 bytes" }.into());
        } else if line.contains('\0') {
            return Err(KernelFault::CommandLine { bytes: line.len(), reason: "contains a zero byte" }.into());
        }
    }
    Ok(())
}

/// Structures that lie one behind the other in guest memory, and point to each other.
pub(crate) struct Block {
    address: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Begins a block at an address that is a multiple of 8.
    pub(crate) const fn new(address: u64) -> Self {
        Self { address, bytes: Vec::new() }
    }

    /// Adds bytes at a multiple of 8, and returns where they will lie.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<u64, LoadError> {
        let at = self.bytes.len().next_multiple_of(8);
        self.bytes.try_reserve(at - self.bytes.len() + bytes.len()).map_err(|_| LoadError::OutOfMemory)?;
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(bytes);
        Ok(self.address + at as u64)
    }

    /// Adds texts that follow one another, with a zero byte behind the last.
    pub(crate) fn add_text(&mut self, parts: &[&str]) -> Result<u64, LoadError> {
        let at = self.add(&[])?;
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
        self.bytes.try_reserve(bytes).map_err(|_| LoadError::OutOfMemory)?;
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part.as_bytes()));
        self.bytes.push(0);
        Ok(at)
    }

    /// Overwrites what was added at an address.
    pub(crate) fn set(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.address) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes of the block.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Length so far.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}
