//! The seam: every privileged instruction that hv uses, behind one trait. Behind it are the real processor and, for tests, a model.
#![expect(unsafe_code, reason = "declares what the privileged instructions rely on")]

#[cfg(any(test, feature = "model"))]
pub mod model;
mod real;

pub use real::RealCpu;

use crate::{
    addr::{Gva, Hpa},
    mem::FrameRef,
    svm::Vmcb,
    x86::CpuidRegisters,
};

/// The guest's general registers, in the order of their encoding. RAX and RSP live in the VMCB; their places here are unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers(pub [u64; 16]);

/// Encoding of RCX.
pub const RCX: usize = 1;
/// Encoding of RDX.
pub const RDX: usize = 2;
/// Encoding of RBX.
pub const RBX: usize = 3;
/// Encoding of RSI.
pub const RSI: usize = 6;
/// Encoding of RDI.
pub const RDI: usize = 7;

/// A logical processor, as far as hv needs one.
pub trait Hw {
    /// CPUID.
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters;

    /// RDMSR of a register that exists.
    fn read_msr(&self, msr: u32) -> u64;

    /// WRMSR.
    ///
    /// # Safety
    /// The register exists, and the value keeps every promise that running code relies on.
    unsafe fn write_msr(&mut self, msr: u32, value: u64);

    /// RDTSC.
    fn tsc(&self) -> u64;

    /// VMSAVE: stores FS, GS, TR, LDTR and the system-call registers of the host (APM vol. 2, 15.14).
    ///
    /// # Safety
    /// SVM is on; `area` is a live frame for nothing else.
    unsafe fn save_host(&mut self, area: Hpa);

    /// Enters the guest and comes back at its next exit: CLGI, host interrupts on, VMLOAD guest, VMRUN, VMSAVE guest, VMLOAD
    /// host, STGI. An interrupt or NMI that ended the guest's run has been taken by the host when this returns. Returns with interrupts on.
    ///
    /// # Safety
    /// The numbered proof at `vcpu::entry`; `vmcb_at` is where `vmcb` lies, `host_area` was filled by [`Hw::save_host`] on this CPU and the
    /// registers that it holds have not changed since. The host's interrupt handlers are ready.
    unsafe fn run(&mut self, vmcb: &mut Vmcb, vmcb_at: Hpa, registers: &mut Registers, host_area: Hpa);

    /// INVLPGA: drops the translation of one address under one ASID, page-walk caches for it included (APM vol. 2, 15.16.2).
    fn flush_address(&mut self, address: Gva, asid: u32);

    /// MOV to DR0, DR1, DR2 and DR3. They mean nothing while DR7 enables none of them, and the host's DR7 is not touched.
    fn load_breakpoints(&mut self, addresses: &[u64; 4]);

    /// FXSAVE, if `save` is given, then FXRSTOR: moves the x87, MMX and SSE registers.
    ///
    /// # Safety
    /// Both frames are for nothing else, `load` holds an image that FXSAVE or `vcpu::fpu` made, and nobody else needs what is in the registers.
    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, load: FrameRef<'_>);
}

impl<H: Hw> Hw for &mut H {
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        (**self).cpuid(leaf, sub_leaf)
    }

    fn read_msr(&self, msr: u32) -> u64 {
        (**self).read_msr(msr)
    }

    unsafe fn write_msr(&mut self, msr: u32, value: u64) {
        // SAFETY: the caller's promise is this trait's.
        unsafe { (**self).write_msr(msr, value) }
    }

    fn tsc(&self) -> u64 {
        (**self).tsc()
    }

    unsafe fn save_host(&mut self, area: Hpa) {
        // SAFETY: the caller's promise is this trait's.
        unsafe { (**self).save_host(area) }
    }

    unsafe fn run(&mut self, vmcb: &mut Vmcb, vmcb_at: Hpa, registers: &mut Registers, host_area: Hpa) {
        // SAFETY: the caller's promise is this trait's.
        unsafe { (**self).run(vmcb, vmcb_at, registers, host_area) }
    }

    fn flush_address(&mut self, address: Gva, asid: u32) {
        (**self).flush_address(address, asid);
    }

    fn load_breakpoints(&mut self, addresses: &[u64; 4]) {
        (**self).load_breakpoints(addresses);
    }

    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, load: FrameRef<'_>) {
        // SAFETY: the caller's promise is this trait's.
        unsafe { (**self).switch_fpu(save, load) }
    }
}
