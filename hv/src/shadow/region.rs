//! What is remembered of the fault before, as a page-walk cache and a TLB would know it: most faults lie beside the last one.

use super::{
    ShadowMmu,
    paging::{Access, Paging, Rights},
    walk::{index, span},
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    mem::GuestMemory,
    x86::Entry,
};

/// What is known of 2 MiB of linear addresses: what the processor would keep in its page-walk cache, and the shadow table that serves them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) number: u64,
    /// What maps its pages: a guest table, or the entry of a large page.
    pub(super) source: Pages,
    /// Rights of the levels above.
    pub(super) above: Rights,
    /// Index of the last-level shadow table.
    pub(super) shadow: u32,
    /// Whether the tables on the way are linked in one place each.
    pub(super) reached: Reached,
}

impl Region {
    /// No region: its number is no address's.
    pub(super) const NONE: Self =
        Self { number: u64::MAX, source: Pages::Table(Gpa(0)), above: Rights::empty(), shadow: 0, reached: Reached::Otherwise };

    /// The guest's last-level entry for `address`, and the bits that must be clear in it; `None` where the address lies elsewhere, or one entry does not tell.
    #[inline(always)]
    pub(super) fn entry(&self, memory: &GuestMemory, paging: &Paging, address: Gva) -> Option<(Entry, u64)> {
        if self.number != address.0 / span(2) {
            return None;
        }
        let index = index(address, 1);
        match self.source {
            Pages::Table(start) => {
                let raw = memory.load(Gpa(start.0 + index as u64 * 8))?;
                Some((Entry::from_bits_retain(raw), paging.reserved()))
            }
            Pages::Large(entry, first) => Some((piece_of_large(entry, first, index), 0)),
            Pages::HalfTable => None,
        }
    }
}

/// A page that leads outside of memory, as a TLB would know it: until the guest flushes.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutsidePage {
    pub(super) page: Gva,
    pub(super) place: Gpa,
    /// The access that was allowed, and for which accessed and dirty bits were set.
    pub(super) access: Access,
}

impl OutsidePage {
    /// No page: its address is no page's.
    pub(super) const NONE: Self = Self { page: Gva(u64::MAX), place: Gpa(0), access: Access::READ };
}

/// By how many addresses an entry of a table is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reached {
    /// By one: flushing that address forgets the entry.
    ByOneAddress,
    /// Perhaps by others too.
    Otherwise,
}

/// What maps the pages of a region.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pages {
    /// 512 entries of 64 bits, from here on.
    Table(Gpa),
    /// Half of a table of 32-bit entries, which is walked for each of them.
    HalfTable,
    /// One entry for all; the pages follow one another from this frame on.
    Large(Entry, Gfn),
}

impl Pages {
    /// The last-level entry with that index: `leaf`, which was found, or one made up for a large page.
    #[inline]
    pub(super) fn entry_or(self, leaf: Entry, index: usize) -> Entry {
        match self {
            Self::Large(entry, first) => piece_of_large(entry, first, index),
            _ => leaf,
        }
    }
}

/// The last-level entry that a large page would have for its piece `index`, counted from the frame `first`.
#[inline]
pub(super) fn piece_of_large(entry: Entry, first: Gfn, index: usize) -> Entry {
    let flags = Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED | Entry::DIRTY | Entry::NO_EXECUTE;
    entry & flags | Entry::from_bits_retain(Gfn(first.0 + index as u64).gpa().0)
}

impl ShadowMmu {
    /// Forgets what was learnt from the guest's tables last.
    pub(super) const fn forget_recent(&mut self) {
        self.recent = Region::NONE;
        self.forget_outside();
    }

    /// Forgets the page outside of memory that was accessed last.
    #[inline]
    pub(super) const fn forget_outside(&mut self) {
        self.outside.page = OutsidePage::NONE.page;
    }
}
