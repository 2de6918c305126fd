//! The shadow MMU by itself: guest tables are written by hand, the shadow tables are read as the processor reads them.

use super::*;
use crate::{
    addr::{Gfn, Gva},
    mem::{GuestFrame, HostRights, Page, arena::Arena, heap::with_allocations},
    x86::{Entry, PageFaultCode},
};

const MEMORY: u64 = 4 << 20;
const TABLES: u64 = 0x10_0000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const PAGING: Paging = Paging::long(TABLES);

const READ: PageFaultCode = PageFaultCode::empty();
const WRITE: PageFaultCode = PageFaultCode::WRITE;

fn access(code: PageFaultCode) -> Access {
    Access::of_fault(code, SmapCheck::Overridden)
}

struct Setup {
    arena: &'static Arena,
    memory: GuestMemory,
    mmu: ShadowMmu,
}

/// Guest tables at `TABLES`: one of each level, the last one empty.
fn setup() -> Setup {
    setup_in(|frames| GuestMemory::new(frames, MEMORY))
}

fn setup_in(memory: impl FnOnce(Frames) -> Result<GuestMemory, Error>) -> Setup {
    let arena = Arena::leak(64);
    let mut memory = memory(arena.frames()).unwrap();
    for level in 0..3 {
        let entry = (TABLES + (level + 1) * 0x1000) | PRESENT | WRITABLE | USER | ACCESSED;
        memory.write(Gpa(TABLES + level * 0x1000), &entry.to_le_bytes()).unwrap();
    }
    let mmu = ShadowMmu::new(arena.frames(), &memory, &PAGING).unwrap();
    Setup { arena, memory, mmu }
}

impl Setup {
    fn map(&mut self, page: u64, entry: u64) {
        self.memory.write(Gpa(TABLES + 0x3000 + page * 8), &entry.to_le_bytes()).unwrap();
    }

    fn guest_entry(&self, page: u64) -> u64 {
        self.memory.load(Gpa(TABLES + 0x3000 + page * 8)).unwrap()
    }

    fn fault(&mut self, address: u64, code: PageFaultCode) -> (Outcome, FlushDuty) {
        self.mmu.fault(&mut self.memory, &PAGING, Gva(address), access(code)).unwrap()
    }

    /// An access whose outcome the test is not about.
    fn access(&mut self, address: u64, code: PageFaultCode) {
        let (_outcome, _duty) = self.fault(address, code);
    }

    /// The entry that the processor would use, with the rights of all levels taken together; `None` where it would find nothing.
    fn shadow(&self, address: u64) -> Option<Entry> {
        let mut table = self.mmu.root().0;
        let mut rights = WRITABLE | USER;
        for level in (1..=4).rev() {
            let entry = self.arena.word(Hpa(table + (address >> (12 + 9 * (level - 1)) & 511) * 8));
            if entry & PRESENT == 0 {
                return None;
            }
            rights = rights & entry & (WRITABLE | USER) | (rights | entry) & NO_EXECUTE;
            table = entry & 0x000f_ffff_ffff_f000;
        }
        Some(Entry::from_bits_retain(table | rights | PRESENT))
    }
}

#[test]
fn leaves_never_exceed_the_guest_and_the_host() {
    let combinations = (0..32u64).map(|bits| {
        let flag = |bit: u32, value: u64| if bits >> bit & 1 != 0 { value } else { 0 };
        flag(0, WRITABLE) | flag(1, USER) | flag(2, DIRTY) | flag(3, ACCESSED) | flag(4, NO_EXECUTE)
    });
    for guest in combinations {
        for code in [READ, WRITE, PageFaultCode::FETCH, PageFaultCode::USER, PageFaultCode::USER | WRITE] {
            let mut s = setup();
            s.map(5, 0x5000 | PRESENT | guest);
            let (outcome, _) = s.fault(0x5123, code);
            let allowed = (!code.contains(WRITE) || guest & WRITABLE != 0)
                && (!code.contains(PageFaultCode::USER) || guest & USER != 0)
                && (!code.contains(PageFaultCode::FETCH) || guest & NO_EXECUTE == 0);
            if !allowed {
                let fault = PageFault { address: Gva(0x5123), code: code | PageFaultCode::PRESENT };
                assert_eq!((outcome, s.shadow(0x5123)), (Outcome::Guest(fault), None), "{guest:#x} {code:?}");
                assert_eq!(s.guest_entry(5), 0x5000 | PRESENT | guest, "a refused access sets nothing");
                continue;
            }
            assert_eq!(outcome, Outcome::Filled);
            let leaf = s.shadow(0x5123).unwrap();
            let dirty = guest & DIRTY != 0 || code.contains(WRITE);
            assert_eq!(leaf.contains(Entry::WRITABLE), guest & WRITABLE != 0 && dirty, "{guest:#x} {code:?}");
            assert_eq!(leaf.contains(Entry::USER), guest & USER != 0);
            assert_eq!(leaf.contains(Entry::NO_EXECUTE), guest & NO_EXECUTE != 0);
            assert_eq!(Hpa(leaf.address()), s.memory.present(Gfn(5)).unwrap().hpa());
            let set = if code.contains(WRITE) { ACCESSED | DIRTY } else { ACCESSED };
            assert_eq!(s.guest_entry(5), 0x5000 | PRESENT | guest | set);
        }
    }
}

#[test]
fn clean_pages_fault_once_more_to_become_dirty() {
    let mut s = setup();
    s.map(5, 0x5000 | PRESENT | WRITABLE | ACCESSED);
    s.access(0x5000, READ);
    assert!(!s.shadow(0x5000).unwrap().contains(Entry::WRITABLE));
    assert_eq!(s.guest_entry(5) & DIRTY, 0);
    let (outcome, duty) = s.fault(0x5000, WRITE | PageFaultCode::PRESENT);
    assert_eq!((outcome, duty), (Outcome::Filled, FlushDuty::None), "more rights need no flush");
    assert!(s.shadow(0x5000).unwrap().contains(Entry::WRITABLE));
    assert_eq!(s.guest_entry(5) & DIRTY, DIRTY);
}

#[test]
fn accessed_bits_are_set_on_every_level() {
    let mut s = setup();
    for level in 0..3 {
        let entry = (TABLES + (level + 1) * 0x1000) | PRESENT | WRITABLE;
        s.memory.write(Gpa(TABLES + level * 0x1000), &entry.to_le_bytes()).unwrap();
    }
    s.map(5, 0x5000 | PRESENT);
    s.access(0x5000, READ);
    for level in 0..4 {
        let entry = if level == 3 { s.guest_entry(5) } else { s.memory.load(Gpa(TABLES + level * 0x1000)).unwrap() };
        assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED, "table {level}");
    }
}

#[test]
fn reserved_bits_and_absent_tables_fault_as_the_manual_says() {
    let mut s = setup();
    s.map(5, 0x5000 | PRESENT | 1 << 45);
    let reserved = PageFaultCode::PRESENT | PageFaultCode::RESERVED;
    assert_eq!(s.fault(0x5000, READ).0, Outcome::Guest(PageFault { address: Gva(0x5000), code: reserved }));
    s.map(6, 0x6000);
    assert_eq!(s.fault(0x6000, WRITE).0, Outcome::Guest(PageFault { address: Gva(0x6000), code: WRITE }));
    // A table outside memory reads as all ones.
    s.memory.write(Gpa(TABLES + 0x2008), &(MEMORY | PRESENT | ACCESSED).to_le_bytes()).unwrap();
    assert_eq!(s.fault(0x20_0000, READ).0, Outcome::Guest(PageFault { address: Gva(0x20_0000), code: reserved }));
    s.map(7, (MEMORY + 0x3000) | PRESENT | ACCESSED);
    assert_eq!(s.fault(0x7018, READ).0, Outcome::Outside(Gpa(MEMORY + 0x3018)));
    // A 2 MiB page whose address is not a multiple of 2 MiB.
    s.memory.write(Gpa(TABLES + 0x2010), &(0x2000 | PRESENT | LARGE | ACCESSED).to_le_bytes()).unwrap();
    assert_eq!(s.fault(0x40_0000, READ).0, Outcome::Guest(PageFault { address: Gva(0x40_0000), code: reserved }));
}

/// The page before it is served quickly, and so would be this one.
#[test]
fn a_hole_in_memory_stays_outside_beside_a_page_that_is_there() {
    const HOLE: u64 = 2 << 20;
    let mut s = setup_in(|frames| GuestMemory::with_hole(frames, 3 * HOLE, Gpa(HOLE)..Gpa(2 * HOLE)));
    let live = PRESENT | WRITABLE | ACCESSED | DIRTY;
    s.map(0, live);
    s.map(1, HOLE | live);
    assert_eq!(s.fault(0, WRITE).0, Outcome::Filled);
    for code in [READ, WRITE, PageFaultCode::FETCH] {
        assert_eq!(s.fault(0x1008, code).0, Outcome::Outside(Gpa(HOLE + 8)), "{code:?}");
        assert_eq!((s.shadow(0x1000), s.memory.present(Gpa(HOLE).gfn())), (None, None));
    }
}

#[test]
fn neighbours_are_filled_outwards_to_the_first_that_was_not_used_or_is_not_there() {
    let used = PRESENT | WRITABLE | ACCESSED | DIRTY;
    let ends: [(&str, u64); 4] = [
        ("never used", 0xa000 | PRESENT | WRITABLE),
        ("not present", 0xa000),
        ("reserved bits", 0xa000 | used | 1 << 50),
        ("no frame yet", 0x30_0000 | used),
    ];
    for (what, end) in ends {
        let mut s = setup();
        for page in 0..16 {
            s.map(page, (page << 12) | used);
            s.memory.write(Gpa(page << 12), &[1]).unwrap();
        }
        s.map(6, 0x6000 | PRESENT | WRITABLE | ACCESSED);
        s.map(10, end);
        s.map(2, end);
        s.access(0x7000, READ);
        for page in 3..10 {
            assert_eq!(
                s.shadow(page << 12).map(|leaf| leaf.contains(Entry::WRITABLE)),
                Some(page != 6),
                "{page}: {what}; 6 is clean"
            );
        }
        for page in [0, 1, 2, 10, 11, 15] {
            assert_eq!(s.shadow(page << 12), None, "{page}: {what}");
        }
        assert_eq!(s.memory.present(Gfn(0x300)), None);
    }
}

#[test]
fn large_pages_are_served_in_4_kib_pieces() {
    let mut s = setup();
    let entry = 0x20_0000 | PRESENT | WRITABLE | LARGE | ACCESSED | DIRTY;
    s.memory.write(Gpa(TABLES + 0x2008), &entry.to_le_bytes()).unwrap();
    s.memory.write(Gpa(0x20_4000), &[1]).unwrap();
    s.memory.write(Gpa(0x20_5000), &[1]).unwrap();
    assert_eq!(s.fault(0x20_5678, WRITE).0, Outcome::Filled);
    for page in [0x20_4000, 0x20_5000] {
        let frame = s.memory.present(Gpa(page).gfn()).unwrap().hpa();
        assert_eq!(s.shadow(page).map(|leaf| Hpa(leaf.address())), Some(frame));
    }
    assert_eq!(s.shadow(0x20_6000), None);
}

#[test]
fn a_clean_large_page_becomes_writable_by_a_write() {
    let mut s = setup();
    let entry = 0x20_0000 | PRESENT | WRITABLE | LARGE;
    s.memory.write(Gpa(TABLES + 0x2008), &entry.to_le_bytes()).unwrap();
    s.access(0x20_5000, READ);
    assert!(!s.shadow(0x20_5000).unwrap().contains(Entry::WRITABLE));
    s.access(0x20_5000, WRITE);
    assert!(s.shadow(0x20_5000).unwrap().contains(Entry::WRITABLE));
    assert_eq!(s.memory.load(Gpa(TABLES + 0x2008)), Some(entry | ACCESSED | DIRTY));
}

#[test]
fn a_copied_frame_loses_all_its_old_leaves() {
    let Setup { arena, mut memory, .. } = setup();
    for (page, frame) in [(5, 0x5000), (6, 0x5000), (200, 0x5000)] {
        let entry: u64 = frame | PRESENT | WRITABLE | ACCESSED | DIRTY;
        memory.write(Gpa(TABLES + 0x3000 + page * 8), &entry.to_le_bytes()).unwrap();
    }
    memory.write(Gpa(0x5000), &[7]).unwrap();
    let base = memory.freeze();
    let memory = GuestMemory::over(&base).unwrap();
    let mmu = ShadowMmu::new(arena.frames(), &memory, &PAGING).unwrap();
    let mut s = Setup { arena, memory, mmu };
    let shared = s.memory.present(Gfn(5)).unwrap().hpa();
    for address in [0x5000, 0x6000, 0xc_8000] {
        s.access(address, READ);
        let leaf = s.shadow(address).unwrap();
        assert_eq!((Hpa(leaf.address()), leaf.contains(Entry::WRITABLE)), (shared, false), "shared frames are read-only");
    }
    let epoch = s.mmu.epoch();
    let (outcome, duty) = s.fault(0x6000, WRITE | PageFaultCode::PRESENT);
    assert_eq!((outcome, duty), (Outcome::Filled, FlushDuty::Asid), "three addresses led to the old frame");
    let own = s.memory.present(Gfn(5)).unwrap().hpa();
    assert_ne!(own, shared);
    assert_eq!(s.shadow(0x6000).map(|leaf| Hpa(leaf.address())), Some(own));
    assert_eq!((s.shadow(0x5000), s.shadow(0xc_8000)), (None, None));
    assert_ne!(s.mmu.epoch(), epoch);
}

#[test]
fn one_leaf_of_a_copied_frame_costs_one_address() {
    let Setup { arena, mut memory, .. } = setup();
    let entry: u64 = 0x5000 | PRESENT | WRITABLE | ACCESSED | DIRTY;
    memory.write(Gpa(TABLES + 0x3000 + 5 * 8), &entry.to_le_bytes()).unwrap();
    memory.write(Gpa(0x5000), &[7]).unwrap();
    let memory = GuestMemory::over(&memory.freeze()).unwrap();
    let mmu = ShadowMmu::new(arena.frames(), &memory, &PAGING).unwrap();
    let mut s = Setup { arena, memory, mmu };
    s.access(0x5000, READ);
    assert_eq!(s.fault(0x5010, WRITE | PageFaultCode::PRESENT), (Outcome::Filled, FlushDuty::Address(Gva(0x5010))));
}

#[test]
fn tables_are_read_only_until_their_first_write() {
    let mut s = setup();
    let table = TABLES + 0x3000;
    s.map(5, 0x5000 | PRESENT | WRITABLE | ACCESSED | DIRTY);
    s.map(0x103, table | PRESENT | WRITABLE | ACCESSED | DIRTY);
    s.access(0x5000, READ);
    s.access(0x10_3000, READ);
    assert!(!s.shadow(0x10_3000).unwrap().contains(Entry::WRITABLE), "it holds a table that is in step");
    assert_eq!(s.fault(0x10_3000, WRITE | PageFaultCode::PRESENT).0, Outcome::Filled);
    assert!(s.shadow(0x10_3000).unwrap().contains(Entry::WRITABLE), "a table that maps itself can be written too");
}

/// Writes to a table as the guest would, through a mapping of its own.
impl Setup {
    fn guest_writes_table(&mut self, page: u64, entry: u64) {
        let (_outcome, _duty) = self.fault(0x10_3000, WRITE | PageFaultCode::PRESENT);
        assert!(self.shadow(0x10_3000).unwrap().contains(Entry::WRITABLE));
        self.map(page, entry);
    }
}

#[test]
fn a_flush_ends_what_the_guest_has_changed() {
    let entry = |frame: u64| frame | PRESENT | WRITABLE | ACCESSED | DIRTY;
    let target = |s: &Setup, address| s.shadow(address).map(|leaf| Hpa(leaf.address()));
    for (flush, duty) in [("INVLPG", FlushDuty::Address(Gva(0x5000))), ("MOV CR3", FlushDuty::Asid)] {
        let mut s = setup();
        s.map(0x103, entry(TABLES + 0x3000));
        s.map(5, entry(0x5000));
        s.map(6, entry(0x6000));
        s.access(0x5000, WRITE);
        s.access(0x6000, WRITE);
        assert_eq!(s.mmu.invalidate(Gva(0x5000)), FlushDuty::None, "all is in step");
        s.access(0x5000, WRITE);
        s.guest_writes_table(5, entry(0x7000));
        assert_eq!(target(&s, 0x5000), s.memory.present(Gfn(5)).map(GuestFrame::hpa), "as a TLB might");
        let owed = if flush == "INVLPG" { s.mmu.invalidate(Gva(0x5000)) } else { s.mmu.load_root(&PAGING).unwrap() };
        assert_eq!(owed, duty, "{flush}");
        assert_eq!(s.shadow(0x5000), None);
        s.access(0x5000, READ);
        assert_eq!(target(&s, 0x5000), s.memory.present(Gfn(7)).map(GuestFrame::hpa), "{flush}");
    }
}

#[test]
fn what_the_guest_has_changed_shows_at_once_where_nothing_was_cached() {
    let mut s = setup();
    let entry = |frame: u64| frame | PRESENT | WRITABLE | ACCESSED | DIRTY;
    s.map(0x103, entry(TABLES + 0x3000));
    s.map(5, entry(0x5000));
    s.access(0x5000, WRITE);
    s.guest_writes_table(5, entry(0x7000));
    // The same table appears at 2 MiB, where it was never used.
    s.memory.write(Gpa(TABLES + 0x2008), &((TABLES + 0x3000) | PRESENT | WRITABLE | ACCESSED).to_le_bytes()).unwrap();
    let (outcome, duty) = s.fault(0x20_5000, READ);
    assert_eq!((outcome, duty), (Outcome::Filled, FlushDuty::Asid));
    assert_eq!(s.shadow(0x20_5000).map(|leaf| Hpa(leaf.address())), s.memory.present(Gfn(7)).map(GuestFrame::hpa));
}

#[test]
fn a_table_is_protected_again_once_it_is_used_again() {
    let mut s = setup();
    let entry = |frame: u64| frame | PRESENT | WRITABLE | ACCESSED | DIRTY;
    s.map(0x103, entry(TABLES + 0x3000));
    s.map(5, entry(0x5000));
    s.access(0x10_3000, WRITE);
    assert!(s.shadow(0x10_3000).unwrap().contains(Entry::WRITABLE));
    let _duty = s.mmu.load_root(&PAGING).unwrap();
    s.access(0x5000, READ);
    assert!(!s.shadow(0x10_3000).is_some_and(|leaf| leaf.contains(Entry::WRITABLE)));
}

#[test]
fn what_the_host_forbids_is_denied() {
    let entry = |frame: u64| frame | PRESENT | WRITABLE | ACCESSED | DIRTY;
    let mut s = setup();
    s.memory.write(Gpa(0x5000), &[1; 2 * 4096]).unwrap();
    s.memory.restrict(Gfn(5)..Gfn(6), HostRights::EXECUTE).unwrap();
    s.memory.restrict(Gfn(6)..Gfn(7), HostRights::WRITE).unwrap();
    s.map(5, entry(0x5000));
    s.map(6, entry(0x6000));
    assert_eq!(s.fault(0x5010, WRITE).0, Outcome::Denied(Gpa(0x5010)));
    assert_eq!(s.fault(0x5010, PageFaultCode::FETCH).0, Outcome::Filled);
    assert!(!s.shadow(0x5000).unwrap().intersects(Entry::WRITABLE | Entry::NO_EXECUTE));
    assert_eq!(s.fault(0x6010, PageFaultCode::FETCH).0, Outcome::Denied(Gpa(0x6010)));
    assert_eq!(s.fault(0x6010, WRITE).0, Outcome::Filled);
    assert!(s.shadow(0x6000).unwrap().contains(Entry::WRITABLE | Entry::NO_EXECUTE));
}

#[test]
fn a_frame_that_becomes_a_table_loses_write_access() {
    let mut s = setup();
    // Page 5 is writable; then the guest points a level-2 entry at it.
    s.map(5, 0x5000 | PRESENT | WRITABLE | ACCESSED | DIRTY);
    s.access(0x5000, WRITE);
    assert!(s.shadow(0x5000).unwrap().contains(Entry::WRITABLE));
    s.memory.write(Gpa(0x5000), &(0x6000 | PRESENT | ACCESSED).to_le_bytes()).unwrap();
    s.memory.write(Gpa(TABLES + 0x2008), &(0x5000 | PRESENT | ACCESSED).to_le_bytes()).unwrap();
    let (outcome, duty) = s.fault(0x20_0000, READ);
    assert_eq!((outcome, duty), (Outcome::Filled, FlushDuty::Asid));
    assert!(!s.shadow(0x5000).unwrap().contains(Entry::WRITABLE));
}

#[test]
fn a_frame_has_at_most_so_many_leaves() {
    let mut s = setup();
    let aliases = 3 * rmap::MAX_LEAVES as u64;
    for page in 0..aliases {
        s.map(page, 0x5000 | PRESENT | WRITABLE | ACCESSED | DIRTY);
    }
    let mut flushes = 0;
    for page in 0..aliases {
        flushes += u64::from(s.fault(page << 12, READ).1 == FlushDuty::Asid);
    }
    let mapped = (0..aliases).filter(|page| s.shadow(page << 12).is_some()).count();
    assert_eq!(mapped, rmap::MAX_LEAVES);
    assert_eq!(flushes, aliases - rmap::MAX_LEAVES as u64, "every leaf that goes is flushed");
}

/// A guest that maps its frames here and there, as any kernel with a heap does.
#[test]
fn recycled_frames_are_served_quickly_and_cost_nothing_for_good() {
    const PAGES: u64 = 30;
    const FRAMES: u64 = 37;
    let live = PRESENT | WRITABLE | ACCESSED | DIRTY;
    let mut s = setup();
    s.map(0x103, (TABLES + 0x3000) | live);
    s.access(0x10_3000, READ);
    s.guest_writes_table(0, 0x20_0000 | live);
    s.access(0, WRITE);
    for round in 1..5000 {
        let (page, frame) = (round % PAGES, 0x20_0000 + ((round * 7 % FRAMES) << 12));
        s.map(page, frame | live);
        let _duty = s.mmu.invalidate(Gva(page << 12));
        let (mmu, memory) = (&mut s.mmu, &mut s.memory);
        let mut serve = |by: fn(&mut _, &mut _, &_, _, _) -> _| by(mmu, memory, &PAGING, Gva(page << 12), access(WRITE));
        let served = serve(ShadowMmu::serve_recent).or_else(|| serve(ShadowMmu::serve_recycled));
        assert_eq!(served, Some(Outcome::Filled), "round {round}");
        assert_eq!(s.shadow(page << 12).map(|leaf| Hpa(leaf.address())), s.memory.present(Gpa(frame).gfn()).map(GuestFrame::hpa));
    }
    assert_eq!(s.mmu.reverse.lists(), 0, "no frame ever had two leaves");
}

/// What becomes of tables that are in step when something is written to them.
#[test]
fn a_full_heap_keeps_nobody_from_hearing_of_writes_to_tables() {
    let live = PRESENT | WRITABLE | ACCESSED | DIRTY;
    let mut s = setup();
    s.map(5, 0x5000 | live);
    s.access(0x5000, READ);
    let table = Gpa(TABLES + 0x3000).gfn();
    let (_, touched) = s.memory.touch_by_host(table).unwrap();
    assert_eq!(with_allocations(0, || s.mmu.written(table, touched)), FlushDuty::None);
    s.map(5, 0x7000 | live);
    assert_eq!(s.mmu.invalidate(Gva(0x5000)), FlushDuty::Address(Gva(0x5000)), "the write was heard of");
    s.access(0x5000, READ);
    assert_eq!(s.shadow(0x5000).map(|leaf| Hpa(leaf.address())), s.memory.present(Gfn(7)).map(GuestFrame::hpa));
}

/// Aliases, a table that maps itself and is written, and a region more, on a heap that fails at the first allocation, the second, and so on.
#[test]
fn a_full_heap_is_an_error_and_nothing_is_wrong_afterwards() {
    let live = PRESENT | WRITABLE | ACCESSED | DIRTY;
    let mut refusals = 0;
    for granted in 0.. {
        let mut s = setup();
        s.memory.write(Gpa(TABLES + 0x2008), &((TABLES + 0x3000) | PRESENT | WRITABLE | ACCESSED).to_le_bytes()).unwrap();
        (5..8).for_each(|page| s.map(page, 0x5000 | live));
        s.map(0x103, (TABLES + 0x3000) | live);
        let faults = [(0x5000, WRITE), (0x6000, READ), (0x7000, READ), (0x10_3000, READ), (0x10_3000, WRITE), (0x20_6000, WRITE)];
        let refused = with_allocations(granted, || {
            faults.map(|(address, code)| s.mmu.fault(&mut s.memory, &PAGING, Gva(address), access(code)).err())
        });
        refusals += refused.iter().flatten().count();
        assert!(refused.iter().flatten().all(|error| *error == Error::NoHeap), "{refused:?}");
        for (address, code) in faults {
            assert_eq!(s.fault(address, code).0, Outcome::Filled, "{address:#x}, {granted} allocations");
        }
        let (own, table) = (s.shadow(0x5000), s.shadow(0x10_3000));
        assert_eq!(own.map(|leaf| Hpa(leaf.address())), s.memory.present(Gfn(5)).map(GuestFrame::hpa));
        let in_step = s.mmu.reverse.is_table(Gpa(TABLES + 0x3000).gfn());
        assert!(!in_step || table.is_none_or(|leaf| !leaf.contains(Entry::WRITABLE)), "{granted} allocations: {table:?}");
        if refused == [None; 6] {
            break;
        }
    }
    assert!(refusals >= 5, "tables, their index, room for those that are not in step, a list: {refusals}");
}

#[test]
fn tables_stay_in_quarantine_until_discharged() {
    let mut s = setup();
    s.map(5, 0x5000 | PRESENT | ACCESSED);
    s.access(0x5000, READ);
    let (live, root) = (s.arena.live(), s.mmu.root());
    assert_eq!(s.mmu.drop_all(), Ok(FlushDuty::Asid));
    assert_eq!((s.arena.live(), s.mmu.root()), (live, root), "the tables are kept below an empty root");
    s.mmu.discharged();
    assert_eq!(s.arena.live(), live - 3);
    s.access(0x5000, READ);
    assert!(s.shadow(0x5000).is_some());
}

#[test]
fn dropping_gives_every_frame_back() {
    let Setup { arena, mut memory, mut mmu } = setup();
    memory.write(Gpa(TABLES + 0x3000), &(0x7000 | PRESENT | ACCESSED).to_le_bytes()).unwrap();
    let (_outcome, _duty) = mmu.fault(&mut memory, &PAGING, Gva(0), access(READ)).unwrap();
    drop((mmu, memory));
    assert_eq!(arena.live(), 0);
}

#[test]
fn a_full_host_is_an_error_and_no_frame_is_lost() {
    let Setup { arena, mut memory, mut mmu } = setup();
    memory.write(Gpa(TABLES + 0x3000), &(0x7000 | PRESENT | ACCESSED).to_le_bytes()).unwrap();
    let mut hoard: Vec<Page<[u64; 512]>> = Vec::new();
    while let Ok(frame) = arena.frames().take() {
        hoard.push(Page::new(frame));
    }
    let mut refused = 0;
    while let Err(error) = mmu.fault(&mut memory, &PAGING, Gva(0), access(READ)) {
        assert_eq!(error, Error::NoFrames);
        refused += 1;
        hoard.pop();
    }
    assert!(refused >= 4, "a frame for the page, one for its map, tables: each can be the one that is missing");
    drop((mmu, memory, hoard));
    assert_eq!(arena.live(), 0);
}
