//! RDMSR and WRMSR: the MSR plane of the contract, and the guest's view of the few registers of the processor that it has.

use super::{Context, Next, apic, cr};
use crate::{
    hw::{RCX, RDX},
    insn::Opcode,
    x86::{Exception, msr},
};
use hv_abi::{Features, Version, msr::Register};

/// Which of the two it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

impl Direction {
    /// Reads EXITINFO1 (APM vol. 2, 15.11).
    #[inline]
    pub(super) const fn decode(info_1: u64) -> Self {
        if info_1 & 1 == 0 { Self::Read } else { Self::Write }
    }
}

/// Carries out RDMSR or WRMSR; a register that the guest does not have is #GP(0) (APM vol. 3, RDMSR).
#[inline]
pub(super) fn handle(context: &mut Context<'_>, direction: Direction) -> Next {
    match direction {
        Direction::Read => rdmsr(context),
        Direction::Write
            if apic::is_end_of_interrupt(context.vcpu)
                && apic::end_of_interrupt(context.vcpu, context.mmu, context.memory).is_some() =>
        {
            Next::Continue(())
        }
        Direction::Write if apic::is_register(context.vcpu) => {
            apic::write_msr(context.vcpu, context.mmu, context.memory, context.hw)
        }
        Direction::Write => wrmsr(context.reborrow()),
    }
}

#[inline]
fn rdmsr(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::RDMSR) else {
        return context.unhandled();
    };
    let Some(value) = read(context, context.vcpu.registers().0[RCX] as u32) else {
        return context.inject(Exception::GP0);
    };
    context.vcpu.set_rax(value & 0xffff_ffff);
    context.vcpu.registers_mut().0[RDX] = value >> 32;
    context.skip_to(next)
}

#[inline(never)]
fn wrmsr(mut context: Context<'_>) -> Next {
    let context = &mut context;
    let Some(next) = context.next_rip(Opcode::WRMSR) else {
        return context.unhandled();
    };
    let registers = context.vcpu.registers().0;
    let (index, value) = (registers[RCX] as u32, registers[RDX] << 32 | context.vcpu.rax() & 0xffff_ffff);
    if index == msr::EFER {
        let mut control = *context.vcpu.control();
        return match control.set_efer(value) {
            Ok(cached) => cr::change(context, &control, cached, next),
            Err(exception) => context.inject(exception),
        };
    }
    match write(context, index, value) {
        Ok(()) => context.skip_to(next),
        Err(exception) => context.inject(exception),
    }
}

#[inline]
fn read(context: &Context<'_>, index: u32) -> Option<u64> {
    let Some(register) = Register::from_index(index) else {
        return context.vcpu.read_msr(index, || context.hw.tsc());
    };
    Some(match register {
        Register::AbiVersion => Version::CURRENT.encode().into(),
        Register::MemorySize => context.memory.size(),
        Register::TscHertz => context.hypervisor.platform().tsc_hertz,
        Register::Features => Features::ALL.encode().into(),
        Register::HeapBytes => context.contract.heap.bytes,
        Register::HeapPeakBytes => context.contract.heap.peak_bytes,
    })
}

fn write(context: &mut Context<'_>, index: u32, value: u64) -> Result<(), Exception> {
    match Register::from_index(index) {
        Some(Register::HeapBytes) => context.contract.heap.bytes = value,
        Some(Register::HeapPeakBytes) => context.contract.heap.peak_bytes = value,
        Some(_) => return Err(Exception::GP0),
        None => return context.vcpu.write_msr(index, value, || context.hw.tsc()),
    }
    Ok(())
}
