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

/// One level of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// The table's frame.
    pub table: Gfn,
    /// The entry that was used.
    pub entry: u64,
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub gpa: Gpa,
    /// Rights of all levels taken together.
    pub rights: Rights,
    /// Rights of the levels above the entry that maps the page.
    pub above: Rights,
    /// The level of the entry that maps the page: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub level: usize,
    /// The way there: `steps[level - 1]` is the table of that level.
    pub steps: [Step; LEVELS],
}

impl Translation {
    /// The mapping entry's dirty bit.
    pub fn is_dirty(&self) -> bool {
        Entry::from_bits_retain(self.steps[self.level - 1].entry).contains(Entry::DIRTY)
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
    let fault = |code| PageFault { address, code: reported(code | access.code(), paging) };
    let mut table = paging.top();
    let mut above = Rights::all();
    let mut steps = [Step::default(); LEVELS];
    let mut level = LEVELS;
    loop {
        let raw = memory.load(Gpa(table.gpa().0 + index(address, level) as u64 * 8)).unwrap_or(0);
        let entry = Entry::from_bits_retain(raw);
        if !entry.contains(Entry::PRESENT) {
            return Err(fault(PageFaultCode::empty()));
        }
        if has_reserved_bits(entry, level, paging) {
            return Err(fault(PageFaultCode::PRESENT | PageFaultCode::RESERVED));
        }
        steps[level - 1] = Step { table, entry: raw };
        if level == 1 || entry.contains(Entry::LARGE) {
            break;
        }
        above &= Rights::of(entry);
        table = Gpa(entry.address()).gfn();
        level -= 1;
    }
    let rights = above & Rights::of(Entry::from_bits_retain(steps[level - 1].entry));
    if !allows(rights, access, paging) {
        return Err(fault(PageFaultCode::PRESENT));
    }
    let offset = span(level) - 1;
    let gpa = Gpa(steps[level - 1].entry & ADDRESS_MASK & !offset | address.0 & offset);
    Ok(Translation { gpa, rights, above, level, steps })
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
            let Step { table, entry } = found.steps[level - 1];
            let dirty = if level == found.level && access.kind == Kind::Write { Entry::DIRTY } else { Entry::empty() };
            let used = entry | (Entry::ACCESSED | dirty).bits();
            if used != entry {
                touched(table, memory.touch(table, Intent::Write)?.1);
                let at = Gpa(table.gpa().0 + index(address, level) as u64 * 8);
                raced |= memory.compare_exchange(at, entry, used) != Some(true);
                found.steps[level - 1].entry = used;
            }
        }
        if !raced {
            return Ok(Ok(found));
        }
    }
    // Entries that keep changing under the walk: whatever is there now decides.
    Ok(translate(memory, paging, address, access))
}

/// The fetch bit appears only where a fetch can be told from a read (APM vol. 2, 8.4.2).
fn reported(code: PageFaultCode, paging: &Paging) -> PageFaultCode {
    if paging.no_execute { code } else { code - PageFaultCode::FETCH }
}

fn has_reserved_bits(entry: Entry, level: usize, paging: &Paging) -> bool {
    let large = entry.contains(Entry::LARGE);
    let misaligned = if large && matches!(level, 2 | 3) { (span(level) - 1) & ADDRESS_MASK & !(1 << PAGE_SHIFT) } else { 0 };
    let no_execute = if paging.no_execute { 0 } else { Entry::NO_EXECUTE.bits() };
    let reserved = RESERVED_ADDRESS | misaligned | no_execute;
    entry.bits() & reserved != 0 || (large && level == LEVELS)
}

/// Tells whether a present last-level entry has no reserved bit set, whatever the mode. (An entry that has one is left to its own fault.)
#[inline]
pub const fn is_plain_leaf(entry: Entry) -> bool {
    entry.bits() & RESERVED_ADDRESS == 0
}

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
