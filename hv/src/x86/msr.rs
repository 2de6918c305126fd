//! Numbers of the model-specific registers that hv names (APM vol. 2, appendix A).

/// Time stamp counter.
pub const TSC: u32 = 0x10;
/// Local APIC: its address, whether it is on, and in which mode (APM vol. 2, 16.3.1).
pub const APIC_BASE: u32 = 0x1b;
/// Memory-type ranges: how many there are (APM vol. 2, 7.7.2).
pub const MTRR_CAP: u32 = 0xfe;
/// Machine-check capabilities: how many banks there are.
pub const MCG_CAP: u32 = 0x179;
/// Last-branch recording and its like (APM vol. 2, 13.1.1.6).
pub const DEBUG_CTL: u32 = 0x1d9;
/// Page attribute table (APM vol. 2, 7.8.2).
pub const PAT: u32 = 0x277;
/// What RDTSCP tells beside the counter.
pub const TSC_AUX: u32 = 0xc000_0103;
/// When the local APIC's timer expires in its mode of deadlines.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Extended features: SVME, NXE, LMA, LME, SCE.
pub const EFER: u32 = 0xc000_0080;
/// SYSCALL target selectors.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL target in 64-bit mode.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL target in compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// SYSCALL flag mask.
pub const SFMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;
/// What SWAPGS exchanges the base of GS with.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// SYSENTER target selector.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER stack.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER target.
pub const SYSENTER_EIP: u32 = 0x176;
/// SVM control: SVMDIS, LOCK (APM vol. 2, 15.30.1).
pub const VM_CR: u32 = 0xc001_0114;
/// Where VMRUN saves the host's state (APM vol. 2, 15.30.4).
pub const VM_HSAVE_PA: u32 = 0xc001_0117;

/// VM_CR: EFER.SVME cannot be written while [`VM_CR_SVMDIS`] is set.
pub const VM_CR_LOCK: u64 = 1 << 3;
/// VM_CR: SVM is disabled.
pub const VM_CR_SVMDIS: u64 = 1 << 4;
