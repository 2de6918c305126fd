//! What the emulator does, held against the manual, a full decoder, and the processor.

mod decoder;
mod faults;
mod generate;
mod machine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;
mod planted;
mod ports;
mod survive;

use super::{
    CodeBits, Operation, decode,
    opcode::{Form, ONE_BYTE},
};
pub use generate::Random;

/// What is decoded and accesses memory, but is not held against the processor by random instructions: ports, whose embedder is no memory, and what
/// leaves for hv in any case.
const APART: [Operation; 5] = [Operation::Ins, Operation::Outs, Operation::Smsw, Operation::Lmsw, Operation::Invlpg];

#[test]
fn random_instructions_are_made_of_every_opcode() {
    let leads_on = |map, opcode: u8| match map {
        0 => matches!(ONE_BYTE[usize::from(opcode)].form, Form::Prefix | Form::Rex | Form::Escape),
        _ => opcode == 0x38,
    };
    let mut count = 0;
    for (map, escape) in [(0, &[][..]), (0x0f, &[0x0f]), (0x38, &[0x0f, 0x38])] {
        for opcode in (0..=255).filter(|&opcode| !leads_on(map, opcode)) {
            for (prefix, digit) in [0, 0x66, 0xf2, 0xf3].into_iter().flat_map(|prefix| (0..8).map(move |digit| (prefix, digit))) {
                let mut raw = [0; 16];
                let start = [&[prefix][usize::from(prefix == 0)..], escape, &[opcode, digit << 3 | 3]].concat();
                raw[..start.len()].copy_from_slice(&start);
                for code in [CodeBits::Bits16, CodeBits::Bits32, CodeBits::Bits64] {
                    let Ok(insn) = decode(&raw, code) else { continue };
                    let is_made = APART.contains(&insn.operation) || generate::is_made(map, opcode, digit, prefix);
                    assert!(is_made, "{start:x?} in {code:?} is {:?}", insn.operation);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 5_000, "{count}");
}

/// The fuzz target's work, for as long as a test may take.
#[test]
fn any_bytes_are_survived() {
    let rounds = if std::env::var_os("HV_DEEP").is_some() { 5_000_000 } else { 60_000 };
    let mut random = Random(0x5eed);
    for _ in 0..rounds {
        let bytes: [u8; 56] = core::array::from_fn(|_| random.next() as u8);
        survive::survive(&bytes);
    }
}
