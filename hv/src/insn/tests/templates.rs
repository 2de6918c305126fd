//! The opcodes that random instructions are made of: every one that the emulator knows and that accesses memory by an operand of its own.

use super::Code;

/// Flags that an instruction leaves undefined.
pub mod flag {
    pub const CF: u64 = 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const ALL: u64 = CF | PF | AF | ZF | SF | OF;
}

/// What follows the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// A ModRM byte.
    Rm,
    /// A ModRM byte, an immediate of one byte.
    RmByte,
    /// A ModRM byte, an immediate of the operand's size, 4 bytes at the most.
    RmFull,
    /// An address.
    Offset,
    /// Nothing.
    None,
    /// An immediate of one byte.
    Byte,
    /// An immediate of the operand's size, 4 bytes at the most.
    Full,
    /// Two bytes.
    Two,
    /// A displacement of zero: what follows.
    Ahead,
}

/// What the instruction needs around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// A LOCK prefix is allowed.
    Lockable,
    /// A shift count; which flags are defined depends on it.
    Shift,
    /// SHLD, SHRD.
    DoubleShift,
    /// A bit offset that stays inside the window.
    Bit,
    /// A divisor and dividend that mostly fit.
    Divide,
    /// RSI and RDI.
    String,
    /// The operand is an address of code.
    Branch,
    /// It calls what follows.
    Call,
    /// The top of the stack is an address of code.
    Return,
    /// RBP points to the window.
    Leave,
    /// EBX and AL.
    Xlat,
    /// The ModRM byte's register is a segment register.
    Segment,
    /// The prefix is part of the opcode.
    Vector,
    /// The same, and the operand must be aligned.
    Aligned,
    /// CMPXCHG8B, CMPXCHG16B: the latter must be aligned.
    Wide,
    /// The prefix is part of the opcode, general registers.
    Prefixed,
    /// A push or pop.
    Stack,
}

/// An opcode, and how to make instructions of it.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// 0, 0Fh or 38h.
    pub map: u8,
    pub opcode: u8,
    /// The ModRM byte's middle field, where it is part of the opcode; else [`ANY`].
    pub digit: u8,
    pub tail: Tail,
    pub kind: Kind,
    /// 66h, F2h, F3h, or 0.
    pub prefix: u8,
    pub undefined: u64,
}

pub const ANY: u8 = 8;

impl Template {
    /// Whether code of that size has the opcode.
    pub const fn exists_in(&self, code: Code) -> bool {
        let long = matches!(code, Code::Bits64);
        match (self.map, self.opcode) {
            // ARPL elsewhere.
            (0, 0x63) => long,
            (0, 0x06 | 0x0e | 0x16 | 0x1e | 0x82) => !long,
            _ => true,
        }
    }
}

const fn of(map: u8, opcode: u8, digit: u8, tail: Tail, kind: Kind, undefined: u64) -> Template {
    Template { map, opcode, digit, tail, kind, prefix: 0, undefined }
}

const fn sse(prefix: u8, opcode: u8, kind: Kind) -> Template {
    Template { prefix, ..of(0x0f, opcode, ANY, Tail::Rm, kind, 0) }
}

/// How many opcodes there are.
pub const TEMPLATES: usize = count();

const MOST: usize = 320;
const LIST: ([Template; MOST], usize) = list();
pub static ALL: [Template; MOST] = LIST.0;

const fn count() -> usize {
    LIST.1
}

const fn list() -> ([Template; MOST], usize) {
    use Kind::*;
    use Tail::*;
    use flag::*;
    let mut all = [of(0, 0x88, ANY, Rm, Plain, 0); MOST];
    let mut at = 0;
    macro_rules! add {
        ($template:expr) => {
            all[at] = $template;
            at += 1;
        };
    }
    let mut op = 0;
    while op < 8 {
        let undefined = if matches!(op, 1 | 4 | 6) { AF } else { 0 };
        let kind = if op == 7 { Plain } else { Lockable };
        add!(of(0, op << 3, ANY, Rm, kind, undefined));
        add!(of(0, op << 3 | 1, ANY, Rm, kind, undefined));
        add!(of(0, op << 3 | 2, ANY, Rm, Plain, undefined));
        add!(of(0, op << 3 | 3, ANY, Rm, Plain, undefined));
        add!(of(0, 0x80, op, RmByte, kind, undefined));
        add!(of(0, 0x81, op, RmFull, kind, undefined));
        add!(of(0, 0x82, op, RmByte, kind, undefined));
        add!(of(0, 0x83, op, RmByte, kind, undefined));
        let undefined = if op < 4 { OF } else { OF | AF };
        add!(of(0, 0xc0, op, RmByte, Shift, undefined));
        add!(of(0, 0xc1, op, RmByte, Shift, undefined));
        add!(of(0, 0xd2, op, Rm, Shift, undefined));
        add!(of(0, 0xd3, op, Rm, Shift, undefined));
        add!(of(0, 0xd0, op, Rm, Plain, undefined & !OF));
        add!(of(0, 0xd1, op, Rm, Plain, undefined & !OF));
        op += 1;
    }
    let mut condition = 0;
    while condition < 16 {
        add!(of(0x0f, 0x40 | condition, ANY, Rm, Plain, 0));
        add!(of(0x0f, 0x90 | condition, ANY, Rm, Plain, 0));
        condition += 1;
    }
    let mut odd = 0;
    while odd < 2 {
        add!(of(0, 0x84 | odd, ANY, Rm, Plain, AF));
        add!(of(0, 0x86 | odd, ANY, Rm, Lockable, 0));
        add!(of(0, 0x88 | odd, ANY, Rm, Plain, 0));
        add!(of(0, 0x8a | odd, ANY, Rm, Plain, 0));
        add!(of(0, 0xa0 | odd, ANY, Offset, Plain, 0));
        add!(of(0, 0xa2 | odd, ANY, Offset, Plain, 0));
        add!(of(0, 0xa4 | odd, ANY, None, String, 0));
        add!(of(0, 0xa6 | odd, ANY, None, String, 0));
        add!(of(0, 0xaa | odd, ANY, None, String, 0));
        add!(of(0, 0xac | odd, ANY, None, String, 0));
        add!(of(0, 0xae | odd, ANY, None, String, 0));
        add!(of(0, 0xc6 | odd, 0, if odd == 0 { RmByte } else { RmFull }, Plain, 0));
        add!(of(0, 0xf6 | odd, 0, if odd == 0 { RmByte } else { RmFull }, Plain, AF));
        add!(of(0, 0xf6 | odd, 1, if odd == 0 { RmByte } else { RmFull }, Plain, AF));
        add!(of(0, 0xf6 | odd, 2, Rm, Lockable, 0));
        add!(of(0, 0xf6 | odd, 3, Rm, Lockable, 0));
        add!(of(0, 0xf6 | odd, 4, Rm, Plain, SF | ZF | AF | PF));
        add!(of(0, 0xf6 | odd, 5, Rm, Plain, SF | ZF | AF | PF));
        add!(of(0, 0xf6 | odd, 6, Rm, Divide, ALL));
        add!(of(0, 0xf6 | odd, 7, Rm, Divide, ALL));
        add!(of(0, 0xfe | odd, 0, Rm, Lockable, 0));
        add!(of(0, 0xfe | odd, 1, Rm, Lockable, 0));
        add!(of(0x0f, 0xb0 | odd, ANY, Rm, Lockable, 0));
        add!(of(0x0f, 0xb6 | odd, ANY, Rm, Plain, 0));
        add!(of(0x0f, 0xbe | odd, ANY, Rm, Plain, 0));
        add!(of(0x0f, 0xc0 | odd, ANY, Rm, Lockable, 0));
        add!(of(0x38, 0xf0 | odd, ANY, Rm, Plain, 0));
        odd += 1;
    }
    add!(of(0, 0x63, ANY, Rm, Plain, 0));
    add!(of(0, 0x69, ANY, RmFull, Plain, SF | ZF | AF | PF));
    add!(of(0, 0x6b, ANY, RmByte, Plain, SF | ZF | AF | PF));
    add!(of(0x0f, 0xaf, ANY, Rm, Plain, SF | ZF | AF | PF));
    add!(of(0, 0x8c, ANY, Rm, Segment, 0));
    add!(of(0, 0x8f, 0, Rm, Stack, 0));
    add!(of(0, 0xff, 6, Rm, Stack, 0));
    add!(of(0, 0x50, ANY, None, Stack, 0));
    add!(of(0, 0x56, ANY, None, Stack, 0));
    add!(of(0, 0x5b, ANY, None, Stack, 0));
    add!(of(0, 0x06, ANY, None, Stack, 0));
    add!(of(0, 0x0e, ANY, None, Stack, 0));
    add!(of(0, 0x16, ANY, None, Stack, 0));
    add!(of(0, 0x1e, ANY, None, Stack, 0));
    add!(of(0x0f, 0xa0, ANY, None, Stack, 0));
    add!(of(0x0f, 0xa8, ANY, None, Stack, 0));
    add!(of(0, 0x68, ANY, Full, Stack, 0));
    add!(of(0, 0x6a, ANY, Byte, Stack, 0));
    add!(of(0, 0x9c, ANY, None, Stack, 0));
    add!(of(0, 0xc9, ANY, None, Leave, 0));
    add!(of(0, 0xd7, ANY, None, Xlat, 0));
    add!(of(0, 0xff, 2, Rm, Branch, 0));
    add!(of(0, 0xff, 4, Rm, Branch, 0));
    add!(of(0, 0xe8, ANY, Ahead, Call, 0));
    add!(of(0, 0xc2, ANY, Two, Return, 0));
    add!(of(0, 0xc3, ANY, None, Return, 0));
    add!(of(0x0f, 0xa3, ANY, Rm, Bit, ALL & !CF));
    add!(of(0x0f, 0xab, ANY, Rm, Bit, ALL & !CF));
    add!(of(0x0f, 0xb3, ANY, Rm, Bit, ALL & !CF));
    add!(of(0x0f, 0xbb, ANY, Rm, Bit, ALL & !CF));
    add!(of(0x0f, 0xba, 4, RmByte, Plain, ALL & !CF));
    add!(of(0x0f, 0xba, 5, RmByte, Lockable, ALL & !CF));
    add!(of(0x0f, 0xba, 6, RmByte, Lockable, ALL & !CF));
    add!(of(0x0f, 0xba, 7, RmByte, Lockable, ALL & !CF));
    add!(of(0x0f, 0xa4, ANY, RmByte, DoubleShift, OF | AF));
    add!(of(0x0f, 0xa5, ANY, Rm, DoubleShift, OF | AF));
    add!(of(0x0f, 0xac, ANY, RmByte, DoubleShift, OF | AF));
    add!(of(0x0f, 0xad, ANY, Rm, DoubleShift, OF | AF));
    add!(of(0x0f, 0xbc, ANY, Rm, Plain, ALL & !ZF));
    add!(of(0x0f, 0xbd, ANY, Rm, Plain, ALL & !ZF));
    add!(of(0x0f, 0xc7, 1, Rm, Wide, 0));
    add!(of(0x0f, 0x0d, ANY, Rm, Plain, 0));
    add!(of(0x0f, 0x18, ANY, Rm, Plain, 0));
    add!(of(0x0f, 0x1f, ANY, Rm, Plain, 0));
    add!(Template { prefix: 0xf3, ..of(0x0f, 0xb8, ANY, Rm, Prefixed, 0) });
    add!(Template { prefix: 0, ..of(0x0f, 0xc3, ANY, Rm, Prefixed, 0) });
    let mut packed = 0;
    while packed < 2 {
        let prefix = if packed == 0 { 0 } else { 0x66 };
        add!(sse(prefix, 0x10, Vector));
        add!(sse(prefix, 0x11, Vector));
        add!(sse(prefix, 0x12, Vector));
        add!(sse(prefix, 0x13, Vector));
        add!(sse(prefix, 0x16, Vector));
        add!(sse(prefix, 0x17, Vector));
        add!(sse(prefix, 0x28, Aligned));
        add!(sse(prefix, 0x29, Aligned));
        add!(sse(prefix, 0x2b, Aligned));
        packed += 1;
    }
    add!(sse(0xf3, 0x10, Vector));
    add!(sse(0xf2, 0x10, Vector));
    add!(sse(0xf3, 0x11, Vector));
    add!(sse(0xf2, 0x11, Vector));
    add!(sse(0xf2, 0x12, Vector));
    add!(sse(0x66, 0x6e, Vector));
    add!(sse(0x66, 0x7e, Vector));
    add!(sse(0xf3, 0x7e, Vector));
    add!(sse(0x66, 0xd6, Vector));
    add!(sse(0x66, 0x6f, Aligned));
    add!(sse(0xf3, 0x6f, Vector));
    add!(sse(0x66, 0x7f, Aligned));
    add!(sse(0xf3, 0x7f, Vector));
    add!(sse(0x66, 0xe7, Aligned));
    add!(sse(0xf2, 0xf0, Vector));
    add!(Template { prefix: 0x66, ..of(0x38, 0x2a, ANY, Rm, Aligned, 0) });
    (all, at)
}
