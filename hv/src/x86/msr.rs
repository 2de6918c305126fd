//! Numbers of the model-specific registers that hv names (APM vol. 2, appendix A).

/// Time stamp counter.
pub const TSC: u32 = 0x10;
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
