//! Accesses to the local APIC that exit: writes of x2APIC MSRs (APM vol. 2, 16.11), and the xAPIC page (16.3.2).

use super::{Context, Next, Stop, init, inject, mmio, unhandled};
use crate::{
    addr::Gpa,
    apic::{MSR_FIRST, MSR_LAST, Message, PAGE_BYTES, Refused},
    hw::{Hw, RCX, RDX},
    insn::{Opcode, Transfer, Way},
    mem::GuestMemory,
    shadow::ShadowMmu,
    vcpu::Vcpu,
    x86::Exception,
};

/// Most accesses to the page that are served in a row.
const MOST_IN_A_ROW: usize = 256;
/// The end-of-interrupt register, which is written most.
const END_OF_INTERRUPT: u32 = MSR_FIRST + 0x0b;

/// The timer's initial count, which is written for each tick that a guest asks for.
const INITIAL_COUNT: u32 = MSR_FIRST + 0x38;

/// Whether this is a write of the register that ends interrupts.
#[inline]
pub(super) fn is_end_of_interrupt(vcpu: &Vcpu) -> bool {
    vcpu.registers().0[RCX] as u32 == END_OF_INTERRUPT
}

/// Carries out a WRMSR of the register that ends interrupts. By itself, since guests write it so often; what has an odd end is left to the rest of WRMSR.
#[inline]
pub(super) fn end_of_interrupt(vcpu: &mut Vcpu, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<()> {
    let next = vcpu.next_rip(Opcode::WRMSR, mmu, memory)?;
    vcpu.end_of_interrupt(written(vcpu)).ok()?;
    vcpu.retire_to(next);
    Some(())
}

/// Whether this is a write of a register of the x2APIC.
#[inline]
pub(super) fn is_register(vcpu: &Vcpu) -> bool {
    matches!(vcpu.registers().0[RCX] as u32, MSR_FIRST..=MSR_LAST)
}

/// Carries out a WRMSR of a register of the x2APIC.
#[inline(never)]
pub(super) fn write_msr(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, memory: &GuestMemory, hw: &dyn Hw) -> Next {
    if vcpu.registers().0[RCX] as u32 == INITIAL_COUNT
        && let Some(next) = vcpu.plain_next_rip(Opcode::WRMSR, mmu, memory)
    {
        let now = vcpu.guest_time(hw.tsc());
        if vcpu.start_timer(written(vcpu), now).is_ok() {
            vcpu.retire_to(next);
            return Next::Continue(());
        }
    }
    write_any_msr(vcpu, mmu, memory, hw)
}

/// What a WRMSR writes.
#[inline]
fn written(vcpu: &Vcpu) -> u64 {
    vcpu.registers().0[RDX] << 32 | vcpu.rax() & 0xffff_ffff
}

#[cold]
fn write_any_msr(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, memory: &GuestMemory, hw: &dyn Hw) -> Next {
    let Some(next) = vcpu.next_rip(Opcode::WRMSR, mmu, memory) else {
        return unhandled(vcpu);
    };
    let (index, value) = (vcpu.registers().0[RCX] as u32, written(vcpu));
    let now = vcpu.guest_time(hw.tsc());
    match vcpu.change_apic(|apic| apic.write_msr(index, value, now)) {
        Ok(Some(Message::Init)) => init::handle(vcpu, mmu),
        Ok(message) => {
            vcpu.retire_to(next);
            receive(vcpu, mmu, message)
        }
        Err(Refused) => inject(vcpu, Exception::GP0),
    }
}

/// Whether the APIC's page is at that address.
#[inline]
pub(super) fn is_at(vcpu: &Vcpu, gpa: Gpa) -> bool {
    vcpu.apic().page().is_some_and(|page| gpa.0.wrapping_sub(page) < PAGE_BYTES)
}

/// Keeps from the embedder what is none of its business: accesses to the APIC's page that the emulator has come to.
pub(super) fn settle(context: &mut Context<'_>, mut next: Next) -> Next {
    for _ in 0..MOST_IN_A_ROW {
        let Next::Break(Stop::Mmio(transfer)) = &next else { return next };
        let Some(served) = serve_page(context, transfer) else { return next };
        served?;
        next = mmio::go_on(context);
    }
    // One instruction makes many of them; the embedder may be wanted, and the rest comes when it runs the guest again.
    if matches!(next, Next::Break(Stop::Mmio(_))) { Next::Break(Stop::Interrupted) } else { next }
}

/// Serves an access to the APIC's page; `None` where it is to something else. Registers have 32 bits, and are written as such only.
fn serve_page(context: &mut Context<'_>, transfer: &Transfer) -> Option<Next> {
    let at = transfer.gpa.0.wrapping_sub(context.vcpu.apic().page()?);
    let offset = u16::try_from(at).ok().filter(|offset| u64::from(*offset) < PAGE_BYTES)?;
    let now = context.vcpu.guest_time(context.hw.tsc());
    let register = offset & !3;
    Some(match transfer.way {
        Way::Read => {
            let value = context.vcpu.change_apic(|apic| apic.read_page(register, now));
            context.devices.answer(context.vcpu, (value >> (8 * (offset - register))).into());
            Next::Continue(())
        }
        Way::Write if transfer.bytes == 4 => {
            let message = context.vcpu.change_apic(|apic| apic.write_page(offset, transfer.value() as u32, now));
            receive(context.vcpu, context.mmu, message)
        }
        Way::Write => Next::Continue(()),
    })
}

/// Lets the processor receive what it has sent itself.
#[inline]
fn receive(vcpu: &mut Vcpu, mmu: &mut ShadowMmu, message: Option<Message>) -> Next {
    match message {
        Some(Message::Nmi) => vcpu.inject_nmi(),
        Some(Message::Init) => return init::handle(vcpu, mmu),
        // A processor that runs is not waiting for it.
        Some(Message::StartUp(_)) | None => {}
    }
    Next::Continue(())
}
