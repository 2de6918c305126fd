//! Section 9: what is delivered, when, and in which order (APM vol. 2, 8.2, 8.5 and 15.20).

use crate::stage::{CODE, LONG, Stage, leave};
use hv::{
    Stop,
    addr::Gva,
    svm::{Event, ExitCode, Intercepts1, Vmcb},
    vcpu::Raised,
    x86::{Exception, Vector},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    an_init_begins_anew,
    exceptions_carry_their_codes,
    the_highest_vector_goes_first,
    the_task_priority_holds_back,
    interrupts_wait_for_the_window,
    a_shadow_holds_interrupts_back,
    an_nmi_goes_first_and_blocks_until_iret,
    what_an_exit_cut_short_is_delivered_again,
    software_interrupts_are_executed_again,
    faults_in_delivery_escalate,
    hlt_is_ended_by_what_can_be_taken,
];

/// An address that the guest's tables do not map.
const UNMAPPED: u64 = 1 << 40;
const IF: u64 = 0x200;
const TF: u64 = 0x100;

fn page_fault(code: u32) -> Exception {
    Exception { vector: Vector::PF, code: Some(code) }
}

fn injected(vmcb: &Vmcb) -> Option<Event> {
    Event::decode(vmcb.control.event_injection)
}

/// Runs once; what VMRUN found.
fn enter(stage: &mut Stage) -> Vmcb {
    assert_eq!(stage.run(), Stop::Interrupted);
    stage.entered()
}

#[test]
fn exceptions_carry_their_codes() {
    let mut stage = Stage::new(&LONG);
    let cases = [
        (Exception::plain(Vector::DE), 0x8000_0300),
        (Exception::UD, 0x8000_0306),
        (Exception { vector: Vector::GP, code: Some(0x58) }, 0x58_8000_0b0d),
        (Exception { vector: Vector::TS, code: Some(0x28) }, 0x28_8000_0b0a),
        (page_fault(0x15), 0x15_8000_0b0e),
    ];
    for (exception, encoded) in cases {
        stage.vm.vcpu_mut().set_cr2(Gva(0xabc));
        assert_eq!(stage.vm.vcpu_mut().raise(exception), Raised::Pending);
        let vmcb = enter(&mut stage);
        assert_eq!((vmcb.control.event_injection, vmcb.save.cr2), (encoded, 0xabc));
        assert_eq!(enter(&mut stage).control.event_injection, 0, "once");
    }
    // A page fault that is the guest's own.
    stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::PAGE_FAULT, 2, UNMAPPED));
    let vmcb = enter(&mut stage);
    assert_eq!((injected(&vmcb), vmcb.save.cr2), (Some(Event::Exception(page_fault(2))), UNMAPPED));
}

#[test]
fn the_highest_vector_goes_first() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().set_rflags(IF);
    for vector in [0x31, 0xff, 0x20, 0xc0, 0x51, 0xff, 0x80, 0x3f] {
        stage.vm.vcpu_mut().inject_interrupt(vector);
    }
    for vector in [0xff, 0xc0, 0x80, 0x51, 0x3f, 0x31, 0x20] {
        assert_eq!(injected(&enter(&mut stage)), Some(Event::Interrupt(vector)));
    }
    assert_eq!(injected(&enter(&mut stage)), None);
}

#[test]
fn the_task_priority_holds_back() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().set_rflags(IF);
    assert_eq!(stage.move_to_cr(8, 5), None);
    stage.vm.vcpu_mut().inject_interrupt(0x5f);
    assert_eq!(injected(&enter(&mut stage)), None, "priority 5 is not above 5");
    stage.vm.vcpu_mut().inject_interrupt(0x60);
    assert_eq!(injected(&enter(&mut stage)), Some(Event::Interrupt(0x60)));
    assert_eq!(injected(&enter(&mut stage)), None);
    stage.put(&[0x44, 0x0f, 0x22, 0xc0]);
    let stop = stage.execute_with(&[0x44, 0x0f, 0x22, 0xc0], 0x18, 0, |vmcb, _| vmcb.save.rax = 4);
    assert_eq!((stop, stage.injected()), (Stop::Interrupted, Some(Event::Interrupt(0x5f))), "when CR8 lets it through");
}

#[test]
fn interrupts_wait_for_the_window() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().inject_interrupt(0x30);
    let vmcb = enter(&mut stage);
    assert_eq!(injected(&vmcb), None, "interrupts are off");
    assert_ne!(vmcb.control.intercepts_1 & 1 << 4, 0, "VINTR is intercepted");
    assert_eq!(vmcb.control.virtual_interrupt & 0x110_0100, 0x110_0100, "V_IRQ, V_IGN_TPR, V_INTR_MASKING");
    stage.strings.push(|vmcb, _| {
        vmcb.save.rflags |= IF;
        leave(vmcb, ExitCode::VINTR, 0, 0);
    });
    let vmcb = enter(&mut stage);
    assert_eq!(injected(&vmcb), Some(Event::Interrupt(0x30)));
    assert_eq!((vmcb.control.intercepts_1 & 1 << 4, vmcb.control.virtual_interrupt & 0x100), (0, 0), "V_IRQ would come twice");
}

#[test]
fn a_shadow_holds_interrupts_back() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().inject_interrupt(0x30);
    let shadow = |vmcb: &mut Vmcb| {
        vmcb.save.rflags |= IF;
        vmcb.control.interrupt_shadow = 1;
        leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE);
    };
    stage.strings.push(move |vmcb, _| shadow(vmcb));
    let vmcb = enter(&mut stage);
    assert_eq!((injected(&vmcb), vmcb.control.interrupt_shadow), (None, 1), "it stays for the processor, too");
    stage.strings.push(|vmcb, _| {
        vmcb.control.interrupt_shadow = 0;
        leave(vmcb, ExitCode::VINTR, 0, 0);
    });
    assert_eq!(injected(&enter(&mut stage)), Some(Event::Interrupt(0x30)));
}

#[test]
fn an_nmi_goes_first_and_blocks_until_iret() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().inject_interrupt(0xff);
    stage.vm.vcpu_mut().inject_nmi();
    let vmcb = enter(&mut stage);
    assert_eq!(injected(&vmcb), Some(Event::Nmi), "whatever RFLAGS.IF is");
    stage.vm.vcpu_mut().inject_nmi();
    let vmcb = enter(&mut stage);
    assert_eq!(injected(&vmcb), None, "blocked");
    assert_ne!(vmcb.control.intercepts_1 & 1 << 20, 0, "IRET is intercepted");
    // The guest is about to execute the IRET: one step of it, then the NMI.
    stage.strings.push(|vmcb, _| leave(vmcb, ExitCode::IRET, 0, 0));
    stage.strings.push(|vmcb, _| {
        assert_eq!((injected(vmcb), vmcb.control.intercepts_1 & 1 << 20, vmcb.save.rflags & TF), (None, 0, TF));
        (vmcb.save.rip, vmcb.save.rflags) = (CODE + 0x40, 2);
        leave(vmcb, 0x41, 0, 0);
    });
    let vmcb = enter(&mut stage);
    assert_eq!((injected(&vmcb), vmcb.save.rflags & TF), (Some(Event::Nmi), 0));
}

#[test]
fn what_an_exit_cut_short_is_delivered_again() {
    let events = [
        Event::Interrupt(0x50),
        Event::Nmi,
        Event::Exception(Exception::UD),
        Event::Exception(Exception { vector: Vector::NP, code: Some(0x30) }),
        Event::Exception(page_fault(4)),
    ];
    for event in events {
        let mut stage = Stage::new(&LONG);
        stage.strings.push(move |vmcb, _| {
            leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE);
            vmcb.control.exit_int_info = event.encode();
        });
        assert_eq!(injected(&enter(&mut stage)), Some(event));
        assert_eq!(injected(&enter(&mut stage)), None, "once");
        // Without its valid bit it is a left-over.
        stage.strings.push(move |vmcb, _| {
            leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE);
            vmcb.control.exit_int_info = event.encode() & !(1 << 31);
        });
        assert_eq!(injected(&enter(&mut stage)), None);
    }
}

#[test]
fn software_interrupts_are_executed_again() {
    let breakpoint = Event::Exception(Exception::plain(Vector(3)));
    for event in [Event::SoftwareInterrupt(0x80), breakpoint] {
        let mut stage = Stage::new(&LONG);
        stage.strings.push(move |vmcb, _| {
            leave(vmcb, ExitCode::PAGE_FAULT, 0, CODE);
            vmcb.control.exit_int_info = event.encode();
        });
        let vmcb = enter(&mut stage);
        assert_eq!((injected(&vmcb), vmcb.save.rip), (None, CODE), "{event:?}");
    }
}

#[test]
fn faults_in_delivery_escalate() {
    let gp = Exception { vector: Vector::GP, code: Some(0x10) };
    let double = Some(Event::Exception(Exception::DF));
    // While `first` is delivered, the guest has a page fault of its own.
    let cases = [
        (Event::Exception(page_fault(0)), double),
        (Event::Exception(gp), Some(Event::Exception(page_fault(2)))),
        (Event::Exception(Exception::UD), Some(Event::Exception(page_fault(2)))),
        (Event::Interrupt(0x40), Some(Event::Exception(page_fault(2)))),
    ];
    for (first, then) in cases {
        let mut stage = Stage::new(&LONG);
        stage.strings.push(move |vmcb, _| {
            leave(vmcb, ExitCode::PAGE_FAULT, 2, UNMAPPED);
            vmcb.control.exit_int_info = first.encode();
        });
        assert_eq!(injected(&enter(&mut stage)), then, "{first:?}");
    }
    let mut stage = Stage::new(&LONG);
    stage.strings.push(move |vmcb, _| {
        leave(vmcb, ExitCode::PAGE_FAULT, 2, UNMAPPED);
        vmcb.control.exit_int_info = Event::Exception(Exception::DF).encode();
    });
    let stop = stage.run();
    assert!(matches!(stop, Stop::Shutdown { .. }), "a fault in a double fault: {stop:?}");
    // Of two contributory ones, too.
    let mut stage = Stage::new(&LONG);
    let vcpu = stage.vm.vcpu_mut();
    assert_eq!((vcpu.raise(gp), vcpu.raise(Exception::GP0)), (Raised::Pending, Raised::Pending));
    assert_eq!(injected(&enter(&mut stage)), double);
}

#[test]
fn hlt_is_ended_by_what_can_be_taken() {
    let mut stage = Stage::new(&LONG);
    stage.vm.vcpu_mut().inject_interrupt(0x30);
    assert_eq!(stage.execute(&[0xf4], ExitCode::HLT), Stop::Halt, "interrupts are off");
    let enabled = |vmcb: &mut Vmcb| vmcb.save.rflags |= IF;
    let stop = stage.execute_with(&[0xf4], ExitCode::HLT, 0, move |vmcb, _| enabled(vmcb));
    assert_eq!((stop, stage.injected()), (Stop::Interrupted, Some(Event::Interrupt(0x30))));
    // STI; HLT: the shadow ends with HLT.
    stage.vm.vcpu_mut().set_rflags(2);
    stage.vm.vcpu_mut().inject_interrupt(0x31);
    let stop = stage.execute_with(&[0xf4], ExitCode::HLT, 0, move |vmcb, _| {
        enabled(vmcb);
        vmcb.control.interrupt_shadow = 1;
    });
    assert_eq!((stop, stage.injected()), (Stop::Interrupted, Some(Event::Interrupt(0x31))));
    let mut stage = Stage::new(&LONG);
    assert_eq!(stage.execute(&[0xf4], ExitCode::HLT), Stop::Halt);
    stage.vm.vcpu_mut().inject_nmi();
    assert_eq!(injected(&enter(&mut stage)), Some(Event::Nmi));
}

#[test]
fn an_init_begins_anew() {
    let mut stage = Stage::new(&LONG);
    for (index, value) in [(0x1b, 0xfee0_0d00), (0x80f, 0x1ff)] {
        assert_eq!(stage.wrmsr(index, value), None);
    }
    stage.vm.vcpu_mut().set_debug_register(3, 0x1234).unwrap();
    stage.vm.vcpu_mut().set_debug_register(7, 0x80).unwrap();
    stage.vm.vcpu_mut().inject_interrupt(0x50);
    stage.vm.vcpu_mut().inject_nmi();
    // INIT to processor 0, by the interrupt command register.
    assert_eq!(stage.wrmsr(0x830, 0x4500), None);
    let entered = stage.entered();
    let save = &entered.save;
    assert_eq!((save.cs.selector, save.cs.base, save.rip, save.rflags), (0xf000, 0xffff_0000, 0xfff0, 2));
    assert_eq!((save.rax, save.rsp, save.cpl, save.dr6, save.dr7), (0, 0, 0, 0xffff_0ff0, 0x400));
    let control = stage.vm.vcpu().control();
    assert_eq!((control.cr0, control.cr3, control.cr4, control.efer), (0x10, 0, 0, 0), "caching stays as it was");
    assert_eq!(stage.vm.vcpu().debug_register(3), 0);
    let watched = entered.control.intercepts_1 & (Intercepts1::VINTR | Intercepts1::IRET).bits();
    assert_eq!((entered.control.event_injection, watched), (0, 0), "nothing waits");
    assert_eq!(stage.vm.vcpu().apic().base(), 0xfee0_0d00);
    stage.close();
}
