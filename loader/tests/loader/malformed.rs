//! Every way in which a file can be wrong, one change at a time, and the exact error.

use crate::builder::{CONSTANTS, DATA, DYNAMIC, Elf, MEMORY, RELRO, TEXT};
use goblin::elf::dynamic::{DT_JMPREL, DT_NEEDED, DT_PLTRELSZ, DT_RELA, DT_RELAENT, DT_RELASZ, DT_RELSZ};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_DYNAMIC, PT_GNU_RELRO, PT_INTERP, PT_LOAD, PT_NOTE, PT_NULL, PT_TLS};
use goblin::elf64::dynamic::Dyn;
use loader::{HeaderFault, LoadError, Plan, Region, RelocationFault, Rights};

/// Length of the builder's files.
const FILE: u64 = 0x4100;

fn change(change: impl FnOnce(&mut Elf)) -> LoadError {
    Elf::pie().with(change).error()
}

fn elf_header(field: &'static str, found: u64, change: impl FnOnce(&mut Elf)) {
    match self::change(change) {
        LoadError::ElfHeader { field: f, value, .. } => assert_eq!((f, value), (field, found)),
        other => panic!("{other:?}"),
    }
}

fn program_header(index: usize, kind: u32, fault: HeaderFault, change: impl FnOnce(&mut Elf)) {
    assert_eq!(self::change(change), LoadError::ProgramHeader { index, kind, fault });
}

fn dynamic(tag: u64, found: u64, change: impl FnOnce(&mut Elf)) {
    match self::change(change) {
        LoadError::Dynamic { tag: t, value, .. } => assert_eq!((t, value), (tag, found)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn right_files_are_taken() {
    for (elf, base) in [(Elf::pie(), 0x1_0000), (Elf::fixed(), 0x20_0000)] {
        let bytes = elf.build();
        let plan = Plan::parse(&bytes, MEMORY).unwrap();
        assert_eq!(plan.entry(), base + 0x1010);
        assert_eq!(plan.image(), base..base + 0x7000);
        let region = |from, to, rights| Region { pages: base + from..base + to, rights };
        assert_eq!(
            plan.regions().collect::<Vec<_>>(),
            [
                region(0, 0x1000, Rights::Read),
                region(0x1000, 0x2000, Rights::ReadExecute),
                region(0x2000, 0x3000, Rights::Read),
                region(0x3000, 0x7000, Rights::ReadWrite),
            ]
        );
        let bias = base - elf.linked(0);
        let relocations: Vec<_> = plan.relocations().map(|r| (r.address - base, r.value - bias)).collect();
        assert_eq!(relocations, [(0x2200, 0x1010), (0x3003, 0x40)]);
    }
}

#[test]
fn memory_sizes_have_bounds() {
    let file = Elf::pie().build();
    for bytes in [0, 4096, (1 << 20) - 4096, (1 << 20) + 1, (512 << 30) + 4096, u64::MAX] {
        assert_eq!(Plan::parse(&file, bytes).unwrap_err(), LoadError::MemorySize { bytes });
    }
    for bytes in [1 << 20, 512 << 30] {
        assert!(Plan::parse(&file, bytes).is_ok());
    }
}

#[test]
fn no_prefix_of_a_file_is_a_file() {
    let file = Elf::pie().build();
    for len in 0..file.len() {
        let error = Plan::parse(&file[..len], MEMORY).unwrap_err();
        match len {
            0..4 => assert_eq!(error, LoadError::NotElf),
            4..64 => {
                let what = "ELF header";
                assert_eq!(error, LoadError::Truncated { what, offset: 0, bytes: 64, file_bytes: len as u64 });
            }
            64..344 => {
                let what = "program header table";
                assert_eq!(error, LoadError::Truncated { what, offset: 64, bytes: 280, file_bytes: len as u64 });
            }
            _ => assert!(
                matches!(error, LoadError::ProgramHeader { fault: HeaderFault::FileRange { .. }, .. }),
                "{len}: {error:?}"
            ),
        }
    }
}

#[test]
fn the_elf_header_must_be_for_this_machine() {
    assert_eq!(change(|elf| elf.header.e_ident[0] = 0), LoadError::NotElf);
    assert_eq!(Plan::parse(b"#!/bin/sh\n", MEMORY).unwrap_err(), LoadError::NotElf);
    elf_header("EI_CLASS", 1, |elf| elf.header.e_ident[4] = 1);
    elf_header("EI_DATA", 2, |elf| elf.header.e_ident[5] = 2);
    elf_header("EI_VERSION", 0, |elf| elf.header.e_ident[6] = 0);
    elf_header("e_type", 1, |elf| elf.header.e_type = 1);
    elf_header("e_type", 4, |elf| elf.header.e_type = 4);
    elf_header("e_machine", 183, |elf| elf.header.e_machine = 183);
    elf_header("e_version", 2, |elf| elf.header.e_version = 2);
    elf_header("e_phentsize", 32, |elf| elf.header.e_phentsize = 32);
    elf_header("e_phnum", 65, |elf| elf.header.e_phnum = 65);
    elf_header("e_phnum", 0xffff, |elf| elf.header.e_phnum = 0xffff);
}

#[test]
fn the_program_header_table_must_be_in_the_file() {
    let what = "program header table";
    for offset in [FILE - 279, FILE, u64::MAX - 100, u64::MAX] {
        let truncated = LoadError::Truncated { what, offset, bytes: 280, file_bytes: FILE };
        assert_eq!(change(|elf| elf.header.e_phoff = offset), truncated);
    }
}

#[test]
fn something_must_be_loaded() {
    assert_eq!(change(|elf| (elf.header.e_phnum, elf.header.e_phentsize) = (0, 0)), LoadError::NothingToLoad);
    assert_eq!(change(|elf| elf.headers.iter_mut().for_each(|h| h.p_type = PT_NOTE)), LoadError::NothingToLoad);
    let empty = |elf: &mut Elf| elf.headers.iter_mut().for_each(|h| (h.p_filesz, h.p_memsz) = (0, 0));
    assert_eq!(change(empty), LoadError::NothingToLoad);
}

#[test]
fn segments_must_be_inside_the_file() {
    for (offset, bytes) in [(0x3101, 0x1000), (0x3100, 0x1001), (u64::MAX, 2), (0x3100, u64::MAX), (FILE + 1, 0)] {
        let fault = HeaderFault::FileRange { offset, bytes, file_bytes: FILE };
        program_header(DATA, PT_LOAD, fault, |elf| (elf.headers[DATA].p_offset, elf.headers[DATA].p_filesz) = (offset, bytes));
    }
}

#[test]
fn segments_have_no_more_bytes_in_the_file_than_in_memory() {
    let fault = HeaderFault::FileLarger { file_bytes: 0x800, memory_bytes: 0x7ff };
    program_header(TEXT, PT_LOAD, fault, |elf| elf.headers[TEXT].p_memsz = 0x7ff);
    let fault = HeaderFault::FileLarger { file_bytes: 0x800, memory_bytes: 0 };
    program_header(TEXT, PT_LOAD, fault, |elf| elf.headers[TEXT].p_memsz = 0);
}

#[test]
fn segments_must_be_congruent_and_aligned() {
    let fault = HeaderFault::Misaligned { address: 0x1000, offset: 0x2008 };
    program_header(TEXT, PT_LOAD, fault, |elf| elf.headers[TEXT].p_offset = 0x2008);
    for align in [3, 0x1001, 0x2_0000, 1 << 63] {
        program_header(TEXT, PT_LOAD, HeaderFault::Alignment { align }, |elf| elf.headers[TEXT].p_align = align);
    }
    for align in [0, 1, 8, 0x1_0000] {
        assert!(Plan::parse(&Elf::pie().with(|elf| elf.headers[TEXT].p_align = align).build(), MEMORY).is_ok());
    }
}

#[test]
fn segments_must_not_be_writable_and_executable() {
    for flags in [PF_W | PF_X, PF_R | PF_W | PF_X, !0] {
        program_header(DATA, PT_LOAD, HeaderFault::WritableExecutable, |elf| elf.headers[DATA].p_flags = flags);
    }
}

#[test]
fn segments_must_be_inside_memory() {
    let memory_bytes = MEMORY - 0x12100 + 1;
    let fault = HeaderFault::TooHigh { end: MEMORY + 4096, memory: MEMORY };
    program_header(DATA, PT_LOAD, fault, |elf| elf.headers[DATA].p_memsz = memory_bytes);
    let fits = Elf::pie().with(|elf| elf.headers[DATA].p_memsz = memory_bytes - 1).build();
    assert_eq!(Plan::parse(&fits, MEMORY).unwrap().image().end, MEMORY);
    let low = Elf::fixed().with(|elf| elf.headers[CONSTANTS].p_vaddr = 0xf000);
    let fault = HeaderFault::TooLow { start: 0xf000 };
    assert_eq!(low.error(), LoadError::ProgramHeader { index: CONSTANTS, kind: PT_LOAD, fault });
}

#[test]
fn addresses_must_not_wrap() {
    for memory_bytes in [u64::MAX, u64::MAX - 0x2100, u64::MAX - 0x1_2100] {
        let fault = HeaderFault::Wraps { address: 0x2100, memory_bytes };
        program_header(DATA, PT_LOAD, fault, |elf| elf.headers[DATA].p_memsz = memory_bytes);
    }
    let address = u64::MAX - 0xeff;
    let fault = HeaderFault::Wraps { address, memory_bytes: 0x4000 };
    program_header(DATA, PT_LOAD, fault, |elf| elf.headers[DATA].p_vaddr = address);
    // Does not wrap as linked, but would where it is loaded.
    let address = u64::MAX - 0xfeff;
    program_header(DATA, PT_LOAD, HeaderFault::TooLow { start: 0x100 }, |elf| elf.headers[DATA].p_vaddr = address);
}

#[test]
fn segments_must_ascend_and_share_no_page() {
    for (address, start) in [(0x1100, 0x1_1100), (0x100, 0x1_0100)] {
        let fault = HeaderFault::Overlap { start, free: 0x1_2000 };
        program_header(DATA, PT_LOAD, fault, |elf| elf.headers[DATA].p_vaddr = address);
    }
    let fault = HeaderFault::Overlap { start: 0x1_2100, free: 0x1_3000 };
    program_header(DATA, PT_LOAD, fault, |elf| elf.headers[TEXT].p_memsz = 0x1001);
    let fault = HeaderFault::Overlap { start: 0x1_0000, free: 0x1_2000 };
    program_header(TEXT, PT_LOAD, fault, |elf| elf.headers.swap(CONSTANTS, TEXT));
}

#[test]
fn the_entry_must_be_executable() {
    for entry in [0, 0xfff, 0x1800, 0x2100, u64::MAX] {
        assert_eq!(change(|elf| elf.header.e_entry = entry), LoadError::Entry { entry });
    }
    assert_eq!(change(|elf| elf.headers[TEXT].p_flags = PF_R), LoadError::Entry { entry: 0x1010 });
}

#[test]
fn interpreters_and_thread_local_storage_are_refused() {
    for kind in [PT_INTERP, PT_TLS] {
        program_header(RELRO, kind, HeaderFault::Unsupported, |elf| elf.headers[RELRO].p_type = kind);
    }
    let empty = |elf: &mut Elf| (elf.headers[RELRO].p_type, elf.headers[RELRO].p_memsz) = (PT_TLS, 0);
    assert!(Plan::parse(&Elf::pie().with(empty).build(), MEMORY).is_ok());
}

#[test]
fn read_only_after_relocation_is_for_writable_segments() {
    let fault = HeaderFault::NotWritable { start: 0x1_1000, end: 0x1_2000 };
    let text = |elf: &mut Elf| (elf.headers[RELRO].p_vaddr, elf.headers[RELRO].p_memsz) = (0x1000, 0x1000);
    program_header(RELRO, PT_GNU_RELRO, fault, text);
    let fault = HeaderFault::NotWritable { start: 0x1_2100, end: 0x1_8000 };
    program_header(RELRO, PT_GNU_RELRO, fault, |elf| elf.headers[RELRO].p_memsz = 0x5f00);
    let fault = HeaderFault::Wraps { address: 0x2100, memory_bytes: u64::MAX };
    program_header(RELRO, PT_GNU_RELRO, fault, |elf| elf.headers[RELRO].p_memsz = u64::MAX);
    let second = elf_with_second(RELRO);
    assert_eq!(second.error(), LoadError::ProgramHeader { index: 5, kind: PT_GNU_RELRO, fault: HeaderFault::Repeated });
}

#[test]
fn read_only_after_relocation_covers_whole_pages_only() {
    let rights = |bytes| {
        let file = Elf::pie().with(|elf| elf.headers[RELRO].p_memsz = bytes).build();
        let plan = Plan::parse(&file, MEMORY).unwrap();
        plan.regions().filter(|r| r.pages.start >= 0x1_2000).map(|r| (r.pages.end, r.rights)).collect::<Vec<_>>()
    };
    let (all, one) = (vec![(0x1_7000, Rights::ReadWrite)], vec![(0x1_3000, Rights::Read), (0x1_7000, Rights::ReadWrite)]);
    assert_eq!((rights(0), rights(0xeff)), (all.clone(), all));
    assert_eq!((rights(0xf00), rights(0x1eff)), (one.clone(), one));
    assert_eq!(rights(0x4f00), [(0x1_7000, Rights::Read)]);
}

fn elf_with_second(index: usize) -> Elf {
    Elf::pie().with(|elf| {
        elf.headers.push(elf.headers[index]);
        elf.header.e_phnum = 6;
    })
}

#[test]
fn the_dynamic_section_must_be_one_and_in_the_file() {
    let fault = HeaderFault::FileRange { offset: 0x3100, bytes: 0x1001, file_bytes: FILE };
    program_header(DYNAMIC, PT_DYNAMIC, fault, |elf| elf.headers[DYNAMIC].p_filesz = 0x1001);
    let second = elf_with_second(DYNAMIC);
    assert_eq!(second.error(), LoadError::ProgramHeader { index: 5, kind: PT_DYNAMIC, fault: HeaderFault::Repeated });
}

#[test]
fn what_only_a_dynamic_loader_does_is_refused() {
    for tag in [DT_NEEDED, DT_RELSZ, DT_PLTRELSZ, 35] {
        dynamic(tag, 24, |elf| elf.dynamic[2] = Dyn { d_tag: tag, d_val: 24 });
    }
    let without = |tag, value| {
        let file = Elf::pie().with(|elf| elf.dynamic[2] = Dyn { d_tag: tag, d_val: value }).build();
        Plan::parse(&file, MEMORY).is_ok()
    };
    assert!(without(DT_PLTRELSZ, 0) && without(DT_JMPREL, 0x100) && without(0x6fff_fff9, 1));
}

#[test]
fn the_relocation_table_must_be_whole_and_loaded() {
    dynamic(DT_RELAENT, 16, |elf| elf.dynamic[2].d_val = 16);
    dynamic(DT_RELAENT, 0, |elf| elf.dynamic[2].d_val = 0);
    for bytes in [1, 25, 24 * ((1 << 20) + 1), u64::MAX] {
        dynamic(DT_RELASZ, bytes, |elf| elf.dynamic[1].d_val = bytes);
    }
    dynamic(DT_RELASZ, 48, |elf| elf.dynamic[0].d_tag = 0x6fff_fff9);
    for address in [0x1f0, 0x200, 0x1_0100, u64::MAX, u64::MAX - 0x1_0000] {
        dynamic(DT_RELA, address, |elf| elf.dynamic[0].d_val = address);
    }
    // Behind the data segment's bytes of the file.
    dynamic(DT_RELA, 0x30e0, |elf| elf.dynamic[0].d_val = 0x30e0);
}

#[test]
fn the_end_mark_ends_the_dynamic_section() {
    let ended = Elf::pie().with(|elf| elf.dynamic.swap(0, 3)).build();
    assert_eq!(Plan::parse(&ended, MEMORY).unwrap().relocations().count(), 0);
    let without = Elf::pie().with(|elf| elf.headers[DYNAMIC].p_type = PT_NULL).build();
    assert_eq!(Plan::parse(&without, MEMORY).unwrap().relocations().count(), 0);
}

#[test]
fn relocations_must_be_relative_and_inside_segments() {
    for kind in [0, 1, 6, 37, 0xffff_ffff] {
        let fault = RelocationFault::Unsupported { kind };
        let error = change(|elf| elf.relocations[1].r_info = kind.into());
        assert_eq!(error, LoadError::Relocation { index: 1, offset: 0x3003, fault });
    }
    for offset in [0x1f9, 0x200, 0x20f9, 0x60f9, u64::MAX, u64::MAX - 0xffff] {
        let error = change(|elf| elf.relocations[0].r_offset = offset);
        assert_eq!(error, LoadError::Relocation { index: 0, offset, fault: RelocationFault::OutsideSegments });
    }
    for offset in [0, 0x1f8, 0x2100, 0x60f8] {
        let file = Elf::pie().with(|elf| elf.relocations[0].r_offset = offset).build();
        assert_eq!(Plan::parse(&file, MEMORY).unwrap().relocations().next().unwrap().address, 0x1_0000 + offset);
    }
}

#[test]
fn values_wrap_as_the_abi_computes_them() {
    for (addend, value) in [(-1, 0xffff), (i64::MIN, 1 << 63 | 0x1_0000), (i64::MAX, (1 << 63) + 0xffff)] {
        let file = Elf::pie().with(|elf| elf.relocations[0].r_addend = addend).build();
        assert_eq!(Plan::parse(&file, MEMORY).unwrap().relocations().next().unwrap().value, value);
    }
}

#[test]
fn an_error_names_the_header_and_the_values() {
    let text = change(|elf| elf.headers[TEXT].p_memsz = 0x7ff).to_string();
    assert_eq!(text, "program header 1 (PT_LOAD, type 0x1): 2048 bytes in the file are more than its 2047 bytes in memory");
    let text = change(|elf| elf.header.e_machine = 3).to_string();
    assert_eq!(text, "ELF header: e_machine is 3, must be 62 (x86-64)");
    let text = change(|elf| elf.relocations[0].r_info = 6).to_string();
    assert_eq!(text, "relocation 0 (offset 0x2200): type X86_64_GLOB_DAT (6) is not supported, only R_X86_64_RELATIVE is");
    let text = change(|elf| elf.dynamic[2] = Dyn { d_tag: DT_NEEDED, d_val: 7 }).to_string();
    assert_eq!(text, "dynamic section: DT_NEEDED (tag 0x1, value 0x7): needs a shared library; link statically");
}
