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
    /// Fills the neighbours of a leaf of the recent region. Half tables are filled entry by entry.
    #[inline(never)]
    pub(super) fn prefetch(&mut self, memory: &GuestMemory, paging: &Paging, here: Leaf) {
        let Region { source, above, .. } = self.recent;
        match source {
            Pages::Table(table) => {
                let Some(frame) = memory.present(table.gfn()) else { return };
                let guest = memory.view_frame(frame);
                self.fill_neighbours(memory, above, paging.reserved(), here, |index| Entry::from_bits_retain(guest.load(index)));
            }
            Pages::Large(entry, first) => {
                self.fill_neighbours(memory, above, 0, here, |index| piece_of_large(entry, first, index));
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
        guest: impl Fn(usize) -> Entry,
    ) {
        let Self { tables, reverse, .. } = self;
        let shadow = tables.view(here.table);
        let first = here.entry as usize & !(PREFETCH - 1);
        // Neighbours mostly have the same flags, and their frames lie in one chunk: both are looked up again only when they change.
        let mut flags = Entry::empty();
        let mut allowed = leaf::flags(Rights::empty());
        let mut chunk = Gfn(0);
        let mut words = memory.chunk(chunk).zip(reverse.chunk(chunk));
        for index in first..first + PREFETCH {
            let entry = guest(index);
            if !walk::is_used_leaf(entry, reserved) || shadow.load(index) != 0 {
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
                allowed = leaf::flags(leaf::clean_rights(above & Rights::of(flags), flags));
            }
            shadow.store(index, leaf::make(frame, allowed, holds).bits());
        }
    }
}
