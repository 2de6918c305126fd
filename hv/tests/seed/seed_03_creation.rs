//! Section 3: the state that a virtual CPU begins in (APM vol. 2, table 14-1), as the VMCB of its first VMRUN tells it.

use crate::stage::{CODE, FLAT, LONG, QUIET, REAL, STACK, Stage, TABLES, hypervisor, puppet, vm};
use hv::{Cpu, EntryState, hw::Hw, mem::arena::Arena, svm::Segment};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    reset_is_as_tabled,
    a_unikernel_begins_in_long_mode,
    loaders_begin_in_flat_protected_mode,
    time_begins_at_zero,
    the_fpu_is_ready,
    nothing_is_left_of_who_was_there,
];

#[test]
fn reset_is_as_tabled() {
    let mut stage = Stage::new(&EntryState::Reset);
    let _ = stage.run();
    let (vmcb, vcpu) = (stage.entered(), stage.vm.vcpu());
    let save = &vmcb.save;
    let code = Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
    let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
    assert_eq!((save.cs, save.rip), (code, 0xfff0));
    assert_eq!([save.ds, save.es, save.fs, save.gs, save.ss], [data; 5]);
    for (table, what) in [(save.gdtr, "GDTR"), (save.idtr, "IDTR"), (save.ldtr, "LDTR"), (save.tr, "TR")] {
        assert_eq!((table.base, table.limit), (0, 0xffff), "{what}");
    }
    assert_eq!((save.rflags, save.rsp, save.rax, save.cpl), (2, 0, 0, 0));
    assert_eq!((save.dr6, save.dr7, save.g_pat), (0xffff_0ff0, 0x400, 0x0007_0406_0007_0406));
    // What the guest sees, and what the processor has: paging and write protection on, caches on, SVM and NX on.
    let control = vcpu.control();
    assert_eq!((control.cr0, control.cr3, control.cr4, control.efer, control.cr8), (0x6000_0010, 0, 0, 0, 0));
    assert_eq!((save.cr0, save.cr4, save.efer), (0x8001_0010, 0x60, 0x1800));
    assert_eq!((save.cr3 >> 32, save.cr3 & 0x1f), (0, 0), "the root of legacy PAE tables");
    let family = vcpu.registers().0[hv::hw::RDX];
    let [signature, ..] = stage.hypervisor.profile().answer(1, 0);
    assert_eq!(family, u64::from(signature), "EDX is what CPUID 1 tells");
}

#[test]
fn a_unikernel_begins_in_long_mode() {
    let mut stage = Stage::new(&LONG);
    let _ = stage.run();
    let (vmcb, vcpu) = (stage.entered(), stage.vm.vcpu());
    let save = &vmcb.save;
    assert_eq!((save.rip, save.rsp, save.rflags, save.cpl), (CODE, STACK, 2, 0));
    assert_eq!(vcpu.registers().0[hv::hw::RDI], 7);
    assert_eq!((save.cs.attributes, save.ss.attributes), (0xa9b, 0xc93));
    let control = vcpu.control();
    assert_eq!((control.cr0, control.cr3, control.cr4, control.efer), (0x8001_0033, TABLES, 0x620, 0xd00));
    assert_eq!((save.cr0, save.cr4, save.efer), (0x8001_0033, 0x660, 0x1d00));
    assert_ne!(save.cr3, TABLES, "the guest runs on shadow tables");
}

#[test]
fn loaders_begin_in_flat_protected_mode() {
    let mut stage = Stage::new(&FLAT);
    let _ = stage.run();
    let save = stage.entered().save;
    assert_eq!((save.rip, save.rax, save.cs.attributes, save.cs.limit), (CODE, 2, 0xc9b, u32::MAX));
    assert_eq!((save.tr.attributes, save.tr.limit), (0x89, 0x67));
    assert_eq!(stage.vm.vcpu().control().cr0, 0x11);
    let mut stage = Stage::new(&REAL);
    let _ = stage.run();
    let save = stage.entered().save;
    assert_eq!((save.cs.base, save.cs.selector, save.rip), (CODE, (CODE >> 4) as u16, 0));
}

#[test]
fn time_begins_at_zero() {
    let arena = Arena::leak(256);
    let hypervisor = hypervisor(arena);
    for started in [0, 1000, u64::MAX - 5] {
        let (mut puppet, strings) = puppet(arena);
        puppet.tsc = started;
        let mut cpu = Cpu::enable(puppet, 0, &QUIET, &hypervisor).unwrap();
        let mut vm = vm(&hypervisor, &LONG);
        let _ = vm.run(&mut cpu);
        let offset = strings.entries()[0].control.tsc_offset;
        assert_eq!(cpu.hw().tsc().wrapping_add(offset), 0, "the counter was at {started:#x}");
    }
}

#[test]
fn the_fpu_is_ready() {
    let mut stage = Stage::new(&EntryState::Reset);
    let _ = stage.run();
    // FCW 37Fh; MXCSR 1F80h: all exceptions masked.
    assert_eq!(stage.strings.fpu_loads(), [(0x37f, 0x1f80)]);
}

#[test]
fn nothing_is_left_of_who_was_there() {
    let mut stage = Stage::new(&LONG);
    let _ = stage.run();
    let vmcb = stage.entered();
    assert_eq!((vmcb.save.star, vmcb.save.lstar, vmcb.save.cr2, vmcb.save.kernel_gs_base), (0, 0, 0, 0));
    assert_eq!((vmcb.control.event_injection, vmcb.control.interrupt_shadow, vmcb.control.clean), (0, 0, 0));
}
