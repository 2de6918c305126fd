//! Section 12: segment registers, and the state that has an owner: FPU and debug registers (APM vol. 2, 4.5, 13.1, 15.5.1).

use crate::stage::{LONG, QUIET, REAL, Stage, leave, puppet, vm};
use hv::{
    Cpu, Error, Stop,
    svm::{ExitCode, Features, Segment},
    vcpu::{CodeMode, SegmentRegister},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    every_segment_keeps_what_it_is_given,
    what_is_not_present_is_unusable,
    cpl_is_the_dpl_of_ss,
    a_busy_tss_is_loaded_as_qemu_takes_it,
    the_size_of_code_follows_cs,
    fpu_registers_move_only_between_owners,
    fpu_registers_follow_a_guest_to_another_cpu,
    breakpoints_move_only_when_they_are_on,
    breakpoints_that_the_guest_sets_are_on_at_once,
    descriptor_tables_are_set_and_read,
];

const ALL: [SegmentRegister; 8] = [
    SegmentRegister::Es,
    SegmentRegister::Cs,
    SegmentRegister::Ss,
    SegmentRegister::Ds,
    SegmentRegister::Fs,
    SegmentRegister::Gs,
    SegmentRegister::Ldtr,
    SegmentRegister::Tr,
];

fn read(stage: &mut Stage, register: SegmentRegister) -> Segment {
    let _ = stage.run();
    let save = stage.entered().save;
    match register {
        SegmentRegister::Es => save.es,
        SegmentRegister::Cs => save.cs,
        SegmentRegister::Ss => save.ss,
        SegmentRegister::Ds => save.ds,
        SegmentRegister::Fs => save.fs,
        SegmentRegister::Gs => save.gs,
        SegmentRegister::Ldtr => save.ldtr,
        SegmentRegister::Tr => save.tr,
    }
}

#[test]
fn every_segment_keeps_what_it_is_given() {
    for register in ALL {
        // All of type, S, DPL, P, AVL, L, D/B, G that a 32-bit data segment, or a TSS, has.
        let attributes = if register == SegmentRegister::Tr { 0x089 } else { 0xcf3 };
        let segment = Segment { selector: 0x2b, attributes, limit: 0xf_ffff, base: 0x1234_5000 };
        let mut stage = Stage::new(&LONG);
        stage.vm.vcpu_mut().set_segment(register, segment);
        assert_eq!(stage.vm.vcpu().segment(register), segment, "{register:?}");
        assert_eq!(read(&mut stage, register), segment, "{register:?}, for the processor");
    }
}

#[test]
fn what_is_not_present_is_unusable() {
    for register in ALL {
        let mut stage = Stage::new(&LONG);
        stage.vm.vcpu_mut().set_segment(register, Segment { selector: 0, attributes: 0xc13, limit: 7, base: 8 });
        let segment = read(&mut stage, register);
        assert_eq!((segment.attributes, segment.limit, segment.base), (0, 7, 8), "{register:?}");
    }
}

#[test]
fn cpl_is_the_dpl_of_ss() {
    let data = |dpl: u16| Segment { selector: 0x10 | dpl, attributes: 0xc93 | dpl << 5, limit: u32::MAX, base: 0 };
    for dpl in 0..4 {
        let mut stage = Stage::new(&LONG);
        stage.vm.vcpu_mut().set_segment(SegmentRegister::Ss, data(dpl));
        let _ = stage.run();
        let save = stage.entered().save;
        assert_eq!((save.cpl, save.ss.attributes >> 5 & 3, stage.vm.vcpu().cpl()), (dpl as u8, dpl, dpl as u8));
    }
    let mut real = Stage::new(&REAL);
    real.vm.vcpu_mut().set_segment(SegmentRegister::Ss, data(3));
    let _ = real.run();
    let save = real.entered().save;
    assert_eq!((save.cpl, save.ss.attributes >> 5 & 3), (0, 0), "real mode has no privilege levels");
    // Virtual-8086 code has CPL 3.
    let mut virtual_8086 = Stage::new(&LONG);
    virtual_8086.vm.vcpu_mut().set_rflags(1 << 17);
    assert_eq!(virtual_8086.vm.vcpu().cpl(), 3);
}

#[test]
fn a_busy_tss_is_loaded_as_qemu_takes_it() {
    let mut stage = Stage::new(&LONG);
    let busy = Segment { selector: 0x28, attributes: 0x8b, limit: 0x67, base: 0x5000 };
    stage.vm.vcpu_mut().set_segment(SegmentRegister::Tr, busy);
    assert_eq!(read(&mut stage, SegmentRegister::Tr), Segment { attributes: 0x89, ..busy });
}

#[test]
fn the_size_of_code_follows_cs() {
    let mut stage = Stage::new(&LONG);
    for (attributes, mode) in [(0xa9b, CodeMode::Bits64), (0xc9b, CodeMode::Bits32), (0x89b, CodeMode::Bits16)] {
        let code = Segment { selector: 8, attributes, limit: u32::MAX, base: 0 };
        stage.vm.vcpu_mut().set_segment(SegmentRegister::Cs, code);
        assert_eq!(stage.vm.vcpu().code_mode(), mode);
    }
    // Without long mode, the L bit means nothing.
    let mut real = Stage::new(&REAL);
    real.vm.vcpu_mut().set_segment(SegmentRegister::Cs, Segment { selector: 8, attributes: 0xa9b, limit: 0xffff, base: 0 });
    assert_eq!(real.vm.vcpu().code_mode(), CodeMode::Bits16);
}

#[test]
fn fpu_registers_move_only_between_owners() {
    let mut stage = Stage::new(&LONG);
    let mut second = vm(&stage.hypervisor, &LONG);
    let moved = |stage: &Stage| (stage.cpu.counters().fpu_switches, stage.strings.fpu_saves());
    for _ in 0..3 {
        (0..3).for_each(|_| stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 0, 0x1000)));
        assert_eq!(stage.run(), Stop::Interrupted);
    }
    assert_eq!(moved(&stage), (1, 0), "12 exits, and one owner");
    let _ = second.run(&mut stage.cpu);
    assert_eq!(moved(&stage), (2, 1));
    let _ = stage.run();
    assert_eq!(moved(&stage), (3, 2));
    drop(second);
    let _ = stage.run();
    assert_eq!(moved(&stage), (3, 2));
}

#[test]
fn fpu_registers_follow_a_guest_to_another_cpu() {
    let mut stage = Stage::new(&LONG);
    let (other, strings) = puppet(&stage.arena);
    let mut other = Cpu::enable(other, 1, &QUIET, &stage.hypervisor).unwrap();
    assert_eq!(stage.run(), Stop::Interrupted);
    assert_eq!(stage.vm.run(&mut other), Stop::Host(Error::HeldByCpu(0)), "its registers are elsewhere");
    assert_eq!(strings.entries().len(), 0);
    stage.cpu.release();
    assert_eq!(stage.strings.fpu_saves(), 1);
    assert_eq!(stage.vm.run(&mut other), Stop::Interrupted);
    // A CPU that is switched off keeps nothing.
    drop(other);
    assert_eq!(strings.fpu_saves(), 1);
    assert_eq!(stage.run(), Stop::Interrupted);
}

#[test]
fn breakpoints_move_only_when_they_are_on() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().set_debug_register(0, 0x1234).unwrap();
    let _ = stage.run();
    assert_eq!(stage.strings.breakpoints(), [[0; 4]; 0], "none is on");
    stage.vm.vcpu_mut().set_debug_register(7, 1).unwrap();
    let _ = (stage.run(), stage.run());
    assert_eq!(stage.strings.breakpoints(), [[0x1234, 0, 0, 0]], "loaded once");
    assert_eq!(stage.entered().save.dr7, 0x401);
    let mut second = vm(&stage.hypervisor, &LONG);
    let _ = second.run(&mut stage.cpu);
    assert_eq!(stage.strings.breakpoints(), [[0; 4]; 0], "a guest without breakpoints need not have them");
    second.vcpu_mut().set_debug_register(7, 0x3).unwrap();
    let _ = (second.run(&mut stage.cpu), stage.run());
    assert_eq!(stage.strings.breakpoints(), [[0; 4], [0x1234, 0, 0, 0]], "each has its own");
}

#[test]
fn breakpoints_that_the_guest_sets_are_on_at_once() {
    let mut stage = Stage::new(&LONG);
    // MOV DR0, RAX; MOV DR7, RAX.
    stage.put(&[0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xf8]);
    for (number, value) in [(0, 0x1234), (7, 1)] {
        let offered = crate::stage::offered();
        stage.strings.push(move |vmcb, _| {
            vmcb.save.rax = value;
            if offered.contains(Features::NRIP_SAVE) {
                vmcb.control.next_rip = vmcb.save.rip + 3;
            }
            leave(vmcb, ExitCode::DR_READ_0 + 0x10 + number, 0, 0);
        });
    }
    assert_eq!(stage.run(), Stop::Interrupted);
    assert_eq!(stage.strings.breakpoints(), [[0x1234, 0, 0, 0]], "before the embedder was asked");
    assert_eq!(stage.entered().save.dr7, 0x401);
}

#[test]
fn descriptor_tables_are_set_and_read() {
    let mut stage = Stage::new(&LONG);
    let table = |base, limit| Segment { base, limit, ..Segment::default() };
    stage.vm.vcpu_mut().set_descriptor_tables(table(0x1000, 0x7f), table(0xffff_8000_0000_2000, 0xfff));
    let _ = stage.run();
    let save = stage.entered().save;
    assert_eq!((save.gdtr, save.idtr), stage.vm.vcpu().descriptor_tables());
    assert_eq!((save.gdtr.base, save.idtr.limit), (0x1000, 0xfff));
}
