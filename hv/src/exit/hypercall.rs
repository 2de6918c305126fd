//! Calls by the doorbell (`hv_abi::call`).

use super::{Context, Next, Stop};
use crate::{
    addr::Gva,
    hw::{RDI, RSI},
    insn::Opcode,
};
use hv_abi::{
    call::{Call, Status},
    function::Kind,
};

/// Encodings of R8 and R9.
const R8: usize = 8;
const R9: usize = 9;

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
    let registers = &context.vcpu.registers().0;
    let arguments = [registers[RDI], registers[RSI], registers[R8], registers[R9]];
    match Call::decode(context.vcpu.rax() as u32, arguments) {
        Ok(Call::Nop) => {
            context.vcpu.set_rax(0);
            Next::Continue(())
        }
        Ok(call) => leave(context, call),
        Err(status) => answer(context, status),
    }
}

/// Hands a call to the embedder, unless it is out of place.
fn leave(context: &mut Context<'_>, call: Call) -> Next {
    let bytes = |address, len| GuestBytes { start: Gva(address), len: len as usize };
    Next::Break(match call {
        Call::Nop => return Next::Continue(()),
        Call::ConsoleWrite { address, len, stream } => Stop::Console { stream, bytes: bytes(address, len) },
        Call::Exit { code } => Stop::Exit(code),
        Call::Panic { report } => Stop::Panic(PanicAt(Gva(report))),
        Call::ConsoleRead { address, len } => Stop::Read(bytes(address, len)),
        Call::Sleep { until } => Stop::Sleep { until },
        Call::Serve { answer: given } => match context.contract.serve(given) {
            Ok(()) if given.kind == Kind::Ready => Stop::Ready,
            Ok(()) => Stop::Answered(given),
            Err(status) => return answer(context, status),
        },
        Call::HostCall { function, len, types } => match context.contract.host_call(len) {
            Ok(()) => Stop::HostCall { function, types, len: len as usize },
            Err(status) => return answer(context, status),
        },
    })
}

fn answer(context: &mut Context<'_>, status: Status) -> Next {
    context.vcpu.set_rax(status.encode());
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
