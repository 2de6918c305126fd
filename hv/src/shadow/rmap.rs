//! The reverse map: which shadow leaves may map a guest frame, and which guest frames hold page tables.
//!
//! A leaf is recorded when it is filled and never struck out: whoever uses the list compares the leaf with the frame first. So the list can
//! be too long, never too short.

use crate::{
    addr::Gfn,
    error::Error,
    mem::{Frames, Page},
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

/// The reverse map of one VM.
pub struct ReverseMap {
    frames: Frames,
    chunks: Vec<Option<Page<[Word; CHUNK]>>>,
    lists: Vec<Vec<Leaf>>,
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
        Ok(Self { frames, chunks, lists: Vec::new(), pages: 0 })
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

    /// Records that `leaf` maps `gfn`. Tells what the frame holds, and which leaf must be removed because the frame has too many.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`], [`Error::NoHeap`].
    #[inline]
    pub fn add(&mut self, gfn: Gfn, leaf: Leaf) -> Result<(Holds, Option<Leaf>), Error> {
        let word = self.word_mut(gfn)?;
        match add_alone(word, leaf) {
            Some(holds) => Ok((holds, None)),
            None => Ok((Holds::of(*word), self.add_to_list(gfn, leaf)?)),
        }
    }

    /// The words of the chunk that `gfn` belongs to, if it has any.
    #[inline]
    pub fn chunk(&mut self, gfn: Gfn) -> Option<LeafChunk<'_>> {
        self.chunks.get_mut(gfn.chunk())?.as_mut().map(|page| LeafChunk(page))
    }

    #[cold]
    fn add_to_list(&mut self, gfn: Gfn, leaf: Leaf) -> Result<Option<Leaf>, Error> {
        let word = *self.word_mut(gfn)?;
        if word & ONE != 0 {
            let mut list = Vec::new();
            list.try_reserve_exact(2).map_err(|_| Error::NoHeap)?;
            list.extend([Leaf::unpack(word >> PAYLOAD), leaf]);
            self.lists.try_reserve(1).map_err(|_| Error::NoHeap)?;
            self.lists.push(list);
            let index = self.lists.len() as u64 - 1;
            *self.word_mut(gfn)? = word & TABLE | index << PAYLOAD | MANY;
            return Ok(None);
        }
        let list = &mut self.lists[(word >> PAYLOAD) as usize];
        if list.contains(&leaf) {
            return Ok(None);
        }
        let surplus = if list.len() == MAX_LEAVES { Some(list.remove(0)) } else { None };
        list.try_reserve(1).map_err(|_| Error::NoHeap)?;
        list.push(leaf);
        Ok(surplus)
    }

    /// Calls `visit` with every leaf that may map `gfn`.
    pub fn for_each(&self, gfn: Gfn, mut visit: impl FnMut(Leaf)) {
        let word = self.word(gfn);
        if word & ONE != 0 {
            visit(Leaf::unpack(word >> PAYLOAD));
        } else if word & MANY != 0 {
            self.lists[(word >> PAYLOAD) as usize].iter().copied().for_each(visit);
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
    let (alone, now) = (leaf.pack() << PAYLOAD | ONE, *word);
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

    fn leaves(map: &ReverseMap, gfn: Gfn) -> Vec<Leaf> {
        let mut all = Vec::new();
        map.for_each(gfn, |leaf| all.push(leaf));
        all
    }

    #[test]
    fn leaves_are_kept_beside_the_table_flag_without_doubles() {
        let mut map = ReverseMap::new(Arena::leak(4).frames(), 4 << 20).unwrap();
        let (gfn, a, b) = (Gfn(600), Leaf { table: 3, entry: 511 }, Leaf { table: 16000, entry: 0 });
        assert_eq!(leaves(&map, gfn), []);
        map.add(gfn, a).unwrap();
        map.set_table(gfn).unwrap();
        map.add(gfn, a).unwrap();
        assert_eq!(leaves(&map, gfn), [a]);
        map.add(gfn, b).unwrap();
        map.add(gfn, a).unwrap();
        assert_eq!(leaves(&map, gfn), [a, b]);
        assert!(map.is_table(gfn) && !map.is_table(Gfn(601)));
        map.clear_table(gfn);
        assert!(!map.is_table(gfn));
        assert_eq!(leaves(&map, gfn), [a, b]);
    }

    #[test]
    fn a_surplus_leaf_is_handed_out_oldest_first() {
        let mut map = ReverseMap::new(Arena::leak(4).frames(), 4 << 20).unwrap();
        let leaf = |i: usize| Leaf { table: 1, entry: i as u32 };
        for i in 0..MAX_LEAVES {
            assert_eq!(map.add(Gfn(0), leaf(i)), Ok((Holds::Data, None)));
        }
        assert_eq!(map.add(Gfn(0), leaf(100)), Ok((Holds::Data, Some(leaf(0)))));
        assert_eq!(map.chunk(Gfn(0)).unwrap().try_add(0, leaf(101)), None, "a list is not for prefetching");
        assert_eq!(leaves(&map, Gfn(0)).len(), MAX_LEAVES);
        assert_eq!(map.add(Gfn(1024), leaf(0)), Err(Error::OutsideMemory(Gfn(1024).gpa())));
    }
}
