//! What a processor's SVM offers (APM vol. 3, appendix E, CPUID 8000_000A).

use bitflags::bitflags;

bitflags! {
    /// CPUID 8000_000A EDX, the bits that hv knows what to do with.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u32 {
        /// A locked VM_CR can be unlocked with a key.
        const SVM_LOCK = 1 << 2;
        /// The VMCB holds the address of the next instruction after an exit.
        const NRIP_SAVE = 1 << 3;
        /// Clean bits: what the VMCB says is unchanged need not be read again.
        const VMCB_CLEAN = 1 << 5;
        /// TLB_CONTROL can flush one ASID.
        const FLUSH_BY_ASID = 1 << 6;
        /// Exits come with decoded operands.
        const DECODE_ASSISTS = 1 << 7;
    }
}
