//! INS and OUTS in batches.

use super::machine::{Kind, TestMachine};
use crate::{
    addr::Gva,
    insn::{Alignment, Batch, CodeBits, Exchange, Fault, Outcome, complete_ins, outs, prepare_ins},
    x86::{Exception, Vector},
};
use CodeBits::{Bits16, Bits32, Bits64};
use std::{vec, vec::Vec};

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;
const DF: u64 = 1 << 10;

fn batch(elements: u32, bytes: u8) -> Result<Batch, Outcome> {
    Ok(Batch { elements, bytes })
}

fn write_fault(address: u64) -> Outcome {
    Outcome::Fault(Fault { exception: Exception { vector: Vector::PF, code: Some(2) }, address: Gva(address) })
}

/// Takes a batch of OUTS, and what is in it.
fn take(machine: &mut TestMachine, room: usize) -> (Result<Batch, Outcome>, Vec<u8>) {
    let mut buffer = vec![0; room];
    let found = outs(machine, &mut Exchange::new(), &mut buffer);
    let bytes = found.map_or(0, |batch| batch.elements as usize * usize::from(batch.bytes));
    buffer.truncate(bytes);
    (found, buffer)
}

#[test]
pub fn outs_is_taken_in_batches_across_pages() {
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x6e]);
    let text: Vec<u8> = (0..100).collect();
    machine.put(0x4fce, &text);
    (machine.registers[RSI], machine.registers[RCX]) = (0x4fce, 100);
    let (found, first) = take(&mut machine, 64);
    assert_eq!((found, machine.registers[RSI], machine.registers[RCX], machine.rip), (batch(64, 1), 0x500e, 36, 0x1000));
    let (found, second) = take(&mut machine, 64);
    assert_eq!((found, machine.registers[RCX], machine.rip), (batch(36, 1), 0, 0x1002));
    assert_eq!([first, second].concat(), text);
    assert!(machine.translations <= 4, "pages, not bytes");
}

#[test]
pub fn elements_cross_pages_and_go_down_with_df() {
    // outsw, which has an element in both pages
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x66, 0x6f]);
    machine.put(0x4ffd, &[1, 2, 3, 4, 5, 6]);
    (machine.registers[RSI], machine.registers[RCX]) = (0x4ffd, 3);
    assert_eq!(take(&mut machine, 64), (batch(3, 2), vec![1, 2, 3, 4, 5, 6]));
    (machine.rip, machine.rflags) = (0x1000, 2 | DF);
    (machine.registers[RSI], machine.registers[RCX]) = (0x5001, 3);
    assert_eq!(take(&mut machine, 64), (batch(3, 2), vec![5, 6, 3, 4, 1, 2]));
    assert_eq!(machine.registers[RSI], 0x4ffb);
}

#[test]
pub fn segment_address_size_and_count_are_the_instructions() {
    // fs outsb with 32-bit addresses in 16-bit code; the count is ECX then.
    let mut machine = TestMachine::with_code(Bits16, &[0xf3, 0x64, 0x67, 0x6e]);
    machine.segments[4].base = 0x4000;
    machine.put(0x4010, b"text");
    (machine.registers[RSI], machine.registers[RCX]) = (0x10, 4);
    assert_eq!(take(&mut machine, 64), (batch(4, 1), b"text".to_vec()));
    // Without 67h only CX counts; zero does nothing and goes on.
    let mut machine = TestMachine::with_code(Bits16, &[0xf3, 0x6e]);
    machine.registers[RCX] = 0x1_0000;
    assert_eq!(take(&mut machine, 64), (batch(0, 1), vec![]));
    assert_eq!((machine.rip, machine.registers[RCX]), (0x1002, 0x1_0000));
    // Without REP there is one, whatever RCX is.
    let mut machine = TestMachine::with_code(Bits64, &[0x6e]);
    machine.registers[RSI] = 0x4000;
    assert_eq!(take(&mut machine, 64).0, batch(1, 1));
    assert_eq!((machine.rip, machine.registers[RCX]), (0x1001, 0));
}

#[test]
pub fn sixteen_bit_pointers_wrap() {
    let mut machine = TestMachine::with_code(Bits16, &[0xf3, 0x6e]);
    machine.segments[3].base = 0x4000;
    machine.segments[3].limit = 0xffff;
    machine.map(0x1_3000, 1, Kind::Memory);
    machine.put(0x1_3ffe, b"ab");
    machine.put(0x4000, b"cd");
    (machine.registers[RSI], machine.registers[RCX]) = (0x5555_fffe, 4);
    assert_eq!(take(&mut machine, 64), (batch(4, 1), b"abcd".to_vec()));
    assert_eq!(machine.registers[RSI], 0x5555_0002);
}

#[test]
pub fn a_fault_comes_only_with_its_element() {
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x6e]);
    machine.put(0x5ffe, b"ok");
    (machine.registers[RSI], machine.registers[RCX]) = (0x5ffe, 10);
    assert_eq!(take(&mut machine, 64), (batch(2, 1), b"ok".to_vec()));
    assert_eq!((machine.registers[RSI], machine.registers[RCX], machine.rip), (0x6000, 8, 0x1000));
    let fault = Fault { exception: Exception { vector: Vector::PF, code: Some(0) }, address: Gva(0x6000) };
    assert_eq!(take(&mut machine, 64).0, Err(Outcome::Fault(fault)));
    assert_eq!((machine.registers[RSI], machine.registers[RCX]), (0x6000, 8));
    // A limit in mid-page ends a batch too.
    let mut machine = TestMachine::with_code(Bits32, &[0xf3, 0x6e]);
    machine.segments[3].limit = 0x4003;
    (machine.registers[RSI], machine.registers[RCX]) = (0x4000, 10);
    assert_eq!(take(&mut machine, 64).0, batch(4, 1));
    assert_eq!(take(&mut machine, 64).0, Err(Outcome::Fault(Fault::of(Exception::GP0))));
}

#[test]
pub fn misaligned_elements_are_ac_where_that_is_checked() {
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x6f]);
    machine.mode.alignment = Alignment::Checked;
    (machine.registers[RSI], machine.registers[RCX]) = (0x4001, 2);
    let fault = Fault::of(Exception { vector: Vector::AC, code: Some(0) });
    assert_eq!(take(&mut machine, 64).0, Err(Outcome::Fault(fault)));
}

#[test]
pub fn ins_asks_for_as_much_as_can_be_written_and_writes_what_it_gets() {
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x6c]);
    machine.map(0x5000, 1, Kind::ReadOnly);
    (machine.registers[RDI], machine.registers[RCX]) = (0x4ffc, 10);
    let exchange = &mut Exchange::new();
    assert_eq!(prepare_ins(&mut machine, exchange, 4096), batch(4, 1));
    assert_eq!((machine.registers[RDI], machine.registers[RCX]), (0x4ffc, 10), "nothing has happened yet");
    assert_eq!(complete_ins(&mut machine, exchange, b"abc"), batch(3, 1), "less is all right");
    assert_eq!((machine.get(0x4ffc, 4), machine.registers[RCX], machine.rip), (b"abc\0".to_vec(), 7, 0x1000));
    assert_eq!(complete_ins(&mut machine, exchange, b"d"), batch(1, 1));
    assert_eq!(prepare_ins(&mut machine, exchange, 4096), Err(write_fault_present(0x5000)));
    machine.map(0x5000, 1, Kind::Memory);
    assert_eq!(prepare_ins(&mut machine, exchange, 4096), batch(6, 1));
    assert_eq!(complete_ins(&mut machine, exchange, b"efghij"), batch(6, 1));
    assert_eq!((machine.registers[RCX], machine.rip), (0, 0x1002));
}

fn write_fault_present(address: u64) -> Outcome {
    let Outcome::Fault(fault) = write_fault(address) else { unreachable!() };
    Outcome::Fault(Fault { exception: Exception { code: Some(3), ..fault.exception }, ..fault })
}

#[test]
pub fn devices_get_one_element_at_a_time() {
    let mut machine = TestMachine::with_code(Bits64, &[0xf3, 0x6c]);
    machine.map(0x5000, 1, Kind::Device);
    (machine.registers[RDI], machine.registers[RCX]) = (0x4fff, 3);
    let exchange = &mut Exchange::new();
    assert_eq!(prepare_ins(&mut machine, exchange, 4096), batch(1, 1), "up to the device");
    assert_eq!(complete_ins(&mut machine, exchange, b"a"), batch(1, 1));
    assert_eq!(prepare_ins(&mut machine, exchange, 4096), batch(1, 1));
    assert_eq!(complete_ins(&mut machine, exchange, b"b"), batch(1, 1));
    assert_eq!(exchange.next_write().map(|write| (write.gpa.0, write.value())), Some((0x5000, 0x62)));
    // OUTS out of a device waits for it.
    machine.put(0x1000, &[0xf3, 0x6e]);
    (machine.registers[RSI], machine.registers[RCX]) = (0x5000, 2);
    let mut buffer = [0; 8];
    assert_eq!(outs(&mut machine, exchange, &mut buffer), Err(Outcome::Wanted));
    exchange.answer(0x77);
    assert_eq!((outs(&mut machine, exchange, &mut buffer), buffer[0]), (batch(1, 1), 0x77));
    assert_eq!((machine.registers[RCX], exchange.is_idle()), (1, true));
}

#[test]
pub fn other_instructions_are_refused() {
    let mut machine = TestMachine::with_code(Bits64, &[0x88, 0x03]);
    assert!(matches!(take(&mut machine, 8).0, Err(Outcome::Unsupported(_))));
    assert!(matches!(prepare_ins(&mut machine, &mut Exchange::new(), 8), Err(Outcome::Unsupported(_))));
}
