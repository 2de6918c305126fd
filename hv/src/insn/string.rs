//! String instructions in memory: MOVS, CMPS, STOS, LODS, SCAS (APM vol. 3, 1.2.6).

use super::{
    arithmetic as math,
    decode::{Instruction, Operand, Repeat},
    execute::{Flow, Run, Stopped},
    flags::{self, DF, TF, ZF},
    machine::{Machine, SegmentName, Touch},
    memory::Span,
    opcode::Operation,
};

pub(super) const RCX: u8 = 1;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;

impl<M: Machine> Run<'_, M> {
    /// Carries out elements for as long as they use devices; those that do not are left to the processor, to which the guest
    /// returns in between. A write to a device also ends it, to be handed out before the next element; and so does each element
    /// where single steps are taken (APM vol. 2, 13.1.4).
    pub(super) fn string(&mut self) -> Result<Flow, Stopped> {
        let repeats = self.insn.repeat != Repeat::No;
        if repeats && self.count() == 0 {
            return Ok(Flow::Done);
        }
        loop {
            self.element()?;
            let used = self.exchange.is_used();
            self.exchange.done();
            if !repeats {
                return Ok(Flow::Done);
            }
            let left = self.count().wrapping_sub(1);
            self.set_register(RCX, self.insn.address_bytes, left);
            if self.count() == 0 || self.is_decided() {
                return Ok(Flow::Done);
            }
            if !used || self.exchange.has_writes() || self.machine.rflags() & TF != 0 {
                return Ok(Flow::Repeating);
            }
        }
    }

    /// RCX, or the part of it that counts.
    pub(super) fn count(&self) -> u64 {
        self.machine.register(RCX) & flags::mask(self.insn.address_bytes)
    }

    /// Tells whether a comparison came out as REPE or REPNE waits for.
    fn is_decided(&self) -> bool {
        let compares = matches!(self.insn.operation, Operation::Cmps | Operation::Scas);
        let equal = self.machine.rflags() & ZF != 0;
        compares && equal != (self.insn.repeat == Repeat::Equal)
    }

    fn element(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, .. } = self.insn;
        match operation {
            Operation::Movs => {
                let from = self.open_source()?;
                let to = self.open_destination(Touch::Write)?;
                let value = self.read(&from)?;
                self.write(&to, value);
                self.step(RSI);
                self.step(RDI);
            }
            Operation::Stos => {
                let to = self.open_destination(Touch::Write)?;
                let value = self.register(0, bytes);
                self.write(&to, value.into());
                self.step(RDI);
            }
            Operation::Lods => {
                let from = self.open_source()?;
                let value = self.read(&from)? as u64;
                self.set_register(0, bytes, value);
                self.step(RSI);
            }
            Operation::Scas => {
                let with = self.open_destination(Touch::Read)?;
                let value = self.read(&with)? as u64;
                self.compare(self.register(0, bytes), value);
                self.step(RDI);
            }
            _ => {
                // The processor loads what it compares with first.
                let with = self.open_destination(Touch::Read)?;
                let from = self.open_source()?;
                let (a, b) = (self.read(&from)? as u64, self.read(&with)? as u64);
                self.compare(a, b);
                self.step(RSI);
                self.step(RDI);
            }
        }
        Ok(())
    }

    fn compare(&mut self, a: u64, b: u64) {
        let (_, rflags) = math::binary(Operation::Cmp, a, b, self.insn.bytes, self.machine.rflags());
        self.machine.set_rflags(rflags);
    }

    /// DS:RSI, or as a segment override says.
    fn open_source(&mut self) -> Result<Span, Stopped> {
        let segment = source_segment(&self.insn);
        let offset = self.machine.register(RSI) & flags::mask(self.insn.address_bytes);
        self.span(segment, offset, self.insn.bytes, Touch::Read)
    }

    /// ES:RDI; no override reaches it.
    fn open_destination(&mut self, touch: Touch) -> Result<Span, Stopped> {
        let offset = self.machine.register(RDI) & flags::mask(self.insn.address_bytes);
        self.span(SegmentName::Es, offset, self.insn.bytes, touch)
    }

    /// Moves a pointer behind the element, as DF says.
    fn step(&mut self, pointer: u8) {
        let by = u64::from(self.insn.bytes);
        let by = if self.machine.rflags() & DF == 0 { by } else { by.wrapping_neg() };
        let moved = self.machine.register(pointer).wrapping_add(by);
        self.set_register(pointer, self.insn.address_bytes, moved);
    }
}

/// The segment that a string's source lies in.
pub(super) const fn source_segment(insn: &Instruction) -> SegmentName {
    match insn.rm {
        Operand::Memory(address) => address.segment,
        Operand::Register(_) => SegmentName::Ds,
    }
}
