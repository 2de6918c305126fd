//! RDMSR and WRMSR: the MSR plane of the contract, and the guest's view of the few registers of the processor that it has.

use super::{Context, Next};
use crate::{
    hw::{RCX, RDX},
    insn::Opcode,
    vcpu::Vcpu,
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
        Direction::Write => wrmsr(context),
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

fn wrmsr(context: &mut Context<'_>) -> Next {
    let Some(next) = context.next_rip(Opcode::WRMSR) else {
        return context.unhandled();
    };
    let registers = context.vcpu.registers().0;
    let value = registers[RDX] << 32 | context.vcpu.rax() & 0xffff_ffff;
    match write(context, registers[RCX] as u32, value) {
        Some(()) => context.skip_to(next),
        None => context.inject(Exception::GP0),
    }
}

#[inline]
fn read(context: &Context<'_>, index: u32) -> Option<u64> {
    let save = &context.vcpu.vmcb().save;
    match index {
        msr::EFER => Some(context.vcpu.efer()),
        msr::STAR => Some(save.star),
        msr::LSTAR => Some(save.lstar),
        msr::CSTAR => Some(save.cstar),
        msr::SFMASK => Some(save.sfmask),
        msr::FS_BASE => Some(save.fs.base),
        msr::GS_BASE => Some(save.gs.base),
        msr::KERNEL_GS_BASE => Some(save.kernel_gs_base),
        msr::SYSENTER_CS => Some(save.sysenter_cs),
        msr::SYSENTER_ESP => Some(save.sysenter_esp),
        msr::SYSENTER_EIP => Some(save.sysenter_eip),
        _ => Some(match Register::from_index(index)? {
            Register::AbiVersion => Version::CURRENT.encode().into(),
            Register::MemorySize => context.memory.size(),
            Register::TscHertz => context.hypervisor.platform().tsc_hertz,
            Register::Features => Features::ALL.encode().into(),
            Register::HeapBytes => context.contract.heap.bytes,
            Register::HeapPeakBytes => context.contract.heap.peak_bytes,
        }),
    }
}

fn write(context: &mut Context<'_>, index: u32, value: u64) -> Option<()> {
    match Register::from_index(index) {
        Some(Register::HeapBytes) => context.contract.heap.bytes = value,
        Some(Register::HeapPeakBytes) => context.contract.heap.peak_bytes = value,
        Some(_) => return None,
        None => return write_saved(context.vcpu, index, value),
    }
    Some(())
}

/// Writes a register that VMLOAD carries to the processor; non-canonical addresses do not get there (APM vol. 2, 1.1.3).
fn write_saved(vcpu: &mut Vcpu, index: u32, value: u64) -> Option<()> {
    let canonical = ((value << 16) as i64 >> 16) as u64 == value;
    let save = vcpu.save_mut();
    match index {
        msr::STAR => save.star = value,
        msr::SFMASK => save.sfmask = value & 0xffff_ffff,
        msr::SYSENTER_CS => save.sysenter_cs = value,
        _ if !canonical => return None,
        msr::LSTAR => save.lstar = value,
        msr::CSTAR => save.cstar = value,
        msr::FS_BASE => save.fs.base = value,
        msr::GS_BASE => save.gs.base = value,
        msr::KERNEL_GS_BASE => save.kernel_gs_base = value,
        msr::SYSENTER_ESP => save.sysenter_esp = value,
        msr::SYSENTER_EIP => save.sysenter_eip = value,
        _ => return None,
    }
    Some(())
}
