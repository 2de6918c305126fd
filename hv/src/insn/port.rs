//! INS and OUTS: the memory side of them, in batches (APM vol. 3, INS, OUTS).
//!
//! The processor has checked the port (IOPL, the TSS's bitmap) before the exit, and nothing else. Address size and segment are not
//! told by every processor (`EXITINFO1` of QEMU has neither), so the instruction is decoded.

use super::{
    decode::Repeat,
    exchange::Exchange,
    execute::{Outcome, Run, Stopped, attempt},
    flags::{self, DF},
    machine::{Alignment, Machine, Place, SegmentName, Touch},
    memory::{Span, linear_address},
    opcode::Operation,
    string::{RCX, RDI, RSI, source_segment},
};
use crate::{
    addr::{Gpa, PAGE_SIZE},
    plant::{Bug, planted},
};

/// A batch of elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// How many elements; 0 only when the instruction's count was 0, and RIP is behind it.
    pub elements: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub bytes: u8,
}

/// Elements that are accessed together.
enum Stretch {
    /// They lie in one page of memory, one behind the other.
    Memory(Gpa),
    /// Only one, whatever it takes.
    Element(Span),
}

/// Carries out as much of the OUTS at RIP as `into` has room for: its elements, in their order.
///
/// # Errors
/// What became of the instruction if not even one element could be read.
pub fn outs<M: Machine>(machine: &mut M, exchange: &mut Exchange, into: &mut [u8]) -> Result<Batch, Outcome> {
    attempt(machine, exchange, |run| {
        let bytes = usize::from(run.insn.bytes);
        let wanted = run.elements(Operation::Outs, into.len())?;
        let segment = if planted(Bug::PortSegmentIsIgnored) { SegmentName::Ds } else { source_segment(&run.insn) };
        let (mut done, mut pointer) = (0, run.machine.register(RSI));
        while done < wanted {
            let left = &mut into[done * bytes..];
            let count = match run.stretch(segment, pointer, wanted - done, Touch::Read) {
                Ok((Stretch::Memory(gpa), count)) => {
                    run.machine.load(gpa, &mut left[..count * bytes]);
                    count
                }
                Ok((Stretch::Element(span), count)) if done == 0 || span.devices() == 0 => {
                    let value = run.read(&span)?.to_le_bytes();
                    left[..bytes].copy_from_slice(&value[..bytes]);
                    count
                }
                Err(stopped) if done == 0 => return Err(stopped),
                // Its turn comes with the next batch.
                _ => break,
            };
            done += count;
            pointer = run.stepped(pointer, count);
        }
        Ok(run.end_batch(RSI, pointer, done))
    })
}

/// Finds how many elements the INS at RIP can take at once, `room` bytes at the most: as many as can be written.
///
/// # Errors
/// What became of the instruction if it cannot take even one.
pub fn prepare_ins<M: Machine>(machine: &mut M, exchange: &mut Exchange, room: usize) -> Result<Batch, Outcome> {
    attempt(machine, exchange, |run| {
        let wanted = run.elements(Operation::Ins, room)?;
        let (mut done, mut pointer) = (0, run.machine.register(RDI));
        if wanted == 0 {
            return Ok(run.end_batch(RDI, pointer, 0));
        }
        while done < wanted {
            let (stretch, count) = match run.stretch(SegmentName::Es, pointer, wanted - done, Touch::Write) {
                Ok(found) => found,
                Err(stopped) if done == 0 => return Err(stopped),
                Err(_) => break,
            };
            let device = matches!(stretch, Stretch::Element(span) if span.devices() > 0);
            if device && done > 0 {
                break;
            }
            done += count;
            pointer = run.stepped(pointer, count);
            if device {
                break;
            }
        }
        Ok(Batch { elements: done as u32, bytes: run.insn.bytes })
    })
}

/// Carries out the INS at RIP with `data`, as much as [`prepare_ins`] asked for at the most.
///
/// # Errors
/// What became of the instruction if its memory has changed since; elements before were written.
pub fn complete_ins<M: Machine>(machine: &mut M, exchange: &mut Exchange, data: &[u8]) -> Result<Batch, Outcome> {
    attempt(machine, exchange, |run| {
        let bytes = usize::from(run.insn.bytes);
        let wanted = run.elements(Operation::Ins, data.len())?;
        let (mut done, mut pointer) = (0, run.machine.register(RDI));
        while done < wanted {
            let left = &data[done * bytes..];
            let count = match run.stretch(SegmentName::Es, pointer, wanted - done, Touch::Write) {
                Ok((Stretch::Memory(gpa), count)) => {
                    run.machine.store(gpa, &left[..count * bytes]);
                    count
                }
                Ok((Stretch::Element(span), count)) => {
                    let mut value = [0; 16];
                    value[..bytes].copy_from_slice(&left[..bytes]);
                    run.write(&span, u128::from_le_bytes(value));
                    count
                }
                Err(stopped) => {
                    let _faulted = run.end_batch(RDI, pointer, done);
                    return Err(stopped);
                }
            };
            done += count;
            pointer = run.stepped(pointer, count);
        }
        Ok(run.end_batch(RDI, pointer, done))
    })
}

impl<M: Machine> Run<'_, M> {
    /// How many elements to move with `room` bytes; refuses another instruction than `operation`.
    fn elements(&self, operation: Operation, room: usize) -> Result<usize, Stopped> {
        if self.insn.operation != operation {
            return Err(Stopped::Unsupported);
        }
        let count = if self.insn.repeat == Repeat::No { 1 } else { self.count() };
        let count = if count == 0 && planted(Bug::PortCountOfZeroMoves) { 1 } else { count };
        Ok(count.min((room / usize::from(self.insn.bytes)) as u64) as usize)
    }

    /// A string pointer, `count` elements on.
    fn stepped(&self, pointer: u64, count: usize) -> u64 {
        let by = count as u64 * u64::from(self.insn.bytes);
        let up = self.machine.rflags() & DF == 0 || planted(Bug::PortDirectionIsIgnored);
        if up { pointer.wrapping_add(by) } else { pointer.wrapping_sub(by) }
    }

    /// Translates the next elements, as many at once as lie in a page of memory.
    fn stretch(&mut self, segment: SegmentName, pointer: u64, wanted: usize, touch: Touch) -> Result<(Stretch, usize), Stopped> {
        let (bytes, mask) = (self.insn.bytes, flags::mask(self.insn.address_bytes));
        let offset = pointer & mask;
        if self.mode.alignment == Alignment::Free && self.machine.rflags() & DF == 0 {
            let first = linear_address(self.machine, self.mode, segment, offset, bytes.into(), touch)?;
            let before_wrap = (mask - offset).saturating_add(1) / u64::from(bytes);
            let in_page = (PAGE_SIZE - first.page_offset()) / usize::from(bytes);
            let count = wanted.min(in_page).min(before_wrap as usize);
            let total = count as u64 * u64::from(bytes);
            if count > 1
                && linear_address(self.machine, self.mode, segment, offset, total, touch).is_ok()
                && let Place::Memory(gpa) = self.machine.translate(first, touch)?
            {
                return Ok((Stretch::Memory(gpa), count));
            }
        }
        Ok((Stretch::Element(self.span(segment, offset, bytes, touch)?), 1))
    }

    /// Commits a batch: pointer and count move, and RIP if that was all.
    fn end_batch(&mut self, pointer: u8, value: u64, done: usize) -> Batch {
        self.exchange.done();
        let size = self.insn.address_bytes;
        if planted(Bug::PortProgressIsLost) {
            return Batch { elements: done as u32, bytes: self.insn.bytes };
        }
        if done > 0 {
            self.set_register(pointer, size, value);
        }
        let mut left = 0;
        if self.insn.repeat != Repeat::No && self.count() > 0 {
            self.set_register(RCX, size, self.count().wrapping_sub(done as u64));
            left = self.count();
        }
        if left == 0 && (done > 0 || self.insn.repeat != Repeat::No) {
            self.machine.set_rip(self.next);
        }
        Batch { elements: done as u32, bytes: self.insn.bytes }
    }
}
