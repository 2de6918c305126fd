//! MOV to and from control and debug registers, and CLTS, which have no operand in memory (APM vol. 3); the plain form of INVLPG.

use super::{length::prefixes, machine::CodeBits};

/// What a control- or debug-register instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlAccess {
    /// MOV from the register `number` to the general register `gpr`.
    Read {
        /// Control or debug register.
        number: u8,
        /// General register, by its encoding.
        gpr: u8,
    },
    /// MOV from the general register `gpr` to the register `number`.
    Write {
        /// Control or debug register.
        number: u8,
        /// General register, by its encoding.
        gpr: u8,
    },
    /// CLTS.
    ClearTaskSwitched,
}

/// Decodes MOV with no prefix but REX, by far the commonest such instruction, out of its first four bytes; tells its length too.
#[inline]
pub fn plain_control_access(code: CodeBits, word: u32) -> Option<(ControlAccess, u64)> {
    let has_rex = code == CodeBits::Bits64 && word & 0xf0 == 0x40;
    let (rex, word, length) = if has_rex { (word, word >> 8, 4) } else { (0, word, 3) };
    if word & 0xfcff != 0x200f {
        return None;
    }
    let modrm = word >> 16;
    let number = ((modrm >> 3 & 7) | (rex & 4) << 1) as u8;
    let gpr = ((modrm & 7) | (rex & 1) << 3) as u8;
    Some((if word & 0x0200 == 0 { ControlAccess::Read { number, gpr } } else { ControlAccess::Write { number, gpr } }, length))
}

/// Decodes INVLPG of the page that a general register points to, in 64-bit code with no prefix but REX, by far the commonest form, out of its first four bytes;
/// tells the register, by its encoding, and the length.
#[inline]
pub fn plain_invlpg(code: CodeBits, word: u32) -> Option<(u8, u64)> {
    let has_rex = word & 0xf0 == 0x40;
    let (rex, word, length) = if has_rex { (word, word >> 8, 4) } else { (0, word, 3) };
    let base = word >> 16 & 7;
    // Four and five stand for longer forms.
    let plain = code == CodeBits::Bits64 && word & 0x00f8_ffff == 0x0038_010f && base & 6 != 4;
    plain.then_some(((base | (rex & 1) << 3) as u8, length))
}

/// Decodes such an instruction; tells its length in bytes too. `None` when the bytes are another one.
#[cold]
pub fn control_access(code: CodeBits, bytes: &[u8]) -> Option<(ControlAccess, u64)> {
    let (at, rex) = prefixes(code, bytes);
    // AMD's way to CR8 outside 64-bit mode (APM vol. 3, MOV CRn).
    let locked = bytes[..at].contains(&0xf0);
    if *bytes.get(at)? != 0x0f {
        return None;
    }
    let opcode = *bytes.get(at + 1)?;
    if opcode == 0x06 {
        return Some((ControlAccess::ClearTaskSwitched, at as u64 + 2));
    }
    // The mode field of ModRM is ignored: both operands are registers.
    let modrm = *bytes.get(at + 2)?;
    let mut number = (modrm >> 3 & 7) | (rex & 4) << 1;
    let gpr = (modrm & 7) | (rex & 1) << 3;
    if locked && matches!(opcode, 0x20 | 0x22) && number == 0 {
        number = 8;
    }
    let access = match opcode {
        0x20 | 0x21 => ControlAccess::Read { number, gpr },
        0x22 | 0x23 => ControlAccess::Write { number, gpr },
        _ => return None,
    };
    Some((access, at as u64 + 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

    /// What a full decoder makes of the bytes: the instruction, and its length.
    fn full(bits: u32, bytes: &[u8]) -> (Mnemonic, u64) {
        let decoded = Decoder::new(bits, bytes, DecoderOptions::AMD).decode();
        (decoded.mnemonic(), decoded.len() as u64)
    }

    #[test]
    fn forms_agree_with_a_full_decoder() {
        let prefixes: [&[u8]; 10] = [
            &[],
            &[0x66],
            &[0x44],
            &[0x41],
            &[0x2e, 0x45],
            &[0x36, 0x67],
            &[0x44, 0x66],
            &[0x41, 0x44],
            &[0x45, 0x2e, 0x41],
            &[0x4f; 11],
        ];
        for (code, bits) in [(CodeBits::Bits64, 64), (CodeBits::Bits32, 32), (CodeBits::Bits16, 16)] {
            for prefix in prefixes {
                if code != CodeBits::Bits64 && prefix.iter().any(|byte| byte & 0xf0 == 0x40) {
                    continue;
                }
                for (opcode, modrm) in
                    [0x20u8, 0x21, 0x22, 0x23, 0x06, 0x01].iter().flat_map(|op| (0xc0..=0xffu8).map(move |m| (*op, m)))
                {
                    let bytes = [prefix, &[0x0f, opcode, modrm], &[0x90; 4]].concat();
                    let (mnemonic, length) = full(bits, &bytes);
                    let ours = control_access(code, &bytes);
                    let plain = plain_control_access(code, u32::from_le_bytes(bytes[..4].try_into().unwrap()));
                    assert!(plain.is_none() || plain == ours, "{bytes:x?}: {plain:?} instead of {ours:?}");
                    match mnemonic {
                        Mnemonic::Clts => assert_eq!(ours, Some((ControlAccess::ClearTaskSwitched, length))),
                        Mnemonic::Mov => {
                            let decoded = Decoder::new(bits, &bytes, DecoderOptions::AMD).decode();
                            assert_eq!((decoded.op0_kind(), decoded.op1_kind()), (OpKind::Register, OpKind::Register));
                            let (access, ours) = ours.unwrap();
                            let (special, general, read) = match access {
                                ControlAccess::Read { number, gpr } => (number, gpr, true),
                                ControlAccess::Write { number, gpr } => (number, gpr, false),
                                other => panic!("{other:?}"),
                            };
                            let (a, b) = (decoded.op0_register(), decoded.op1_register());
                            let (expected_special, expected_general) = if read { (b, a) } else { (a, b) };
                            assert_eq!(
                                (special as usize, general as usize),
                                (expected_special.number(), expected_general.number()),
                                "{bytes:x?}"
                            );
                            assert_eq!(ours, length);
                        }
                        // Numbers that no register has: the processor raises #UD before it exits.
                        _ if matches!(opcode, 0x20..=0x23) => {}
                        _ => assert_eq!(ours, None, "{bytes:x?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn the_plain_form_of_invlpg_is_what_a_full_decoder_takes_it_for() {
        let mut plain = 0;
        for rex in [0x90u8, 0x40, 0x41, 0x48, 0x4f] {
            for modrm in 0..=0xffu8 {
                let bytes = [&[rex][usize::from(rex == 0x90)..], &[0x0f, 0x01, modrm, 0x11, 0x22, 0x33, 0x44, 0x55]].concat();
                let word = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                assert_eq!(plain_invlpg(CodeBits::Bits32, word), None);
                let Some((register, length)) = plain_invlpg(CodeBits::Bits64, word) else { continue };
                let decoded = Decoder::new(64, &bytes, DecoderOptions::AMD).decode();
                assert_eq!((decoded.mnemonic(), decoded.len() as u64), (Mnemonic::Invlpg, length), "{bytes:x?}");
                assert_eq!((decoded.memory_base().number(), decoded.memory_displacement64()), (usize::from(register), 0));
                plain += 1;
            }
        }
        assert_eq!(plain, 5 * 6);
    }

    #[test]
    fn lock_is_the_way_to_cr8_outside_64_bit_mode() {
        assert_eq!(
            control_access(CodeBits::Bits32, &[0xf0, 0x0f, 0x20, 0xc3]),
            Some((ControlAccess::Read { number: 8, gpr: 3 }, 4))
        );
        assert_eq!(control_access(CodeBits::Bits32, &[0x0f]), None);
        assert_eq!(control_access(CodeBits::Bits32, &[]), None);
    }
}
