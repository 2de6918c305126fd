//! The opcode maps (APM vol. 3, appendix A), as far as instructions access memory.

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "instructions, by their names in the manual")]
#[repr(u8)]
pub enum Operation {
    // In the order of their encoding in the arithmetic group.
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    // In the order of their encoding in the shift group; 6 is another SHL.
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
    Test,
    Not,
    Neg,
    Inc,
    Dec,
    Mul,
    Imul,
    Div,
    Idiv,
    /// IMUL with two or three operands.
    ImulReg,
    Mov,
    MovSegment,
    MovZeroExtend,
    MovSignExtend,
    Movbe,
    Xchg,
    Xadd,
    Cmpxchg,
    /// CMPXCHG8B, or CMPXCHG16B.
    CmpxchgWide,
    Shld,
    Shrd,
    Bt,
    Bts,
    Btr,
    Btc,
    Bsf,
    Bsr,
    Popcnt,
    Setcc,
    Cmovcc,
    Push,
    PushSegment,
    Pushf,
    Pop,
    Call,
    Jmp,
    Ret,
    Leave,
    Xlat,
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
    Ins,
    Outs,
    /// A move into an SSE register, the rest of which becomes zero.
    VectorLoad,
    VectorLoadLow,
    VectorLoadHigh,
    /// MOVDDUP.
    VectorLoadTwice,
    VectorStore,
    VectorStoreHigh,
    Nop,
    Smsw,
    Lmsw,
    /// INVLPG: decoded only.
    Invlpg,
}

use Operation as Op;

/// Where operands are, and which bytes follow the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Form {
    /// Not an instruction that is carried out here.
    Unknown,
    /// A prefix.
    Prefix,
    /// A REX prefix in 64-bit mode, unknown elsewhere.
    Rex,
    /// The first byte of a longer opcode.
    Escape,
    /// Implied operands only.
    Implied,
    /// The register that the opcode's low bits name.
    OpcodeReg,
    /// An immediate of the operand's size, 32 bits at most.
    Imm,
    /// A sign-extended byte.
    Imm8,
    /// Two bytes.
    Imm16,
    /// A displacement from the next instruction.
    Relative,
    /// The accumulator, and memory at an immediate address.
    AccOffset,
    /// Memory at an immediate address, and the accumulator.
    OffsetAcc,
    // From here on a ModRM byte follows.
    /// One operand.
    Rm,
    /// The operand, and 1.
    RmOne,
    /// The operand, and CL.
    RmCl,
    RmReg,
    RegRm,
    RmImm,
    RmImm8,
    RegRmImm,
    RegRmImm8,
    RmRegImm8,
    RmRegCl,
    /// As the ModRM byte says, in the group of the opcode.
    Group,
    /// As the last prefix of 66h, F2h, F3h says.
    Vector,
}

impl Form {
    pub(super) const fn has_modrm(self) -> bool {
        self as u8 >= Self::Rm as u8
    }
}

/// How large operands are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Size {
    /// One byte.
    Byte,
    /// 16, 32 or 64 bits, by prefixes and mode.
    Full,
    /// The same, but 64 bits by default in 64-bit mode.
    Near,
}

/// What an opcode means.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub operation: Operation,
    pub form: Form,
    pub size: Size,
    /// Bytes of the source, where that is not the operand's size; else 0.
    pub source: u8,
    /// Whether mode or prefixes decide what it is.
    pub special: Special,
}

/// Whether an opcode alone tells what an instruction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Special {
    /// It does.
    No,
    /// Mode, prefixes or the ModRM byte have a say.
    Yes,
}

impl Entry {
    pub const UNKNOWN: Self = of(Op::Nop, Form::Unknown, Size::Full);
}

const fn of(operation: Operation, form: Form, size: Size) -> Entry {
    Entry { operation, form, size, source: 0, special: Special::No }
}

const fn special(operation: Operation, form: Form, size: Size) -> Entry {
    Entry { special: Special::Yes, ..of(operation, form, size) }
}

/// Byte operands for even opcodes, full ones for odd opcodes.
const fn size_of_opcode(opcode: u8) -> Size {
    if opcode & 1 == 0 { Size::Byte } else { Size::Full }
}

const ARITHMETIC: [Operation; 8] = [Op::Add, Op::Or, Op::Adc, Op::Sbb, Op::And, Op::Sub, Op::Xor, Op::Cmp];
const SHIFTS: [Operation; 8] = [Op::Rol, Op::Ror, Op::Rcl, Op::Rcr, Op::Shl, Op::Shr, Op::Shl, Op::Sar];

const fn one_byte(opcode: u8) -> Entry {
    let size = size_of_opcode(opcode);
    match opcode {
        0x0f => of(Op::Nop, Form::Escape, size),
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => of(Op::Nop, Form::Prefix, size),
        0x40..=0x4f => of(Op::Nop, Form::Rex, size),
        0x00..=0x3f if opcode & 7 < 2 => of(ARITHMETIC[opcode as usize >> 3], Form::RmReg, size),
        0x00..=0x3f if opcode & 7 < 4 => of(ARITHMETIC[opcode as usize >> 3], Form::RegRm, size),
        0x06 | 0x0e | 0x16 | 0x1e => special(Op::PushSegment, Form::Implied, Size::Near),
        0x50..=0x57 => of(Op::Push, Form::OpcodeReg, Size::Near),
        0x58..=0x5f => of(Op::Pop, Form::OpcodeReg, Size::Near),
        0x63 => Entry { source: 4, ..special(Op::MovSignExtend, Form::RegRm, Size::Full) },
        0x68 => of(Op::Push, Form::Imm, Size::Near),
        0x69 => of(Op::ImulReg, Form::RegRmImm, Size::Full),
        0x6a => of(Op::Push, Form::Imm8, Size::Near),
        0x6b => of(Op::ImulReg, Form::RegRmImm8, Size::Full),
        0x6c | 0x6d => special(Op::Ins, Form::Implied, size),
        0x6e | 0x6f => special(Op::Outs, Form::Implied, size),
        0x80..=0x83 | 0x8f | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xf6 | 0xf7 | 0xfe | 0xff => {
            of(Op::Nop, Form::Group, size)
        }
        0x84 | 0x85 => of(Op::Test, Form::RmReg, size),
        0x86 | 0x87 => of(Op::Xchg, Form::RmReg, size),
        0x88 | 0x89 => of(Op::Mov, Form::RmReg, size),
        0x8a | 0x8b => of(Op::Mov, Form::RegRm, size),
        0x8c => special(Op::MovSegment, Form::RmReg, Size::Full),
        0x9c => of(Op::Pushf, Form::Implied, Size::Near),
        0xa0 | 0xa1 => of(Op::Mov, Form::AccOffset, size),
        0xa2 | 0xa3 => of(Op::Mov, Form::OffsetAcc, size),
        0xa4 | 0xa5 => of(Op::Movs, Form::Implied, size),
        0xa6 | 0xa7 => of(Op::Cmps, Form::Implied, size),
        0xaa | 0xab => of(Op::Stos, Form::Implied, size),
        0xac | 0xad => of(Op::Lods, Form::Implied, size),
        0xae | 0xaf => of(Op::Scas, Form::Implied, size),
        0xc2 => of(Op::Ret, Form::Imm16, Size::Near),
        0xc3 => of(Op::Ret, Form::Implied, Size::Near),
        0xc9 => of(Op::Leave, Form::Implied, Size::Near),
        0xd7 => of(Op::Xlat, Form::Implied, Size::Byte),
        0xe8 => of(Op::Call, Form::Relative, Size::Near),
        _ => Entry::UNKNOWN,
    }
}

/// The map behind 0Fh.
const fn two_byte(opcode: u8) -> Entry {
    let size = size_of_opcode(opcode);
    match opcode {
        0x0d | 0x18 | 0x1f => of(Op::Nop, Form::Rm, Size::Full),
        0x10..=0x13 | 0x16 | 0x17 | 0x28 | 0x29 | 0x2b | 0x6e | 0x6f | 0x7e | 0x7f | 0xd6 | 0xe7 | 0xf0 => {
            special(Op::VectorLoad, Form::Vector, Size::Full)
        }
        0x40..=0x4f => of(Op::Cmovcc, Form::RegRm, Size::Full),
        0x90..=0x9f => of(Op::Setcc, Form::Rm, Size::Byte),
        0xa0 | 0xa8 => of(Op::PushSegment, Form::Implied, Size::Near),
        0xa3 => of(Op::Bt, Form::RmReg, Size::Full),
        0xa4 => of(Op::Shld, Form::RmRegImm8, Size::Full),
        0xa5 => of(Op::Shld, Form::RmRegCl, Size::Full),
        0xab => of(Op::Bts, Form::RmReg, Size::Full),
        0xac => of(Op::Shrd, Form::RmRegImm8, Size::Full),
        0xad => of(Op::Shrd, Form::RmRegCl, Size::Full),
        0xaf => of(Op::ImulReg, Form::RegRm, Size::Full),
        0xb0 | 0xb1 => of(Op::Cmpxchg, Form::RmReg, size),
        0xb3 => of(Op::Btr, Form::RmReg, Size::Full),
        0xb6 => Entry { source: 1, ..of(Op::MovZeroExtend, Form::RegRm, Size::Full) },
        0xb7 => Entry { source: 2, ..of(Op::MovZeroExtend, Form::RegRm, Size::Full) },
        0xb8 => special(Op::Popcnt, Form::RegRm, Size::Full),
        0x01 | 0xba | 0xc7 => of(Op::Nop, Form::Group, Size::Full),
        0xbb => of(Op::Btc, Form::RmReg, Size::Full),
        0xbc => special(Op::Bsf, Form::RegRm, Size::Full),
        0xbd => special(Op::Bsr, Form::RegRm, Size::Full),
        0xbe => Entry { source: 1, ..of(Op::MovSignExtend, Form::RegRm, Size::Full) },
        0xbf => Entry { source: 2, ..of(Op::MovSignExtend, Form::RegRm, Size::Full) },
        0xc0 | 0xc1 => of(Op::Xadd, Form::RmReg, size),
        0xc3 => special(Op::Mov, Form::RmReg, Size::Full), // MOVNTI
        _ => Entry::UNKNOWN,
    }
}

/// The one-byte map.
pub static ONE_BYTE: [Entry; 256] = {
    let mut entries = [Entry::UNKNOWN; 256];
    let mut at = 0;
    while at < 256 {
        entries[at] = one_byte(at as u8);
        at += 1;
    }
    entries
};

/// The map behind 0Fh.
pub static TWO_BYTE: [Entry; 256] = {
    let mut entries = [Entry::UNKNOWN; 256];
    let mut at = 0;
    while at < 256 {
        entries[at] = two_byte(at as u8);
        at += 1;
    }
    entries
};

/// Resolves a group of the one-byte map by the ModRM byte's middle field.
pub const fn one_byte_group(opcode: u8, reg: u8) -> Entry {
    let reg = reg as usize & 7;
    let size = size_of_opcode(opcode);
    match (opcode, reg) {
        (0x80 | 0x81, _) => of(ARITHMETIC[reg], Form::RmImm, size),
        (0x82, _) => special(ARITHMETIC[reg], Form::RmImm, size),
        (0x83, _) => of(ARITHMETIC[reg], Form::RmImm8, size),
        (0x8f, 0) => of(Op::Pop, Form::Rm, Size::Near),
        (0xc0 | 0xc1, _) => of(SHIFTS[reg], Form::RmImm8, size),
        (0xc6 | 0xc7, 0) => of(Op::Mov, Form::RmImm, size),
        (0xd0 | 0xd1, _) => of(SHIFTS[reg], Form::RmOne, size),
        (0xd2 | 0xd3, _) => of(SHIFTS[reg], Form::RmCl, size),
        (0xf6 | 0xf7, 0 | 1) => of(Op::Test, Form::RmImm, size),
        (0xf6 | 0xf7, _) => of([Op::Not, Op::Neg, Op::Mul, Op::Imul, Op::Div, Op::Idiv][reg - 2], Form::Rm, size),
        (0xfe | 0xff, 0) => of(Op::Inc, Form::Rm, size),
        (0xfe | 0xff, 1) => of(Op::Dec, Form::Rm, size),
        (0xff, 2) => of(Op::Call, Form::Rm, Size::Near),
        (0xff, 4) => of(Op::Jmp, Form::Rm, Size::Near),
        (0xff, 6) => of(Op::Push, Form::Rm, Size::Near),
        _ => Entry::UNKNOWN,
    }
}

/// Resolves a group of the map behind 0Fh.
pub const fn two_byte_group(opcode: u8, reg: u8) -> Entry {
    match (opcode, reg & 7) {
        (0x01, 4) => special(Op::Smsw, Form::Rm, Size::Full),
        (0x01, 6) => special(Op::Lmsw, Form::Rm, Size::Full),
        (0x01, 7) => special(Op::Invlpg, Form::Rm, Size::Byte),
        (0xba, 4) => of(Op::Bt, Form::RmImm8, Size::Full),
        (0xba, 5) => of(Op::Bts, Form::RmImm8, Size::Full),
        (0xba, 6) => of(Op::Btr, Form::RmImm8, Size::Full),
        (0xba, 7) => of(Op::Btc, Form::RmImm8, Size::Full),
        (0xc7, 1) => special(Op::CmpxchgWide, Form::Rm, Size::Full),
        _ => Entry::UNKNOWN,
    }
}

/// The prefix that selects among SSE instructions of one opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selector {
    /// None of them.
    None,
    /// 66h.
    Operand,
    /// F3h.
    Repeat,
    /// F2h.
    RepeatNot,
}

/// Whether an SSE operand must be aligned to its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aligned {
    /// It must: #GP(0) if it is not.
    Must,
    /// Only if alignment is checked.
    Need,
}

/// Resolves an SSE move: what it does, how many bytes it moves (0: 4, or 8 with REX.W), and how they must be aligned.
pub const fn vector(opcode: u8, selector: Selector) -> Option<(Operation, u8, Aligned)> {
    use Selector::{None as Plain, Operand, Repeat, RepeatNot};
    Some(match (opcode, selector) {
        (0x10, Plain | Operand) | (0x6f, Repeat) | (0xf0, RepeatNot) => (Op::VectorLoad, 16, Aligned::Need),
        (0x10, Repeat) => (Op::VectorLoad, 4, Aligned::Need),
        (0x10, RepeatNot) | (0x7e, Repeat) => (Op::VectorLoad, 8, Aligned::Need),
        (0x11, Plain | Operand) | (0x7f, Repeat) => (Op::VectorStore, 16, Aligned::Need),
        (0x11, Repeat) => (Op::VectorStore, 4, Aligned::Need),
        (0x11, RepeatNot) | (0x13, Plain | Operand) | (0xd6, Operand) => (Op::VectorStore, 8, Aligned::Need),
        (0x12, Plain | Operand) => (Op::VectorLoadLow, 8, Aligned::Need),
        (0x12, RepeatNot) => (Op::VectorLoadTwice, 8, Aligned::Need),
        (0x16, Plain | Operand) => (Op::VectorLoadHigh, 8, Aligned::Need),
        (0x17, Plain | Operand) => (Op::VectorStoreHigh, 8, Aligned::Need),
        (0x28, Plain | Operand) | (0x6f, Operand) => (Op::VectorLoad, 16, Aligned::Must),
        (0x29 | 0x2b, Plain | Operand) | (0x7f | 0xe7, Operand) => (Op::VectorStore, 16, Aligned::Must),
        (0x6e, Operand) => (Op::VectorLoad, 0, Aligned::Need),
        (0x7e, Operand) => (Op::VectorStore, 0, Aligned::Need),
        _ => return None,
    })
}
