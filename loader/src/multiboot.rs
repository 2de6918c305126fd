//! Multiboot, version 1 (GNU, "Multiboot Specification version 0.6.96").

use crate::{
    Entry, Given, Kernel, KernelFault, LoadError, MODULES_MAX, MemoryMap, Piece,
    elf::{self, KernelElf},
    kernel::Block,
    space::{From, Space},
};
use alloc::borrow::Cow;
use zerocopy::{Immutable, IntoBytes};

/// First word of the header.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// The header lies wholly in so many first bytes of the file.
const SEARCH_BYTES: usize = 8192;
/// What EAX holds at the entry point.
const LOADER_MAGIC: u32 = 0x2bad_b002;
const LOADER_NAME: &str = "hv";

/// Header flag: modules begin at page boundaries, as all here do.
const ALIGN_MODULES: u32 = 1 << 0;
/// Header flag: the kernel wants to know of its memory, as all are told.
const WANT_MEMORY: u32 = 1 << 1;
/// Header flags that a loader has to understand, or refuse the kernel.
const MUST_UNDERSTAND: u32 = 0xffff;
/// Header flag: the header's address fields say what is loaded, not the ELF file's.
const HAS_ADDRESSES: u32 = 1 << 16;

// What is in the information: memory sizes, command line, modules, memory map, the loader's name.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Room for the structures.
const STRUCTURES_MAX: u64 = 0x1000 + (MODULES_MAX as u64 + 2) * (crate::COMMAND_LINE_MAX as u64 + 32);

/// What a kernel is told: the fields that [`INFO_FLAGS`] names, and nothing behind the last of them.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct Info {
    flags: u32,
    lower_kib: u32,
    upper_kib: u32,
    boot_device: u32,
    command_line: u32,
    modules: u32,
    module_list: u32,
    symbols: [u32; 4],
    map_bytes: u32,
    map: u32,
    drives: [u32; 2],
    configuration: u32,
    loader_name: u32,
    rest: [u32; 12],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    start: u32,
    end: u32,
    name: u32,
    reserved: u32,
}

/// Multiboot counts an entry's size without the field that tells it.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct MapEntry {
    size: u32,
    address: u64,
    bytes: u64,
    kind: u32,
}

/// The header, as far as it is used.
struct Header {
    offset: u64,
    flags: u32,
    /// Where header, loaded part, its end and that of zeros lie, and the entry point.
    addresses: [u32; 5],
}

/// Tells whether a file has a header, with a checksum that fits.
pub(crate) fn is_offered(image: &[u8]) -> bool {
    find(image).is_ok()
}

/// Plans a file with a Multiboot header.
pub(crate) fn kernel<'a>(image: &'a [u8], given: &Given<'a>, map: MemoryMap) -> Result<Kernel<'a>, LoadError> {
    let header = find(image)?;
    let unknown = header.flags & MUST_UNDERSTAND & !(ALIGN_MODULES | WANT_MEMORY);
    if unknown != 0 {
        return Err(KernelFault::MultibootFlags { flags: unknown }.into());
    }
    let mut space = Space::new(map);
    let entry = if header.flags & HAS_ADDRESSES != 0 {
        put_by_addresses(image, &header, &mut space)?
    } else {
        let elf = KernelElf::parse(image)?;
        elf.put_segments(image, &mut space)?;
        elf.entry()
    };
    let eip = u32::try_from(entry).ok().filter(|_| space.holds(entry)).ok_or(KernelFault::EntryOutside { entry })?;
    space.put_bios_data()?;
    let ebx = tell(given, &mut space)?;
    Ok(Kernel { space, entry: Entry::Flat32 { eip, ebx, eax: LOADER_MAGIC } })
}

/// Finds the header: three words whose sum is 0, at a multiple of 4.
fn find(image: &[u8]) -> Result<Header, LoadError> {
    let searched = &image[..image.len().min(SEARCH_BYTES)];
    let mut fault = KernelFault::NoMultibootHeader;
    for (index, words) in searched.chunks_exact(4).enumerate() {
        let offset = index * 4;
        if u32::from_le_bytes([words[0], words[1], words[2], words[3]]) != HEADER_MAGIC {
            continue;
        }
        let word =
            |at: usize| searched.get(offset + at * 4..offset + at * 4 + 4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let (Some(flags), Some(checksum)) = (word(1), word(2)) else { break };
        if HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            fault = KernelFault::MultibootChecksum { offset: offset as u64 };
            continue;
        }
        let mut addresses = [0; 5];
        if flags & HAS_ADDRESSES != 0 {
            for (at, address) in addresses.iter_mut().enumerate() {
                let truncated = || truncated_header(offset, image);
                *address = word(3 + at).ok_or_else(truncated)?;
            }
        }
        return Ok(Header { offset: offset as u64, flags, addresses });
    }
    Err(fault.into())
}

fn truncated_header(offset: usize, image: &[u8]) -> LoadError {
    LoadError::Truncated { what: "Multiboot header", offset: offset as u64, bytes: 32, file_bytes: image.len() as u64 }
}

/// Loads one piece of the file, as the header's address fields say, and returns the entry point.
fn put_by_addresses<'a>(image: &'a [u8], header: &Header, space: &mut Space<'a>) -> Result<u64, LoadError> {
    let [header_address, load, load_end, zeros_end, entry] = header.addresses.map(u64::from);
    let fault = |reason| LoadError::Kernel(KernelFault::MultibootAddresses { reason });
    let before = header_address.checked_sub(load).ok_or_else(|| fault("the header lies before what is loaded"))?;
    let start = header.offset.checked_sub(before).ok_or_else(|| fault("what is loaded begins before the file"))?;
    // 0 is the end of the file, and no zeros behind.
    let available = image.len() as u64 - start;
    let bytes = match load_end {
        0 => available,
        end => end.checked_sub(load).ok_or_else(|| fault("what is loaded ends before it begins"))?,
    };
    let memory_bytes = match zeros_end {
        0 => bytes,
        end => {
            end.checked_sub(load).filter(|memory| *memory >= bytes).ok_or_else(|| fault("its zeros end before its bytes do"))?
        }
    };
    let data = elf::slice(image, "what the Multiboot header loads", start, bytes)?;
    space.put(Piece { what: "image", address: load, data: Cow::Borrowed(data), memory_bytes })?;
    Ok(entry)
}

/// Places modules and structures, and returns where the information is.
fn tell<'a>(given: &Given<'a>, space: &mut Space<'a>) -> Result<u32, LoadError> {
    // Everything lies below 4 GiB: room is found there only.
    let mut block = Block::new(space.room("boot information", STRUCTURES_MAX, From::Bottom)?);
    let at = block.add(&[0; size_of::<Info>()])?;
    let mut map = [const { [0; size_of::<MapEntry>()] }; 8];
    let mut map_entries = 0;
    for ((range, kind), place) in space.map().ranges().zip(&mut map) {
        let size = size_of::<MapEntry>() as u32 - 4;
        let entry = MapEntry { size, address: range.start, bytes: range.end - range.start, kind: kind as u32 };
        place.copy_from_slice(entry.as_bytes());
        map_entries += 1;
    }
    let map = block.add(map[..map_entries].as_flattened())? as u32;
    let space_between = if given.command_line.is_empty() { "" } else { " " };
    let command_line = block.add_text(&[given.name, space_between, given.command_line])? as u32;
    let loader_name = block.add_text(&[LOADER_NAME])? as u32;
    let module_list =
        block.add(&[0; size_of::<ModuleEntry>() * MODULES_MAX][..size_of::<ModuleEntry>() * given.modules.len()])?;
    for (index, module) in given.modules.iter().enumerate() {
        let start = space.append("module", module.bytes)? as u32;
        let name = block.add_text(&[module.name])? as u32;
        let entry = ModuleEntry { start, end: start + module.bytes.len() as u32, name, reserved: 0 };
        block.set(module_list + (index * size_of::<ModuleEntry>()) as u64, entry.as_bytes());
    }
    let (lower_kib, upper_kib) = space.map().lower_and_upper_kib();
    let info = Info {
        flags: INFO_FLAGS,
        lower_kib,
        upper_kib,
        command_line,
        modules: given.modules.len() as u32,
        module_list: module_list as u32,
        map_bytes: (map_entries * size_of::<MapEntry>()) as u32,
        map,
        loader_name,
        ..Info::default()
    };
    block.set(at, info.as_bytes());
    debug_assert!(block.len() <= STRUCTURES_MAX);
    space.put_structures(at, block.into_bytes())?;
    Ok(at as u32)
}
