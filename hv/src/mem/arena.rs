//! Frames for tests: a block of the test process's memory that plays physical memory from 1 MiB on, and counts what is out.
#![expect(unsafe_code, reason = "implements FrameSource over a leaked allocation")]

use super::Frames;
use crate::{
    addr::{Hpa, PAGE_SIZE},
    host::FrameSource,
};
use alloc::{boxed::Box, vec, vec::Vec};
use spin::Mutex;

const FIRST: u64 = 0x10_0000;
const POISON: u8 = 0xa5;

/// A fixed number of frames. What is given back is poisoned, so that a use after that shows.
pub struct Arena {
    start: usize,
    /// Indices of the free frames, and for each frame how often it was taken or given back: odd while it is taken.
    state: Mutex<(Vec<usize>, Vec<u64>)>,
}

impl Arena {
    /// Makes an arena of `count` frames that lives as long as the process.
    pub fn leak(count: usize) -> &'static Self {
        let block = vec![POISON; (count + 1) * PAGE_SIZE].leak();
        let start = block.as_mut_ptr() as usize;
        let start = start.next_multiple_of(PAGE_SIZE);
        let state = Mutex::new(((0..count).rev().collect(), vec![0; count]));
        Box::leak(Box::new(Self { start, state }))
    }

    /// A handle to the arena's frames.
    pub fn frames(&'static self) -> Frames {
        Frames::new(self)
    }

    /// How many frames are taken.
    pub fn live(&self) -> usize {
        self.state.lock().1.iter().filter(|turns| is_taken(**turns)).count()
    }

    /// Tells whether `hpa` is in a frame of the arena that is taken now.
    pub fn is_live(&self, hpa: Hpa) -> bool {
        self.generation(hpa).is_some()
    }

    /// Tells the owner of the frame at `hpa` from those before and after; `None` while it has none.
    pub fn generation(&self, hpa: Hpa) -> Option<u64> {
        let turns = if hpa.0 < FIRST { None } else { self.state.lock().1.get(index(hpa)).copied() };
        turns.filter(|turns| is_taken(*turns))
    }
}

const fn is_taken(turns: u64) -> bool {
    turns % 2 == 1
}

const fn index(hpa: Hpa) -> usize {
    (hpa.0 - FIRST) as usize / PAGE_SIZE
}

const fn frame(index: usize) -> Hpa {
    Hpa(FIRST + (index * PAGE_SIZE) as u64)
}

impl Arena {
    fn byte(&self, at: Hpa) -> *mut u8 {
        assert!(self.is_live(at), "{at} is in nobody's frame");
        self.window().wrapping_add(at.0 as usize) as *mut u8
    }

    /// Reads the 8-aligned word at `at`, as a processor would; panics when its frame is not taken.
    pub fn word(&self, at: Hpa) -> u64 {
        assert!(at.0.is_multiple_of(8));
        // SAFETY: `byte` checked that the frame is one of the arena's, which lives for ever; tests are the only ones to look.
        unsafe { self.byte(at).cast::<u64>().read_volatile() }
    }

    /// Writes the 8-aligned word at `at`, as a processor would; panics when its frame is not taken.
    pub fn set_word(&self, at: Hpa, value: u64) {
        assert!(at.0.is_multiple_of(8));
        // SAFETY: as in `word`.
        unsafe { self.byte(at).cast::<u64>().write_volatile(value) }
    }

    /// Writes the byte at `at`, as a processor would; panics when its frame is not taken.
    pub fn set_byte(&self, at: Hpa, value: u8) {
        // SAFETY: as in `word`.
        unsafe { self.byte(at).write_volatile(value) }
    }
}

// SAFETY: frames are disjoint pieces of a leaked block, handed out one at a time; `window` maps `FIRST` to its start.
unsafe impl FrameSource for Arena {
    fn take(&self) -> Option<Hpa> {
        let (free, turns) = &mut *self.state.lock();
        let index = free.pop()?;
        turns[index] += 1;
        Some(frame(index))
    }

    fn take_low(&self) -> Option<Hpa> {
        self.take()
    }

    fn take_run(&self, count: usize) -> Option<Hpa> {
        let (free, turns) = &mut *self.state.lock();
        let first = turns.windows(count).position(|run| !run.iter().any(|turns| is_taken(*turns)))?;
        turns[first..first + count].iter_mut().for_each(|turns| *turns += 1);
        free.retain(|index| !(first..first + count).contains(index));
        Some(frame(first))
    }

    unsafe fn give(&self, frame: Hpa) {
        let address = self.window().wrapping_add(frame.0 as usize) as *mut u8;
        // SAFETY: the caller gives back a frame of this arena that nobody uses any more.
        unsafe { core::ptr::write_bytes(address, POISON, PAGE_SIZE) };
        let (free, turns) = &mut *self.state.lock();
        assert!(is_taken(turns[index(frame)]), "{frame} is given back twice");
        turns[index(frame)] += 1;
        free.push(index(frame));
    }

    fn window(&self) -> usize {
        self.start.wrapping_sub(FIRST as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_disjoint_and_counted() {
        let arena = Arena::leak(2);
        let (a, b) = (arena.frames().take_zeroed().unwrap(), arena.frames().take_zeroed().unwrap());
        assert!(arena.frames().take().is_err());
        a.view().store(511, 1);
        assert_eq!((a.view().load(511), b.view().load(0), b.view().load(511)), (1, 0, 0));
        assert!(arena.is_live(a.hpa()));
        let gone = a.hpa();
        let before = arena.generation(gone);
        drop(a);
        assert!(!arena.is_live(gone) && !arena.is_live(Hpa(0)));
        assert_eq!(arena.live(), 1);
        let again = arena.frames().take().unwrap();
        assert_eq!(again.hpa(), gone);
        assert!(arena.generation(gone) > before);
    }
}
