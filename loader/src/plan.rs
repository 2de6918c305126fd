//! Checks an ELF file and decides what goes where.

use crate::dynamic::{self, Table};
use crate::{HeaderFault, LoadError, MEMORY_MAX_BYTES, MEMORY_MIN_BYTES, PAGE, RelocationFault, elf, page_down, page_up};
use alloc::vec::Vec;
use core::ops::Range;
use goblin::elf::dynamic::DT_RELA;
use goblin::elf::header::ET_EXEC;
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_GNU_RELRO, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_TLS};
use goblin::elf::reloc::R_X86_64_RELATIVE;
use goblin::elf64::{header::Header, program_header::ProgramHeader, reloc};
use hv_abi::boot::{IMAGE_MIN_ADDRESS, STACK_BYTES, STACK_MAX_BYTES};

/// Most program headers that a file may have.
pub const PROGRAM_HEADERS_MAX: u16 = 64;

/// What a guest may do with a page, apart from reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Nothing.
    Read,
    /// Write it.
    ReadWrite,
    /// Execute it.
    ReadExecute,
}

/// Bytes to be loaded: `data` at `address`, zeros behind it up to `memory_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// First address.
    pub address: u64,
    /// What the file has for it.
    pub data: &'a [u8],
    /// Its length in memory.
    pub memory_bytes: u64,
    /// What the guest may do with it until relocation is done.
    pub rights: Rights,
}

/// A range of whole pages that the guest has the same rights to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// First address, and first address behind it.
    pub pages: Range<u64>,
    /// What the guest may do with it.
    pub rights: Rights,
}

/// A word of the image that depends on where the image was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// Where it is; eight bytes, not necessarily aligned.
    pub address: u64,
    /// What is written there.
    pub value: u64,
}

/// What an ELF file wants to have loaded: proven to fit together and into guest memory.
///
/// Segments ascend and share no page; none is writable and executable; the entry point is in an executable one; every
/// relocation is inside one.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    memory_bytes: u64,
    bias: u64,
    entry: u64,
    segments: Vec<Segment<'a>>,
    relro: Range<u64>,
    stack_bytes: u64,
    host_rights: HostRights,
    relocations: &'a [u8],
}

/// Whether the host holds a guest to the rights of its image, whatever the guest's own page tables say later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostRights {
    /// It does: only code executes, and code is not written.
    Enforced,
    /// The image asks for an executable stack, as kernels do that write code, or patch their own.
    Unrestricted,
}

impl<'a> Plan<'a> {
    /// Checks `bytes` as an ELF file for a guest with `memory_size` bytes of memory.
    ///
    /// # Errors
    /// The first thing found that is wrong with it.
    pub fn parse(bytes: &'a [u8], memory_size: u64) -> Result<Self, LoadError> {
        if !(MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&memory_size) || !memory_size.is_multiple_of(PAGE) {
            return Err(LoadError::MemorySize { bytes: memory_size });
        }
        let header = elf::header(bytes)?;
        let headers = elf::program_headers(bytes, &header)?;
        let mut plan = Self {
            memory_bytes: memory_size,
            bias: bias(&header, headers.clone()),
            entry: 0,
            segments: Vec::new(),
            relro: 0..0,
            stack_bytes: STACK_BYTES,
            host_rights: HostRights::Enforced,
            relocations: &[],
        };
        plan.segments.try_reserve_exact(header.e_phnum.into()).map_err(|_| LoadError::OutOfMemory)?;
        for (index, load) in headers.clone().enumerate().filter(|(_, h)| h.p_type == PT_LOAD) {
            plan.add_segment(bytes, &load).map_err(|fault| at_header(index, &load, fault))?;
        }
        if plan.segments.is_empty() {
            return Err(LoadError::NothingToLoad);
        }
        plan.entry = plan.find_entry(header.e_entry)?;
        plan.read_other_headers(bytes, headers)?;
        Ok(plan)
    }

    /// Size of the guest's memory in bytes.
    pub fn memory_size(&self) -> u64 {
        self.memory_bytes
    }

    /// Size of the stack in bytes: whole pages.
    pub fn stack_bytes(&self) -> u64 {
        self.stack_bytes
    }

    /// Whether the host holds the guest to its image's rights.
    pub fn host_rights(&self) -> HostRights {
        self.host_rights
    }

    /// Where the guest begins.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The pages from the first to the last segment.
    pub fn image(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |s| s.pages().start);
        start..self.segments.last().map_or(start, |s| s.pages().end)
    }

    /// What is to be loaded, in ascending order.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The image's pages with the rights that the guest gets, in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.segments.iter().flat_map(|segment| {
            let Range { start, end } = segment.pages();
            let fixed = if self.relro.start >= start && self.relro.end <= end { self.relro.clone() } else { start..start };
            [
                Region { pages: start..fixed.start, rights: segment.rights },
                Region { pages: fixed.clone(), rights: Rights::Read },
                Region { pages: fixed.end..end, rights: segment.rights },
            ]
            .into_iter()
            .filter(|region| !region.pages.is_empty())
        })
    }

    /// What is to be written over the loaded segments.
    pub fn relocations(&self) -> impl Iterator<Item = Relocation> + '_ {
        elf::relocations(self.relocations)
            .map(|r| Relocation { address: self.bias.wrapping_add(r.r_offset), value: self.bias.wrapping_add_signed(r.r_addend) })
    }

    fn add_segment(&mut self, bytes: &'a [u8], load: &ProgramHeader) -> Result<(), HeaderFault> {
        let &ProgramHeader { p_vaddr, p_offset, p_filesz, p_memsz, p_align, .. } = load;
        let data = file_bytes(bytes, load)?;
        if p_filesz > p_memsz {
            return Err(HeaderFault::FileLarger { file_bytes: p_filesz, memory_bytes: p_memsz });
        }
        if p_memsz == 0 {
            return Ok(());
        }
        if p_vaddr % PAGE != p_offset % PAGE {
            return Err(HeaderFault::Misaligned { address: p_vaddr, offset: p_offset });
        }
        if p_align > 1 && !(p_align.is_power_of_two() && self.bias.is_multiple_of(p_align)) {
            return Err(HeaderFault::Alignment { align: p_align });
        }
        let rights = rights(load.p_flags)?;
        let address = p_vaddr.wrapping_add(self.bias);
        let end = p_vaddr.checked_add(p_memsz).and(address.checked_add(p_memsz)).and_then(page_up);
        let end = end.ok_or(HeaderFault::Wraps { address: p_vaddr, memory_bytes: p_memsz })?;
        if address < IMAGE_MIN_ADDRESS {
            return Err(HeaderFault::TooLow { start: address });
        }
        if end > self.memory_bytes {
            return Err(HeaderFault::TooHigh { end, memory: self.memory_bytes });
        }
        let free = self.image().end;
        if page_down(address) < free {
            return Err(HeaderFault::Overlap { start: address, free });
        }
        self.segments.push(Segment { address, data, memory_bytes: p_memsz, rights });
        Ok(())
    }

    fn find_entry(&self, entry: u64) -> Result<u64, LoadError> {
        let address = entry.wrapping_add(self.bias);
        let executable = |s: &Segment<'_>| s.rights == Rights::ReadExecute && s.contains(address, 1);
        if self.segments.iter().any(executable) { Ok(address) } else { Err(LoadError::Entry { entry }) }
    }

    /// Reads what the program headers other than `PT_LOAD` say.
    fn read_other_headers(&mut self, bytes: &'a [u8], headers: impl Iterator<Item = ProgramHeader>) -> Result<(), LoadError> {
        let mut dynamic = None;
        for (index, header) in headers.enumerate() {
            let fault = match header.p_type {
                PT_INTERP => Err(HeaderFault::Unsupported),
                PT_TLS if header.p_memsz > 0 => Err(HeaderFault::Unsupported),
                PT_GNU_RELRO => self.set_relro(&header),
                PT_GNU_STACK => self.set_stack(&header),
                PT_DYNAMIC if dynamic.is_some() => Err(HeaderFault::Repeated),
                PT_DYNAMIC => file_bytes(bytes, &header).map(|section| dynamic = Some(section)),
                _ => Ok(()),
            };
            fault.map_err(|fault| at_header(index, &header, fault))?;
        }
        if let Some(section) = dynamic {
            self.relocations = self.find_relocations(section)?;
            self.check_relocations()?;
        }
        Ok(())
    }

    /// Takes the pages that become read-only once relocation is done, rounded as dynamic loaders do.
    fn set_relro(&mut self, header: &ProgramHeader) -> Result<(), HeaderFault> {
        let start = header.p_vaddr.wrapping_add(self.bias);
        let end = start.checked_add(header.p_memsz);
        let end = end.ok_or(HeaderFault::Wraps { address: header.p_vaddr, memory_bytes: header.p_memsz })?;
        if !self.relro.is_empty() {
            return Err(HeaderFault::Repeated);
        }
        let pages = page_down(start)..page_down(end);
        if pages.is_empty() {
            return Ok(());
        }
        let holds =
            |s: &Segment<'_>| s.rights == Rights::ReadWrite && pages.start >= s.pages().start && pages.end <= s.pages().end;
        if !self.segments.iter().any(holds) {
            return Err(HeaderFault::NotWritable { start, end });
        }
        self.relro = pages;
        Ok(())
    }

    /// Takes the size of the stack, which linkers write here (`-z stack-size`); 0 is the usual one.
    fn set_stack(&mut self, header: &ProgramHeader) -> Result<(), HeaderFault> {
        if header.p_flags & PF_X != 0 {
            self.host_rights = HostRights::Unrestricted;
        }
        match header.p_memsz {
            0 => {}
            bytes if bytes > STACK_MAX_BYTES => return Err(HeaderFault::StackTooLarge { memory_bytes: bytes }),
            bytes => self.stack_bytes = bytes.next_multiple_of(PAGE),
        }
        Ok(())
    }

    /// The bytes of the relocation table that the dynamic section names.
    fn find_relocations(&self, section: &[u8]) -> Result<&'a [u8], LoadError> {
        let Some(Table { address, bytes }) = dynamic::relocation_table(section)? else { return Ok(&[]) };
        let start = address.wrapping_add(self.bias);
        let table = self.segments.iter().find_map(|s| elf::file_range(s.data, start.checked_sub(s.address)?, bytes));
        let reason = "the relocation table is not inside one segment's bytes of the file";
        table.ok_or(LoadError::Dynamic { tag: DT_RELA, value: address, reason })
    }

    fn check_relocations(&self) -> Result<(), LoadError> {
        for (index, relocation) in elf::relocations(self.relocations).enumerate() {
            let kind = reloc::r_type(relocation.r_info);
            let address = relocation.r_offset.wrapping_add(self.bias);
            let fault = if kind != R_X86_64_RELATIVE {
                RelocationFault::Unsupported { kind }
            } else if !self.segments.iter().any(|s| s.contains(address, 8)) {
                RelocationFault::OutsideSegments
            } else {
                continue;
            };
            return Err(LoadError::Relocation { index, offset: relocation.r_offset, fault });
        }
        Ok(())
    }
}

impl Segment<'_> {
    /// The pages that the segment lies in.
    fn pages(&self) -> Range<u64> {
        // The sum neither wraps nor ends past the last page: `Plan::parse` checked both.
        page_down(self.address)..page_down(self.address + self.memory_bytes + (PAGE - 1))
    }

    /// Tells whether all `bytes` bytes from `address` are inside.
    fn contains(&self, address: u64, bytes: u64) -> bool {
        address.checked_sub(self.address).and_then(|at| at.checked_add(bytes)).is_some_and(|end| end <= self.memory_bytes)
    }
}

/// What is added to every address of the file: the lowest page of a position-independent image comes to lie at the
/// lowest address that an image may have.
fn bias(header: &Header, headers: impl Iterator<Item = ProgramHeader>) -> u64 {
    if header.e_type == ET_EXEC {
        return 0;
    }
    let lowest = headers.filter(|h| h.p_type == PT_LOAD && h.p_memsz > 0).map(|h| page_down(h.p_vaddr)).min();
    IMAGE_MIN_ADDRESS.wrapping_sub(lowest.unwrap_or(IMAGE_MIN_ADDRESS))
}

/// Turns `p_flags` into rights; a segment that asks for none can be read, as every page that is present can.
fn rights(flags: u32) -> Result<Rights, HeaderFault> {
    match (flags & PF_W != 0, flags & PF_X != 0) {
        (false, false) => Ok(Rights::Read),
        (true, false) => Ok(Rights::ReadWrite),
        (false, true) => Ok(Rights::ReadExecute),
        (true, true) => Err(HeaderFault::WritableExecutable),
    }
}

pub(crate) fn file_bytes<'a>(bytes: &'a [u8], header: &ProgramHeader) -> Result<&'a [u8], HeaderFault> {
    let fault = HeaderFault::FileRange { offset: header.p_offset, bytes: header.p_filesz, file_bytes: bytes.len() as u64 };
    elf::file_range(bytes, header.p_offset, header.p_filesz).ok_or(fault)
}

fn at_header(index: usize, header: &ProgramHeader, fault: HeaderFault) -> LoadError {
    LoadError::ProgramHeader { index, kind: header.p_type, fault }
}
