//! The heap: what Rust's collections are made of.
#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};

use buddy_system_allocator::Heap;
use host::ranges::Ranges;
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;

const MIB: u64 = 1 << 20;

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::new()));

struct Locked(Mutex<Heap<33>>);

/// Cuts the heap out of free memory: an eighth of it, but at least 16 and at most 256 MiB; `None` when there is not that much.
///
/// # Safety
/// `free` is RAM that is mapped where it is and that nobody uses.
pub(crate) unsafe fn init(free: &mut Ranges) -> Option<()> {
    let bytes = (free.bytes() / 8).clamp(16 * MIB, 256 * MIB) & !(2 * MIB - 1);
    let (start, end) = free.carve(bytes, 2 * MIB)?;
    // SAFETY: the caller promises that the memory is free, and now it is in `free` no more.
    unsafe { HEAP.0.lock().add_to_heap(start as usize, end as usize) };
    Some(())
}

// SAFETY: the buddy heap hands out disjoint, aligned pieces of the memory it was given, and the lock lets one caller in at a time.
// A CPU that holds it takes no interrupts, so a handler cannot wait for the code that it interrupted.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        without_interrupts(|| self.0.lock().alloc(layout)).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        // SAFETY: the caller promises that the pointer came from `alloc` with the same layout.
        without_interrupts(|| unsafe { self.0.lock().dealloc(pointer, layout) });
    }
}
