//! Section 8: the guest's model-specific registers.

use crate::stage::{FLAT, LONG, Stage};
use hv::{
    svm::PASSED_THROUGH,
    vcpu::{Handling, MSRS},
    x86::{Exception, msr},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    the_table_holds,
    what_is_not_there_faults,
    addresses_are_canonical,
    efer_is_the_guests_own,
    the_counter_goes_on_from_what_is_written,
    memory_types_are_checked,
];

const GP: Option<Exception> = Some(Exception::GP0);

#[test]
fn the_table_holds() {
    for (index, name, handling) in MSRS {
        let mut stage = Stage::new(&LONG);
        let value = match index {
            msr::EFER => 0xd01,
            msr::PAT => 0x0706_0504_0100_0706,
            msr::DEBUG_CTL | msr::APIC_BASE => 0,
            _ => 0x77,
        };
        let read = stage.rdmsr(index);
        match handling {
            Handling::Refused => assert_eq!((read, stage.wrmsr(index, value)), (Err(Exception::GP0), GP), "{name}"),
            Handling::Fixed(fixed) => assert_eq!((read, stage.wrmsr(index, value)), (Ok(fixed), GP), "{name}"),
            Handling::Kept | Handling::PassedThrough => {
                assert!(read.is_ok(), "{name}");
                assert_eq!((stage.wrmsr(index, value), stage.rdmsr(index)), (None, Ok(value)), "{name}");
            }
            Handling::Computed => assert!(read.is_ok(), "{name}"),
        }
        assert_eq!(handling == Handling::PassedThrough, PASSED_THROUGH.contains(&index), "{name}");
    }
}

#[test]
fn what_is_not_there_faults() {
    // The first and last of each range of the map, what lies outside, and some that processors have.
    for index in [0, 0x1fff, 0x2000, 0xbfff_ffff, 0xc000_0000, 0xc000_1fff, 0xc001_0000, 0xc001_1fff, u32::MAX, 0x8b, 0xc001_0015]
    {
        let mut stage = Stage::new(&LONG);
        assert_eq!((stage.rdmsr(index), stage.wrmsr(index, 0)), (Err(Exception::GP0), GP), "{index:#x}");
    }
    for host_only in [msr::VM_CR, msr::VM_HSAVE_PA] {
        assert_eq!(Stage::new(&LONG).rdmsr(host_only), Err(Exception::GP0), "{host_only:#x}");
    }
}

#[test]
fn addresses_are_canonical() {
    let addresses =
        [msr::LSTAR, msr::CSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE, msr::SYSENTER_ESP, msr::SYSENTER_EIP];
    for index in addresses {
        let mut stage = Stage::new(&LONG);
        for bad in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(stage.wrmsr(index, bad), GP, "{index:#x} {bad:#x}");
        }
        for good in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, !0] {
            assert_eq!((stage.wrmsr(index, good), stage.rdmsr(index)), (None, Ok(good)), "{index:#x}");
        }
    }
    let mut stage = Stage::new(&LONG);
    assert_eq!(stage.wrmsr(msr::FS_BASE, 0x7f00_0000_0000), None);
    assert_eq!(stage.entered().save.fs.base, 0x7f00_0000_0000, "VMLOAD takes it from there");
}

#[test]
fn efer_is_the_guests_own() {
    let mut stage = Stage::new(&LONG);
    assert_eq!(stage.rdmsr(msr::EFER), Ok(0xd00), "no SVME");
    assert_eq!(stage.wrmsr(msr::EFER, 0x901), None, "LMA is not the guest's to write");
    assert_eq!(stage.rdmsr(msr::EFER), Ok(0xd01));
    assert_eq!(stage.entered().save.efer, 0x1d01);
    for bad in [1 << 12 | 0xd00, 1 << 20 | 0xd00, 1 << 1 | 0xd00, 1 << 63 | 0xd00, 0x800] {
        assert_eq!(stage.wrmsr(msr::EFER, bad), GP, "{bad:#x}");
    }
    let mut stage = Stage::new(&FLAT);
    assert_eq!((stage.wrmsr(msr::EFER, 0x500), stage.rdmsr(msr::EFER)), (None, Ok(0x100)), "no LMA without paging");
}

#[test]
fn the_counter_goes_on_from_what_is_written() {
    let mut stage = Stage::new(&LONG);
    assert_eq!(stage.rdmsr(msr::TSC), Ok(0));
    assert_eq!((stage.wrmsr(msr::TSC, 1 << 40), stage.rdmsr(msr::TSC)), (None, Ok(1 << 40)));
    // RDTSC does not exit: it goes by the offset.
    let offset = stage.entered().control.tsc_offset;
    assert_eq!(hv::hw::Hw::tsc(stage.cpu.hw()).wrapping_add(offset), 1 << 40);
}

#[test]
fn memory_types_are_checked() {
    let mut stage = Stage::new(&LONG);
    for bad in [2, 3, 8, 0xff, 2 << 56] {
        assert_eq!(stage.wrmsr(msr::PAT, bad), GP, "{bad:#x}");
    }
    assert_eq!(stage.rdmsr(msr::PAT), Ok(0x0007_0406_0007_0406));
    assert_eq!(stage.wrmsr(msr::DEBUG_CTL, 1), GP, "last-branch records are not offered");
}
