//! Calls by the doorbell (`hv_abi::call`).

use super::{Context, Next, Stop};
use crate::{
    addr::Gva,
    hw::{RDI, RSI},
    insn::Opcode,
};
use hv_abi::call::{CONSOLE_MAX_BYTES, Number, Status, Stream};

/// Encoding of R8.
const R8: usize = 8;

/// A range of guest-virtual addresses that a guest named; nothing is known of it but that it is not too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestBytes {
    /// First address.
    pub start: Gva,
    /// Length in bytes, below the cap of the call.
    pub len: usize,
}

/// Where a guest's panic report lies (`hv_abi::call::PanicReport`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PanicAt(pub Gva);

/// Serves a call; RIP is behind the OUT already.
#[inline]
pub(super) fn handle(context: &mut Context<'_>) -> Next {
    let vcpu = &mut *context.vcpu;
    let registers = vcpu.registers().0;
    let status = match Number::from_raw(vcpu.rax() as u32) {
        Some(Number::Nop) => {
            vcpu.set_rax(0);
            return Next::Continue(());
        }
        Some(Number::ConsoleWrite) => match Stream::from_raw(registers[R8]) {
            None => Status::BadArgument,
            Some(_) if registers[RSI] > CONSOLE_MAX_BYTES => Status::TooLarge,
            Some(stream) => {
                let bytes = GuestBytes { start: Gva(registers[RDI]), len: registers[RSI] as usize };
                return Next::Break(Stop::Console { stream, bytes });
            }
        },
        Some(Number::Exit) => return Next::Break(Stop::Exit(registers[RDI] as i32)),
        Some(Number::Panic) => return Next::Break(Stop::Panic(PanicAt(Gva(registers[RDI])))),
        None => Status::UnknownCall,
    };
    vcpu.set_rax(status.encode());
    Next::Continue(())
}

/// VMMCALL is no way to make a call of the contract; it answers as an unknown call does, for guests that probe for other hypervisors.
pub(super) fn vmmcall(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::VMMCALL) else {
        return context.unhandled();
    };
    context.vcpu.set_rax(Status::UnknownCall.encode());
    context.skip_to(next)
}
