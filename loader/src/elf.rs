//! Reads ELF structures, bounded: nothing is allocated, and no count is trusted before the file is seen to hold that many.

use crate::{LoadError, PROGRAM_HEADERS_MAX, Piece, file_bytes, space::Space};
use alloc::borrow::Cow;
use goblin::elf::header::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_386, EM_X86_64, ET_DYN, ET_EXEC, EV_CURRENT,
    SIZEOF_IDENT,
};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf32;
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

/// What a kernel's loader reads of an ELF file of either class; what is said of 32 bits is widened to 64.
pub(crate) struct KernelElf<'a> {
    entry: u64,
    /// The program headers' bytes.
    table: &'a [u8],
    class: Class,
}

#[derive(Clone, Copy)]
enum Class {
    Elf32,
    Elf64,
}

impl<'a> KernelElf<'a> {
    /// Reads the headers of an executable for a 32-bit or 64-bit processor of this kind.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let ident = bytes.get(..SIZEOF_IDENT).filter(|ident| ident.starts_with(ELFMAG)).ok_or(LoadError::NotElf)?;
        let class = ident[EI_CLASS];
        expect("EI_CLASS", class.into(), &[ELFCLASS32.into(), ELFCLASS64.into()], "1 (32-bit) or 2 (64-bit)")?;
        let (entry, offset, count, class) = if class == ELFCLASS64 {
            let header = header(bytes)?;
            (header.e_entry, header.e_phoff, header.e_phnum, Class::Elf64)
        } else {
            let header = header_32(bytes)?;
            (header.e_entry.into(), header.e_phoff.into(), header.e_phnum, Class::Elf32)
        };
        let table = slice(bytes, "program header table", offset, u64::from(count) * class.header_bytes() as u64)?;
        Ok(Self { entry, table, class })
    }

    /// The entry point that the ELF header names.
    pub(crate) const fn entry(&self) -> u64 {
        self.entry
    }

    /// The program headers, in the order of the file.
    pub(crate) fn headers(&self) -> impl Iterator<Item = ProgramHeader> + '_ {
        let read = |record: &[u8]| match self.class {
            Class::Elf32 => record.pread_with(0, LE).ok().map(widen),
            Class::Elf64 => record.pread_with(0, LE).ok(),
        };
        self.table.chunks_exact(self.class.header_bytes()).map_while(read)
    }

    /// Puts every segment that is to be loaded at its physical address.
    pub(crate) fn put_segments(&self, bytes: &'a [u8], space: &mut Space<'a>) -> Result<(), LoadError> {
        let loads = self.headers().enumerate().filter(|(_, header)| header.p_type == PT_LOAD && header.p_memsz > 0);
        for (index, header) in loads {
            let at_header = |fault| LoadError::ProgramHeader { index, kind: PT_LOAD, fault };
            let ProgramHeader { p_paddr, p_filesz, p_memsz, .. } = header;
            let data = file_bytes(bytes, &header).map_err(at_header)?;
            if p_filesz > p_memsz {
                return Err(at_header(crate::HeaderFault::FileLarger { file_bytes: p_filesz, memory_bytes: p_memsz }));
            }
            space.put(Piece { what: "segment", address: p_paddr, data: Cow::Borrowed(data), memory_bytes: p_memsz })?;
        }
        if space.pieces().is_empty() { Err(LoadError::NothingToLoad) } else { Ok(()) }
    }
}

impl Class {
    /// Size of a program header.
    const fn header_bytes(self) -> usize {
        match self {
            Self::Elf32 => elf32::program_header::SIZEOF_PHDR,
            Self::Elf64 => SIZEOF_PHDR,
        }
    }
}

/// Reads the ELF header of a 32-bit file and checks that the file is one for this machine.
fn header_32(bytes: &[u8]) -> Result<elf32::header::Header, LoadError> {
    let raw = slice(bytes, "ELF header", 0, elf32::header::SIZEOF_EHDR as u64)?;
    let ident = &raw[..SIZEOF_IDENT];
    expect("EI_DATA", ident[EI_DATA].into(), &[ELFDATA2LSB.into()], "1 (little-endian)")?;
    expect("EI_VERSION", ident[EI_VERSION].into(), &[EV_CURRENT.into()], "1")?;
    let header: elf32::header::Header = raw.pread_with(0, LE).map_err(|_| LoadError::NotElf)?;
    expect("e_type", header.e_type.into(), &[ET_EXEC.into()], "2 (executable)")?;
    expect("e_machine", header.e_machine.into(), &[EM_386.into()], "3 (80386)")?;
    expect("e_version", header.e_version.into(), &[EV_CURRENT.into()], "1")?;
    if header.e_phnum > 0 {
        expect("e_phentsize", header.e_phentsize.into(), &[elf32::program_header::SIZEOF_PHDR as u64], "32")?;
    }
    if header.e_phnum > PROGRAM_HEADERS_MAX {
        return Err(LoadError::ElfHeader { field: "e_phnum", value: header.e_phnum.into(), expected: "at most 64" });
    }
    Ok(header)
}

fn widen(header: elf32::program_header::ProgramHeader) -> ProgramHeader {
    ProgramHeader {
        p_type: header.p_type,
        p_flags: header.p_flags,
        p_offset: header.p_offset.into(),
        p_vaddr: header.p_vaddr.into(),
        p_paddr: header.p_paddr.into(),
        p_filesz: header.p_filesz.into(),
        p_memsz: header.p_memsz.into(),
        p_align: header.p_align.into(),
    }
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
