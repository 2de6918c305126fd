//! Intercept vectors (APM vol. 2, appendix B, table B-1, offsets 000h to 014h) and the floor that every VMCB carries.

use bitflags::bitflags;

bitflags! {
    /// Intercepts at offset 00Ch.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercepts1: u32 {
        /// Physical interrupts.
        const INTR = 1 << 0;
        /// Non-maskable interrupts.
        const NMI = 1 << 1;
        /// System management interrupts.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// The moment at which a virtual interrupt could be taken.
        const VINTR = 1 << 4;
        /// RDTSC.
        const RDTSC = 1 << 14;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// RSM.
        const RSM = 1 << 19;
        /// IRET.
        const IRET = 1 << 20;
        /// INVD.
        const INVD = 1 << 22;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPG.
        const INVLPG = 1 << 25;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// Port accesses that the I/O permission map names.
        const IOIO = 1 << 27;
        /// MSR accesses that the MSR permission map names.
        const MSR = 1 << 28;
        /// Task switches.
        const TASK_SWITCH = 1 << 29;
        /// Processor freezes of legacy FERR handling.
        const FERR_FREEZE = 1 << 30;
        /// Shutdown.
        const SHUTDOWN = 1 << 31;

        /// What every VMCB intercepts, so that a guest reaches nothing of the host's: events, the host's ports and MSRs, its TLB, its caches.
        const FLOOR = Self::INTR.bits() | Self::NMI.bits() | Self::SMI.bits() | Self::INIT.bits() | Self::RDPMC.bits() | Self::CPUID.bits()
            | Self::RSM.bits() | Self::INVD.bits() | Self::HLT.bits() | Self::INVLPG.bits() | Self::INVLPGA.bits() | Self::IOIO.bits()
            | Self::MSR.bits() | Self::TASK_SWITCH.bits() | Self::FERR_FREEZE.bits() | Self::SHUTDOWN.bits();
    }
}

bitflags! {
    /// Intercepts at offset 010h.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercepts2: u32 {
        /// VMRUN; the processor refuses a VMCB without it.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// RDTSCP.
        const RDTSCP = 1 << 7;
        /// ICEBP.
        const ICEBP = 1 << 8;
        /// WBINVD.
        const WBINVD = 1 << 9;
        /// MONITOR.
        const MONITOR = 1 << 10;
        /// MWAIT.
        const MWAIT = 1 << 11;
        /// MWAIT with the monitor armed.
        const MWAIT_ARMED = 1 << 12;
        /// XSETBV.
        const XSETBV = 1 << 13;
        /// RDPRU.
        const RDPRU = 1 << 14;

        /// What every VMCB intercepts: all of SVM, and what reaches processor state that is not switched. (RDTSCP
        /// would read the host's TSC_AUX.)
        const FLOOR = Self::VMRUN.bits() | Self::VMMCALL.bits() | Self::VMLOAD.bits() | Self::VMSAVE.bits() | Self::STGI.bits()
            | Self::CLGI.bits() | Self::SKINIT.bits() | Self::RDTSCP.bits() | Self::ICEBP.bits() | Self::WBINVD.bits() | Self::MONITOR.bits()
            | Self::MWAIT.bits() | Self::MWAIT_ARMED.bits() | Self::XSETBV.bits() | Self::RDPRU.bits();
    }
}

/// Reads of CR0 and CR4 (the guest must not see the forced bits), CR3 (it is the shadow root) and CR8 (the host's TPR).
pub const CR_READ_FLOOR: u16 = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8;
/// Writes of CR0, CR3, CR4 and CR8.
pub const CR_WRITE_FLOOR: u16 = CR_READ_FLOOR;
/// Every debug register: DR0 to DR3 are not switched, and DR7 arms breakpoints that outlive the guest.
pub const DR_FLOOR: u16 = 0xffff;
/// #PF feeds the shadow tables; an endless #DB or #AC in delivery would hang the processor (APM vol. 2, 15.12.2 and 15.12.17); #DF and #MC.
pub const EXCEPTION_FLOOR: u32 = 1 << 1 | 1 << 8 | 1 << 14 | 1 << 17 | 1 << 18;
