//! The CPUID profile: what every guest sees, whatever the host (APM vol. 3, appendix E).
//!
//! The profile is "x86-64-v2": the baseline plus SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT, CMPXCHG16B and LAHF. No XSAVE, no SVM; a local APIC with x2APIC mode and
//! TSC deadlines; of paging, four levels, NX, 1 GiB pages, SMEP and SMAP. [`Profile::missing_on`] tells whether a processor can carry it.

use crate::addr::{Gpa, Gva};
use hv_abi::cpuid;

/// EAX, EBX, ECX and EDX, as CPUID returns them.
pub type CpuidRegisters = [u32; 4];

const FIRST_EXTENDED: u32 = 0x8000_0000;
const BASIC: usize = 8;
const EXTENDED: usize = 9;

/// Feature bits of one register, with the names that messages use.
struct Features {
    leaf: u32,
    register: usize,
    bits: &'static [(u32, &'static str)],
}

const PROFILE: [Features; 5] = [
    Features {
        leaf: 1,
        register: 2,
        bits: &[(0, "SSE3"), (9, "SSSE3"), (13, "CMPXCHG16B"), (19, "SSE4.1"), (20, "SSE4.2"), (23, "POPCNT")],
    },
    Features {
        leaf: 1,
        register: 3,
        bits: &[
            (0, "x87"),
            (2, "DE"),
            (3, "PSE"),
            (4, "TSC"),
            (5, "MSR"),
            (6, "PAE"),
            (7, "MCE"),
            (8, "CMPXCHG8B"),
            (11, "SYSENTER"),
            (13, "PGE"),
            (15, "CMOV"),
            (16, "PAT"),
            (17, "PSE-36"),
            (19, "CLFSH"),
            (23, "MMX"),
            (24, "FXSR"),
            (25, "SSE"),
            (26, "SSE2"),
        ],
    },
    Features { leaf: 7, register: 1, bits: &[(7, "SMEP"), (20, "SMAP")] },
    Features { leaf: 0x8000_0001, register: 2, bits: &[(0, "LAHF")] },
    Features { leaf: 0x8000_0001, register: 3, bits: &[(11, "SYSCALL"), (20, "NX"), (26, "1 GiB pages"), (29, "long mode")] },
];

/// CPUID 1 ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// CPUID 1 ECX: x2APIC, and the mode of deadlines of the APIC's timer. hv carries them, whatever the processor has.
const X2APIC_AND_DEADLINE: u32 = 1 << 21 | 1 << 24;
/// CPUID 1 EDX: a local APIC, with ID 0 (EBX 31:24).
const APIC: u32 = 1 << 9;
/// Family 17h, model 31h, stepping 0, in the encoding of CPUID 1 EAX.
pub const FAMILY_MODEL: u32 = 0x0083_0f10;
/// CLFLUSH line of 64 bytes (in units of 8, bits 15:8) and one logical processor (bits 23:16), CPUID 1 EBX.
const CLFLUSH_AND_COUNT: u32 = 8 << 8 | 1 << 16;
/// Linear and physical address bits, CPUID 8000_0008 EAX.
const ADDRESS_SIZES: u32 = Gva::BITS << 8 | Gpa::BITS;
const VENDOR: &[u8; 12] = b"AuthenticAMD";
const NAME: &[u8; 48] = b"hv virtual CPU (x86-64-v2)\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The answers to CPUID, by leaf.
#[derive(Debug)]
pub struct Profile {
    basic: [CpuidRegisters; BASIC],
    hypervisor: [CpuidRegisters; 2],
    extended: [CpuidRegisters; EXTENDED],
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

impl Profile {
    /// Makes the profile.
    pub fn new() -> Self {
        let word = |text: &[u8], at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
        let vendor = |max| [max, word(VENDOR, 0), word(VENDOR, 8), word(VENDOR, 4)];
        let mut profile = Self { basic: [[0; 4]; BASIC], hypervisor: [[0; 4]; 2], extended: [[0; 4]; EXTENDED] };
        profile.basic[0] = vendor(BASIC as u32 - 1);
        profile.basic[1] = [FAMILY_MODEL, CLFLUSH_AND_COUNT, HYPERVISOR | X2APIC_AND_DEADLINE, APIC];
        profile.extended[0] = vendor(FIRST_EXTENDED + EXTENDED as u32 - 1);
        profile.extended[1][0] = FAMILY_MODEL;
        for (leaf, part) in NAME.chunks(16).enumerate() {
            profile.extended[2 + leaf] = [word(part, 0), word(part, 4), word(part, 8), word(part, 12)];
        }
        profile.extended[8][0] = ADDRESS_SIZES;
        for leaf in [cpuid::LEAF_SIGNATURE, cpuid::LEAF_CONTRACT] {
            profile.hypervisor[(leaf - cpuid::LEAF_SIGNATURE) as usize] = cpuid::leaf(leaf).unwrap_or_default();
        }
        for features in PROFILE {
            let mask = features.bits.iter().fold(0, |mask, (bit, _)| mask | 1 << bit);
            profile.leaf_mut(features.leaf)[features.register] |= mask;
        }
        // AMD repeats the features that long mode shares with leaf 1 in 8000_0001 EDX: bits 0 to 9, 12 to 17, 23 and 24.
        profile.extended[1][3] |= profile.basic[1][3] & 0x0183_f3ff;
        profile
    }

    /// Makes the profile without a hypervisor in it, for kernels that want the bare machine: neither its feature bit nor its leaves.
    pub fn bare() -> Self {
        let mut profile = Self { hypervisor: [[0; 4]; 2], ..Self::new() };
        profile.basic[1][2] &= !HYPERVISOR;
        profile
    }

    fn leaf_mut(&mut self, leaf: u32) -> &mut CpuidRegisters {
        if leaf < FIRST_EXTENDED { &mut self.basic[leaf as usize] } else { &mut self.extended[(leaf - FIRST_EXTENDED) as usize] }
    }

    /// Answers CPUID with `leaf` in EAX and `sub_leaf` in ECX. Only leaf 7 has sub-leaves, of which the profile has the first; what it does not have is all zeros.
    #[inline]
    pub fn answer(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        if leaf == 7 && sub_leaf != 0 {
            return [0; 4];
        }
        let index = (leaf & 0x0fff_ffff) as usize;
        let leaves: &[CpuidRegisters] = match leaf >> 28 {
            0 => &self.basic,
            4 => &self.hypervisor,
            8 => &self.extended,
            _ => &[],
        };
        leaves.get(index).copied().unwrap_or_default()
    }

    /// Names the first feature of the profile that a processor lacks; `cpuid` answers for that processor.
    pub fn missing_on(cpuid: impl Fn(u32) -> CpuidRegisters) -> Option<&'static str> {
        PROFILE.iter().find_map(|features| {
            let offered = cpuid(features.leaf)[features.register];
            features.bits.iter().find(|(bit, _)| offered & 1 << bit == 0).map(|(_, name)| *name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_answer_by_range_and_unknown_ones_are_zero() {
        let profile = Profile::new();
        assert_eq!(profile.answer(0, 0)[1], u32::from_le_bytes(*b"Auth"));
        assert_eq!(profile.answer(0x4000_0000, 0), cpuid::leaf(0x4000_0000).unwrap());
        assert_eq!(profile.answer(0x8000_0008, 0)[0], 0x3028);
        for leaf in [8, 0x4000_0002, 0x8000_0009, 0x1000_0000, 0xf000_0000, u32::MAX] {
            assert_eq!(profile.answer(leaf, 0), [0; 4], "{leaf:#x}");
        }
    }

    #[test]
    fn nothing_is_promised_that_hv_does_not_carry() {
        let profile = Profile::new();
        let one = profile.answer(1, 0);
        assert_eq!(one[2] & (1 << 3 | 1 << 17 | 1 << 26 | 1 << 27 | 1 << 28), 0, "MONITOR, PCID, XSAVE, OSXSAVE, AVX");
        assert_eq!(profile.answer(0x8000_0001, 0)[2] & 1 << 2, 0, "SVM");
        assert_eq!(profile.answer(7, 0), [0, 1 << 7 | 1 << 20, 0, 0], "SMEP, SMAP");
    }

    #[test]
    fn the_bare_profile_differs_by_the_hypervisor_only() {
        let (whole, bare) = (Profile::new(), Profile::bare());
        assert_eq!([0x4000_0000, 0x4000_0001].map(|leaf| bare.answer(leaf, 0)), [[0; 4]; 2]);
        assert_eq!(bare.answer(1, 0)[2] ^ whole.answer(1, 0)[2], HYPERVISOR);
        assert!([0, 7, 0x8000_0001].iter().all(|&leaf| bare.answer(leaf, 0) == whole.answer(leaf, 0)));
    }

    #[test]
    fn the_first_missing_feature_is_named() {
        let profile = Profile::new();
        assert_eq!(Profile::missing_on(|leaf| profile.answer(leaf, 0)), None);
        let without_ssse3 = |leaf| if leaf == 1 { [0, 0, !(1 << 9), !0] } else { [!0; 4] };
        assert_eq!(Profile::missing_on(without_ssse3), Some("SSSE3"));
    }
}
