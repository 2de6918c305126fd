//! Section 13: what becomes of a virtual CPU that is dropped, and of the CPU that it ran on.

use crate::stage::{CODE, LONG, QUIET, Stage, hypervisor, leave, puppet, vm};
use hv::{Cpu, hw::Hw, mem::arena::Arena, svm::ExitCode, x86::msr};

/// The tests of this section.
pub const TESTS: &[fn()] = &[every_frame_comes_back, it_may_end_anywhere, the_next_begins_afresh, the_cpu_is_as_it_was];

#[test]
fn every_frame_comes_back() {
    let mut stage = Stage::new(&LONG);
    let before = stage.arena.live();
    for _ in 0..3 {
        let mut guest = vm(&stage.hypervisor, &LONG);
        stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 2, CODE));
        let _ = guest.run(&mut stage.cpu);
        assert!(stage.arena.live() > before);
        drop(guest);
        assert_eq!(stage.arena.live(), before);
    }
    stage.close();
}

#[test]
fn it_may_end_anywhere() {
    // Never run; with an event under way; in the middle of a port access; shut down.
    let ends: [&dyn Fn(&mut Stage); 4] = [
        &|_| (),
        &|stage| {
            stage.vm.vcpu_mut().inject_nmi();
            stage.vm.vcpu_mut().inject_interrupt(0x30);
            let _ = stage.run();
        },
        &|stage| {
            let _ = stage.exit(ExitCode::IOIO, 0x60_0011);
        },
        &|stage| {
            let _ = stage.exit(ExitCode::SHUTDOWN, 0);
        },
    ];
    for end in ends {
        let mut stage = Stage::new(&LONG);
        end(&mut stage);
        stage.close();
    }
}

#[test]
fn the_next_begins_afresh() {
    let mut stage = Stage::new(&LONG);
    let mut first = vm(&stage.hypervisor, &LONG);
    stage.strings.push(|vmcb, _| {
        (vmcb.save.lstar, vmcb.save.dr6, vmcb.save.cr2) = (0x5555, 1, 0x6666);
        vmcb.control.interrupt_shadow = 1;
        leave(vmcb, ExitCode::INTR, 0, 0);
    });
    let _ = first.run(&mut stage.cpu);
    drop(first);
    // It gets the same frames.
    let mut second = vm(&stage.hypervisor, &LONG);
    let _ = second.run(&mut stage.cpu);
    let vmcb = stage.entered();
    assert_eq!((vmcb.save.lstar, vmcb.save.cr2, vmcb.control.interrupt_shadow, vmcb.control.clean), (0, 0, 0, 0));
    assert_eq!(vmcb.control.asid, 2, "no translation of the dead is tagged with it");
    assert_eq!(stage.strings.fpu_saves(), 0, "nobody needs the registers of the dead");
}

#[test]
fn the_cpu_is_as_it_was() {
    let arena = Arena::leak(256);
    let hypervisor = hypervisor(arena);
    let (mut puppet, _strings) = puppet(arena);
    let mut cpu = Cpu::enable(&mut puppet, 0, &QUIET, &hypervisor).unwrap();
    let mut guest = vm(&hypervisor, &LONG);
    let _ = guest.run(&mut cpu);
    // The CPU goes first; the guest is without one, and goes too.
    drop(cpu);
    assert_eq!((puppet.read_msr(msr::EFER), puppet.read_msr(msr::VM_HSAVE_PA)), (0xd00, 0));
    drop((guest, hypervisor));
    assert_eq!(arena.live(), 0);
}
