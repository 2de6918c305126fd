//! Any bytes as an instruction, in any mode, with memory of every kind: the emulator ends, and has touched nothing when it has nothing to show for it.
//!
//! The fuzz target `instructions` feeds it too; there, the modules of hv that it names are re-exported at the root.

use super::machine::{Kind, TestMachine};
use crate::insn::{Batch, CodeBits, Exchange, Outcome, Protection, complete_ins, emulate, outs, prepare_ins};

/// Choices made by the first bytes of the input.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}

/// Carries out what the input says.
///
/// # Panics
/// The emulator did something that it must not.
pub fn survive(input: &[u8]) {
    let mut choices = Choices(input);
    let code = choices.of(&[CodeBits::Bits64, CodeBits::Bits32, CodeBits::Bits16]);
    let protection = choices.of(&[Protection::Protected, Protection::Real, Protection::Virtual8086]);
    let kind = choices.of(&[Kind::Device, Kind::Memory, Kind::ReadOnly]);
    let registers = core::array::from_fn(|_| 0x4000 + u64::from(choices.byte()) * 33);
    let rflags = u64::from(choices.byte()) << 4 | 2;
    let mut machine = TestMachine::with_code(code, choices.0);
    machine.map(0x5000, 1, kind);
    machine.mode.protection = protection;
    (machine.registers, machine.rflags) = (registers, rflags);
    if !is_unchanged(&mut machine) {
        return;
    }
    // INS or OUTS, or what is not known: the port's side of it.
    let exchange = &mut Exchange::new();
    let mut buffer = [0; 64];
    let _taken = outs(&mut machine, exchange, &mut buffer);
    if let Ok(Batch { elements, bytes }) = prepare_ins(&mut machine, exchange, buffer.len()) {
        let count = elements as usize * usize::from(bytes);
        assert!(count <= buffer.len());
        let _given = complete_ins(&mut machine, exchange, &buffer[..count]);
    }
}

/// Emulates the instruction with any answers; tells whether it was left as it was.
fn is_unchanged(machine: &mut TestMachine) -> bool {
    let (rip, before) = (machine.rip, machine.registers);
    let mut exchange = Exchange::new();
    for _ in 0..64 {
        match emulate(machine, &mut exchange) {
            Outcome::Wanted => exchange.answer(u128::MAX / 5),
            Outcome::Repeating | Outcome::Done => while exchange.next_write().is_some() {},
            Outcome::Unsupported(_) | Outcome::Port => {
                assert_eq!((machine.rip, machine.registers), (rip, before));
                return true;
            }
            _ => return false,
        }
        if machine.rip != rip {
            return false;
        }
    }
    false
}
