//! Counts what a guest asks for that is not there. A guest can ask for anything, so only so many things are told apart.

use hv::addr::PAGE_SIZE;

/// How many things of one kind are told apart.
const MAX: usize = 64;

/// Things of one kind, in ascending order, each with how often it was asked for.
#[derive(Debug)]
struct Counts<K> {
    counts: [(K, u64); MAX],
    used: usize,
}

impl<K: Copy + Ord + Default> Default for Counts<K> {
    fn default() -> Self {
        Self { counts: [(K::default(), 0); MAX], used: 0 }
    }
}

impl<K: Copy + Ord> Counts<K> {
    fn iter(&self) -> impl Iterator<Item = (K, u64)> + '_ {
        self.counts[..self.used].iter().copied()
    }

    /// Counts one more; tells whether there was room.
    fn add(&mut self, key: K) -> Result<(), ()> {
        match self.counts[..self.used].binary_search_by_key(&key, |(known, _)| *known) {
            Ok(at) => self.counts[at].1 += 1,
            Err(_) if self.used == MAX => return Err(()),
            Err(at) => {
                self.counts[at..=self.used].rotate_right(1);
                self.counts[at] = (key, 1);
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// What one guest asked for that is not there.
#[derive(Debug, Default)]
pub struct Absent {
    ports: Counts<u16>,
    pages: Counts<u64>,
    others: u64,
}

impl Absent {
    /// Ports, each with the number of accesses.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.ports.iter()
    }

    /// Addresses of pages of guest-physical memory, each with the number of accesses.
    pub fn pages(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pages.iter()
    }

    /// Accesses to things that there were too many of to tell apart.
    pub const fn others(&self) -> u64 {
        self.others
    }

    /// Tells whether nothing was asked for.
    pub const fn is_empty(&self) -> bool {
        self.ports.used + self.pages.used == 0
    }

    pub(super) fn port(&mut self, port: u16) {
        let counted = self.ports.add(port);
        self.note(counted);
    }

    pub(super) fn memory(&mut self, address: u64) {
        let counted = self.pages.add(address & !(PAGE_SIZE as u64 - 1));
        self.note(counted);
    }

    fn note(&mut self, counted: Result<(), ()>) {
        self.others += u64::from(counted.is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn counts_are_sorted_and_bounded() {
        let mut absent = Absent::default();
        for round in 0..2 {
            for port in (0..100).rev() {
                absent.port(port * 7 % 100);
            }
            assert_eq!(absent.others(), 36 * (round + 1));
        }
        let ports: Vec<_> = absent.ports().collect();
        assert_eq!(ports.len(), 64);
        assert!(ports.windows(2).all(|pair| pair[0].0 < pair[1].0) && ports.iter().all(|(_, count)| *count == 2));
    }
}
