//! Finds the relocations in the dynamic section, and refuses what a dynamic loader would have to do.

use crate::{LoadError, elf};
use goblin::elf::dynamic::{DT_NEEDED, DT_NULL, DT_PLTRELSZ, DT_RELA, DT_RELAENT, DT_RELASZ, DT_RELSZ};
use goblin::elf64::reloc::Rela;

/// Most relocations that a file may have.
pub const RELOCATIONS_MAX: u64 = 1 << 20;

/// Size in bytes of the packed relative relocations, which linkers emit only when asked to (`-z pack-relative-relocs`).
const DT_RELRSZ: u64 = 35;

/// Size of a relocation with addend.
const ENTRY_BYTES: u64 = size_of::<Rela>() as u64;

/// Where the relocations with addends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// First address, not yet biased.
    pub(crate) address: u64,
    /// Length: a multiple of a relocation's size, not zero.
    pub(crate) bytes: u64,
}

/// Reads the dynamic section up to its end mark.
pub(crate) fn relocation_table(section: &[u8]) -> Result<Option<Table>, LoadError> {
    let (mut address, mut bytes, mut entry_bytes) = (None, 0, ENTRY_BYTES);
    for entry in elf::dynamic(section).take_while(|entry| entry.d_tag != DT_NULL) {
        let (tag, value) = (entry.d_tag, entry.d_val);
        let fault = |reason| Err(LoadError::Dynamic { tag, value, reason });
        match tag {
            DT_RELA => address = Some(value),
            DT_RELASZ => bytes = value,
            DT_RELAENT => entry_bytes = value,
            DT_NEEDED => return fault("needs a shared library; link statically"),
            DT_RELSZ | DT_PLTRELSZ | DT_RELRSZ if value > 0 => return fault("only the relocations of DT_RELA are applied"),
            _ => {}
        }
    }
    let fault = |reason| LoadError::Dynamic { tag: DT_RELASZ, value: bytes, reason };
    if bytes == 0 {
        Ok(None)
    } else if entry_bytes != ENTRY_BYTES {
        Err(LoadError::Dynamic { tag: DT_RELAENT, value: entry_bytes, reason: "must be 24" })
    } else if !bytes.is_multiple_of(ENTRY_BYTES) {
        Err(fault("must be a multiple of 24"))
    } else if bytes / ENTRY_BYTES > RELOCATIONS_MAX {
        Err(fault("more than 1048576 relocations"))
    } else {
        Ok(Some(Table { address: address.ok_or(fault("there is no DT_RELA"))?, bytes }))
    }
}
