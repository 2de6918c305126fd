//! PVH: the entry point that Xen's guests without firmware have, and that QEMU boots kernels by (Xen, `docs/misc/pvh.pandoc`).

use crate::{
    Entry, Given, Kernel, KernelFault, LoadError, MODULES_MAX, MemoryMap,
    elf::{self, KernelElf},
    kernel::Block,
    space::{From, Space},
    start_info::{MAGIC, MapEntry, ModuleEntry, StartInfo},
};
use goblin::elf::program_header::PT_NOTE;
use zerocopy::IntoBytes;

/// The note's type: the physical address of the 32-bit entry point.
const PHYS32_ENTRY: u32 = 18;
/// The name of whose note it is, with the zero byte.
const OWNER: &[u8] = b"Xen\0";
/// Room for the structures: the map, the modules' list and names, the command line.
const STRUCTURES_MAX: u64 = 0x1000 + (MODULES_MAX as u64 + 1) * (crate::COMMAND_LINE_MAX as u64 + 64);

/// Tells whether a file is an ELF file with a note of the entry point, right or wrong.
pub(crate) fn is_offered(image: &[u8]) -> bool {
    KernelElf::parse(image).is_ok_and(|elf| !matches!(entry(image, &elf), Err(LoadError::Kernel(KernelFault::NoEntryNote))))
}

/// Plans an ELF file with a PVH entry.
pub(crate) fn kernel<'a>(image: &'a [u8], given: &Given<'a>, map: MemoryMap) -> Result<Kernel<'a>, LoadError> {
    let elf = KernelElf::parse(image)?;
    let eip = entry(image, &elf)?;
    let mut space = Space::new(map);
    elf.put_segments(image, &mut space)?;
    if !space.holds(eip.into()) {
        return Err(KernelFault::EntryOutside { entry: eip.into() }.into());
    }
    space.put_bios_data()?;
    let ebx = tell(given, &mut space)?;
    Ok(Kernel { space, entry: Entry::Flat32 { eip, ebx, eax: 0 } })
}

/// Places modules and structures, and returns where the start info is.
fn tell<'a>(given: &Given<'a>, space: &mut Space<'a>) -> Result<u32, LoadError> {
    let mut block = Block::new(space.room("boot information", STRUCTURES_MAX, From::Bottom)?);
    let info = block.add(&[0; size_of::<StartInfo>()])?;
    let (mut map, mut map_entries) = (0, 0);
    for (range, kind) in space.map().ranges() {
        let entry = MapEntry { address: range.start, size: range.end - range.start, kind: kind as u32, reserved: 0 };
        let at = block.add(entry.as_bytes())?;
        map = if map_entries == 0 { at } else { map };
        map_entries += 1;
    }
    let command_line = block.add_text(&[given.command_line])?;
    let module_list =
        block.add(&[0; size_of::<ModuleEntry>() * MODULES_MAX][..size_of::<ModuleEntry>() * given.modules.len()])?;
    for (index, module) in given.modules.iter().enumerate() {
        let entry = ModuleEntry {
            address: space.append("module", module.bytes)?,
            size: module.bytes.len() as u64,
            command_line: block.add_text(&[module.name])?,
            reserved: 0,
        };
        block.set(module_list + (index * size_of::<ModuleEntry>()) as u64, entry.as_bytes());
    }
    let start = StartInfo {
        magic: MAGIC,
        version: 1,
        flags: 0,
        modules: given.modules.len() as u32,
        module_list: if given.modules.is_empty() { 0 } else { module_list },
        command_line,
        rsdp: 0,
        map,
        map_entries,
        reserved: 0,
    };
    block.set(info, start.as_bytes());
    debug_assert!(block.len() <= STRUCTURES_MAX);
    space.put_structures(info, block.into_bytes())?;
    // Room is found below 4 GiB only.
    Ok(info as u32)
}

/// Finds the entry point in the file's notes.
fn entry(image: &[u8], elf: &KernelElf<'_>) -> Result<u32, LoadError> {
    for header in elf.headers().filter(|header| header.p_type == PT_NOTE) {
        let notes = elf::slice(image, "note segment", header.p_offset, header.p_filesz)?;
        let align = if header.p_align == 8 { 8 } else { 4 };
        if let Some(entry) = entry_in(notes, align)? {
            return Ok(entry);
        }
    }
    Err(KernelFault::NoEntryNote.into())
}

/// Finds the entry point in one segment of notes, each of which is three words (lengths of name and content, type), name and content, padded.
fn entry_in(mut notes: &[u8], align: usize) -> Result<Option<u32>, LoadError> {
    let whole = notes.len() as u64;
    while let Some((words, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let (name_len, len, kind) = (word(0) as usize, word(4) as usize, word(8));
        let truncated =
            || LoadError::Kernel(KernelFault::Note { kind, bytes: len as u64, reason: "reaches past the end of its segment" });
        let name = rest.get(..name_len).ok_or_else(truncated)?;
        let rest = rest.get(name_len.next_multiple_of(align)..).ok_or_else(truncated)?;
        let content = rest.get(..len).ok_or_else(truncated)?;
        if kind == PHYS32_ENTRY && name == OWNER {
            return phys32(content).map(Some);
        }
        // Padding may be missing behind the last one.
        notes = rest.get(len.next_multiple_of(align)..).unwrap_or_default();
        debug_assert!((notes.len() as u64) < whole);
    }
    Ok(None)
}

/// Reads the address, which is a word of the file's class.
fn phys32(content: &[u8]) -> Result<u32, LoadError> {
    let fault = |reason| LoadError::Kernel(KernelFault::Note { kind: PHYS32_ENTRY, bytes: content.len() as u64, reason });
    match *content {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Ok(u32::from_le_bytes([a, b, c, d])),
        [_, _, _, _, _, _, _, _] => Err(fault("the entry point is not below 4 GiB")),
        _ => Err(fault("an entry point has 4 or 8 bytes")),
    }
}
