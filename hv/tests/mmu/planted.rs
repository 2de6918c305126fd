//! Planted bugs: each must be noticed by something.

use crate::{
    properties::{Failure, random_guests},
    stories::STORIES,
};
use hv::{
    addr::{Gpa, Gva},
    mem::{GuestMemory, arena::Arena},
    plant::{Bug, plant},
    shadow::{Access, FlushDuty, Kind, Outcome, Paging, Privilege, ShadowMmu, SmapCheck},
    svm::Vmcb,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};
use zerocopy::FromZeros;

/// Something that panics when it notices a bug.
type Detector = fn();

/// Quick ones first.
const DETECTORS: [(&str, Detector); 6] = [
    ("forced bits", forced_bits_stand),
    ("duties", joined_duties_cover_both),
    ("quarantine", tables_outlive_their_duty),
    ("quarantine", frames_outlive_their_duty),
    ("stories", || STORIES.iter().for_each(|(_, tell)| tell())),
    ("random guests", random_guests_see_nothing_forbidden),
];
const STEPS: usize = 20_000;
const THREADS: usize = 2;

#[test]
fn seed_06_every_planted_bug_is_noticed() {
    DETECTORS.iter().for_each(|(_, detect)| detect());
    let chunks = Bug::MMU.chunks(Bug::MMU.len().div_ceil(THREADS));
    let missed: Vec<Bug> = thread::scope(|scope| {
        let threads: Vec<_> =
            chunks.map(|bugs| scope.spawn(move || bugs.iter().filter(|bug| !is_noticed(**bug)).copied().collect())).collect();
        threads.into_iter().flat_map(|thread| -> Vec<Bug> { thread.join().unwrap() }).collect()
    });
    crate::tell(&format!("planted bugs: {} of {} noticed", Bug::MMU.len() - missed.len(), Bug::MMU.len()));
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}

/// Plants a bug, and tells whether anything noticed it.
fn is_noticed(bug: Bug) -> bool {
    let planted = plant(bug);
    let noticed = DETECTORS.iter().find(|(_, detect)| catch_unwind(AssertUnwindSafe(detect)).is_err());
    let by = match noticed {
        Some((name, _)) => format!("noticed by {name}"),
        None if planted.was_asked() => "NOT NOTICED".into(),
        None => "NOT ASKED FOR by any code that ran".into(),
    };
    crate::tell(&format!("planted bug {bug:?}: {by}. ({})", bug.what().trim()));
    noticed.is_some()
}

fn random_guests_see_nothing_forbidden() {
    random_guests(1, STEPS, Failure::Report).unwrap();
}

/// What isolation rests on, written down once more (APM vol. 2, 15.9, 15.12 and appendix B).
fn forced_bits_stand() {
    const LONG: u64 = 0x500;
    for (cr0, cr4, efer) in [(0, 0, 0), (0x6000_0010, !0x220, 0x100), (0xe005_003f, !0, !LONG), (0x8000_0011, 0x20, LONG)] {
        let mut vmcb = Vmcb::new_zeroed();
        (vmcb.save.cr0, vmcb.save.cr4, vmcb.save.efer) = (cr0, cr4, efer);
        (vmcb.control.nested_control, vmcb.control.lbr_control) = (1, 3);
        vmcb.force(0x1000, 0x5000);
        let (control, save) = (&vmcb.control, &vmcb.save);
        assert_eq!(save.cr0, cr0 & 0x8005_003f | 0x8001_0000, "PG and WP set, CD and NW clear");
        assert_eq!(save.cr4, cr4 & 0x30_060c | 0x60, "PAE and MCE set; TSD, DE, OSFXSR, OSXMMEXCPT, SMEP, SMAP may be");
        assert_eq!(save.efer, efer & 1 | if efer & 0x400 != 0 { LONG } else { 0 } | 0x1800, "SVME and NXE set, LME as LMA");
        // CR0, CR3, CR4, CR8 both ways; every debug register; #DB, #DF, #PF, #AC, #MC.
        assert_eq!((control.intercept_cr_reads & 0x119, control.intercept_cr_writes & 0x119), (0x119, 0x119));
        assert_eq!((control.intercept_dr_reads, control.intercept_dr_writes), (0xffff, 0xffff));
        assert_eq!(control.intercept_exceptions & 0x6_4102, 0x6_4102);
        // INTR, NMI, SMI, INIT, RDPMC, CPUID, RSM, INVD, HLT, INVLPG, INVLPGA, I/O, MSRs, task switch, FERR, shutdown.
        assert_eq!(control.intercepts_1 & 0xff4c_800f, 0xff4c_800f);
        // VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, RDTSCP, ICEBP, WBINVD, MONITOR, MWAIT twice, XSETBV, RDPRU.
        assert_eq!(control.intercepts_2 & 0x7fff, 0x7fff);
        assert_eq!((control.nested_control, control.lbr_control), (0, 0));
        assert_ne!(control.virtual_interrupt & 1 << 24, 0, "V_INTR_MASKING");
        assert_eq!((control.iopm_base, control.msrpm_base), (0x1000, 0x5000));
    }
}

fn joined_duties_cover_both() {
    let (a, b) = (FlushDuty::Address(Gva(0x1000)), FlushDuty::Address(Gva(0x2000)));
    assert_eq!((a.and(b), a.and(FlushDuty::Asid), FlushDuty::None.and(b)), (FlushDuty::Asid, FlushDuty::Asid, b));
}

/// Fills region after region until the MMU drops its tables; their frames must not go back before the duty is discharged.
fn tables_outlive_their_duty() {
    const LINK: u64 = 0x23;
    const LARGE_PAGE: u64 = 0xe3;
    const REGIONS: u64 = 64;
    let arena = Arena::leak(512);
    let mut memory = GuestMemory::new(arena.frames(), REGIONS << 21).unwrap();
    let mut put = |at: u64, word: u64| memory.write(Gpa(at), &word.to_le_bytes()).unwrap();
    put(0x1000, 0x2000 | LINK);
    put(0x2000, 0x3000 | LINK);
    (0..REGIONS).for_each(|region| put(0x3000 + region * 8, region << 21 | LARGE_PAGE));
    let paging = Paging::long(0x1000);
    let mut mmu = ShadowMmu::new(arena.frames(), &memory, &paging).unwrap();
    let access = Access { kind: Kind::Read, privilege: Privilege::Supervisor, smap: SmapCheck::Applies };
    for region in 0..REGIONS {
        let before = arena.live();
        let (outcome, duty) = mmu.fault(&mut memory, &paging, Gva(region << 21 | 0x1000), access).unwrap();
        assert_eq!(outcome, Outcome::Filled);
        if duty == FlushDuty::Asid {
            assert!(arena.live() > before, "{} frames before, {} after", before, arena.live());
            mmu.discharged();
            assert!(arena.live() < before, "nothing was dropped");
            drop((mmu, memory));
            assert_eq!(arena.live(), 0);
            return;
        }
    }
    panic!("the tables are never dropped");
}

/// Takes a range out of memory that has frames; they must not go back before the duty is discharged.
fn frames_outlive_their_duty() {
    const FRAMES: usize = 5;
    let arena = Arena::leak(64);
    let mut memory = GuestMemory::new(arena.frames(), 4 << 20).unwrap();
    let mut mmu = ShadowMmu::new(arena.frames(), &memory, &Paging::long(0x1000)).unwrap();
    let before = arena.live();
    memory.write(Gpa(2 << 20), &[1; FRAMES << 12]).unwrap();
    let duty = mmu.unmap(&mut memory, &(Gpa(2 << 20)..Gpa(4 << 20))).unwrap();
    assert_eq!((duty, arena.live()), (FlushDuty::Asid, before + FRAMES), "the page that named them is nobody else's");
    mmu.discharged();
    assert_eq!(arena.live(), before);
}
