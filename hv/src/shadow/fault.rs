//! One fault, from exit to filled entry.
//!
//! Say that a guest writes to a page of its heap for the first time. The shadow has nothing there, so the processor leaves the guest with a page fault of its
//! own tables, which are ours (`exit::page_fault` decodes it), and [`ShadowMmu::fault`] is asked:
//!
//! 1. **Is it beside the last one?** `serve_recent` reads the guest's last-level entry at the place that the last fault found. If the entry is absent, the
//!    fault is the guest's. If it allows the write, and is accessed and dirty, the frame is touched, the leaf noted in the reverse map and stored: done.
//! 2. **Is there nothing in the guest's tables?** `walk::absent` goes down, as far as they are plain. The guest gets its fault, and its handler maps a page.
//! 3. **Anything else** goes to `fill_any`:
//!    - [`walk()`](super::walk()) goes through the guest's tables as the processor would, in the guest's mode, and sets accessed and dirty bits by
//!      compare-exchange. It ends in the fault that the guest is owed, or in a [`Translation`].
//!    - `enter_region` goes down the shadow: at each level it finds or makes the table that stands for the guest's ([`child_key`]), links it, and sees to it that
//!      a later write to the guest's table is heard of (`keep_in_step`). The region is remembered for 1.
//!    - [`GuestMemory::touch`] gives the frame: zeroed at the first touch, a private copy at the first write to a shared one, whose old leaves go (`replace`). There
//!      may be no memory there ([`Outcome::Outside`]), or the host may refuse ([`Outcome::Denied`]).
//!    - `leaf` joins what the guest allows with what the host does. A clean page is read-only: the first write comes here again, to set the dirty bit.
//!    - `set_leaf` notes the leaf in the reverse map, lets a frame that holds a table be written if that is what this is, and stores the leaf.
//! 4. Neighbours that the guest has used before are filled, too (`prefetch`).
//!
//! What had to be taken away on the way is owed a flush, which comes back as a [`FlushDuty`]; the run loop discharges it before it enters the guest again.

use super::{
    FlushDuty, Outcome, ShadowMmu, leaf,
    paging::{Access, Kind, LEVELS, Mode, Paging, Rights},
    region::{OutsidePage, Pages, Reached, Region},
    rmap::{Holds, Leaf},
    table::{Key, LEGACY_TOP, Role, Source, State},
    walk::{self, Translation, index, span},
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    error::Error,
    mem::{GuestFrame, GuestMemory, Intent, Touched},
    plant::{Bug, planted},
    x86::Entry,
};

/// Most shadow tables of one VM (64 MiB of frames): with one more, all are dropped and filled anew. Tests get there soon.
const MAX_TABLES: usize = if cfg!(any(test, feature = "model")) { 48 } else { 16 * 1024 };

impl ShadowMmu {
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
    pub(super) fn serve_recent(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
    ) -> Option<Outcome> {
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
    pub(super) fn serve_recycled(
        &mut self,
        memory: &mut GuestMemory,
        paging: &Paging,
        address: Gva,
        access: Access,
    ) -> Option<Outcome> {
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

    /// Stores the leaf of an access that is allowed, and tells what is owed for what it replaces.
    ///
    /// # Errors
    /// [`Error::NoFrames`], [`Error::NoHeap`]: the reverse map has no room, and the leaf is not stored.
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
