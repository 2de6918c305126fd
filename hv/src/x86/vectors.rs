//! Sets of interrupt vectors, as the APIC's in-service and request registers are (APM vol. 2, 16.6.3).

/// A set of interrupt vectors. No task priority is below that of vectors 0 to 15, so that 0 can stand for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VectorSet {
    words: [u64; 4],
    /// The highest; 0 where there is none.
    highest: u8,
}

impl VectorSet {
    /// The empty set.
    pub(crate) const fn new() -> Self {
        Self { words: [0; 4], highest: 0 }
    }

    /// Adds a vector.
    #[inline]
    pub(crate) const fn insert(&mut self, vector: u8) {
        self.words[vector as usize / 64] |= 1 << (vector % 64);
        if vector > self.highest {
            self.highest = vector;
        }
    }

    /// Removes the highest vector.
    #[inline]
    pub(crate) const fn remove_highest(&mut self) {
        let at = self.highest as usize / 64;
        let word = self.words[at] & !(1 << (self.highest % 64));
        self.words[at] = word;
        self.highest = match (word, at) {
            (0, 0) => 0,
            (0, _) => self.highest_below(at),
            _ => highest_in(at, word),
        };
    }

    /// The highest vector in the set; 0 where it is empty.
    #[inline]
    pub(crate) const fn highest(&self) -> u8 {
        self.highest
    }

    /// The highest vector below a word; 0 where there is none.
    #[cold]
    const fn highest_below(&self, mut at: usize) -> u8 {
        while at > 0 {
            at -= 1;
            if self.words[at] != 0 {
                return highest_in(at, self.words[at]);
            }
        }
        0
    }

    /// The 32 vectors from `32 * at` on; `at` is below 8.
    pub(crate) const fn word(&self, at: u8) -> u32 {
        (self.words[at as usize / 2] >> (at % 2 * 32)) as u32
    }
}

/// The highest vector in a word that has one.
#[inline]
const fn highest_in(at: usize, word: u64) -> u8 {
    (64 * at) as u8 + 63 - word.leading_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_set_that_knows_its_highest(steps in proptest::collection::vec((any::<bool>(), 16_u8..), 0..200)) {
            let (mut ours, mut reference) = (VectorSet::new(), BTreeSet::new());
            for (adds, vector) in steps {
                if adds {
                    ours.insert(vector);
                    reference.insert(vector);
                } else if ours.highest() != 0 {
                    ours.remove_highest();
                    reference.pop_last();
                }
                prop_assert_eq!(ours.highest(), reference.last().copied().unwrap_or(0));
                for at in 0..8 {
                    let word = (0..32).filter(|bit| reference.contains(&(32 * at + bit))).fold(0, |word, bit| word | 1 << bit);
                    prop_assert_eq!(ours.word(at), word);
                }
            }
        }
    }
}
