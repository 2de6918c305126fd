//! The shadow MMU: page tables that the processor walks, filled from the guest's own tables on demand.
//!
//! A fault comes in ([`ShadowMmu::fault`]); the guest's tables are walked as the processor would walk them ([`translate`]), which
//! yields the page fault that the guest is owed, or a translation. The translation's frame comes from guest memory (zeroed or copied
//! at that moment if need be), and a leaf is filled with what guest *and* host allow. Neighbours that the guest has used before are filled with it.
//!
//! Shadow tables are keyed by the guest frame that holds the guest's table and by their [`Role`]; entries above the last level
//! allow everything, leaves carry the rights of all levels. A frame that holds a shadowed table is mapped read-only. Its first write makes
//! the shadow table *unsync*: the frame becomes writable, and the shadow keeps what it has, as a TLB would, until the guest flushes.
//!
//! What is guaranteed, and where it is shown:
//!
//! | guarantee | test |
//! |---|---|
//! | a leaf never allows more than guest and host | `leaves_never_exceed_the_guest_and_the_host` |
//! | leaves are made of [`GuestFrame`] only | the type of `leaf_of`, the one place that makes a leaf |
//! | a frame that gets a private copy loses every leaf of the old one | `a_copied_frame_loses_all_its_old_leaves` |
//! | no table frame is reused before the flush that it owes | `tables_stay_in_quarantine_until_discharged` |
//! | accessed and dirty bits are set as the processor sets them | `clean_pages_fault_once_more_to_become_dirty` |

mod duty;
mod rmap;
mod walk;

pub use duty::FlushDuty;
pub use walk::{Access, Kind, PageFault, Paging, Privilege, Rights, Translation, translate};

use crate::{
    addr::{Gfn, Gpa, Gva, Hpa},
    error::Error,
    mem::{Frame, Frames, GuestFrame, GuestMemory, HostRights, Intent, Touched},
    x86::{Entry, PageFaultCode},
};
use alloc::vec::Vec;
use hashbrown::HashMap;
use rmap::{Holds, Leaf, ReverseMap};
use walk::{LEVELS, index, span};

/// Most shadow tables of one VM (64 MiB of frames): with one more, all are dropped and filled anew.
const MAX_TABLES: usize = 16 * 1024;
/// Entries that one fault looks at, its own among them.
const PREFETCH: usize = 32;
/// An entry above the last level: everything is allowed, the leaves decide.
const LINK: Entry = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::USER).union(Entry::ACCESSED);

/// What a shadow table stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The guest table in the key's frame.
    Table,
    /// A piece of a large page that begins at the key's frame; there is no guest table.
    LargePage,
}

/// What makes two shadow tables of one guest frame different.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Role {
    /// Level of the table, 1 to 4.
    level: u8,
    source: Source,
    /// What the entries above it allow.
    rights: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    gfn: Gfn,
    role: Role,
}

struct Table {
    frame: Frame,
    key: Key,
}

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
}

impl Region {
    /// No region: its number is no address's.
    const NONE: Self = Self { number: u64::MAX, source: Pages::Table(Gfn(0)), above: Rights::empty(), shadow: 0 };
}

/// What maps the pages of a region.
#[derive(Clone, Copy, Debug)]
enum Pages {
    /// The last-level table in this frame.
    Table(Gfn),
    /// One entry for all; the pages follow one another from this frame on.
    Large(Entry, Gfn),
}

impl Pages {
    /// The last-level entry with that index, made up for a large page.
    #[inline]
    fn entry(self, memory: &GuestMemory, index: usize) -> Entry {
        match self {
            Self::Table(table) => Entry::from_bits_retain(memory.load(Gpa(table.gpa().0 + index as u64 * 8)).unwrap_or(0)),
            Self::Large(entry, first) => piece_of_large(entry, first, index),
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
}

/// The shadow tables of one VM.
pub struct ShadowMmu {
    frames: Frames,
    tables: Vec<Table>,
    by_key: HashMap<Key, u32>,
    reverse: ReverseMap,
    /// Tables that are out of use, but perhaps not out of every TLB and walk cache.
    quarantine: Vec<Frame>,
    root: u32,
    /// The region that was filled last.
    recent: Region,
    epoch: u64,
    tables_made: u64,
}

impl ShadowMmu {
    /// Makes the shadow of the address space that `paging` names.
    ///
    /// # Errors
    /// [`Error::NoFrames`], [`Error::NoHeap`]; [`Error::OutsideMemory`] when CR3 lies outside guest memory.
    pub fn new(frames: Frames, memory: &GuestMemory, paging: &Paging) -> Result<Self, Error> {
        let mut mmu = Self {
            frames,
            tables: Vec::new(),
            by_key: HashMap::new(),
            reverse: ReverseMap::new(frames, memory.size())?,
            quarantine: Vec::new(),
            root: 0,
            recent: Region::NONE,
            epoch: 0,
            tables_made: 0,
        };
        mmu.tables.try_reserve(8).map_err(|_| Error::NoHeap)?;
        let _nothing_ran_yet = mmu.load_root(memory, paging)?;
        Ok(mmu)
    }

    /// The address of the top shadow table, for the VMCB's CR3.
    pub fn root(&self) -> Hpa {
        self.table(self.root).frame.hpa()
    }

    /// Changes with every translation that is removed or replaced: what was learnt from the tables before may be wrong after.
    #[inline]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes the top table that `paging` names the root.
    ///
    /// # Errors
    /// As [`ShadowMmu::new`].
    pub fn load_root(&mut self, memory: &GuestMemory, paging: &Paging) -> Result<FlushDuty, Error> {
        let role = Role { level: LEVELS as u8, source: Source::Table, rights: Rights::all().bits() };
        let (root, duty) = self.find_or_make(memory, Key { gfn: paging.top(), role })?;
        self.root = root;
        self.recent = Region::NONE;
        Ok(duty)
    }

    /// Handles a page fault that the processor raised while the guest ran on these tables.
    ///
    /// The duty covers everything that had to change on the way, whatever the outcome.
    ///
    /// # Errors
    /// [`Error::NoFrames`] and [`Error::NoHeap`]: the host has no memory for the guest.
    pub fn fault(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        code: PageFaultCode,
    ) -> Result<(Outcome, FlushDuty), Error> {
        let access = Access::of_fault(code);
        let mut duty = FlushDuty::None;
        let (entry, rights) = match self.recent_entry(memory, paging, address, access) {
            Some(known) => known,
            None => match self.walk(memory, paging, address, access, &mut duty)? {
                Ok(found) => found,
                Err(fault) => return Ok((Outcome::Guest(fault), duty)),
            },
        };
        let intent = if access.kind == Kind::Write { Intent::Write } else { Intent::Read };
        let gfn = Gpa(entry.address()).gfn();
        let (frame, touched) = match memory.touch(gfn, intent) {
            Err(Error::OutsideMemory(_)) => {
                return Ok((Outcome::Outside(Gpa(entry.address() + address.page_offset() as u64)), duty));
            }
            other => other?,
        };
        let here = Leaf { table: self.recent.shadow, entry: index(address, 1) as u32 };
        if let Touched::CopiedFrom(old) = touched {
            duty = duty.and(self.replace(gfn, old, here, address));
        }
        let rights = effective_rights(rights, entry, access, paging);
        duty = duty.and(self.set_leaf(here, gfn, frame, rights, intent, address)?);
        // Where the frame itself was new, those of the neighbours will hardly be there.
        if touched == Touched::Present && paging.no_execute {
            self.prefetch(memory, here);
        }
        Ok((Outcome::Filled, duty))
    }

    /// The entry for `address` if it lies in the region that was filled last and nothing has to be set or refused.
    #[inline]
    fn recent_entry(&self, memory: &GuestMemory, paging: &Paging, address: Gva, access: Access) -> Option<(Entry, Rights)> {
        let region = &self.recent;
        match region.source {
            Pages::Table(table) if region.number == address.0 / span(2) => {
                walk::translate_last(memory, paging, address, access, table, region.above)
            }
            _ => None,
        }
    }

    /// Walks the guest's tables, links the region's shadow table, and gives the entry for `address`.
    #[inline(never)]
    fn walk(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
        duty: &mut FlushDuty,
    ) -> Result<Result<(Entry, Rights), PageFault>, Error> {
        let walked = walk::walk(memory, paging, address, access, |gfn, touched| *duty = duty.and(self.written(gfn, touched)))?;
        let found = match walked {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault)),
        };
        self.enter_region(memory, paging, &found, address, duty)?;
        let entry = self.recent.source.entry(memory, index(address, 1));
        Ok(Ok((entry, found.above & Rights::of(entry))))
    }

    /// How many tables were made so far: each is a zeroed page. The reverse map's pages are counted with them.
    pub const fn pages_zeroed(&self) -> u64 {
        self.tables_made + self.reverse.pages_zeroed()
    }

    /// Says that hv itself wrote to a guest frame, after `memory.touch` told what it had to do for that.
    pub fn written(&mut self, gfn: Gfn, touched: Touched) -> FlushDuty {
        match touched {
            Touched::CopiedFrom(old) if self.remove_leaves(gfn, old) > 0 => FlushDuty::Asid,
            _ => FlushDuty::None,
        }
    }

    /// Says that every flush handed out so far has been discharged: frames may go back to the host.
    #[inline]
    pub fn discharged(&mut self) {
        if !self.quarantine.is_empty() {
            self.quarantine.clear();
        }
    }

    fn table(&self, index: u32) -> &Table {
        // Tables leave the list all at once (`drop_all`), and with them every index (`recent`, `by_key`, `root`).
        &self.tables[index as usize]
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
        if self.tables.len() + LEVELS > MAX_TABLES {
            *duty = duty.and(self.drop_all(memory, paging)?);
        }
        let mut table = self.root;
        let mut rights = Rights::all();
        for level in (2..=LEVELS).rev() {
            let (gfn, source) = if level > found.level {
                (found.table(level - 1), Source::Table)
            } else {
                (Gpa(found.gpa.0 & !(span(level) - 1)).gfn(), Source::LargePage)
            };
            if level >= found.level {
                rights &= Rights::of(Entry::from_bits_retain(found.entries[level - 1]));
            }
            let key = Key { gfn, role: Role { level: level as u8 - 1, source, rights: rights.bits() } };
            let (child, made) = self.find_or_make(memory, key)?;
            *duty = duty.and(made).and(self.link(Leaf { table, entry: index(address, level) as u32 }, child));
            table = child;
        }
        let source = match found.level {
            1 => Pages::Table(found.table(1)),
            _ => Pages::Large(found.leaf(), Gpa(found.gpa.0 & !(span(2) - 1)).gfn()),
        };
        self.recent = Region { number: address.0 / span(2), source, above: found.above, shadow: table };
        Ok(())
    }

    fn find_or_make(&mut self, memory: &GuestMemory, key: Key) -> Result<(u32, FlushDuty), Error> {
        if let Some(&found) = self.by_key.get(&key) {
            return Ok((found, FlushDuty::None));
        }
        self.by_key.try_reserve(1).map_err(|_| Error::NoHeap)?;
        self.tables.try_reserve(1).map_err(|_| Error::NoHeap)?;
        let frame = self.frames.take_zeroed()?;
        self.tables_made += 1;
        let duty = if key.role.source == Source::Table { self.protect(memory, key.gfn)? } else { FlushDuty::None };
        let index = self.tables.len() as u32;
        self.tables.push(Table { frame, key });
        self.by_key.insert(key, index);
        Ok((index, duty))
    }

    /// Makes every leaf that maps `gfn` read-only, because it holds a table that is in step.
    fn protect(&mut self, memory: &GuestMemory, gfn: Gfn) -> Result<FlushDuty, Error> {
        if self.reverse.is_table(gfn) {
            return Ok(FlushDuty::None);
        }
        self.reverse.set_table(gfn, Holds::Table)?;
        let Some(frame) = memory.present(gfn) else { return Ok(FlushDuty::None) };
        let mut duty = FlushDuty::None;
        let tables = &self.tables;
        self.reverse.for_each(gfn, |leaf| {
            if let Some(entry) = mapping(tables, leaf, frame.hpa())
                && entry.contains(Entry::WRITABLE)
            {
                store(tables, leaf, entry - Entry::WRITABLE);
                duty = FlushDuty::Asid;
            }
        });
        Ok(duty)
    }

    fn link(&mut self, at: Leaf, child: u32) -> FlushDuty {
        let entry = Entry::from_bits_retain(self.table(child).frame.hpa().0) | LINK;
        let old = self.table(at.table).frame.view().load(at.entry as usize);
        if old == entry.bits() {
            return FlushDuty::None;
        }
        store(&self.tables, at, entry);
        if old & Entry::PRESENT.bits() == 0 {
            return FlushDuty::None;
        }
        self.epoch += 1;
        FlushDuty::Asid
    }

    #[inline]
    fn set_leaf(
        &mut self,
        at: Leaf,
        gfn: Gfn,
        frame: GuestFrame,
        rights: Rights,
        intent: Intent,
        address: Gva,
    ) -> Result<FlushDuty, Error> {
        let (mut holds, surplus) = self.reverse.add(gfn, at)?;
        if holds == Holds::Table && intent == Intent::Write {
            // The table becomes unsync.
            self.reverse.set_table(gfn, Holds::Data)?;
            holds = Holds::Data;
        }
        let entry = leaf_of(frame, leaf_flags(rights), holds);
        let old = Entry::from_bits_retain(self.table(at.table).frame.view().load(at.entry as usize));
        store(&self.tables, at, entry);
        let mut duty = surplus.map_or(FlushDuty::None, |leaf| self.remove_surplus(leaf));
        if old.contains(Entry::PRESENT) && !is_upgrade(old, entry) {
            self.epoch += 1;
            duty = duty.and(FlushDuty::Address(address));
        }
        Ok(duty)
    }

    #[cold]
    fn remove_surplus(&mut self, leaf: Leaf) -> FlushDuty {
        if self.tables.get(leaf.table as usize).is_some_and(|table| table.key.role.level == 1) {
            store(&self.tables, leaf, Entry::empty());
        }
        self.epoch += 1;
        FlushDuty::Asid
    }

    /// Fills the neighbours of a leaf of the recent region that the guest has used already and whose frames are there.
    #[inline(never)]
    fn prefetch(&mut self, memory: &GuestMemory, here: Leaf) {
        let Region { source, above, .. } = self.recent;
        match source {
            Pages::Table(table) => {
                let Some(frame) = memory.present(table) else { return };
                let guest = memory.view_frame(frame);
                self.fill_neighbours(memory, above, here, |index| Entry::from_bits_retain(guest.load(index)));
            }
            Pages::Large(entry, first) => {
                self.fill_neighbours(memory, above, here, |index| piece_of_large(entry, first, index));
            }
        }
    }

    #[inline]
    fn fill_neighbours(&mut self, memory: &GuestMemory, above: Rights, here: Leaf, guest: impl Fn(usize) -> Entry) {
        let Self { tables, reverse, .. } = self;
        let shadow = tables[here.table as usize].frame.view();
        let first = here.entry as usize & !(PREFETCH - 1);
        // Neighbours mostly have the same flags, and their frames lie in one chunk: both are looked up again only when they change.
        let mut flags = Entry::empty();
        let mut allowed = leaf_flags(Rights::empty());
        let mut chunk = Gfn(0);
        let mut words = memory.chunk(chunk).zip(reverse.chunk(chunk));
        for index in first..first + PREFETCH {
            let entry = guest(index);
            if !walk::is_used_leaf(entry) || shadow.load(index) != 0 {
                continue;
            }
            let gfn = Gpa(entry.address()).gfn();
            if gfn.0.wrapping_sub(chunk.0) >= Gfn::CHUNK {
                chunk = gfn.chunk_start();
                words = memory.chunk(chunk).zip(reverse.chunk(chunk));
            }
            let Some((frames, leaves)) = &mut words else { continue };
            let Some(frame) = frames.present(gfn) else { continue };
            let Some(holds) = leaves.try_add(gfn, Leaf { table: here.table, entry: index as u32 }) else { continue };
            if entry.flags() != flags {
                flags = entry.flags();
                allowed = leaf_flags(clean_rights(above & Rights::of(flags), flags));
            }
            shadow.store(index, leaf_of(frame, allowed, holds).bits());
        }
    }

    /// Removes the leaves of a frame that was copied. `here` is about to map the copy: if it alone mapped the old one, flushing its address is enough.
    fn replace(&mut self, gfn: Gfn, old: Hpa, here: Leaf, address: Gva) -> FlushDuty {
        let is_here = mapping(&self.tables, here, old).is_some();
        match self.remove_leaves(gfn, old) {
            0 => FlushDuty::None,
            1 if is_here => FlushDuty::Address(address),
            _ => FlushDuty::Asid,
        }
    }

    /// Removes every leaf that maps `gfn` to the host frame `hpa`; tells how many there were.
    fn remove_leaves(&mut self, gfn: Gfn, hpa: Hpa) -> usize {
        let mut removed = 0;
        let tables = &self.tables;
        self.reverse.for_each(gfn, |leaf| {
            if mapping(tables, leaf, hpa).is_some() {
                store(tables, leaf, Entry::empty());
                removed += 1;
            }
        });
        self.epoch += 1;
        removed
    }

    /// Puts every table into quarantine and starts with an empty root.
    fn drop_all(&mut self, memory: &GuestMemory, paging: &Paging) -> Result<FlushDuty, Error> {
        self.quarantine.try_reserve(self.tables.len()).map_err(|_| Error::NoHeap)?;
        for table in self.tables.drain(..) {
            if table.key.role.source == Source::Table {
                self.reverse.set_table(table.key.gfn, Holds::Data)?;
            }
            self.quarantine.push(table.frame);
        }
        self.by_key.clear();
        self.epoch += 1;
        let _covered_by_the_whole = self.load_root(memory, paging)?;
        Ok(FlushDuty::Asid)
    }
}

/// The entry at `leaf` if it is a last-level entry that maps the host frame `hpa`.
fn mapping(tables: &[Table], leaf: Leaf, hpa: Hpa) -> Option<Entry> {
    let table = tables.get(leaf.table as usize).filter(|table| table.key.role.level == 1)?;
    let entry = Entry::from_bits_retain(table.frame.view().load(leaf.entry as usize));
    (entry.contains(Entry::PRESENT) && entry.address() == hpa.0).then_some(entry)
}

#[inline]
fn store(tables: &[Table], at: Leaf, entry: Entry) {
    tables[at.table as usize].frame.view().store(at.entry as usize, entry.bits());
}

/// Makes a leaf: what the guest allows, unless the host forbids it.
#[inline]
fn leaf_of(frame: GuestFrame, allowed: Entry, holds: Holds) -> Entry {
    let leaf = allowed | Entry::from_bits_retain(frame.hpa().0);
    let protected = (frame.rights() == HostRights::ReadOnly) | (holds == Holds::Table);
    if protected { leaf - Entry::WRITABLE } else { leaf }
}

/// The flags of a leaf that allows `rights`. The guest's cache bits are not taken over.
#[inline]
fn leaf_flags(rights: Rights) -> Entry {
    let mut flags = Entry::PRESENT | Entry::ACCESSED | Entry::DIRTY;
    flags.set(Entry::WRITABLE, rights.contains(Rights::WRITE));
    flags.set(Entry::USER, rights.contains(Rights::USER));
    flags.set(Entry::NO_EXECUTE, !rights.contains(Rights::EXECUTE));
    flags
}

/// What the leaf for a last-level entry allows, where all levels together allow `rights`: a clean page is read-only, so that the first write comes here and sets the dirty bit.
#[inline]
fn clean_rights(rights: Rights, entry: Entry) -> Rights {
    if entry.contains(Entry::DIRTY) { rights } else { rights - Rights::WRITE }
}

/// What the leaf for an access allows.
#[inline]
fn effective_rights(rights: Rights, entry: Entry, access: Access, paging: &Paging) -> Rights {
    let rights = clean_rights(rights, entry);
    let supervisor_write = access.kind == Kind::Write && access.privilege == Privilege::Supervisor;
    if supervisor_write && !paging.write_protect && !rights.contains(Rights::WRITE) {
        // CR0.WP = 0: the supervisor may write, the user may not, and the processor runs with WP = 1. So the leaf is the supervisor's alone.
        return (rights | Rights::WRITE) - Rights::USER;
    }
    rights
}

/// Tells whether a translation cached from `old` allows nothing that `new` forbids, and leads to the same frame.
fn is_upgrade(old: Entry, new: Entry) -> bool {
    let taken = (Entry::WRITABLE | Entry::USER) & old & !new;
    let forbidden = Entry::NO_EXECUTE & new & !old;
    old.address() == new.address() && taken.is_empty() && forbidden.is_empty()
}

#[cfg(test)]
mod tests;
