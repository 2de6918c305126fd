//! Faults and corners that this machine's processor cannot be brought to from user mode: other modes, segments, devices.

use super::machine::{Kind, TestMachine};
use crate::{
    addr::{Gpa, Gva},
    insn::{CodeBits, Fault, Outcome, Protection, Way},
    x86::{Exception, Vector},
};
use CodeBits::{Bits16, Bits32, Bits64};
use std::vec;

const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
const CS: usize = 1;
const SS: usize = 2;
const DS: usize = 3;
const FS: usize = 4;

const GP: Outcome = Outcome::Fault(Fault::of(Exception::GP0));
const STACK: Outcome = Outcome::Fault(Fault::of(Exception { vector: Vector::SS, code: Some(0) }));
/// `mov [rbx], al`, `mov al, [rbx]`, with EBX and RBX alike.
const STORE: [u8; 2] = [0x88, 0x03];
const LOAD: [u8; 2] = [0x8a, 0x03];

fn page_fault(code: u32, address: u64) -> Outcome {
    Outcome::Fault(Fault { exception: Exception { vector: Vector::PF, code: Some(code) }, address: Gva(address) })
}

fn with(code: CodeBits, bytes: &[u8], prepare: impl FnOnce(&mut TestMachine)) -> (Outcome, TestMachine) {
    let mut machine = TestMachine::with_code(code, bytes);
    prepare(&mut machine);
    (machine.run(), machine)
}

fn outcome(code: CodeBits, bytes: &[u8], prepare: impl FnOnce(&mut TestMachine)) -> Outcome {
    let (outcome, machine) = with(code, bytes, prepare);
    assert!(outcome == Outcome::Done || machine.rip == 0x1000, "a fault moves nothing");
    outcome
}

#[test]
pub fn non_canonical_addresses_are_gp_or_ss_in_64_bit_mode() {
    let at = |rbx| outcome(Bits64, &STORE, |m| m.registers[RBX] = rbx);
    assert_eq!(at(0x8000_0000_0000), GP);
    assert_eq!(at(0xffff_7fff_ffff_ffff), GP);
    assert_eq!(at(0x7fff_ffff_ffff), page_fault(2, 0x7fff_ffff_ffff));
    // The last byte counts, and RSP and RBP go through SS.
    assert_eq!(outcome(Bits64, &[0x48, 0x8b, 0x03], |m| m.registers[RBX] = 0x7fff_ffff_fffc), GP);
    assert_eq!(outcome(Bits64, &[0x8a, 0x04, 0x24], |m| m.registers[RSP] = 1 << 63), STACK);
    assert_eq!(outcome(Bits64, &[0x64, 0x8a, 0x04, 0x24], |m| m.registers[RSP] = 1 << 63), GP, "FS, not SS");
}

#[test]
pub fn limits_hold_outside_64_bit_mode_only() {
    let small = |m: &mut TestMachine| (m.segments[DS].limit, m.registers[RBX]) = (0x4fff, 0x5000);
    assert_eq!(outcome(Bits32, &LOAD, small), GP);
    assert_eq!(outcome(Bits64, &LOAD, small), Outcome::Done);
    assert_eq!(
        outcome(Bits32, &[0x8b, 0x03], |m| (m.segments[DS].limit, m.registers[RBX]) = (0x4fff, 0x4ffd)),
        GP,
        "the last byte"
    );
    assert_eq!(outcome(Bits32, &[0x8b, 0x03], |m| (m.segments[DS].limit, m.registers[RBX]) = (0x4fff, 0x4ffc)), Outcome::Done);
    // Through EBP it is a stack fault.
    assert_eq!(outcome(Bits32, &[0x8a, 0x45, 0x00], |m| (m.segments[SS].limit, m.registers[5]) = (0x4fff, 0x5000)), STACK);
    // The offset may not wrap at the end of the segment.
    assert_eq!(outcome(Bits32, &[0x8b, 0x03], |m| m.registers[RBX] = 0xffff_fffe), GP);
}

#[test]
pub fn expand_down_segments_lie_above_their_limit() {
    let down = |limit: u32, attributes: u16, rbx: u64| {
        outcome(Bits32, &LOAD, |m| {
            (m.segments[DS].limit, m.segments[DS].attributes, m.registers[RBX]) = (limit, attributes, rbx);
        })
    };
    assert_eq!(down(0x4fff, 0xc97, 0x5000), Outcome::Done);
    assert_eq!(down(0x4fff, 0xc97, 0x4fff), GP);
    assert_eq!(down(0x3fff, 0x097, 0x1_0000), GP, "a small one ends at 64 KiB");
    assert_eq!(down(0x3fff, 0x097, 0x4000), Outcome::Done);
}

#[test]
pub fn types_of_segments_are_checked_in_protected_mode_only() {
    let typed = |bytes: &[u8], attributes: u16, protection| {
        outcome(Bits32, bytes, |m| {
            (m.segments[DS].attributes, m.registers[RBX], m.mode.protection) = (attributes, 0x4000, protection);
        })
    };
    let protected = Protection::Protected;
    for (bytes, attributes, expected) in [
        (STORE, 0xc91, GP), // read-only data
        (LOAD, 0xc91, Outcome::Done),
        (STORE, 0xc9b, GP), // code
        (LOAD, 0xc9b, Outcome::Done),
        (LOAD, 0xc99, GP), // execute-only code
        (LOAD, 0x000, GP), // null
    ] {
        assert_eq!(typed(&bytes, attributes, protected), expected, "{bytes:x?} with {attributes:x}");
        assert_eq!(typed(&bytes, attributes, Protection::Virtual8086), Outcome::Done);
        assert_eq!(typed(&bytes, attributes, Protection::Real), Outcome::Done);
    }
}

#[test]
pub fn real_mode_wraps_offsets_and_faults_at_the_end_of_a_segment() {
    let real = |m: &mut TestMachine| {
        m.mode.protection = Protection::Real;
        m.mode.stack = Bits16;
        for segment in &mut m.segments {
            segment.limit = 0xffff;
        }
    };
    // [bx+si] wraps at 64 KiB.
    let (outcome, machine) = with(Bits16, &[0x8a, 0x00], |m| {
        real(m);
        m.put(0x4010, &[0x5a]);
        m.segments[DS].base = 0x4000;
        (m.registers[RBX], m.registers[RSI]) = (0xffff, 0x11);
    });
    assert_eq!((outcome, machine.registers[0]), (Outcome::Done, 0x5a));
    // A word at FFFF does not.
    let (outcome, _) = with(Bits16, &[0x8b, 0x07], |m| {
        real(m);
        m.registers[RBX] = 0xffff;
    });
    assert_eq!(outcome, GP);
    // PUSH with SP = 0 goes to FFFE of the segment; SP alone changes, not the rest of ESP.
    let (outcome, machine) = with(Bits16, &[0xff, 0x37], |m| {
        real(m);
        m.map(0x1_3000, 1, Kind::Memory);
        m.segments[SS].base = 0x4000;
        m.put(0x4000, &[0xcd, 0xab]);
        (m.registers[RBX], m.registers[RSP]) = (0x4000, 0x7777_0000);
    });
    assert_eq!((outcome, machine.registers[RSP]), (Outcome::Done, 0x7777_fffe));
    assert_eq!(machine.get(0x1_3ffe, 2), [0xcd, 0xab]);
}

#[test]
pub fn linear_addresses_wrap_at_4_gib_outside_64_bit_mode() {
    let (outcome, machine) = with(Bits32, &LOAD, |m| {
        m.put(0x4000, &[0x77]);
        m.segments[DS].base = 0xffff_f000;
        m.registers[RBX] = 0x5000;
    });
    assert_eq!((outcome, machine.registers[0]), (Outcome::Done, 0x77));
}

#[test]
pub fn only_fs_and_gs_have_a_base_in_64_bit_mode() {
    let load = |bytes: &[u8]| {
        with(Bits64, bytes, |m| {
            m.put(0x4000, &[1]);
            m.put(0x4800, &[2]);
            (m.segments[DS].base, m.segments[FS].base, m.registers[RBX]) = (0x800, 0x800, 0x4000);
        })
        .1
        .registers[0]
    };
    assert_eq!((load(&LOAD), load(&[0x64, 0x8a, 0x03]), load(&[0x64, 0x2e, 0x8a, 0x03])), (1, 2, 2));
}

#[test]
pub fn a_write_in_two_pages_changes_neither_if_it_may_not_change_both() {
    let (outcome, machine) = with(Bits64, &[0x48, 0x89, 0x03], |m| {
        m.map(0x5000, 1, Kind::ReadOnly);
        (m.registers[0], m.registers[RBX]) = (u64::MAX, 0x4ffc);
    });
    assert_eq!((outcome, machine.word(0x4ff8)), (page_fault(3, 0x5000), 0));
    // One that changes memory asks for the write at once: the fault is a write's (APM vol. 2, 8.4.2).
    let (outcome, machine) = with(Bits64, &[0x48, 0x01, 0x03], |m| m.registers[RBX] = 0x8000);
    assert_eq!((outcome, machine.rflags), (page_fault(2, 0x8000), 2));
}

#[test]
pub fn code_that_crosses_into_a_missing_page_faults_only_if_it_reaches_there() {
    let at_end = |bytes: &[u8]| {
        let mut machine = TestMachine::new(Bits64);
        machine.map(0x1000, 1, Kind::Memory);
        machine.map(0x4000, 1, Kind::Memory);
        machine.rip = 0x2000 - bytes.len() as u64;
        machine.put(machine.rip, bytes);
        machine.registers[RBX] = 0x4000;
        machine.run()
    };
    assert_eq!(at_end(&STORE), Outcome::Done);
    // Opcode and ModRM byte are there, the displacement is not.
    assert_eq!(at_end(&[0x88, 0x43]), page_fault(0, 0x2000));
    assert_eq!(at_end(&[0x66, 0x66]), page_fault(0, 0x2000));
    let mut machine = TestMachine::new(Bits64);
    machine.map(0x1000, 1, Kind::Device);
    machine.rip = 0x1000;
    assert_eq!(machine.run(), Outcome::Outside(Gpa(0x1000)));
}

#[test]
pub fn prefixes_without_end_are_gp_and_lock_where_it_must_not_be_is_ud() {
    assert_eq!(outcome(Bits64, &[0x66; 15], |_| {}), GP);
    assert_eq!(outcome(Bits64, &[[0x66; 13].as_slice(), &[0x88, 0x43, 0]].concat(), |_| {}), GP, "16 bytes");
    let longest = [[0x66; 12].as_slice(), &[0x88, 0x43, 0]].concat();
    assert_eq!(outcome(Bits64, &longest, |m| m.registers[RBX] = 0x4000), Outcome::Done, "15 bytes");
    for bytes in [&[0xf0, 0x88, 0x03][..], &[0xf0, 0x3b, 0x03], &[0xf0, 0x01, 0xc3], &[0xf0, 0x39, 0x03]] {
        assert_eq!(outcome(Bits64, bytes, |m| m.registers[RBX] = 0x4000), Outcome::Fault(Fault::of(Exception::UD)));
    }
}

#[test]
pub fn what_is_not_carried_out_comes_back_with_its_bytes() {
    // FLD, VMOVAPS, LGDT.
    for bytes in [&[0xd9, 0x03][..], &[0xc5, 0xf8, 0x28, 0x03], &[0x0f, 0x01, 0x13]] {
        let Outcome::Unsupported(found) = outcome(Bits64, bytes, |m| m.registers[RBX] = 0x4000) else { panic!("{bytes:x?}") };
        assert_eq!((found.rip, &found.bytes[..bytes.len()], found.mode.code), (0x1000, bytes, Bits64));
    }
}

#[test]
pub fn devices_see_accesses_of_the_operands_size_and_order() {
    let accesses = |bytes: &[u8], prepare: fn(&mut TestMachine)| {
        let (outcome, machine) = with(Bits64, bytes, |m| {
            m.map(0x5000, 2, Kind::Device);
            m.registers[RBX] = 0x5010;
            prepare(m);
        });
        assert_eq!(outcome, Outcome::Done);
        machine.accesses
    };
    use Way::{Read, Write};
    assert_eq!(accesses(&STORE, |_| {}), [(Write, 0x5010, 1)]);
    assert_eq!(accesses(&[0x48, 0x8b, 0x03], |_| {}), [(Read, 0x5010, 8)]);
    assert_eq!(accesses(&[0x83, 0x03, 0x01], |_| {}), [(Read, 0x5010, 4), (Write, 0x5010, 4)], "add dword [rbx], 1");
    assert_eq!(accesses(&[0x0f, 0x11, 0x03], |_| {}), [(Write, 0x5010, 16)], "movups");
    // Across the boundary of two devices' pages, 16 bytes never leave as a piece of 9 to 15.
    let crossing = accesses(&[0x0f, 0x10, 0x03], |m| m.registers[RBX] = 0x5ff7);
    assert_eq!(crossing, [(Read, 0x5ff7, 8), (Read, 0x5fff, 1), (Read, 0x6000, 7)]);
    // Half in memory.
    assert_eq!(accesses(&[0x8b, 0x03], |m| m.registers[RBX] = 0x4ffe), [(Read, 0x5000, 2)]);
    // From device to device, element by element.
    let movs = accesses(&[0xf3, 0x66, 0xa5], |m| {
        (m.registers[RSI], m.registers[RDI], m.registers[RCX]) = (0x5000, 0x5100, 2);
    });
    assert_eq!(movs, [(Read, 0x5000, 2), (Write, 0x5100, 2), (Read, 0x5002, 2), (Write, 0x5102, 2)]);
    // A comparison that fails still writes.
    let compare = accesses(&[0xf0, 0x0f, 0xb1, 0x0b], |m| m.registers[0] = 1);
    assert_eq!(compare, [(Read, 0x5010, 4), (Write, 0x5010, 4)]);
}

#[test]
pub fn a_string_keeps_what_it_has_done_when_it_faults() {
    // rep stosb from memory on into a missing page.
    let (outcome, machine) = with(Bits64, &[0xf3, 0xaa], |m| {
        (m.registers[0], m.registers[RDI], m.registers[RCX]) = (0x5a, 0x5ffe, 5);
    });
    assert_eq!((outcome, machine.registers[RDI], machine.registers[RCX]), (page_fault(2, 0x6000), 0x6000, 3));
    assert_eq!((machine.get(0x5ffe, 2), machine.rip), (vec![0x5a; 2], 0x1000));
    // A count of zero does nothing, wherever the pointers are.
    let (outcome, machine) = with(Bits64, &[0xf3, 0xa4], |m| (m.registers[RDI], m.registers[RCX]) = (1 << 63, 0));
    assert_eq!((outcome, machine.rip, machine.translations), (Outcome::Done, 0x1002, 0));
    // Only CX counts with 16-bit addresses, and only DI moves.
    let (outcome, machine) = with(Bits16, &[0xf3, 0xaa], |m| {
        (m.registers[RDI], m.registers[RCX]) = (0x1234_4000, 0xffff_0002);
    });
    assert_eq!((outcome, machine.registers[RDI], machine.registers[RCX]), (Outcome::Done, 0x1234_4002, 0xffff_0000));
}

#[test]
pub fn near_branches_stay_inside_the_code_segment() {
    let jump = |code, target: u64| {
        outcome(code, &[0xff, 0x23], |m| {
            m.put(0x4000, &target.to_le_bytes());
            (m.registers[RBX], m.segments[CS].limit) = (0x4000, 0xffff);
        })
    };
    assert_eq!(jump(Bits32, 0x1_0000), GP);
    assert_eq!(jump(Bits32, 0xffff), Outcome::Done);
    assert_eq!(jump(Bits64, 0x8000_0000_0000), GP);
    assert_eq!(jump(Bits64, 0x7fff_ffff_ffff), Outcome::Done);
    // A call that may not go there pushes nothing.
    let (outcome, machine) = with(Bits64, &[0xff, 0x13], |m| {
        m.put(0x4000, &u64::MAX.wrapping_shl(62).to_le_bytes());
        (m.registers[RBX], m.registers[RSP]) = (0x4000, 0x4800);
    });
    assert_eq!((outcome, machine.registers[RSP], machine.word(0x47f8)), (GP, 0x4800, 0));
}

#[test]
pub fn pop_reckons_its_address_behind_the_pop() {
    // pop qword [rsp+8]
    let (outcome, machine) = with(Bits64, &[0x8f, 0x44, 0x24, 0x08], |m| {
        m.registers[RSP] = 0x4000;
        m.put(0x4000, &7u64.to_le_bytes());
    });
    assert_eq!((outcome, machine.word(0x4010), machine.registers[RSP]), (Outcome::Done, 7, 0x4008));
}

#[test]
pub fn memory_relative_to_rip_counts_from_the_next_instruction() {
    // mov dword [rip+0x2ff6], 0x11223344
    let (outcome, machine) = with(Bits64, &[0xc7, 0x05, 0xf6, 0x2f, 0, 0, 0x44, 0x33, 0x22, 0x11], |_| {});
    assert_eq!((outcome, machine.word(0x4000)), (Outcome::Done, 0x1122_3344));
}

#[test]
pub fn instructions_in_a_code_segment_that_wrap_keep_ip_in_16_bits() {
    let mut machine = TestMachine::new(Bits16);
    machine.map(0xf000, 2, Kind::Memory);
    machine.map(0x4000, 1, Kind::Memory);
    machine.put(0xfffe, &[0x88, 0x07]);
    (machine.rip, machine.registers[RBX]) = (0xfffe, 0x4000);
    assert_eq!((machine.run(), machine.rip), (Outcome::Done, 0));
}
