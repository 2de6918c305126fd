//! Scenarios on the model CPU: real guest code, run by the real run loop, through the real shadow MMU.

mod apic;
mod events;
mod machine;

use hv::{
    Cpu, Error, Kick, Stop,
    addr::{Gpa, Gva},
    error::NoSvm,
    exit::{Cause, Direction, Width},
    hw::{Hw, model::ModelCpu},
    x86::{Exception, Vector, msr},
};
use hv_abi::call::{DOORBELL_PORT, Number, Status, Stream};
use iced_x86::code_asm::*;
use machine::{CODE, DATA, Lent, Machine, STACK_PAGE, assemble};

/// Loads the registers of a call and makes it.
fn call(a: &mut CodeAssembler, number: u32, arguments: [u64; 3]) {
    a.mov(rdi, arguments[0]).unwrap();
    a.mov(rsi, arguments[1]).unwrap();
    a.mov(r8, arguments[2]).unwrap();
    a.mov(eax, number).unwrap();
    a.mov(edx, u32::from(DOORBELL_PORT)).unwrap();
    a.out(dx, eax).unwrap();
}

#[test]
fn guest_prints_and_exits() {
    let mut m = Machine::new(assemble(|a| {
        a.mov(rbx, 0x0a_6f_6c_6c_65_68u64).unwrap();
        a.mov(rcx, DATA).unwrap();
        a.mov(qword_ptr(rcx), rbx).unwrap();
        call(a, Number::ConsoleWrite as u32, [DATA, 6, Stream::Output as u64]);
        a.mov(rbx, rax).unwrap();
        call(a, Number::Exit as u32, [7, 0, 0]);
    }));
    let Stop::Console { stream: Stream::Output, bytes } = m.run() else { panic!("no console write") };
    let mut text = vec![0; bytes.len];
    m.vm.read(bytes.start, &mut text).unwrap();
    assert_eq!(text, b"hello\n");
    m.vm.answer(6);
    assert_eq!(m.run(), Stop::Exit(7));
    assert_eq!(m.vm.vcpu().registers().0[hv::hw::RBX], 6, "the answer reached the guest");
}

#[test]
fn cpuid_and_msrs_answer_as_the_contract_says() {
    let mut m = Machine::new(assemble(|a| {
        a.mov(eax, 0x4000_0000).unwrap();
        a.db(&[0x2e, 0x48, 0x0f, 0xa2]).unwrap(); // CPUID with two prefixes that mean nothing
        a.mov(r9, rbx).unwrap();
        a.mov(ecx, hv_abi::msr::Register::MemorySize.index()).unwrap();
        a.rdmsr().unwrap();
        a.mov(r10, rax).unwrap();
        a.mov(ecx, msr::EFER).unwrap();
        a.rdmsr().unwrap();
        a.mov(r11, rax).unwrap();
        call(a, 99, [0; 3]);
        a.hlt().unwrap();
    }));
    assert_eq!(m.run(), Stop::Halt);
    let r = m.vm.vcpu().registers().0;
    assert_eq!(r[9], u64::from(u32::from_le_bytes(*b"hv u")));
    assert_eq!(r[10], m.vm.memory().size());
    assert_eq!(r[11], 0xd00, "LME, LMA, NXE; SVME is the host's");
    assert_eq!(Status::decode(m.vm.vcpu().rax()), Err(Status::UnknownCall));
}

#[test]
fn ports_are_the_embedders() {
    let mut m = Machine::new(assemble(|a| {
        a.mov(eax, 0x1234_5678).unwrap();
        a.mov(edx, 0x3f8).unwrap();
        a.out(dx, al).unwrap();
        a.in_(al, 0x60).unwrap();
        a.in_(eax, dx).unwrap();
        a.hlt().unwrap();
    }));
    let Stop::Io { access, value } = m.run() else { panic!("no OUT") };
    assert_eq!((access.port(), access.direction(), access.width(), value), (0x3f8, Direction::Out, Width::Byte, 0x78));
    let Stop::Io { access, .. } = m.run() else { panic!("no IN") };
    assert_eq!((access.port(), access.direction()), (0x60, Direction::In));
    m.vm.answer_in(access, 0xffff_ff99);
    assert_eq!(m.vm.vcpu().rax(), 0x1234_5699, "a byte keeps the rest");
    let Stop::Io { access, .. } = m.run() else { panic!("no IN") };
    m.vm.answer_in(access, 0xffff_ff99);
    assert_eq!(m.vm.vcpu().rax(), 0xffff_ff99);
    assert_eq!(m.run(), Stop::Halt);
}

#[test]
fn faults_that_nobody_takes_end_the_guest_with_their_cause() {
    type Program = fn(&mut CodeAssembler);
    let cases: [(Program, u32, u64); 4] = [
        (|a| a.mov(rax, qword_ptr(rdi + 0x10)).unwrap(), 0, 0x10),
        (
            |a| {
                a.mov(rcx, CODE).unwrap();
                a.mov(qword_ptr(rcx), rax).unwrap();
            },
            3,
            CODE,
        ),
        (
            |a| {
                a.mov(rcx, DATA).unwrap();
                a.jmp(rcx).unwrap();
            },
            0x11,
            DATA,
        ),
        (
            |a| {
                a.mov(rcx, STACK_PAGE - 8).unwrap();
                a.mov(qword_ptr(rcx), rax).unwrap();
            },
            2,
            STACK_PAGE - 8,
        ),
    ];
    for (program, code, address) in cases {
        let mut m = Machine::new(assemble(program));
        let Stop::Shutdown { cause, .. } = m.run() else { panic!("no shutdown for a fault at {address:#x}") };
        let exception = Exception { vector: Vector::PF, code: Some(code) };
        assert_eq!(cause, Some(Cause { exception, address: Gva(address) }));
    }
}

#[test]
fn instructions_that_guests_do_not_have_raise_ud() {
    type Program = fn(&mut CodeAssembler);
    let programs: [Program; 3] = [|a| a.vmrun().unwrap(), |a| a.stgi().unwrap(), |a| a.ud2().unwrap()];
    for program in programs {
        let mut m = Machine::new(assemble(program));
        let Stop::Shutdown { cause, rip } = m.run() else { panic!("no shutdown") };
        assert_eq!((cause.map(|cause| cause.exception), rip), (Some(Exception::UD), CODE));
    }
}

#[test]
fn vmmcall_answers_as_an_unknown_call() {
    let mut m = Machine::new(assemble(|a| {
        a.mov(eax, 0).unwrap();
        a.vmmcall().unwrap();
        a.hlt().unwrap();
    }));
    assert_eq!(m.run(), Stop::Halt);
    assert_eq!(Status::decode(m.vm.vcpu().rax()), Err(Status::UnknownCall));
}

#[test]
fn unknown_msrs_raise_gp() {
    type Program = fn(&mut CodeAssembler);
    let programs: [Program; 3] = [
        |a| {
            a.mov(ecx, 0x4856_0050).unwrap();
            a.rdmsr().unwrap();
        },
        |a| {
            a.mov(ecx, hv_abi::msr::Register::MemorySize.index()).unwrap();
            a.wrmsr().unwrap();
        },
        |a| {
            // A non-canonical base must not reach VMLOAD.
            a.mov(ecx, msr::LSTAR).unwrap();
            a.mov(edx, 0x0001_0000).unwrap();
            a.wrmsr().unwrap();
        },
    ];
    for program in programs {
        let mut m = Machine::new(assemble(program));
        let Stop::Shutdown { cause, .. } = m.run() else { panic!("no shutdown") };
        assert_eq!(cause.map(|cause| cause.exception), Some(Exception::GP0));
    }
}

#[test]
fn a_guest_that_spins_is_interrupted_and_goes_on() {
    let mut m = Machine::new(assemble(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.jmp(top).unwrap();
    }));
    assert_eq!(m.run(), Stop::Interrupted);
    assert_eq!(m.run(), Stop::Interrupted);
}

#[test]
fn a_guest_whose_exits_hv_answers_is_stopped_by_a_kick() {
    let kick: &Kick = Box::leak(Box::new(Kick::new()));
    let mut m = Machine::with_kick(
        kick,
        assemble(|a| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            call(a, Number::Nop as u32, [0; 3]);
            a.jmp(top).unwrap();
        }),
    );
    kick.raise();
    assert_eq!(m.run(), Stop::Interrupted);
    assert_eq!(m.vm.vcpu().exits(), 1, "at the first exit");
    kick.raise();
    assert_eq!(m.run(), Stop::Interrupted);
}

#[test]
fn a_write_to_a_shared_frame_is_flushed_before_it_is_seen() {
    // The page is read (so that a translation of the shared frame is cached), written by the guest, and read again.
    let mut m = Machine::new(assemble(|a| {
        a.mov(rcx, DATA).unwrap();
        a.mov(rbx, qword_ptr(rcx)).unwrap();
        a.mov(esi, 77).unwrap();
        a.mov(qword_ptr(rcx), rsi).unwrap();
        a.mov(r9, qword_ptr(rcx)).unwrap();
        a.hlt().unwrap();
    }));
    assert_eq!(m.run(), Stop::Halt);
    let r = m.vm.vcpu().registers().0;
    assert_eq!((r[hv::hw::RBX], r[9]), (0, 77));
    assert_eq!(m.cpu().counters().address_flushes, 1, "one address, not the ASID");
}

#[test]
fn a_write_by_the_host_is_seen_by_the_guest() {
    let mut m = Machine::new(assemble(|a| {
        a.mov(rcx, DATA).unwrap();
        a.mov(rbx, qword_ptr(rcx)).unwrap();
        a.hlt().unwrap();
        a.mov(rbx, qword_ptr(rcx)).unwrap();
        a.hlt().unwrap();
    }));
    assert_eq!(m.run(), Stop::Halt);
    m.vm.write_physical(Gpa(DATA), &5u64.to_le_bytes()).unwrap();
    assert_eq!(m.run(), Stop::Halt);
    assert_eq!(m.vm.vcpu().registers().0[hv::hw::RBX], 5);
}

#[test]
fn many_guests_share_few_asids() {
    let arena = Lent::new(512);
    let hypervisor = machine::hypervisor(*arena, &machine::model(*arena));
    let mut cpu = Cpu::enable(machine::model(*arena), 0, &machine::QUIET, &hypervisor).unwrap();
    let code = assemble(|a| {
        a.mov(rcx, DATA).unwrap();
        a.mov(rbx, qword_ptr(rcx)).unwrap();
        a.hlt().unwrap();
        a.mov(rsi, qword_ptr(rcx)).unwrap();
        a.hlt().unwrap();
    });
    let mut vms: Vec<_> = (0..7u64).map(|i| machine::vm(&hypervisor, &code, &i.to_le_bytes())).collect();
    for round in [hv::hw::RBX, hv::hw::RSI] {
        for (i, vm) in vms.iter_mut().enumerate() {
            assert_eq!(vm.run(&mut cpu), Stop::Halt);
            assert_eq!(vm.vcpu().registers().0[round], i as u64, "each sees its own page");
        }
    }
    assert!(cpu.counters().asid_flushes >= 8);
    drop((vms, cpu, hypervisor));
    assert_eq!(arena.live(), 0);
}

#[test]
fn fpu_registers_move_only_between_owners() {
    let arena = Lent::new(512);
    let hypervisor = machine::hypervisor(*arena, &machine::model(*arena));
    let mut cpu = Cpu::enable(machine::model(*arena), 0, &machine::QUIET, &hypervisor).unwrap();
    let code = assemble(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.hlt().unwrap();
        a.jmp(top).unwrap();
    });
    let (mut a, mut b) = (machine::vm(&hypervisor, &code, &[]), machine::vm(&hypervisor, &code, &[]));
    for vm in [0, 0, 0, 1, 1] {
        assert_eq!(if vm == 0 { &mut a } else { &mut b }.run(&mut cpu), Stop::Halt);
    }
    assert_eq!((cpu.hw().fpu_loads, cpu.hw().fpu_saves), (2, 1));
    drop(b);
    assert_eq!(a.run(&mut cpu), Stop::Halt);
    assert_eq!((cpu.hw().fpu_loads, cpu.hw().fpu_saves), (3, 1), "nobody needs what the dead owner left");
}

#[test]
fn svm_is_switched_on_and_off_without_a_trace() {
    let arena = Lent::new(64);
    let mut model = ModelCpu::new(*arena);
    let hypervisor = machine::hypervisor(*arena, &model);
    let before = arena.live();
    for _ in 0..2 {
        let cpu = Cpu::enable(&mut model, 0, &machine::QUIET, &hypervisor).unwrap();
        assert_eq!(cpu.hw().read_msr(msr::EFER), 0x1d00);
        assert_ne!(cpu.hw().read_msr(msr::VM_HSAVE_PA), 0);
        drop(cpu);
        assert_eq!((model.read_msr(msr::EFER), model.read_msr(msr::VM_HSAVE_PA)), (0xd00, 0));
        assert_eq!(arena.live(), before);
    }
}

#[test]
fn each_reason_against_svm_has_its_error() {
    let arena = Lent::new(64);
    let hypervisor = machine::hypervisor(*arena, &ModelCpu::new(*arena));
    let refused = |prepare: fn(&mut ModelCpu)| {
        let mut model = ModelCpu::new(*arena);
        prepare(&mut model);
        Cpu::enable(model, 0, &machine::QUIET, &hypervisor).err()
    };
    assert_eq!(refused(|m| m.answer_cpuid(0x8000_0001, [0; 4])), Some(Error::NoSvm(NoSvm::NotOffered)));
    assert_eq!(refused(|m| m.answer_cpuid(0x8000_0000, [0x8000_0008, 0, 0, 0])), Some(Error::NoSvm(NoSvm::NotOffered)));
    assert_eq!(
        refused(|m| m.set_msr(msr::VM_CR, msr::VM_CR_SVMDIS | msr::VM_CR_LOCK)),
        Some(Error::NoSvm(NoSvm::DisabledAndLocked))
    );
    let with_key = refused(|m| {
        m.set_msr(msr::VM_CR, msr::VM_CR_SVMDIS);
        m.offer(1 << 2);
    });
    assert_eq!(with_key, Some(Error::NoSvm(NoSvm::DisabledWithKey)));
    assert_eq!(refused(|m| m.answer_cpuid(0x8000_000a, [1, 1, 0, 0])), Some(Error::NoSvm(NoSvm::TooFewAsids(1))));
    assert_eq!(refused(|m| m.set_msr(msr::EFER, 0x1d00)), Some(Error::NoSvm(NoSvm::InUse)));
    let empty = Lent::new(6);
    let hypervisor = machine::hypervisor(*empty, &ModelCpu::new(*empty));
    assert_eq!(Cpu::enable(ModelCpu::new(*empty), 0, &machine::QUIET, &hypervisor).err(), Some(Error::NoFrames));
}

#[test]
fn a_processor_without_the_promised_features_is_refused() {
    let arena = Lent::new(64);
    let mut model = ModelCpu::new(*arena);
    model.answer_cpuid(1, [0, 0, !(1 << 20), !0]);
    assert_eq!(machine::try_hypervisor(*arena, &model).err(), Some(Error::ProcessorLacks("SSE4.2")));
    assert_eq!(arena.live(), 0);
}

/// Scenarios once more, on a processor with everything that QEMU's lacks: hv takes its other paths there.
macro_rules! on_an_assisted_processor {
    ($($name:ident = $scenario:path),+ $(,)?) => {
        mod on_an_assisted_processor {
            $(
                #[test]
                fn $name() {
                    crate::machine::assisted($scenario);
                }
            )+
        }
    };
}

on_an_assisted_processor! {
    an_interrupt_waits_for_if_and_for_the_end_of_its_shadow = crate::events::an_interrupt_waits_for_if_and_for_the_end_of_its_shadow,
    the_highest_vector_goes_first_and_the_next_when_interrupts_are_on_again = crate::events::the_highest_vector_goes_first_and_the_next_when_interrupts_are_on_again,
    an_nmi_goes_before_an_interrupt_and_asks_for_no_flag = crate::events::an_nmi_goes_before_an_interrupt_and_asks_for_no_flag,
    the_embedder_hears_of_the_window_it_asked_for = crate::events::the_embedder_hears_of_the_window_it_asked_for,
    hlt_goes_on_at_once_for_an_interrupt_that_can_be_taken = crate::events::hlt_goes_on_at_once_for_an_interrupt_that_can_be_taken,
    a_guest_sleeps_on_until_its_timer_wakes_it = crate::apic::a_guest_sleeps_on_until_its_timer_wakes_it,
    a_guest_that_sleeps_is_not_entered_but_woken_by_the_embedder = crate::apic::a_guest_that_sleeps_is_not_entered_but_woken_by_the_embedder,
    a_halt_that_no_timer_ends_is_the_embedders = crate::apic::a_halt_that_no_timer_ends_is_the_embedders,
    the_higher_of_queue_and_apic_goes_first = crate::apic::the_higher_of_queue_and_apic_goes_first,
    the_end_of_an_interrupt_lets_the_next_one_in = crate::apic::the_end_of_an_interrupt_lets_the_next_one_in,
    a_lower_task_priority_lets_an_interrupt_in = crate::apic::a_lower_task_priority_lets_an_interrupt_in,
    a_pin_interrupts_as_the_guest_has_said = crate::apic::a_pin_interrupts_as_the_guest_has_said,
    guest_prints_and_exits = crate::guest_prints_and_exits,
    cpuid_and_msrs_answer_as_the_contract_says = crate::cpuid_and_msrs_answer_as_the_contract_says,
    ports_are_the_embedders = crate::ports_are_the_embedders,
    faults_that_nobody_takes_end_the_guest_with_their_cause = crate::faults_that_nobody_takes_end_the_guest_with_their_cause,
    instructions_that_guests_do_not_have_raise_ud = crate::instructions_that_guests_do_not_have_raise_ud,
    vmmcall_answers_as_an_unknown_call = crate::vmmcall_answers_as_an_unknown_call,
    unknown_msrs_raise_gp = crate::unknown_msrs_raise_gp,
    a_guest_that_spins_is_interrupted_and_goes_on = crate::a_guest_that_spins_is_interrupted_and_goes_on,
    a_guest_whose_exits_hv_answers_is_stopped_by_a_kick = crate::a_guest_whose_exits_hv_answers_is_stopped_by_a_kick,
    a_write_to_a_shared_frame_is_flushed_before_it_is_seen = crate::a_write_to_a_shared_frame_is_flushed_before_it_is_seen,
    a_write_by_the_host_is_seen_by_the_guest = crate::a_write_by_the_host_is_seen_by_the_guest,
    many_guests_share_few_asids = crate::many_guests_share_few_asids,
    fpu_registers_move_only_between_owners = crate::fpu_registers_move_only_between_owners,
}
