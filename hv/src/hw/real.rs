//! The real processor.
#![expect(unsafe_code, reason = "privileged instructions")]

use super::{Hw, Registers};
use crate::{
    addr::{Gva, Hpa},
    mem::FrameRef,
    svm::Vmcb,
    x86::CpuidRegisters,
};
use core::arch::{asm, x86_64};

/// The processor that executes this code.
pub struct RealCpu {
    _made_unsafely: (),
}

impl RealCpu {
    /// A handle to the processor that executes this code.
    ///
    /// # Safety
    /// The code runs at CPL 0 in 64-bit mode, stays on this processor while the handle lives, and there is one handle per processor. The code is
    /// built without SSE (the target `x86_64-unknown-none`), so that between two calls nothing touches the guest's FPU registers.
    pub const unsafe fn new() -> Self {
        Self { _made_unsafely: () }
    }
}

impl Hw for RealCpu {
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        let answer = x86_64::__cpuid_count(leaf, sub_leaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    }

    fn read_msr(&self, msr: u32) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: CPL 0 (`new`), and hv reads only MSRs that every processor with SVM has; reading one of those changes nothing.
        unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
        u64::from(high) << 32 | u64::from(low)
    }

    unsafe fn write_msr(&mut self, msr: u32, value: u64) {
        // SAFETY: CPL 0 (`new`); what the value does is the caller's promise.
        unsafe {
            asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
        };
    }

    fn tsc(&self) -> u64 {
        // SAFETY: RDTSC has no effect but its result.
        unsafe { x86_64::_rdtsc() }
    }

    unsafe fn save_host(&mut self, area: Hpa) {
        // SAFETY: the caller promises SVM and the frame.
        unsafe { asm!("vmsave rax", in("rax") area.0, options(nostack, preserves_flags)) };
    }

    #[inline]
    unsafe fn run(&mut self, vmcb: &mut Vmcb, vmcb_at: Hpa, registers: &mut Registers, host_area: Hpa) {
        let _written_by_the_processor = vmcb;
        // SAFETY: what the guest can reach is the caller's proof. Here: RSP, RAX, RFLAGS and the segments come back by VMRUN's host save area, FS, GS,
        // TR and the system-call registers by the second VMLOAD before STGI lets any handler run, RBX and RBP from the stack, the rest is
        // declared lost. GIF is 0 from CLGI to STGI, so no handler of the host sees the guest's TR, GS or stack (svm-under-qemu: IST gates).
        // The compiler is told that memory changes (no `nomem`), which covers the VMCB and `registers`.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "push rsi",
                "clgi",
                "sti",
                "mov rcx, [rsi + 8]",
                "mov rdx, [rsi + 16]",
                "mov rbx, [rsi + 24]",
                "mov rbp, [rsi + 40]",
                "mov rdi, [rsi + 56]",
                "mov r8, [rsi + 64]",
                "mov r9, [rsi + 72]",
                "mov r10, [rsi + 80]",
                "mov r11, [rsi + 88]",
                "mov r12, [rsi + 96]",
                "mov r13, [rsi + 104]",
                "mov r14, [rsi + 112]",
                "mov r15, [rsi + 120]",
                "mov rsi, [rsi + 48]",
                "vmload rax",
                "vmrun rax",
                "vmsave rax",
                "pop rax",
                "mov [rax + 8], rcx",
                "mov [rax + 16], rdx",
                "mov [rax + 24], rbx",
                "mov [rax + 40], rbp",
                "mov [rax + 48], rsi",
                "mov [rax + 56], rdi",
                "mov [rax + 64], r8",
                "mov [rax + 72], r9",
                "mov [rax + 80], r10",
                "mov [rax + 88], r11",
                "mov [rax + 96], r12",
                "mov [rax + 104], r13",
                "mov [rax + 112], r14",
                "mov [rax + 120], r15",
                "pop rax",
                "vmload rax",
                "stgi",
                "pop rbp",
                "pop rbx",
                inout("rax") vmcb_at.0 => _,
                inout("rsi") registers => _,
                inout("rdi") host_area.0 => _,
                lateout("rcx") _, lateout("rdx") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            );
        }
    }

    fn flush_address(&mut self, address: Gva, asid: u32) {
        // SAFETY: dropping a translation can only make an access slower. A `Cpu` exists only while SVM is on, and only it calls this.
        unsafe { asm!("invlpga rax, ecx", in("rax") address.0, in("ecx") asid, options(nostack, preserves_flags)) };
    }

    fn load_breakpoints(&mut self, addresses: &[u64; 4]) {
        let [a, b, c, d] = *addresses;
        // SAFETY: CPL 0 (`new`); an address in DR0 to DR3 does nothing until DR7 enables it, and the host's DR7 stays as it is.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
                options(nomem, nostack, preserves_flags));
        }
    }

    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, load: FrameRef<'_>) {
        if let Some(save) = save {
            // SAFETY: the frame is the caller's, 16-aligned and larger than the 512 bytes that FXSAVE writes.
            unsafe { asm!("fxsave64 [{}]", in(reg) save.start(), options(nostack, preserves_flags)) };
        }
        // SAFETY: the caller promises a valid image and that the registers' content is nobody's; this code is built without SSE (`new`).
        unsafe { asm!("fxrstor64 [{}]", in(reg) load.start(), options(nostack, preserves_flags)) };
    }
}
