//! Sets of interrupt vectors, as the in-service, trigger mode and request registers are (APM vol. 2, 16.6.3).

/// A set of the 256 vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Vectors([u64; 4]);

impl Vectors {
    /// The empty set.
    pub(super) const fn new() -> Self {
        Self([0; 4])
    }

    /// Adds a vector.
    #[inline]
    pub(super) const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Removes a vector.
    #[inline]
    pub(super) const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// The highest vector in the set.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        let at = self.0.iter().rposition(|word| *word != 0)?;
        Some((at * 64 + self.0[at].ilog2() as usize) as u8)
    }

    /// The 32 vectors from `32 * at` on; `at` is below 8.
    pub(super) const fn word(&self, at: u8) -> u32 {
        (self.0[at as usize / 2] >> (at % 2 * 32)) as u32
    }
}
