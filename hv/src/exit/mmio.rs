//! Accesses outside of memory: the instruction is emulated, and whoever answers for the device is asked.
//!
//! The same emulation serves supervisor writes that no shadow leaf can allow (CR0.WP = 0 under SMAP).

use super::{
    Context, Next, Outside, Stop, apic,
    device::{PlainLoad, Work},
    emulated::{Hint, guest},
    inject,
};
use crate::{
    addr::{Gpa, Gva, PAGE_SIZE},
    insn::{Outcome, PlainMove, Transfer, Way, emulate, plain_move},
    shadow::{Access, Kind, SmapCheck},
    vcpu::CodeMode,
    x86::{PageFaultCode, RFlags},
};

/// Most accesses that devices which hv asks itself may answer in a row, before the guest can be interrupted again.
const MOST_IN_A_ROW: usize = 256;

/// Serves an access that no shadow leaf can.
#[cold]
pub(super) fn handle(mut whole: Context<'_>, gpa: Gpa, address: Gva, code: PageFaultCode) -> Next {
    // Where an access to another device comes first, it is `resume` that comes to the APIC.
    if !apic::is_at(whole.vcpu, gpa) {
        return begin(&mut whole, gpa, address, code);
    }
    let next = begin(&mut whole, gpa, address, code);
    apic::settle(&mut whole, next)
}

/// Goes on with what was left to do when the guest stopped last.
#[cold]
pub(crate) fn resume(context: &mut Context<'_>) -> Next {
    let next = go_on(context);
    apic::settle(context, next)
}

#[inline]
fn begin(context: &mut Context<'_>, gpa: Gpa, address: Gva, code: PageFaultCode) -> Next {
    let kind = Access::of_fault(code, SmapCheck::Applies).kind;
    // What the processor does by itself, to deliver an event or to fetch, is no instruction to emulate.
    if context.vcpu.is_delivering() || kind == Kind::Fetch || context.devices.outside == Outside::Stops {
        return Next::Break(Stop::OutsideMemory { gpa, address });
    }
    if context.memory.contains(gpa.gfn()) {
        // With rights that no leaf can express.
        return try_instruction(context, Hint::NONE);
    }
    match plain(context, gpa, address, kind) {
        Some(transfer) => Next::Break(Stop::Mmio(transfer)),
        None => try_instruction(context, Hint::outside(address, gpa, kind)),
    }
}

/// Carries out a plain move whose device is the embedder's: no more than the fault has told has to be found out. `None` for everything else.
#[inline]
fn plain(context: &mut Context<'_>, gpa: Gpa, faulted: Gva, missed: Kind) -> Option<Transfer> {
    let Context { vcpu, mmu, memory, devices, .. } = context;
    let special = RFlags::TRAP_FLAG | RFlags::RESUME_FLAG | RFlags::ALIGNMENT_CHECK;
    let ordinary = vcpu.code_mode() == CodeMode::Bits64
        && vcpu.rflags() & special.bits() == 0
        && devices.work == Work::None
        && devices.exchange.is_idle()
        && !devices.has_attached();
    let code = if ordinary { vcpu.code_window(mmu, memory)? } else { return None };
    let PlainMove { way, bytes, register, base, displacement, length } = plain_move(code)?;
    // Where all of it lies in the page that faulted, from the byte that faulted on.
    let address = vcpu.register(base).wrapping_add(displacement);
    let kind = if way == Way::Write { Kind::Write } else { Kind::Read };
    if address != faulted.0 || kind != missed || faulted.page_offset() + usize::from(bytes) > PAGE_SIZE {
        return None;
    }
    let next = vcpu.rip().wrapping_add(length.into());
    let mask = u64::MAX >> (64 - 8 * u32::from(bytes));
    Some(if way == Way::Write {
        vcpu.advance_to(next);
        Transfer::write(gpa, bytes, (vcpu.register(register) & mask).into())
    } else {
        let transfer = Transfer::read(gpa, bytes);
        devices.work = Work::Load(PlainLoad { register, next, transfer });
        transfer
    })
}

/// Carries out the instruction at RIP, which the processor could not.
pub(super) fn try_instruction(context: &mut Context<'_>, hint: Hint) -> Next {
    let outcome = emulate(&mut guest!(context, hint), &mut context.devices.exchange);
    // The plainest case: a write, whose device is the embedder's.
    if outcome == Outcome::Done
        && !context.devices.has_attached()
        && !is_stepped(context)
        && let Some(write) = context.devices.exchange.next_write()
    {
        context.devices.work = if context.devices.exchange.is_idle() { Work::None } else { Work::Memory };
        return Next::Break(Stop::Mmio(write));
    }
    serve(context, outcome)
}

/// Does what is left to do for the instruction at RIP, up to the next access that somebody has to answer.
pub(super) fn go_on(context: &mut Context<'_>) -> Next {
    match core::mem::replace(&mut context.devices.work, Work::None) {
        Work::None => Next::Continue(()),
        Work::Load(load) => {
            context.devices.work = Work::Load(load);
            Next::Break(Stop::Mmio(load.transfer))
        }
        Work::Ports(bytes) => super::io::complete(context, bytes),
        Work::Memory => {
            hand_out_writes(context)?;
            if context.devices.exchange.wanted().is_some() {
                return wait(context);
            }
            if context.devices.exchange.is_idle() {
                return Next::Continue(());
            }
            try_instruction(context, Hint::NONE)
        }
    }
}

/// Gives writes to their devices, up to the first that is the embedder's.
fn hand_out_writes(context: &mut Context<'_>) -> Next {
    while let Some(write) = context.devices.exchange.next_write() {
        if context.devices.serve(&write).is_none() {
            context.devices.work = Work::Memory;
            return Next::Break(Stop::Mmio(write));
        }
    }
    Next::Continue(())
}

/// Stops at a read that the embedder has to answer.
fn wait(context: &mut Context<'_>) -> Next {
    context.devices.work = Work::Memory;
    match context.devices.exchange.wanted() {
        Some(wanted) => Next::Break(Stop::Mmio(*wanted)),
        None => Next::Continue(()),
    }
}

/// Does what an attempt at an instruction leads to, with devices that hv asks itself.
pub(super) fn serve(context: &mut Context<'_>, first: Outcome) -> Next {
    let mut outcome = first;
    for _ in 0..MOST_IN_A_ROW {
        if outcome != Outcome::Wanted {
            break;
        }
        let Some(wanted) = context.devices.exchange.wanted().copied() else { break };
        let Some(value) = context.devices.serve(&wanted) else {
            return wait(context);
        };
        context.devices.exchange.answer(value);
        outcome = emulate(&mut guest!(context, Hint::NONE), &mut context.devices.exchange);
    }
    match outcome {
        Outcome::Done | Outcome::Repeating => {
            context.vcpu.end_step();
            hand_out_writes(context)
        }
        // The answers are kept for when the guest tries again.
        Outcome::Port | Outcome::Wanted => Next::Continue(()),
        Outcome::Fault(fault) => {
            if fault.exception.vector == crate::x86::Vector::PF {
                context.vcpu.set_cr2(fault.address);
            }
            inject(context.vcpu, fault.exception)
        }
        Outcome::Unsupported(found) => Next::Break(Stop::NotEmulated(found)),
        Outcome::Outside(gpa) => Next::Break(Stop::OutsideMemory { gpa, address: context.vcpu.code_address() }),
        Outcome::Denied(gpa, address) => Next::Break(Stop::Denied { gpa, address, kind: Kind::Write }),
        Outcome::Host(error) => Next::Break(Stop::Host(error)),
    }
}

#[inline]
fn is_stepped(context: &Context<'_>) -> bool {
    context.vcpu.rflags() & RFlags::TRAP_FLAG.bits() != 0
}
