//! The heap of hv's own tests: a test can have it refuse.
#![expect(unsafe_code, reason = "implements GlobalAlloc over the system's allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
};

std::thread_local! {
    /// How many allocations are granted yet; `None` when all are.
    static GRANTED: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Does something on a heap that grants this thread so many allocations and no more. What allocates infallibly ends the process.
pub fn with_allocations<R>(count: usize, what: impl FnOnce() -> R) -> R {
    struct Limit;
    impl Drop for Limit {
        fn drop(&mut self) {
            GRANTED.set(None);
        }
    }
    GRANTED.set(Some(count));
    let _until_then = Limit;
    what()
}

/// Tells whether an allocation is granted. A thread that panics gets what it takes to say so.
fn grant() -> bool {
    match GRANTED.get() {
        Some(_) if std::thread::panicking() => true,
        Some(0) => false,
        Some(more) => {
            GRANTED.set(Some(more - 1));
            true
        }
        None => true,
    }
}

// SAFETY: every call is the system allocator's, or fails, as any may.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract.
        if grant() { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and what it has came from `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Room that is given up is always granted.
        let granted = bytes <= layout.size() || grant();
        // SAFETY: the caller keeps `realloc`'s contract, and what it has came from `System`.
        if granted { unsafe { System.realloc(at, layout, bytes) } } else { null_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn so_many_allocations_are_granted_and_no_more() {
        let outcomes = with_allocations(2, || {
            let mut vecs: [Vec<u64>; 3] = Default::default();
            [0, 1, 2].map(|at| vecs[at].try_reserve(10).is_ok())
        });
        assert_eq!(outcomes, [true, true, false]);
        assert!(Vec::<u64>::new().try_reserve(10).is_ok());
    }
}
