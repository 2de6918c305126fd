//! The reverse map: which shadow leaves may map a guest frame, and which guest frames hold page tables.
//!
//! A leaf is recorded when it is filled, and not struck out when it goes: whoever uses the map compares the leaf with the frame first. So what is recorded
//! can be too much, never too little. What no longer holds makes way for what does: when a frame gets another leaf, and when there are twice as many lists as
//! were found in use the last time that all were looked through.

use crate::{
    addr::{Gfn, Hpa},
    error::Error,
    mem::{Frames, Page},
    plant::{Bug, planted},
};
use alloc::vec::Vec;

/// Entries of a chunk: one frame for 2 MiB of guest memory.
const CHUNK: usize = Gfn::CHUNK as usize;
/// Most leaves that one guest frame may have; one more, and the oldest must go.
pub const MAX_LEAVES: usize = 32;

/// A leaf's place: its table's index and the entry's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Index of the table in the MMU's list.
    pub table: u32,
    /// Index of the entry in the table.
    pub entry: u32,
}

impl Leaf {
    #[inline]
    const fn pack(self) -> u64 {
        ((self.table << 9) + self.entry) as u64
    }

    /// The payload, with its flag, of a frame that has this leaf alone.
    #[inline]
    const fn alone(self) -> Word {
        self.pack() << PAYLOAD | ONE
    }

    const fn unpack(raw: u64) -> Self {
        Self { table: (raw >> 9) as u32, entry: (raw & 511) as u32 }
    }
}

/// One guest frame's word: flags, and above them a leaf, or the index of a list of leaves.
type Word = u64;
/// The frame holds a guest page table that is shadowed and in step: leaves that map it are read-only.
const TABLE: Word = 1;
/// The payload is one leaf.
const ONE: Word = 2;
/// The payload is the index of a list.
const MANY: Word = 4;
const PAYLOAD: u32 = 3;

/// So few lists are not worth looking through.
const FEW_LISTS: usize = 64;

/// The leaves of a frame that has several.
struct List {
    gfn: Gfn,
    /// Where the frame lay when the last one was added: leaves that lead elsewhere are none of it.
    hpa: Hpa,
    leaves: Vec<Leaf>,
}

/// The reverse map of one VM.
pub struct ReverseMap {
    frames: Frames,
    chunks: Vec<Option<Page<[Word; CHUNK]>>>,
    lists: Vec<List>,
    /// With so many lists, those that are not needed go.
    lists_to_sort_out: usize,
    pages: u64,
}

impl ReverseMap {
    /// Makes the map for memory of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::NoHeap`].
    pub fn new(frames: Frames, bytes: u64) -> Result<Self, Error> {
        let count = bytes.div_ceil(2 << 20) as usize;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| Error::NoHeap)?;
        chunks.resize_with(count, || None);
        Ok(Self { frames, chunks, lists: Vec::new(), lists_to_sort_out: FEW_LISTS, pages: 0 })
    }

    #[inline]
    fn word(&self, gfn: Gfn) -> Word {
        self.chunks.get(gfn.chunk()).and_then(Option::as_ref).map_or(0, |chunk| chunk[gfn.place()])
    }

    #[inline]
    fn word_mut(&mut self, gfn: Gfn) -> Result<&mut Word, Error> {
        let chunk = self.chunks.get_mut(gfn.chunk()).ok_or(Error::OutsideMemory(gfn.gpa()))?;
        if chunk.is_none() {
            *chunk = Some(Page::new(self.frames.take_zeroed()?));
            self.pages += 1;
        }
        let chunk = chunk.as_mut().ok_or(Error::NoFrames)?;
        Ok(&mut chunk[gfn.place()])
    }

    /// Pages of the map itself.
    pub const fn pages_zeroed(&self) -> u64 {
        self.pages
    }

    /// Tells whether leaves that map `gfn` must be read-only because it holds a page table.
    #[inline]
    pub fn is_table(&self, gfn: Gfn) -> bool {
        self.word(gfn) & TABLE != 0
    }

    /// Says that `gfn` holds a page table that is in step.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`].
    pub fn set_table(&mut self, gfn: Gfn) -> Result<(), Error> {
        *self.word_mut(gfn)? |= TABLE;
        Ok(())
    }

    /// Says that `gfn` no longer holds one.
    pub fn clear_table(&mut self, gfn: Gfn) {
        if let Some(Some(chunk)) = self.chunks.get_mut(gfn.chunk()) {
            chunk[gfn.place()] &= !TABLE;
        }
    }

    /// Records that `leaf` maps `gfn`, which lies at `hpa`. Tells what the frame holds, and which leaf must be removed because the frame has too many.
    /// `lives` tells whether a leaf maps a host frame now: others are forgotten.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`], [`Error::NoHeap`].
    #[inline]
    pub fn add(
        &mut self,
        gfn: Gfn,
        hpa: Hpa,
        leaf: Leaf,
        lives: impl Fn(Leaf, Hpa) -> bool,
    ) -> Result<(Holds, Option<Leaf>), Error> {
        let word = self.word_mut(gfn)?;
        match add_alone(word, leaf) {
            Some(holds) => Ok((holds, None)),
            None => Ok((Holds::of(*word), self.add_another(gfn, hpa, leaf, lives)?)),
        }
    }

    /// The words of the chunk that `gfn` belongs to, if it has any.
    #[inline]
    pub fn chunk(&mut self, gfn: Gfn) -> Option<LeafChunk<'_>> {
        self.chunks.get_mut(gfn.chunk())?.as_mut().map(|page| LeafChunk(page))
    }

    #[cold]
    fn add_another(&mut self, gfn: Gfn, hpa: Hpa, leaf: Leaf, lives: impl Fn(Leaf, Hpa) -> bool) -> Result<Option<Leaf>, Error> {
        let word = *self.word_mut(gfn)?;
        if word & ONE != 0 {
            if self.free(gfn, |other| lives(other, hpa)) {
                self.name(gfn, leaf.alone());
            } else {
                self.make_list(gfn, hpa, [Leaf::unpack(word >> PAYLOAD), leaf], lives)?;
            }
            return Ok(None);
        }
        let index = (word >> PAYLOAD) as usize;
        let list = &mut self.lists[index];
        list.hpa = hpa;
        if list.leaves.contains(&leaf) {
            return Ok(None);
        }
        list.leaves.retain(|other| lives(*other, hpa));
        let surplus = if list.leaves.len() == MAX_LEAVES { Some(list.leaves.remove(0)) } else { None };
        list.leaves.try_reserve(1).map_err(|_| Error::NoHeap)?;
        list.leaves.push(leaf);
        self.settle(index);
        Ok(surplus)
    }

    /// Forgets the only leaf of a frame if it no longer lives; tells whether the frame has none now.
    pub fn free(&mut self, gfn: Gfn, lives: impl FnOnce(Leaf) -> bool) -> bool {
        let word = self.word(gfn);
        let is_free = word & ONE != 0 && (!lives(Leaf::unpack(word >> PAYLOAD)) || planted(Bug::LiveLeavesAreForgotten));
        if is_free {
            self.name(gfn, 0);
        }
        is_free
    }

    fn make_list(&mut self, gfn: Gfn, hpa: Hpa, two: [Leaf; 2], lives: impl Fn(Leaf, Hpa) -> bool) -> Result<(), Error> {
        if self.lists.len() >= self.lists_to_sort_out {
            self.sort_out(lives);
        }
        let mut leaves = Vec::new();
        leaves.try_reserve_exact(two.len()).map_err(|_| Error::NoHeap)?;
        leaves.extend(two);
        self.lists.try_reserve(1).map_err(|_| Error::NoHeap)?;
        self.lists.push(List { gfn, hpa, leaves });
        self.name(gfn, (self.lists.len() as u64 - 1) << PAYLOAD | MANY);
        Ok(())
    }

    /// Forgets what no longer lives in all lists.
    fn sort_out(&mut self, lives: impl Fn(Leaf, Hpa) -> bool) {
        for index in (0..self.lists.len()).rev() {
            let List { hpa, leaves, .. } = &mut self.lists[index];
            leaves.retain(|leaf| lives(*leaf, *hpa));
            leaves.shrink_to_fit();
            self.settle(index);
        }
        self.lists_to_sort_out = FEW_LISTS.max(2 * self.lists.len());
    }

    /// Does without the list with that index if its frame needs none.
    fn settle(&mut self, index: usize) {
        let List { gfn, leaves, .. } = &self.lists[index];
        let payload = match leaves[..] {
            [] => 0,
            [leaf] => leaf.alone(),
            _ => return,
        };
        self.name(*gfn, payload);
        self.lists.swap_remove(index);
        if let Some(moved) = self.lists.get(index) {
            self.name(moved.gfn, (index as u64) << PAYLOAD | MANY);
        }
    }

    /// Replaces what is known of a frame's leaves.
    fn name(&mut self, gfn: Gfn, payload: Word) {
        if let Some(Some(chunk)) = self.chunks.get_mut(gfn.chunk()) {
            let word = &mut chunk[gfn.place()];
            *word = *word & TABLE | payload;
        }
    }

    /// Forgets all lists: there are no leaves any more.
    pub fn forget_lists(&mut self) {
        while let Some(List { gfn, .. }) = self.lists.pop() {
            self.name(gfn, 0);
        }
        self.lists_to_sort_out = FEW_LISTS;
    }

    /// How many frames have a list of leaves.
    #[cfg(test)]
    pub const fn lists(&self) -> usize {
        self.lists.len()
    }

    /// Calls `visit` with every leaf that may map `gfn`.
    pub fn for_each(&self, gfn: Gfn, mut visit: impl FnMut(Leaf)) {
        let word = self.word(gfn);
        if word & ONE != 0 {
            visit(Leaf::unpack(word >> PAYLOAD));
        } else if word & MANY != 0 {
            self.lists[(word >> PAYLOAD) as usize].leaves.iter().copied().for_each(visit);
        }
    }
}

/// The words of one chunk.
pub struct LeafChunk<'a>(&'a mut [Word; CHUNK]);

impl LeafChunk<'_> {
    /// Records that `leaf` maps the frame at `place` (modulo 512) if that is its only leaf, and tells what the frame holds.
    #[inline]
    pub fn try_add(&mut self, place: usize, leaf: Leaf) -> Option<Holds> {
        add_alone(&mut self.0[place & (CHUNK - 1)], leaf)
    }
}

/// Puts `leaf` into a word that has none, or has it already.
#[inline]
fn add_alone(word: &mut Word, leaf: Leaf) -> Option<Holds> {
    let (alone, now) = (leaf.alone(), *word);
    if now & !TABLE != 0 && now & !TABLE != alone {
        return None;
    }
    *word = now | alone;
    Some(Holds::of(now))
}

/// What a guest frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// A page table that is shadowed and in step.
    Table,
    /// Anything else.
    Data,
}

impl Holds {
    const fn of(word: Word) -> Self {
        if word & TABLE != 0 { Self::Table } else { Self::Data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::arena::Arena;
    use std::collections::BTreeSet;

    const AT: Hpa = Hpa(0x5000);

    fn map() -> ReverseMap {
        ReverseMap::new(Arena::leak(4).frames(), 4 << 20).unwrap()
    }

    fn leaf(entry: usize) -> Leaf {
        Leaf { table: 1, entry: entry as u32 }
    }

    fn leaves(map: &ReverseMap, gfn: Gfn) -> Vec<Leaf> {
        let mut all = Vec::new();
        map.for_each(gfn, |leaf| all.push(leaf));
        all
    }

    const fn all_live(_: Leaf, _: Hpa) -> bool {
        true
    }

    #[test]
    fn leaves_are_kept_beside_the_table_flag_without_doubles() {
        let mut map = map();
        let (gfn, a, b) = (Gfn(600), Leaf { table: 3, entry: 511 }, Leaf { table: 16000, entry: 0 });
        assert_eq!(leaves(&map, gfn), []);
        map.add(gfn, AT, a, all_live).unwrap();
        map.set_table(gfn).unwrap();
        map.add(gfn, AT, a, all_live).unwrap();
        assert_eq!(leaves(&map, gfn), [a]);
        map.add(gfn, AT, b, all_live).unwrap();
        map.add(gfn, AT, a, all_live).unwrap();
        assert_eq!(leaves(&map, gfn), [a, b]);
        assert!(map.is_table(gfn) && !map.is_table(Gfn(601)));
        map.clear_table(gfn);
        assert!(!map.is_table(gfn));
        assert_eq!(leaves(&map, gfn), [a, b]);
    }

    #[test]
    fn a_surplus_leaf_is_handed_out_oldest_first() {
        let mut map = map();
        for i in 0..MAX_LEAVES {
            assert_eq!(map.add(Gfn(0), AT, leaf(i), all_live), Ok((Holds::Data, None)));
        }
        assert_eq!(map.add(Gfn(0), AT, leaf(100), all_live), Ok((Holds::Data, Some(leaf(0)))));
        assert_eq!(map.chunk(Gfn(0)).unwrap().try_add(0, leaf(101)), None, "a list is not for prefetching");
        assert_eq!(leaves(&map, Gfn(0)).len(), MAX_LEAVES);
        assert_eq!(map.add(Gfn(1024), AT, leaf(0), all_live), Err(Error::OutsideMemory(Gfn(1024).gpa())));
    }

    #[test]
    fn a_leaf_that_is_gone_makes_way_for_the_next() {
        let mut map = map();
        map.set_table(Gfn(0)).unwrap();
        for round in 0..100 {
            let added = map.add(Gfn(0), AT, leaf(round), |other, _| other == leaf(round));
            assert_eq!((added, leaves(&map, Gfn(0))), (Ok((Holds::Table, None)), [leaf(round)].to_vec()));
        }
        assert!(!map.free(Gfn(0), |_| true) && map.chunk(Gfn(0)).unwrap().try_add(0, leaf(50)).is_none());
        assert!(map.free(Gfn(0), |_| false));
        assert_eq!(map.chunk(Gfn(0)).unwrap().try_add(0, leaf(99)), Some(Holds::Table));
        map.add(Gfn(0), AT, leaf(200), all_live).unwrap();
        assert_eq!(leaves(&map, Gfn(0)), [leaf(99), leaf(200)]);
        map.add(Gfn(0), AT, leaf(201), |_, _| false).unwrap();
        assert_eq!((leaves(&map, Gfn(0)), map.lists.len()), ([leaf(201)].to_vec(), 0), "no list for one leaf");
        assert!(map.is_table(Gfn(0)));
    }

    /// Frames get two leaves each, and lose them again, over and over.
    #[test]
    fn lists_are_as_many_as_live_leaves_need() {
        const AT_ONCE: usize = 200;
        let mut map = map();
        let mut live: BTreeSet<(u64, u32)> = BTreeSet::new();
        let at = |gfn: u64| Hpa(gfn << 12);
        for round in 0..20_000u64 {
            let gfn = round * 7 % 1024;
            for which in 0..2 {
                let leaf = Leaf { table: 1 + (round % 5) as u32, entry: 2 * (gfn as u32 & 255) + which };
                live.insert((at(gfn).0, (leaf.pack()) as u32));
                map.add(Gfn(gfn), at(gfn), leaf, |leaf, hpa| live.contains(&(hpa.0, leaf.pack() as u32))).unwrap();
                assert!(leaves(&map, Gfn(gfn)).contains(&leaf), "round {round}");
            }
            while live.len() > 2 * AT_ONCE {
                live.pop_first();
            }
            assert!(map.lists.len() <= 2 * AT_ONCE.max(FEW_LISTS) + 1, "{} lists in round {round}", map.lists.len());
        }
        for &(hpa, packed) in &live {
            assert!(leaves(&map, Gfn(hpa >> 12)).contains(&Leaf::unpack(packed.into())), "a leaf that lives was forgotten");
        }
        map.forget_lists();
        assert!(map.lists.is_empty() && (0..1024).all(|gfn| leaves(&map, Gfn(gfn)).len() <= 1));
    }
}
