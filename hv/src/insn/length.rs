//! Lengths of the instructions that exit: all that a processor without NRIP-save leaves to software.

use super::machine::CodeBits;

/// Longest instruction in bytes (APM vol. 3, 1.2).
pub const MAX_BYTES: usize = 15;

/// An instruction that exits and whose length is all that hv needs to know, by its opcode bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opcode {
    bytes: [u8; 4],
    len: usize,
}

impl Opcode {
    /// CPUID.
    pub const CPUID: Self = Self { bytes: [0x0f, 0xa2, 0, 0], len: 2 };
    /// RDMSR.
    pub const RDMSR: Self = Self { bytes: [0x0f, 0x32, 0, 0], len: 2 };
    /// WRMSR.
    pub const WRMSR: Self = Self { bytes: [0x0f, 0x30, 0, 0], len: 2 };
    /// HLT.
    pub const HLT: Self = Self { bytes: [0xf4, 0, 0, 0], len: 1 };
    /// VMMCALL.
    pub const VMMCALL: Self = Self { bytes: [0x0f, 0x01, 0xd9, 0], len: 3 };
    /// INVD.
    pub const INVD: Self = Self { bytes: [0x0f, 0x08, 0, 0], len: 2 };
    /// WBINVD.
    pub const WBINVD: Self = Self { bytes: [0x0f, 0x09, 0, 0], len: 2 };
    /// ICEBP (INT1).
    pub const ICEBP: Self = Self { bytes: [0xf1, 0, 0, 0], len: 1 };

    /// The instruction's length if these are its first four bytes, and it has no prefix.
    #[inline]
    pub const fn plain_length(self, bytes: u32) -> Option<u64> {
        let differing = bytes ^ u32::from_le_bytes(self.bytes);
        if differing << (32 - 8 * self.len) == 0 { Some(self.len as u64) } else { None }
    }

    fn begins(self, bytes: &[u8]) -> bool {
        bytes.starts_with(&self.bytes[..self.len])
    }
}

/// Measures an instruction that is known to have `opcode`: its length in bytes, prefixes included.
///
/// `None` when the bytes are another instruction, or longer than [`MAX_BYTES`].
pub fn length(opcode: Opcode, code: CodeBits, bytes: &[u8]) -> Option<u64> {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let (at, _) = prefixes(code, bytes);
    opcode.begins(&bytes[at..]).then(|| (at + opcode.len) as u64)
}

/// Skips the prefixes that begin the bytes: tells how many they are, and the REX prefix, or 0.
///
/// REX prefixes exist in 64-bit mode only, and count only right before the opcode (APM vol. 3, 1.2.7); the processor skips others.
pub(super) fn prefixes(code: CodeBits, bytes: &[u8]) -> (usize, u8) {
    let mut rex = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            0x40..=0x4f if code == CodeBits::Bits64 => rex = byte,
            _ if is_legacy_prefix(byte) => rex = 0,
            _ => return (at, rex),
        }
    }
    (bytes.len(), rex)
}

/// Operand size, address size, segment overrides, LOCK, REPNE, REP (APM vol. 3, 1.2.1).
const fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x66 | 0x67 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions};

    #[test]
    fn lengths_agree_with_a_full_decoder() {
        let opcodes = [
            (Opcode::CPUID, Code::Cpuid),
            (Opcode::RDMSR, Code::Rdmsr),
            (Opcode::WRMSR, Code::Wrmsr),
            (Opcode::HLT, Code::Hlt),
            (Opcode::VMMCALL, Code::Vmmcall),
            (Opcode::INVD, Code::Invd),
            (Opcode::WBINVD, Code::Wbinvd),
            (Opcode::ICEBP, Code::Int1),
        ];
        let prefixes: [&[u8]; 14] = [
            &[],
            &[0x66],
            &[0x2e, 0x66],
            &[0x48],
            &[0x66, 0x4f],
            &[0x67, 0x26, 0x48],
            &[0x36; 12],
            &[0x64, 0x65, 0x67, 0x41],
            &[0x48, 0x66],
            &[0x48, 0x48],
            &[0x40, 0x2e, 0x41, 0x66, 0x4f],
            &[0x4f; 12],
            &[0x41, 0x48, 0x67],
            &[0x67, 0x48, 0x3e, 0x44],
        ];
        for (opcode, iced) in opcodes {
            for prefix in prefixes {
                for (code, bits) in [(CodeBits::Bits64, 64), (CodeBits::Bits32, 32), (CodeBits::Bits16, 16)] {
                    let bytes = [prefix, &opcode.bytes[..opcode.len], &[0x90; 4]].concat();
                    let full = Decoder::new(bits, &bytes, DecoderOptions::AMD).decode();
                    let expected = (full.code() == iced).then_some(full.len() as u64);
                    assert_eq!(length(opcode, code, &bytes), expected, "{bytes:x?} in {bits}-bit code");
                    let plain = opcode.plain_length(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
                    assert_eq!(plain, expected.filter(|_| prefix.is_empty()), "{bytes:x?}");
                }
            }
        }
    }

    #[test]
    fn overlong_and_foreign_instructions_are_refused() {
        assert_eq!(length(Opcode::CPUID, CodeBits::Bits64, &[[0x66; 14].as_slice(), &[0x0f, 0xa2]].concat()), None);
        assert_eq!(length(Opcode::CPUID, CodeBits::Bits64, &[0x0f, 0x32]), None);
        assert_eq!(length(Opcode::CPUID, CodeBits::Bits64, &[0x0f]), None);
        assert_eq!(length(Opcode::HLT, CodeBits::Bits64, &[]), None);
    }
}
