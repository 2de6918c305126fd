//! Random instructions with an operand in a window of memory, and registers that make them reach it.
//!
//! It knows neither std nor the crate around it, so that a guest can use it too: what it makes is carried out by the processor and by
//! the emulator, and the two are compared.

#[path = "templates.rs"]
mod templates;

use templates::{ALL, ANY, Kind, Tail, Template};
pub use templates::{TEMPLATES, flag};

/// xorshift64*: good enough to vary cases, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// A number of the kind that shows mistakes: edges, small ones, any.
    pub fn value(&mut self) -> u64 {
        let shift = self.below(64);
        match self.below(6) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << shift,
            2 => (1u64 << shift).wrapping_sub(1),
            3 => [0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff][self.below(9) as usize],
            _ => self.next(),
        }
    }
}

/// Default size of operands and addresses of the code, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "not every user makes all of them")]
pub enum Code {
    Bits16 = 2,
    Bits32 = 4,
    Bits64 = 8,
}

/// Whether code of that size has the opcode of a template.
#[allow(dead_code, reason = "not every user asks")]
pub fn exists(template: usize, code: Code) -> bool {
    ALL[template].exists_in(code)
}

/// Whether instructions are made of an opcode, with that middle field of the ModRM byte behind it and that prefix before it.
#[allow(dead_code, reason = "not every user asks")]
pub fn is_made(map: u8, opcode: u8, digit: u8, prefix: u8) -> bool {
    // PUSH and POP of any register are one.
    let family = |opcode: u8| if map == 0 && matches!(opcode, 0x50..=0x5f) { opcode & !7 } else { opcode };
    let of_vectors = |kind: Kind| matches!(kind, Kind::Vector | Kind::Aligned);
    ALL[..TEMPLATES].iter().any(|of| {
        (of.map, family(of.opcode)) == (map, family(opcode))
            && (of.digit == ANY || of.digit == digit)
            && (!of_vectors(of.kind) || of.prefix == prefix)
    })
}

/// Where the code is, and the window that operands lie in, as the instruction addresses it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Default sizes.
    pub code: Code,
    /// Offset of the instruction in the code segment.
    pub rip: u64,
    /// Offset of the window in the data segments.
    pub window: u64,
    /// The window's bytes that are there; behind them accesses fault.
    pub bytes: u64,
}

/// An instruction, and what it starts with.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub template: usize,
    pub bytes: [u8; 16],
    pub len: usize,
    pub registers: [u64; 16],
    pub flags: u64,
    /// Flags that it leaves undefined.
    pub undefined: u64,
    /// An offset in the window, and the bytes to put there.
    pub plant: Option<(u64, u64)>,
    /// Whether its result is defined.
    pub comparable: bool,
    /// 0, 0Fh or 38h for its map; its opcode; the ModRM byte's middle field, where that is part of the opcode.
    pub opcode: (u8, u8, u8),
    /// Whether it has a 66h prefix that REX.W overrides.
    pub overridden: bool,
}

struct Maker<'a> {
    random: &'a mut Random,
    place: Place,
    case: Case,
    /// The register operand, REX.R included.
    reg: usize,
    /// Registers that the operand's address depends on, a bit each.
    used: u16,
}

/// Makes a case; `None` for an opcode that this mode does not have.
pub fn case(random: &mut Random, place: Place) -> Option<Case> {
    let template = random.below(TEMPLATES as u64) as usize;
    let mut registers = [0; 16];
    registers.iter_mut().for_each(|register| *register = random.value());
    let flags = random.next() & (flag::ALL | flag::DF) | 2;
    let case = Case {
        template,
        bytes: [0; 16],
        len: 0,
        registers,
        flags,
        undefined: 0,
        plant: None,
        comparable: true,
        opcode: (0, 0, 0),
        overridden: false,
    };
    Maker { random, place, case, reg: 0, used: 0 }.make(ALL[template])
}

const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

impl Maker<'_> {
    fn byte(&mut self, byte: u8) {
        self.case.bytes[self.case.len] = byte;
        self.case.len += 1;
    }

    fn bytes(&mut self, value: u64, count: u64) {
        for at in 0..count {
            self.byte((value >> (8 * at)) as u8);
        }
    }

    /// A place in the window for an operand: across a boundary of pages, at the end, aligned, anywhere.
    fn target(&mut self, bytes: u64, align: u64) -> u64 {
        let end = self.place.bytes;
        let offset = match self.random.below(8) {
            0 => 4096 - self.random.below(bytes + 1),
            1 => end - self.random.below(bytes + 2).min(end),
            2 | 3 => self.random.below(end / 16) * 16,
            _ => self.random.below(end - 64) + 16,
        };
        let aligned = align > 1 && !self.random.one_in(16);
        if aligned { offset / align * align } else { offset }
    }

    fn make(mut self, of: Template) -> Option<Case> {
        let long = self.place.code == Code::Bits64;
        if !of.exists_in(self.place.code) {
            return None;
        }
        let is_vector = matches!(of.kind, Kind::Vector | Kind::Aligned);
        let own_prefix = is_vector || of.kind == Kind::Prefixed;
        // Branches of 16 bits may not reach the code that takes over behind them.
        let branches = matches!(of.kind, Kind::Branch | Kind::Call | Kind::Return) && self.place.rip >= 0x1_0000;
        let operand_prefix = !own_prefix && !branches && self.random.one_in(4)
            || of.kind == Kind::Prefixed && of.opcode == 0xb8 && self.random.one_in(4);
        let address_prefix = self.random.one_in(8) && self.place.window < 0x1_0000_0000;
        let wide = long && self.random.one_in(3);
        let repeats = of.kind == Kind::String && self.random.one_in(2);
        let address_bytes = self.address_bytes(address_prefix)?;
        if operand_prefix {
            self.byte(0x66);
        }
        if address_prefix {
            self.byte(0x67);
        }
        if self.random.one_in(8) {
            // ES, SS, DS: the same segment here, or ignored.
            let prefix = [0x26, 0x36, 0x3e][self.random.below(3) as usize];
            self.byte(prefix);
        }
        if of.kind == Kind::Lockable && of.map != 0x38 && self.random.one_in(4) {
            self.byte(0xf0);
        }
        if repeats {
            let prefix = 0xf2 | (self.random.next() as u8 & 1);
            self.byte(prefix);
        }
        if of.prefix != 0 {
            self.byte(of.prefix);
        }
        let operand = self.operand_bytes(&of, operand_prefix, wide);
        let rex_at = self.case.len;
        let rex = if long && (wide || self.random.one_in(2)) { 0x40 | u8::from(wide) << 3 } else { 0 };
        if rex != 0 {
            self.byte(rex);
        }
        match of.map {
            0 => {}
            0x0f => self.byte(0x0f),
            _ => self.bytes(0x380f, 2),
        }
        self.byte(of.opcode);
        self.case.undefined = of.undefined;
        self.case.opcode = (of.map, of.opcode, of.digit);
        self.case.overridden = operand_prefix && wide;
        let align = match of.kind {
            Kind::Aligned => 16,
            Kind::Wide => operand,
            _ => 1,
        };
        let mut target = self.target(operand, align);
        if of.kind == Kind::Bit {
            // The bit offset in the register moves the operand.
            target = target.clamp(512, self.place.bytes - 512);
        }
        match of.tail {
            Tail::Rm | Tail::RmByte | Tail::RmFull => self.modrm(&of, target, address_bytes, rex_at, rex),
            Tail::Offset => {
                let offset = self.place.window + target;
                self.bytes(offset, address_bytes);
            }
            _ => {}
        }
        self.immediate(&of, operand);
        self.surroundings(&of, target, operand, repeats);
        Some(self.case)
    }

    /// Bytes of an address; `None` if they do not reach the window.
    fn address_bytes(&self, prefix: bool) -> Option<u64> {
        let bytes = match (self.place.code, prefix) {
            (Code::Bits64, false) => 8,
            (Code::Bits64, true) | (Code::Bits32, false) | (Code::Bits16, true) => 4,
            _ => 2,
        };
        (bytes == 8 || self.place.window + self.place.bytes + 64 < 1 << (8 * bytes)).then_some(bytes)
    }

    fn operand_bytes(&self, of: &Template, prefix: bool, wide: bool) -> u64 {
        let long = self.place.code == Code::Bits64;
        let near = matches!(of.kind, Kind::Stack | Kind::Branch | Kind::Call | Kind::Return | Kind::Leave);
        let full = match (wide, near && long, prefix != (self.place.code == Code::Bits16)) {
            (true, ..) => 8,
            (_, true, _) if !prefix => 8,
            (_, _, true) => 2,
            _ => 4,
        };
        match (of.map, of.opcode) {
            _ if of.kind == Kind::Wide => {
                if wide {
                    16
                } else {
                    8
                }
            }
            _ if of.kind == Kind::Aligned => 16,
            (0x0f, 0x6e) => {
                if wide {
                    8
                } else {
                    4
                }
            }
            (0x0f, 0x7e) if of.prefix == 0x66 => {
                if wide {
                    8
                } else {
                    4
                }
            }
            (0x0f, 0x10 | 0x11) if of.prefix == 0xf3 => 4,
            (0x0f, 0x10..=0x12) if of.prefix == 0xf2 => 8,
            (0x0f, 0x12 | 0x13 | 0x16 | 0x17 | 0x7e | 0xd6) => 8,
            _ if of.kind == Kind::Vector => 16,
            (0x0f, 0x90..=0x9f | 0xb0 | 0xb6 | 0xbe | 0xc0) => 1,
            (0x0f, 0xb7 | 0xbf) | (0, 0x8c) => 2,
            (0, 0x63) => 4,
            (0, 0x69 | 0x6b | 0x81 | 0x83 | 0x8f) | (0x0f, _) | (0x38, _) => full,
            (0, opcode) if near || opcode & 1 == 1 => full,
            _ => 1,
        }
    }

    /// A ModRM byte with what belongs to it, and registers that lead to the target.
    fn modrm(&mut self, of: &Template, target: u64, address_bytes: u64, rex_at: usize, rex: u8) {
        let offset = self.place.window + target;
        let mut reg = if of.digit == ANY { self.random.below(8) as u8 } else { of.digit };
        if of.kind == Kind::Segment {
            reg %= 6;
        }
        self.reg = usize::from(reg);
        if rex != 0 && of.digit == ANY && of.kind != Kind::Segment {
            let high = self.random.below(2) as u8;
            self.case.bytes[rex_at] |= high << 2;
            self.reg |= usize::from(high) << 3;
        }
        let displacement_bytes = [0, 1, 4][self.random.below(3) as usize];
        if address_bytes == 2 {
            return self.modrm_16(reg, offset);
        }
        let displacement = match displacement_bytes {
            0 => 0,
            1 => self.random.next() as i8 as i64 as u64,
            _ => self.random.below(1 << 20).wrapping_sub(1 << 19),
        };
        let with_index = self.random.one_in(3);
        let (base_high, index_high) = if rex == 0 { (0, 0) } else { (self.random.below(2) as u8, self.random.below(2) as u8) };
        let low = loop {
            let low = self.random.below(8) as u8;
            // 4 needs a SIB byte, 5 a displacement.
            if (low != 4 || with_index) && (low != 5 || displacement_bytes != 0) {
                break low;
            }
        };
        let base = usize::from(low | base_high << 3);
        let mode = match displacement_bytes {
            0 => 0,
            1 => 0x40,
            _ => 0x80,
        };
        let mut sum = displacement;
        if with_index {
            let index = loop {
                let index = self.random.below(8) as u8 | index_high << 3;
                if index != 4 && usize::from(index) != base {
                    break index;
                }
            };
            let scale = self.random.below(4) as u8;
            self.byte(mode | reg << 3 | 4);
            self.byte(scale << 6 | (index & 7) << 3 | low);
            self.case.bytes[rex_at] |= if rex == 0 { 0 } else { base_high | index_high << 1 };
            let value = self.random.below(1 << 12);
            self.case.registers[usize::from(index)] = value;
            self.used |= 1 << index;
            sum = sum.wrapping_add(value << scale);
        } else {
            self.byte(mode | reg << 3 | low);
            self.case.bytes[rex_at] |= if rex == 0 { 0 } else { base_high };
        }
        self.bytes(displacement, displacement_bytes);
        let mut value = offset.wrapping_sub(sum);
        if address_bytes == 4 {
            value = value & 0xffff_ffff | if self.place.code == Code::Bits64 { self.random.next() << 32 } else { 0 };
        }
        self.case.registers[base] = value;
        self.used |= 1 << base;
    }

    fn modrm_16(&mut self, reg: u8, offset: u64) {
        const PAIRS: [(usize, usize); 8] =
            [(RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI, RSP), (RDI, RSP), (RBP, RSP), (RBX, RSP)];
        let low = self.random.below(8) as u8;
        let bytes = self.random.below(3);
        if bytes == 0 && low == 6 {
            self.byte(reg << 3 | low);
            return self.bytes(offset, 2);
        }
        self.byte((bytes as u8) << 6 | reg << 3 | low);
        let displacement = match bytes {
            0 => 0,
            1 => self.random.next() as i8 as i64 as u64,
            _ => self.random.next() & 0xffff,
        };
        self.bytes(displacement, bytes);
        let (base, index) = PAIRS[usize::from(low)];
        let high = |value: u64, low: u64| value & 0xffff_0000 | low & 0xffff;
        let mut rest = offset.wrapping_sub(displacement);
        // RSP stands for no index.
        if index != RSP {
            let value = self.random.below(1 << 16);
            self.case.registers[index] = high(self.case.registers[index], value);
            self.used |= 1 << index;
            rest = rest.wrapping_sub(value);
        }
        self.case.registers[base] = high(self.case.registers[base], rest);
        self.used |= 1 << base;
    }

    fn immediate(&mut self, of: &Template, operand: u64) {
        match of.tail {
            Tail::RmByte | Tail::Byte => {
                let value = if of.kind == Kind::Shift || of.kind == Kind::DoubleShift {
                    self.random.below(40)
                } else {
                    self.random.next()
                };
                self.byte(value as u8);
            }
            Tail::RmFull | Tail::Full => {
                let full = if of.opcode == 0x69 || of.opcode == 0x68 || operand > 1 { operand.min(4) } else { 1 };
                let value = self.random.value();
                self.bytes(value, full);
            }
            Tail::Ahead => self.bytes(0, operand.min(4)),
            Tail::Two => {
                let value = self.random.below(64);
                self.bytes(value, 2);
            }
            _ => {}
        }
    }

    /// Sets what an instruction uses beside its operand.
    fn surroundings(&mut self, of: &Template, target: u64, operand: u64, repeats: bool) {
        let after = self.place.rip + self.case.len as u64;
        let bits = 8 * operand;
        let registers = &mut self.case.registers;
        match of.kind {
            Kind::Shift | Kind::DoubleShift => {
                // Where RCX leads to the operand, its low byte is what it is.
                let immediate = self.case.bytes[self.case.len - 1];
                let count = if of.tail == Tail::RmByte { immediate } else { registers[RCX] as u8 };
                let count = u64::from(count) & if operand == 8 { 63 } else { 31 };
                self.case.undefined = match count {
                    0 => 0,
                    1 => of.undefined & !flag::OF,
                    _ if count > bits => of.undefined | flag::CF,
                    _ if count == bits && of.kind == Kind::Shift => of.undefined | flag::CF,
                    _ => of.undefined,
                };
                // The result itself is undefined then.
                self.case.comparable = !(of.kind == Kind::DoubleShift && count > bits);
            }
            Kind::Bit => {
                let offset = self.random.below(4096).wrapping_sub(2048);
                if !self.is_used(self.reg) {
                    self.case.registers[self.reg] = offset;
                }
            }
            Kind::Divide => {
                if !self.random.one_in(8) && !self.is_used(2) && !self.is_used(0) {
                    let small = self.random.below(3).wrapping_sub(1);
                    self.case.registers[2] = small;
                    if operand == 1 {
                        self.case.registers[0] &= 0x7f;
                    }
                }
                if !self.random.one_in(8) {
                    let divisor = self.random.value() | 1;
                    self.case.plant = Some((target, divisor));
                }
            }
            Kind::String => {
                let from = self.target(operand, 1);
                let to = self.target(operand, 1);
                let count = if repeats { self.random.below(5) } else { self.random.next() };
                let window = self.place.window;
                self.case.registers[RSI] = window + from;
                self.case.registers[RDI] = window + to;
                self.case.registers[RCX] = count;
                if self.random.one_in(2) {
                    // Something to compare equal.
                    let value = self.case.registers[0];
                    self.case.plant = Some((to.min(self.place.bytes - 8), value));
                }
            }
            Kind::Branch => self.case.plant = Some((target, after)),
            // AL is added.
            Kind::Xlat => registers[RBX] = self.place.window + target.min(self.place.bytes - 256),
            Kind::Leave => registers[RBP] = self.place.window + target,
            _ => {}
        }
        let stack = matches!(of.kind, Kind::Stack | Kind::Branch | Kind::Call | Kind::Return);
        if stack && !self.is_used(RSP) {
            let top = self.target(operand, 1).max(16);
            self.case.registers[RSP] = self.place.window + top;
            if of.kind == Kind::Return {
                self.case.plant = Some((top, after));
            }
        }
    }

    const fn is_used(&self, register: usize) -> bool {
        self.used & 1 << register != 0
    }
}
