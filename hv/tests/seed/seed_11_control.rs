//! Section 11: control registers, from mode to mode and back, and every write that the manual forbids (APM vol. 2, 3.1; vol. 3, MOV CRn).

use crate::stage::{CODE, FLAT, LONG, REAL, Stage, TABLES};
use hv::{
    addr::Gpa,
    shadow::Mode,
    svm::Segment,
    vcpu::SegmentRegister,
    x86::{Exception, msr},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    through_every_mode_and_back,
    illegal_writes_of_cr0,
    illegal_writes_of_cr3,
    illegal_writes_of_cr4,
    illegal_writes_of_efer,
    pdptes_are_latched_and_checked,
    changes_that_matter_flush,
];

const GP: Option<Exception> = Some(Exception::GP0);
const PE: u64 = 1;
const ET: u64 = 0x10;
const WP: u64 = 1 << 16;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
const PSE: u64 = 0x10;
const PAE: u64 = 0x20;
const LME: u64 = 0x100;
const LMA: u64 = 0x400;

/// Two-level tables, and PAE ones: memory mapped one to one by large pages.
const DIRECTORY: u64 = 0x5000;
const POINTERS: u64 = 0x6000;
const LARGE_PAGE: u64 = 0xe3;

const CODE_32: Segment = Segment { selector: 8, attributes: 0xc9b, limit: u32::MAX, base: 0 };
const CODE_64: Segment = Segment { selector: 8, attributes: 0xa9b, limit: u32::MAX, base: 0 };

fn stage(entry: &hv::EntryState) -> Stage {
    let mut stage = Stage::new(entry);
    for (at, word) in [(DIRECTORY, LARGE_PAGE), (POINTERS, 0x7001), (0x7000, LARGE_PAGE)] {
        stage.vm.write_physical(Gpa(at), &word.to_le_bytes()).unwrap();
    }
    stage
}

/// A far jump, as far as CS and RIP go.
fn jump(stage: &mut Stage, code: Segment) {
    stage.vm.vcpu_mut().set_segment(SegmentRegister::Cs, code);
    stage.vm.vcpu_mut().jump(CODE, 0);
}

/// The paging mode, and what CR0, CR4 and EFER the processor has.
fn seen(stage: &mut Stage) -> (Mode, u64, u64, u64) {
    let _ = stage.run();
    let save = stage.entered().save;
    (stage.vm.vcpu().paging().mode(), save.cr0, save.cr4, save.efer)
}

#[test]
fn through_every_mode_and_back() {
    let mut stage = stage(&REAL);
    let forced = PG | WP | ET;
    assert_eq!(seen(&mut stage), (Mode::Unpaged, forced, 0x60, 0x1800));
    assert_eq!(stage.move_to_cr(0, ET | PE), None);
    assert_eq!(seen(&mut stage), (Mode::Unpaged, forced | PE, 0x60, 0x1800));
    jump(&mut stage, CODE_32);
    // Two-level paging.
    assert_eq!((stage.move_to_cr(4, PSE), stage.move_to_cr(3, DIRECTORY), stage.move_to_cr(0, ET | PE | PG)), (None, None, None));
    assert_eq!(seen(&mut stage), (Mode::TwoLevel, forced | PE, 0x60, 0x1800));
    // Down, and up to PAE.
    assert_eq!((stage.move_to_cr(0, ET | PE), stage.move_to_cr(4, PAE), stage.move_to_cr(3, POINTERS)), (None, None, None));
    assert_eq!(stage.move_to_cr(0, ET | PE | PG), None);
    assert_eq!(seen(&mut stage), (Mode::Pae, forced | PE, 0x60, 0x1800));
    // Down, and up to long mode; LME alone changes nothing.
    assert_eq!((stage.move_to_cr(0, ET | PE), stage.wrmsr(msr::EFER, LME)), (None, None));
    assert_eq!(seen(&mut stage), (Mode::Unpaged, forced | PE, 0x60, 0x1800), "LME does not reach the processor before LMA");
    assert_eq!((stage.move_to_cr(3, TABLES), stage.move_to_cr(0, ET | PE | PG)), (None, None));
    assert_eq!(stage.vm.vcpu().control().efer, LME | LMA);
    assert_eq!(seen(&mut stage), (Mode::Long, forced | PE, 0x60, 0x1d00));
    jump(&mut stage, CODE_64);
    assert_eq!(stage.move_to_cr(0, ET | PE), GP, "not from 64-bit code");
    jump(&mut stage, CODE_32);
    // All the way back.
    assert_eq!(stage.move_to_cr(0, ET | PE), None);
    assert_eq!((seen(&mut stage), stage.vm.vcpu().control().efer), ((Mode::Unpaged, forced | PE, 0x60, 0x1800), LME));
    assert_eq!((stage.wrmsr(msr::EFER, 0), stage.move_to_cr(4, 0), stage.move_to_cr(0, ET)), (None, None, None));
    assert_eq!(seen(&mut stage), (Mode::Unpaged, forced, 0x60, 0x1800));
}

/// Demands that each of these writes is #GP(0), and that nothing has changed.
fn refused(stage: &mut Stage, number: u8, values: &[u64]) {
    for value in values {
        let before = *stage.vm.vcpu().control();
        assert_eq!(stage.move_to_cr(number, *value), GP, "CR{number} = {value:#x}");
        assert_eq!(*stage.vm.vcpu().control(), before, "CR{number} = {value:#x}");
    }
}

#[test]
fn illegal_writes_of_cr0() {
    let cr0 = 0x8001_0033;
    // Bits above 31; PG without PE; NW without CD; paging off in 64-bit code.
    refused(&mut stage(&LONG), 0, &[cr0 | 1 << 32, cr0 | 1 << 63, cr0 & !PE, cr0 | NW, cr0 & !PG]);
    refused(&mut stage(&REAL), 0, &[PG | ET, NW | ET, PG]);
    let mut legal = stage(&LONG);
    assert_eq!(legal.move_to_cr(0, cr0 | CD | NW), None, "both together turn the caches off");
    assert_eq!(legal.move_to_cr(0, cr0 | 0x1ff8_0000), None, "reserved bits below 32 are ignored");
    assert_eq!(legal.vm.vcpu().control().cr0, cr0);
    assert_eq!(legal.entered().save.cr0 & (CD | NW), 0, "the caches are the host's");
    // Long mode needs PAE, and no 64-bit code segment.
    let mut windowed = stage(&FLAT);
    assert_eq!(windowed.wrmsr(msr::EFER, LME), None);
    refused(&mut windowed, 0, &[ET | PE | PG]);
    assert_eq!((windowed.move_to_cr(4, PAE), windowed.move_to_cr(3, TABLES)), (None, None));
    jump(&mut windowed, CODE_64);
    refused(&mut windowed, 0, &[ET | PE | PG]);
}

#[test]
fn illegal_writes_of_cr3() {
    refused(&mut stage(&LONG), 3, &[TABLES | 1 << 40, TABLES | 1 << 51, TABLES | 1 << 63, !0]);
    assert_eq!(stage(&LONG).move_to_cr(3, TABLES | 0xfff), None, "the low bits are flags, or ignored");
}

#[test]
fn illegal_writes_of_cr4() {
    let cr4 = 0x620;
    // Long mode without PAE; VME, PVI, UMIP, LA57, VMXE, FSGSBASE, PCIDE, OSXSAVE, PKE, CET, reserved ones.
    let bits = [0, 1, 11, 12, 13, 16, 17, 18, 22, 23, 31, 32, 63];
    let mut values: Vec<u64> = bits.into_iter().map(|bit| cr4 | 1 << bit).collect();
    values.push(cr4 & !PAE);
    refused(&mut stage(&LONG), 4, &values);
    assert_eq!(stage(&FLAT).move_to_cr(4, 0), None);
    refused(&mut stage(&LONG), 8, &[0x10, 1 << 63]);
}

#[test]
fn illegal_writes_of_efer() {
    let mut long = stage(&LONG);
    for value in [0x800, 0xd00 & !LME, 0xd00 | 1 << 12, 0xd00 | 1 << 13, 0xd00 | 1 << 14, 0xd00 | 1 << 15, 0xd00 | 2] {
        let before = *long.vm.vcpu().control();
        assert_eq!(long.wrmsr(msr::EFER, value), GP, "{value:#x}");
        assert_eq!(*long.vm.vcpu().control(), before);
    }
    let mut paged = stage(&FLAT);
    assert_eq!((paged.move_to_cr(4, PSE), paged.move_to_cr(3, DIRECTORY), paged.move_to_cr(0, ET | PE | PG)), (None, None, None));
    assert_eq!(paged.wrmsr(msr::EFER, LME), GP, "LME while paging is on");
}

#[test]
fn pdptes_are_latched_and_checked() {
    let mut pae = stage(&FLAT);
    let set = |stage: &mut Stage, word: u64| stage.vm.write_physical(Gpa(POINTERS), &word.to_le_bytes()).unwrap();
    assert_eq!((pae.move_to_cr(4, PAE), pae.move_to_cr(3, POINTERS)), (None, None));
    for bad in [0x7003, 0x7005, 0x7021, 0x7101, 0x7001 | 1 << 40, 0x7001 | 1 << 63] {
        set(&mut pae, bad);
        assert_eq!(pae.move_to_cr(0, ET | PE | PG), GP, "{bad:#x}");
    }
    set(&mut pae, 0x7001);
    assert_eq!(pae.move_to_cr(0, ET | PE | PG), None);
    // What stands in memory now counts at the next load, not before.
    set(&mut pae, 0x7003);
    assert_eq!(pae.vm.vcpu().control().pdptes[0], 0x7001);
    assert_eq!(pae.move_to_cr(0, ET | PE | PG | 8), None, "TS does not load them");
    assert_eq!(pae.move_to_cr(3, POINTERS), GP);
    set(&mut pae, 0x9000);
    assert_eq!(pae.move_to_cr(3, POINTERS), None, "one that is not present may have any bits");
}

#[test]
fn changes_that_matter_flush() {
    for (number, value) in [(3, TABLES), (0, 0x8000_0033), (4, 0x630), (4, 0x6a0)] {
        let mut stage = stage(&LONG);
        let _ = stage.run();
        let before = stage.cpu.counters().asid_flushes;
        assert_eq!(stage.move_to_cr(number, value), None);
        assert_eq!(stage.cpu.counters().asid_flushes, before + 1, "CR{number} = {value:#x}");
    }
    // TS, and OSFXSR: no translation depends on them.
    for (number, value) in [(0, 0x8001_003b), (4, 0x420)] {
        let mut stage = stage(&LONG);
        let _ = stage.run();
        let before = stage.cpu.counters().asid_flushes;
        assert_eq!(stage.move_to_cr(number, value), None);
        assert_eq!(stage.cpu.counters().asid_flushes, before, "CR{number} = {value:#x}");
    }
}
