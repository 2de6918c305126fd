//! Reads ELF structures, bounded: nothing is allocated, and no count is trusted before the file is seen to hold that many.

use crate::{LoadError, PROGRAM_HEADERS_MAX};
use goblin::elf::header::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, EV_CURRENT, SIZEOF_IDENT,
};
use goblin::elf64::{
    dynamic::Dyn,
    header::{Header, SIZEOF_EHDR},
    program_header::{ProgramHeader, SIZEOF_PHDR},
    reloc::Rela,
};
use scroll::{LE, Pread, ctx::TryFromCtx};

/// Reads the ELF header and checks that the file is one for this machine.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, LoadError> {
    if !bytes.starts_with(ELFMAG) {
        return Err(LoadError::NotElf);
    }
    let raw = slice(bytes, "ELF header", 0, SIZEOF_EHDR as u64)?;
    // Before the rest is read: both decide how it is to be read.
    let ident = &raw[..SIZEOF_IDENT];
    expect("EI_CLASS", ident[EI_CLASS].into(), &[ELFCLASS64.into()], "2 (64-bit)")?;
    expect("EI_DATA", ident[EI_DATA].into(), &[ELFDATA2LSB.into()], "1 (little-endian)")?;
    expect("EI_VERSION", ident[EI_VERSION].into(), &[EV_CURRENT.into()], "1")?;
    let header: Header = raw.pread_with(0, LE).map_err(|_| LoadError::NotElf)?;
    expect("e_type", header.e_type.into(), &[ET_EXEC.into(), ET_DYN.into()], "2 (executable) or 3 (position-independent)")?;
    expect("e_machine", header.e_machine.into(), &[EM_X86_64.into()], "62 (x86-64)")?;
    expect("e_version", header.e_version.into(), &[EV_CURRENT.into()], "1")?;
    if header.e_phnum > 0 {
        expect("e_phentsize", header.e_phentsize.into(), &[SIZEOF_PHDR as u64], "56")?;
    }
    if header.e_phnum > PROGRAM_HEADERS_MAX {
        return Err(LoadError::ElfHeader { field: "e_phnum", value: header.e_phnum.into(), expected: "at most 64" });
    }
    Ok(header)
}

/// Reads the program headers, in the order of the file.
pub(crate) fn program_headers<'a>(
    bytes: &'a [u8],
    header: &Header,
) -> Result<impl Iterator<Item = ProgramHeader> + Clone + 'a, LoadError> {
    let len = u64::from(header.e_phnum) * SIZEOF_PHDR as u64;
    Ok(records(slice(bytes, "program header table", header.e_phoff, len)?, SIZEOF_PHDR))
}

/// Reads the entries of a dynamic section.
pub(crate) fn dynamic(section: &[u8]) -> impl Iterator<Item = Dyn> + '_ {
    records(section, size_of::<Dyn>())
}

/// Reads the entries of a relocation table with addends.
pub(crate) fn relocations(table: &[u8]) -> impl Iterator<Item = Rela> + '_ {
    records(table, size_of::<Rela>())
}

/// The `len` bytes of the file from `offset`.
pub(crate) fn slice<'a>(bytes: &'a [u8], what: &'static str, offset: u64, len: u64) -> Result<&'a [u8], LoadError> {
    file_range(bytes, offset, len).ok_or(LoadError::Truncated { what, offset, bytes: len, file_bytes: bytes.len() as u64 })
}

/// The `len` bytes of `bytes` from `offset`; `None` where it has not so many.
pub(crate) fn file_range(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    bytes.get(start..end)
}

fn records<'a, T>(table: &'a [u8], size: usize) -> impl Iterator<Item = T> + Clone + 'a
where
    T: TryFromCtx<'a, scroll::Endian, Error = scroll::Error> + 'a,
{
    table.chunks_exact(size).map_while(|record| record.pread_with(0, LE).ok())
}

fn expect(field: &'static str, value: u64, allowed: &[u64], expected: &'static str) -> Result<(), LoadError> {
    if allowed.contains(&value) { Ok(()) } else { Err(LoadError::ElfHeader { field, value, expected }) }
}
