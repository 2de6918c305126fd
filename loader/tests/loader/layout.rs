//! What the page tables map, against the table in `hv_abi::boot`.

use crate::builder::{DATA, Elf, MEMORY};
use crate::walk::{Leaf, walk};
use loader::{Layout, LoadError, MEMORY_MAX_BYTES, Plan, Rights};
use std::ops::Range;

const LARGE: u64 = 2 << 20;

fn lay_out(elf: &Elf, memory: u64) -> (Vec<(Range<u64>, Rights)>, Layout) {
    let bytes = elf.build();
    let plan = Plan::parse(&bytes, memory).unwrap();
    let layout = Layout::new(&plan).unwrap();
    (plan.regions().map(|r| (r.pages, r.rights)).collect(), layout)
}

/// Checks the mapping of the page at `at` against what should be there.
fn check(at: u64, memory: u64, regions: &[(Range<u64>, Rights)], layout: &Layout) {
    let rights = if (0x1000..0x1_0000).contains(&at) {
        Some(Rights::Read)
    } else if (layout.stack().start..memory).contains(&at) {
        Some(Rights::ReadWrite)
    } else {
        regions.iter().find(|(pages, _)| pages.contains(&at)).map(|&(_, rights)| rights)
    };
    let found = walk(layout.table_words(), layout.tables().start, at);
    let page_bytes = found.map_or(0, |leaf| leaf.page_bytes);
    let expected = rights.map(|rights| Leaf {
        physical: at,
        writable: rights == Rights::ReadWrite,
        executable: rights == Rights::ReadExecute,
        dirty: rights == Rights::ReadWrite,
        page_bytes,
    });
    assert_eq!(found, expected, "at {at:#x} of {memory:#x}");
    let fine_end = layout.tables().end.next_multiple_of(LARGE);
    if at >= fine_end {
        assert_eq!(page_bytes == LARGE, at < memory / LARGE * LARGE, "at {at:#x} of {memory:#x}");
    } else if at >= layout.stack().start {
        assert_eq!(page_bytes, 4096, "at {at:#x} of {memory:#x}");
    }
}

fn check_all(elf: &Elf, memory: u64) -> Layout {
    let (regions, layout) = lay_out(elf, memory);
    for at in (0..memory.min(32 << 20)).step_by(4096) {
        check(at, memory, &regions, &layout);
    }
    // Further on, the ends of each large page will do.
    for at in (32 << 20..memory).step_by(LARGE as usize * 61) {
        check(at, memory, &regions, &layout);
        check((at + LARGE - 4096).min(memory - 4096), memory, &regions, &layout);
    }
    check(memory - 4096, memory, &regions, &layout);
    assert_eq!(walk(layout.table_words(), layout.tables().start, memory), None);
    layout
}

#[test]
fn pieces_follow_each_other_with_one_guard_page() {
    let layout = check_all(&Elf::pie(), MEMORY);
    assert_eq!(layout.image(), 0x1_0000..0x1_7000);
    assert_eq!(layout.stack(), 0x1_8000..0x5_8000);
    // One table of each level, and PTs for the first 2 MiB only.
    assert_eq!(layout.tables(), 0x5_8000..0x5_c000);
    assert_eq!(layout.free(), 0x5_c000..MEMORY);
    assert_eq!(layout.stack_pointer(), 0x5_7ff8);
}

#[test]
fn every_memory_size_is_mapped_to_its_last_page() {
    for memory in [1 << 20, LARGE, LARGE + 4096, 2 * LARGE - 4096, MEMORY, MEMORY + 0x7000, 1 << 30, (5 << 30) + 4096] {
        check_all(&Elf::pie(), memory);
    }
    check_all(&Elf::pie(), MEMORY_MAX_BYTES);
}

#[test]
fn an_image_for_a_fixed_address_leaves_what_is_below_unmapped() {
    let layout = check_all(&Elf::fixed(), MEMORY);
    assert_eq!(layout.image(), 0x20_0000..0x20_7000);
}

#[test]
fn small_pages_reach_behind_tables_wherever_the_image_ends() {
    // Moves stack and tables over 2 MiB boundaries, a page at a time.
    for pages in (0..1024).step_by(3) {
        let elf = Elf::pie().with(|elf| elf.headers[DATA].p_memsz = 0x4000 + pages * 4096);
        let (regions, layout) = lay_out(&elf, MEMORY);
        let tables = layout.tables();
        for at in (layout.stack().start - 8192..tables.end + 4096).step_by(4096).chain([tables.end.next_multiple_of(LARGE)]) {
            check(at, MEMORY, &regions, &layout);
        }
    }
}

#[test]
fn a_large_segment_needs_few_tables() {
    let elf = Elf::pie().with(|elf| elf.headers[DATA].p_memsz = 8 << 30);
    let layout = check_all(&elf, 16 << 30);
    assert!(layout.tables().end - layout.tables().start < 32 * 4096);
}

#[test]
fn what_does_not_fit_is_refused() {
    let fits = |memory, bytes: u64| {
        let elf = Elf::pie().with(|elf| elf.headers[DATA].p_memsz = bytes).build();
        Layout::new(&Plan::parse(&elf, memory).unwrap()).map(|layout| layout.free())
    };
    let memory = 1 << 20;
    // From 0x12100: image, one guard page, 64 pages of stack, four tables.
    let most = memory - 0x12100 - 4096 * (1 + 64 + 4);
    assert_eq!(fits(memory, most), Ok(memory..memory));
    assert_eq!(fits(memory, most + 1), Err(LoadError::NoRoom { needed: memory + 4096, memory }));
    let without_stack = memory - 0x12100;
    assert_eq!(fits(memory, without_stack), Err(LoadError::NoRoom { needed: memory + 65 * 4096, memory }));
}

#[test]
fn boot_information_says_where_things_are() {
    let (_, layout) = lay_out(&Elf::pie(), MEMORY);
    let info = layout.boot_info();
    assert_eq!((info.magic.to_le_bytes(), info.version), (*b"hv-boot\0", hv_abi::Version::CURRENT.encode().into()));
    assert_eq!((info.image_start, info.image_end), (0x1_0000, 0x1_7000));
    assert_eq!((info.stack_start, info.stack_end), (0x1_8000, 0x5_8000));
    assert_eq!((info.free_start, info.free_end, info.memory_size), (0x5_c000, MEMORY, MEMORY));
}
