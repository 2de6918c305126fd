//! Operands in memory: effective addresses, the checks of segments, canonical form and alignment, and pages (APM vol. 2, chapter 4, 5.3.1 and 8.2.18).

use super::{
    decode::{Address, Operand},
    exchange::mask,
    execute::{Run, Stopped},
    flags,
    machine::{Alignment, CodeBits, Fault, Machine, Mode, Place, Protection, SegmentName, Touch},
    opcode::Aligned,
};
use crate::{
    addr::{Gpa, Gva, PAGE_SIZE},
    plant::{Bug, planted},
    svm::{Segment, attributes},
    x86::{Exception, Vector},
};

/// Most pieces of one operand: a page boundary, and a piece of 9 to 15 bytes that no single access has.
const PIECES: usize = 3;

/// A part of an operand that one access reaches.
#[derive(Clone, Copy, Debug)]
struct Piece {
    place: Place,
    bytes: u8,
}

impl Piece {
    const NONE: Self = Self { place: Place::Memory(Gpa(0)), bytes: 0 };
}

/// An operand in memory that was translated, and may be accessed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pieces: [Piece; PIECES],
    count: u8,
}

/// Where an operand is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Register(u8),
    Memory(Span),
}

impl Span {
    #[inline]
    fn pieces(&self) -> &[Piece] {
        &self.pieces[..usize::from(self.count).min(PIECES)]
    }

    /// How many of its pieces are devices'.
    pub(super) fn devices(&self) -> usize {
        self.pieces().iter().filter(|piece| matches!(piece.place, Place::Device(_))).count()
    }
}

impl<M: Machine> Run<'_, M> {
    /// A register operand of `bytes` bytes.
    #[inline]
    pub(super) fn register(&self, number: u8, bytes: u8) -> u64 {
        if bytes == 1 && self.insn.high_bytes && number & 0xc == 4 {
            return self.machine.register(number - 4) >> 8 & 0xff;
        }
        self.machine.register(number) & flags::mask(bytes)
    }

    /// Sets a register operand: parts of 1 and 2 bytes keep the rest, 4 bytes clear the upper half (APM vol. 1, 3.1.2).
    #[inline]
    pub(super) fn set_register(&mut self, number: u8, bytes: u8, value: u64) {
        if bytes == 1 && self.insn.high_bytes && number & 0xc == 4 {
            let old = self.machine.register(number - 4);
            return self.machine.set_register(number - 4, old & !0xff00 | (value & 0xff) << 8);
        }
        let value = match bytes {
            8 => value,
            4 => value & 0xffff_ffff,
            _ => self.machine.register(number) & !flags::mask(bytes) | value & flags::mask(bytes),
        };
        self.machine.set_register(number, value);
    }

    /// The offset that a memory operand names, as RSP will be `stack` bytes further on.
    #[inline]
    pub(super) fn offset(&self, address: &Address, stack: u64) -> u64 {
        let moved = |number| self.machine.register(number).wrapping_add(if number == 4 { stack } else { 0 });
        address.offset(moved, self.next, self.insn.address_bytes)
    }

    /// Finds the instruction's memory operand or register, ready for `touch`.
    #[inline]
    pub(super) fn open(&mut self, touch: Touch) -> Result<Target, Stopped> {
        self.open_sized(self.insn.bytes, touch)
    }

    #[inline]
    pub(super) fn open_sized(&mut self, bytes: u8, touch: Touch) -> Result<Target, Stopped> {
        match self.insn.rm {
            Operand::Register(number) => Ok(Target::Register(number)),
            Operand::Memory(address) => {
                let offset = self.offset(&address, 0);
                self.span(address.segment, offset, bytes, touch).map(Target::Memory)
            }
        }
    }

    /// Reads what [`Run::open`] found.
    #[inline]
    pub(super) fn get(&mut self, target: &Target, bytes: u8) -> Result<u64, Stopped> {
        match target {
            Target::Register(number) => Ok(self.register(*number, bytes)),
            Target::Memory(span) => self.read(span).map(|value| value as u64),
        }
    }

    /// Reads the instruction's memory operand or register.
    #[inline]
    pub(super) fn source(&mut self, bytes: u8) -> Result<u64, Stopped> {
        let target = self.open_sized(bytes, Touch::Read)?;
        self.get(&target, bytes)
    }

    /// Writes what [`Run::open`] found for writing.
    #[inline]
    pub(super) fn put(&mut self, target: &Target, value: u64) {
        match target {
            Target::Register(number) => self.set_register(*number, self.insn.bytes, value),
            Target::Memory(span) => self.write(span, value.into()),
        }
    }

    /// Checks and translates an operand of `bytes` bytes, 1 to 16.
    #[inline]
    pub(super) fn span(&mut self, segment: SegmentName, offset: u64, bytes: u8, touch: Touch) -> Result<Span, Stopped> {
        let start = self.linear(segment, offset, bytes, touch)?;
        let fits = start.page_offset() + usize::from(bytes) <= PAGE_SIZE;
        let span = if fits {
            let place = self.machine.translate(start, touch)?;
            Span { pieces: [Piece { place, bytes }, Piece::NONE, Piece::NONE], count: 1 }
        } else {
            self.split(start, bytes, touch)?
        };
        if touch == Touch::Write && matches!(span.pieces[0].place, Place::Device(_)) | (span.count > 1) {
            self.make_room(span.devices())?;
        }
        Ok(span)
    }

    /// Translates an operand that crosses a page boundary.
    #[cold]
    fn split(&mut self, start: Gva, bytes: u8, touch: Touch) -> Result<Span, Stopped> {
        let mut span = Span { pieces: [Piece::NONE; PIECES], count: 0 };
        let mut done = 0;
        while done < bytes {
            let mut at = start.wrapping_add(done.into());
            if self.mode.code != CodeBits::Bits64 {
                at.0 &= 0xffff_ffff;
            }
            let in_page = (PAGE_SIZE - at.page_offset()).min(usize::from(bytes - done)) as u8;
            let place = self.machine.translate(at, touch)?;
            let mut add = |place, bytes| {
                if let Some(piece) = span.pieces.get_mut(usize::from(span.count)) {
                    *piece = Piece { place, bytes };
                    span.count += 1;
                }
            };
            match place {
                Place::Device(gpa) if in_page > 8 => {
                    add(place, 8);
                    add(Place::Device(gpa.wrapping_add(8)), in_page - 8);
                }
                _ => add(place, in_page),
            }
            done += in_page;
        }
        Ok(span)
    }

    fn make_room(&mut self, devices: usize) -> Result<(), Stopped> {
        self.exchange.reserve(devices).map_err(Stopped::Host)
    }

    /// Reads an operand; a device's part may have to be waited for.
    #[inline]
    pub(super) fn read(&mut self, span: &Span) -> Result<u128, Stopped> {
        let mut value = 0;
        let mut shift = 0;
        for piece in span.pieces() {
            let part = match piece.place {
                Place::Memory(gpa) => {
                    let mut bytes = [0; 16];
                    self.machine.load(gpa, &mut bytes[..usize::from(piece.bytes).min(16)]);
                    u128::from_le_bytes(bytes)
                }
                Place::Device(gpa) => self.exchange.read(gpa, piece.bytes).map_err(Stopped::Host)?.ok_or(Stopped::Wanted)?,
            };
            value |= part << (shift & 127);
            shift += 8 * u32::from(piece.bytes);
        }
        Ok(value)
    }

    /// Writes an operand that was opened for writing.
    #[inline]
    pub(super) fn write(&mut self, span: &Span, value: u128) {
        let mut rest = value;
        for piece in span.pieces() {
            match piece.place {
                Place::Memory(gpa) => {
                    let bytes = rest.to_le_bytes();
                    self.machine.store(gpa, &bytes[..usize::from(piece.bytes).min(16)]);
                }
                Place::Device(gpa) => self.exchange.write(gpa, piece.bytes, rest & mask(piece.bytes)),
            }
            rest = if piece.bytes < 16 { rest >> (8 * u32::from(piece.bytes)) } else { 0 };
        }
    }

    /// Checks an access by its segment, or for canonical form, and for alignment; gives its linear address.
    #[inline]
    fn linear(&self, name: SegmentName, offset: u64, bytes: u8, touch: Touch) -> Result<Gva, Stopped> {
        let address = linear_address(self.machine, self.mode, name, offset, bytes.into(), touch)?;
        if address.0 & u64::from(bytes - 1) != 0 {
            self.misaligned()?;
        }
        Ok(address)
    }

    #[cold]
    fn misaligned(&self) -> Result<(), Fault> {
        if self.insn.aligned == Aligned::Must {
            return Err(Fault::of(Exception::GP0));
        }
        match self.mode.alignment {
            Alignment::Checked => Err(Fault::of(Exception { vector: Vector::AC, code: Some(0) })),
            Alignment::Free => Ok(()),
        }
    }
}

/// Checks `bytes` bytes at an offset of a segment, and gives their linear address.
#[inline]
pub(super) fn linear_address<M: Machine>(
    machine: &M,
    mode: Mode,
    name: SegmentName,
    offset: u64,
    bytes: u64,
    touch: Touch,
) -> Result<Gva, Fault> {
    if mode.code == CodeBits::Bits64 {
        let base = if matches!(name, SegmentName::Fs | SegmentName::Gs) { machine.segment(name).base } else { 0 };
        let address = Gva(base.wrapping_add(offset));
        let last = address.wrapping_add(bytes - 1);
        return if (address.is_canonical() && last.is_canonical()) || planted(Bug::CanonicalFormIsIgnored) {
            Ok(address)
        } else {
            Err(Fault::segment(name))
        };
    }
    let segment = machine.segment(name);
    if !(allows(&segment, mode, touch) && is_inside(&segment, mode, offset, bytes)) {
        return Err(Fault::segment(name));
    }
    Ok(Gva(segment.base.wrapping_add(offset) & 0xffff_ffff))
}

/// Tells whether a segment's type allows the access (APM vol. 2, 4.12.1); real and virtual-8086 mode do not look at it.
const fn allows(segment: &Segment, mode: Mode, touch: Touch) -> bool {
    if !matches!(mode.protection, Protection::Protected) {
        return true;
    }
    let kind = segment.attributes;
    let present = kind & attributes::PRESENT != 0;
    let code = kind & attributes::CODE != 0;
    // For data it means writable, for code readable.
    let open = kind & attributes::WRITABLE != 0;
    present
        && match touch {
            Touch::Read => !code || open,
            Touch::Write => !code && open,
        }
}

/// Tells whether the bytes lie inside the limit; an expand-down segment lies above it (APM vol. 2, 4.7.2 and 4.12.2).
fn is_inside(segment: &Segment, mode: Mode, offset: u64, bytes: u64) -> bool {
    if planted(Bug::LimitsAreIgnored) {
        return true;
    }
    let last = offset + (bytes - 1);
    let limit = segment.limit as u64;
    let down = attributes::CODE | attributes::EXPAND_DOWN;
    let expands_down = matches!(mode.protection, Protection::Protected) && segment.attributes & down == attributes::EXPAND_DOWN;
    if !expands_down {
        return last <= limit;
    }
    let top = if segment.attributes & attributes::DEFAULT_32 != 0 { 0xffff_ffff } else { 0xffff };
    offset > limit && last <= top
}
