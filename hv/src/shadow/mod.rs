//! The shadow MMU: page tables that the processor walks, filled from the guest's own tables on demand.
//!
//! # One fault, from exit to filled entry
//!
//! A fault comes in ([`ShadowMmu::fault`]), and goes three ways, the commonest first:
//!
//! 1. It lies in the 2 MiB that were filled last (`serve_recent`). What the levels above allow is known, as a page-walk cache would know it; one entry of
//!    the guest is read, and one of the shadow written.
//! 2. The guest has nothing there (`walk::absent`), and is told so.
//! 3. Anything else (`fill_any`). The guest's tables are walked as the processor would walk them ([`walk()`]), in whatever paging mode the guest is, which
//!    yields the page fault that the guest is owed, or a translation, accessed and dirty bits set. Shadow tables for the levels above the last are found
//!    or made, and linked (`enter_region`); the translation's frame comes from guest memory, zeroed or copied at that moment if need be; a leaf is filled
//!    with what guest *and* host allow (`leaf`).
//!
//! Neighbours that the guest has used before are filled with it (`prefetch`).
//!
//! # What the tables are
//!
//! The processor runs a guest in long mode on four levels, every other guest on legacy PAE: a root of four PDPTEs, and the same lower levels. A shadow
//! table is keyed by the guest frame that holds the guest's table and by its role: level, part, paging format, and the rights of the levels
//! above. Entries above the last level allow everything; leaves carry the rights of all levels. A large page, and memory without
//! paging, is served in 4 KiB pieces by tables that stand for no guest table.
//!
//! A table is a cache, as a TLB is. It is *empty*, or *in step*: then the guest's frame is mapped read-only everywhere, and its first write is heard and
//! makes the table *unsync*: the frame becomes writable, and the shadow keeps what it has until the guest flushes ([`ShadowMmu::invalidate`],
//! [`ShadowMmu::load_root`]), by the architecture's own rules (APM vol. 2, 5.5).
//!
//! # What is guaranteed, and where it is shown
//!
//! | guarantee | test |
//! |---|---|
//! | a leaf never allows more than guest and host | `leaves_never_exceed_the_guest_and_the_host` |
//! | leaves are made of [`GuestFrame`] only | the type of `leaf::make`, the one place that makes a leaf |
//! | a frame that gets a private copy loses every leaf of the old one | `a_copied_frame_loses_all_its_old_leaves` |
//! | no frame, of a table or of memory, is reused before the flush that it owes | `tables_stay_in_quarantine_until_discharged`; `tests/mmu`: `frames_outlive_their_duty` |
//! | accessed and dirty bits are set as the processor sets them | `clean_pages_fault_once_more_to_become_dirty` |
//! | after a flush, no translation of before is left that the guest has changed | `a_flush_ends_what_the_guest_has_changed` |
//! | an access comes to nothing that the manual forbids: what the tables say, or what a TLB may still hold | `tests/mmu`: `seed_06_a_guest_never_sees_what_the_manual_forbids`, `seed_06_stories_end_well`; booted: `access_rights_*` |
//! | without any one flush, re-check, forced bit or quarantine that would not hold | `tests/mmu`: `seed_06_every_planted_bug_is_noticed` |

mod duty;
mod leaf;
mod paging;
mod prefetch;
mod rmap;
mod slots;
mod sync;
mod table;
mod walk;

pub use duty::FlushDuty;
pub use paging::{Access, Kind, Mode, PHYSICAL_BITS, Paging, PagingBits, Privilege, Rights, SmapCheck, is_legal_pdpte};
pub use walk::{PageFault, Translation, translate, walk};

use crate::{
    addr::{Gfn, Gpa, Gva, Hpa},
    error::Error,
    mem::{Frame, Frames, GuestFrame, GuestMemory, Intent, Touched},
    plant::{Bug, planted},
    x86::Entry,
};
use alloc::vec::Vec;
use paging::LEVELS;
use rmap::{Holds, Leaf, ReverseMap};
use table::{Key, LEGACY_TOP, Role, Source, State, Tables};
use walk::{index, span};

/// Most shadow tables of one VM (64 MiB of frames): with one more, all are dropped and filled anew. Tests get there soon.
const MAX_TABLES: usize = if cfg!(any(test, feature = "model")) { 48 } else { 16 * 1024 };

/// Epochs count in steps of this; below it stands the number of the root.
const EPOCH: u64 = 1 << 16;

/// What is known of 2 MiB of linear addresses: what the processor would keep in its page-walk cache, and the shadow table that serves them.
#[derive(Clone, Copy, Debug)]
struct Region {
    number: u64,
    /// What maps its pages: a guest table, or the entry of a large page.
    source: Pages,
    /// Rights of the levels above.
    above: Rights,
    /// Index of the last-level shadow table.
    shadow: u32,
    /// Whether the tables on the way are linked in one place each.
    reached: Reached,
}

impl Region {
    /// No region: its number is no address's.
    const NONE: Self =
        Self { number: u64::MAX, source: Pages::Table(Gpa(0)), above: Rights::empty(), shadow: 0, reached: Reached::Otherwise };

    /// The guest's last-level entry for `address`, and the bits that must be clear in it; `None` where the address lies elsewhere, or one entry does not tell.
    #[inline(always)]
    fn entry(&self, memory: &GuestMemory, paging: &Paging, address: Gva) -> Option<(Entry, u64)> {
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
struct OutsidePage {
    page: Gva,
    place: Gpa,
    /// The access that was allowed, and for which accessed and dirty bits were set.
    access: Access,
}

impl OutsidePage {
    /// No page: its address is no page's.
    const NONE: Self = Self { page: Gva(u64::MAX), place: Gpa(0), access: Access::READ };
}

/// By how many addresses an entry of a table is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// By one: flushing that address forgets the entry.
    ByOneAddress,
    /// Perhaps by others too.
    Otherwise,
}

/// What maps the pages of a region.
#[derive(Clone, Copy, Debug)]
enum Pages {
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
    fn entry_or(self, leaf: Entry, index: usize) -> Entry {
        match self {
            Self::Large(entry, first) => piece_of_large(entry, first, index),
            _ => leaf,
        }
    }
}

/// The last-level entry that a large page would have for its piece `index`, counted from the frame `first`.
#[inline]
fn piece_of_large(entry: Entry, first: Gfn, index: usize) -> Entry {
    let flags = Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED | Entry::DIRTY | Entry::NO_EXECUTE;
    entry & flags | Entry::from_bits_retain(Gfn(first.0 + index as u64).gpa().0)
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The shadow has the translation now: the guest tries again.
    Filled,
    /// The guest's own tables forbid the access.
    Guest(PageFault),
    /// The access is allowed, but leads outside guest memory.
    Outside(Gpa),
    /// The guest allows the access, the host does not.
    Denied(Gpa),
    /// The access is allowed, but no shadow entry can say so without allowing more: it has to be carried out for the guest.
    Inexpressible(Gpa),
}

/// The shadow tables of one VM.
pub struct ShadowMmu {
    tables: Tables,
    reverse: ReverseMap,
    /// Tables that are out of use, but perhaps not out of every TLB and walk cache.
    quarantine: Vec<Frame>,
    /// Tables that the guest may have changed since they were filled.
    unsync: Vec<u32>,
    root: u32,
    /// The root, and the one before it: guests come back.
    last_roots: [u32; 2],
    /// The level of the root: 4, or 3 outside long mode.
    top: usize,
    /// The region that was filled last.
    recent: Region,
    /// The page outside of memory that was accessed last.
    outside: OutsidePage,
    epoch: u64,
}

impl ShadowMmu {
    /// Makes the shadow of the address space that `paging` names.
    ///
    /// # Errors
    /// [`Error::NoFrames`], [`Error::NoHeap`]; [`Error::OutsideMemory`] when CR3 lies outside guest memory.
    pub fn new(frames: Frames, memory: &GuestMemory, paging: &Paging) -> Result<Self, Error> {
        let mut mmu = Self {
            tables: Tables::new(frames)?,
            reverse: ReverseMap::new(frames, memory.size())?,
            quarantine: Vec::new(),
            unsync: Vec::new(),
            root: 0,
            last_roots: [0; 2],
            top: LEVELS,
            recent: Region::NONE,
            outside: OutsidePage::NONE,
            epoch: 0,
        };
        let _nothing_ran_yet = mmu.load_root(paging)?;
        Ok(mmu)
    }

    /// The address of the top shadow table, for the VMCB's CR3.
    #[inline]
    pub fn root(&self) -> Hpa {
        self.tables.get(self.root).frame.hpa()
    }

    /// Changes with every translation that is removed or replaced, and with the root: what was learnt from the tables before may be wrong while it differs.
    #[inline]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins a new epoch on the same root.
    #[inline]
    pub(super) const fn bump(&mut self) {
        self.epoch += EPOCH;
    }

    /// How many tables were made so far: each is a zeroed page. The reverse map's pages are counted with them.
    pub const fn pages_zeroed(&self) -> u64 {
        self.tables.made() + self.reverse.pages_zeroed()
    }

    /// Where an access leads that is like the last one outside of memory, and to the same page.
    #[inline]
    pub fn known_outside(&self, address: Gva, access: Access) -> Option<Gpa> {
        let OutsidePage { page, place, access: allowed } = self.outside;
        (page == address.page_base() && access == allowed).then_some(Gpa(place.0 | address.page_offset() as u64))
    }

    /// Handles a page fault that the processor raised while the guest ran on these tables.
    ///
    /// The duty covers everything that had to change on the way, whatever the outcome.
    ///
    /// # Errors
    /// [`Error::NoFrames`] and [`Error::NoHeap`]: the host has no memory for the guest. What had to change before that is not told: the caller owes
    /// [`FlushDuty::Asid`].
    #[inline]
    pub fn fault(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
    ) -> Result<(Outcome, FlushDuty), Error> {
        if let Some(outcome) = self.serve_recent(memory, paging, address, access) {
            return Ok((outcome, FlushDuty::None));
        }
        match walk::absent(memory, paging, address, access) {
            Some(fault) => Ok((Outcome::Guest(fault), FlushDuty::None)),
            None => self.serve_other(memory, paging, address, access),
        }
    }

    /// Serves the common faults: `address` lies in the region that was filled last, and either the guest's last-level entry is not present, or nothing has to be
    /// set in it and no entry of the shadow has to go. `None` where that does not hold; nothing has changed then that the guest could see.
    #[inline(always)]
    fn serve_recent(&mut self, memory: &mut GuestMemory, paging: &Paging, address: Gva, access: Access) -> Option<Outcome> {
        let (entry, reserved) = self.recent.entry(memory, paging, address)?;
        let here = Leaf { table: self.recent.shadow, entry: index(address, 1) as u32 };
        if !entry.contains(Entry::PRESENT) {
            return Some(Outcome::Guest(walk::owed(address, walk::ABSENT, access, paging)));
        }
        let rights = walk::by_last_entry(entry, reserved, paging, access, self.recent.above)?;
        let gfn = Gpa(entry.address()).gfn();
        // A shared frame is not copied here: it takes no writes, and so the whole walk decides.
        let (frame, touched) = memory.touch(gfn, Intent::Read).ok()?;
        if is_denied(frame, access.kind) || !self.tables.entry(here).is_empty() {
            return None;
        }
        let rights = leaf::clean_rights(rights, entry);
        let holds = self.reverse.chunk(gfn)?.try_add(gfn.place(), here)?;
        if access.kind == Kind::Write && (holds == Holds::Table || !rights.contains(Rights::WRITE)) {
            return None;
        }
        self.tables.store(here, leaf::make(frame, leaf::flags(rights), holds));
        // Where the frame itself was new, those of the neighbours will hardly be there.
        if touched == Touched::Present {
            self.prefetch(memory, paging, here, gfn);
        }
        Some(Outcome::Filled)
    }

    /// Serves a fault as [`ShadowMmu::serve_recent`] does whose frame was mapped elsewhere before: the leaf there is gone, and makes way.
    fn serve_recycled(&mut self, memory: &mut GuestMemory, paging: &Paging, address: Gva, access: Access) -> Option<Outcome> {
        let (entry, _) = self.recent.entry(memory, paging, address)?;
        let gfn = Gpa(entry.address()).gfn();
        let frame = memory.present(gfn)?;
        let tables = &self.tables;
        let is_free = self.reverse.free(gfn, |other| tables.maps(other, frame.hpa()));
        if is_free { self.serve_recent(memory, paging, address, access) } else { None }
    }

    /// Serves what is not common.
    #[inline(never)]
    fn serve_other(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
    ) -> Result<(Outcome, FlushDuty), Error> {
        match self.serve_recycled(memory, paging, address, access) {
            Some(outcome) => Ok((outcome, FlushDuty::None)),
            None => self.fill_any(memory, paging, address, access),
        }
    }

    /// Serves any fault, by a walk of the guest's tables, as [`ShadowMmu::fault`] does what is not common. What hv accesses for the guest comes here at once.
    ///
    /// # Errors
    /// As [`ShadowMmu::fault`].
    #[inline(never)]
    pub fn fill_any(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
    ) -> Result<(Outcome, FlushDuty), Error> {
        let mut duty = FlushDuty::None;
        let mut found = Translation::new(paging);
        let heard = |gfn, touched| duty = duty.and(self.copied(gfn, touched));
        if let Some(fault) = found.walk(memory, paging, address, access, heard)? {
            return Ok((Outcome::Guest(fault), duty));
        }
        self.enter_region(memory, paging, &found, address, &mut duty)?;
        let entry = self.recent.source.entry_or(found.leaf(), index(address, 1));
        let rights = found.above & Rights::of(entry);
        let intent = if access.kind == Kind::Write { Intent::Write } else { Intent::Read };
        let gpa = Gpa(entry.address() | address.page_offset() as u64);
        let gfn = gpa.gfn();
        let (frame, touched) = match memory.touch(gfn, intent) {
            Err(Error::OutsideMemory(_)) => {
                self.outside = OutsidePage { page: address.page_base(), place: gpa.page_base(), access };
                return Ok((Outcome::Outside(gpa), duty));
            }
            other => other?,
        };
        if is_denied(frame, access.kind) {
            return Ok((Outcome::Denied(gpa), duty));
        }
        let here = Leaf { table: self.recent.shadow, entry: index(address, 1) as u32 };
        if let Touched::CopiedFrom(old) = touched {
            duty = duty.and(self.replace(gfn, old, here, address));
        }
        let Some(rights) = leaf::rights_for(rights, entry, access, paging) else {
            return Ok((Outcome::Inexpressible(gpa), duty));
        };
        duty = duty.and(self.set_leaf(here, gfn, frame, rights, intent, address)?);
        if touched == Touched::Present {
            self.prefetch(memory, paging, here, gfn);
        }
        Ok((Outcome::Filled, duty))
    }

    /// Makes the region of `address` the recent one, its shadow table linked from the root.
    fn enter_region(
        &mut self,
        memory: &GuestMemory,
        paging: &Paging,
        found: &Translation,
        address: Gva,
        duty: &mut FlushDuty,
    ) -> Result<(), Error> {
        self.recent = Region::NONE;
        if self.tables.count() + LEVELS > MAX_TABLES {
            *duty = duty.and(self.drop_all()?);
        }
        let mut table = self.root;
        let mut rights = Rights::all();
        let mut reached = Reached::ByOneAddress;
        for level in (2..=self.top).rev() {
            *duty = duty.and(self.keep_in_step(memory, table)?);
            if level >= found.level && level <= paging.mode().top() {
                rights &= Rights::of(found.entry(level));
            }
            let key = child_key(found, paging, address, level, rights);
            let child = self.tables.find_or_make(key)?;
            let at = Leaf { table, entry: index(address, level) as u32 };
            if !self.tables.is_linked(at, child) {
                if self.may_show_changes(child) {
                    // All that is unsync goes, and the way down begins again: once, as nothing is unsync then.
                    *duty = duty.and(self.empty_unsync());
                    return self.enter_region(memory, paging, found, address, duty);
                }
                *duty = duty.and(self.link(at, child));
            }
            if !self.tables.has_one_parent(child) {
                reached = Reached::Otherwise;
            }
            table = child;
        }
        *duty = duty.and(self.keep_in_step(memory, table)?);
        let source = match (found.level, paging.mode()) {
            (1, Mode::TwoLevel) => Pages::HalfTable,
            (1, _) => Pages::Table(found.table(1).gpa()),
            _ => Pages::Large(found.leaf(), Gpa(found.gpa.0 & !(span(2) - 1)).gfn()),
        };
        self.recent = Region { number: address.0 / span(2), source, above: found.above, shadow: table, reached };
        Ok(())
    }

    /// Tells whether leading one more entry to a tree of tables that was filled before might make visible what the guest has changed in it meanwhile: by the
    /// new way, no TLB has anything yet, so the guest need not have flushed.
    fn may_show_changes(&self, child: u32) -> bool {
        let table = self.tables.get(child);
        !self.unsync.is_empty() && table.state == State::InStep && table.key.role.level > 1 && !planted(Bug::OldTreesShowChanges)
    }

    /// Lets the entry `at` lead to `child`, which it did not yet.
    fn link(&mut self, at: Leaf, child: u32) -> FlushDuty {
        // By the new way, what the guest has changed shows at once, as no TLB has anything for it yet.
        let is_unsync = self.tables.get(child).state == State::Unsync && !planted(Bug::OldTreesShowChanges);
        let stale = if is_unsync { self.empty(child) } else { FlushDuty::None };
        let owed = self.tables.link(at, child);
        if owed != FlushDuty::None {
            self.bump();
        }
        stale.and(owed)
    }

    fn set_leaf(
        &mut self,
        at: Leaf,
        gfn: Gfn,
        frame: GuestFrame,
        rights: Rights,
        intent: Intent,
        address: Gva,
    ) -> Result<FlushDuty, Error> {
        let tables = &self.tables;
        let (mut holds, surplus) = self.reverse.add(gfn, frame.hpa(), at, |other, hpa| tables.maps(other, hpa))?;
        if holds == Holds::Table && intent == Intent::Write {
            self.make_unsync(gfn);
            holds = Holds::Data;
        }
        let entry = leaf::make(frame, leaf::flags(rights), holds);
        let old = self.tables.entry(at);
        self.tables.store(at, entry);
        let mut duty = surplus.map_or(FlushDuty::None, |leaf| self.remove_surplus(leaf, frame.hpa()));
        if old.contains(Entry::PRESENT) && !leaf::is_upgrade(old, entry) {
            self.bump();
            if !planted(Bug::DowngradeOwesNothing) {
                duty = duty.and(self.flush_here(address));
            }
        }
        Ok(duty)
    }

    /// The flush of an address of the recent region.
    const fn flush_here(&self, address: Gva) -> FlushDuty {
        match self.recent.reached {
            Reached::ByOneAddress => FlushDuty::Address(address),
            Reached::Otherwise => FlushDuty::Asid,
        }
    }

    #[cold]
    fn remove_surplus(&mut self, leaf: Leaf, hpa: Hpa) -> FlushDuty {
        if !self.tables.maps(leaf, hpa) {
            return FlushDuty::None;
        }
        self.tables.store(leaf, Entry::empty());
        self.bump();
        FlushDuty::Asid
    }

    /// Removes the leaves of a frame that was copied. `here` is about to map the copy: if it alone mapped the old one, flushing its address is enough.
    fn replace(&mut self, gfn: Gfn, old: Hpa, here: Leaf, address: Gva) -> FlushDuty {
        let is_here = self.tables.maps(here, old);
        match self.remove_leaves(gfn, old) {
            _ if planted(Bug::ReplaceOwesNothing) => FlushDuty::None,
            0 => FlushDuty::None,
            1 if is_here => self.flush_here(address),
            _ => FlushDuty::Asid,
        }
    }

    /// Removes every leaf that maps `gfn` to the host frame `hpa`; tells how many there were.
    pub(super) fn remove_leaves(&mut self, gfn: Gfn, hpa: Hpa) -> usize {
        let mut removed = 0;
        let tables = &self.tables;
        self.reverse.for_each(gfn, |leaf| {
            if tables.maps(leaf, hpa) && !planted(Bug::LeavesStay) {
                tables.store(leaf, Entry::empty());
                removed += 1;
            }
        });
        self.bump();
        removed
    }

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

    /// Says that every flush handed out so far has been discharged: frames may go back to the host.
    #[inline]
    pub fn discharged(&mut self) {
        if !self.quarantine.is_empty() {
            self.quarantine.clear();
        }
    }

    /// Puts every table into quarantine but the root, which is emptied.
    fn drop_all(&mut self) -> Result<FlushDuty, Error> {
        self.quarantine.try_reserve(self.tables.count()).map_err(|_| Error::NoHeap)?;
        let root = self.tables.get(self.root).key.gfn;
        self.reverse.clear_table(root);
        for table in self.tables.drain_all_but(self.root) {
            self.reverse.clear_table(table.key.gfn);
            if !planted(Bug::TablesSkipQuarantine) {
                self.quarantine.push(table.frame);
            }
        }
        self.reverse.forget_lists();
        self.root = 0;
        self.unsync.clear();
        self.forget_recent();
        self.bump();
        Ok(if planted(Bug::DropOwesNothing) { FlushDuty::None } else { FlushDuty::Asid })
    }
}

/// Whether the host forbids an access to a frame.
#[inline]
const fn is_denied(frame: GuestFrame, kind: Kind) -> bool {
    match kind {
        Kind::Read => false,
        // Shared frames have been copied by now.
        Kind::Write => !frame.takes_writes(),
        Kind::Fetch => !frame.takes_fetches(),
    }
}

/// What the shadow table stands for that the entry of `level` for `address` leads to; `rights` are those down to that entry.
fn child_key(found: &Translation, paging: &Paging, address: Gva, level: usize, rights: Rights) -> Key {
    let mut role =
        Role { level: level as u8 - 1, source: Source::Table, rights: rights.bits(), part: 0, format: paging.format() };
    if level > found.level {
        if paging.mode() == Mode::TwoLevel {
            role.part = if level == LEGACY_TOP { (address.0 >> 30 & 3) as u8 } else { (address.0 >> 21 & 1) as u8 };
        }
        return Key { gfn: found.table(level - 1), role };
    }
    role.source = if found.leaf().contains(Entry::DIRTY) { Source::DirtyPage } else { Source::CleanPage };
    Key { gfn: Gpa(found.gpa.0 & !(span(level) - 1)).gfn(), role }
}

#[cfg(test)]
mod tests;
