//! Builds small ELF files, right ones to begin with and with every field open to change.

use goblin::elf::dynamic::{DT_NULL, DT_RELA, DT_RELAENT, DT_RELASZ};
use goblin::elf::header::{ELFMAG, EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_DYNAMIC, PT_GNU_RELRO, PT_LOAD};
use goblin::elf64::{dynamic::Dyn, header::Header, program_header::ProgramHeader, reloc::Rela};
use loader::{LoadError, Plan};
use scroll::{LE, Pwrite, ctx::TryIntoCtx};

/// Memory size that the files are parsed for, unless a test says otherwise.
pub(crate) const MEMORY: u64 = 16 << 20;

/// Indices of the program headers of [`Elf::pie`] and [`Elf::fixed`].
pub(crate) const CONSTANTS: usize = 0;
pub(crate) const TEXT: usize = 1;
pub(crate) const DATA: usize = 2;
pub(crate) const DYNAMIC: usize = 3;
pub(crate) const RELRO: usize = 4;

/// File offset is address plus this, for everything in a file.
const SHIFT: u64 = 0x1000;
const RELA: u64 = 0x100;
const DYN: u64 = 0x2100;

/// An ELF file to be.
#[derive(Clone)]
pub(crate) struct Elf {
    pub(crate) header: Header,
    pub(crate) headers: Vec<ProgramHeader>,
    pub(crate) dynamic: Vec<Dyn>,
    pub(crate) relocations: Vec<Rela>,
    origin: u64,
}

impl Elf {
    /// A position-independent file: constants at 0, text at 0x1000, read-only-after-relocation data from 0x2100 and data up to 0x6100.
    pub(crate) fn pie() -> Self {
        Self::at(0, ET_DYN)
    }

    /// The same as an executable for 2 MiB.
    pub(crate) fn fixed() -> Self {
        Self::at(0x20_0000, ET_EXEC)
    }

    fn at(origin: u64, e_type: u16) -> Self {
        let segment = |p_type, p_flags, at: u64, p_filesz, p_memsz| ProgramHeader {
            p_type,
            p_flags,
            p_offset: at + SHIFT,
            p_vaddr: origin + at,
            p_paddr: 0,
            p_filesz,
            p_memsz,
            p_align: 0x1000,
        };
        let relocation = |at, addend| Rela { r_offset: origin + at, r_info: 8, r_addend: addend };
        let relocations = vec![relocation(0x2200, 0x1010), relocation(0x3003, 0x40)];
        let tag = |d_tag, d_val| Dyn { d_tag, d_val };
        let mut e_ident = [0; 16];
        e_ident[..4].copy_from_slice(ELFMAG);
        e_ident[4..7].copy_from_slice(&[2, 1, 1]);
        Self {
            header: Header {
                e_ident,
                e_type,
                e_machine: EM_X86_64,
                e_version: 1,
                e_entry: origin + 0x1010,
                e_phoff: 64,
                e_ehsize: 64,
                e_phentsize: 56,
                e_phnum: 5,
                ..Header::default()
            },
            headers: vec![
                segment(PT_LOAD, PF_R, 0, 0x200, 0x200),
                segment(PT_LOAD, PF_R | PF_X, 0x1000, 0x800, 0x800),
                segment(PT_LOAD, PF_R | PF_W, 0x2100, 0x1000, 0x4000),
                segment(PT_DYNAMIC, PF_R | PF_W, DYN, 0x40, 0x40),
                segment(PT_GNU_RELRO, PF_R, DYN, 0xf00, 0xf00),
            ],
            dynamic: vec![
                tag(DT_RELA, origin + RELA),
                tag(DT_RELASZ, 24 * relocations.len() as u64),
                tag(DT_RELAENT, 24),
                tag(DT_NULL, 0),
            ],
            relocations,
            origin,
        }
    }

    /// The file: every byte that is no structure is the low byte of its offset divided by 16, never zero.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..0x4100).map(|at| (at / 16) as u8 | 1).collect();
        bytes.pwrite_with(self.header, 0, LE).unwrap();
        put(&mut bytes, 64, &self.headers);
        put(&mut bytes, (DYN + SHIFT) as usize, &self.dynamic);
        put(&mut bytes, (RELA + SHIFT) as usize, &self.relocations);
        bytes
    }

    /// The error that the file is refused with.
    pub(crate) fn error(&self) -> LoadError {
        Plan::parse(&self.build(), MEMORY).unwrap_err()
    }

    /// The file with a change.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The address that the file was linked for plus `at`.
    pub(crate) fn linked(&self, at: u64) -> u64 {
        self.origin + at
    }
}

fn put<T: Copy + TryIntoCtx<scroll::Endian, Error = scroll::Error>>(bytes: &mut [u8], mut at: usize, records: &[T]) {
    for &record in records {
        bytes.gwrite_with(record, &mut at, LE).unwrap();
    }
}
