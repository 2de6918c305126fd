//! Filling the neighbours of a leaf that the guest has used already, and whose frames are there.

use super::{
    ShadowMmu, leaf,
    paging::{Paging, Rights},
    region::{Pages, Region, piece_of_large},
    rmap::{Holds, Leaf, LeafChunk},
    walk,
};
use crate::{
    addr::{Gfn, Gpa},
    mem::{FrameChunk, FrameRef, GuestFrame, GuestMemory},
    x86::Entry,
};

/// Entries that one fault looks at, its own among them.
const PREFETCH: usize = 32;

impl ShadowMmu {
    /// Fills the neighbours of a leaf of the recent region, outwards to the first that has not been used, or is filled already, and as far as their frames lie in the chunk of `gfn`, which it maps. Half tables are filled entry by entry.
    #[inline(never)]
    pub(super) fn prefetch(&mut self, memory: &GuestMemory, paging: &Paging, here: Leaf, gfn: Gfn) {
        let Region { source, above, .. } = self.recent;
        match source {
            Pages::Table(table) => {
                let Some(frame) = memory.present(table.gfn()) else { return };
                let guest = memory.view_frame(frame);
                // Where pages are mapped one by one as they are needed, neither neighbour has anything to give.
                let (at, reserved) = (here.entry as usize, paging.reserved());
                let next = Entry::from_bits_retain(guest.load(at + 1));
                if !walk::is_used_leaf(next, reserved) && self.tables.view(here.table).load(at.wrapping_sub(1)) != 0 {
                    return;
                }
                self.fill_neighbours(memory, above, reserved, here, gfn, |index| Entry::from_bits_retain(guest.load(index)));
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
        let (Some(frames), Some(leaves)) = (memory.chunk(gfn), self.reverse.chunk(gfn)) else { return };
        let shadow = self.tables.view(here.table);
        let chunk = gfn.chunk_start();
        let none = Entry::empty();
        let mut filler =
            Filler { guest, shadow, frames, leaves, chunk, above, reserved, table: here.table, flags: none, kind: 0, leaf: none };
        let middle = here.entry as usize;
        let first = middle & !(PREFETCH - 1);
        for index in middle + 1..first + PREFETCH {
            if !filler.fill(index) {
                break;
            }
        }
        for index in (first..middle).rev() {
            if !filler.fill(index) {
                break;
            }
        }
    }
}

/// Fills leaves of one shadow table whose frames lie in one chunk.
struct Filler<'a, F> {
    guest: F,
    shadow: FrameRef<'a>,
    frames: FrameChunk<'a>,
    leaves: LeafChunk<'a>,
    chunk: Gfn,
    above: Rights,
    reserved: u64,
    table: u32,
    /// Neighbours mostly have the same flags, and their frames are of one kind: what the leaf says of them is worked out only when they change.
    flags: Entry,
    kind: u64,
    leaf: Entry,
}

impl<F: Fn(usize) -> Entry> Filler<'_, F> {
    /// Fills one leaf, and tells whether it could.
    #[inline(always)]
    fn fill(&mut self, index: usize) -> bool {
        let entry = (self.guest)(index);
        if !walk::is_used_leaf(entry, self.reserved) || self.shadow.load(index) != 0 {
            return false;
        }
        let place = Gpa(entry.address()).gfn().0.wrapping_sub(self.chunk.0) as usize;
        let Some(frame) = self.frames.at(place) else { return false };
        let Some(holds) = self.leaves.try_add(place, Leaf { table: self.table, entry: index as u32 }) else { return false };
        if entry.flags() != self.flags || frame.kind() != self.kind || holds == Holds::Table {
            self.work_out(entry.flags(), frame, holds);
        }
        self.shadow.store(index, leaf::to(frame, self.leaf).bits());
        true
    }

    /// Works out what the leaf for an entry and a frame of these kinds allows.
    #[inline(never)]
    fn work_out(&mut self, flags: Entry, frame: GuestFrame, holds: Holds) {
        let rights = leaf::clean_rights(self.above & Rights::of(flags), flags);
        self.leaf = leaf::make(frame, leaf::flags(rights), holds).flags();
        // What a frame that holds a table allows is good for that one alone.
        self.flags = if holds == Holds::Table { Entry::empty() } else { flags };
        self.kind = frame.kind();
    }
}
