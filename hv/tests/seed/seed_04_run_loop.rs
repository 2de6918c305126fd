//! Section 4: what the loop does around each VMRUN, and what it comes back to the embedder for.

use crate::stage::{CODE, LONG, Stage, hypervisor, leave, puppet, vm};
use hv::{
    Cpu, Kick, Stop,
    exit::{Cause, Reasons},
    mem::arena::Arena,
    svm::{Event, ExitCode},
    vcpu::{Interrupts, Ready, RunState},
    x86::{Exception, Vector},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    a_kick_ends_the_run_at_the_next_exit,
    the_window_is_told_to_who_asked,
    halt_stops_behind_the_instruction,
    shutdown_tells_its_cause,
    what_nobody_knows_is_typed,
    a_refused_vmcb_tells_why,
    the_run_state_is_what_an_injector_needs,
    a_shadow_ends_with_the_next_instruction,
    host_state_is_saved_once_a_run,
];

#[test]
fn a_kick_ends_the_run_at_the_next_exit() {
    // The test runs several times side by side, with bugs planted and without.
    let kick: &Kick = Box::leak(Box::new(Kick::new()));
    let arena = Arena::leak(256);
    let hypervisor = hypervisor(arena);
    let (puppet, strings) = puppet(arena);
    let mut cpu = Cpu::enable(puppet, 0, kick, &hypervisor).unwrap();
    let mut vm = vm(&hypervisor, &LONG);
    // A page fault is an exit that hv answers by itself.
    (0..3).for_each(|_| strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE)));
    kick.raise();
    assert_eq!(vm.run(&mut cpu), Stop::Interrupted);
    assert_eq!(vm.vcpu().exits(), 1);
    assert_eq!(vm.run(&mut cpu), Stop::Interrupted);
    assert_eq!(vm.vcpu().exits(), 4, "a kick counts once");
}

#[test]
fn the_window_is_told_to_who_asked() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().request_window();
    stage.strings.push(|vmcb, _| {
        assert_ne!(vmcb.control.intercepts_1 & 1 << 4, 0, "VINTR is intercepted");
        assert_eq!(vmcb.control.virtual_interrupt & 0x10_0100, 0x10_0100, "V_IRQ and V_IGN_TPR");
        vmcb.save.rflags |= 0x200;
        leave(vmcb, ExitCode::VINTR, 0, 0);
    });
    assert_eq!(stage.run(), Stop::InterruptWindow);
    assert_eq!(stage.run(), Stop::Interrupted);
    let entered = stage.entered();
    assert_eq!((entered.control.intercepts_1 & 1 << 4, entered.control.virtual_interrupt & 0x100), (0, 0), "told once");
}

#[test]
fn halt_stops_behind_the_instruction() {
    let mut stage = Stage::new(&LONG);
    assert_eq!(stage.execute(&[0xf4], ExitCode::HLT), Stop::Halt);
    assert_eq!(stage.vm.vcpu().vmcb().save.rip, CODE + 1);
}

#[test]
fn shutdown_tells_its_cause() {
    let mut stage = Stage::new(&LONG);
    stage.strings.push(|vmcb, _| {
        leave(vmcb, ExitCode::SHUTDOWN, 0, 0);
        vmcb.control.exit_int_info = Event::Exception(Exception::UD).encode();
    });
    let cause = Some(Cause { exception: Exception::UD, address: hv::addr::Gva(0) });
    assert_eq!(stage.run(), Stop::Shutdown { cause, rip: CODE });
}

#[test]
fn what_nobody_knows_is_typed() {
    // A task switch, an access to a descriptor table, a nested page fault, and a code that no manual has.
    for code in [0x7d, 0x66, 0x400, 0x1234] {
        let mut stage = Stage::new(&LONG);
        let Stop::Unhandled(exit) = stage.exit(code, 0x55) else { panic!("exit {code:#x} has a handler") };
        assert_eq!((exit.code, exit.info_1, exit.rip), (ExitCode(code), 0x55, CODE));
        assert!(stage.vm.vcpu().exits() == 1, "nothing ran behind it");
    }
}

#[test]
fn a_refused_vmcb_tells_why() {
    let mut stage = Stage::new(&LONG);
    // Processors store -1; QEMU 7.2 stores ffff_ffffh.
    for code in [u64::MAX, 0xffff_ffff] {
        stage.strings.push(move |vmcb, _| {
            vmcb.control.exit_code = code;
            vmcb.control.exit_int_info = 0x8000_0100;
            vmcb.save.cs.attributes = 0xe9b;
            vmcb.save.rip = 0xdead_beef;
        });
        let stop = stage.run();
        let Stop::InvalidState(state) = stop else { panic!("{stop:?}") };
        assert_eq!(state.reasons, Reasons::CODE | Reasons::EVENT);
        assert!(stop.to_string().contains("CODE, EVENT"), "{stop}");
    }
}

#[test]
fn the_run_state_is_what_an_injector_needs() {
    let mut stage = Stage::new(&LONG);
    let state = |stage: &Stage| {
        let RunState { interrupts, ready, cr8 } = stage.vm.vcpu().run_state();
        (interrupts, ready, cr8)
    };
    assert_eq!(state(&stage), (Interrupts::Disabled, Ready::Later, 0));
    stage.vm.vcpu_mut().set_rflags(0x202);
    assert_eq!(state(&stage), (Interrupts::Enabled, Ready::Now, 0));
    assert_eq!(stage.move_to_cr(8, 5), None);
    assert_eq!(state(&stage), (Interrupts::Enabled, Ready::Now, 5));
    // In the shadow of an STI.
    stage.strings.push(|vmcb, _| {
        vmcb.control.interrupt_shadow = 1;
        leave(vmcb, ExitCode::INTR, 0, 0);
    });
    let _ = stage.run();
    assert_eq!(state(&stage), (Interrupts::Enabled, Ready::Later, 5));
    stage.strings.push(|vmcb, _| {
        vmcb.control.interrupt_shadow = 0;
        leave(vmcb, ExitCode::INTR, 0, 0);
    });
    let _ = stage.run();
    // An exception goes first.
    let _ = stage.vm.vcpu_mut().raise(Exception::plain(Vector::DE));
    assert_eq!(state(&stage), (Interrupts::Enabled, Ready::Later, 5));
}

#[test]
fn a_shadow_ends_with_the_next_instruction() {
    let mut stage = Stage::new(&LONG);
    let stop = stage.execute_with(&[0x0f, 0xa2], ExitCode::CPUID, 0, |vmcb, _| vmcb.control.interrupt_shadow = 1);
    assert_eq!(stop, Stop::Interrupted);
    assert_eq!(stage.entered().control.interrupt_shadow, 0);
}

#[test]
fn host_state_is_saved_once_a_run() {
    let mut stage = Stage::new(&LONG);
    (0..5).for_each(|_| stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE)));
    let _ = stage.run();
    assert_eq!((stage.strings.host_saves(), stage.vm.vcpu().exits()), (1, 6));
    let counters = stage.cpu.counters();
    assert_eq!((counters.fpu_switches, counters.msr_writes, counters.debug_writes), (1, 2, 0), "what has an owner does not move");
}
