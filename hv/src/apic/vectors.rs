//! Sets of interrupt vectors, as the in-service, trigger mode and request registers are (APM vol. 2, 16.6.3).

/// A set of vectors from 16 on: those below are the processor's own, and in no set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Vectors {
    words: [u64; 4],
    /// The highest; 0 where there is none.
    highest: u8,
}

impl Vectors {
    /// The empty set.
    pub(super) const fn new() -> Self {
        Self { words: [0; 4], highest: 0 }
    }

    /// Adds a vector.
    #[inline]
    pub(super) const fn insert(&mut self, vector: u8) {
        self.words[vector as usize / 64] |= 1 << (vector % 64);
        if vector > self.highest {
            self.highest = vector;
        }
    }

    /// Removes a vector.
    #[inline]
    pub(super) const fn remove(&mut self, vector: u8) {
        self.words[vector as usize / 64] &= !(1 << (vector % 64));
        if vector == self.highest {
            self.highest = self.find_highest();
        }
    }

    /// The highest vector in the set; 0 where it is empty.
    #[inline]
    pub(super) const fn highest(&self) -> u8 {
        self.highest
    }

    #[inline]
    const fn find_highest(&self) -> u8 {
        let [a, b, c, d] = self.words;
        let (first, word) = match (a, b, c, d) {
            (.., d) if d != 0 => (192, d),
            (_, _, c, _) if c != 0 => (128, c),
            (_, b, ..) if b != 0 => (64, b),
            (0, ..) => return 0,
            (a, ..) => (0, a),
        };
        first + 63 - word.leading_zeros() as u8
    }

    /// The 32 vectors from `32 * at` on; `at` is below 8.
    pub(super) const fn word(&self, at: u8) -> u32 {
        (self.words[at as usize / 2] >> (at % 2 * 32)) as u32
    }
}
