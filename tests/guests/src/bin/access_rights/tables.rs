//! The page tables of the test: one table of each level below an entry of the kernel's top table, so that address 2^39 * 100 + x leads to physical address x.
#![expect(unsafe_code, reason = "page tables are written by address")]

use crate::oracle::{PS, Physical};
use core::ptr;

/// Levels, and so entries on the way to a page.
pub const ENTRIES: usize = 4;
/// The test's entry of the top table.
const SLOT: u64 = 100;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Tables that lie at known addresses of this guest's memory, of which physical and linear addresses are the same.
pub struct Tables {
    /// The address of the table of each level, the last level's first.
    pub tables: [u64; ENTRIES],
    /// Guest memory in bytes.
    pub memory: u64,
}

impl Tables {
    /// The top table.
    pub fn top(&self) -> u64 {
        self.tables[ENTRIES - 1]
    }

    /// The linear address that leads to a physical one.
    pub fn lead_to(&self, target: u64) -> u64 {
        SLOT << 39 | target
    }

    /// Where the entry of a level on the way to `target` lies.
    pub fn entry_at(&self, level: u8, target: u64) -> u64 {
        let index = self.lead_to(target) >> (12 + 9 * (level - 1)) & 511;
        self.tables[usize::from(level) - 1] + index * 8
    }

    /// Sets the entry of a level to these flags, and to what it has to lead to.
    pub fn set(&mut self, level: u8, target: u64, flags: u64) {
        let size = 1u64 << (12 + 9 * (level - 1));
        let is_page = level == 1 || (level < 4 && flags & PS != 0);
        let leads_to = if is_page { target & !(size - 1) } else { self.tables[usize::from(level) - 2] };
        let at = ptr::with_exposed_provenance_mut::<u64>(self.entry_at(level, target) as usize);
        // SAFETY: the entry lies in a table that is the test's alone, and no Rust object is mapped by it.
        unsafe { at.write_volatile(flags | leads_to & ADDRESS) };
    }

    /// The four entries on the way to `target`.
    pub fn entries(&self, target: u64) -> [u64; ENTRIES] {
        [1, 2, 3, 4].map(|level| self.load(self.entry_at(level, target), 8).unwrap_or(0))
    }
}

impl Physical for Tables {
    fn load(&self, at: u64, _bytes: u64) -> Option<u64> {
        if at > self.memory - 8 {
            return None;
        }
        // SAFETY: all of memory is mapped readable at its physical address.
        Some(unsafe { ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() })
    }

    fn takes_writes(&self, at: u64) -> bool {
        at < self.memory
    }
}
