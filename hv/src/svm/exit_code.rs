//! Exit codes (APM vol. 2, appendix C).

/// Why a guest left, as the VMCB's EXITCODE says.
///
/// Only the low 32 bits are kept: processors store VMEXIT_INVALID as 64-bit -1, QEMU 7.2 as ffff_ffffh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct ExitCode(pub u32);

impl ExitCode {
    /// First of the reads of control registers, by number.
    pub const CR_READ_0: u32 = 0x00;
    /// Write of CR3.
    pub const CR_WRITE_3: u32 = 0x13;
    /// Last of the writes of control registers.
    pub const CR_WRITE_15: u32 = 0x1f;
    /// First of the reads of debug registers, by number.
    pub const DR_READ_0: u32 = 0x20;
    /// Last of the writes of debug registers.
    pub const DR_WRITE_15: u32 = 0x3f;
    /// First of the 32 exceptions, by vector.
    pub const EXCEPTION_0: u32 = 0x40;
    /// Last of the exceptions.
    pub const EXCEPTION_31: u32 = 0x5f;
    /// Page fault.
    pub const PAGE_FAULT: u32 = Self::EXCEPTION_0 + 14;
    /// Physical interrupt.
    pub const INTR: u32 = 0x60;
    /// Non-maskable interrupt.
    pub const NMI: u32 = 0x61;
    /// System management interrupt.
    pub const SMI: u32 = 0x62;
    /// INIT.
    pub const INIT: u32 = 0x63;
    /// Window for a virtual interrupt.
    pub const VINTR: u32 = 0x64;
    /// RDTSC (QEMU: RDTSCP too).
    pub const RDTSC: u32 = 0x6e;
    /// RDPMC.
    pub const RDPMC: u32 = 0x6f;
    /// CPUID.
    pub const CPUID: u32 = 0x72;
    /// RSM.
    pub const RSM: u32 = 0x73;
    /// IRET.
    pub const IRET: u32 = 0x74;
    /// INVD.
    pub const INVD: u32 = 0x76;
    /// HLT.
    pub const HLT: u32 = 0x78;
    /// INVLPG.
    pub const INVLPG: u32 = 0x79;
    /// INVLPGA.
    pub const INVLPGA: u32 = 0x7a;
    /// Port access.
    pub const IOIO: u32 = 0x7b;
    /// MSR access.
    pub const MSR: u32 = 0x7c;
    /// Shutdown.
    pub const SHUTDOWN: u32 = 0x7f;
    /// VMRUN.
    pub const VMRUN: u32 = 0x80;
    /// VMMCALL.
    pub const VMMCALL: u32 = 0x81;
    /// VMLOAD.
    pub const VMLOAD: u32 = 0x82;
    /// VMSAVE.
    pub const VMSAVE: u32 = 0x83;
    /// STGI.
    pub const STGI: u32 = 0x84;
    /// CLGI.
    pub const CLGI: u32 = 0x85;
    /// SKINIT.
    pub const SKINIT: u32 = 0x86;
    /// RDTSCP.
    pub const RDTSCP: u32 = 0x87;
    /// ICEBP.
    pub const ICEBP: u32 = 0x88;
    /// WBINVD.
    pub const WBINVD: u32 = 0x89;
    /// MONITOR.
    pub const MONITOR: u32 = 0x8a;
    /// RDPRU; MWAIT and XSETBV stand between MONITOR and this.
    pub const RDPRU: u32 = 0x8e;
    /// The VMCB was refused.
    pub const INVALID: u32 = 0xffff_ffff;

    /// The manual's name for the code, such as "CPUID".
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x00..=0x0f => "CR read",
            0x10..=0x1f => "CR write",
            0x20..=0x2f => "DR read",
            0x30..=0x3f => "DR write",
            0x40..=0x5f => "exception",
            0x60 => "INTR",
            0x61 => "NMI",
            0x62 => "SMI",
            0x63 => "INIT",
            0x64 => "VINTR",
            0x65 => "CR0 selective write",
            0x66..=0x6d => "descriptor table access",
            0x6e => "RDTSC",
            0x6f => "RDPMC",
            0x70 => "PUSHF",
            0x71 => "POPF",
            0x72 => "CPUID",
            0x73 => "RSM",
            0x74 => "IRET",
            0x75 => "INTn",
            0x76 => "INVD",
            0x77 => "PAUSE",
            0x78 => "HLT",
            0x79 => "INVLPG",
            0x7a => "INVLPGA",
            0x7b => "IOIO",
            0x7c => "MSR",
            0x7d => "task switch",
            0x7e => "FERR freeze",
            0x7f => "shutdown",
            0x80 => "VMRUN",
            0x81 => "VMMCALL",
            0x82 => "VMLOAD",
            0x83 => "VMSAVE",
            0x84 => "STGI",
            0x85 => "CLGI",
            0x86 => "SKINIT",
            0x87 => "RDTSCP",
            0x88 => "ICEBP",
            0x89 => "WBINVD",
            0x8a => "MONITOR",
            0x8b | 0x8c => "MWAIT",
            0x8d => "XSETBV",
            0x8e => "RDPRU",
            0x400 => "nested page fault",
            Self::INVALID => "invalid VMCB",
            _ => "unknown",
        }
    }
}
