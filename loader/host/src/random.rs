//! Seeds for guests: a ChaCha20 stream, whose key is made of what the job and the processor have to give.
#![expect(unsafe_code, reason = "RDRAND")]

use core::arch::x86_64::{__cpuid, _rdrand64_step};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use wire::Entropy;

/// CPUID leaf 1, ECX: the processor has RDRAND (APM vol. 3, CPUID).
const RDRAND: u32 = 1 << 30;
/// How often RDRAND is asked for one word; it may have none at hand.
const PATIENCE: usize = 32;

/// Where seeds come from.
pub(crate) struct Seeds(Option<ChaCha20Rng>);

impl Seeds {
    /// Makes seeds of what there is; without any, there are none.
    pub(crate) fn new(entropy: Entropy) -> Self {
        let key = match entropy {
            Entropy::Fixed(bytes) => Some(bytes),
            Entropy::Mixed(bytes) => Some(processor().map_or(bytes, |own| xor(own, bytes))),
            Entropy::Processor => processor(),
        };
        Self(key.map(ChaCha20Rng::from_seed))
    }

    /// The next seed.
    pub(crate) fn next(&mut self) -> Option<[u8; 32]> {
        let mut seed = [0; 32];
        self.0.as_mut()?.fill_bytes(&mut seed);
        Some(seed)
    }
}

fn xor(mut a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}

/// Random bytes of the processor's own generator.
fn processor() -> Option<[u8; 32]> {
    if __cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word()?.to_le_bytes());
    }
    Some(bytes)
}

fn word() -> Option<u64> {
    let mut word = 0;
    // SAFETY: the processor has the instruction; it changes nothing but the word.
    (0..PATIENCE).any(|_| unsafe { step(&mut word) }).then_some(word)
}

/// Asks once.
///
/// # Safety
/// The processor has RDRAND.
#[target_feature(enable = "rdrand")]
unsafe fn step(word: &mut u64) -> bool {
    _rdrand64_step(word) == 1
}
