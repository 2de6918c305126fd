//! Keeping shadow tables in step with the guest's, or no further out of step than a TLB may be (APM vol. 2, 5.5).

use super::{
    EPOCH, FlushDuty, ShadowMmu,
    paging::{LEVELS, Mode, Paging},
    region::Region,
    rmap::Leaf,
    table::{Key, LEGACY_ROOT, LEGACY_TOP, Role, State},
    walk::{index, span},
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    error::Error,
    mem::{GuestMemory, Touched},
    plant::{Bug, planted},
    x86::Entry,
};

/// Most unsync tables that INVLPG looks through; if there are more, it empties them all.
const MAX_UNSYNC: usize = 64;
/// The bits of a linear address that tables translate.
const LINEAR: u64 = (1 << 48) - 1;

impl ShadowMmu {
    /// Makes the tables that `paging` names the ones that the processor walks, and forgets all that the guest has changed: what MOV CR3 does, and a change of paging mode.
    ///
    /// # Errors
    /// [`Error::NoFrames`] and [`Error::NoHeap`]; the old root stays.
    pub fn load_root(&mut self, paging: &Paging) -> Result<FlushDuty, Error> {
        let long = paging.mode() == Mode::Long;
        let (gfn, top) = if long { (paging.top_table(), LEVELS) } else { (LEGACY_ROOT, LEGACY_TOP) };
        // One legacy root serves all formats: its entries are written anew each time.
        let format = if long { paging.format() } else { 0 };
        let key = Key { gfn, role: Role::root(top, format) };
        let root = match self.recent_root(key) {
            Some(root) => root,
            None => self.tables.find_or_make(key)?,
        };
        let duty = self.enter_root(root, top);
        if !long {
            // The number of this root says nothing of what it leads to.
            self.bump();
            self.link_legacy_root(paging);
        }
        Ok(duty)
    }

    /// Does the same in long mode, if the tables are one of the two that were loaded last; `None` if not, and nothing has changed.
    pub fn load_recent_root(&mut self, paging: &Paging) -> Option<FlushDuty> {
        if paging.mode() != Mode::Long {
            return None;
        }
        let root = self.recent_root(Key { gfn: paging.top_table(), role: Role::root(LEVELS, paging.format()) })?;
        Some(self.enter_root(root, LEVELS))
    }

    #[inline]
    fn recent_root(&self, key: Key) -> Option<u32> {
        self.last_roots.into_iter().find(|root| self.tables.is(*root, key))
    }

    #[inline]
    fn enter_root(&mut self, root: u32, top: usize) -> FlushDuty {
        if root != self.last_roots[0] {
            self.last_roots = [root, self.last_roots[0]];
        }
        self.forget_recent();
        if !self.unsync.is_empty() && !planted(Bug::UnsyncIsNotResynced) {
            let _covered_by_the_load = self.empty_unsync();
        }
        (self.root, self.top) = (root, top);
        self.epoch = self.epoch & !(EPOCH - 1) | u64::from(root);
        if planted(Bug::Cr3OwesNothing) { FlushDuty::None } else { FlushDuty::Asid }
    }

    /// Leads the four PDPTEs to the tables that exist already; faults fill in the others.
    fn link_legacy_root(&mut self, paging: &Paging) {
        for quarter in 0..4 {
            let at = Leaf { table: self.root, entry: quarter };
            self.tables.store(at, Entry::empty());
            let address = u64::from(quarter) << 30;
            let (gfn, part) = match paging.mode() {
                Mode::TwoLevel => (paging.top_table(), quarter as u8),
                Mode::Pae if paging.pdpte(address).contains(Entry::PRESENT) => (Gpa(paging.pdpte(address).address()).gfn(), 0),
                _ => continue,
            };
            let role = Role { part, ..Role::root(LEGACY_TOP - 1, paging.format()) };
            if let Some(child) = self.tables.find(Key { gfn, role })
                && self.tables.get(child).state == State::InStep
            {
                // Whatever the entry led to before is flushed with the load.
                let _covered = self.tables.link(at, child);
            }
        }
    }

    /// Forgets the translation of `address`: what INVLPG does. Where nothing is unsync, the shadow agrees with the guest's tables already.
    #[inline]
    pub fn invalidate(&mut self, address: Gva) -> FlushDuty {
        self.forget_outside();
        if self.unsync.is_empty() { FlushDuty::None } else { self.invalidate_unsync(address) }
    }

    fn invalidate_unsync(&mut self, address: Gva) -> FlushDuty {
        if planted(Bug::UnsyncIsNotResynced) {
            return FlushDuty::None;
        }
        let duty = if self.unsync.len() > MAX_UNSYNC {
            self.recent = Region::NONE;
            self.empty_unsync()
        } else {
            self.drop_unsync_entries(address)
        };
        if planted(Bug::InvlpgOwesNothing) { FlushDuty::None } else { duty }
    }

    /// Drops the last-level entries for `address` of all unsync tables, and every upper-level table that is unsync: INVLPG forgets the upper entries of all
    /// addresses (APM vol. 2, 3.1.7, EFER.TCE, which guests are not offered).
    fn drop_unsync_entries(&mut self, address: Gva) -> FlushDuty {
        let mut duty = self.empty_unsync_uppers();
        for &table in &self.unsync {
            let base = self.tables.base(table, self.root);
            if base.is_some_and(|base| (base.0 ^ address.0) & LINEAR >= span(2)) {
                continue;
            }
            let at = Leaf { table, entry: index(address, 1) as u32 };
            if self.tables.entry(at).contains(Entry::PRESENT) {
                self.tables.store(at, Entry::empty());
                self.epoch += EPOCH;
                duty = duty.and(if base.is_some() { FlushDuty::Address(address) } else { FlushDuty::Asid });
            }
        }
        duty
    }

    fn empty_unsync_uppers(&mut self) -> FlushDuty {
        let Self { tables, unsync, .. } = self;
        let before = unsync.len();
        unsync.retain(|&table| {
            let is_last = tables.get(table).key.role.level == 1;
            if !is_last && !planted(Bug::UpperEntriesStay) {
                tables.empty(table);
            }
            is_last
        });
        if unsync.len() == before {
            return FlushDuty::None;
        }
        // What is known of the levels above the last may be wrong.
        self.recent = Region::NONE;
        self.epoch += EPOCH;
        FlushDuty::Asid
    }

    /// Says that hv itself changed the content of a guest frame, after `memory` told what it had to do for that.
    pub fn written(&mut self, gfn: Gfn, touched: Touched) -> FlushDuty {
        if self.reverse.is_table(gfn) {
            self.make_unsync(gfn);
        }
        let duty = self.copied(gfn, touched);
        if planted(Bug::HostWriteOwesNothing) { FlushDuty::None } else { duty }
    }

    /// Says that a guest frame was moved to another host frame, if it was.
    pub(super) fn copied(&mut self, gfn: Gfn, touched: Touched) -> FlushDuty {
        match touched {
            Touched::CopiedFrom(old) if self.remove_leaves(gfn, old) > 0 => FlushDuty::Asid,
            _ => FlushDuty::None,
        }
    }

    /// Sees to it that hv hears of the next change of the guest's table, before entries are taken from it.
    #[inline]
    pub(super) fn keep_in_step(&mut self, memory: &GuestMemory, table: u32) -> Result<FlushDuty, Error> {
        if self.tables.get(table).state == State::Empty { self.bring_in_step(memory, table) } else { Ok(FlushDuty::None) }
    }

    #[cold]
    fn bring_in_step(&mut self, memory: &GuestMemory, table: u32) -> Result<FlushDuty, Error> {
        self.reserve_unsync()?;
        let gfn = self.tables.get(table).key.gfn;
        let duty = match self.protect(memory, gfn) {
            // Absent memory never changes.
            Err(Error::OutsideMemory(_)) => FlushDuty::None,
            other => other?,
        };
        self.tables.get_mut(table).state = State::InStep;
        Ok(duty)
    }

    /// Makes every leaf that maps `gfn` read-only, because it holds a table that is in step.
    fn protect(&mut self, memory: &GuestMemory, gfn: Gfn) -> Result<FlushDuty, Error> {
        if self.reverse.is_table(gfn) || planted(Bug::TableIsNotProtected) {
            return Ok(FlushDuty::None);
        }
        self.reverse.set_table(gfn)?;
        let Some(frame) = memory.present(gfn) else { return Ok(FlushDuty::None) };
        let mut duty = FlushDuty::None;
        let tables = &self.tables;
        self.reverse.for_each(gfn, |leaf| {
            if let Some(entry) = tables.mapping(leaf, frame.hpa())
                && entry.contains(Entry::WRITABLE)
            {
                tables.store(leaf, entry - Entry::WRITABLE);
                duty = FlushDuty::Asid;
            }
        });
        Ok(if planted(Bug::ProtectOwesNothing) { FlushDuty::None } else { duty })
    }

    /// Makes room for every table to become unsync, so that this cannot fail when it has to be: nothing is in step for which there is none.
    fn reserve_unsync(&mut self) -> Result<(), Error> {
        self.unsync.try_reserve(self.tables.count() - self.unsync.len()).map_err(|_| Error::NoHeap)
    }

    /// The guest writes to a frame that holds tables: they keep what they have, and the frame may be written from now on.
    #[cold]
    pub(super) fn make_unsync(&mut self, gfn: Gfn) {
        let Self { tables, unsync, .. } = self;
        tables.for_each_of(gfn, |index, table| {
            if table.state == State::InStep && table.key.is_guest_table() {
                debug_assert!(unsync.len() < unsync.capacity(), "room was made when the table came in step");
                table.state = State::Unsync;
                unsync.push(index);
            }
        });
        self.reverse.clear_table(gfn);
    }

    /// Empties every table that the guest may have changed.
    pub(super) fn empty_unsync(&mut self) -> FlushDuty {
        let Self { tables, unsync, .. } = self;
        for index in unsync.drain(..) {
            tables.empty(index);
        }
        self.bump();
        FlushDuty::Asid
    }

    /// Empties one such table.
    #[cold]
    pub(super) fn empty(&mut self, table: u32) -> FlushDuty {
        self.tables.empty(table);
        self.unsync.retain(|other| *other != table);
        self.bump();
        FlushDuty::Asid
    }
}
