//! The walk of the guest's own page tables, by a direct reading of APM vol. 2, 5.3 to 5.6.

use crate::{
    addr::{Gfn, Gpa, Gva, PAGE_SHIFT},
    mem::{GuestMemory, Intent, Touched},
    x86::{ADDRESS_MASK, Entry, Exception, PageFaultCode, Vector},
};
use bitflags::bitflags;

/// Levels of a long-mode walk.
pub const LEVELS: usize = 4;
/// Address bits that guests have: CPUID 8000_0008 of the profile.
const PHYSICAL_BITS: u32 = 40;
const RESERVED_ADDRESS: u64 = ADDRESS_MASK & !((1 << PHYSICAL_BITS) - 1);
/// How often a walk starts over when an entry changes under it.
const TRIES: usize = 4;

bitflags! {
    /// What a translation allows, all levels taken together.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Writes.
        const WRITE = 1 << 0;
        /// User accesses.
        const USER = 1 << 1;
        /// Fetches.
        const EXECUTE = 1 << 2;
    }
}

impl Rights {
    /// What one entry allows.
    #[inline]
    pub fn of(entry: Entry) -> Self {
        let mut rights = Self::empty();
        rights.set(Self::WRITE, entry.contains(Entry::WRITABLE));
        rights.set(Self::USER, entry.contains(Entry::USER));
        rights.set(Self::EXECUTE, !entry.contains(Entry::NO_EXECUTE));
        rights
    }
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// CPL 0 to 2, or the processor itself.
    Supervisor,
    /// CPL 3.
    User,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Who makes it.
    pub privilege: Privilege,
}

impl Access {
    /// A read by the hypervisor for the guest.
    pub const READ: Self = Self { kind: Kind::Read, privilege: Privilege::Supervisor };

    /// The access that a page-fault code describes.
    pub fn of_fault(code: PageFaultCode) -> Self {
        let kind = if code.contains(PageFaultCode::WRITE) {
            Kind::Write
        } else if code.contains(PageFaultCode::FETCH) {
            Kind::Fetch
        } else {
            Kind::Read
        };
        let privilege = if code.contains(PageFaultCode::USER) { Privilege::User } else { Privilege::Supervisor };
        Self { kind, privilege }
    }

    /// The bits that the access itself puts into a page-fault code, where no-execute is enabled.
    fn code(self) -> PageFaultCode {
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, self.kind == Kind::Write);
        code.set(PageFaultCode::FETCH, self.kind == Kind::Fetch);
        code.set(PageFaultCode::USER, self.privilege == Privilege::User);
        code
    }
}

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

/// The control-register bits that a walk depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR3.
    pub cr3: u64,
    /// CR0.WP: supervisor writes heed read-only pages.
    pub write_protect: bool,
    /// EFER.NXE.
    pub no_execute: bool,
}

impl Paging {
    /// The frame of the top table.
    pub const fn top(&self) -> Gfn {
        Gfn((self.cr3 & ADDRESS_MASK) >> PAGE_SHIFT)
    }
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub gpa: Gpa,
    /// The level of the entry that maps the page: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub level: usize,
    /// Rights of the levels above that entry, taken together.
    pub above: Rights,
    /// The entries on the way: `entries[level - 1]` is that of the level. Below [`Translation::level`] they are 0.
    pub entries: [u64; LEVELS],
    top: Gfn,
}

impl Translation {
    /// The entry that maps the page.
    #[inline]
    pub const fn leaf(&self) -> Entry {
        Entry::from_bits_retain(self.entries[self.level - 1])
    }

    /// The frame of the table of `level`.
    pub const fn table(&self, level: usize) -> Gfn {
        if level == LEVELS { self.top } else { Gpa(self.entries[level] & ADDRESS_MASK).gfn() }
    }
}

/// Index into the table of `level` (1 to 4).
#[inline]
pub const fn index(address: Gva, level: usize) -> usize {
    (address.0 >> (PAGE_SHIFT as usize + 9 * (level - 1))) as usize & 511
}

/// Bytes that one entry of `level` maps.
pub const fn span(level: usize) -> u64 {
    1 << (PAGE_SHIFT as usize + 9 * (level - 1))
}

/// Translates `address` without changing anything: what an access would find.
///
/// # Errors
/// The page fault that the access would raise. A table outside guest memory reads as not present.
#[inline]
pub fn translate(memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Result<Translation, PageFault> {
    let mut table = paging.top();
    let mut above = Rights::all();
    let mut entries = [0; LEVELS];
    let mut level = LEVELS;
    let leaf = loop {
        let raw = memory.load(Gpa(table.gpa().0 + index(address, level) as u64 * 8)).unwrap_or(0);
        let entry = Entry::from_bits_retain(raw);
        check_entry(entry, level, paging).map_err(|code| owed(address, code, access, paging))?;
        entries[level - 1] = raw;
        if level == 1 || entry.contains(Entry::LARGE) {
            break entry;
        }
        above &= Rights::of(entry);
        table = Gpa(entry.address()).gfn();
        level -= 1;
    };
    if !allows(above & Rights::of(leaf), access, paging) {
        return Err(owed(address, PageFaultCode::PRESENT, access, paging));
    }
    let offset = span(level) - 1;
    let gpa = Gpa(leaf.address() & !offset | address.0 & offset);
    Ok(Translation { gpa, level, above, entries, top: paging.top() })
}

/// Translates `address` by its last-level entry alone, where the tables above are known to lead to `table` with the rights `above`.
///
/// Returns the entry, and the rights of all levels taken together. `None` when the access would fault or would set an accessed or dirty bit; a whole walk decides then.
#[inline]
pub fn translate_last(
    memory: &GuestMemory,
    paging: &Paging,
    address: Gva,
    access: Access,
    table: Gfn,
    above: Rights,
) -> Option<(Entry, Rights)> {
    let entry = Entry::from_bits_retain(memory.load(Gpa(table.gpa().0 + index(address, 1) as u64 * 8))?);
    let used = if access.kind == Kind::Write { Entry::ACCESSED | Entry::DIRTY } else { Entry::ACCESSED };
    let plain = entry.contains(Entry::PRESENT | used) && check_entry(entry, 1, paging).is_ok();
    let rights = above & Rights::of(entry);
    (plain && allows(rights, access, paging)).then_some((entry, rights))
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
            Err(fault) => return Ok(Err(fault)),
        };
        let mut raced = false;
        for level in found.level..=LEVELS {
            let entry = found.entries[level - 1];
            let dirty = if level == found.level && access.kind == Kind::Write { Entry::DIRTY } else { Entry::empty() };
            let used = entry | (Entry::ACCESSED | dirty).bits();
            if used != entry {
                let table = found.table(level);
                touched(table, memory.touch(table, Intent::Write)?.1);
                let at = Gpa(table.gpa().0 + index(address, level) as u64 * 8);
                raced |= memory.compare_exchange(at, entry, used) != Some(true);
                found.entries[level - 1] = used;
            }
        }
        if !raced {
            return Ok(Ok(found));
        }
    }
    // Entries that keep changing under the walk: whatever is there now decides.
    Ok(translate(memory, paging, address, access))
}

/// The page fault for an access that found `code`. The fetch bit appears only where a fetch can be told from a read (APM vol. 2, 8.4.2).
#[cold]
fn owed(address: Gva, code: PageFaultCode, access: Access, paging: &Paging) -> PageFault {
    let code = code | access.code();
    PageFault { address, code: if paging.no_execute { code } else { code - PageFaultCode::FETCH } }
}

/// Finds an entry present and without reserved bits, or the fault's own bits.
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
    let no_execute = if paging.no_execute { 0 } else { Entry::NO_EXECUTE.bits() };
    let reserved = RESERVED_ADDRESS | misaligned | no_execute;
    entry.bits() & reserved != 0 || (large && level == LEVELS)
}

/// Tells whether a last-level entry is present and accessed and has no reserved bit, where no-execute is enabled.
#[inline]
pub const fn is_used_leaf(entry: Entry) -> bool {
    let used = Entry::PRESENT.bits() | Entry::ACCESSED.bits();
    entry.bits() & (used | RESERVED_ADDRESS) == used
}

#[inline]
fn allows(rights: Rights, access: Access, paging: &Paging) -> bool {
    let user = access.privilege == Privilege::User;
    if user && !rights.contains(Rights::USER) {
        return false;
    }
    match access.kind {
        Kind::Read => true,
        Kind::Write => rights.contains(Rights::WRITE) || (!user && !paging.write_protect),
        Kind::Fetch => rights.contains(Rights::EXECUTE),
    }
}
