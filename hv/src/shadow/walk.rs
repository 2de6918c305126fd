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

/// An entry on the way of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    /// Where it lies.
    at: Gpa,
    /// Its 32 or 64 bits.
    raw: u64,
    /// The same in the format of 64-bit entries.
    entry: Entry,
}

impl Step {
    const NONE: Self = Self { at: Gpa(0), raw: 0, entry: Entry::empty() };
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub gpa: Gpa,
    /// The level of the entry that maps the page: 1 for 4 KiB, 2 for 2 or 4 MiB, 3 for 1 GiB; 4 without paging.
    pub level: usize,
    /// Rights of the levels above that entry, taken together.
    pub above: Rights,
    steps: [Step; LEVELS],
    top: Gfn,
}

impl Translation {
    /// What the entry that maps the page says, in the format of 64-bit entries.
    #[inline]
    pub const fn leaf(&self) -> Entry {
        self.steps[self.level - 1].entry
    }

    /// The entry of `level`, in the format of 64-bit entries.
    #[inline]
    pub const fn entry(&self, level: usize) -> Entry {
        self.steps[level - 1].entry
    }

    /// The frame of the table of `level`.
    pub const fn table(&self, level: usize) -> Gfn {
        if level == LEVELS { self.top } else { Gpa(self.steps[level].entry.address()).gfn() }
    }
}

/// Index into the 512-entry table of `level` (1 to 4).
#[inline]
pub const fn index(address: Gva, level: usize) -> usize {
    (address.0 >> (PAGE_SHIFT as usize + 9 * (level - 1))) as usize & 511
}

/// Bytes that one entry of a 512-entry table of `level` maps.
pub const fn span(level: usize) -> u64 {
    1 << (PAGE_SHIFT as usize + 9 * (level - 1))
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
    match paging.mode() {
        Mode::Long => by_64_bit_entries(memory, paging, address, access),
        Mode::Pae => by_64_bit_entries(memory, paging, address, access),
        Mode::TwoLevel => by_32_bit_entries(memory, paging, address, access),
        Mode::Unpaged => Ok(unpaged(address)),
    }
}

/// What every address translates to without paging: itself, with all rights.
const fn unpaged(address: Gva) -> Translation {
    let everything = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::USER).union(Entry::ACCESSED).union(Entry::DIRTY);
    let mut steps = [Step::NONE; LEVELS];
    steps[LEVELS - 1].entry = everything;
    Translation { gpa: Gpa(address.0), level: LEVELS, above: Rights::all(), steps, top: Gfn(0) }
}

#[inline]
fn by_64_bit_entries(memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Result<Translation, PageFault> {
    let mut steps = [Step::NONE; LEVELS];
    let (mut level, mut table) = (LEVELS, paging.top_table());
    if paging.mode() == Mode::Pae {
        // PDPTEs were checked when they were latched; they carry no rights (APM vol. 2, 5.2.3).
        let latched = paging.pdpte(address.0);
        let pdpte = if planted(Bug::PdptesAreNotLatched) { pdpte_in_memory(memory, paging, address) } else { latched };
        if !pdpte.contains(Entry::PRESENT) {
            return Err(owed(address, PageFaultCode::empty(), access, paging));
        }
        steps[2].entry = pdpte;
        (level, table) = (2, Gpa(pdpte.address()).gfn());
    }
    let mut above = Rights::all();
    let leaf = loop {
        let at = Gpa(table.gpa().0 + index(address, level) as u64 * 8);
        let raw = load(memory, at);
        let entry = Entry::from_bits_retain(raw);
        check_entry(entry, level, paging).map_err(|code| owed(address, code, access, paging))?;
        steps[level - 1] = Step { at, raw, entry };
        if level == 1 || entry.contains(Entry::LARGE) {
            break entry;
        }
        above &= Rights::of(entry);
        table = Gpa(entry.address()).gfn();
        level -= 1;
    };
    if !access.is_allowed(above & Rights::of(leaf), paging) {
        return Err(owed(address, PageFaultCode::PRESENT, access, paging));
    }
    let offset = span(level) - 1;
    let gpa = Gpa(leaf.address() & !offset | address.0 & offset);
    Ok(Translation { gpa, level, above, steps, top: paging.top_table() })
}

/// The PDPTE for `address` as memory has it now, which is not what counts.
#[cold]
fn pdpte_in_memory(memory: &GuestMemory, paging: &Paging, address: Gva) -> Entry {
    Entry::from_bits_retain(load(memory, Gpa((paging.cr3() & !31) + (address.0 >> 30 & 3) * 8)))
}

/// Bytes that a 4 MiB page has.
const PSE_PAGE: u64 = 4 << 20;
/// Must be clear in an entry that maps a 4 MiB page, where addresses have 40 bits (APM vol. 2, figure 5-6).
const PSE_RESERVED: u64 = 1 << 21;

#[cold]
fn by_32_bit_entries(memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Result<Translation, PageFault> {
    let mut steps = [Step::NONE; LEVELS];
    let directory = paging.top_table();
    steps[2].entry = Entry::from_bits_retain(directory.gpa().0);
    let step = |table: Gfn, index: u64| {
        let at = Gpa(table.gpa().0 + index * 4);
        let raw = half(load(memory, Gpa(at.0 & !7)), at);
        Step { at, raw, entry: Entry::from_bits_retain(raw) }
    };
    let refuse = |code| Err(owed(address, code, access, paging));
    let mut upper = step(directory, address.0 >> 22 & 1023);
    if !upper.entry.contains(Entry::PRESENT) {
        return refuse(PageFaultCode::empty());
    }
    let large = upper.entry.contains(Entry::LARGE) && paging.bits().contains(PagingBits::LARGE_PAGES);
    let found = if large {
        if upper.raw & PSE_RESERVED != 0 {
            return refuse(PageFaultCode::PRESENT | PageFaultCode::RESERVED);
        }
        // Bits 39:32 of the address stand in bits 20:13.
        let frame = upper.raw & !(PSE_PAGE - 1) | (upper.raw >> 13 & 0xff) << 32;
        upper.entry = Entry::from_bits_retain(upper.raw & 0xfff | frame);
        steps[1] = upper;
        Translation { gpa: Gpa(frame | address.0 & (PSE_PAGE - 1)), level: 2, above: Rights::all(), steps, top: directory }
    } else {
        upper.entry -= Entry::LARGE;
        let last = step(Gpa(upper.entry.address()).gfn(), address.0 >> 12 & 1023);
        if !last.entry.contains(Entry::PRESENT) {
            return refuse(PageFaultCode::empty());
        }
        (steps[1], steps[0]) = (upper, last);
        let gpa = Gpa(last.entry.address() | address.page_offset() as u64);
        Translation { gpa, level: 1, above: Rights::of(upper.entry), steps, top: directory }
    };
    if !access.is_allowed(found.above & Rights::of(found.leaf()), paging) {
        return refuse(PageFaultCode::PRESENT);
    }
    Ok(found)
}

/// The 32-bit entry at `at` in the 64-bit word that holds it.
#[inline]
const fn half(word: u64, at: Gpa) -> u64 {
    (word >> (at.0 % 8 * 8)) & 0xffff_ffff
}

/// Translates by a 64-bit last-level entry alone, where the tables above are known to lead to it with the rights `above`.
///
/// Returns the rights of all levels taken together. `None` when the access would fault or would set an accessed or dirty bit; a whole walk decides then.
#[inline]
pub(super) fn by_last_entry(entry: Entry, paging: &Paging, access: Access, above: Rights) -> Option<Rights> {
    let used = if access.kind == Kind::Write { Entry::ACCESSED | Entry::DIRTY } else { Entry::ACCESSED };
    let plain = entry.contains(Entry::PRESENT | used) && entry.bits() & paging.reserved() == 0;
    let rights = above & Rights::of(entry);
    (plain && access.is_allowed(rights, paging)).then_some(rights)
}

/// Translates `address` for an access that happens: sets accessed bits on the way, and the dirty bit for a write.
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
    mut touched: impl FnMut(Gfn, Touched),
) -> Result<Result<Translation, PageFault>, crate::Error> {
    for _ in 0..TRIES {
        let mut found = match translate(memory, paging, address, access) {
            Ok(found) => found,
            Err(fault) => {
                mark_passed(memory, paging, address, &mut touched)?;
                return Ok(Err(fault));
            }
        };
        let mut raced = false;
        for level in found.level..=paging.mode().top() {
            let Step { at, raw, .. } = found.steps[level - 1];
            let dirty = if level == found.level && access.kind == Kind::Write { Entry::DIRTY } else { Entry::empty() };
            let used = (Entry::ACCESSED | dirty).bits();
            if raw & used != used {
                raced |= mark(memory, paging, at, raw, raw | used, &mut touched)? == Some(false);
                found.steps[level - 1].entry |= Entry::from_bits_retain(used);
            }
        }
        if !raced {
            return Ok(Ok(found));
        }
    }
    // Entries that keep changing under the walk: whatever is there now decides.
    Ok(translate(memory, paging, address, access))
}

/// Marks an entry in memory as used, if it still is `old`; as [`replace`].
fn mark(
    memory: &mut GuestMemory,
    paging: &Paging,
    at: Gpa,
    old: u64,
    new: u64,
    touched: &mut impl FnMut(Gfn, Touched),
) -> Result<Option<bool>, crate::Error> {
    match memory.touch(at.gfn(), Intent::Write) {
        Ok((_, done)) => touched(at.gfn(), done),
        // Absent memory takes no writes.
        Err(crate::Error::OutsideMemory(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(replace(memory, paging, at, old, new))
}

/// Marks the upper entries of a walk that failed below them: a table has been accessed when it has been read (APM vol. 2, 5.4.1).
#[cold]
fn mark_passed(
    memory: &mut GuestMemory,
    paging: &Paging,
    address: Gva,
    touched: &mut impl FnMut(Gfn, Touched),
) -> Result<(), crate::Error> {
    let mut table = match paging.mode() {
        Mode::Unpaged => return Ok(()),
        Mode::Pae if !paging.pdpte(address.0).contains(Entry::PRESENT) => return Ok(()),
        Mode::Pae => Gpa(paging.pdpte(address.0).address()).gfn(),
        Mode::TwoLevel | Mode::Long => paging.top_table(),
    };
    for level in (2..=paging.mode().top()).rev() {
        let Step { at, raw, entry } = upper_step(memory, paging, table, address, level);
        let has_large_pages = paging.mode() != Mode::TwoLevel || paging.bits().contains(PagingBits::LARGE_PAGES);
        let is_page = has_large_pages && entry.contains(Entry::LARGE);
        let is_bad = paging.mode() != Mode::TwoLevel && has_reserved_bits(entry, level, paging);
        if !entry.contains(Entry::PRESENT) || is_page || is_bad {
            break;
        }
        if !entry.contains(Entry::ACCESSED) {
            // An entry that has changed meanwhile is another walk's.
            mark(memory, paging, at, raw, raw | Entry::ACCESSED.bits(), touched)?;
        }
        table = Gpa(entry.address()).gfn();
    }
    Ok(())
}

/// The entry of an upper level, in either width.
fn upper_step(memory: &GuestMemory, paging: &Paging, table: Gfn, address: Gva, level: usize) -> Step {
    let (at, raw) = if paging.mode() == Mode::TwoLevel {
        let at = Gpa(table.gpa().0 + (address.0 >> 22 & 1023) * 4);
        (at, half(load(memory, Gpa(at.0 & !7)), at))
    } else {
        let at = Gpa(table.gpa().0 + index(address, level) as u64 * 8);
        (at, load(memory, at))
    };
    Step { at, raw, entry: Entry::from_bits_retain(raw) }
}

/// Replaces an entry if it still is `old`, and tells whether it was; `None` where its frame cannot be written.
fn replace(memory: &mut GuestMemory, paging: &Paging, at: Gpa, old: u64, new: u64) -> Option<bool> {
    if paging.mode() != Mode::TwoLevel {
        return memory.compare_exchange(at, old, new);
    }
    let word = Gpa(at.0 & !7);
    let whole = memory.load(word)?;
    if half(whole, at) != old {
        return Some(false);
    }
    memory.compare_exchange(word, whole, whole | new << (at.0 % 8 * 8))
}

/// The page fault for an access that found `code`.
#[cold]
fn owed(address: Gva, code: PageFaultCode, access: Access, paging: &Paging) -> PageFault {
    let code = code | access.code();
    PageFault { address, code: if paging.tells_fetches() { code } else { code - PageFaultCode::FETCH } }
}

/// Finds a 64-bit entry present and without reserved bits, or the fault's own bits.
#[inline]
fn check_entry(entry: Entry, level: usize, paging: &Paging) -> Result<(), PageFaultCode> {
    if !entry.contains(Entry::PRESENT) {
        return Err(PageFaultCode::empty());
    }
    if has_reserved_bits(entry, level, paging) {
        return Err(PageFaultCode::PRESENT | PageFaultCode::RESERVED);
    }
    Ok(())
}

#[inline]
fn has_reserved_bits(entry: Entry, level: usize, paging: &Paging) -> bool {
    let large = entry.contains(Entry::LARGE);
    let misaligned = if large && matches!(level, 2 | 3) { (span(level) - 1) & ADDRESS_MASK & !(1 << PAGE_SHIFT) } else { 0 };
    // Bit 8 is a page's; PML4 entries and page-directory-pointer entries that lead to tables must not have it (APM vol. 2, figures 5-18 and 5-19).
    let leads_to_directory = level == LEVELS || (level == 3 && !large);
    let global = if leads_to_directory { 1 << 8 } else { 0 };
    entry.bits() & (paging.reserved() | misaligned | global) != 0 || (large && level == LEVELS)
}

/// Tells whether a 64-bit last-level entry is present and accessed and has no reserved bit.
#[inline]
pub(super) const fn is_used_leaf(entry: Entry, reserved: u64) -> bool {
    let used = Entry::PRESENT.bits() | Entry::ACCESSED.bits();
    entry.bits() & (used | reserved) == used
}
