//! An instruction's parts, out of its bytes (APM vol. 3, 1.2 to 1.7).

use super::{
    flags::mask,
    length::MAX_BYTES,
    machine::{CodeBits, SegmentName},
    opcode::{
        Aligned, Entry, Form, ONE_BYTE, Operation, Selector, Size, Special, TWO_BYTE, one_byte_group, two_byte_group, vector,
    },
};

use crate::plant::{Bug, planted};

/// No base or index register.
pub(super) const NO_REGISTER: u8 = 0xff;
/// RIP as the base: the displacement counts from the next instruction.
pub(super) const RIP: u8 = 0xfe;
const REX_W: u8 = 8;

/// How a string instruction repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// Once.
    No,
    /// REP, REPE.
    Equal,
    /// REPNE.
    NotEqual,
}

/// Whether a LOCK prefix stands before the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// It does.
    Locked,
    /// It does not.
    Plain,
}

/// How the second operand or memory is addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Base register, or one of two markers.
    pub(super) base: u8,
    /// Index register, or a marker.
    pub(super) index: u8,
    /// Base-2 logarithm of what the index is multiplied by.
    pub(super) scale: u8,
    /// The segment, overrides included.
    pub(super) segment: SegmentName,
    /// Sign-extended displacement.
    pub(super) displacement: u64,
}

impl Address {
    /// The offset in its segment: `register` gives general registers by encoding, `next` is RIP behind the instruction, addresses have `bytes` bytes.
    #[inline]
    pub(super) fn offset(&self, register: impl Fn(u8) -> u64, next: u64, bytes: u8) -> u64 {
        let mut offset = self.displacement;
        match self.base {
            NO_REGISTER => {}
            RIP => offset = offset.wrapping_add(next),
            base => offset = offset.wrapping_add(register(base)),
        }
        if self.index != NO_REGISTER {
            offset = offset.wrapping_add(register(self.index) << self.scale);
        }
        offset & mask(bytes)
    }
}

impl Instruction {
    /// The segment and the offset in it that the instruction's memory operand names, if it has one.
    pub fn memory_operand(&self, register: impl Fn(u8) -> u64, next: u64) -> Option<(SegmentName, u64)> {
        let Operand::Memory(address) = self.rm else { return None };
        Some((address.segment, address.offset(register, next, self.address_bytes)))
    }
}

/// The operand that a ModRM byte names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A register, by its encoding.
    Register(u8),
    /// Memory.
    Memory(Address),
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// What it does.
    pub operation: Operation,
    pub(super) form: Form,
    /// Bytes of its operands.
    pub bytes: u8,
    /// Bytes of the source operand.
    pub(super) source: u8,
    /// Bytes of addresses and string counts.
    pub(super) address_bytes: u8,
    /// Bytes of the instruction itself.
    pub length: u8,
    pub(super) repeat: Repeat,
    pub(super) lock: Lock,
    pub(super) aligned: Aligned,
    /// Whether 4 to 7 name AH to BH, for lack of a REX prefix.
    pub(super) high_bytes: bool,
    /// The condition, of SETcc and CMOVcc.
    pub(super) condition: u8,
    /// The register operand.
    pub(super) reg: u8,
    /// The other one.
    pub rm: Operand,
    /// The immediate operand, sign-extended.
    pub(super) immediate: u64,
}

/// Why bytes are not an instruction that can be carried out here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undecodable {
    /// It has more than 15 bytes: #GP(0).
    TooLong,
    /// #UD.
    Undefined,
    /// Another instruction than those that this crate carries out.
    Unknown,
}

/// What stands before the opcode.
struct Prefixes {
    operand: bool,
    address: bool,
    segment: Option<SegmentName>,
    repeat: Repeat,
    lock: Lock,
    rex: u8,
    code: CodeBits,
}

impl Prefixes {
    const fn none(code: CodeBits) -> Self {
        Self { operand: false, address: false, segment: None, repeat: Repeat::No, lock: Lock::Plain, rex: 0, code }
    }
}

struct Reader<'a> {
    bytes: &'a [u8; 16],
    at: u8,
}

impl Reader<'_> {
    /// The next byte; past the sixteenth, any byte: the instruction is too long anyway.
    #[inline(always)]
    const fn byte(&mut self) -> u8 {
        let byte = self.bytes[self.at as usize & 15];
        self.at += 1;
        byte
    }

    /// The next `bytes` bytes, 1, 2, 4 or 8, sign-extended.
    #[inline]
    fn signed(&mut self, bytes: u8) -> u64 {
        let from = usize::from(self.at);
        self.at += bytes;
        match bytes {
            1 => i64::from(self.bytes[from & 15] as i8) as u64,
            2 => i64::from(i16::from_le_bytes(self.array(from))) as u64,
            4 => i64::from(i32::from_le_bytes(self.array(from))) as u64,
            _ => u64::from_le_bytes(self.array(from)),
        }
    }

    #[inline]
    fn array<const N: usize>(&self, from: usize) -> [u8; N] {
        self.bytes.get(from..from + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
}

/// Decodes the instruction that begins the bytes. Whether so many bytes were there to be read, the caller sees by its length.
///
/// # Errors
/// Why it is none that can be carried out; its length is not known then.
#[inline]
pub fn decode(bytes: &[u8; 16], code: CodeBits) -> Result<Instruction, Undecodable> {
    let mut reader = Reader { bytes, at: 0 };
    let mut prefixes = Prefixes::none(code);
    let mut opcode = reader.byte();
    let mut entry = &ONE_BYTE[usize::from(opcode)];
    if matches!(entry.form, Form::Prefix | Form::Rex) {
        opcode = read_prefixes(&mut reader, &mut prefixes, opcode)?;
        entry = &ONE_BYTE[usize::from(opcode)];
    }
    let (mut map, other);
    map = Map::One;
    if entry.form == Form::Escape {
        (map, opcode, other) = escaped(&mut reader, &prefixes);
        entry = &other;
    }
    let modrm = if entry.form.has_modrm() { reader.byte() } else { 0xc0 };
    let grouped;
    if entry.form == Form::Group {
        let group = if map == Map::One { one_byte_group } else { two_byte_group };
        grouped = group(opcode, modrm >> 3);
        entry = &grouped;
    }
    if matches!(entry.form, Form::Unknown | Form::Rex) {
        return Err(Undecodable::Unknown);
    }
    let rex = prefixes.rex;
    let address_bytes = address_bytes(&prefixes);
    let bytes = operand_bytes(entry.size, &prefixes);
    let mut insn = Instruction {
        operation: entry.operation,
        form: entry.form,
        bytes,
        source: if entry.source == 0 { bytes } else { entry.source },
        address_bytes,
        length: 0,
        repeat: prefixes.repeat,
        lock: prefixes.lock,
        aligned: Aligned::Need,
        high_bytes: rex == 0,
        condition: opcode & 15,
        reg: (modrm >> 3 & 7) | (rex & 4) << 1,
        rm: Operand::Register((modrm & 7) | (rex & 1) << 3),
        immediate: 0,
    };
    if modrm < 0xc0 {
        insn.rm = Operand::Memory(address(&mut reader, &prefixes, modrm, address_bytes));
    }
    if entry.special == Special::Yes {
        check_mode(map, opcode, &prefixes)?;
        finish_special(&mut insn, map, opcode, &prefixes)?;
    }
    if !matches!(insn.form, Form::RmReg | Form::RegRm) {
        read_rest(&mut reader, &mut insn, &prefixes, opcode);
    }
    insn.length = reader.at;
    if usize::from(reader.at) > MAX_BYTES {
        return Err(Undecodable::TooLong);
    }
    if insn.lock == Lock::Locked {
        check_lock(&insn)?;
    }
    Ok(insn)
}

/// Reads what follows the operands, and names those that only the opcode implies.
#[inline]
fn read_rest(reader: &mut Reader<'_>, insn: &mut Instruction, prefixes: &Prefixes, opcode: u8) {
    let segment = prefixes.segment.unwrap_or(SegmentName::Ds);
    let plain = Address { base: NO_REGISTER, index: NO_REGISTER, scale: 0, segment, displacement: 0 };
    match insn.form {
        Form::AccOffset | Form::OffsetAcc => {
            insn.reg = 0;
            insn.rm = Operand::Memory(Address { displacement: reader.signed(insn.address_bytes), ..plain });
        }
        Form::OpcodeReg => insn.reg = (opcode & 7) | (prefixes.rex & 1) << 3,
        Form::Imm | Form::RmImm | Form::RegRmImm | Form::Relative => insn.immediate = reader.signed(insn.bytes.min(4)),
        Form::Imm8 | Form::RmImm8 | Form::RegRmImm8 | Form::RmRegImm8 => insn.immediate = reader.signed(1),
        Form::Imm16 => insn.immediate = reader.signed(2) & 0xffff,
        Form::Implied if insn.operation == Operation::PushSegment => insn.reg = opcode >> 3 & 7,
        Form::Implied => insn.rm = Operand::Memory(plain),
        _ => {}
    }
}

/// Which opcode map an opcode belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    One,
    /// Behind 0Fh.
    Two,
    /// Behind 0F38h.
    Three,
}

/// Reads an opcode of more than one byte.
fn escaped(reader: &mut Reader<'_>, prefixes: &Prefixes) -> (Map, u8, Entry) {
    match reader.byte() {
        0x38 => {
            let opcode = reader.byte();
            (Map::Three, opcode, three_byte(opcode, prefixes))
        }
        opcode => (Map::Two, opcode, TWO_BYTE[usize::from(opcode)]),
    }
}

/// Reads prefixes, of which `byte` is the first, and returns the first byte of the opcode. A REX prefix counts only right before it.
#[inline]
fn read_prefixes(reader: &mut Reader<'_>, found: &mut Prefixes, mut byte: u8) -> Result<u8, Undecodable> {
    let long = found.code == CodeBits::Bits64;
    while usize::from(reader.at) <= MAX_BYTES {
        let rex = core::mem::take(&mut found.rex);
        match byte {
            0x66 => found.operand = true,
            0x67 => found.address = true,
            // In 64-bit mode these four are ignored, and leave an earlier FS or GS prefix in force.
            0x26 | 0x2e | 0x36 | 0x3e if long => {}
            0x26 | 0x2e | 0x36 | 0x3e => found.segment = SegmentName::from_encoding(byte >> 3 & 3),
            0x64 => found.segment = Some(SegmentName::Fs),
            0x65 => found.segment = Some(SegmentName::Gs),
            0xf0 => found.lock = Lock::Locked,
            0xf2 => found.repeat = Repeat::NotEqual,
            0xf3 => found.repeat = Repeat::Equal,
            0x40..=0x4f if long => found.rex = byte,
            _ => {
                found.rex = rex;
                return Ok(byte);
            }
        }
        byte = reader.byte();
    }
    Err(Undecodable::TooLong)
}

const fn address_bytes(prefixes: &Prefixes) -> u8 {
    match (prefixes.code, prefixes.address) {
        (CodeBits::Bits64, false) => 8,
        (CodeBits::Bits64, true) | (CodeBits::Bits32, false) | (CodeBits::Bits16, true) => 4,
        (CodeBits::Bits32, true) | (CodeBits::Bits16, false) => 2,
    }
}

const fn operand_bytes(size: Size, prefixes: &Prefixes) -> u8 {
    let long = matches!(prefixes.code, CodeBits::Bits64);
    match size {
        Size::Byte => 1,
        _ if long && prefixes.rex & REX_W != 0 => 8,
        Size::Near if long => {
            if prefixes.operand {
                2
            } else {
                8
            }
        }
        _ if prefixes.operand != matches!(prefixes.code, CodeBits::Bits16) => 2,
        _ => 4,
    }
}

/// The map behind 0F38h: MOVBE and one SSE move.
fn three_byte(opcode: u8, prefixes: &Prefixes) -> Entry {
    let (operation, form) = match opcode {
        0xf0 if prefixes.repeat == Repeat::No => (Operation::Movbe, Form::RegRm),
        0xf1 if prefixes.repeat == Repeat::No => (Operation::Movbe, Form::RmReg),
        0x2a if prefixes.repeat == Repeat::No && prefixes.operand => (Operation::VectorLoad, Form::Vector),
        _ => return Entry::UNKNOWN,
    };
    Entry { operation, form, size: Size::Full, source: 0, special: Special::Yes }
}

/// Refuses what an opcode is not in this mode or with these prefixes.
fn check_mode(map: Map, opcode: u8, prefixes: &Prefixes) -> Result<(), Undecodable> {
    let long = prefixes.code == CodeBits::Bits64;
    let unknown = match (map, opcode) {
        // ARPL.
        (Map::One, 0x63) => !long,
        (Map::One, 0x06 | 0x0e | 0x16 | 0x1e | 0x82) if long => return Err(Undecodable::Undefined),
        // POPCNT; TZCNT and LZCNT are other instructions than BSF and BSR.
        (Map::Two, 0xb8) => prefixes.repeat != Repeat::Equal,
        (Map::Two, 0xbc | 0xbd) => prefixes.repeat == Repeat::Equal,
        (Map::Two, 0xc3) => prefixes.operand || prefixes.repeat != Repeat::No,
        _ => false,
    };
    if unknown { Err(Undecodable::Unknown) } else { Ok(()) }
}

/// Completes instructions whose size or meaning their opcode alone does not tell.
#[inline]
fn finish_special(insn: &mut Instruction, map: Map, opcode: u8, prefixes: &Prefixes) -> Result<(), Undecodable> {
    match insn.form {
        Form::Vector => {
            let in_memory = matches!(insn.rm, Operand::Memory(_));
            let found = if map == Map::Three {
                Some((Operation::VectorLoad, 16, Aligned::Must))
            } else {
                vector(opcode, selector(prefixes))
            };
            let (operation, bytes, aligned) = found.filter(|_| in_memory).ok_or(Undecodable::Unknown)?;
            insn.operation = operation;
            insn.aligned = aligned;
            let wide = prefixes.code == CodeBits::Bits64 && prefixes.rex & REX_W != 0;
            insn.bytes = if bytes != 0 {
                bytes
            } else if wide {
                8
            } else {
                4
            };
        }
        Form::RmReg if insn.operation == Operation::MovSegment => {
            // REX.R means nothing here.
            insn.reg &= 7;
            if insn.reg > 5 {
                return Err(Undecodable::Undefined);
            }
        }
        Form::RmReg | Form::RegRm | Form::Rm => {
            let memory_only = match insn.operation {
                Operation::Movbe => true,
                // With a register it is SWAPGS and others.
                Operation::Invlpg if matches!(insn.rm, Operand::Register(_)) => return Err(Undecodable::Unknown),
                Operation::Smsw | Operation::Lmsw => {
                    if insn.operation == Operation::Lmsw || matches!(insn.rm, Operand::Memory(_)) {
                        insn.bytes = 2;
                    }
                    false
                }
                Operation::CmpxchgWide => {
                    insn.bytes = if insn.bytes == 8 { 16 } else { 8 };
                    true
                }
                // MOVNTI, which has no 16-bit form.
                Operation::Mov if map == Map::Two => {
                    insn.bytes = insn.bytes.max(4);
                    true
                }
                _ => false,
            };
            if memory_only && matches!(insn.rm, Operand::Register(_)) {
                return Err(Undecodable::Undefined);
            }
        }
        // The form of a string instruction's element has no 64-bit port.
        Form::Implied if matches!(insn.operation, Operation::Ins | Operation::Outs) => insn.bytes = insn.bytes.min(4),
        _ => {}
    }
    Ok(())
}

const fn selector(prefixes: &Prefixes) -> Selector {
    match prefixes.repeat {
        Repeat::Equal => Selector::Repeat,
        Repeat::NotEqual => Selector::RepeatNot,
        Repeat::No if prefixes.operand => Selector::Operand,
        Repeat::No => Selector::None,
    }
}

/// LOCK is #UD but before these with a destination in memory (APM vol. 3, 1.2.5).
fn check_lock(insn: &Instruction) -> Result<(), Undecodable> {
    use Operation as Op;
    let in_memory =
        matches!(insn.rm, Operand::Memory(_)) && matches!(insn.form, Form::RmReg | Form::RmImm | Form::RmImm8 | Form::Rm);
    let lockable = matches!(
        insn.operation,
        Op::Add
            | Op::Or
            | Op::Adc
            | Op::Sbb
            | Op::And
            | Op::Sub
            | Op::Xor
            | Op::Not
            | Op::Neg
            | Op::Inc
            | Op::Dec
            | Op::Xchg
            | Op::Xadd
            | Op::Cmpxchg
            | Op::CmpxchgWide
            | Op::Bts
            | Op::Btr
            | Op::Btc
    );
    if (in_memory && lockable) || planted(Bug::LockPrefixIsIgnored) { Ok(()) } else { Err(Undecodable::Undefined) }
}

/// Reads the memory operand that a ModRM byte names: SIB byte and displacement.
#[inline]
fn address(reader: &mut Reader<'_>, prefixes: &Prefixes, modrm: u8, address_bytes: u8) -> Address {
    let (kind, low) = (modrm >> 6, modrm & 7);
    if address_bytes == 2 {
        return address_16(reader, prefixes, kind, low);
    }
    let rex = prefixes.rex;
    let (mut base, mut index, mut scale) = (low | (rex & 1) << 3, NO_REGISTER, 0);
    if low == 4 {
        let sib = reader.byte();
        scale = sib >> 6;
        let named = (sib >> 3 & 7) | (rex & 2) << 2;
        index = if named == 4 { NO_REGISTER } else { named };
        base = (sib & 7) | (rex & 1) << 3;
        if sib & 7 == 5 && kind == 0 {
            base = NO_REGISTER;
        }
    } else if low == 5 && kind == 0 {
        base = if prefixes.code == CodeBits::Bits64 { RIP } else { NO_REGISTER };
    }
    let displacement = match kind {
        1 => reader.signed(1),
        2 => reader.signed(4),
        _ if base >= RIP => reader.signed(4),
        _ => 0,
    };
    let default = if matches!(base, 4 | 5) { SegmentName::Ss } else { SegmentName::Ds };
    Address { base, index, scale, segment: prefixes.segment.unwrap_or(default), displacement }
}

/// The eight pairs of 16-bit addressing: BX+SI, BX+DI, BP+SI, BP+DI, SI, DI, BP, BX.
fn address_16(reader: &mut Reader<'_>, prefixes: &Prefixes, kind: u8, low: u8) -> Address {
    const PAIRS: [(u8, u8); 8] =
        [(3, 6), (3, 7), (5, 6), (5, 7), (6, NO_REGISTER), (7, NO_REGISTER), (5, NO_REGISTER), (3, NO_REGISTER)];
    let (mut base, index) = PAIRS[usize::from(low & 7)];
    let displacement = match (kind, low) {
        (0, 6) => {
            base = NO_REGISTER;
            reader.signed(2)
        }
        (1, _) => reader.signed(1),
        (2, _) => reader.signed(2),
        _ => 0,
    };
    let default = if base == 5 { SegmentName::Ss } else { SegmentName::Ds };
    Address { base, index, scale: 0, segment: prefixes.segment.unwrap_or(default), displacement }
}
