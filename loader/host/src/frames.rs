//! Frames of memory: a pool for the machine, and for each CPU a cache in front of it.

use core::cell::Cell;

use buddy_system_allocator::FrameAllocator;
use hv::addr::{Hpa, PAGE_SHIFT};

use crate::ranges::Ranges;

/// Most frames that a cache holds.
const CACHE_FRAMES: usize = 512;
/// How many frames move at once between a cache and the pool.
const BATCH: usize = 64;
/// First address that does not fit 32 bits.
const FOUR_GIB: u64 = 1 << 32;

/// All free frames of the machine, apart from those in caches.
pub struct Pool {
    low: FrameAllocator,
    high: FrameAllocator,
    taken: u64,
}

impl Pool {
    /// Makes an empty pool.
    pub const fn new() -> Self {
        Self { low: FrameAllocator::new(), high: FrameAllocator::new(), taken: 0 }
    }

    /// Adds every frame of `ranges`.
    pub fn add(&mut self, ranges: &Ranges) {
        for (from, to) in ranges.iter() {
            let middle = FOUR_GIB.clamp(from, to);
            self.low.add_frame(number(from), number(middle));
            self.high.add_frame(number(middle), number(to));
        }
    }

    /// Takes a frame below 4 GiB.
    pub fn take_low(&mut self) -> Option<Hpa> {
        let frame = self.low.alloc(1)?;
        self.taken += 1;
        Some(address(frame))
    }

    /// Takes `count` frames that follow one another, and returns the first.
    pub fn take_run(&mut self, count: usize) -> Option<Hpa> {
        for zone in [&mut self.high, &mut self.low] {
            if let Some(first) = zone.alloc(count) {
                // The buddy allocator rounds up to a power of two.
                (first + count..first + count.next_power_of_two()).for_each(|frame| zone.dealloc(frame, 1));
                self.taken += count as u64;
                return Some(address(first));
            }
        }
        None
    }

    /// Gives one frame back.
    pub fn give(&mut self, frame: Hpa) {
        let zone = if frame.0 < FOUR_GIB { &mut self.low } else { &mut self.high };
        zone.dealloc(number(frame.0), 1);
        self.taken -= 1;
    }

    /// Returns how many frames were taken and not given back; those in caches count as taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes up to [`BATCH`] frames, neighbours where there are some, and memory below 4 GiB last.
    fn take_batch(&mut self, cache: &Cache) {
        for zone in [&mut self.high, &mut self.low] {
            if let Some(first) = zone.alloc(BATCH) {
                cache.fill(first);
                self.taken += BATCH as u64;
                return;
            }
        }
        for zone in [&mut self.high, &mut self.low] {
            while cache.len() < BATCH {
                let Some(frame) = zone.alloc(1) else { break };
                cache.push(address(frame));
                self.taken += 1;
            }
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// One CPU's cache of free frames: the last one in is the first one out, so it is likely still in the processor's caches.
pub struct Cache {
    count: Cell<usize>,
    frames: [Cell<Hpa>; CACHE_FRAMES],
}

impl Cache {
    /// Makes an empty cache.
    pub const fn new() -> Self {
        Self { count: Cell::new(0), frames: [const { Cell::new(Hpa(0)) }; CACHE_FRAMES] }
    }

    /// Returns how many frames it holds.
    pub fn len(&self) -> usize {
        self.count.get()
    }

    /// Tells whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a frame, if there is one.
    pub fn pop(&self) -> Option<Hpa> {
        let count = self.count.get().checked_sub(1)?;
        let frame = self.frames.get(count)?.get();
        self.count.set(count);
        Some(frame)
    }

    /// Puts a frame in; hands it back where there is no room.
    pub fn offer(&self, frame: Hpa) -> Result<(), Hpa> {
        let count = self.count.get();
        self.frames.get(count).ok_or(frame)?.set(frame);
        self.count.set(count + 1);
        Ok(())
    }

    /// Fills an empty cache from the pool and takes a frame; `None` when there are no more.
    #[cold]
    pub fn refill(&self, pool: &mut Pool) -> Option<Hpa> {
        pool.take_batch(self);
        self.pop()
    }

    /// Makes room by giving frames back to the pool, and puts `frame` in.
    #[cold]
    pub fn spill(&self, pool: &mut Pool, frame: Hpa) {
        for _ in 0..BATCH {
            let Some(spilled) = self.pop() else { break };
            pool.give(spilled);
        }
        self.push(frame);
    }

    /// Fills an empty cache with the batch of neighbours from `first` on; the lowest comes out first.
    fn fill(&self, first: usize) {
        let batch = &self.frames[..BATCH];
        batch.iter().zip((first..first + BATCH).rev()).for_each(|(place, frame)| place.set(address(frame)));
        self.count.set(BATCH);
    }

    /// Puts in a frame for which there is room.
    fn push(&self, frame: Hpa) {
        debug_assert!(self.len() < CACHE_FRAMES);
        let _ = self.offer(frame);
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

const fn number(address: u64) -> usize {
    (address >> PAGE_SHIFT) as usize
}

const fn address(number: usize) -> Hpa {
    Hpa((number as u64) << PAGE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, vec::Vec};

    fn pool(ranges: &[(u64, u64)]) -> Pool {
        let mut set = Ranges::new();
        ranges.iter().for_each(|&(from, to)| set.add(from, to));
        let mut pool = Pool::new();
        pool.add(&set);
        pool
    }

    fn take(cache: &Cache, pool: &mut Pool) -> Option<Hpa> {
        cache.pop().or_else(|| cache.refill(pool))
    }

    fn give(cache: &Cache, pool: &mut Pool, frame: Hpa) {
        if let Err(frame) = cache.offer(frame) {
            cache.spill(pool, frame);
        }
    }

    #[test]
    fn gives_every_frame_once_and_takes_all_back() {
        // An odd size across 4 GiB, so that the last batches are single frames from both zones.
        let (from, to) = (FOUR_GIB - 777 * 4096, FOUR_GIB + 1001 * 4096);
        let (mut pool, cache) = (pool(&[(from, to)]), Cache::new());
        for _ in 0..3 {
            let frames: Vec<Hpa> = core::iter::from_fn(|| take(&cache, &mut pool)).collect();
            assert_eq!(frames.iter().collect::<BTreeSet<_>>().len(), 1778);
            assert!(frames.iter().all(|frame| (from..to).contains(&frame.0) && frame.page_offset() == 0));
            assert_eq!(pool.taken() - cache.len() as u64, 1778);
            frames.iter().for_each(|&frame| give(&cache, &mut pool, frame));
            assert_eq!(pool.taken() - cache.len() as u64, 0);
        }
    }

    #[test]
    fn spares_low_memory_and_finds_it_when_asked() {
        let mut pool = pool(&[(0x10_0000, 0x20_0000), (FOUR_GIB, FOUR_GIB + 0x10_0000)]);
        assert!(take(&Cache::new(), &mut pool).unwrap().0 >= FOUR_GIB);
        let mut low = 0;
        while let Some(frame) = pool.take_low() {
            assert!(frame.0 < FOUR_GIB);
            low += 1;
        }
        assert_eq!(low, 256);
        pool.give(Hpa(0x10_0000));
        assert_eq!(pool.take_low(), Some(Hpa(0x10_0000)));
    }

    #[test]
    fn takes_runs_of_any_length() {
        let mut pool = pool(&[(0x10_0000, 0x11_0000)]);
        let runs: Vec<Hpa> = [3, 2, 5, 1].iter().map(|&count| pool.take_run(count).unwrap()).collect();
        let taken: BTreeSet<u64> =
            runs.iter().zip([3, 2, 5, 1]).flat_map(|(run, count)| (0..count).map(|page| run.0 + page * 4096)).collect();
        assert_eq!((taken.len(), pool.taken()), (11, 11));
        assert_eq!(pool.take_run(16), None);
        let rest: BTreeSet<u64> = core::iter::from_fn(|| pool.take_run(1)).map(|frame| frame.0).collect();
        assert_eq!((rest.len(), rest.intersection(&taken).count()), (5, 0));
        taken.union(&rest).for_each(|&frame| pool.give(Hpa(frame)));
        assert_eq!((pool.taken(), pool.take_run(16)), (0, Some(Hpa(0x10_0000))));
    }

    #[test]
    fn last_in_is_first_out() {
        let (mut pool, cache) = (pool(&[(0x10_0000, 0x90_0000)]), Cache::new());
        let frame = take(&cache, &mut pool).unwrap();
        give(&cache, &mut pool, frame);
        assert_eq!(take(&cache, &mut pool), Some(frame));
    }
}
