//! Moves between memory and SSE registers (APM vol. 4).

use super::{
    execute::{Run, Stopped},
    machine::{Machine, Touch},
    memory::Target,
    opcode::Operation,
};

const LOW: u128 = u64::MAX as u128;

impl<M: Machine> Run<'_, M> {
    pub(super) fn vector_load(&mut self) -> Result<(), Stopped> {
        let Target::Memory(span) = self.open(Touch::Read)? else { return Err(Stopped::Unsupported) };
        let value = self.read(&span)?;
        let reg = self.insn.reg;
        let value = match self.insn.operation {
            Operation::VectorLoadLow => self.machine.vector(reg) & !LOW | value,
            Operation::VectorLoadHigh => self.machine.vector(reg) & LOW | value << 64,
            Operation::VectorLoadTwice => value << 64 | value,
            _ => value,
        };
        self.machine.set_vector(reg, value);
        Ok(())
    }

    pub(super) fn vector_store(&mut self) -> Result<(), Stopped> {
        let Target::Memory(span) = self.open(Touch::Write)? else { return Err(Stopped::Unsupported) };
        let value = self.machine.vector(self.insn.reg);
        self.write(&span, if self.insn.operation == Operation::VectorStoreHigh { value >> 64 } else { value });
        Ok(())
    }
}
