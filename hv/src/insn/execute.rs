//! Carrying out the instruction at RIP.

use super::{
    arithmetic as math,
    decode::{Instruction, Operand, Undecodable, decode},
    exchange::Exchange,
    flags::{self, RF, extend, holds},
    length::MAX_BYTES,
    machine::{Broken, CodeBits, Fault, Machine, Mode, SegmentName, Touch},
    memory::Target,
    opcode::{Form, Operation},
};
use crate::{
    addr::{Gpa, Gva},
    error::Error,
    plant::{Bug, planted},
    x86::{Cr0Flags, Exception, Vector},
};

const PE: u64 = Cr0Flags::PROTECTED_MODE_ENABLE.bits();
/// What LMSW loads: PE, MP, EM and TS.
const STATUS: u64 = 0xf;

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was carried out; RIP is behind it.
    Done,
    /// Some elements of a string instruction were carried out; RIP is still at it.
    Repeating,
    /// It raises an exception. But for elements of a string that were carried out before, nothing has changed.
    Fault(Fault),
    /// It waits for the read that [`Exchange::wanted`] names. Nothing has changed.
    Wanted,
    /// It is INS or OUTS: its port is not known here, the processor must try it.
    Port,
    /// It cannot be carried out here. Nothing has changed.
    Unsupported(Unsupported),
    /// It lies outside of memory.
    Outside(Gpa),
    /// The host forbids its access to that address.
    Denied(Gpa, Gva),
    /// The host has no memory for it.
    Host(Error),
}

/// An instruction that cannot be carried out here; the virtual CPU's registers are as it found them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// RIP.
    pub rip: u64,
    /// The bytes there.
    pub bytes: [u8; MAX_BYTES],
    /// How many of them could be fetched.
    pub count: u8,
    /// How they are read.
    pub mode: Mode,
}

/// Why an attempt ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stopped {
    Fault(Fault),
    Host(Error),
    Outside(Gpa),
    Denied(Gpa, Gva),
    /// A device's answer is needed.
    Wanted,
    /// It is INS or OUTS.
    Port,
    /// There is no code for this.
    Unsupported,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Broken> for Stopped {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Fault(fault) => Self::Fault(fault),
            Broken::Host(error) => Self::Host(error),
            Broken::Outside(gpa) => Self::Outside(gpa),
            Broken::Denied(gpa, address) => Self::Denied(gpa, address),
        }
    }
}

/// Whether a string instruction goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    Done,
    Repeating,
}

/// One attempt.
pub(super) struct Run<'a, M> {
    pub(super) machine: &'a mut M,
    pub(super) exchange: &'a mut Exchange,
    pub(super) mode: Mode,
    pub(super) insn: Instruction,
    /// RIP behind the instruction.
    pub(super) next: u64,
}

/// Carries out the instruction at RIP, with what `exchange` knows of devices' answers.
pub fn emulate<M: Machine>(machine: &mut M, exchange: &mut Exchange) -> Outcome {
    match attempt(machine, exchange, |run| run.whole()) {
        Ok(Flow::Done) => Outcome::Done,
        Ok(Flow::Repeating) => Outcome::Repeating,
        Err(outcome) => outcome,
    }
}

/// Fetches and decodes the instruction at RIP, and lets `body` carry it out.
#[inline]
pub(super) fn attempt<M: Machine, T>(
    machine: &mut M,
    exchange: &mut Exchange,
    body: impl FnOnce(&mut Run<'_, M>) -> Result<T, Stopped>,
) -> Result<T, Outcome> {
    exchange.begin();
    let mode = machine.mode();
    let mut bytes = [0; 16];
    let (count, missing) = machine.fetch(&mut bytes);
    let tried = decode_fetched(&bytes, count, missing, mode).and_then(|insn| {
        let next = machine.rip().wrapping_add(insn.length.into()) & flags::mask(mode.code.bytes());
        body(&mut Run { machine, exchange, mode, insn, next })
    });
    tried.map_err(|stopped| match stopped {
        Stopped::Wanted => Outcome::Wanted,
        Stopped::Fault(fault) => {
            exchange.done();
            Outcome::Fault(fault)
        }
        Stopped::Host(error) => Outcome::Host(error),
        Stopped::Outside(gpa) => Outcome::Outside(gpa),
        Stopped::Denied(gpa, address) => Outcome::Denied(gpa, address),
        Stopped::Port => Outcome::Port,
        Stopped::Unsupported => Outcome::Unsupported(unsupported(&bytes, count, machine.rip(), mode)),
    })
}

fn unsupported(fetched: &[u8; 16], count: usize, rip: u64, mode: Mode) -> Unsupported {
    let mut bytes = [0; MAX_BYTES];
    bytes.copy_from_slice(&fetched[..MAX_BYTES]);
    Unsupported { rip, bytes, count: count.min(MAX_BYTES) as u8, mode }
}

/// Decodes what was fetched. An instruction that reaches behind the last byte that could be fetched is owed that byte's fault.
#[inline]
fn decode_fetched(bytes: &[u8; 16], count: usize, missing: Option<Broken>, mode: Mode) -> Result<Instruction, Stopped> {
    match decode(bytes, mode.code) {
        Ok(insn) if usize::from(insn.length) <= count => Ok(insn),
        // What the bytes behind the fetched ones might have said is not known.
        _ if count < MAX_BYTES => Err(missing.map_or(Stopped::Unsupported, Stopped::from)),
        Ok(_) | Err(Undecodable::TooLong) => Err(Fault::of(Exception::GP0).into()),
        Err(Undecodable::Undefined) => Err(Fault::of(Exception::UD).into()),
        Err(Undecodable::Unknown) => Err(Stopped::Unsupported),
    }
}

impl<M: Machine> Run<'_, M> {
    #[inline]
    fn whole(&mut self) -> Result<Flow, Stopped> {
        // The commonest by far.
        if self.insn.operation == Operation::Mov {
            self.mov()?;
        } else if self.carry_out()? == Flow::Repeating {
            return Ok(Flow::Repeating);
        }
        self.exchange.done();
        let rflags = self.machine.rflags();
        if rflags & RF != 0 {
            self.machine.set_rflags(rflags & !RF);
        }
        self.machine.set_rip(self.next);
        Ok(Flow::Done)
    }

    /// Everything but MOV. RIP moves afterwards, to `self.next`.
    #[inline(never)]
    fn carry_out(&mut self) -> Result<Flow, Stopped> {
        use Operation as Op;
        match self.insn.operation {
            Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor | Op::Cmp | Op::Test => self.binary()?,
            Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => self.shift()?,
            Op::Not | Op::Neg | Op::Inc | Op::Dec => self.unary()?,
            Op::Mul | Op::Imul => self.multiply()?,
            Op::Div | Op::Idiv => self.divide()?,
            Op::ImulReg => self.multiply_register()?,
            Op::Mov => self.mov()?,
            Op::MovSegment => self.mov_segment()?,
            Op::MovZeroExtend | Op::MovSignExtend => self.mov_extend()?,
            Op::Movbe => self.movbe()?,
            Op::Xchg => self.exchange_operands()?,
            Op::Xadd => self.xadd()?,
            Op::Cmpxchg => self.cmpxchg()?,
            Op::CmpxchgWide => self.cmpxchg_wide()?,
            Op::Shld | Op::Shrd => self.double_shift()?,
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit()?,
            Op::Bsf | Op::Bsr | Op::Popcnt => self.scan()?,
            Op::Setcc => self.setcc()?,
            Op::Cmovcc => self.cmovcc()?,
            Op::Push | Op::PushSegment | Op::Pushf | Op::Pop | Op::Call | Op::Jmp | Op::Ret | Op::Leave => self.stack()?,
            Op::Xlat => self.xlat()?,
            Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas => return self.string(),
            Op::VectorLoad | Op::VectorLoadLow | Op::VectorLoadHigh | Op::VectorLoadTwice => self.vector_load()?,
            Op::VectorStore | Op::VectorStoreHigh => self.vector_store()?,
            Op::Ins | Op::Outs => return Err(Stopped::Port),
            Op::Smsw => self.store_status()?,
            Op::Lmsw => self.load_status()?,
            Op::Nop => {}
            Op::Invlpg => return Err(Stopped::Unsupported),
        }
        Ok(Flow::Done)
    }

    #[inline]
    fn mov(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, reg, immediate, .. } = self.insn;
        match form {
            Form::RegRm | Form::AccOffset => {
                let value = self.source(bytes)?;
                self.set_register(reg, bytes, value);
            }
            _ => {
                let target = self.open(Touch::Write)?;
                let value = if form == Form::RmImm { immediate & flags::mask(bytes) } else { self.register(reg, bytes) };
                self.put(&target, value);
            }
        }
        Ok(())
    }

    /// MOV from a segment register: 16 bits to memory, whatever the operand's size.
    fn mov_segment(&mut self) -> Result<(), Stopped> {
        let name = SegmentName::from_encoding(self.insn.reg).ok_or(Stopped::Unsupported)?;
        let target = self.open_sized(2, Touch::Write)?;
        let selector = self.machine.segment(name).selector;
        self.put(&target, selector.into());
        Ok(())
    }

    fn mov_extend(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, source, reg, .. } = self.insn;
        let value = self.source(source)?;
        let value = if operation == Operation::MovSignExtend { extend(value, source) } else { value };
        self.set_register(reg, bytes, value & flags::mask(bytes));
        Ok(())
    }

    fn movbe(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, reg, .. } = self.insn;
        let swap = |value: u64| value.swap_bytes() >> (64 - 8 * u32::from(bytes));
        if form == Form::RegRm {
            let value = self.source(bytes)?;
            self.set_register(reg, bytes, swap(value));
        } else {
            let target = self.open(Touch::Write)?;
            let value = swap(self.register(reg, bytes));
            self.put(&target, value);
        }
        Ok(())
    }

    /// The second operand of an instruction whose first is in memory.
    fn second(&self) -> u64 {
        let Instruction { form, bytes, reg, immediate, .. } = self.insn;
        match form {
            Form::RmImm | Form::RmImm8 => immediate & flags::mask(bytes),
            Form::RmOne => 1,
            Form::RmCl | Form::RmRegCl => self.machine.register(1) & 0xff,
            Form::RmRegImm8 => immediate & 0xff,
            _ => self.register(reg, bytes),
        }
    }

    fn binary(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, form, bytes, reg, .. } = self.insn;
        let writes = !matches!(operation, Operation::Cmp | Operation::Test);
        let rflags = self.machine.rflags();
        if form == Form::RegRm {
            let b = self.source(bytes)?;
            let (result, rflags) = math::binary(operation, self.register(reg, bytes), b, bytes, rflags);
            if writes {
                self.set_register(reg, bytes, result);
            }
            self.machine.set_rflags(rflags);
            return Ok(());
        }
        let target = self.open(if writes { Touch::Write } else { Touch::Read })?;
        let a = self.get(&target, bytes)?;
        let (result, rflags) = math::binary(operation, a, self.second(), bytes, rflags);
        if writes {
            self.put(&target, result);
        }
        self.machine.set_rflags(rflags);
        Ok(())
    }

    /// Replaces the operand by what `make` makes of it and of RFLAGS.
    fn modify(&mut self, make: impl FnOnce(&Self, u64, u64) -> (u64, u64)) -> Result<(), Stopped> {
        let target = self.open(Touch::Write)?;
        let a = self.get(&target, self.insn.bytes)?;
        let (result, rflags) = make(self, a, self.machine.rflags());
        self.put(&target, result);
        self.machine.set_rflags(rflags);
        Ok(())
    }

    fn unary(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, .. } = self.insn;
        self.modify(|_, a, rflags| math::unary(operation, a, bytes, rflags))
    }

    fn shift(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, .. } = self.insn;
        self.modify(|run, a, rflags| math::shift(operation, a, run.second_count(), bytes, rflags))
    }

    fn double_shift(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, reg, .. } = self.insn;
        self.modify(|run, a, rflags| {
            let b = run.register(reg, bytes);
            math::double_shift(operation, a, b, run.second_count(), bytes, rflags)
        })
    }

    fn second_count(&self) -> u8 {
        match self.insn.form {
            Form::RmImm8 => self.insn.immediate as u8,
            _ => self.second() as u8,
        }
    }

    /// BT and its kind. A bit offset in a register reaches beyond the operand, in both directions (APM vol. 3, BT).
    fn bit(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, form, bytes, reg, rm, immediate, .. } = self.insn;
        let bits = 8 * u64::from(bytes);
        let touch = if operation == Operation::Bt { Touch::Read } else { Touch::Write };
        let (target, number) = match (form, rm) {
            (Form::RmReg, Operand::Memory(address)) => {
                let number = extend(self.register(reg, bytes), bytes);
                let step = ((number as i64 >> bits.trailing_zeros()) as u64).wrapping_mul(bytes.into());
                let offset = self.offset(&address, 0).wrapping_add(step) & flags::mask(self.insn.address_bytes);
                (Target::Memory(self.span(address.segment, offset, bytes, touch)?), number)
            }
            (Form::RmReg, _) => (self.open(touch)?, self.register(reg, bytes)),
            _ => (self.open(touch)?, immediate),
        };
        let a = self.get(&target, bytes)?;
        let (result, rflags) = math::bit(operation, a, (number & (bits - 1)) as u32, self.machine.rflags());
        if operation != Operation::Bt {
            self.put(&target, result);
        }
        self.machine.set_rflags(rflags);
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, reg, .. } = self.insn;
        let a = self.source(bytes)?;
        let (result, rflags) = math::scan(operation, a, self.machine.rflags());
        if let Some(result) = result {
            self.set_register(reg, bytes, result);
        }
        self.machine.set_rflags(rflags);
        Ok(())
    }

    fn exchange_operands(&mut self) -> Result<(), Stopped> {
        let Instruction { bytes, reg, .. } = self.insn;
        let target = self.open(Touch::Write)?;
        let a = self.get(&target, bytes)?;
        let b = self.register(reg, bytes);
        self.put(&target, b);
        self.set_register(reg, bytes, a);
        Ok(())
    }

    fn xadd(&mut self) -> Result<(), Stopped> {
        let Instruction { bytes, reg, .. } = self.insn;
        let target = self.open(Touch::Write)?;
        let a = self.get(&target, bytes)?;
        let (sum, rflags) = math::binary(Operation::Add, a, self.register(reg, bytes), bytes, self.machine.rflags());
        // The sum goes last: with one register for both, it stays (APM vol. 3, XADD).
        self.set_register(reg, bytes, a);
        self.put(&target, sum);
        self.machine.set_rflags(rflags);
        Ok(())
    }

    /// CMPXCHG. Memory is written in any case, with what it held if the comparison fails (APM vol. 3, CMPXCHG).
    fn cmpxchg(&mut self) -> Result<(), Stopped> {
        let Instruction { bytes, reg, .. } = self.insn;
        let target = self.open(Touch::Write)?;
        let a = self.get(&target, bytes)?;
        let accumulator = self.machine.register(0) & flags::mask(bytes);
        let (_, rflags) = math::binary(Operation::Cmp, accumulator, a, bytes, self.machine.rflags());
        if a == accumulator {
            let new = self.register(reg, bytes);
            self.put(&target, new);
        } else {
            self.put(&target, a);
            let rax = if bytes < 4 { self.machine.register(0) & !flags::mask(bytes) | a } else { a };
            self.machine.set_register(0, rax);
        }
        self.machine.set_rflags(rflags);
        Ok(())
    }

    fn cmpxchg_wide(&mut self) -> Result<(), Stopped> {
        let bytes = self.insn.bytes;
        let half = bytes / 2;
        if bytes == 16 {
            self.insn.aligned = super::opcode::Aligned::Must;
        }
        let Target::Memory(span) = self.open(Touch::Write)? else { return Err(Stopped::Unsupported) };
        let old = self.read(&span)?;
        let pair = |high: u64, low: u64| {
            let part = |value: u64| u128::from(value & flags::mask(half));
            part(high) << (8 * u32::from(half)) | part(low)
        };
        let register = |number| self.machine.register(number);
        let rflags = self.machine.rflags();
        if old == pair(register(2), register(0)) {
            let new = pair(register(3), register(1));
            self.write(&span, new);
            self.machine.set_rflags(rflags | flags::ZF);
        } else {
            self.write(&span, old);
            self.machine.set_register(0, old as u64 & flags::mask(half));
            self.machine.set_register(2, (old >> (8 * u32::from(half))) as u64 & flags::mask(half));
            self.machine.set_rflags(rflags & !flags::ZF);
        }
        Ok(())
    }

    fn setcc(&mut self) -> Result<(), Stopped> {
        let target = self.open(Touch::Write)?;
        let is = holds(self.insn.condition, self.machine.rflags());
        self.put(&target, is.into());
        Ok(())
    }

    /// CMOVcc reads its source whether the condition holds or not, and clears the upper half of a 32-bit destination.
    fn cmovcc(&mut self) -> Result<(), Stopped> {
        let Instruction { bytes, reg, condition, .. } = self.insn;
        let new = self.source(bytes)?;
        let is = holds(condition, self.machine.rflags());
        let value = if is { new } else { self.register(reg, bytes) };
        self.set_register(reg, bytes, value);
        Ok(())
    }

    fn multiply_register(&mut self) -> Result<(), Stopped> {
        let Instruction { form, bytes, reg, immediate, .. } = self.insn;
        let a = self.source(bytes)?;
        let b = if form == Form::RegRm { self.register(reg, bytes) } else { immediate & flags::mask(bytes) };
        let (low, rflags) = math::multiply_signed(a, b, bytes, self.machine.rflags());
        self.set_register(reg, bytes, low);
        self.machine.set_rflags(rflags);
        Ok(())
    }

    /// MUL and IMUL into AX, or RDX and RAX.
    fn multiply(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, .. } = self.insn;
        let b = self.source(bytes)?;
        let a = self.machine.register(0) & flags::mask(bytes);
        let ((low, high), rflags) = math::multiply(operation, a, b, bytes, self.machine.rflags());
        self.set_pair(low, high);
        self.machine.set_rflags(rflags);
        Ok(())
    }

    fn divide(&mut self) -> Result<(), Stopped> {
        let Instruction { operation, bytes, .. } = self.insn;
        let by = self.source(bytes)?;
        let low = self.machine.register(0);
        let high = if bytes == 1 { low >> 8 } else { self.machine.register(2) };
        let mask = flags::mask(bytes);
        let found = math::divide(operation, high & mask, low & mask, by, bytes);
        let (quotient, rest) = found.ok_or(Fault::of(Exception::plain(Vector::DE)))?;
        self.set_pair(quotient, rest);
        Ok(())
    }

    /// Sets AL and AH, or the accumulator and RDX.
    fn set_pair(&mut self, low: u64, high: u64) {
        if self.insn.bytes == 1 {
            self.set_register(0, 2, low & 0xff | (high & 0xff) << 8);
        } else {
            self.set_register(0, self.insn.bytes, low);
            self.set_register(2, self.insn.bytes, high);
        }
    }

    /// SMSW: CR0, of which memory takes 16 bits.
    fn store_status(&mut self) -> Result<(), Stopped> {
        let target = self.open(Touch::Write)?;
        let status = self.machine.cr0() & flags::mask(self.insn.bytes);
        self.put(&target, status);
        Ok(())
    }

    /// LMSW loads PE, MP, EM and TS; it can set PE, but not clear it (APM vol. 3, LMSW).
    fn load_status(&mut self) -> Result<(), Stopped> {
        let word = self.source(self.insn.bytes)? & STATUS;
        let kept = if planted(Bug::LmswClearsProtection) { !STATUS } else { !STATUS | PE };
        let cr0 = self.machine.cr0() & kept | word;
        Ok(self.machine.set_cr0(cr0)?)
    }

    fn xlat(&mut self) -> Result<(), Stopped> {
        let Operand::Memory(address) = self.insn.rm else { return Err(Stopped::Unsupported) };
        let offset = self.machine.register(3).wrapping_add(self.machine.register(0) & 0xff);
        let span = self.span(address.segment, offset & flags::mask(self.insn.address_bytes), 1, Touch::Read)?;
        let value = self.read(&span)? as u64;
        self.set_register(0, 1, value);
        Ok(())
    }

    /// Goes to `target` next, if code may lie there (APM vol. 3, CALL (near)).
    pub(super) fn branch(&mut self, target: u64) -> Result<(), Stopped> {
        let target =
            target & flags::mask(if self.mode.code == CodeBits::Bits64 { self.insn.bytes } else { self.insn.bytes.min(4) });
        let is_code = if self.mode.code == CodeBits::Bits64 {
            Gva(target).is_canonical()
        } else {
            target <= self.machine.segment(SegmentName::Cs).limit.into()
        };
        if !is_code {
            return Err(Fault::of(Exception::GP0).into());
        }
        self.next = target;
        Ok(())
    }
}
