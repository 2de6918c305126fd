//! The commonest accesses to devices, decoded in a tenth of the time: MOV between a register and `[base + displacement]` in 64-bit mode.

use super::{exchange::Way, length::MAX_BYTES};

/// A plain move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlainMove {
    /// Whether it reads memory or writes it.
    pub way: Way,
    /// Bytes that it moves: 1, 4 or 8.
    pub bytes: u8,
    /// The register, by its encoding; never AH to BH.
    pub register: u8,
    /// The base register.
    pub base: u8,
    /// What is added to it.
    pub displacement: u64,
    /// Bytes of the instruction.
    pub length: u8,
}

const _: () = assert!(MAX_BYTES >= 7, "a plain move always fits");

/// Recognises a plain move in 64-bit code: no prefix but REX, no SIB byte. `None` for everything else.
#[inline(always)]
pub fn plain_move(code: [u8; 16]) -> Option<PlainMove> {
    let code = u64::from_le_bytes([code[0], code[1], code[2], code[3], code[4], code[5], code[6], code[7]]);
    let (rex, rest) = if code & 0xf0 == 0x40 { (code as u8, code >> 8) } else { (0, code) };
    let (opcode, modrm) = (rest as u8, (rest >> 8) as u8);
    let (mode, low) = (modrm >> 6, modrm & 7);
    if opcode & 0xfc != 0x88 || mode == 3 || low == 4 || (mode == 0 && low == 5) {
        return None;
    }
    let register = (modrm >> 3 & 7) | (rex & 4) << 1;
    let bytes = match (opcode & 1, rex & 8) {
        (0, _) => 1,
        (_, 0) => 4,
        _ => 8,
    };
    if bytes == 1 && rex == 0 && register >= 4 {
        return None;
    }
    let word = (rest >> 16) as u32;
    let (displacement, more) = match mode {
        0 => (0, 0),
        1 => (word as i8 as i64 as u64, 1),
        _ => (word as i32 as i64 as u64, 4),
    };
    let way = if opcode & 2 == 0 { Way::Write } else { Way::Read };
    let length = u8::from(rex != 0) + 2 + more;
    Some(PlainMove { way, bytes, register, base: low | (rex & 1) << 3, displacement, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::{
        Address, CodeBits, Operand, Operation, decode, decode::NO_REGISTER, machine::SegmentName, opcode::Form, tests::Random,
    };

    /// The same, by the whole decoder.
    fn slowly(code: &[u8; 16]) -> Option<PlainMove> {
        let insn = decode(code, CodeBits::Bits64).ok()?;
        let Operand::Memory(Address { base, index: NO_REGISTER, displacement, segment, .. }) = insn.rm else { return None };
        let way = match insn.form {
            Form::RmReg => Way::Write,
            Form::RegRm => Way::Read,
            _ => return None,
        };
        assert!(matches!(segment, SegmentName::Ds | SegmentName::Ss));
        assert_eq!(insn.operation, Operation::Mov);
        let register = insn.reg;
        Some(PlainMove { way, bytes: insn.bytes, register, base, displacement, length: insn.length })
    }

    #[test]
    fn plain_moves_are_what_the_whole_decoder_finds() {
        let mut random = Random(77);
        let mut found = 0;
        for _ in 0..300_000 {
            let mut code: [u8; 16] = core::array::from_fn(|_| random.next() as u8);
            if random.one_in(2) {
                code[0] = 0x40 | code[0] & 15;
                code[1] = 0x88 | code[1] & 3;
            } else if random.one_in(2) {
                code[0] = 0x88 | code[0] & 3;
            }
            if let Some(plain) = plain_move(code) {
                assert_eq!(slowly(&code), Some(plain), "{code:x?}");
                found += 1;
            }
        }
        assert!(found > 50_000, "{found}");
    }
}
