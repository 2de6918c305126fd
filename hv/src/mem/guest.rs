//! Guest memory: which host frame stands behind a guest frame.
//!
//! Memory is a private overlay over a shared, immutable [`Base`] (an image, a snapshot). Both are directories of chunks, a chunk being a
//! frame of 512 slots; an overlay uses the base's chunks until it has to change one, so that one look-up finds either. A frame is
//! private to this memory, or shared: then it is copied before the first write. What nobody has touched is zero and has no frame.
//!
//! Beside that, a frame has [`HostRights`]: what the guest may do with it whatever its own tables say.
#![expect(unsafe_code, reason = "slots hold the addresses of frames that this memory, or its base, keeps alive")]

use super::frame::{Frame, FrameRef, Frames};
use crate::{
    addr::{Gfn, Gpa, Hpa, PAGE_SHIFT, PAGE_SIZE},
    error::Error,
};
use alloc::{sync::Arc, vec::Vec};
use bitflags::bitflags;
use core::{num::NonZeroU64, ops::Range};

/// Slots of a chunk, and so guest frames: 2 MiB of guest memory.
const CHUNK_SLOTS: usize = Gfn::CHUNK as usize;
const CHUNK_BYTES: u64 = Gfn::CHUNK << PAGE_SHIFT;
/// Most guest memory of one VM.
pub const MAX_BYTES: u64 = 512 << 30;

/// One guest frame: the host frame's address and flags; 0 when there is no frame.
type Slot = u64;
/// There is a frame: also where its address is 0.
const FRAME: NonZeroU64 = NonZeroU64::new(16).unwrap();
/// The frame belongs to a base; copy it before writing.
const SHARED: Slot = 1;
/// In a base: the frame belongs to this base, not to one below it.
const OWNED: Slot = 2;
/// The guest may not write the frame.
const NO_WRITE: Slot = 4;
/// The guest may not execute the frame.
const NO_EXECUTE: Slot = 8;
const ADDRESS: Slot = 0x000f_ffff_ffff_f000;

/// A chunk: the address of its page of slots, and in [`OWN`] whether that is this directory's own; 0 where there is none, or [`HOLE`].
type Chunk = u64;
/// The page of slots is this directory's own, not that of one below.
const OWN: Chunk = 1;
/// There is no memory, although others chunks may lie behind this one.
const HOLE: Chunk = 2;

/// What an access is going to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// Read or execute.
    Read,
    /// Write.
    Write,
}

bitflags! {
    /// What the host lets the guest do with a frame, whatever the guest's own tables say; reading is always allowed.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct HostRights: u8 {
        /// Writes.
        const WRITE = 1 << 0;
        /// Fetches.
        const EXECUTE = 1 << 1;
    }
}

impl HostRights {
    const fn encode(self) -> Slot {
        let write = if self.contains(Self::WRITE) { 0 } else { NO_WRITE };
        write | if self.contains(Self::EXECUTE) { 0 } else { NO_EXECUTE }
    }

    const fn decode(slot: Slot) -> Self {
        let write = if slot & NO_WRITE == 0 { Self::WRITE } else { Self::empty() };
        write.union(if slot & NO_EXECUTE == 0 { Self::EXECUTE } else { Self::empty() })
    }
}

/// A host frame that guest memory keeps alive: the only thing that a shadow leaf is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFrame(NonZeroU64);

impl GuestFrame {
    /// The frame in a slot, if there is one.
    #[inline]
    const fn of(slot: Slot) -> Option<Self> {
        match NonZeroU64::new(slot) {
            Some(slot) => Some(Self(slot)),
            None => None,
        }
    }

    #[inline]
    const fn slot(self) -> Slot {
        self.0.get()
    }

    /// Where the frame lies.
    #[inline]
    pub const fn hpa(self) -> Hpa {
        Hpa(self.slot() & ADDRESS)
    }

    /// What else is known of it, as one word: frames with the same allow the same.
    #[inline]
    pub const fn kind(self) -> u64 {
        self.slot() & !ADDRESS
    }

    /// What the host lets the guest do with it.
    pub const fn rights(self) -> HostRights {
        HostRights::decode(self.slot())
    }

    /// Whether the guest's writes may go to this very frame: it may write, and need not be given a copy first.
    #[inline]
    pub const fn takes_writes(self) -> bool {
        self.slot() & (SHARED | NO_WRITE) == 0
    }

    /// Whether the guest may execute it.
    #[inline]
    pub const fn takes_fetches(self) -> bool {
        self.slot() & NO_EXECUTE == 0
    }
}

/// What a touch had to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "leaves that map a frame that was copied must go"]
pub enum Touched {
    /// Nothing: the host frame was there, and fit.
    Present,
    /// There was none; now there is one, zeroed.
    Zeroed,
    /// There was this shared one; now there is a private copy of it. Leaves that map the old one must go.
    CopiedFrom(Hpa),
}

/// An immutable, shared memory image; cheap to clone.
#[derive(Clone)]
pub struct Base(Arc<Layer>);

struct Layer {
    directory: Directory,
    /// Keeps the frames alive that this layer took over from the one below.
    _below: Option<Base>,
}

impl Base {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.0.directory.pages << PAGE_SHIFT
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.directory.release(|slot| slot & OWNED != 0);
    }
}

struct Directory {
    frames: Frames,
    chunks: Vec<Chunk>,
    pages: u64,
    /// What frames that nobody has touched yet will allow: the flags of their slots.
    untouched: Slot,
}

impl Directory {
    fn new(frames: Frames, bytes: u64) -> Result<Self, Error> {
        if bytes == 0 || bytes > MAX_BYTES || !bytes.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Error::MemorySize(bytes));
        }
        let pages = bytes >> PAGE_SHIFT;
        let count = pages.div_ceil(CHUNK_SLOTS as u64) as usize;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| Error::NoHeap)?;
        chunks.resize(count, 0);
        Ok(Self { frames, chunks, pages, untouched: 0 })
    }

    /// A directory that uses all the chunks of another, which must live longer.
    fn over(below: &Self) -> Result<Self, Error> {
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(below.chunks.len()).map_err(|_| Error::NoHeap)?;
        chunks.extend(below.chunks.iter().map(|chunk| chunk & !OWN));
        let Self { frames, pages, untouched, .. } = *below;
        Ok(Self { frames, chunks, pages, untouched })
    }

    /// The slots of a chunk, if it has any.
    #[inline]
    fn slots(&self, chunk: usize) -> Option<FrameRef<'_>> {
        let page = *self.chunks.get(chunk)?;
        // SAFETY: a chunk that is more than a mark is a frame that this directory owns, or one below it, which its owner keeps alive; it is given back only in `take_apart`.
        (page > HOLE).then(|| unsafe { self.frames.view(Hpa(page & ADDRESS)) })
    }

    /// The slot of `gfn`: `Some(0)` for one never touched, `None` outside memory.
    #[inline]
    fn slot(&self, gfn: Gfn) -> Option<Slot> {
        if gfn.0 >= self.pages {
            return None;
        }
        match self.slots(gfn.chunk()) {
            Some(slots) => Some(slots.load(gfn.place())),
            None => self.no_slot(gfn),
        }
    }

    /// What stands for the slot of `gfn` where its chunk has none.
    #[cold]
    fn no_slot(&self, gfn: Gfn) -> Option<Slot> {
        if self.chunks[gfn.chunk()] == HOLE { None } else { Some(0) }
    }

    /// The chunks of a range of addresses, which begins and ends where chunks do, if each of them is as wanted.
    fn chunks_of(&self, range: &Range<Gpa>, wanted: impl Fn(Chunk) -> bool) -> Result<Range<usize>, Error> {
        let is_edge = |at: Gpa| at.0.is_multiple_of(CHUNK_BYTES) || at.0 == self.pages << PAGE_SHIFT;
        let number = |at: Gpa| at.0.div_ceil(CHUNK_BYTES) as usize;
        let chunks = number(range.start)..number(range.end);
        let found = self.chunks.get(chunks.clone()).filter(|found| found.iter().all(|chunk| wanted(*chunk)));
        if is_edge(range.start) && is_edge(range.end) && found.is_some() {
            Ok(chunks)
        } else {
            Err(Error::MemoryRange(range.start))
        }
    }

    /// The slots of a chunk, if they are this directory's own.
    fn own_slots(&self, chunk: usize) -> impl Iterator<Item = Slot> + '_ {
        let slots = if self.chunks[chunk] & OWN != 0 { self.slots(chunk) } else { None };
        slots.into_iter().flat_map(|slots| (0..CHUNK_SLOTS).map(move |place| slots.load(place)))
    }

    /// Leaves `mark` in the place of a chunk, and gives the frames out of it that are `ours`.
    fn take_apart(&mut self, chunk: usize, mark: Chunk, ours: impl Fn(Slot) -> bool, mut gone: impl FnMut(Frame)) {
        for slot in self.own_slots(chunk).filter(|&slot| slot != 0 && ours(slot)) {
            // SAFETY: the slot is one that this directory's owner put a frame of its own in, by `Frame::into_hpa`. Nobody turns it back again: its chunk
            // leaves the directory below.
            gone(unsafe { self.frames.reclaim(Hpa(slot & ADDRESS)) });
        }
        let was = core::mem::replace(&mut self.chunks[chunk], mark);
        if was & OWN != 0 {
            // SAFETY: the chunk's page was this directory's own, put there by `Frame::into_hpa`, and has just left it, so nobody turns it back again.
            drop(unsafe { self.frames.reclaim(Hpa(was & ADDRESS)) });
        }
    }

    /// Gives back every frame that is `ours`.
    fn release(&mut self, ours: impl Fn(Slot) -> bool) {
        for chunk in 0..self.chunks.len() {
            self.take_apart(chunk, 0, &ours, drop);
        }
    }
}

/// Pages that were written whole, because a frame was new or shared: what memory costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageCounts {
    /// Filled with zeros.
    pub zeroed: u64,
    /// Copied.
    pub copied: u64,
}

/// The memory of one VM.
pub struct GuestMemory {
    directory: Directory,
    base: Option<Base>,
    counts: PageCounts,
}

impl GuestMemory {
    /// Makes memory of `bytes` bytes, all zero; frames are taken on first touch.
    ///
    /// # Errors
    /// [`Error::MemorySize`] when the size is zero, no multiple of 4 KiB, or above [`MAX_BYTES`]; [`Error::NoHeap`].
    pub fn new(frames: Frames, bytes: u64) -> Result<Self, Error> {
        Ok(Self { directory: Directory::new(frames, bytes)?, base: None, counts: PageCounts::default() })
    }

    /// Makes memory like [`GuestMemory::new`], of which a part is outside memory, for devices to lie in.
    ///
    /// # Errors
    /// As for [`GuestMemory::new`]; [`Error::MemoryRange`] when the hole does not begin and end at multiples of 2 MiB, or not within memory.
    pub fn with_hole(frames: Frames, bytes: u64, hole: Range<Gpa>) -> Result<Self, Error> {
        let mut memory = Self::new(frames, bytes)?;
        memory.unmap(&hole, drop)?;
        Ok(memory)
    }

    /// Makes memory that starts as `base` is, sharing its frames until they are written.
    ///
    /// # Errors
    /// [`Error::NoHeap`].
    pub fn over(base: &Base) -> Result<Self, Error> {
        let directory = Directory::over(&base.0.directory)?;
        Ok(Self { directory, base: Some(base.clone()), counts: PageCounts::default() })
    }

    /// Makes this memory immutable, to be shared by others.
    pub fn freeze(mut self) -> Base {
        let Directory { frames, pages, untouched, .. } = self.directory;
        let own = |chunk: &usize| self.directory.chunks[*chunk] & OWN != 0;
        for slots in (0..self.directory.chunks.len()).filter(own).filter_map(|chunk| self.directory.slots(chunk)) {
            for (place, slot) in (0..CHUNK_SLOTS).map(|place| (place, slots.load(place))).filter(|(_, slot)| *slot != 0) {
                slots.store(place, if slot & SHARED != 0 { slot & !OWNED } else { slot | SHARED | OWNED });
            }
        }
        let chunks = core::mem::take(&mut self.directory.chunks);
        Base(Arc::new(Layer { directory: Directory { frames, chunks, pages, untouched }, _below: self.base.take() }))
    }

    /// Sets what the host lets the guest do with the frames in a range that have been touched, before a virtual CPU has run.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] when the range leaves memory, [`Error::NoFrames`].
    pub fn restrict(&mut self, frames: Range<Gfn>, rights: HostRights) -> Result<(), Error> {
        for gfn in (frames.start.0..frames.end.0).map(Gfn) {
            let slot = self.directory.slot(gfn).ok_or(Error::OutsideMemory(gfn.gpa()))?;
            if slot != 0 {
                let slots = self.own_slots(gfn.chunk()).ok_or(Error::NoFrames)?;
                slots.store(gfn.place(), slot & !(NO_WRITE | NO_EXECUTE) | rights.encode());
            }
        }
        Ok(())
    }

    /// Takes a range out of memory: what was there is gone, and the range is outside memory from now on.
    ///
    /// `gone` gets the frames that were this memory's own. They must live for as long as an old translation may lead there, or a [`GuestFrame`] be looked at
    /// ([`GuestMemory::view_frame`]).
    ///
    /// # Errors
    /// [`Error::MemoryRange`] when the range does not begin and end at multiples of 2 MiB or the end of memory, or is not all memory; nothing has changed then.
    pub(crate) fn unmap(&mut self, range: &Range<Gpa>, mut gone: impl FnMut(Frame)) -> Result<(), Error> {
        for chunk in self.directory.chunks_of(range, |chunk| chunk != HOLE)? {
            self.directory.take_apart(chunk, HOLE, |slot| slot & SHARED == 0, &mut gone);
        }
        Ok(())
    }

    /// How many frames [`GuestMemory::unmap`] would give out.
    pub(crate) fn own_frames(&self, range: &Range<Gpa>) -> Result<usize, Error> {
        let slots = self.directory.chunks_of(range, |chunk| chunk != HOLE)?.flat_map(|chunk| self.directory.own_slots(chunk));
        Ok(slots.filter(|slot| *slot != 0 && slot & SHARED == 0).count())
    }

    /// Makes a range memory, all zero, that was taken out before.
    ///
    /// # Errors
    /// [`Error::MemoryRange`] when the range does not begin and end at multiples of 2 MiB or the end of memory, or some of it is memory; nothing has changed then.
    pub(crate) fn map(&mut self, range: &Range<Gpa>) -> Result<(), Error> {
        let chunks = self.directory.chunks_of(range, |chunk| chunk == HOLE)?;
        self.directory.chunks[chunks].fill(0);
        Ok(())
    }

    /// Sets what the host lets the guest do with frames that nobody has touched yet, once they are.
    pub const fn restrict_untouched(&mut self, rights: HostRights) {
        self.directory.untouched = rights.encode();
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.directory.pages << PAGE_SHIFT
    }

    /// Tells whether a frame is part of this memory.
    #[inline]
    pub fn contains(&self, gfn: Gfn) -> bool {
        self.directory.slot(gfn).is_some()
    }

    /// Pages written whole so far.
    pub const fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Tells which host frame stands behind `gfn`, if any does: `None` outside memory and for a frame never touched.
    #[inline]
    pub fn present(&self, gfn: Gfn) -> Option<GuestFrame> {
        self.directory.slot(gfn).and_then(GuestFrame::of)
    }

    /// The frames of the chunk that `gfn` belongs to, if any was ever touched.
    #[inline]
    pub fn chunk(&self, gfn: Gfn) -> Option<FrameChunk<'_>> {
        self.directory.slots(gfn.chunk()).map(FrameChunk)
    }

    /// Puts a host frame behind `gfn`, fit for `intent`: a zeroed one at the first touch, a private copy of a shared one at the first write that the host allows.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`].
    #[inline]
    pub fn touch(&mut self, gfn: Gfn, intent: Intent) -> Result<(GuestFrame, Touched), Error> {
        let slot = self.directory.slot(gfn).ok_or(Error::OutsideMemory(gfn.gpa()))?;
        let Some(frame) = GuestFrame::of(slot) else {
            return Ok((self.first_touch(gfn).ok_or(Error::NoFrames)?, Touched::Zeroed));
        };
        if slot & (SHARED | NO_WRITE) == SHARED && intent == Intent::Write {
            return self.copy(gfn, slot);
        }
        Ok((frame, Touched::Present))
    }

    /// Puts a host frame behind `gfn` that the host itself may write, whatever the guest may do with it.
    ///
    /// # Errors
    /// As [`GuestMemory::touch`].
    pub fn touch_by_host(&mut self, gfn: Gfn) -> Result<(GuestFrame, Touched), Error> {
        let (frame, touched) = self.touch(gfn, Intent::Write)?;
        if frame.slot() & SHARED != 0 { self.copy(gfn, frame.slot()) } else { Ok((frame, touched)) }
    }

    /// Puts a zeroed host frame behind `gfn`, which lies in memory and has none; `None` where the host has no more frames, as below.
    #[inline(never)]
    fn first_touch(&mut self, gfn: Gfn) -> Option<GuestFrame> {
        let frame = self.directory.frames.take_zeroed().ok()?;
        self.counts.zeroed += 1;
        self.put(gfn, frame, self.directory.untouched)
    }

    /// Puts a private copy of the shared frame in `slot` behind `gfn`.
    #[inline(never)]
    fn copy(&mut self, gfn: Gfn, slot: Slot) -> Result<(GuestFrame, Touched), Error> {
        let copy = self.directory.frames.take()?;
        copy.view().copy_from(self.view(slot));
        self.counts.copied += 1;
        let frame = self.put(gfn, copy, slot & (NO_WRITE | NO_EXECUTE)).ok_or(Error::NoFrames)?;
        Ok((frame, Touched::CopiedFrom(Hpa(slot & ADDRESS))))
    }

    /// Reads the 64-bit word at `gpa`, which is 8-aligned; `None` outside memory.
    #[inline]
    pub fn load(&self, gpa: Gpa) -> Option<u64> {
        let slot = self.directory.slot(gpa.gfn())?;
        Some(if slot == 0 { 0 } else { self.view(slot).load(gpa.page_offset() / 8) })
    }

    /// Replaces the 64-bit word at `gpa`, which is 8-aligned, if it still is `old`. Its frame must have been touched for writing.
    ///
    /// Returns whether the word was `old`, or `None` when the frame is outside memory, or not private, or the guest may not write it.
    pub fn compare_exchange(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        let slot = self.directory.slot(gpa.gfn())?;
        (slot != 0 && slot & (SHARED | NO_WRITE) == 0).then(|| self.view(slot).compare_exchange(gpa.page_offset() / 8, old, new))
    }

    /// Reads bytes; what nobody has touched reads as zero.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] with the first address that is, after the bytes before it were copied.
    pub fn read(&self, gpa: Gpa, mut into: &mut [u8]) -> Result<(), Error> {
        let mut at = gpa;
        while !into.is_empty() {
            let slot = self.directory.slot(at.gfn()).ok_or(Error::OutsideMemory(at))?;
            let count = into.len().min(PAGE_SIZE - at.page_offset());
            let (now, rest) = into.split_at_mut(count);
            if slot == 0 {
                now.fill(0);
            } else {
                self.view(slot).read(at.page_offset(), now);
            }
            (into, at) = (rest, at.wrapping_add(count as u64));
        }
        Ok(())
    }

    /// Writes bytes before a virtual CPU has run. Later writes go through the VM, which also knows the translations.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] with the first address that is, [`Error::NoFrames`]; the bytes before it were copied.
    pub fn write(&mut self, gpa: Gpa, mut from: &[u8]) -> Result<(), Error> {
        let mut at = gpa;
        while !from.is_empty() {
            let (frame, _) = self.touch_by_host(at.gfn()).map_err(|error| match error {
                Error::OutsideMemory(_) => Error::OutsideMemory(at),
                other => other,
            })?;
            let count = self.view(frame.slot()).write(at.page_offset(), from);
            (from, at) = (&from[count..], at.wrapping_add(count as u64));
        }
        Ok(())
    }

    /// Raw access to a frame that this memory gave out. Frames leave guest memory when it is dropped, or in [`GuestMemory::unmap`], which begins a new
    /// [`crate::shadow::ShadowMmu::epoch`]: whoever keeps a frame keeps the epoch with it.
    #[inline]
    pub(crate) fn view_frame(&self, frame: GuestFrame) -> FrameRef<'_> {
        self.view(frame.slot())
    }

    #[inline]
    fn view(&self, slot: Slot) -> FrameRef<'_> {
        // SAFETY: a non-zero slot holds a frame that this memory owns, or that its base owns, and the base is kept by `self.base`; slots are
        // overwritten only through `&mut self`, so the frame outlives the view.
        unsafe { self.directory.frames.view(Hpa(slot & ADDRESS)) }
    }

    #[inline]
    fn put(&mut self, gfn: Gfn, frame: Frame, rights: Slot) -> Option<GuestFrame> {
        let slots = self.own_slots(gfn.chunk())?;
        let slot = FRAME | frame.into_hpa().0 | rights;
        slots.store(gfn.place(), slot.get());
        Some(GuestFrame(slot))
    }

    /// The slots of a chunk of memory, to be changed.
    #[inline]
    fn own_slots(&mut self, chunk: usize) -> Option<FrameRef<'_>> {
        let page = match self.directory.chunks[chunk] {
            page if page & OWN != 0 => page,
            _ => self.own_chunk(chunk)?,
        };
        // SAFETY: a chunk of this directory's own is a frame that it keeps until `take_apart`.
        Some(unsafe { self.directory.frames.view(Hpa(page & ADDRESS)) })
    }

    #[cold]
    fn own_chunk(&mut self, chunk: usize) -> Option<Chunk> {
        let page = self.directory.frames.take().ok()?;
        match self.directory.slots(chunk) {
            Some(below) => {
                page.view().copy_from(below);
                self.counts.copied += 1;
            }
            None => {
                page.view().zero();
                self.counts.zeroed += 1;
            }
        }
        let page = page.into_hpa().0 | OWN;
        self.directory.chunks[chunk] = page;
        Some(page)
    }
}

/// The frames of one chunk.
pub struct FrameChunk<'a>(FrameRef<'a>);

impl FrameChunk<'_> {
    /// Tells which host frame stands at a place of the chunk, if any does; beyond its 512 places none does.
    #[inline]
    pub fn at(&self, place: usize) -> Option<GuestFrame> {
        if place < CHUNK_SLOTS { GuestFrame::of(self.0.load(place)) } else { None }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        self.directory.release(|slot| slot & SHARED == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::arena::Arena;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_hole_is_outside_memory_also_in_what_is_made_over_it() {
        let arena = Arena::leak(32);
        let outside = |memory: &mut GuestMemory| {
            for (at, inside) in
                [(0, true), (2 * MIB - 4096, true), (2 * MIB, false), (6 * MIB - 4096, false), (6 * MIB, true), (8 * MIB, false)]
            {
                let found = memory.touch(Gpa(at).gfn(), Intent::Write).map(drop);
                assert_eq!(found, if inside { Ok(()) } else { Err(Error::OutsideMemory(Gpa(at))) }, "{at:#x}");
                assert_eq!(memory.load(Gpa(at)), inside.then_some(0));
            }
        };
        let mut memory = GuestMemory::with_hole(arena.frames(), 8 * MIB, Gpa(2 * MIB)..Gpa(6 * MIB)).unwrap();
        outside(&mut memory);
        let mut over = GuestMemory::over(&memory.freeze()).unwrap();
        outside(&mut over);
        outside(&mut GuestMemory::over(&over.freeze()).unwrap());
        for (start, end) in [(MIB, 6 * MIB), (2 * MIB, 5 * MIB), (4 * MIB, 2 * MIB), (6 * MIB, 10 * MIB)] {
            let refused = GuestMemory::with_hole(arena.frames(), 8 * MIB, Gpa(start)..Gpa(end)).err();
            assert_eq!(refused, Some(Error::MemoryRange(Gpa(start))));
        }
    }

    #[test]
    fn a_range_that_was_taken_out_is_outside_memory_and_comes_back_as_zeros() {
        let arena = Arena::leak(32);
        let mut image = GuestMemory::new(arena.frames(), 5 * MIB).unwrap();
        image.write(Gpa(4 * MIB), b"base").unwrap();
        let base = image.freeze();
        let mut memory = GuestMemory::over(&base).unwrap();
        let before = arena.live();
        memory.write(Gpa(4 * MIB + 4096), b"own").unwrap();
        let range = Gpa(4 * MIB)..Gpa(5 * MIB);
        assert_eq!(memory.own_frames(&range), Ok(1));
        let mut gone = Vec::new();
        memory.unmap(&range, |frame| gone.push(frame)).unwrap();
        assert_eq!((gone.len(), arena.live()), (1, before + 1), "the page of slots went back, the frame is ours");
        assert_eq!((memory.load(range.start), memory.present(range.start.gfn())), (None, None));
        assert_eq!(memory.unmap(&range, drop), Err(Error::MemoryRange(range.start)), "it is no memory now");
        assert_eq!(memory.map(&(Gpa(2 * MIB)..range.end)), Err(Error::MemoryRange(Gpa(2 * MIB))), "some of it is memory");
        memory.map(&range).unwrap();
        assert_eq!((memory.load(range.start), memory.map(&range)), (Some(0), Err(Error::MemoryRange(range.start))));
        assert_eq!(GuestMemory::over(&base).unwrap().load(range.start), Some(u64::from(u32::from_le_bytes(*b"base"))));
        drop((gone, memory, base));
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn memory_reads_zero_until_written_and_takes_frames_on_touch() {
        let arena = Arena::leak(16);
        let mut memory = GuestMemory::new(arena.frames(), 4 * MIB).unwrap();
        let mut bytes = [1u8; 8];
        memory.read(Gpa(0x1ffc), &mut bytes).unwrap();
        assert_eq!((bytes, arena.live()), ([0; 8], 0));
        memory.write(Gpa(0x1ffc), b"12345678").unwrap();
        memory.read(Gpa(0x1ffc), &mut bytes).unwrap();
        assert_eq!(&bytes, b"12345678");
        assert_eq!(arena.live(), 3, "two pages and a chunk");
        drop(memory);
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn outside_is_an_error_and_never_wraps() {
        let arena = Arena::leak(16);
        let mut memory = GuestMemory::new(arena.frames(), MIB).unwrap();
        assert_eq!(memory.write(Gpa(MIB - 2), b"abcd"), Err(Error::OutsideMemory(Gpa(MIB))));
        assert_eq!(memory.read(Gpa(u64::MAX - 1), &mut [0; 4]), Err(Error::OutsideMemory(Gpa(u64::MAX - 1))));
        assert_eq!(memory.load(Gpa(MIB)), None);
        for size in [0, 4095, MAX_BYTES + 4096] {
            assert_eq!(GuestMemory::new(arena.frames(), size).err(), Some(Error::MemorySize(size)));
        }
    }

    #[test]
    fn frames_of_a_base_are_shared_until_written() {
        let arena = Arena::leak(32);
        let mut image = GuestMemory::new(arena.frames(), MIB).unwrap();
        image.write(Gpa(0x5000), b"shared").unwrap();
        let base = image.freeze();
        let before = arena.live();
        let mut a = GuestMemory::over(&base).unwrap();
        let b = GuestMemory::over(&base).unwrap();
        assert_eq!(arena.live(), before, "a clone costs no frame");
        let shared = a.present(Gfn(5)).unwrap();
        assert!(!shared.takes_writes());
        assert_eq!(a.touch(Gfn(5), Intent::Read), Ok((shared, Touched::Present)));
        let (own, touched) = a.touch(Gfn(5), Intent::Write).unwrap();
        assert_eq!((own.takes_writes(), touched), (true, Touched::CopiedFrom(shared.hpa())));
        a.write(Gpa(0x5000), b"mine!!").unwrap();
        let mut bytes = [0; 6];
        b.read(Gpa(0x5000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"shared");
        a.read(Gpa(0x5000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"mine!!");
        drop((a, b, base));
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn host_rights_stay_with_a_frame_that_is_shared_or_copied() {
        let arena = Arena::leak(16);
        let mut image = GuestMemory::new(arena.frames(), MIB).unwrap();
        image.write(Gpa(0x1000), &[7; 2 * PAGE_SIZE]).unwrap();
        image.restrict(Gfn(1)..Gfn(2), HostRights::EXECUTE).unwrap();
        image.restrict(Gfn(2)..Gfn(3), HostRights::WRITE).unwrap();
        image.restrict_untouched(HostRights::WRITE);
        assert_eq!(image.restrict(Gfn(255)..Gfn(257), HostRights::all()), Err(Error::OutsideMemory(Gpa(MIB))));
        let mut memory = GuestMemory::over(&image.freeze()).unwrap();
        let rights = |memory: &GuestMemory, gfn| memory.present(Gfn(gfn)).map(GuestFrame::rights);
        assert_eq!(rights(&memory, 1), Some(HostRights::EXECUTE));
        // The host itself may write anywhere; the guest's rights stay.
        memory.write(Gpa(0x1000), &[8; 3 * PAGE_SIZE]).unwrap();
        assert_eq!(
            [1, 2, 3].map(|gfn| rights(&memory, gfn).unwrap()),
            [HostRights::EXECUTE, HostRights::WRITE, HostRights::WRITE]
        );
        drop(memory);
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn a_base_over_a_base_keeps_both_alive_and_frees_each_frame_once() {
        let arena = Arena::leak(32);
        let mut image = GuestMemory::new(arena.frames(), 4 * MIB).unwrap();
        image.write(Gpa(0x5000), b"one").unwrap();
        image.write(Gpa(0x20_0000), b"far").unwrap();
        let mut upper = GuestMemory::over(&image.freeze()).unwrap();
        upper.write(Gpa(0x6000), b"two").unwrap();
        let base = upper.freeze();
        let memory = GuestMemory::over(&base).unwrap();
        drop(base);
        for (at, text) in [(0x5000, b"one"), (0x6000, b"two"), (0x20_0000, b"far")] {
            let mut bytes = [0; 3];
            memory.read(Gpa(at), &mut bytes).unwrap();
            assert_eq!(&bytes, text);
        }
        drop(memory);
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn running_out_of_frames_is_an_error_and_loses_none() {
        let arena = Arena::leak(3);
        let mut memory = GuestMemory::new(arena.frames(), MIB).unwrap();
        assert_eq!(memory.write(Gpa(0x1000), &[7; 3 * PAGE_SIZE]), Err(Error::NoFrames));
        drop(memory);
        assert_eq!(arena.live(), 0);
    }

    #[test]
    fn words_are_exchanged_only_in_private_frames() {
        let arena = Arena::leak(8);
        let mut memory = GuestMemory::new(arena.frames(), MIB).unwrap();
        assert_eq!(memory.compare_exchange(Gpa(0x1008), 0, 5), None);
        memory.write(Gpa(0x1008), &3u64.to_le_bytes()).unwrap();
        assert_eq!(memory.compare_exchange(Gpa(0x1008), 0, 5), Some(false));
        assert_eq!(memory.compare_exchange(Gpa(0x1008), 3, 5), Some(true));
        assert_eq!(memory.load(Gpa(0x1008)), Some(5));
    }
}
