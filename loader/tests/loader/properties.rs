//! Whatever the bytes are: no panic, and what is accepted keeps its promises.

use crate::builder::{Elf, MEMORY};
use crate::walk::walk;
use goblin::elf64::program_header::ProgramHeader;
use loader::{Layout, Plan, Rights};
use proptest::prelude::*;

/// Checks what the documentation of [`Plan`] and [`Layout`] promises; tells whether the file was taken.
fn check(bytes: &[u8], memory: u64) -> bool {
    let Ok(plan) = Plan::parse(bytes, memory) else { return false };
    let mut free = 0x1_0000;
    for region in plan.regions() {
        assert!(region.pages.start >= free && region.pages.end > region.pages.start, "{region:?} from {free:#x}");
        assert_eq!((region.pages.start % 4096, region.pages.end % 4096), (0, 0));
        free = region.pages.end;
    }
    assert_eq!(plan.image().end, free);
    assert!(free <= memory);
    let mut last = 0;
    for segment in plan.segments() {
        assert!(segment.address >= last && segment.data.len() as u64 <= segment.memory_bytes);
        last = segment.address + segment.memory_bytes;
        assert!(plan.regions().any(|r| r.pages.contains(&segment.address)));
        assert!(plan.regions().any(|r| r.pages.contains(&(last - 1))));
    }
    assert!(plan.regions().any(|r| r.rights == Rights::ReadExecute && r.pages.contains(&plan.entry())));
    for relocation in plan.relocations() {
        let inside = |at: u64| plan.segments().iter().position(|s| at >= s.address && at - s.address < s.memory_bytes);
        let first = inside(relocation.address);
        assert!(first.is_some() && first == inside(relocation.address + 7), "{relocation:?}");
    }
    check_layout(&plan, memory);
    true
}

fn check_layout(plan: &Plan<'_>, memory: u64) {
    let Ok(layout) = Layout::new(plan) else { return };
    assert!(plan.image().end < layout.stack().start && layout.stack().end <= layout.tables().start);
    assert!(layout.tables().end <= layout.free().start && layout.free().end == memory);
    let translate = |at| walk(layout.table_words(), layout.tables().start, at);
    for region in plan.regions() {
        for at in [region.pages.start, region.pages.end - 1] {
            let leaf = translate(at).unwrap();
            assert_eq!((leaf.physical, leaf.writable), (at, region.rights == Rights::ReadWrite));
            assert_eq!(leaf.executable, region.rights == Rights::ReadExecute);
        }
    }
    for at in [0, 0xfff, plan.image().end, layout.stack().start - 1] {
        assert_eq!(translate(at), None);
    }
    for range in [layout.stack(), layout.tables()] {
        assert!(translate(range.start).is_some_and(|leaf| leaf.writable && !leaf.executable));
        assert!(translate(range.end - 1).is_some_and(|leaf| leaf.writable && !leaf.executable));
    }
}

/// Numbers near which things go wrong.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![
        Just(0u64),
        Just(8),
        Just(24),
        Just(0x1000),
        Just(0x2100),
        Just(0x4100),
        Just(0x1_0000),
        Just(0x20_0000),
        Just(MEMORY),
        Just(1 << 32),
        Just(1 << 39),
        Just(1 << 48),
        Just(1 << 63),
    ];
    prop_oneof![(edge, -2i64..3).prop_map(|(edge, off)| edge.wrapping_add_signed(off)), any::<u64>(), 0u64..0x8000]
}

/// Places in the file that mean something: ELF header, program headers, relocations, dynamic section.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..344, 0x1100usize..0x1130, 0x3100usize..0x3140]
}

fn memory() -> impl Strategy<Value = u64> {
    prop_oneof![Just(MEMORY), (1u64 << 8..1 << 20).prop_map(|pages| pages * 4096), number()]
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Elf::pie().build()), Just(Elf::fixed().build())]
}

fn program_header() -> impl Strategy<Value = ProgramHeader> {
    let page = || 0u64..32;
    let kind = prop_oneof![8 => Just(1u32), 1 => Just(2), 1 => Just(0x6474_e552)];
    (kind, 0u32..8, page(), page(), 0u64..0x2000, 0u64..0x8000, 0u64..0x1000).prop_map(
        |(kind, flags, at, from, len, more, off)| ProgramHeader {
            p_type: kind,
            p_flags: flags,
            p_offset: from % 4 * 4096 + off,
            p_vaddr: at * 4096 + off,
            p_paddr: 0,
            p_filesz: len,
            p_memsz: len + more,
            p_align: 4096,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2048), memory in memory()) {
        check(&bytes, memory);
        check(&[b"\x7fELF\x02\x01\x01", &bytes[..]].concat(), memory);
    }

    #[test]
    fn changed_words(
        mut bytes in file(),
        changes in proptest::collection::vec((place(), 0u32..4, number()), 1..4),
        memory in memory(),
    ) {
        for (at, size, value) in changes {
            let size = 1 << size;
            let at = at / size * size;
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        check(&bytes, memory);
    }

    #[test]
    fn changed_bytes(mut bytes in file(), changes in proptest::collection::vec((0usize..0x4100, any::<u8>()), 1..40)) {
        for (at, value) in changes {
            bytes[at] = value;
        }
        check(&bytes, MEMORY);
    }

    #[test]
    fn random_program_headers(mut headers in proptest::collection::vec(program_header(), 1..7), fixed in any::<bool>()) {
        headers.sort_by_key(|header| header.p_vaddr);
        let entry = headers.iter().find(|h| h.p_flags & 3 == 1).map_or(0, |h| h.p_vaddr);
        let elf = if fixed { Elf::fixed() } else { Elf::pie() };
        let bytes = elf.with(|elf| {
            (elf.header.e_phnum, elf.header.e_entry) = (headers.len() as u16, entry);
            elf.headers = headers;
        });
        check(&bytes.build(), MEMORY);
    }
}

/// The properties above say nothing if nothing gets through.
#[test]
fn the_checks_see_accepted_files() {
    assert!(check(&Elf::pie().build(), MEMORY) && check(&Elf::fixed().build(), MEMORY));
    assert!(!check(&[], MEMORY));
}
