//! Builds 4-level page tables that map guest memory to itself (APM vol. 2, 5.3).

use crate::{LoadError, PAGE, Region, Rights};
use alloc::vec::Vec;
use core::ops::Range;
use hv::x86::{ADDRESS_MASK, Entry};

/// What one entry of a page directory maps.
const LARGE_PAGE: u64 = 2 << 20;
/// Entries of a table of any level.
const ENTRIES: usize = 512;
/// An entry that points to a table: rights are restricted in the leaves alone.
const TABLE: Entry = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::ACCESSED);

/// The largest page that a region is mapped with where it is aligned for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Largest {
    /// 4 KiB.
    Page4KiB,
    /// 2 MiB.
    Page2MiB,
}

/// Page tables one behind the other in guest memory, the highest one first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tables {
    address: u64,
    words: Vec<u64>,
}

impl Tables {
    /// Makes tables that map nothing and begin at `address`.
    pub(crate) fn new(address: u64) -> Result<Self, LoadError> {
        let mut tables = Self { address, words: Vec::new() };
        tables.append()?;
        Ok(tables)
    }

    /// The memory that the tables take.
    pub(crate) fn range(&self) -> Range<u64> {
        self.address..self.address + self.words.len() as u64 * 8
    }

    /// The tables' entries.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Maps a region, which no earlier one shares a page with and which ends at 2^48 at the latest.
    pub(crate) fn map(&mut self, region: &Region, largest: Largest) -> Result<(), LoadError> {
        let leaf = leaf_flags(region.rights);
        let Range { start: mut at, end } = region.pages;
        while at < end {
            let pointers = self.table_below(0, index(at, 3))?;
            let directory = self.table_below(pointers, index(at, 2))?;
            if largest == Largest::Page2MiB && at.is_multiple_of(LARGE_PAGE) && end - at >= LARGE_PAGE {
                self.words[directory + index(at, 1)] = at | (leaf | Entry::LARGE).bits();
                at += LARGE_PAGE;
            } else {
                let table = self.table_below(directory, index(at, 1))?;
                self.words[table + index(at, 0)] = at | leaf.bits();
                at += PAGE;
            }
        }
        Ok(())
    }

    /// The table that an entry of the table at `table` points to, made if there is none; both as indices of a first word.
    fn table_below(&mut self, table: usize, entry: usize) -> Result<usize, LoadError> {
        let word = self.words[table + entry];
        if word != 0 {
            return Ok(((word & ADDRESS_MASK) - self.address) as usize / 8);
        }
        let below = self.append()?;
        self.words[table + entry] = (self.address + below as u64 * 8) | TABLE.bits();
        Ok(below)
    }

    fn append(&mut self) -> Result<usize, LoadError> {
        let first = self.words.len();
        self.words.try_reserve(ENTRIES).map_err(|_| LoadError::OutOfMemory)?;
        self.words.resize(first + ENTRIES, 0);
        Ok(first)
    }
}

/// The first 2 MiB boundary at or behind `address`, which lies below 2^48.
pub(crate) const fn large_page_up(address: u64) -> u64 {
    address.next_multiple_of(LARGE_PAGE)
}

/// The entry that `address` selects in a table of `level`, 0 being the lowest.
const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize % ENTRIES
}

/// What a leaf says, accessed and dirty bits set as far as the guest's accesses could set them.
fn leaf_flags(rights: Rights) -> Entry {
    Entry::PRESENT
        | Entry::ACCESSED
        | match rights {
            Rights::Read => Entry::NO_EXECUTE,
            Rights::ReadWrite => Entry::NO_EXECUTE | Entry::WRITABLE | Entry::DIRTY,
            Rights::ReadExecute => Entry::empty(),
        }
}
