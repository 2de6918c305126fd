//! What an embedder can do wrong, or run out of.

use crate::addr::Gpa;
use core::fmt;

/// Why hv refused or failed. A guest's mistakes are never one of these: they are injected exceptions, statuses, or a [`crate::Stop`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// SVM cannot be used on this processor.
    NoSvm(NoSvm),
    /// The processor lacks a feature of the CPUID profile that guests are promised.
    ProcessorLacks(&'static str),
    /// The embedder's frame source is empty.
    NoFrames,
    /// The heap is full.
    NoHeap,
    /// Guest memory of this many bytes is not offered: zero, no multiple of 4096, or too large.
    MemorySize(u64),
    /// The guest-physical address lies outside guest memory.
    OutsideMemory(Gpa),
    /// The range of guest memory that begins there cannot come or go: it does not begin and end at multiples of 2 MiB or the end of memory, or it is not all
    /// memory, or not all outside it, as it should be.
    MemoryRange(Gpa),
    /// The range that begins there is empty, or overlaps another device's.
    DeviceRange(Gpa),
    /// The VM ran last on the CPU of this number, which has its FPU registers still: [`crate::Cpu::release`] there comes first.
    HeldByCpu(u16),
    /// The boxes of a call buffer overlap, are not 8-aligned, too small, too large, or not in guest memory.
    CallBuffer,
}

/// Why SVM cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSvm {
    /// CPUID 8000_0001 ECX.SVM is clear: not AMD-V (or hidden by the firmware or an outer hypervisor).
    NotOffered,
    /// VM_CR.SVMDIS is set and locked: the firmware switched SVM off.
    DisabledAndLocked,
    /// VM_CR.SVMDIS is set, and a key is needed to clear it (CPUID 8000_000A EDX.SVML).
    DisabledWithKey,
    /// So many ASIDs, fewer than two: one for the host, none to run a guest with.
    TooFewAsids(u32),
    /// Somebody has switched SVM on already (EFER.SVME is set).
    InUse,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSvm(NoSvm::NotOffered) => {
                f.write_str("SVM cannot be used: the processor does not offer AMD-V (CPUID 8000_0001 ECX.SVM is clear)")
            }
            Self::NoSvm(NoSvm::DisabledAndLocked) => f.write_str(
                "SVM cannot be used: the firmware disabled and locked it (VM_CR); enable SVM in the firmware's set-up",
            ),
            Self::NoSvm(NoSvm::DisabledWithKey) => f.write_str(
                "SVM cannot be used: the firmware disabled it with a key (VM_CR, SVM_KEY); enable SVM in the firmware's set-up",
            ),
            Self::NoSvm(NoSvm::TooFewAsids(n)) => {
                write!(f, "SVM cannot be used: the processor offers {n} ASIDs, at least 2 are needed")
            }
            Self::NoSvm(NoSvm::InUse) => {
                f.write_str("SVM cannot be used: it is switched on already (EFER.SVME), by somebody else or twice")
            }
            Self::ProcessorLacks(feature) => write!(f, "the processor lacks {feature}, which guests are promised"),
            Self::NoFrames => f.write_str("no free frames"),
            Self::NoHeap => f.write_str("no free heap memory"),
            Self::MemorySize(bytes) => write!(
                f,
                "guest memory of {bytes} bytes is not offered: it must be a multiple of 4096, above 0 and at most 512 GiB"
            ),
            Self::MemoryRange(gpa) => {
                write!(
                    f,
                    "the range of guest memory at {gpa} is not one that can come or go: it must begin and end at multiples of 2 MiB"
                )
            }
            Self::DeviceRange(gpa) => write!(f, "the device at {gpa} has an empty range, or overlaps another one"),
            Self::OutsideMemory(gpa) => write!(f, "guest-physical address {gpa} lies outside guest memory"),
            Self::HeldByCpu(number) => write!(f, "CPU {number} has the VM's FPU registers still, and has to release it first"),
            Self::CallBuffer => f.write_str("the call buffer does not lie in guest memory as it must"),
        }
    }
}

impl core::error::Error for Error {}
