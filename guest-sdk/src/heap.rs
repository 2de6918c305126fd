//! The global allocator: a buddy heap over all free memory.
//!
//! Blocks are powers of two; a request that is not one takes the next. Memory runs out when no block of that size is left, and then
//! `alloc` panics with `memory allocation of N bytes failed`.
#![expect(unsafe_code, reason = "an allocator deals in raw memory")]

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};
use spin::Mutex;

use crate::memory::HeapUse;

/// Orders of blocks; the largest block has 2^39 bytes.
const ORDER: usize = 40;

#[cfg_attr(target_os = "none", global_allocator)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "tests make heaps of their own"))]
pub(crate) static HEAP: Heap = Heap::new();

/// A heap that starts empty.
pub(crate) struct Heap(Mutex<Blocks>);

struct Blocks {
    buddies: buddy_system_allocator::Heap<ORDER>,
    peak_bytes: usize,
}

impl Heap {
    const fn new() -> Self {
        Self(Mutex::new(Blocks { buddies: buddy_system_allocator::Heap::empty(), peak_bytes: 0 }))
    }

    /// What it holds.
    pub(crate) fn usage(&self) -> HeapUse {
        let Blocks { buddies, peak_bytes } = &*self.0.lock();
        HeapUse { bytes: buddies.stats_alloc_actual(), peak_bytes: *peak_bytes, total_bytes: buddies.stats_total_bytes() }
    }

    /// Adds memory from `start` up to `end`.
    ///
    /// # Safety
    /// The memory is readable and writable, and nothing else ever uses it.
    pub(crate) unsafe fn add(&self, start: usize, end: usize) {
        // SAFETY: the caller says so.
        unsafe { self.0.lock().buddies.add_to_heap(start, end) }
    }
}

// SAFETY: blocks come from the buddy heap, which hands out disjoint ones, as large and as aligned as asked; nothing unwinds: a request
// that no block fits is a null pointer.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Blocks { buddies, peak_bytes } = &mut *self.0.lock();
        let block = buddies.alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr);
        *peak_bytes = buddies.stats_alloc_actual().max(*peak_bytes);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: a block that `alloc` returned for this layout is not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: block and layout are those of an `alloc`.
        unsafe { self.0.lock().buddies.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{boxed::Box, vec, vec::Vec};

    /// A heap over so many bytes.
    fn heap(bytes: usize) -> Heap {
        let memory = Box::leak(vec![0u64; bytes / 8].into_boxed_slice());
        let start = memory.as_mut_ptr().expose_provenance();
        let heap = Heap::new();
        // SAFETY: the memory was leaked for this heap.
        unsafe { heap.add(start, start + bytes) };
        heap
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_come_back() {
        let heap = heap(1 << 20);
        for _ in 0..3 {
            let mut blocks = Vec::new();
            for (size, align) in [(1, 1), (24, 8), (4096, 4096), (100, 64), (5000, 16)] {
                // SAFETY: no size is zero.
                let block = unsafe { heap.alloc(layout(size, align)) };
                assert!(!block.is_null());
                assert_eq!(block.addr() % align, 0);
                blocks.push((block, layout(size, align)));
            }
            let mut ranges: Vec<_> = blocks.iter().map(|(block, layout)| (block.addr(), block.addr() + layout.size())).collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            for (block, layout) in blocks {
                // SAFETY: the block came from this heap with this layout.
                unsafe { heap.dealloc(block, layout) };
            }
            let HeapUse { bytes, peak_bytes, total_bytes } = heap.usage();
            assert_eq!((bytes, peak_bytes, total_bytes), (0, 1 + 32 + 4096 + 128 + 8192 + 7, 1 << 20));
        }
    }

    #[test]
    fn too_large_requests_are_refused_and_harm_nothing() {
        let heap = heap(1 << 16);
        for size in [1 << 17, 1 << 39, 1 << 40, isize::MAX as usize] {
            // SAFETY: no size is zero.
            assert!(unsafe { heap.alloc(layout(size, 1)) }.is_null());
        }
        // SAFETY: the size is not zero.
        assert!(!unsafe { heap.alloc(layout(1 << 14, 1)) }.is_null());
    }
}
