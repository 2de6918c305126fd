//! Instructions that use the stack, or go elsewhere (APM vol. 3, PUSH, POP, CALL, JMP, RET; vol. 2, 2.4.4).

use super::{
    decode::{Instruction, Operand},
    execute::{Run, Stopped},
    flags::{self, RF, VM},
    machine::{Fault, Machine, Protection, SegmentName, Touch},
    memory::{Span, Target},
    opcode::{Form, Operation},
};
use crate::x86::Exception;

const RSP: u8 = 4;
const RBP: u8 = 5;
const IOPL: u64 = 3 << 12;

impl<M: Machine> Run<'_, M> {
    pub(super) fn stack(&mut self) -> Result<(), Stopped> {
        match self.insn.operation {
            Operation::Push => self.push_operand(),
            Operation::PushSegment => self.push_segment(),
            Operation::Pushf => self.pushf(),
            Operation::Pop => self.pop(),
            Operation::Call => self.call(),
            Operation::Jmp => {
                let target = self.source(self.insn.bytes)?;
                self.branch(target)
            }
            Operation::Ret => self.ret(),
            _ => self.leave(),
        }
    }

    /// Finds where a push goes, and the stack pointer after it.
    fn open_push(&mut self) -> Result<(Span, u64), Stopped> {
        let bytes = self.insn.bytes;
        let pointer = self.machine.register(RSP).wrapping_sub(bytes.into()) & flags::mask(self.mode.stack.bytes());
        Ok((self.span(SegmentName::Ss, pointer, bytes, Touch::Write)?, pointer))
    }

    fn push(&mut self, value: u64) -> Result<(), Stopped> {
        let (span, pointer) = self.open_push()?;
        self.write(&span, value.into());
        self.set_register(RSP, self.mode.stack.bytes(), pointer);
        Ok(())
    }

    fn push_operand(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, reg, immediate, .. } = self.insn;
        match form {
            Form::OpcodeReg => self.push(self.register(reg, bytes)),
            Form::Imm | Form::Imm8 => self.push(immediate),
            _ => {
                let source = self.open(Touch::Read)?;
                let (span, pointer) = self.open_push()?;
                let value = self.get(&source, bytes)?;
                self.write(&span, value.into());
                self.set_register(RSP, self.mode.stack.bytes(), pointer);
                Ok(())
            }
        }
    }

    fn push_segment(&mut self) -> Result<(), Stopped> {
        let name = SegmentName::from_encoding(self.insn.reg).ok_or(Stopped::Unsupported)?;
        let selector = self.machine.segment(name).selector;
        self.push(selector.into())
    }

    fn pushf(&mut self) -> Result<(), Stopped> {
        let rflags = self.machine.rflags();
        if self.mode.protection == Protection::Virtual8086 && rflags & IOPL != IOPL {
            return Err(Fault::of(Exception::GP0).into());
        }
        self.push(rflags & !(RF | VM))
    }

    /// Reads the top of the stack; gives also the stack pointer behind it.
    fn top(&mut self, pointer: u64) -> Result<(u64, u64), Stopped> {
        let bytes = self.insn.bytes;
        let mask = flags::mask(self.mode.stack.bytes());
        let pointer = pointer & mask;
        let span = self.span(SegmentName::Ss, pointer, bytes, Touch::Read)?;
        let value = self.read(&span)? as u64;
        Ok((value, pointer.wrapping_add(bytes.into()) & mask))
    }

    /// POP: an address that names RSP is reckoned with RSP after the pop.
    fn pop(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, reg, rm, .. } = self.insn;
        let (value, pointer) = self.top(self.machine.register(RSP))?;
        let target = match (form, rm) {
            (Form::OpcodeReg, _) => Target::Register(reg),
            (_, Operand::Register(number)) => Target::Register(number),
            (_, Operand::Memory(address)) => {
                let offset = self.offset(&address, bytes.into());
                Target::Memory(self.span(address.segment, offset, bytes, Touch::Write)?)
            }
        };
        self.set_register(RSP, self.mode.stack.bytes(), pointer);
        self.put(&target, value);
        Ok(())
    }

    fn call(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, immediate, .. } = self.insn;
        let (back, mask) = (self.next, flags::mask(self.insn.bytes));
        let source = if form == Form::Relative { None } else { Some(self.open(Touch::Read)?) };
        let (span, pointer) = self.open_push()?;
        let target = match &source {
            Some(source) => self.get(source, bytes)?,
            None => back.wrapping_add(immediate) & mask,
        };
        self.branch(target)?;
        self.write(&span, back.into());
        self.set_register(RSP, self.mode.stack.bytes(), pointer);
        Ok(())
    }

    fn ret(&mut self) -> Result<(), Stopped> {
        let (target, pointer) = self.top(self.machine.register(RSP))?;
        self.branch(target)?;
        self.set_register(RSP, self.mode.stack.bytes(), pointer.wrapping_add(self.insn.immediate));
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Stopped> {
        let (value, pointer) = self.top(self.machine.register(RBP))?;
        self.set_register(RSP, self.mode.stack.bytes(), pointer);
        self.set_register(RBP, self.insn.bytes, value);
        Ok(())
    }
}
