//! Kernels that were not written for hv: right ones, every way in which one can be wrong, and random ones.

use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use loader::{Entry, Given, HeaderFault, Kernel, KernelFault, LoadError, MemoryMap, Module, Piece, Protocol, RangeKind, RawAt};
use proptest::prelude::*;

const MEMORY: u64 = 16 << 20;
const LOAD: u64 = 0x10_0000;
/// Where the tests' files have their program, and what follows it.
const PROGRAM: usize = 0x200;
const PROGRAM_BYTES: usize = 0x100;
const NOTE: usize = 0x100;
const MODULES: &[Module<'static>] = &[Module { name: "one a=1", bytes: b"first" }, Module { name: "two", bytes: &[7; 5000] }];
const GIVEN: Given<'static> = Given { name: "kernel", command_line: "x=1 y", modules: MODULES };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Elf32,
    Elf64,
}

const CLASSES: [Class; 2] = [Class::Elf32, Class::Elf64];

/// A small file: ELF header, a segment of 0x100 bytes and as many zeros, a segment of notes with the content given.
fn elf(class: Class, notes: &[u8]) -> Vec<u8> {
    let mut file = vec![0; PROGRAM + PROGRAM_BYTES];
    let (machine, header_bytes, entry_bytes) = if class == Class::Elf32 { (3, 52, 32) } else { (62, 64, 56) };
    put(&mut file, 0, b"\x7fELF");
    put(&mut file, 4, &[class as u8 + 1, 1, 1]);
    put(&mut file, 16, &[2, 0, machine, 0, 1]);
    let words: [u64; 3] = [LOAD + 0x10, header_bytes as u64, 0];
    let at_end = match class {
        Class::Elf32 => put_words32(&mut file, 24, &words),
        Class::Elf64 => put_words64(&mut file, 24, &words),
    };
    put(&mut file, at_end + 4, &[header_bytes, 0, entry_bytes, 0, 2]);
    let loads = [(PT_LOAD, PROGRAM as u64, LOAD, PROGRAM_BYTES as u64, 0x200), (PT_NOTE, NOTE as u64, 0, notes.len() as u64, 0)];
    for (index, (kind, offset, address, bytes, memory)) in loads.into_iter().enumerate() {
        let at = header_bytes as usize + index * entry_bytes as usize;
        put(&mut file, at, &u32::to_le_bytes(kind));
        match class {
            Class::Elf32 => _ = put_words32(&mut file, at + 4, &[offset, 0x7000_0000, address, bytes, memory, 7, 4]),
            Class::Elf64 => _ = put_words64(&mut file, at + 8, &[offset, 0x7000_0000_0000, address, bytes, memory, 4]),
        }
    }
    put(&mut file, NOTE, notes);
    file[PROGRAM..].fill(0x90);
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_words32(file: &mut [u8], at: usize, words: &[u64]) -> usize {
    words.iter().enumerate().for_each(|(i, word)| put(file, at + 4 * i, &(*word as u32).to_le_bytes()));
    at + 4 * words.len()
}

fn put_words64(file: &mut [u8], at: usize, words: &[u64]) -> usize {
    words.iter().enumerate().for_each(|(i, word)| put(file, at + 8 * i, &word.to_le_bytes()));
    at + 8 * words.len()
}

fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let padded = |bytes: &[u8]| [bytes, &vec![0; bytes.len().next_multiple_of(4) - bytes.len()]].concat();
    let words = [name.len() as u32, content.len() as u32, kind].map(u32::to_le_bytes);
    [words.as_flattened(), &padded(name), &padded(content)].concat()
}

fn entry_note() -> Vec<u8> {
    [note(b"GNU\0", 3, b"build id"), note(b"Xen\0", 18, &(LOAD as u32 + 0x20).to_le_bytes())].concat()
}

/// A Multiboot header with those flags, and address fields.
fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let words = [magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// Bytes with a header by addresses at offset 0x40: they are loaded from offset 0x20 on.
fn flat(addresses: [u32; 5]) -> Vec<u8> {
    let mut file = vec![0x90; 0x300];
    put(&mut file, 0x40, &header(1 << 16 | 3, &addresses));
    file
}

const FLAT: [u32; 5] = [0x10_0020, 0x10_0000, 0x10_0200, 0x10_0800, 0x10_0100];

fn parse<'a>(file: &'a [u8], protocol: Protocol, given: &Given<'a>) -> Result<Kernel<'a>, LoadError> {
    Kernel::parse(file, protocol, given, MEMORY)
}

fn fault(file: &[u8], protocol: Protocol) -> KernelFault {
    match parse(file, protocol, &GIVEN).unwrap_err() {
        LoadError::Kernel(fault) => fault,
        other => panic!("{other:?}"),
    }
}

/// Guest memory as the pieces leave it.
fn memory(kernel: &Kernel<'_>) -> impl Fn(u64, usize) -> Vec<u8> {
    let pieces: Vec<(u64, Vec<u8>)> = kernel.pieces().iter().map(|p| (p.address, p.data.to_vec())).collect();
    move |at, len| {
        let byte =
            |at: u64| pieces.iter().find_map(|(start, data)| data.get(at.wrapping_sub(*start) as usize).copied()).unwrap_or(0);
        (at..at + len as u64).map(byte).collect()
    }
}

fn word(memory: &impl Fn(u64, usize) -> Vec<u8>, at: u64) -> u64 {
    u32::from_le_bytes(memory(at, 4).try_into().unwrap()).into()
}

fn long(memory: &impl Fn(u64, usize) -> Vec<u8>, at: u64) -> u64 {
    word(memory, at) | word(memory, at + 4) << 32
}

fn text(memory: &impl Fn(u64, usize) -> Vec<u8>, at: u64) -> String {
    let bytes = memory(at, 64);
    String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

#[test]
fn pvh_kernels_of_both_classes_are_told_everything() {
    for class in CLASSES {
        let file = elf(class, &entry_note());
        assert_eq!(Protocol::of(&file), Protocol::Pvh);
        let kernel = parse(&file, Protocol::Pvh, &GIVEN).unwrap();
        let Entry::Flat32 { eip, ebx, eax: 0 } = kernel.entry() else { panic!("{:?}", kernel.entry()) };
        assert_eq!(u64::from(eip), LOAD + 0x20);
        let (m, info) = (memory(&kernel), u64::from(ebx));
        assert_eq!(m(LOAD, 4), [0x90; 4]);
        assert_eq!([0x400, 0x40e, 0x413].map(|at| word(&m, at) & 0xffff), [0x3f8, 0x9fc0, 639], "the BIOS data area");
        assert_eq!([0, 4, 8, 12].map(|at| word(&m, info + at)), [0x336e_c578, 1, 0, 2]);
        assert_eq!(text(&m, long(&m, info + 24)), "x=1 y");
        let list = long(&m, info + 16);
        for (index, module) in MODULES.iter().enumerate() {
            let at = list + 32 * index as u64;
            let (address, size) = (long(&m, at), long(&m, at + 8));
            assert_eq!((address % 4096, size), (0, module.bytes.len() as u64));
            assert!(address >= LOAD + 0x200);
            assert_eq!(m(address, size as usize), module.bytes);
            assert_eq!(text(&m, long(&m, at + 16)), module.name);
        }
        let map = long(&m, info + 40);
        let entries: Vec<_> = (0..word(&m, info + 48))
            .map(|at| (long(&m, map + 24 * at), long(&m, map + 24 * at + 8), word(&m, map + 24 * at + 16)))
            .collect();
        let expected: Vec<_> = kernel.map().ranges().map(|(r, kind)| (r.start, r.end - r.start, kind as u64)).collect();
        assert_eq!(entries, expected);
        assert!(entries.contains(&(0x10_0000, 15 << 20, 1)));
    }
}

#[test]
fn multiboot_kernels_of_both_forms_are_told_everything() {
    let mut linked = elf(Class::Elf32, &[]);
    put(&mut linked, PROGRAM, &header(3, &[]));
    for (file, entry) in [(linked, LOAD + 0x10), (flat(FLAT), 0x10_0100)] {
        assert_eq!(Protocol::of(&file), Protocol::Multiboot);
        let kernel = parse(&file, Protocol::Multiboot, &GIVEN).unwrap();
        let Entry::Flat32 { eip, ebx, eax: 0x2bad_b002 } = kernel.entry() else { panic!("{:?}", kernel.entry()) };
        assert_eq!(u64::from(eip), entry);
        let (m, info) = (memory(&kernel), u64::from(ebx));
        assert_eq!([0, 4, 8].map(|at| word(&m, info + at)), [0x24d, 639, 15 << 10]);
        assert_eq!(text(&m, word(&m, info + 16)), "kernel x=1 y");
        assert_eq!(text(&m, word(&m, info + 64)), "hv");
        assert_eq!(word(&m, info + 20), 2);
        let list = word(&m, info + 24);
        for (index, module) in MODULES.iter().enumerate() {
            let at = list + 16 * index as u64;
            let (start, end) = (word(&m, at), word(&m, at + 4));
            assert_eq!((start % 4096, m(start, (end - start) as usize)), (0, module.bytes.to_vec()));
            assert_eq!(text(&m, word(&m, at + 8)), module.name);
        }
        let (bytes, map) = (word(&m, info + 44), word(&m, info + 48));
        let entries: Vec<_> = (map..map + bytes)
            .step_by(24)
            .map(|at| (word(&m, at), long(&m, at + 4), long(&m, at + 12), word(&m, at + 20)))
            .collect();
        let expected: Vec<_> = kernel.map().ranges().map(|(r, kind)| (20, r.start, r.end - r.start, kind as u64)).collect();
        assert_eq!(entries, expected);
    }
}

#[test]
fn address_fields_say_what_is_loaded() {
    let piece = |addresses| -> (u64, usize, u64) {
        let file = flat(addresses);
        let kernel = parse(&file, Protocol::Multiboot, &GIVEN).unwrap();
        let image = kernel.pieces().iter().find(|piece| piece.what == "image").unwrap();
        assert_eq!(image.data[0x20..0x24], 0x1bad_b002_u32.to_le_bytes());
        (image.address, image.data.len(), image.memory_bytes)
    };
    assert_eq!(piece(FLAT), (0x10_0000, 0x200, 0x800));
    assert_eq!(piece([0x10_0020, 0x10_0000, 0, 0, 0x10_0100]), (0x10_0000, 0x2e0, 0x2e0), "up to the end of the file");
    assert_eq!(piece([0x10_0020, 0x10_0000, 0, 0x10_1000, 0x10_0100]), (0x10_0000, 0x2e0, 0x1000));
}

#[test]
fn wrong_multiboot_headers_are_named() {
    let multiboot = |file: &[u8]| fault(file, Protocol::Multiboot);
    assert_eq!(multiboot(&[0; 9000]), KernelFault::NoMultibootHeader);
    let late = [vec![0; 8184], header(3, &[])].concat();
    assert_eq!(multiboot(&late), KernelFault::NoMultibootHeader, "it does not end in the first 8192 bytes");
    assert_eq!(multiboot(&[vec![0; 2], header(3, &[]), vec![0; 2]].concat()), KernelFault::NoMultibootHeader, "misaligned");
    let mut file = flat(FLAT);
    file[0x48] ^= 1;
    assert_eq!(multiboot(&file), KernelFault::MultibootChecksum { offset: 0x40 });
    assert_eq!(multiboot(&header(0xc, &[])), KernelFault::MultibootFlags { flags: 0xc });
    let short = header(1 << 16, &[0; 4]);
    assert!(matches!(parse(&short, Protocol::Multiboot, &GIVEN), Err(LoadError::Truncated { what: "Multiboot header", .. })));
    for (addresses, words) in [
        ([0x0f_ffff, 0x10_0000, 0, 0, 0x10_0100], "before what is loaded"),
        ([0x10_0041, 0x10_0000, 0, 0, 0x10_0100], "before the file"),
        ([0x10_0020, 0x10_0000, 0x0f_0000, 0, 0x10_0100], "ends before it begins"),
        ([0x10_0020, 0x10_0000, 0x10_0200, 0x10_0100, 0x10_0100], "zeros end"),
    ] {
        let KernelFault::MultibootAddresses { reason } = multiboot(&flat(addresses)) else { panic!("{addresses:x?}") };
        assert!(reason.contains(words), "{reason}");
    }
    let long = flat([0x10_0020, 0x10_0000, 0x10_1000, 0, 0x10_0100]);
    assert!(matches!(parse(&long, Protocol::Multiboot, &GIVEN), Err(LoadError::Truncated { .. })));
    assert_eq!(multiboot(&flat([FLAT[0], FLAT[1], FLAT[2], FLAT[3], 0x10_0800])), KernelFault::EntryOutside { entry: 0x10_0800 });
    // An ELF file's entry point is its header's.
    let mut linked = elf(Class::Elf32, &[]);
    put(&mut linked, PROGRAM, &header(3, &[]));
    put_words32(&mut linked, 24, &[0x20_0000]);
    assert_eq!(multiboot(&linked), KernelFault::EntryOutside { entry: 0x20_0000 });
    let outside = multiboot(&flat([0xff_ff20, 0xff_ff00, 0, 0, 0xff_ff10]));
    assert_eq!(outside, KernelFault::OutsideMemory { what: "image", address: 0xff_ff00, bytes: 0x2e0, memory: MEMORY });
}

#[test]
fn wrong_notes_are_named() {
    for class in CLASSES {
        let pvh = |notes: &[u8]| fault(&elf(class, notes), Protocol::Pvh);
        assert_eq!(pvh(&[]), KernelFault::NoEntryNote);
        assert_eq!(pvh(&note(b"Xen\0", 17, &[0; 4])), KernelFault::NoEntryNote);
        assert_eq!(pvh(&note(b"Zen\0", 18, &[0; 4])), KernelFault::NoEntryNote);
        assert_eq!(pvh(&note(b"Xen\0", 18, &[0; 4])), KernelFault::EntryOutside { entry: 0 });
        let reason = |notes: &[u8]| match pvh(notes) {
            KernelFault::Note { kind: 18, reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&note(b"Xen\0", 18, &[0; 6])).contains("4 or 8 bytes"));
        assert!(reason(&note(b"Xen\0", 18, &[0, 0, 0, 0, 1, 0, 0, 0])).contains("below 4 GiB"));
        let whole = note(b"Xen\0", 18, &[0; 8]);
        for cut in [12, 15, 16, 23] {
            assert!(reason(&whole[..cut]).contains("past the end"), "{cut}");
        }
        let wide = note(b"Xen\0", 18, &(LOAD + 4).to_le_bytes());
        assert!(parse(&elf(class, &wide), Protocol::Pvh, &GIVEN).is_ok());
    }
}

#[test]
fn wrong_elf_files_are_named() {
    for class in CLASSES {
        let right = elf(class, &entry_note());
        let (table, entry_bytes) = if class == Class::Elf32 { (52, 32) } else { (64, 56) };
        let changed = |at: usize, byte: u8| {
            let mut file = right.clone();
            file[at] = byte;
            parse(&file, Protocol::Pvh, &GIVEN).unwrap_err()
        };
        assert_eq!(changed(0, 0), LoadError::NotElf);
        for (at, field) in
            [(4, "EI_CLASS"), (5, "EI_DATA"), (6, "EI_VERSION"), (16, "e_type"), (18, "e_machine"), (20, "e_version")]
        {
            assert!(matches!(changed(at, 9), LoadError::ElfHeader { field: f, .. } if f == field), "{field}");
        }
        let counts = if class == Class::Elf32 { 42 } else { 54 };
        assert!(matches!(changed(counts, 9), LoadError::ElfHeader { field: "e_phentsize", .. }));
        assert!(matches!(changed(counts + 2, 65), LoadError::ElfHeader { field: "e_phnum", .. }));
        assert!(matches!(changed(counts + 2, 63), LoadError::Truncated { what: "program header table", .. }));
        let (file_bytes, memory_bytes) = if class == Class::Elf32 { (16, 20) } else { (32, 40) };
        let header = |at: usize, byte: u8| match changed(table + at, byte) {
            LoadError::ProgramHeader { index: 0, kind: PT_LOAD, fault } => fault,
            other => panic!("{other:?}"),
        };
        assert!(matches!(header(file_bytes + 1, 9), HeaderFault::FileRange { .. }));
        let mut short = right.clone();
        put(&mut short, table + memory_bytes, &[0xff, 0]);
        let short = parse(&short, Protocol::Pvh, &GIVEN).unwrap_err();
        let fault = HeaderFault::FileLarger { file_bytes: 0x100, memory_bytes: 0xff };
        assert_eq!(short, LoadError::ProgramHeader { index: 0, kind: PT_LOAD, fault });
        let mut none = right.clone();
        put(&mut none, table, &[9]);
        assert_eq!(parse(&none, Protocol::Pvh, &GIVEN).unwrap_err(), LoadError::NothingToLoad);
        let mut two = right.clone();
        let first = right[table..table + entry_bytes].to_vec();
        put(&mut two, table + entry_bytes, &first);
        put(&mut two, PROGRAM, &self::header(3, &[]));
        assert_eq!(
            self::fault(&two, Protocol::Multiboot),
            KernelFault::Overlap { what: "segment", address: LOAD, other: LOAD },
            "{class:?}"
        );
    }
}

#[test]
fn what_a_kernel_is_given_has_bounds() {
    let file = elf(Class::Elf64, &entry_note());
    let refused = |given: &Given<'_>| match parse(&file, Protocol::Pvh, given).unwrap_err() {
        LoadError::Kernel(fault) => fault,
        other => panic!("{other:?}"),
    };
    let long = "x".repeat(4097);
    let line = |command_line| Given { command_line, ..GIVEN };
    assert!(matches!(refused(&line(&long)), KernelFault::CommandLine { bytes: 4097, .. }));
    assert!(matches!(refused(&line("a\0b")), KernelFault::CommandLine { reason: "contains a zero byte", .. }));
    let many = vec![Module { name: "", bytes: b"" }; 65];
    assert_eq!(refused(&Given { modules: &many, ..GIVEN }), KernelFault::Modules { count: 65 });
    let large = vec![0; MEMORY as usize];
    let large = [Module { name: "", bytes: &large }];
    assert_eq!(refused(&Given { modules: &large, ..GIVEN }), KernelFault::NoRoom { what: "module", bytes: MEMORY });
    let most = "y".repeat(4096);
    let modules = vec![Module { name: &most, bytes: b"" }; 64];
    let most = Given { name: &most, command_line: &most, modules: &modules };
    for (file, protocol) in [(&file, Protocol::Pvh), (&flat(FLAT), Protocol::Multiboot)] {
        let kernel = parse(file, protocol, &most).unwrap();
        check(&kernel);
    }
    assert_eq!(fault(&file, Protocol::Unikernel), KernelFault::Unikernel);
    for size in [0, 4096, (1 << 20) + 1, 512 << 30] {
        assert!(
            matches!(Kernel::parse(&file, Protocol::Pvh, &GIVEN, size), Err(LoadError::MemorySize { bytes }) if bytes == size)
        );
    }
}

#[test]
fn raw_images_lie_where_they_begin() {
    let alone = Given { name: "raw", ..Given::default() };
    let file: Vec<u8> = (0..0x5000_u32).map(|at| (at >> 8) as u8).collect();
    let kernel = parse(&file, Protocol::Raw(RawAt::Real { cs: 0x7c0, ip: 0x10 }), &alone).unwrap();
    assert_eq!(kernel.entry(), Entry::Real { cs: 0x7c0, ip: 0x10 });
    assert_eq!(memory(&kernel)(0x7c10, file.len()), file);
    let kernel = parse(&file, Protocol::Raw(RawAt::Reset), &alone).unwrap();
    assert_eq!(kernel.entry(), Entry::Reset);
    let end = file.len() as u64;
    assert_eq!(memory(&kernel)((1 << 32) - end, file.len()), file);
    assert_eq!(memory(&kernel)((1 << 20) - end, file.len()), file);
    assert_eq!((kernel.map().hole().start.0, kernel.map().hole().end.0), (MEMORY, 0xffe0_0000));
    let raw = |bytes: usize, at| match parse(&vec![0; bytes], Protocol::Raw(at), &alone).map(drop) {
        Err(LoadError::Kernel(fault)) => Some(fault),
        other => other.map(|()| None).unwrap(),
    };
    assert_eq!(raw(0, RawAt::Reset), Some(KernelFault::RawSize { bytes: 0, most: 2 << 20 }));
    assert_eq!(raw(2 << 20, RawAt::Reset), None);
    assert_eq!(raw((2 << 20) + 1, RawAt::Reset), Some(KernelFault::RawSize { bytes: (2 << 20) + 1, most: 2 << 20 }));
    let high = RawAt::Real { cs: 0xffff, ip: 0xf };
    assert_eq!(raw(1, high), None);
    assert_eq!(raw(2, high), Some(KernelFault::RawSize { bytes: 2, most: 1 }));
    assert_eq!(raw(1, RawAt::Real { cs: 0xffff, ip: 0xffff }), Some(KernelFault::RawSize { bytes: 1, most: 0 }));
    assert_eq!(fault(&file, Protocol::Raw(RawAt::Reset)), KernelFault::RawGiven);
}

#[test]
fn memory_maps_leave_room_for_devices() {
    let ram = |size: u64| -> (Vec<(u64, u64)>, u64, u64, u64) {
        let map = MemoryMap::new(size).unwrap();
        let ram = map.ranges().filter(|(_, kind)| *kind == RangeKind::Ram).map(|(range, _)| (range.start, range.end)).collect();
        (ram, map.address_end(), map.hole().start.0, map.hole().end.0)
    };
    assert_eq!(ram(16 << 20), (vec![(0, 0x9_fc00), (0x10_0000, 16 << 20)], 16 << 20, 16 << 20, 16 << 20));
    let g = 1 << 30;
    assert_eq!(ram(5 * g), (vec![(0, 0x9_fc00), (0x10_0000, 3 * g), (4 * g, 6 * g)], 6 * g, 3 * g, 4 * g));
}

/// Demands what the documentation of [`Kernel`] promises.
fn check(kernel: &Kernel<'_>) {
    let pieces = kernel.pieces();
    let end = |piece: &Piece<'_>| piece.address.checked_add(piece.memory_bytes).unwrap();
    for (index, piece) in pieces.iter().enumerate() {
        assert!(piece.data.len() as u64 <= piece.memory_bytes);
        let firmware = piece.address >= 0xffe0_0000 && end(piece) <= 1 << 32 && kernel.entry() == Entry::Reset;
        assert!(end(piece) <= kernel.map().low_end() || firmware, "{:#x} {}", piece.address, piece.memory_bytes);
        for other in &pieces[..index] {
            assert!(end(other) <= piece.address || end(piece) <= other.address);
        }
    }
    if let Entry::Flat32 { eip, ebx, .. } = kernel.entry() {
        assert!(pieces.iter().any(|piece| (piece.address..end(piece)).contains(&eip.into())));
        assert!(pieces.iter().any(|piece| piece.address == u64::from(ebx)));
    }
}

fn survive(file: &[u8], memory: u64) -> usize {
    let protocols =
        [Protocol::Pvh, Protocol::Multiboot, Protocol::Raw(RawAt::Reset), Protocol::Raw(RawAt::Real { cs: 0, ip: 0x7c00 })];
    let _ = Protocol::of(file);
    let taken = protocols.iter().filter_map(|protocol| {
        let given = if matches!(protocol, Protocol::Raw(_)) { Given::default() } else { GIVEN };
        Kernel::parse(file, *protocol, &given, memory).ok().inspect(check)
    });
    taken.count()
}

fn right() -> impl Strategy<Value = Vec<u8>> {
    let mut linked = elf(Class::Elf32, &entry_note());
    put(&mut linked, PROGRAM, &header(3, &[]));
    prop_oneof![Just(linked), Just(elf(Class::Elf64, &entry_note())), Just(flat(FLAT))]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), memory in 0u64..1 << 13) {
        survive(&bytes, memory * 4096);
        survive(&[b"\x7fELF\x01\x01\x01", &bytes[..]].concat(), MEMORY);
        survive(&[&header(1 << 16, &[])[..], &bytes[..]].concat(), MEMORY);
    }

    #[test]
    fn changed_words_are_survived(
        mut file in right(),
        changes in proptest::collection::vec((0usize..0x140, 0u32..4, prop_oneof![any::<u64>(), 0u64..0x400, Just(u64::MAX), Just(LOAD), Just(1 << 32)]), 1..5),
    ) {
        for (at, size, value) in changes {
            let size = 1 << size;
            let at = at / size * size;
            file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        survive(&file, MEMORY);
    }
}

/// The properties above say nothing if nothing gets through.
#[test]
fn the_checks_see_accepted_kernels() {
    assert_eq!(survive(&elf(Class::Elf64, &entry_note()), MEMORY), 3);
    assert_eq!(survive(&flat(FLAT), MEMORY), 3);
}
