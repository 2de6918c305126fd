//! How a guest recognises the platform: the hypervisor leaves of CPUID (APM vol. 3, appendix E.3.9 reserves them).

use crate::{Features, Version, call, msr};

/// Leaf 4000_0000h: EAX = highest hypervisor leaf, EBX:ECX:EDX = [`SIGNATURE`].
pub const LEAF_SIGNATURE: u32 = 0x4000_0000;
/// Leaf 4000_0001h: EAX = version ([`Version::encode`]), EBX = what the host can offer ([`Features`]), ECX = doorbell port, EDX = first MSR.
pub const LEAF_CONTRACT: u32 = 0x4000_0001;
/// The twelve ASCII bytes of the signature, in the order EBX, ECX, EDX, low byte first.
pub const SIGNATURE: [u8; 12] = *b"hv unikernel";

/// EAX, EBX, ECX and EDX of a hypervisor leaf, or `None` for a leaf that the contract does not define.
pub const fn leaf(number: u32) -> Option<[u32; 4]> {
    const fn word(at: usize) -> u32 {
        u32::from_le_bytes([SIGNATURE[at], SIGNATURE[at + 1], SIGNATURE[at + 2], SIGNATURE[at + 3]])
    }
    match number {
        LEAF_SIGNATURE => Some([LEAF_CONTRACT, word(0), word(4), word(8)]),
        LEAF_CONTRACT => Some([Version::CURRENT.encode(), Features::ALL.encode(), call::DOORBELL_PORT as u32, msr::FIRST]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_leaf_spells_the_signature() {
        let [eax, ebx, ecx, edx] = leaf(LEAF_SIGNATURE).unwrap();
        assert_eq!(eax, LEAF_CONTRACT);
        let mut text = [0u8; 12];
        for (chunk, word) in text.chunks_mut(4).zip([ebx, ecx, edx]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(text, SIGNATURE);
        assert_eq!(leaf(0x4000_0002), None);
    }
}
