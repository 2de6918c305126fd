//! What is taken away: leaves of frames that were copied or have too many, and all tables when there are too many. Each tells what flush it owes; a table's frame
//! waits in quarantine until that is discharged.

use super::{FlushDuty, ShadowMmu, region::Reached, rmap::Leaf};
use crate::{
    addr::{Gfn, Gva, Hpa},
    error::Error,
    plant::{Bug, planted},
    x86::Entry,
};

impl ShadowMmu {
    /// The flush of an address of the recent region.
    pub(super) const fn flush_here(&self, address: Gva) -> FlushDuty {
        match self.recent.reached {
            Reached::ByOneAddress => FlushDuty::Address(address),
            Reached::Otherwise => FlushDuty::Asid,
        }
    }

    /// Removes a leaf that the reverse map has no place for any more, if it still maps the frame `hpa`.
    #[cold]
    pub(super) fn remove_surplus(&mut self, leaf: Leaf, hpa: Hpa) -> FlushDuty {
        if !self.tables.maps(leaf, hpa) {
            return FlushDuty::None;
        }
        self.tables.store(leaf, Entry::empty());
        self.bump();
        FlushDuty::Asid
    }

    /// Removes the leaves of a frame that was copied. `here` is about to map the copy: if it alone mapped the old one, flushing its address is enough.
    pub(super) fn replace(&mut self, gfn: Gfn, old: Hpa, here: Leaf, address: Gva) -> FlushDuty {
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

    /// Puts every table into quarantine but the root, which is emptied.
    pub(super) fn drop_all(&mut self) -> Result<FlushDuty, Error> {
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
