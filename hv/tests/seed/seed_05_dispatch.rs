//! Section 5: every exit that there is, and what comes of it.

use crate::stage::{CODE, FLAT, LONG, REAL, Stage, leave};
use hv::{
    Stop,
    addr::Gpa,
    exit::{Direction, Width},
    hw::{RBX, RCX, RDI, RDX},
    insn::Way,
    svm::{Event, ExitCode, Segment},
    vcpu::SegmentRegister,
    x86::{Exception, Vector},
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[
    every_exit_code_has_its_end,
    instructions_that_guests_lack_are_undefined,
    control_registers_are_read_as_the_guest_wrote_them,
    status_words_load_and_store,
    status_words_go_to_and_come_from_memory,
    status_words_fault_as_other_operands_do,
    status_words_reach_devices,
    single_steps_end_behind_emulated_instructions_and_elements,
    debug_registers_are_guarded,
    what_hv_carries_out_is_stepped_like_any_instruction,
    cpuid_clears_upper_halves,
    an_in_keeps_what_it_does_not_write,
    exceptions_go_on_to_the_guest,
    in_32_bit_code_registers_have_32_bits,
];

/// What is to come of an exit, of an instruction of that many bytes.
#[derive(Clone, Copy)]
enum End {
    /// The guest goes on behind it.
    Skipped(u64),
    /// The guest goes on where it was.
    Again,
    /// The guest gets an exception.
    Raised(Exception),
    /// The embedder gets this.
    Stopped(fn(&Stop) -> bool),
}

const GP: End = End::Raised(Exception::GP0);
const UD: End = End::Raised(Exception::UD);
const UNKNOWN: End = End::Stopped(|stop| matches!(stop, Stop::Unhandled(_)));
const HOSTS: End = End::Stopped(|stop| *stop == Stop::Interrupted);

/// The instruction that leaves with this code, and what is to come of it.
fn case(code: u32) -> (&'static [u8], End) {
    // MOV between RAX and CR8 to CR15, and DR8 to DR15, each way; without the first byte, which is a REX prefix, CR0 to CR7 and DR0 to DR7.
    const MOV: [[[u8; 4]; 8]; 4] = {
        let mut all = [[[0x44, 0x0f, 0, 0]; 8]; 4];
        let mut at = 0;
        while at < 32 {
            (all[at / 8][at % 8][2], all[at / 8][at % 8][3]) = ([0x20, 0x22, 0x21, 0x23][at / 8], 0xc0 | (at as u8 % 8) << 3);
            at += 1;
        }
        all
    };
    let mov = || &MOV[code as usize >> 4][code as usize & 7][usize::from(code & 8 == 0)..];
    match code {
        0x08 | 0x18 => (mov(), End::Skipped(4)),
        // CLTS.
        0x10 => (&[0x0f, 0x06], End::Skipped(2)),
        // MOV CR4, RAX where RAX is 0 would leave long mode.
        0x14 => (mov(), GP),
        0x00 | 0x02..=0x04 | 0x12 | 0x13 => (mov(), End::Skipped(3)),
        // DR4 and DR5 are DR6 and DR7, as CR4.DE is clear.
        0x20..=0x27 | 0x30..=0x37 => (mov(), End::Skipped(3)),
        // Registers that do not exist.
        0x01 | 0x05..=0x07 | 0x11 | 0x15..=0x17 => (mov(), UD),
        0x09..=0x0f | 0x19..=0x1f | 0x28..=0x2f | 0x38..=0x3f => (mov(), UD),
        0x41 => (&[0x90], End::Raised(Exception::plain(Vector::DB))),
        0x48 => (&[0x90], End::Raised(Exception::DF)),
        0x51 => (&[0x90], End::Raised(Exception { vector: Vector::AC, code: Some(0) })),
        0x4e => (&[0x90], End::Again),
        0x52 => (&[0x90], End::Stopped(|stop| *stop == Stop::MachineCheck)),
        0x60..=0x63 => (&[0x90], HOSTS),
        0x64 | 0x74 => (&[0xcf], End::Again),
        0x6f => (&[0x0f, 0x33], GP),
        0x72 => (&[0x0f, 0xa2], End::Skipped(2)),
        0x76 => (&[0x0f, 0x08], End::Skipped(2)),
        0x78 => (&[0xf4], End::Stopped(|stop| *stop == Stop::Halt)),
        0x79 => (&[0x0f, 0x01, 0x38], End::Skipped(3)),
        0x7b => (&[0xe4, 0x60], End::Stopped(|stop| matches!(stop, Stop::Io { .. }))),
        // RDMSR of MSR 0, which no guest has.
        0x7c => (&[0x0f, 0x32], GP),
        0x7f => (&[0x90], End::Stopped(|stop| matches!(stop, Stop::Shutdown { .. }))),
        0x81 => (&[0x0f, 0x01, 0xd9], End::Skipped(3)),
        0x88 => (&[0xf1], End::Raised(Exception::plain(Vector::DB))),
        0x89 => (&[0x0f, 0x09], End::Skipped(2)),
        // RSM, INVLPGA, SVM's, RDTSCP, MONITOR, MWAIT, XSETBV, RDPRU.
        0x73 | 0x7a | 0x80 | 0x82..=0x87 | 0x8a..=0x8e => (&[0x0f, 0x01, 0xd8], UD),
        ExitCode::INVALID => (&[0x90], End::Stopped(|stop| matches!(stop, Stop::InvalidState(_)))),
        0x40..=0x5f | 0x65..=0x71 | 0x75 | 0x77 | 0x7d | 0x7e | 0x8f.. => (&[0x90], UNKNOWN),
    }
}

#[test]
fn every_exit_code_has_its_end() {
    let codes = (0..0x90).chain([0x400, 0x401, ExitCode::INVALID]);
    for code in codes {
        let (bytes, end) = case(code);
        let mut stage = Stage::new(&LONG);
        let info = if code == 0x7b { 0x60_0011 } else { 0 };
        let stop = stage.execute_with(bytes, code, info, move |vmcb, _| vmcb.control.exit_info_2 = 0);
        let entries = stage.strings.entries();
        match end {
            End::Stopped(is) => assert!(is(&stop) && entries.len() == 1, "exit {code:#x}: {stop:?}"),
            End::Raised(exception) => {
                assert_eq!(stop, Stop::Interrupted, "exit {code:#x}");
                let injected = Event::decode(entries[1].control.event_injection);
                assert_eq!(injected, Some(Event::Exception(exception)), "exit {code:#x}");
                // ICEBP is a trap.
                assert_eq!(entries[1].save.rip, CODE + u64::from(code == 0x88), "exit {code:#x}");
            }
            End::Skipped(bytes) => {
                assert_eq!(stop, Stop::Interrupted, "exit {code:#x}");
                assert_eq!((entries[1].save.rip, entries[1].control.event_injection), (CODE + bytes, 0), "exit {code:#x}");
            }
            End::Again => {
                assert_eq!(stop, Stop::Interrupted, "exit {code:#x}");
                assert_eq!((entries[1].save.rip, entries[1].control.event_injection), (CODE, 0), "exit {code:#x}");
            }
        }
    }
}

#[test]
fn what_hv_carries_out_is_stepped_like_any_instruction() {
    const STEPPED: Option<Event> = Some(Event::Exception(Exception::plain(Vector::DB)));
    let step = |code, bytes, info| {
        let mut stage = Stage::new(&LONG);
        stage.vm.vcpu_mut().set_rflags(0x102);
        let stop = stage.execute_with(bytes, code, info, |_, _| ());
        (stop, stage)
    };
    let mut counted = 0;
    for code in (0..0x90).filter(|code| *code < 0x21 || *code > 0x26) {
        let (bytes, End::Skipped(length)) = case(code) else { continue };
        let (stop, stage) = step(code, bytes, 0);
        assert_eq!((stop, stage.injected()), (Stop::Interrupted, STEPPED), "exit {code:#x}");
        let save = stage.entered().save;
        assert_eq!((save.rip, save.dr6 & 1 << 14), (CODE + length, 1 << 14), "exit {code:#x}");
        counted += 1;
    }
    assert!(counted >= 15, "{counted}");
    let (stop, stage) = step(ExitCode::HLT, &[0xf4], 0);
    assert_eq!((stop, stage.injected()), (Stop::Interrupted, STEPPED), "a trap ends the halt");
    for info in [0x60_0010, 0x60_0011, u64::from(hv_abi::call::DOORBELL_PORT) << 16 | 0x40] {
        let (stop, mut stage) = step(ExitCode::IOIO, &[0xe4, 0x60], info);
        if matches!(stop, Stop::Io { .. }) {
            let _ = stage.run();
        }
        assert_eq!(stage.injected(), STEPPED, "{info:#x}");
    }
}

#[test]
fn instructions_that_guests_lack_are_undefined() {
    // VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA.
    let cases = [(0xd8, 0x80), (0xda, 0x82), (0xdb, 0x83), (0xdc, 0x84), (0xdd, 0x85), (0xde, 0x86), (0xdf, 0x7a)];
    for (last, code) in cases {
        let mut stage = Stage::new(&LONG);
        assert_eq!(stage.fault(&[0x0f, 0x01, last], code, 0, CODE), Some(Exception::UD));
        assert_eq!(stage.vm.vcpu().vmcb().save.rip, CODE);
    }
}

#[test]
fn control_registers_are_read_as_the_guest_wrote_them() {
    let mut stage = Stage::new(&LONG);
    for (number, value) in [(0, 0x8001_0033), (3, crate::stage::TABLES), (4, 0x620)] {
        assert_eq!(stage.fault(&[0x0f, 0x20, 0xc0 | number << 3], number.into(), 0, !0), None);
        assert_eq!(stage.vm.vcpu().rax(), value, "CR{number}");
    }
    assert_eq!(stage.move_to_cr(2, 0xffff_8000_1234_5678), None);
    assert_eq!(stage.vm.vcpu().vmcb().save.cr2, 0xffff_8000_1234_5678);
    // MOV R9, CR0: the register is the one that the bytes name.
    assert_eq!(stage.fault(&[0x41, 0x0f, 0x20, 0xc1], 0, if_assisted(9), 5), None);
    assert_eq!((stage.vm.vcpu().register(9), stage.vm.vcpu().rax()), (0x8001_0033, 5));
}

/// EXITINFO1 of a MOV CRn, where the processor decodes.
fn if_assisted(gpr: u64) -> u64 {
    if crate::stage::offered().contains(hv::svm::Features::DECODE_ASSISTS) { 1 << 63 | gpr } else { 0 }
}

#[test]
fn status_words_load_and_store() {
    let mut stage = Stage::new(&LONG);
    // LMSW AX with PE clear, all the others set; then with all clear.
    assert_eq!(stage.fault(&[0x0f, 0x01, 0xf0], 0x10, 0, 0xfffe), None);
    assert_eq!(stage.vm.vcpu().control().cr0, 0x8001_003f);
    assert_eq!(stage.fault(&[0x0f, 0x01, 0xf0], 0x10, 0, 0), None, "PE cannot be cleared by LMSW");
    assert_eq!(stage.vm.vcpu().control().cr0, 0x8001_0031);
    // SMSW EAX, and with a prefix SMSW AX.
    assert_eq!(stage.fault(&[0x0f, 0x01, 0xe0], 0, 0, !0), None);
    assert_eq!(stage.vm.vcpu().rax(), 0x8001_0031);
    assert_eq!(stage.fault(&[0x66, 0x0f, 0x01, 0xe0], 0, 0, !0), None);
    assert_eq!(stage.vm.vcpu().rax(), 0xffff_ffff_ffff_0031);
    // CLTS.
    assert_eq!(stage.move_to_cr(0, 0x8001_0039), None);
    assert_eq!(stage.fault(&[0x0f, 0x06], 0x10, 0, 0), None);
    assert_eq!(stage.vm.vcpu().control().cr0, 0x8001_0031);
}

/// SMSW and LMSW of what RDI, EDI, or BX points to.
const STORE: [&[u8]; 2] = [&[0x0f, 0x01, 0x27], &[0x67, 0x0f, 0x01, 0x27]];
const LOAD: [&[u8]; 2] = [&[0x0f, 0x01, 0x37], &[0x67, 0x0f, 0x01, 0x37]];
/// Where the word lies.
const WORD: u64 = 0x3_0000;

/// Executes SMSW or LMSW with an operand at `at`; tells what exception it gets, if it gets one.
fn status_word(stage: &mut Stage, bytes: &[u8], code: u32, at: u64) -> Option<Exception> {
    let stop = stage.execute_with(bytes, code, 0, move |_, registers| registers.0[RDI] = at);
    assert_eq!(stop, Stop::Interrupted);
    match stage.injected() {
        Some(Event::Exception(exception)) => Some(exception),
        None => None,
        other => panic!("{other:?} is injected"),
    }
}

#[test]
fn status_words_go_to_and_come_from_memory() {
    // In 64-bit, 32-bit and 16-bit code; the operand has 16 bits in all of them.
    for (entry, form, cr0) in [(&LONG, 0, 0x8001_0033u64), (&FLAT, 0, 0x11), (&REAL, 1, 0x6000_0010)] {
        let mut stage = Stage::new(entry);
        let word = |stage: &Stage, at: u64| {
            let mut bytes = [0; 4];
            stage.vm.memory().read(Gpa(at), &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        // In real mode offsets end at 64 KiB.
        let at = if form == 1 { WORD & 0xffff | 0x800 } else { WORD };
        stage.vm.write_physical(Gpa(at), &[0xff; 4]).unwrap();
        assert_eq!(status_word(&mut stage, STORE[form], 0, at), None);
        assert_eq!(u64::from(word(&stage, at)), 0xffff_0000 | cr0 & 0xffff, "{entry:?}");
        let length = STORE[form].len() as u64;
        assert_eq!(stage.entered().save.rip, stage.vm.vcpu().vmcb().save.rip);
        let start = stage.vm.vcpu().vmcb().save.rip;
        stage.vm.write_physical(Gpa(at), &[0xf0, 0xff, 0xff, 0xff]).unwrap();
        assert_eq!(status_word(&mut stage, LOAD[form], 0x10, at), None);
        assert_eq!(stage.vm.vcpu().control().cr0, cr0 & !0xe, "what was set is cleared, but for PE: {entry:?}");
        assert_eq!(stage.vm.vcpu().vmcb().save.rip, start + length);
        stage.vm.write_physical(Gpa(at), &[0xff; 4]).unwrap();
        assert_eq!(status_word(&mut stage, LOAD[form], 0x10, at), None);
        assert_eq!(stage.vm.vcpu().control().cr0, cr0 | 0xf, "PE can be set: {entry:?}");
        assert_eq!(stage.entered().save.cr0 & 0xf, 0xf);
        stage.close();
    }
}

#[test]
fn status_words_fault_as_other_operands_do() {
    let mut stage = Stage::new(&LONG);
    // Nothing is mapped behind 2 MiB.
    let missing = |code| Some(Exception { vector: Vector::PF, code: Some(code) });
    for (bytes, code, error) in [(STORE[0], 0, 2), (LOAD[0], 0x10, 0)] {
        let before = stage.vm.vcpu().control().cr0;
        let rip = stage.vm.vcpu().vmcb().save.rip;
        assert_eq!(status_word(&mut stage, bytes, code, 0x40_0000), missing(error));
        assert_eq!(stage.entered().save.cr2, 0x40_0000);
        assert_eq!(status_word(&mut stage, bytes, code, 0x1f_ffff), missing(error));
        assert_eq!(stage.entered().save.cr2, 0x20_0000, "the page that is missing");
        assert_eq!(status_word(&mut stage, bytes, code, 1 << 47), Some(Exception::GP0));
        assert_eq!((stage.vm.vcpu().control().cr0, stage.vm.vcpu().vmcb().save.rip), (before, rip));
    }
    // Outside of 64-bit mode, limits count.
    let mut flat = Stage::new(&FLAT);
    let short = Segment { selector: 0x10, attributes: 0xc93, limit: WORD as u32, base: 0 };
    flat.vm.vcpu_mut().set_segment(SegmentRegister::Ds, short);
    assert_eq!(status_word(&mut flat, STORE[0], 0, WORD), Some(Exception::GP0), "the second byte is beyond");
    assert_eq!(status_word(&mut flat, STORE[0], 0, WORD - 1), None);
}

#[test]
fn status_words_reach_devices() {
    let mut stage = Stage::new(&FLAT);
    let device = 0xd000_0000;
    let stop = stage.execute_with(STORE[0], 0, 0, move |_, registers| registers.0[RDI] = device);
    let Stop::Mmio(write) = stop else { panic!("{stop:?}") };
    assert_eq!((write.gpa, write.way, write.bytes, write.value()), (Gpa(device), Way::Write, 2, 0x11));
    let stop = stage.execute_with(LOAD[0], 0x10, 0, move |_, registers| registers.0[RDI] = device);
    let Stop::Mmio(read) = stop else { panic!("{stop:?}") };
    assert_eq!((read.gpa, read.way, read.bytes), (Gpa(device), Way::Read, 2));
    assert_eq!(stage.vm.vcpu().control().cr0, 0x11, "not before the device has answered");
    stage.vm.answer_mmio(0xfffc);
    assert_eq!(stage.run(), Stop::Interrupted);
    assert_eq!(stage.vm.vcpu().control().cr0, 0x1d);
    stage.close();
}

#[test]
fn single_steps_end_behind_emulated_instructions_and_elements() {
    let device = 0xd000_0000u64;
    // Has the guest fault at the device, by an instruction with a count of two at first.
    let fault = |stage: &mut Stage, bytes: &[u8], code: u64| {
        stage.put(bytes);
        stage.strings.push(move |vmcb, registers| {
            vmcb.save.rflags |= 1 << 8;
            if registers.0[RCX] == 0 {
                (registers.0[RCX], registers.0[RDI]) = (2, device);
            }
            leave(vmcb, ExitCode::PAGE_FAULT, code, device);
        });
        stage.run()
    };
    let stepped = |stage: &Stage, rip: u64| {
        assert_eq!(stage.injected(), Some(Event::Exception(Exception::plain(Vector::DB))));
        assert_eq!((stage.entered().save.rip, stage.vm.vcpu().debug_register(6) & 1 << 14), (rip, 1 << 14));
    };
    // MOV [EDI], AL: a trap behind it.
    let mut stage = Stage::new(&FLAT);
    assert!(matches!(fault(&mut stage, &[0x88, 0x07], 2), Stop::Mmio(_)));
    assert_eq!(stage.run(), Stop::Interrupted);
    stepped(&stage, CODE + 2);
    // REP STOSB of two: one behind each element, the first of them still at the instruction.
    let mut stage = Stage::new(&FLAT);
    for (left, rip) in [(1, CODE), (0, CODE + 2)] {
        assert!(matches!(fault(&mut stage, &[0xf3, 0xaa], 2), Stop::Mmio(_)));
        assert_eq!(stage.vm.vcpu().register(1), left);
        assert_eq!(stage.run(), Stop::Interrupted);
        stepped(&stage, rip);
    }
    // REPNE SCASB: reads that could be answered in a row are not, either.
    let mut stage = Stage::new(&FLAT);
    for (left, rip) in [(1, CODE), (0, CODE + 2)] {
        let read = fault(&mut stage, &[0xf2, 0xae], 0);
        assert!(matches!(read, Stop::Mmio(_)), "{read:?}");
        stage.vm.answer_mmio(0);
        assert_eq!(stage.run(), Stop::Interrupted);
        assert_eq!(stage.vm.vcpu().register(1), left);
        stepped(&stage, rip);
    }
}

#[test]
fn debug_registers_are_guarded() {
    let mut stage = Stage::new(&LONG);
    let write = |number: u8| [0x0f, 0x23, 0xc0 | number << 3];
    for (number, value, kept) in [(0, !0, !0), (3, 7, 7), (6, 0xe00f, 0xffff_efff)] {
        assert_eq!(stage.fault(&write(number), 0x30 + u32::from(number), 0, value), None);
        assert_eq!(stage.vm.vcpu().debug_register(number), kept, "DR{number}");
    }
    assert_eq!(stage.fault(&write(6), 0x36, 0, 1 << 32), Some(Exception::GP0));
    // DR4 is DR6, until CR4.DE is set.
    assert_eq!(stage.fault(&write(4), 0x34, 0, 1), None);
    assert_eq!(stage.vm.vcpu().debug_register(6), 0xffff_0ff1);
    assert_eq!(stage.move_to_cr(4, 0x628), None);
    assert_eq!(stage.fault(&write(4), 0x34, 0, 1), Some(Exception::UD));
    // DR7.GD: the next access is a debug exception, which clears it.
    assert_eq!(stage.fault(&write(7), 0x37, 0, 1 << 13), None);
    assert_eq!(stage.fault(&write(0), 0x30, 0, 0), Some(Exception::plain(Vector::DB)));
    assert_eq!((stage.vm.vcpu().debug_register(7), stage.vm.vcpu().debug_register(6) & 1 << 13), (0x400, 1 << 13));
    assert_eq!(stage.vm.vcpu().debug_register(0), !0, "nothing was written");
}

#[test]
fn cpuid_clears_upper_halves() {
    let mut stage = Stage::new(&LONG);
    let stop = stage.execute_with(&[0x0f, 0xa2], ExitCode::CPUID, 0, |vmcb, registers| {
        vmcb.save.rax = 0xffff_ffff_0000_0000;
        registers.0 = [!0; 16];
        registers.0[RCX] = 0;
    });
    assert_eq!(stop, Stop::Interrupted);
    let vcpu = stage.vm.vcpu();
    let registers = vcpu.registers().0;
    assert_eq!([vcpu.rax(), registers[RBX], registers[RCX], registers[RDX]].map(|value| value >> 32), [0; 4]);
    let [max, ..] = stage.hypervisor.profile().answer(0, 0);
    assert_eq!(vcpu.rax(), u64::from(max));
    let [_, _, c, _] = stage.hypervisor.profile().answer(0x8000_0001, 0);
    assert_eq!(c & 4, 0, "guests see no SVM");
}

#[test]
fn an_in_keeps_what_it_does_not_write() {
    for (info, width, answer, rax) in [
        (0x60_0011, Width::Byte, 0x9999, 0x1234_5678_9abc_de99),
        (0x60_0021, Width::Word, 0x7_9999, 0x1234_5678_9abc_9999),
        (0x60_0041, Width::Double, 0x8000_0000, 0x8000_0000),
    ] {
        let mut stage = Stage::new(&LONG);
        stage.strings.push(move |vmcb, _| {
            vmcb.save.rax = 0x1234_5678_9abc_def0;
            leave(vmcb, ExitCode::IOIO, info, CODE + 2);
        });
        let Stop::Io { access, .. } = stage.run() else { panic!("no IN") };
        assert_eq!((access.port(), access.direction(), access.width()), (0x60, Direction::In, width));
        stage.vm.answer_in(access, answer);
        assert_eq!((stage.vm.vcpu().rax(), stage.vm.vcpu().vmcb().save.rip), (rax, CODE + 2));
    }
}

#[test]
fn exceptions_go_on_to_the_guest() {
    // The three that could hang the processor in their delivery are intercepted, and delivered by hv.
    let mut stage = Stage::new(&LONG);
    let _ = stage.run();
    assert_eq!(stage.entered().control.intercept_exceptions & 0x6_4102, 0x6_4102, "#DB, #DF, #PF, #AC, #MC");
    for (code, vector, error) in [(0x41, Vector::DB, None), (0x51, Vector::AC, Some(0)), (0x48, Vector::DF, Some(0))] {
        assert_eq!(stage.exit(code, 0), Stop::Interrupted);
        assert_eq!(stage.injected(), Some(Event::Exception(Exception { vector, code: error })));
    }
}

#[test]
fn in_32_bit_code_registers_have_32_bits() {
    let mut stage = Stage::new(&FLAT);
    assert_eq!(stage.fault(&[0x0f, 0x20, 0xc0], 0, 0, !0), None);
    assert_eq!(stage.vm.vcpu().rax(), 0x11);
    assert_eq!(stage.move_to_cr(3, 0x1_0000_5000), None);
    assert_eq!(stage.vm.vcpu().control().cr3, 0x5000);
    // Where code ends at 64 KiB, so does IP.
    let code = Segment { selector: 8, attributes: 0x9b, limit: 0xffff, base: 0 };
    stage.vm.vcpu_mut().set_segment(SegmentRegister::Cs, code);
    stage.vm.vcpu_mut().jump(0xfffe, 0);
    stage.put(&[0x0f, 0xa2]);
    stage.strings.push(|vmcb, _| {
        vmcb.control.next_rip = 0;
        leave(vmcb, ExitCode::CPUID, 0, 0);
    });
    let _ = stage.run();
    assert_eq!(stage.entered().save.rip, 0);
}
