//! Port accesses: the doorbell is a call, everything else is the embedder's.

use super::{
    Context, Next, Stop,
    device::PORT_BATCH_BYTES,
    emulated::{Hint, guest},
    hypercall, mmio,
};
use crate::insn::{Batch, Outcome, complete_ins, outs, prepare_ins};
use hv_abi::call::DOORBELL_PORT;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the guest.
    Out,
    /// To the guest.
    In,
}

/// How many bytes an access has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Double = 4,
}

impl Width {
    /// The bits of RAX that take part.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// A port access as EXITINFO1 and EXITINFO2 tell it (APM vol. 2, 15.10.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    info: u32,
    next_rip: u64,
}

const IN: u32 = 1 << 0;
const STRING: u32 = 1 << 2;
const BYTE: u32 = 1 << 4;
const WORD: u32 = 1 << 5;
const DOUBLE: u32 = 1 << 6;

impl PortAccess {
    #[inline]
    pub(super) const fn decode(info_1: u64, info_2: u64) -> Self {
        Self { info: info_1 as u32, next_rip: info_2 }
    }

    /// The port.
    #[inline]
    pub const fn port(&self) -> u16 {
        (self.info >> 16) as u16
    }

    /// Which way the bytes go.
    #[inline]
    pub const fn direction(&self) -> Direction {
        if self.info & IN != 0 { Direction::In } else { Direction::Out }
    }

    /// How many bytes.
    #[inline]
    pub const fn width(&self) -> Width {
        if self.info & BYTE != 0 {
            Width::Byte
        } else if self.info & WORD != 0 {
            Width::Word
        } else {
            Width::Double
        }
    }

    /// The bits that take part. Bits 4 to 6 of EXITINFO1 are the width in bytes, as one of them is set.
    #[inline]
    const fn mask(&self) -> u32 {
        let bits = 8 * (self.info >> 4 & 7);
        u32::MAX >> (32_u32.wrapping_sub(bits) & 31)
    }

    /// A 32-bit OUT to the doorbell, and no string form.
    #[inline]
    const fn is_call(&self) -> bool {
        const SHAPE: u32 = 0xffff << 16 | IN | STRING | DOUBLE;
        self.info & SHAPE == (DOORBELL_PORT as u32) << 16 | DOUBLE
    }
}

/// Serves a call, or hands the access to the embedder with RIP behind it.
#[inline]
pub(super) fn handle(context: &mut Context<'_>, access: PortAccess) -> Next {
    if access.is_call() {
        context.vcpu.retire_to(access.next_rip);
        return hypercall::handle(context);
    }
    if access.info & STRING != 0 {
        return string(context.reborrow(), access);
    }
    context.vcpu.retire_to(access.next_rip);
    let value = context.vcpu.rax() as u32 & access.mask();
    Next::Break(Stop::Io { access, value })
}

/// Hands a batch of elements of INS or OUTS to the embedder.
#[cold]
fn string(mut whole: Context<'_>, access: PortAccess) -> Next {
    let context = &mut whole;
    // One at a time where each is followed by a debug exception (APM vol. 2, 13.1.4).
    let stepped = context.vcpu.rflags() & crate::x86::RFlags::TRAP_FLAG.bits() != 0;
    let room = if stepped { access.width() as usize } else { PORT_BATCH_BYTES };
    let (machine, exchange, buffer) = match context.devices.parts(context.hypervisor.frames()) {
        Ok((exchange, buffer)) => (&mut guest!(context, Hint::NONE), exchange, buffer),
        Err(error) => return Next::Break(Stop::Host(error)),
    };
    let found = match access.direction() {
        Direction::Out => outs(machine, exchange, &mut buffer[..room]),
        Direction::In => prepare_ins(machine, exchange, room),
    };
    match found {
        Ok(Batch { elements: 0, .. }) => Next::Continue(()),
        // The instruction is not the one that exited any more: the guest has another try.
        Ok(batch) if batch.bytes != access.width() as u8 => Next::Continue(()),
        Ok(batch) => {
            if access.direction() == Direction::Out {
                context.vcpu.end_step();
            }
            Next::Break(Stop::IoString { access, elements: batch.elements })
        }
        Err(outcome) => mmio::serve(context, outcome),
    }
}

/// Carries out the INS at RIP with the first `bytes` bytes that the embedder has put into the buffer.
pub(super) fn complete(context: &mut Context<'_>, bytes: usize) -> Next {
    let (machine, exchange, buffer) = match context.devices.parts(context.hypervisor.frames()) {
        Ok((exchange, buffer)) => (&mut guest!(context, Hint::NONE), exchange, buffer),
        Err(error) => return Next::Break(Stop::Host(error)),
    };
    let outcome = match complete_ins(machine, exchange, &buffer[..bytes.min(PORT_BATCH_BYTES)]) {
        Ok(_) => Outcome::Done,
        Err(outcome) => outcome,
    };
    mmio::serve(context, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_32_bit_out_to_the_doorbell_is_a_call() {
        let call = 0x4856_0040;
        let access = PortAccess::decode(call, 7);
        assert!(access.is_call());
        assert_eq!((access.port(), access.direction(), access.width()), (0x4856, Direction::Out, Width::Double));
        for other in [0x4856_0041, 0x4856_0044, 0x4856_0010, 0x4857_0040] {
            assert!(!PortAccess::decode(other, 7).is_call(), "{other:#x}");
        }
        assert_eq!([Width::Byte, Width::Word, Width::Double].map(Width::mask), [0xff, 0xffff, 0xffff_ffff]);
        for info in [0x10, 0x20, 0x40] {
            let access = PortAccess::decode(info, 0);
            assert_eq!(u64::from(access.mask()), access.width().mask());
        }
    }
}
