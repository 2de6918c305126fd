//! Section 10: address space identifiers, and what is flushed when (APM vol. 2, 15.16).

use crate::stage::{CODE, LONG, QUIET, Stage, leave, offered, puppet, vm};
use hv::{
    Cpu, Error, Stop,
    addr::{Gpa, Gva},
    hw::RDI,
    mem::Page,
    shadow::FlushDuty,
    svm::{Clean, ExitCode, Features, TlbControl, Vmcb},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    the_first_asid_comes_with_a_flush,
    asids_rise_and_wrap_with_a_flush,
    one_that_is_forced_is_new,
    another_cpu_gives_its_own,
    duties_are_discharged_as_the_processor_can,
    nothing_is_flushed_for_nothing,
    a_fault_that_the_host_has_no_frames_for_owes_everything,
    an_emulated_access_that_the_host_has_no_frames_for_owes_everything,
];

const KEEP: u32 = TlbControl::Keep as u32;
const FLUSH_ALL: u32 = TlbControl::FlushAll as u32;
const FLUSH_ASID: u32 = TlbControl::FlushAsid as u32;

fn tlb(vmcb: &Vmcb) -> (u32, u32) {
    (vmcb.control.asid, vmcb.control.tlb_control)
}

/// What the VMCB says is unchanged, where the processor wants to know.
fn clean(vmcb: &Vmcb) -> Option<Clean> {
    offered().contains(Features::VMCB_CLEAN).then(|| Clean::from_bits_truncate(vmcb.control.clean))
}

fn enter(stage: &mut Stage) -> Vmcb {
    assert_eq!(stage.run(), Stop::Interrupted);
    stage.entered()
}

#[test]
fn the_first_asid_comes_with_a_flush() {
    let mut stage = Stage::new(&LONG);
    let vmcb = enter(&mut stage);
    assert_eq!((tlb(&vmcb), vmcb.control.clean), ((1, FLUSH_ALL), 0), "nobody knows what ran before");
    let vmcb = enter(&mut stage);
    assert_eq!(tlb(&vmcb), (1, KEEP));
    assert!(clean(&vmcb).is_none_or(|clean| clean == Clean::all() - Clean::CR2), "{:?}", clean(&vmcb));
}

#[test]
fn asids_rise_and_wrap_with_a_flush() {
    let mut stage = Stage::new(&LONG);
    // The processor has 4, the host's among them.
    let mut vms: Vec<_> = (0..5).map(|_| vm(&stage.hypervisor, &LONG)).collect();
    let mut enter = |vm: &mut hv::Vm| {
        assert_eq!(vm.run(&mut stage.cpu), Stop::Interrupted);
        stage.entered()
    };
    let seen: Vec<_> = vms.iter_mut().map(|vm| tlb(&enter(vm))).collect();
    assert_eq!(seen, [(1, FLUSH_ALL), (2, KEEP), (3, KEEP), (1, FLUSH_ALL), (2, KEEP)]);
    // Those from before the wrap have lost theirs; the others keep them.
    assert_eq!(tlb(&enter(&mut vms[4])), (2, KEEP));
    assert_eq!(tlb(&enter(&mut vms[3])), (1, KEEP));
    let back = enter(&mut vms[0]);
    assert_eq!((tlb(&back), back.control.clean), ((3, KEEP), 0));
    assert_eq!(tlb(&enter(&mut vms[1])), (1, FLUSH_ALL));
}

#[test]
fn one_that_is_forced_is_new() {
    let mut stage = Stage::new(&LONG);
    for expected in [(1, FLUSH_ALL), (2, KEEP), (3, KEEP), (1, FLUSH_ALL)] {
        stage.vm.vcpu_mut().force_new_asid();
        assert_eq!(tlb(&enter(&mut stage)), expected);
    }
}

#[test]
fn another_cpu_gives_its_own() {
    let mut stage = Stage::new(&LONG);
    let (second, strings) = puppet(&stage.arena);
    let mut second = Cpu::enable(second, 1, &QUIET, &stage.hypervisor).unwrap();
    assert_eq!(tlb(&enter(&mut stage)), (1, FLUSH_ALL));
    assert_eq!(tlb(&enter(&mut stage)), (1, KEEP));
    stage.cpu.release();
    assert_eq!(stage.vm.run(&mut second), Stop::Interrupted);
    second.release();
    let there = strings.entries().pop().unwrap();
    assert_eq!((tlb(&there), there.control.clean), ((1, FLUSH_ALL), 0), "its caches hold nothing of this VMCB");
    let back = enter(&mut stage);
    assert_eq!((tlb(&back), back.control.clean), ((2, KEEP), 0), "and the first ones hold what it was");
}

#[test]
fn duties_are_discharged_as_the_processor_can() {
    let mut stage = Stage::new(&LONG);
    let _ = enter(&mut stage);
    stage.vm.vcpu_mut().owe(FlushDuty::Asid);
    let vmcb = enter(&mut stage);
    if offered().contains(Features::FLUSH_BY_ASID) {
        assert_eq!(tlb(&vmcb), (1, FLUSH_ASID));
    } else {
        assert_eq!(tlb(&vmcb), (2, KEEP), "a new one is as good as a flush");
        assert!(clean(&vmcb).is_none_or(|clean| !clean.contains(Clean::ASID)));
    }
    let asid = vmcb.control.asid;
    assert_eq!(tlb(&enter(&mut stage)), (asid, KEEP), "once");
    stage.vm.vcpu_mut().owe(FlushDuty::Address(Gva(0x5000)));
    assert_eq!(tlb(&enter(&mut stage)), (asid, KEEP));
    assert_eq!(stage.strings.flushed(), [(Gva(0x5000), asid)]);
}

#[test]
fn nothing_is_flushed_for_nothing() {
    let mut stage = Stage::new(&LONG);
    let _ = enter(&mut stage);
    let before = *stage.cpu.counters();
    // A page that comes needs no flush, as no processor caches that there was none.
    stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE));
    let _ = enter(&mut stage);
    stage.put(&[0x0f, 0xa2]);
    let _ = stage.execute(&[0x0f, 0xa2], ExitCode::CPUID);
    let after = *stage.cpu.counters();
    assert_eq!((after.asid_flushes, after.address_flushes), (before.asid_flushes, before.address_flushes));
    // INVLPG owes something where the guest's tables have changed since the shadow was filled.
    assert_eq!(stage.fault(&[0x0f, 0x01, 0x38], ExitCode::INVLPG, if_assisted(), CODE), None);
    assert_eq!(stage.cpu.counters().asid_flushes, after.asid_flushes);
    stage.vm.write_physical(Gpa(0x3000), &[0xe3]).unwrap();
    let _ = enter(&mut stage);
    let before = *stage.cpu.counters();
    assert_eq!(stage.fault(&[0x0f, 0x01, 0x38], ExitCode::INVLPG, if_assisted(), CODE), None);
    let after = *stage.cpu.counters();
    assert_eq!(after.asid_flushes + after.address_flushes, before.asid_flushes + before.address_flushes + 1);
}

#[test]
fn a_fault_that_the_host_has_no_frames_for_owes_everything() {
    let mut stage = Stage::new(&LONG);
    let before = tlb(&enter(&mut stage));
    let hoard: Vec<_> = std::iter::from_fn(|| stage.arena.frames().take().ok()).map(Page::<[u64; 512]>::new).collect();
    // What had to go on the way to the frame that was missing is gone.
    stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE));
    assert_eq!(stage.run(), Stop::Host(Error::NoFrames));
    drop(hoard);
    let after = tlb(&enter(&mut stage));
    assert!(after.0 != before.0 || after.1 == FLUSH_ASID, "{after:?}");
    stage.close();
}

#[test]
fn an_emulated_access_that_the_host_has_no_frames_for_owes_everything() {
    let mut stage = Stage::new(&LONG);
    let before = tlb(&enter(&mut stage));
    // SMSW [RDI], to a page that was never touched.
    stage.put(&[0x0f, 0x01, 0x27]);
    let hoard: Vec<_> = std::iter::from_fn(|| stage.arena.frames().take().ok()).map(Page::<[u64; 512]>::new).collect();
    stage.strings.push(|vmcb, registers| {
        registers.0[RDI] = 0x18_0000;
        leave(vmcb, ExitCode::CR_READ_0, 0, 0);
    });
    assert_eq!(stage.run(), Stop::Host(Error::NoFrames));
    drop(hoard);
    let after = tlb(&enter(&mut stage));
    assert!(after.0 != before.0 || after.1 == FLUSH_ASID, "{after:?}");
    stage.close();
}

/// EXITINFO1 of INVLPG, where the processor decodes.
fn if_assisted() -> u64 {
    if offered().contains(Features::DECODE_ASSISTS) { CODE } else { 0 }
}
