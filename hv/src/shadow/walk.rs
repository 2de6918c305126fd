//! The walk of the guest's own page tables, by a direct reading of APM vol. 2, 5.2 to 5.6.

use super::paging::{Access, Kind, LEVELS, Mode, Paging, PagingBits, Rights};
use crate::{
    addr::{Gfn, Gpa, Gva, PAGE_SHIFT},
    mem::{GuestMemory, Intent, Touched},
    plant::{Bug, planted},
    x86::{ADDRESS_MASK, Entry, Exception, PageFaultCode, Vector},
};

/// How often a walk starts over when an entry changes under it.
const TRIES: usize = 4;
/// Address bits of an entry that maps a large page; those below its size must be clear, but for the lowest, which is a cache bit (APM vol. 2, 5.3.3).
const LARGE_RESERVED: u64 = ADDRESS_MASK & !(1 << PAGE_SHIFT);
/// Bit 8 is a page's; level-4 and level-3 entries that lead to tables must not have it (APM vol. 2, figures 5-18 and 5-19).
const GLOBAL: u64 = 1 << 8;
/// Bytes that a 4 MiB page has.
const PSE_PAGE: u64 = 4 << 20;
/// Must be clear in an entry that maps a 4 MiB page, where addresses have 40 bits (APM vol. 2, figure 5-6).
const PSE_RESERVED: u64 = 1 << 21;

/// A page fault that the guest is owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// What CR2 shall say.
    pub address: Gva,
    /// What the error code shall say.
    pub code: PageFaultCode,
}

impl PageFault {
    /// The fault as an exception; CR2 is set beside it.
    pub const fn exception(self) -> Exception {
        Exception { vector: Vector::PF, code: Some(self.code.bits()) }
    }
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub gpa: Gpa,
    /// The level of the entry that maps the page: 1 for 4 KiB, 2 for 2 or 4 MiB, 3 for 1 GiB; 4 without paging. While a walk goes on, or has failed, that of
    /// the entry it is at.
    pub level: usize,
    /// Rights of the levels above that entry, taken together.
    pub above: Rights,
    /// By level, counted from 1, in the format of 64-bit entries. Where a mode has no table of a level, the entry there names the table below all the same.
    entries: [Entry; LEVELS],
    top: Gfn,
}

/// Why a walk ends: the fault's own bits.
pub(super) type Refusal = PageFaultCode;
pub(super) const ABSENT: Refusal = PageFaultCode::empty();
const FORBIDDEN: Refusal = PageFaultCode::PRESENT;
const RESERVED: Refusal = PageFaultCode::PRESENT.union(PageFaultCode::RESERVED);

impl Translation {
    pub(super) const fn new(paging: &Paging) -> Self {
        let entries = [Entry::empty(); LEVELS];
        Self { gpa: Gpa(0), level: LEVELS, above: Rights::all(), entries, top: paging.top_table() }
    }

    /// What the entry that maps the page says, in the format of 64-bit entries.
    #[inline]
    pub const fn leaf(&self) -> Entry {
        self.entries[self.level - 1]
    }

    /// The entry of `level`, in the format of 64-bit entries.
    #[inline]
    pub const fn entry(&self, level: usize) -> Entry {
        self.entries[level - 1]
    }

    /// The frame of the table of `level`.
    #[inline]
    pub const fn table(&self, level: usize) -> Gfn {
        if level == LEVELS { self.top } else { Gpa(self.entries[level].address()).gfn() }
    }

    /// Walks the tables for `address`, changing nothing.
    #[inline]
    fn follow(&mut self, memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Result<(), Refusal> {
        match paging.mode() {
            Mode::Long => self.by_64_bit_entries(memory, paging, address)?,
            Mode::Pae => {
                self.pdpte(memory, paging, address)?;
                self.by_64_bit_entries(memory, paging, address)?;
            }
            Mode::TwoLevel => self.by_32_bit_entries(memory, paging, address)?,
            Mode::Unpaged => self.unpaged(address),
        }
        let allowed = access.is_allowed(self.above & Rights::of(self.leaf()), paging);
        if allowed { Ok(()) } else { Err(FORBIDDEN) }
    }

    /// Without paging every address is a physical one, with all rights.
    const fn unpaged(&mut self, address: Gva) {
        let everything = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::USER).union(Entry::ACCESSED).union(Entry::DIRTY);
        self.entries[LEVELS - 1] = everything;
        self.gpa = Gpa(address.0);
    }

    /// PDPTEs were checked when they were latched; they carry no rights (APM vol. 2, 5.2.3).
    fn pdpte(&mut self, memory: &GuestMemory, paging: &Paging, address: Gva) -> Result<(), Refusal> {
        self.level = 3;
        self.entries[2] = paging.pdpte(address.0);
        if planted(Bug::PdptesAreNotLatched) {
            self.entries[2] = Entry::from_bits_retain(load(memory, Gpa((paging.cr3() & !31) + (address.0 >> 30 & 3) * 8)));
        }
        if !self.entries[2].contains(Entry::PRESENT) {
            return Err(ABSENT);
        }
        self.level = 2;
        Ok(())
    }

    #[inline(never)]
    fn by_64_bit_entries(&mut self, memory: &GuestMemory, paging: &Paging, address: Gva) -> Result<(), Refusal> {
        let must_be = Entry::PRESENT.bits();
        let checked = must_be | paging.reserved();
        let (mut level, mut table) = (self.level, self.table(self.level));
        loop {
            let raw = load(memory, Gpa(table.gpa().0 + index(address, level) as u64 * 8));
            let entry = Entry::from_bits_retain(raw);
            self.entries[(level - 1) & 3] = entry;
            self.level = level;
            if raw & checked != must_be {
                return Err(if entry.contains(Entry::PRESENT) { RESERVED } else { ABSENT });
            }
            if level == 1 || entry.contains(Entry::LARGE) {
                break;
            }
            if raw & GLOBAL != 0 && level > 2 {
                return Err(RESERVED);
            }
            self.above &= Rights::of(entry);
            table = Gpa(entry.address()).gfn();
            level -= 1;
        }
        let (leaf, offset) = (self.leaf().bits(), span(self.level) - 1);
        if self.level > 1 && (self.level == LEVELS || leaf & offset & LARGE_RESERVED != 0) {
            return Err(RESERVED);
        }
        self.gpa = Gpa(leaf & ADDRESS_MASK & !offset | address.0 & offset);
        Ok(())
    }

    #[cold]
    fn by_32_bit_entries(&mut self, memory: &GuestMemory, paging: &Paging, address: Gva) -> Result<(), Refusal> {
        let read = |at: Gpa| half(load(memory, Gpa(at.0 & !7)), at);
        self.level = 2;
        self.entries[2] = Entry::from_bits_retain(self.top.gpa().0);
        let upper = read(place_of_half(self.top, address, 2));
        self.entries[1] = Entry::from_bits_retain(upper);
        if upper & 1 == 0 {
            return Err(ABSENT);
        }
        if self.entries[1].contains(Entry::LARGE) && paging.bits().contains(PagingBits::LARGE_PAGES) {
            if upper & PSE_RESERVED != 0 {
                return Err(RESERVED);
            }
            // Bits 39:32 of the address stand in bits 20:13.
            let frame = upper & !(PSE_PAGE - 1) | (upper >> 13 & 0xff) << 32;
            self.entries[1] = Entry::from_bits_retain(upper & 0xfff | frame);
            self.gpa = Gpa(frame | address.0 & (PSE_PAGE - 1));
            return Ok(());
        }
        self.entries[1] -= Entry::LARGE;
        self.above = Rights::of(self.entries[1]);
        self.level = 1;
        self.entries[0] = Entry::from_bits_retain(read(place_of_half(self.table(1), address, 1)));
        if !self.leaf().contains(Entry::PRESENT) {
            return Err(ABSENT);
        }
        self.gpa = Gpa(self.leaf().address() | address.page_offset() as u64);
        Ok(())
    }
}

/// Index into the 512-entry table of `level` (1 to 4).
#[inline]
pub const fn index(address: Gva, level: usize) -> usize {
    (address.0 >> (PAGE_SHIFT as usize + 9 * (level - 1))) as usize & 511
}

/// Bytes that one entry of a 512-entry table of `level` maps.
#[inline]
pub const fn span(level: usize) -> u64 {
    1 << (PAGE_SHIFT as usize + 9 * (level - 1))
}

/// Where the 32-bit entry of `level` for `address` lies in a table.
const fn place_of_half(table: Gfn, address: Gva, level: usize) -> Gpa {
    Gpa(table.gpa().0 + (address.0 >> (12 + 10 * (level - 1)) & 1023) * 4)
}

/// The 32-bit entry at `at` in the 64-bit word that holds it.
#[inline]
const fn half(word: u64, at: Gpa) -> u64 {
    (word >> (at.0 % 8 * 8)) & 0xffff_ffff
}

/// Reads the 64-bit entry at `at`. Absent memory reads as all ones.
#[inline]
fn load(memory: &GuestMemory, at: Gpa) -> u64 {
    memory.load(at).unwrap_or(u64::MAX)
}

/// Translates `address` without changing anything: what an access would find. Outside long mode, `address` has 32 bits.
///
/// # Errors
/// The page fault that the access would raise. A table outside guest memory reads as all ones.
#[inline]
pub fn translate(memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Result<Translation, PageFault> {
    let mut found = Translation::new(paging);
    match found.follow(memory, paging, address, access) {
        Ok(()) => Ok(found),
        Err(refusal) => Err(owed(address, refusal, access, paging)),
    }
}

/// Translates by a 64-bit last-level entry alone, which must not have the bits `reserved`, where the tables above are known to lead to it with the rights `above`.
///
/// Returns the rights of all levels taken together. `None` when the access would fault or would set an accessed or dirty bit; a whole walk decides then.
#[inline]
pub(super) fn by_last_entry(entry: Entry, reserved: u64, paging: &Paging, access: Access, above: Rights) -> Option<Rights> {
    let used = if access.kind == Kind::Write { Entry::ACCESSED | Entry::DIRTY } else { Entry::ACCESSED };
    let plain = entry.contains(Entry::PRESENT | used) && entry.bits() & reserved == 0;
    let rights = above & Rights::of(entry);
    (plain && access.is_allowed(rights, paging)).then_some(rights)
}

/// Finds the commonest of a guest's own faults by as little as it takes: an entry on the way is not present, and those above it lead to tables that were
/// accessed before. `None` where a whole walk has to tell.
#[inline]
pub(super) fn absent(memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Option<PageFault> {
    if paging.mode() != Mode::Long {
        return None;
    }
    let used = (Entry::PRESENT | Entry::ACCESSED).bits();
    let checked = used | Entry::LARGE.bits() | GLOBAL | paging.reserved();
    let (mut table, mut shift) = (paging.cr3() & ADDRESS_MASK, 39);
    loop {
        let raw = memory.load(Gpa(table + (address.0 >> shift & 511) * 8))?;
        if raw & Entry::PRESENT.bits() == 0 {
            return Some(owed(address, ABSENT, access, paging));
        }
        if raw & checked != used || shift == PAGE_SHIFT {
            return None;
        }
        (table, shift) = (raw & ADDRESS_MASK, shift - 9);
    }
}

/// Translates `address` for an access that happens: sets accessed bits on the way, and the dirty bit for a write. A walk that fails has accessed the tables
/// above the entry that it fails at (APM vol. 2, 5.4.1).
///
/// `touched` hears what became of the frames of tables that had to be written for that.
///
/// # Errors
/// The page fault that the guest is owed, or what memory had to say.
pub fn walk(
    memory: &mut GuestMemory,
    paging: &Paging,
    address: Gva,
    access: Access,
    touched: impl FnMut(Gfn, Touched),
) -> Result<Result<Translation, PageFault>, crate::Error> {
    let mut found = Translation::new(paging);
    Ok(match found.walk(memory, paging, address, access, touched)? {
        None => Ok(found),
        Some(fault) => Err(fault),
    })
}

impl Translation {
    /// As [`walk()`], in place; gives the fault, if there is one.
    #[inline]
    pub(super) fn walk(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
        mut touched: impl FnMut(Gfn, Touched),
    ) -> Result<Option<PageFault>, crate::Error> {
        for _ in 0..TRIES {
            *self = Self::new(paging);
            let refused = self.follow(memory, paging, address, access).err();
            let passed = self.level + usize::from(refused.is_some());
            let mut raced = false;
            for level in passed..=paging.mode().top() {
                let writes = access.kind == Kind::Write && level == self.level;
                let used = if writes { Entry::ACCESSED | Entry::DIRTY } else { Entry::ACCESSED };
                if !self.entries[(level - 1) & 3].contains(used) {
                    raced |= self.mark(memory, paging, address, level, used, &mut touched)? == Some(false);
                }
            }
            match refused {
                Some(refusal) => return Ok(Some(owed(address, refusal, access, paging))),
                None if !raced => return Ok(None),
                None => {}
            }
        }
        // Entries that keep changing under the walk: whatever is there now decides.
        *self = Self::new(paging);
        Ok(self.follow(memory, paging, address, access).err().map(|refusal| owed(address, refusal, access, paging)))
    }
}

impl Translation {
    /// Sets bits in the guest's entry if it still is what the walk found, and tells whether it was; `None` where its frame cannot be written.
    #[cold]
    fn mark(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        level: usize,
        used: Entry,
        touched: &mut impl FnMut(Gfn, Touched),
    ) -> Result<Option<bool>, crate::Error> {
        let (table, entry) = (self.table(level), self.entries[level - 1]);
        match memory.touch(table, Intent::Write) {
            Ok((_, done)) => touched(table, done),
            // Absent memory takes no writes.
            Err(crate::Error::OutsideMemory(_)) => {}
            Err(error) => return Err(error),
        }
        self.entries[level - 1] |= used;
        if paging.mode() != Mode::TwoLevel {
            let at = Gpa(table.gpa().0 + index(address, level) as u64 * 8);
            return Ok(memory.compare_exchange(at, entry.bits(), (entry | used).bits()));
        }
        let at = place_of_half(table, address, level);
        let word = Gpa(at.0 & !7);
        let Some(whole) = memory.load(word) else { return Ok(None) };
        // The flags of a 32-bit entry stand where those of a 64-bit one do; whether it is large, the walk has decided.
        let flags = (Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED | Entry::DIRTY).bits();
        if (half(whole, at) ^ entry.bits()) & flags != 0 {
            return Ok(Some(false));
        }
        Ok(memory.compare_exchange(word, whole, whole | used.bits() << (at.0 % 8 * 8)))
    }
}

/// The page fault for an access that was refused.
#[inline]
pub(super) fn owed(address: Gva, refusal: Refusal, access: Access, paging: &Paging) -> PageFault {
    let code = refusal | access.code();
    PageFault { address, code: if paging.tells_fetches() { code } else { code - PageFaultCode::FETCH } }
}

/// Tells whether a 64-bit last-level entry is present and accessed and has no reserved bit.
#[inline]
pub(super) const fn is_used_leaf(entry: Entry, reserved: u64) -> bool {
    let used = Entry::PRESENT.bits() | Entry::ACCESSED.bits();
    entry.bits() & (used | reserved) == used
}
