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
    free: Mutex<Vec<u64>>,
    count: usize,
}

impl Arena {
    /// Makes an arena of `count` frames that lives as long as the process.
    pub fn leak(count: usize) -> &'static Self {
        let block = vec![POISON; (count + 1) * PAGE_SIZE].leak();
        let start = block.as_mut_ptr() as usize;
        let start = start.next_multiple_of(PAGE_SIZE);
        let free = (0..count as u64).rev().map(|i| FIRST + i * PAGE_SIZE as u64).collect();
        Box::leak(Box::new(Self { start, free: Mutex::new(free), count }))
    }

    /// A handle to the arena's frames.
    pub fn frames(&'static self) -> Frames {
        Frames::new(self)
    }

    /// How many frames are taken.
    pub fn live(&self) -> usize {
        self.count - self.free.lock().len()
    }

    /// Tells whether `hpa` is a frame of the arena that is taken now.
    pub fn is_live(&self, hpa: Hpa) -> bool {
        let end = FIRST + (self.count * PAGE_SIZE) as u64;
        (FIRST..end).contains(&hpa.0) && !self.free.lock().contains(&hpa.page_base().0)
    }
}

// SAFETY: frames are disjoint pieces of a leaked block, handed out one at a time; `window` maps `FIRST` to its start.
unsafe impl FrameSource for Arena {
    fn take(&self) -> Option<Hpa> {
        self.free.lock().pop().map(Hpa)
    }

    fn take_run(&self, count: usize) -> Option<Hpa> {
        let mut free = self.free.lock();
        let first = free.iter().copied().find(|&first| {
            (0..count as u64).all(|at| free.contains(&(first + at * PAGE_SIZE as u64)))
        })?;
        free.retain(|&frame| !(first..first + (count * PAGE_SIZE) as u64).contains(&frame));
        Some(Hpa(first))
    }

    unsafe fn give(&self, frame: Hpa) {
        let address = self.window().wrapping_add(frame.0 as usize) as *mut u8;
        // SAFETY: the caller gives back a frame of this arena that nobody uses any more.
        unsafe { core::ptr::write_bytes(address, POISON, PAGE_SIZE) };
        let mut free = self.free.lock();
        assert!(!free.contains(&frame.0), "{frame} is given back twice");
        free.push(frame.0);
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
        drop(a);
        assert!(!arena.is_live(gone) && !arena.is_live(Hpa(0)));
        assert_eq!(arena.live(), 1);
    }
}
