//! A small set of page-aligned address ranges, which lives before there is a heap.

use hv::addr::PAGE_SIZE;

/// Most ranges that are kept.
const MAX: usize = 64;
const PAGE: u64 = PAGE_SIZE as u64;

/// Disjoint, page-aligned ranges of memory that may be used.
///
/// It forgets memory where it has no room for another range: that wastes some, and never gives away what is not free.
#[derive(Clone, Debug)]
pub struct Ranges {
    items: [(u64, u64); MAX],
    count: usize,
}

impl Ranges {
    /// Makes the empty set.
    pub const fn new() -> Self {
        Self { items: [(0, 0); MAX], count: 0 }
    }

    /// Returns each range as (first address, first address behind it), in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.items[..self.count].iter().copied()
    }

    /// Adds the whole pages between `start` and `end`; pages that are in the set stay in it once.
    pub fn add(&mut self, start: u64, end: u64) {
        let (start, end) = (start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX), end & !(PAGE - 1));
        self.remove(start, end);
        self.push(start, end);
    }

    /// Removes every page that has a byte between `start` and `end`.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (start, end) = (start & !(PAGE - 1), end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX));
        let before = self.clone();
        self.count = 0;
        for (from, to) in before.iter() {
            self.push(from, to.min(start));
            self.push(from.max(end), to);
        }
    }

    /// Cuts `bytes` off the high end of the longest range, aligned to `align` (a power of two, at least a page).
    pub fn carve(&mut self, bytes: u64, align: u64) -> Option<(u64, u64)> {
        let (from, to) = self.iter().max_by_key(|(from, to)| to - from)?;
        let start = to.checked_sub(bytes)? & !(align - 1);
        if start < from {
            return None;
        }
        self.remove(start, to);
        self.add(start + bytes, to);
        Some((start, start + bytes))
    }

    /// Counts the bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|(from, to)| to - from).sum()
    }

    fn push(&mut self, from: u64, to: u64) {
        if from < to && self.count < MAX {
            self.items[self.count] = (from, to);
            self.count += 1;
        }
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, vec, vec::Vec};

    fn sorted(ranges: &Ranges) -> Vec<(u64, u64)> {
        let mut all: Vec<_> = ranges.iter().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn rounds_added_ranges_inwards_and_removed_ones_outwards() {
        let mut ranges = Ranges::new();
        ranges.add(0x1001, 0x5fff);
        assert_eq!(sorted(&ranges), vec![(0x2000, 0x5000)]);
        ranges.remove(0x3fff, 0x4001);
        assert_eq!(sorted(&ranges), vec![(0x2000, 0x3000)]);
        ranges.add(u64::MAX - 5, u64::MAX);
        ranges.add(0x900, 0x100);
        ranges.remove(0x2500, 0x2500);
        assert_eq!(sorted(&ranges), vec![(0x2000, 0x3000)]);
    }

    #[test]
    fn agrees_with_a_set_of_pages() {
        let (mut ranges, mut model) = (Ranges::new(), BTreeSet::new());
        let mut seed = 1u64;
        for step in 0..200 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (start, len) = ((seed >> 33) % 40, (seed >> 50) % 9);
            let pages = start..start + len;
            if step % 3 == 0 {
                ranges.remove(start * PAGE, (start + len) * PAGE);
                model.retain(|page| !pages.contains(page));
            } else {
                ranges.add(start * PAGE, (start + len) * PAGE);
                model.extend(pages);
            }
            let found: Vec<u64> = sorted(&ranges).iter().flat_map(|(from, to)| from / PAGE..to / PAGE).collect();
            assert_eq!(found, model.iter().copied().collect::<Vec<_>>(), "after step {step}");
            assert_eq!(ranges.bytes(), model.len() as u64 * PAGE);
        }
    }

    #[test]
    fn carves_from_the_longest_range() {
        let mut ranges = Ranges::new();
        ranges.add(0, 0x4000);
        ranges.add(0x10_0000, 0x20_3000);
        assert_eq!(ranges.carve(0x2000, 0x2000), Some((0x20_0000, 0x20_2000)));
        assert_eq!(sorted(&ranges), vec![(0, 0x4000), (0x10_0000, 0x20_0000), (0x20_2000, 0x20_3000)]);
        assert_eq!(ranges.carve(0x20_0000, 0x1000), None);
        assert_eq!(Ranges::new().carve(0x1000, 0x1000), None);
    }

    #[test]
    fn forgets_memory_when_it_is_full() {
        let mut ranges = Ranges::new();
        for page in 0..2 * MAX as u64 {
            ranges.add(2 * page * PAGE, (2 * page + 1) * PAGE);
        }
        assert_eq!(ranges.iter().count(), MAX);
    }
}
