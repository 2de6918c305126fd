//! The shadow tables of a VM: found by what they stand for, linked into each other, dropped all at once.

use super::{
    FlushDuty,
    paging::{LEVELS, Rights},
    rmap::Leaf,
    walk::span,
};
use crate::{
    addr::{Gfn, Gva, Hpa},
    error::Error,
    mem::{Frame, FrameRef, Frames},
    plant::{Bug, planted},
    x86::Entry,
};
use alloc::vec::Vec;
use hashbrown::HashMap;

/// An entry above the last level: everything is allowed, the leaves decide.
const LINK: Entry = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::USER).union(Entry::ACCESSED);
/// Ends a chain of tables.
const END: u32 = u32::MAX;

/// What a shadow table stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The guest table in the key's frame.
    Table,
    /// A piece of a large page that begins at the key's frame; there is no guest table. The page is clean.
    CleanPage,
    /// The same for a dirty page, and for memory without paging.
    DirtyPage,
}

/// What makes two shadow tables of one guest frame different.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// Level of the table, 1 to 4.
    pub level: u8,
    /// What it stands for.
    pub source: Source,
    /// What the entries above it allow ([`Rights`]).
    pub rights: u8,
    /// Which part of a 1024-entry table, in two-level paging.
    pub part: u8,
    /// [`super::Paging::format`].
    pub format: u8,
}

impl Role {
    /// The role of a top table with this format.
    pub const fn root(level: usize, format: u8) -> Self {
        Self { level: level as u8, source: Source::Table, rights: Rights::all().bits(), part: 0, format }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub gfn: Gfn,
    pub role: Role,
}

impl Key {
    /// Whether there is a guest table behind it.
    pub fn is_guest_table(self) -> bool {
        self.role.source == Source::Table && self.gfn != LEGACY_ROOT
    }

    fn first_state(self) -> State {
        if self.is_guest_table() { State::Empty } else { State::InStep }
    }
}

/// What is known of a shadow table's entries and of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There are none: whatever the guest has written, nothing is wrong.
    Empty,
    /// They agree. The guest's frame is read-only, so that hv hears of the next write.
    InStep,
    /// The guest may have written since: entries are what a TLB may still hold.
    Unsync,
}

/// The entries that lead to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parents {
    None,
    One(Leaf),
    Many,
}

/// A shadow table.
pub struct Table {
    pub frame: Frame,
    pub key: Key,
    pub state: State,
    parents: Parents,
    /// The next table of the same guest frame.
    next: u32,
}

/// All shadow tables of a VM.
pub struct Tables {
    frames: Frames,
    list: Vec<Table>,
    /// The first table of each guest frame.
    by_frame: HashMap<Gfn, u32>,
    made: u64,
}

impl Tables {
    pub fn new(frames: Frames) -> Result<Self, Error> {
        let mut list = Vec::new();
        list.try_reserve(8).map_err(|_| Error::NoHeap)?;
        Ok(Self { frames, list, by_frame: HashMap::new(), made: 0 })
    }

    /// How many tables there are.
    pub const fn count(&self) -> usize {
        self.list.len()
    }

    /// How many tables were made so far, each a zeroed page.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// The table with that index. Tables leave the list all at once ([`Tables::drain_all_but`]), and with them every index.
    #[inline]
    pub fn get(&self, index: u32) -> &Table {
        &self.list[index as usize]
    }

    /// Whether the table with that index, if there is one, has that key.
    #[inline]
    pub fn is(&self, index: u32, key: Key) -> bool {
        self.list.get(index as usize).is_some_and(|table| table.key == key)
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> &mut Table {
        &mut self.list[index as usize]
    }

    /// Finds the table with that key.
    pub fn find(&self, key: Key) -> Option<u32> {
        let mut at = *self.by_frame.get(&key.gfn)?;
        while at != END {
            let table = self.get(at);
            if table.key.role == key.role || (planted(Bug::RoleForgetsRights) && table.key.role.is_but_for_rights(key.role)) {
                return Some(at);
            }
            at = table.next;
        }
        None
    }

    /// Finds the table with that key, or makes it, empty. A legacy root lies below 4 GiB.
    pub fn find_or_make(&mut self, key: Key) -> Result<u32, Error> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        self.by_frame.try_reserve(1).map_err(|_| Error::NoHeap)?;
        self.list.try_reserve(1).map_err(|_| Error::NoHeap)?;
        let frame = if key.gfn == LEGACY_ROOT { self.frames.take_low_zeroed()? } else { self.frames.take_zeroed()? };
        self.made += 1;
        let index = self.list.len() as u32;
        let next = self.by_frame.insert(key.gfn, index).unwrap_or(END);
        self.list.push(Table { frame, key, state: key.first_state(), parents: Parents::None, next });
        Ok(index)
    }

    /// Calls `visit` with every table of a guest frame.
    pub fn for_each_of(&mut self, gfn: Gfn, mut visit: impl FnMut(u32, &mut Table)) {
        let mut at = self.by_frame.get(&gfn).copied().unwrap_or(END);
        while at != END {
            let table = &mut self.list[at as usize];
            visit(at, table);
            at = table.next;
        }
    }

    /// Whether the entry `at` leads to `child`.
    #[inline]
    pub fn is_linked(&self, at: Leaf, child: u32) -> bool {
        let entry = self.entry(at);
        entry.contains(Entry::PRESENT) && entry.address() == self.get(child).frame.hpa().0
    }

    /// Lets the entry `at` lead to `child`. Tells what is owed for what it led to before.
    pub fn link(&mut self, at: Leaf, child: u32) -> FlushDuty {
        let legacy_root = self.get(at.table).key.gfn == LEGACY_ROOT;
        // The processor allows no other bits in a PDPTE (APM vol. 2, 5.2.3).
        let flags = if legacy_root { Entry::PRESENT } else { LINK };
        let entry = Entry::from_bits_retain(self.get(child).frame.hpa().0) | flags;
        let old = self.entry(at);
        self.store(at, entry);
        let table = self.get_mut(child);
        table.parents = match table.parents {
            Parents::None => Parents::One(at),
            Parents::One(parent) if parent == at => Parents::One(at),
            _ => Parents::Many,
        };
        if old.contains(Entry::PRESENT) && !planted(Bug::LinkOwesNothing) { FlushDuty::Asid } else { FlushDuty::None }
    }

    /// Whether a table was only ever linked in one place.
    #[inline]
    pub fn has_one_parent(&self, index: u32) -> bool {
        self.get(index).parents != Parents::Many
    }

    /// Empties an unsync table.
    pub fn empty(&mut self, index: u32) {
        let table = self.get_mut(index);
        table.frame.view().zero();
        table.state = State::Empty;
    }

    /// The entry at that place.
    #[inline]
    pub fn entry(&self, at: Leaf) -> Entry {
        Entry::from_bits_retain(self.view(at.table).load(at.entry as usize))
    }

    #[inline]
    pub fn store(&self, at: Leaf, entry: Entry) {
        self.view(at.table).store(at.entry as usize, entry.bits());
    }

    #[inline]
    pub fn view(&self, index: u32) -> FrameRef<'_> {
        self.get(index).frame.view()
    }

    /// The entry at `leaf` if it is a last-level entry that maps the host frame `hpa`.
    pub fn mapping(&self, leaf: Leaf, hpa: Hpa) -> Option<Entry> {
        let table = self.list.get(leaf.table as usize).filter(|table| table.key.role.level == 1)?;
        let entry = Entry::from_bits_retain(table.frame.view().load(leaf.entry as usize));
        let maps = entry.address() == hpa.0 || planted(Bug::LeavesAreNotCompared);
        (entry.contains(Entry::PRESENT) && maps).then_some(entry)
    }

    /// Whether `leaf` is a last-level entry that maps the host frame `hpa`.
    pub fn maps(&self, leaf: Leaf, hpa: Hpa) -> bool {
        self.mapping(leaf, hpa).is_some()
    }

    /// The linear address that a table's first entry is reached by from `root`; `None` when there may be several.
    pub fn base(&self, index: u32, root: u32) -> Option<Gva> {
        let (mut at, mut base) = (index, 0);
        while at != root {
            let Table { parents: Parents::One(parent), key, .. } = self.get(at) else { return None };
            base |= u64::from(parent.entry) * span(usize::from(key.role.level) + 1);
            at = parent.table;
        }
        Some(Gva(base))
    }

    /// Takes all tables out but `root`, which becomes the first one and is emptied.
    pub fn drain_all_but(&mut self, root: u32) -> impl Iterator<Item = Table> + '_ {
        self.list.swap(0, root as usize);
        let table = &mut self.list[0];
        table.frame.view().zero();
        (table.state, table.parents, table.next) = (table.key.first_state(), Parents::None, END);
        let key = table.key;
        self.by_frame.clear();
        self.by_frame.insert(key.gfn, 0);
        self.list.drain(1..)
    }
}

impl Role {
    fn is_but_for_rights(self, other: Self) -> bool {
        Self { rights: other.rights, ..self } == other
    }
}

/// Stands for the guest frame of the root that guests outside long mode run on: four PDPTEs, written anew at each load.
pub const LEGACY_ROOT: Gfn = Gfn(u64::MAX >> 12);
/// The level of that root.
pub const LEGACY_TOP: usize = LEVELS - 1;
