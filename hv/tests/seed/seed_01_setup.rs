//! Section 1: detection, and the permission maps that all VMs share.

use crate::stage::{LONG, QUIET, Stage, hypervisor, puppet, vm};
use hv::{
    Cpu, Error,
    addr::Hpa,
    error::NoSvm,
    hw::{Hw, model::ModelCpu},
    mem::arena::Arena,
    svm::{Features, PASSED_THROUGH},
    x86::msr,
};

/// The tests of this section.
pub const TESTS: &[fn()] =
    &[each_optional_feature_is_found, each_reason_against_svm_is_told, no_port_is_open, only_reads_of_switched_registers_pass];

#[test]
fn each_optional_feature_is_found() {
    let arena = Arena::leak(128);
    let hypervisor = hypervisor(arena);
    let known = Features::all();
    for offered in [0, known.bits(), !known.bits()].into_iter().chain(known.iter().map(|feature| feature.bits())) {
        let (mut puppet, _strings) = puppet(arena);
        puppet.model.offer(offered);
        let mut cpu = Cpu::enable(puppet, 0, &QUIET, &hypervisor).unwrap();
        let mut vm = vm(&hypervisor, &LONG);
        let _ = vm.run(&mut cpu);
        assert_eq!(vm.vcpu().features().bits(), offered & known.bits(), "EDX {offered:#x}");
    }
}

#[test]
fn each_reason_against_svm_is_told() {
    let arena = Arena::leak(64);
    let hypervisor = hypervisor(arena);
    type Prepare = fn(&mut ModelCpu);
    let cases: [(Prepare, NoSvm); 6] = [
        (|model| model.answer_cpuid(0x8000_0000, [0x8000_0008, 0, 0, 0]), NoSvm::NotOffered),
        (|model| model.answer_cpuid(0x8000_0001, [0, 0, !4, !0]), NoSvm::NotOffered),
        (|model| model.set_msr(msr::VM_CR, msr::VM_CR_SVMDIS | msr::VM_CR_LOCK), NoSvm::DisabledAndLocked),
        (
            |model| {
                model.set_msr(msr::VM_CR, msr::VM_CR_SVMDIS);
                model.offer(Features::SVM_LOCK.bits());
            },
            NoSvm::DisabledWithKey,
        ),
        (|model| model.answer_cpuid(0x8000_000a, [1, 1, 0, 0]), NoSvm::TooFewAsids(1)),
        (|model| model.set_msr(msr::EFER, 0x1d00), NoSvm::InUse),
    ];
    for (prepare, reason) in cases {
        let (mut puppet, _strings) = puppet(arena);
        puppet.model.offer(0);
        prepare(&mut puppet.model);
        let before = (puppet.read_msr(msr::EFER), arena.live());
        assert_eq!(Cpu::enable(puppet, 0, &QUIET, &hypervisor).err(), Some(Error::NoSvm(reason)));
        assert_eq!(arena.live(), before.1, "{reason:?}");
    }
}

#[test]
fn no_port_is_open() {
    let mut stage = Stage::new(&LONG);
    let _ = stage.run();
    let map = stage.entered().control.iopm_base;
    // 64 Ki ports, and what an access of 4 bytes to the last one reaches (APM vol. 2, 15.10.1).
    for word in 0..3 * 4096 / 8 {
        assert_eq!(stage.arena.word(Hpa(map + word * 8)), u64::MAX, "ports from {:#x} on", word * 64);
    }
    let mut second = vm(&stage.hypervisor, &LONG);
    let _ = second.run(&mut stage.cpu);
    assert_eq!(stage.entered().control.iopm_base, map, "one map for all");
}

#[test]
fn only_reads_of_switched_registers_pass() {
    let mut stage = Stage::new(&LONG);
    let _ = stage.run();
    let map = stage.entered().control.msrpm_base;
    let mut open = Vec::new();
    for (range, first) in [0, 0xc000_0000, 0xc001_0000_u32].into_iter().enumerate() {
        for index in 0..0x2000_u32 {
            let bit = range as u64 * 0x4000 + u64::from(index) * 2;
            let pair = stage.arena.word(Hpa(map + bit / 64 * 8)) >> (bit % 64) & 3;
            match pair {
                3 => {}
                2 => open.push(first + index),
                _ => panic!("MSR {:#x} can be written: {pair:#b}", first + index),
            }
        }
    }
    let mut expected = PASSED_THROUGH.to_vec();
    expected.sort_unstable();
    assert_eq!(open, expected);
    assert!(open.contains(&msr::LSTAR) && !open.contains(&msr::EFER) && !open.contains(&msr::TSC_AUX));
}
