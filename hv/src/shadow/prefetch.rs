//! Filling the neighbours of a leaf that the guest has used already, and whose frames are there.

use super::{
    Pages, Region, ShadowMmu, leaf,
    paging::{Paging, Rights},
    piece_of_large,
    rmap::Leaf,
    walk,
};
use crate::{
    addr::{Gfn, Gpa},
    mem::GuestMemory,
    x86::Entry,
};

/// Entries that one fault looks at, its own among them.
const PREFETCH: usize = 32;

impl ShadowMmu {
    /// Fills the neighbours of a leaf of the recent region, as far as their frames lie in the chunk of `gfn`, which it maps. Half tables are filled entry by entry.
    #[inline(never)]
    pub(super) fn prefetch(&mut self, memory: &GuestMemory, paging: &Paging, here: Leaf, gfn: Gfn) {
        let Region { source, above, .. } = self.recent;
        match source {
            Pages::Table(table) => {
                let Some(frame) = memory.present(table.gfn()) else { return };
                let guest = memory.view_frame(frame);
                self.fill_neighbours(memory, above, paging.reserved(), here, gfn, |index| {
                    Entry::from_bits_retain(guest.load(index))
                });
            }
            Pages::Large(entry, first) => {
                self.fill_neighbours(memory, above, 0, here, gfn, |index| piece_of_large(entry, first, index));
            }
            Pages::HalfTable => {}
        }
    }

    #[inline]
    fn fill_neighbours(
        &mut self,
        memory: &GuestMemory,
        above: Rights,
        reserved: u64,
        here: Leaf,
        gfn: Gfn,
        guest: impl Fn(usize) -> Entry,
    ) {
        let Self { tables, reverse, .. } = self;
        let (Some(frames), Some(mut leaves)) = (memory.chunk(gfn), reverse.chunk(gfn)) else { return };
        let chunk = gfn.chunk_start();
        let shadow = tables.view(here.table);
        let first = here.entry as usize & !(PREFETCH - 1);
        // Neighbours mostly have the same flags: what those allow is worked out only when they change.
        let mut flags = Entry::empty();
        let mut allowed = Entry::empty();
        for index in first..first + PREFETCH {
            let entry = guest(index);
            if !walk::is_used_leaf(entry, reserved) || shadow.load(index) != 0 {
                continue;
            }
            let place = Gpa(entry.address()).gfn().0.wrapping_sub(chunk.0) as usize;
            let Some(frame) = frames.at(place) else { continue };
            let Some(holds) = leaves.try_add(place, Leaf { table: here.table, entry: index as u32 }) else { continue };
            if entry.flags() != flags {
                flags = entry.flags();
                allowed = leaf::flags(leaf::clean_rights(above & Rights::of(flags), flags));
            }
            shadow.store(index, leaf::make(frame, allowed, holds).bits());
        }
    }
}
